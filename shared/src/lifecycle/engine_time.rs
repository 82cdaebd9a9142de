//! Engine time, as far as this process knows it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::Engine;
use crate::limits;
use crate::model::time::Timestamp;

/// An estimate older than this is not trusted (decisions: ask `TIME` first).
const ESTIMATE_AGE_MAX: Duration = Duration::from_secs(10);
/// Longest wait for the engine's answer: a submission waits for it.
const ASK_MAX: Duration = Duration::from_millis(300);
/// An engine that did not answer is not asked again for this long.
const SILENT_FOR: Duration = Duration::from_secs(1);

/// The latest reply plus local time since then.
#[derive(Clone, Default)]
pub(super) struct EngineTime {
    known: Arc<Mutex<Known>>,
    /// Held by the one that asks.
    asking: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Known {
    last: Option<(Timestamp, Instant)>,
    silent_until: Option<Instant>,
}

impl EngineTime {
    /// Notes engine time from a reply that has just come.
    pub(super) fn note(&self, now: Timestamp) {
        *self.lock() = Known { last: Some((now, Instant::now())), silent_until: None };
    }

    /// The `not_after` of a push that a statement sent after this call will justify. `None`: the engine
    /// does not answer, so there is nothing to push to. Takes at most twice [`ASK_MAX`], and no time while
    /// the engine is known to be silent.
    pub(super) async fn deadline(&self, engine: &Engine) -> Option<Timestamp> {
        let now = match self.estimate() {
            Estimate::Now(now) => now,
            Estimate::Silent => return None,
            Estimate::Unknown => self.ask(engine).await?,
        };
        Some(now.plus(limits::PUSH_WINDOW))
    }

    /// Asks the engine; those who want to know at the same time wait for one answer.
    async fn ask(&self, engine: &Engine) -> Option<Timestamp> {
        let _asking = tokio::time::timeout(ASK_MAX, self.asking.lock()).await.ok()?;
        match self.estimate() {
            Estimate::Now(now) => return Some(now),
            Estimate::Silent => return None,
            Estimate::Unknown => {}
        }
        let answer = tokio::time::timeout(ASK_MAX, engine.now()).await;
        match answer {
            Ok(Ok(now)) => {
                self.note(now);
                Some(now)
            }
            Ok(Err(_)) | Err(_) => {
                self.lock().silent_until = Some(Instant::now() + SILENT_FOR);
                None
            }
        }
    }

    fn estimate(&self) -> Estimate {
        let known = self.lock();
        let now = Instant::now();
        if let Some((time, received)) = known.last {
            let age = now - received;
            if age <= ESTIMATE_AGE_MAX {
                return Estimate::Now(time.plus(age));
            }
        }
        if known.silent_until.is_some_and(|until| now < until) {
            return Estimate::Silent;
        }
        Estimate::Unknown
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics while holding it")
    }
}

enum Estimate {
    Now(Timestamp),
    /// It did not answer a moment ago.
    Silent,
    Unknown,
}
