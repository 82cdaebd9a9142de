//! Queues' defaults and depths as submissions need them: at most a second old, and older only while the ledger is being
//! asked, or does not answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use windlass_shared::engine::ShardId;
use windlass_shared::ledger::{LedgerError, QueueSettings};
use windlass_shared::lifecycle::depth::Depth;
use windlass_shared::model::name::{Namespace, QueueName};

use crate::app::App;
use crate::error::{ApiError, Code};

const KEPT: Duration = Duration::from_secs(1);
/// While the ledger does not answer, what was known counts for this long.
const KEPT_WITHOUT_LEDGER: Duration = Duration::from_secs(60);
/// Longest wait for the ledger where something is known.
const ANSWER_MAX: Duration = Duration::from_secs(1);
const QUEUES_MAX: usize = 10_000;

/// What a submission needs to know of its queue.
#[derive(Debug)]
pub struct Known {
    /// Its defaults among them.
    pub settings: QueueSettings,
    /// Waiting jobs: as engine and ledger said, plus what was let in here since. 0 where there is no
    /// `max_depth`, or the engine did not say.
    waiting: AtomicU64,
    at: Instant,
    /// Somebody asks the ledger anew.
    asking: AtomicBool,
    /// The ledger was asked, and did not answer.
    in_vain: AtomicBool,
}

/// The turn to ask the ledger anew; given back when dropped.
struct Turn<'a>(&'a Known);

impl<'a> Turn<'a> {
    fn take(known: &'a Known) -> Option<Self> {
        // Lazily: a turn that was never taken must not be given back.
        (!known.asking.swap(true, Ordering::AcqRel)).then(|| Self(known))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.asking.store(false, Ordering::Release);
    }
}

impl Known {
    fn new(settings: QueueSettings, waiting: u64) -> Self {
        Self {
            settings,
            waiting: AtomicU64::new(waiting),
            at: Instant::now(),
            asking: AtomicBool::new(false),
            in_vain: AtomicBool::new(false),
        }
    }

    /// Lets one more job in.
    ///
    /// # Errors
    /// 429 `queue_full`.
    pub fn admit(&self) -> Result<(), ApiError> {
        let Some(max) = self.settings.max_depth else {
            return Ok(());
        };
        if self.waiting.fetch_add(1, Ordering::Relaxed) < max {
            return Ok(());
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Err(ApiError::new(Code::QueueFull, format!("the queue holds {max} waiting jobs"))
            .retry_after(KEPT))
    }
}

/// Queues seen lately.
#[derive(Default)]
pub struct QueueCache {
    known: Mutex<HashMap<(Namespace, QueueName), Arc<Known>>>,
}

impl QueueCache {
    /// What is known of a queue; of one that does not exist yet, the defaults. Where something is known, the ledger is
    /// waited for for a second at most; and by one caller alone where it did not answer, or where what is known is only
    /// just too old.
    ///
    /// # Errors
    /// The ledger does not answer.
    pub async fn get(
        &self,
        app: &App,
        namespace: &Namespace,
        queue: &QueueName,
    ) -> Result<Arc<Known>, ApiError> {
        let key = (namespace.clone(), queue.clone());
        let seen = self.known.lock().expect("nothing panics while holding it").get(&key).cloned();
        let Some(known) = seen.filter(|known| known.at.elapsed() < KEPT_WITHOUT_LEDGER) else {
            return Ok(self.ask(app, key).await?);
        };
        if known.at.elapsed() < KEPT {
            return Ok(known);
        }
        let turn = Turn::take(&known);
        let is_away = known.in_vain.load(Ordering::Acquire);
        // Somebody asks: to wait with them would be to hold a connection for nothing.
        if turn.is_none() && (is_away || known.at.elapsed() < 2 * KEPT) {
            return Ok(Arc::clone(&known));
        }
        match tokio::time::timeout(ANSWER_MAX, self.ask(app, key)).await {
            Ok(Ok(known)) => Ok(known),
            Ok(Err(LedgerError::Unavailable(_))) | Err(_) => {
                known.in_vain.store(true, Ordering::Release);
                Ok(Arc::clone(&known))
            }
            Ok(Err(error)) => Err(error.into()),
        }
    }

    async fn ask(&self, app: &App, key: (Namespace, QueueName)) -> Result<Arc<Known>, LedgerError> {
        let (namespace, queue) = &key;
        let record = app.life.ledger().queue(namespace, queue).await?;
        let settings = record.map(|queue| queue.settings).unwrap_or_default();
        let waiting = match settings.max_depth {
            Some(max) => waiting(app, namespace, queue, max).await,
            None => 0,
        };
        let known = Arc::new(Known::new(settings, waiting));
        let mut all = self.known.lock().expect("nothing panics while holding it");
        if all.len() >= QUEUES_MAX {
            all.retain(|_, known| known.at.elapsed() < KEPT_WITHOUT_LEDGER);
            if all.len() >= QUEUES_MAX {
                all.clear();
            }
        }
        all.insert(key, known.clone());
        Ok(known)
    }

    /// Looks a queue up anew: its settings were changed here.
    pub fn forget(&self, namespace: &Namespace, queue: &QueueName) {
        let key = (namespace.clone(), queue.clone());
        self.known.lock().expect("nothing panics while holding it").remove(&key);
    }
}

async fn waiting(app: &App, namespace: &Namespace, queue: &QueueName, max: u64) -> u64 {
    let shard = ShardId::first(namespace.clone(), queue.clone());
    // A quota that cannot be checked must not stop submissions, which the engine has no part in.
    let Ok(stats) = app.life.engine().stats(&shard).await else { return 0 };
    let depth = Depth::of(&stats);
    if depth.here >= max || !depth.may_be_more {
        return depth.here;
    }
    depth.recorded(app.life.ledger(), namespace, queue, max).await.unwrap_or(depth.here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_at_a_time_asks_the_ledger_anew() {
        let known = Known::new(QueueSettings::default(), 0);
        let turn = Turn::take(&known);
        assert!(turn.is_some());
        for _ in 0..3 {
            assert!(Turn::take(&known).is_none(), "somebody asks");
        }
        drop(turn);
        assert!(Turn::take(&known).is_some());
    }
}
