//! What a look came to, for `GET /v1/system/health`.

use std::collections::HashMap;
use std::time::Duration;

use windlass_shared::ledger::LedgerError;
use windlass_shared::ledger::alerts::OutcomeSum;
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::health::{self, SUMMARY_ROWS_MAX, Summary, Window};
use windlass_shared::model::name::Namespace;
use windlass_shared::model::time::Timestamp;

use super::look::Seen;

/// Hours of a window, and how often its sums are read anew: a longer one costs more, and changes less.
const WINDOWS: [(u32, Duration); 2] =
    [(1, Duration::from_secs(60)), (24, Duration::from_secs(600))];

/// The windows as they were read last. What a new leader has not read yet it reads at once.
#[derive(Default)]
pub(super) struct Sums {
    windows: HashMap<u32, (Timestamp, Window)>,
}

impl Sums {
    /// Reads the windows that are old.
    pub(super) async fn refresh(
        &mut self,
        life: &Lifecycle,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        for (hours, every) in WINDOWS {
            if self.windows.get(&hours).is_some_and(|(at, _)| now.since(*at) < every) {
                continue;
            }
            let since = now.minus(Duration::from_secs(3600) * hours);
            let sums = life.ledger().outcome_sums(since).await?;
            self.windows.insert(hours, (now, window(hours, sums)));
        }
        Ok(())
    }

    /// The summary of a look.
    pub(super) fn of(&self, seen: &Seen, every: Duration, took: Duration) -> Summary {
        let judged = seen.queues.iter().filter(|queue| queue.stats.is_some()).count() as u64;
        let workers = seen.workers.as_ref().map_or(0, |workers| {
            workers.iter().filter(|worker| seen.is_alive(worker)).count() as u64
        });
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        Summary {
            every_ms: u64::try_from(every.as_millis()).unwrap_or(u64::MAX),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            queues_judged: judged,
            queues_unjudged: seen.queues.len() as u64 - judged,
            workers,
            ledger_us: micros(seen.ledger),
            engine_us: seen.engine.as_ref().ok().map(|d| micros(*d)),
            windows: WINDOWS
                .iter()
                .filter_map(|(hours, _)| self.windows.get(hours).map(|(_, w)| w.clone()))
                .collect(),
        }
    }
}

/// Sums are given busiest first.
fn window(hours: u32, sums: Vec<OutcomeSum>) -> Window {
    let mut overall = health::Sums::default();
    let mut namespaces: HashMap<Namespace, health::Sums> = HashMap::new();
    for sum in &sums {
        overall.add(&sum.sums);
        namespaces.entry(sum.namespace.clone()).or_default().add(&sum.sums);
    }
    let mut namespaces: Vec<(Namespace, health::Sums)> = namespaces.into_iter().collect();
    namespaces.sort_by(|a, b| b.1.attempts.cmp(&a.1.attempts).then_with(|| a.0.cmp(&b.0)));
    namespaces.truncate(SUMMARY_ROWS_MAX);
    let busiest = sums.into_iter().take(SUMMARY_ROWS_MAX);
    let queues = busiest.map(|sum| (sum.namespace, sum.queue, sum.sums)).collect();
    Window { hours, overall, namespaces, queues }
}
