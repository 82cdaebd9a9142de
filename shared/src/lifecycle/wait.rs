//! Waiting for jobs to end: one batched ledger query per tick for all waiters of the process, and a short
//! cut for what this process records itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Lifecycle;
use crate::ledger::{Ledger, LedgerError};
use crate::model::id::JobId;
use crate::model::job::Job;
use crate::model::name::Namespace;

const TICK: Duration = Duration::from_millis(100);
/// Ids of one query.
const QUERY_MAX: usize = 10_000;

type Waiting = HashMap<JobId, Vec<oneshot::Sender<()>>>;

/// Everybody in this process who waits for a job.
#[derive(Clone, Default)]
pub(super) struct Waiters {
    waiting: Arc<Mutex<Waiting>>,
    /// Somebody waits.
    registered: Arc<Notify>,
}

impl Waiters {
    /// Starts the task that asks the ledger.
    pub(super) fn start(ledger: Ledger, shutdown: CancellationToken, tasks: &TaskTracker) -> Self {
        let waiters = Self::default();
        tasks.spawn(poll(waiters.clone(), ledger, shutdown));
        waiters
    }

    /// Wakes who waits for these jobs, which are terminal in the ledger.
    pub(super) fn notify(&self, ids: &[JobId]) {
        let mut waiting = self.lock();
        if waiting.is_empty() {
            return;
        }
        for sender in ids.iter().filter_map(|id| waiting.remove(id)).flatten() {
            // Safe to drop: the waiter went away.
            let _ = sender.send(());
        }
    }

    fn register(&self, id: JobId) -> oneshot::Receiver<()> {
        let (tx, rx) = oneshot::channel();
        self.lock().entry(id).or_default().push(tx);
        self.registered.notify_one();
        rx
    }

    fn open(&self) -> Vec<JobId> {
        let mut waiting = self.lock();
        waiting.retain(|_, senders| {
            senders.retain(|sender| !sender.is_closed());
            !senders.is_empty()
        });
        waiting.keys().copied().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("nothing panics while holding it")
    }
}

async fn poll(waiters: Waiters, ledger: Ledger, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        let open = waiters.open();
        if open.is_empty() {
            // A process in which nobody waits is not to be woken ten times a second.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = waiters.registered.notified() => tick.reset(),
            }
        }
        for ids in open.chunks(QUERY_MAX) {
            match ledger.terminal_among(ids).await {
                Ok(ended) => waiters.notify(&ended),
                // Safe to drop: the next tick asks again, and every waiter has its own time-out.
                Err(error) => tracing::debug!(%error, "could not ask for ended jobs"),
            }
        }
    }
}

pub(super) async fn wait(
    life: &Lifecycle,
    namespace: &Namespace,
    id: JobId,
    timeout: Duration,
) -> Result<Option<Option<Job>>, LedgerError> {
    let ledger = &life.inner.ledger;
    // Registered before the look, so that an end between the two is not missed.
    let ended = life.inner.waiters.register(id);
    let Some(job) = ledger.job(namespace, id).await? else {
        return Ok(None);
    };
    if job.state.is_terminal() {
        return Ok(Some(Some(job)));
    }
    // Whether the signal came or not, the ledger decides.
    let _ = tokio::time::timeout(timeout, ended).await;
    let job = ledger.job(namespace, id).await?;
    Ok(job.map(|job| job.state.is_terminal().then_some(job)))
}
