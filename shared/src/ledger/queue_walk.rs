//! Queues in pages, and word of new ones.

use tokio::sync::broadcast;

use super::{Ledger, LedgerError, Queue};
use crate::model::name::{Namespace, QueueName};

/// Queues of one page of [`QueueWalk`].
const PAGE: u32 = 1_000;
/// New queues kept for a listener that is slow; one that falls further behind is told to look at all.
pub(super) const NEWS_MAX: usize = 1_024;

/// A page of queues, by namespace and name.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuePage {
    /// At most the asked number; fewer where some cannot be read.
    pub queues: Vec<Queue>,
    /// Where the next page starts (exclusive); `None` at the end.
    pub next: Option<QueueCursor>,
}

/// A place among the queues. Text as stored, because a queue that this build cannot read has a place too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueCursor {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl QueueCursor {
    /// Behind this queue, whether it exists or not.
    pub fn behind(namespace: &Namespace, name: &str) -> Self {
        Self { namespace: namespace.as_str().to_owned(), name: name.to_owned() }
    }

    /// The queue's name as stored.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A walk over all queues, page by page, so that no call holds more than a page.
pub struct QueueWalk<'l> {
    ledger: &'l Ledger,
    namespace: Option<Namespace>,
    after: Option<QueueCursor>,
    ended: bool,
}

impl<'l> QueueWalk<'l> {
    pub(super) fn new(ledger: &'l Ledger, namespace: Option<&Namespace>) -> Self {
        Self { ledger, namespace: namespace.cloned(), after: None, ended: false }
    }

    /// The next queues; `None` at the end. After an error it may be asked again.
    ///
    /// # Errors
    /// The ledger did not answer.
    pub async fn next(&mut self) -> Result<Option<Vec<Queue>>, LedgerError> {
        if self.ended {
            return Ok(None);
        }
        let (namespace, after) = (self.namespace.as_ref(), self.after.as_ref());
        let page = self.ledger.queue_page(namespace, after, PAGE).await?;
        self.ended = page.next.is_none();
        self.after = page.next;
        Ok(Some(page.queues))
    }
}

/// Queues made from the time of asking on; see [`Ledger::new_queues`].
pub struct NewQueues {
    rx: broadcast::Receiver<(Namespace, QueueName)>,
}

impl NewQueues {
    pub(super) fn new(rx: broadcast::Receiver<(Namespace, QueueName)>) -> Self {
        Self { rx }
    }

    /// The next new queue. `None`: some were missed, so look at all. May be dropped at any time.
    pub async fn next(&mut self) -> Option<(Namespace, QueueName)> {
        match self.rx.recv().await {
            Ok(queue) => Some(queue),
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            // The ledger is closed: there is no more news.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
