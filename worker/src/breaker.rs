//! What this worker has seen of dependencies itself, for the time until the shards have the same from its settles.
//!
//! A circuit here is *closed*, and counts failures one after the other; or *open*, once there were as many as open it by
//! default. While it is open, jobs of it that were claimed before it opened are handed back without being run; and so are
//! the first few that each shard gives after that, since it may not have heard yet, or may be of another queue that has
//! not called. That says nothing to the shard: one worker that reaches nothing must not stop the others. A shard that gives
//! more all the same has the last word, for an operator may have forced the circuit closed, or given it a rule of its own:
//! its jobs run. Probes always run. The circuit closes with the first answer, and when the time of a probe is over.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use windlass_shared::engine::ShardId;
use windlass_shared::engine::flow::{CircuitSetting, Dependency};

/// Circuits that are remembered; of more than these nothing is.
const CIRCUITS_MAX: usize = 1_000;

/// The circuits of one worker.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    circuits: Mutex<HashMap<String, Local>>,
    rule: CircuitSetting,
}

#[derive(Debug)]
struct Local {
    /// Failures one after the other.
    row: u32,
    /// Of the latest.
    failed_ms: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    since_ms: u64,
    /// Jobs handed back that were claimed after that, by shard.
    returned: HashMap<ShardId, u32>,
}

impl Breaker {
    /// Whether a job of this circuit is to be handed back: one of this shard, claimed at `claimed_ms`, that is no probe.
    /// All times are of [`boot_ms`](crate::boot_time::boot_ms).
    pub(crate) fn holds(
        &self,
        circuit: &str,
        shard: &ShardId,
        claimed_ms: u64,
        now_ms: u64,
    ) -> bool {
        let mut circuits = self.lock();
        let Some(open) = circuits.get_mut(circuit).and_then(|local| local.open.as_mut()) else {
            return false;
        };
        if self.is_over(open.since_ms, now_ms) {
            circuits.remove(circuit);
            return false;
        }
        if claimed_ms < open.since_ms {
            return true;
        }
        let returned = open.returned.entry(shard.clone()).or_default();
        *returned += 1;
        *returned <= self.rule.failures
    }

    /// Notes how a dependency was.
    pub(crate) fn note(&self, circuit: &str, told: Dependency, now_ms: u64) {
        let mut circuits = self.lock();
        if told == Dependency::Answered {
            circuits.remove(circuit);
            return;
        }
        if !circuits.contains_key(circuit) && circuits.len() >= CIRCUITS_MAX {
            circuits
                .retain(|_, local| now_ms.saturating_sub(local.failed_ms) < self.rule.window_ms);
            if circuits.len() >= CIRCUITS_MAX {
                return;
            }
        }
        let new = Local { row: 0, failed_ms: now_ms, open: None };
        let local = circuits.entry(circuit.to_owned()).or_insert(new);
        let is_stale = now_ms.saturating_sub(local.failed_ms) >= self.rule.window_ms;
        if is_stale || local.open.as_ref().is_some_and(|o| self.is_over(o.since_ms, now_ms)) {
            (local.row, local.open) = (0, None);
        }
        (local.row, local.failed_ms) = (local.row.saturating_add(1), now_ms);
        if local.open.is_none() && local.row >= self.rule.failures {
            local.open = Some(Open { since_ms: now_ms, returned: HashMap::new() });
        }
    }

    fn is_over(&self, since_ms: u64, now_ms: u64) -> bool {
        let elapsed = Duration::from_millis(now_ms.saturating_sub(since_ms));
        elapsed >= Duration::from_micros(self.rule.probe_us)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Local>> {
        self.circuits.lock().expect("nobody panics while holding it")
    }
}

#[cfg(test)]
mod tests {
    use windlass_shared::model::name::Namespace;

    use super::*;

    fn shard(queue: &str) -> ShardId {
        ShardId::first(Namespace::default(), queue.parse().unwrap())
    }

    fn failed(breaker: &Breaker, times: u32, at: u64) {
        (0..times).for_each(|_| breaker.note("c", Dependency::Failed, at));
    }

    #[test]
    fn it_opens_after_as_many_failures_in_a_row_as_open_a_circuit() {
        let (breaker, shard) = (Breaker::default(), shard("q"));
        failed(&breaker, 4, 100);
        breaker.note("c", Dependency::Answered, 100);
        failed(&breaker, 4, 100);
        assert!(!breaker.holds("c", &shard, 50, 100));
        failed(&breaker, 1, 101);
        assert!(breaker.holds("c", &shard, 50, 101));
        assert!(!breaker.holds("other", &shard, 50, 101));
        breaker.note("c", Dependency::Answered, 102);
        assert!(!breaker.holds("c", &shard, 50, 102), "an answer closes it");
        failed(&breaker, 4, 102);
        failed(&breaker, 1, 102 + 60_000);
        assert!(!breaker.holds("c", &shard, 50, 102 + 60_000), "the window was over");
    }

    #[test]
    fn a_shard_that_goes_on_giving_jobs_has_the_last_word() {
        let (breaker, a, b) = (Breaker::default(), shard("a"), shard("b"));
        failed(&breaker, 5, 100);
        for shard in [&a, &b] {
            (0..5).for_each(|_| assert!(breaker.holds("c", shard, 101, 102)));
            assert!(!breaker.holds("c", shard, 101, 102));
            assert!(breaker.holds("c", shard, 99, 102), "claimed before it opened");
        }
    }

    #[test]
    fn it_is_over_with_the_time_of_a_probe() {
        let (breaker, shard) = (Breaker::default(), shard("a"));
        failed(&breaker, 5, 100);
        assert!(breaker.holds("c", &shard, 1, 5_099));
        assert!(!breaker.holds("c", &shard, 1, 5_100));
        failed(&breaker, 4, 5_100);
        assert!(!breaker.holds("c", &shard, 1, 5_100), "it counts anew");
        failed(&breaker, 1, 5_100);
        assert!(breaker.holds("c", &shard, 1, 5_101));
        failed(&breaker, 4, 10_200);
        assert!(!breaker.holds("c", &shard, 1, 10_200), "also where nobody has asked meanwhile");
    }

    #[test]
    fn what_it_remembers_is_bounded() {
        let (breaker, shard) = (Breaker::default(), shard("a"));
        for n in 0..CIRCUITS_MAX {
            breaker.note(&n.to_string(), Dependency::Failed, 100);
        }
        failed(&breaker, 5, 100);
        assert!(!breaker.holds("c", &shard, 1, 100) && breaker.lock().len() == CIRCUITS_MAX);
        failed(&breaker, 5, 100 + 60_000);
        assert!(breaker.holds("c", &shard, 1, 100 + 60_000) && breaker.lock().len() == 1);
    }
}
