//! The leases that this worker holds, from the claim's answer to the settle's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use windlass_shared::engine::{Held, ShardId};
use windlass_shared::model::id::{JobId, LedgerId};

use crate::attempt::{Attempt, StopReason};
use crate::home::Home;
use crate::ring::Rings;

/// The table. Its lock is held for moments, by the claimer, the acker and the keeper.
#[derive(Default)]
pub(crate) struct Leases {
    held: Mutex<HashMap<Held, Arc<Attempt>>>,
    removed: Notify,
}

impl Leases {
    pub(crate) fn add(&self, attempts: impl Iterator<Item = Arc<Attempt>>) {
        let mut held = self.lock();
        for attempt in attempts {
            held.insert(attempt.held, attempt);
        }
    }

    /// Forgets leases that are settled. Those that are not here are passed over.
    pub(crate) fn remove<'a>(&self, settled: impl Iterator<Item = &'a Held>) {
        let mut held = self.lock();
        for lease in settled {
            held.remove(lease);
        }
        drop(held);
        self.removed.notify_waiters();
    }

    /// Returns once every lease but this one is settled.
    pub(crate) async fn all_but(&self, lease: &Held) {
        loop {
            let removed = self.removed.notified();
            // From here on no removal is missed.
            if self.lock().keys().all(|held| held == lease) {
                return;
            }
            removed.await;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Leases not known to be good for at least `age`, nor lost, by shard.
    pub(crate) fn older_than(&self, age: Duration) -> HashMap<Arc<ShardId>, Vec<Arc<Attempt>>> {
        let mut shards: HashMap<Arc<ShardId>, Vec<Arc<Attempt>>> = HashMap::new();
        for attempt in self.lock().values() {
            if attempt.lease_age() >= age && !attempt.is_lost() {
                shards.entry(Arc::clone(&attempt.shard)).or_default().push(Arc::clone(attempt));
            }
        }
        shards
    }

    /// Whether the engine does not know some lease of a shard.
    pub(crate) fn any_unknown(&self, shard: &ShardId) -> bool {
        self.lock().values().any(|attempt| is_to_adopt(attempt, shard, false))
    }

    /// The leases of a shard that are not lost for good, nor known to be of another ledger than the one whose jobs the
    /// shard holds: all, or those that the engine does not know.
    pub(crate) fn to_adopt(
        &self,
        shard: &ShardId,
        ledger: Option<LedgerId>,
        all: bool,
    ) -> Vec<Arc<Attempt>> {
        let is_foreign = |attempt: &Attempt| {
            ledger.is_some_and(|id| attempt.ledger().is_some_and(|own| own != id))
        };
        let held = self.lock();
        let found = held.values().filter(|attempt| is_to_adopt(attempt, shard, all));
        found.filter(|attempt| !is_foreign(attempt)).cloned().collect()
    }

    /// Gives up the jobs of ledgers that are not the API's any more, and tells their attempts to stop; how many.
    pub(crate) fn stop_disowned(&self, home: &Home, rings: &Rings) -> usize {
        let is_disowned = |attempt: &Attempt| {
            let holds = rings.get(&attempt.shard).and_then(|ring| ring.holds());
            attempt.ledger().is_some_and(|ledger| home.disowns(ledger, holds))
        };
        let mut stopped = 0;
        for attempt in self.lock().values().filter(|attempt| is_disowned(attempt)) {
            if attempt.lose() {
                stopped += 1;
            }
            attempt.stop.stop(StopReason::LeaseLost);
        }
        stopped
    }

    /// Tells the attempts of one job to stop.
    pub(crate) fn stop_job(&self, shard: &ShardId, id: JobId, reason: StopReason) {
        for attempt in self.lock().values() {
            if attempt.held.id == id && *attempt.shard == *shard {
                attempt.stop.stop(reason);
            }
        }
    }

    /// Tells every attempt to stop.
    pub(crate) fn stop_all(&self, reason: StopReason) {
        for attempt in self.lock().values() {
            attempt.stop.stop(reason);
        }
    }

    /// Stops the exclusive jobs whose lease was last known to be good `age` ago or longer; how many.
    pub(crate) fn stop_exclusive(&self, age: Duration) -> usize {
        let mut stopped = 0;
        for attempt in self.lock().values() {
            let due = attempt.head.spec.exclusive && attempt.lease_age() >= age;
            if due && attempt.stop.reason().is_none() {
                attempt.stop.stop(StopReason::LeaseLost);
                stopped += 1;
            }
        }
        stopped
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Held, Arc<Attempt>>> {
        self.held.lock().expect("nobody panics while holding the leases")
    }
}

fn is_to_adopt(attempt: &Attempt, shard: &ShardId, all: bool) -> bool {
    (all || attempt.is_unknown()) && !attempt.is_lost() && *attempt.shard == *shard
}

#[cfg(test)]
mod tests {
    use windlass_shared::model::id::LeaseId;
    use windlass_shared::model::name::Namespace;
    use windlass_shared::model::time::Timestamp;

    use super::*;
    use crate::attempt::Claim;
    use crate::sample;

    #[test]
    fn leases_of_another_ledger_are_not_put_back_and_can_be_stopped() {
        let shard = Arc::new(ShardId::first(Namespace::default(), "q".parse().unwrap()));
        let [one, other] = [1, 2].map(|n| LedgerId::from_bytes([n; 16]));
        let attempt = |ledger| {
            let envelope = sample::envelope("k", 1);
            let claimed = sample::claimed(&envelope);
            let (lease_id, at) = (LeaseId::random(), Timestamp::default());
            let claim = Claim { lease_id, sent_ms: 0, at, ledger };
            Arc::new(Attempt::new(&sample::crew(), &shard, claim, (&claimed, envelope)))
        };
        let [ours, unsaid, foreign] = [Some(one), None, Some(other)].map(attempt);
        let leases = Leases::default();
        leases.add([&ours, &unsaid, &foreign].into_iter().cloned());
        let adopted = leases.to_adopt(&shard, Some(one), true);
        assert_eq!(adopted.len(), 2);
        assert!(adopted.iter().all(|attempt| attempt.held != foreign.held));
        assert_eq!(leases.to_adopt(&shard, None, true).len(), 3, "a shard that has no gate");

        let (home, rings) = (Home::default(), Rings::new(std::iter::once((*shard).clone())));
        let stopped = || leases.stop_disowned(&home, &rings);
        home.note(Some(other));
        home.note(Some(one));
        assert_eq!(stopped(), 0, "it may be the API's still");
        rings.get(&shard).unwrap().note_holds(Some(one));
        assert_eq!((stopped(), stopped()), (1, 0));
        assert!(foreign.is_lost() && foreign.stop.reason() == Some(StopReason::LeaseLost));
        assert!([&ours, &unsaid].iter().all(|it| !it.is_lost() && it.stop.reason().is_none()));
    }
}
