//! A bound on how much one place in the code can log, so that neither a job nor a caller can fill a disk or
//! drown what matters.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use tracing::callsite::Identifier;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Events of one place per second; the rest is dropped and counted.
const EVENTS_PER_SECOND: u32 = 200;

/// Lets through the first events of each place in each second.
pub(super) struct Flood {
    started: Instant,
    /// One per place in the code that has logged: bounded by the code.
    sites: RwLock<HashMap<Identifier, Arc<Site>>>,
}

#[derive(Default)]
struct Site {
    second: AtomicU64,
    events: AtomicU32,
}

impl Flood {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), sites: RwLock::default() }
    }

    fn site(&self, place: Identifier) -> Arc<Site> {
        // A poisoned lock holds a whole map: inserting is its only change.
        let known = self.sites.read().unwrap_or_else(PoisonError::into_inner).get(&place).cloned();
        known.unwrap_or_else(|| {
            let mut sites = self.sites.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(sites.entry(place).or_default())
        })
    }
}

impl Site {
    /// Two threads may both see a new second begin, and a few events more than the bound then pass.
    fn passes(&self, second: u64) -> bool {
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.events.store(0, Ordering::Relaxed);
        }
        self.events.fetch_add(1, Ordering::Relaxed) < EVENTS_PER_SECOND
    }
}

impl<S: Subscriber> Layer<S> for Flood {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let passes =
            self.site(event.metadata().callsite()).passes(self.started.elapsed().as_secs());
        if !passes {
            ::metrics::counter!("windlass_log_events_dropped_total").increment(1);
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_gets_its_share_of_every_second() {
        let site = Site::default();
        let in_second = |second| (0..1000).filter(|_| site.passes(second)).count();
        let share = usize::try_from(EVENTS_PER_SECOND).unwrap();
        assert_eq!(in_second(1), share);
        assert_eq!(in_second(1), 0);
        assert_eq!(in_second(2), share);
    }
}
