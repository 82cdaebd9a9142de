//! adopt, scan and drop_jobs.

use std::collections::BTreeMap;

use super::withdraw::withdrawal;
use super::*;
use crate::engine::{Adopted, Adoption, Ended, LiveEntry, Then, Withdrawal, Withdrawn};

impl Rig {
    /// What the holder of a lease of job `n` knows of it.
    async fn known(&self, n: u8, held: Held, claimed: &Claimed) -> Adoption {
        let claimed_at = claimed.expires_at.minus(LEASE);
        let job = Push {
            fence: held.fence,
            attempt: claimed.attempt,
            crashes: claimed.crashes,
            envelope: claimed.envelope.clone(),
            ..self.job(n).await
        };
        Adoption { job, lease_id: held.lease_id, claimed_at }
    }

    async fn adopt_by(&self, worker: WorkerId, lease: &Adoption) -> Adopted {
        let leases = std::slice::from_ref(lease);
        self.engine.adopt(&self.shard, worker, LEASE, leases).await.expect("adopt")[0]
    }

    async fn adopt(&self, lease: &Adoption) -> Adopted {
        self.adopt_by(WorkerId::generate(), lease).await
    }

    async fn drop_job(&self, n: u8, fence: Fence, bury: bool) -> bool {
        let jobs = [(id(n), fence)];
        self.engine.drop_jobs(&self.shard, &jobs, bury).await.expect("drop_jobs")[0]
    }

    /// Opens the shard, claims job 0, and lets the shard lose it.
    async fn lose_one(&self) -> (Held, Adoption) {
        let (held, claimed) = self.hold_one().await;
        let known = self.known(0, held, &claimed).await;
        assert!(self.drop_job(0, held.fence, false).await);
        (held, known)
    }

    async fn held_until(&self) -> Adopted {
        Adopted::Held { expires_at: self.now().await.plus(LEASE) }
    }

    async fn walk(&self) -> BTreeMap<JobId, LiveEntry> {
        let (mut seen, mut cursor) = (BTreeMap::new(), 0);
        loop {
            let page = self.engine.scan(&self.shard, cursor).await.expect("scan");
            seen.extend(page.entries.into_iter().map(|entry| (entry.id, entry)));
            cursor = page.next;
            if cursor == 0 {
                return seen;
            }
        }
    }
}

/// As if it had never been away, while the gate is shut as well.
pub async fn a_lost_lease_is_put_back(rig: &Rig) {
    let (held, known) = rig.lose_one().await;
    rig.shut(2).await;
    rig.advance(ms(1_000)).await;
    let worker = WorkerId::generate();
    assert_eq!(rig.adopt_by(worker, &known).await, rig.held_until().await);
    let expires_at = rig.now().await.plus(LEASE);
    let claimed_at = known.claimed_at;
    let state = LiveState::Leased { worker, claimed_at, expires_at, cancel: false };
    assert_eq!(rig.state(0).await, Some(state));
    let stats = rig.engine.stats(&rig.shard).await.unwrap();
    assert_eq!((stats.leased, stats.bytes), (1, known.job.envelope.len() as u64));
    assert!(matches!(rig.extend(held, LEASE).await, Extended::Held { .. }));
    assert_eq!(rig.settle(held, Verdict::Succeeded).await, Settled::Settled);
    let outcome = rig.last_outcome().await;
    assert_eq!((outcome.fence, outcome.attempt, outcome.ended), (held.fence, 1, Ended::Succeeded));
    assert_eq!((outcome.worker, outcome.claimed_at), (Some(worker), Some(claimed_at)));
}

/// With all that was known of it, in its old place.
pub async fn an_adopted_job_can_be_lost_and_run_again(rig: &Rig) {
    let (held, known) = rig.lose_one().await;
    rig.shut(2).await;
    let earlier = Push { run_at: known.job.run_at.minus(ms(5)), ..known.job.clone() };
    let known = Adoption { job: Push { crashes: 1, attempt: 3, ..earlier }, ..known };
    assert_eq!(rig.adopt(&known).await, rig.held_until().await);
    rig.open().await;
    rig.push(&[rig.job(1).await]).await;
    assert_eq!(rig.lose_leases().await, 1);
    let (again, claimed) = rig.claim_one().await;
    assert_eq!((again.id, claimed.attempt, claimed.crashes), (id(0), 3, 2));
    assert!(again.fence > held.fence);
    assert_eq!(claimed.envelope, known.job.envelope);
}

/// Never moved back.
pub async fn a_lease_that_is_held_is_extended_by_adoption(rig: &Rig) {
    let (held, claimed) = rig.hold_one().await;
    let known = rig.known(0, held, &claimed).await;
    rig.advance(ms(500)).await;
    let expires_at = rig.now().await.plus(LEASE);
    assert_eq!(rig.adopt(&known).await, Adopted::Held { expires_at });
    let leases = [known];
    let worker = WorkerId::generate();
    let shorter = rig.engine.adopt(&rig.shard, worker, ms(1), &leases).await.unwrap();
    assert_eq!(shorter, [Adopted::Held { expires_at }]);
    assert_eq!(rig.engine.stats(&rig.shard).await.unwrap().leased, 1);
}

/// Settled, recorded, or withdrawn.
pub async fn what_has_ended_is_over(rig: &Rig) {
    let (held, claimed) = rig.hold_one().await;
    let known = rig.known(0, held, &claimed).await;
    rig.settle(held, Verdict::Dead).await;
    assert_eq!(rig.adopt(&known).await, Adopted::Over, "its outcome waits");
    rig.confirm_all().await;
    assert_eq!(rig.adopt(&known).await, Adopted::Over, "it is buried");
    rig.cancel(1, Fence(held.fence.0 + 9)).await;
    let other = Adoption { job: Push { id: id(1), ..known.job.clone() }, ..known.clone() };
    assert_eq!(rig.adopt(&other).await, Adopted::Over);
    assert_eq!((rig.state(0).await, rig.state(1).await), (None, None));
    // A tombstone of an earlier fence is none of its business.
    rig.shut(2).await;
    let later = Fence(held.fence.0 + 10);
    let redriven = Adoption { job: Push { fence: later, ..other.job }, ..known };
    assert!(matches!(rig.adopt(&redriven).await, Adopted::Held { .. }));
    assert!(matches!(rig.state(1).await, Some(LiveState::Leased { .. })));
}

/// Whoever comes later wins: another lease, or the ledger.
pub async fn a_later_lease_or_fence_is_not_taken_away(rig: &Rig) {
    let (held, claimed) = rig.hold_one().await;
    let known = rig.known(0, held, &claimed).await;
    let token = Adoption { lease_id: LeaseId::random(), ..known.clone() };
    assert_eq!(rig.adopt(&token).await, Adopted::Stolen);
    assert_eq!(rig.lose_leases().await, 1);
    assert_eq!(rig.adopt(&known).await, Adopted::Stolen, "its crash was counted");
    let (later, _) = rig.claim_one().await;
    assert_eq!(rig.adopt(&known).await, Adopted::Stolen);
    assert!(matches!(rig.extend(later, LEASE).await, Extended::Held { .. }));
    let fence = Fence(later.fence.0 + 1);
    rig.push(&[Push { fence, ..rig.job(0).await }]).await;
    let job = Push { fence: later.fence, crashes: 1, ..known.job };
    let lost = Adoption { job, lease_id: later.lease_id, ..known };
    assert_eq!(rig.adopt(&lost).await, Adopted::Stolen, "the ledger gave it a later fence");
    assert!(matches!(rig.state(0).await, Some(LiveState::Ready { .. })));
}

/// A lower tally is no sign that the lease has ended: the ledger may note it without the losses before it.
pub async fn a_lower_tally_ends_no_lease(rig: &Rig) {
    let (held, known) = rig.lose_one().await;
    rig.push(&[Push { fence: held.fence, under_way: true, ..rig.job(0).await }]).await;
    let known = Adoption { job: Push { crashes: 1, attempt: 2, ..known.job }, ..known };
    let lower = Withdrawal { crashes: 1, attempt: 2, ..withdrawal(held, Then::Retry) };
    assert_eq!(rig.adopt(&known).await, rig.held_until().await);
    assert_eq!(rig.withdraw(lower).await, Withdrawn::Out);
    let over = Held { id: id(1), ..held };
    rig.push(&[Push { fence: held.fence, under_way: true, ..rig.job(1).await }]).await;
    let lower = Withdrawal { crashes: 1, attempt: 2, ..withdrawal(over, Then::Over) };
    assert_eq!(rig.withdraw(lower).await, Withdrawn::Out);
}

/// The tally of the job tells.
pub async fn a_retried_attempt_is_not_adopted(rig: &Rig) {
    let (held, claimed) = rig.hold_one().await;
    let known = rig.known(0, held, &claimed).await;
    rig.settle(held, Verdict::Retry { delay: LEASE }).await;
    assert_eq!(rig.adopt(&known).await, Adopted::Stolen);
    assert_eq!(rig.state(0).await, Some(LiveState::Delayed));
}

/// What was handed back counts nothing, but its lease is over: the holder has said so.
pub async fn a_settled_lease_is_not_adopted(rig: &Rig) {
    for verdict in [Verdict::Release, Verdict::Snooze { delay: LEASE }] {
        let (held, claimed) = rig.hold_one().await;
        let known = rig.known(0, held, &claimed).await;
        rig.settle(held, verdict).await;
        let state = rig.state(0).await;
        assert_eq!(rig.adopt(&known).await, Adopted::Stolen);
        rig.confirm_all().await;
        let ended = Withdrawal { lease_id: Some(held.lease_id), ..withdrawal(held, Then::Over) };
        assert_eq!(rig.withdraw(ended).await, Withdrawn::Stolen);
        assert_eq!(rig.state(0).await, state);
        assert!(rig.drop_job(0, held.fence, false).await);
    }
}

/// A store that went back knows them as waiting, or as leased before.
pub async fn an_older_view_gives_way(rig: &Rig) {
    rig.open_with(3).await;
    let run_at = rig.now().await.plus(ms(60_000));
    rig.push(&[Push { run_at, ..rig.job(3).await }]).await;
    let (held, claimed) = rig.claim_one().await;
    let known = rig.known(0, held, &claimed).await;
    rig.shut(2).await;
    let fence = Fence(held.fence.0 + 5);
    let lease_id = LeaseId::random();
    let lease = |n| Adoption {
        job: Push { id: id(n), fence, ..known.job.clone() },
        lease_id,
        ..known.clone()
    };
    let leases = [lease(0), lease(1), lease(3)];
    let worker = WorkerId::generate();
    let replies = rig.engine.adopt(&rig.shard, worker, LEASE, &leases).await.unwrap();
    assert_eq!(replies, [rig.held_until().await; 3]);
    assert_eq!(rig.extend(held, LEASE).await, Extended::Stolen);
    rig.open().await;
    assert_eq!(rig.claim_ids(9).await, [id(2)]);
    let stats = rig.engine.stats(&rig.shard).await.unwrap();
    assert_eq!((stats.ready, stats.delayed, stats.leased), (0, 0, 4));
    for n in [0, 1, 3] {
        let held = Held { id: id(n), fence, lease_id };
        assert_eq!(rig.settle(held, Verdict::Succeeded).await, Settled::Settled);
    }
}

/// What would be put back is compared with the ledger no more.
pub async fn adoption_is_bound_once_the_gate_is_sealed(rig: &Rig) {
    for sealed in [true, false] {
        rig.open_with(3).await;
        let mut known = Vec::new();
        for (n, (held, claimed)) in rig.claim(2).await.into_iter().enumerate() {
            known.push(rig.known(n as u8, held, &claimed).await);
        }
        assert!(rig.drop_job(0, known[0].job.fence, false).await);
        if sealed {
            let generation = rig.gate().await.gate.unwrap().generation + 1;
            rig.shut(generation).await;
            assert!(!rig.engine.seal(&rig.shard, LEDGER, generation - 1).await.unwrap());
            assert!(rig.engine.seal(&rig.shard, LEDGER, generation).await.unwrap());
            assert!(rig.gate().await.gate.unwrap().sealed);
        } else {
            assert!(!rig.engine.seal(&rig.shard, LEDGER, 1).await.unwrap(), "it is open");
        }
        assert_eq!(rig.adopt(&known[0]).await, Adopted::Over, "it is not there");
        let later = Fence(known[1].job.fence.0 + 1);
        let other = Adoption {
            job: Push { fence: later, ..known[1].job.clone() },
            lease_id: LeaseId::random(),
            ..known[1].clone()
        };
        assert_eq!(rig.adopt(&other).await, Adopted::Stolen, "somebody holds it");
        assert!(matches!(rig.adopt(&known[1]).await, Adopted::Held { .. }), "its own");
        let waiting = Push { id: id(2), ..known[1].job.clone() };
        let waiting = Adoption { job: waiting, ..known[1].clone() };
        assert!(matches!(rig.adopt(&waiting).await, Adopted::Held { .. }), "nobody holds it");
        for n in 0..3 {
            if let Some(entry) = rig.walk().await.get(&id(n)) {
                rig.drop_job(n, entry.fence, false).await;
            }
        }
    }
}

/// Its settle, that the ledger refused, must not stop the one who holds the job.
pub async fn a_stale_end_gives_way_to_a_later_lease(rig: &Rig) {
    let (held, claimed) = rig.hold_one().await;
    let known = rig.known(0, held, &claimed).await;
    rig.settle(held, Verdict::Succeeded).await;
    rig.shut(2).await;
    let fence = Fence(held.fence.0 + 1);
    let later = Adoption { job: Push { fence, ..known.job.clone() }, ..known.clone() };
    assert_eq!(rig.adopt(&known).await, Adopted::Over, "its own end");
    assert_eq!(rig.adopt(&later).await, rig.held_until().await);
    rig.confirm_all().await;
    assert!(
        matches!(rig.state(0).await, Some(LiveState::Leased { .. })),
        "it is not confirmed away"
    );
}

/// They run already.
pub async fn adoption_needs_no_room(rig: &Rig) {
    let (held, known) = rig.lose_one().await;
    let tight = ShardSettings { version: 9, jobs_max: 0, bytes_max: 0, ..ShardSettings::default() };
    rig.configure(tight).await;
    rig.shut(2).await;
    assert_eq!(rig.adopt(&known).await, rig.held_until().await);
    assert_eq!(rig.settle(held, Verdict::Succeeded).await, Settled::Settled);
}

/// One that is over does not spoil the others.
pub async fn adopt_answers_for_each_lease_in_order(rig: &Rig) {
    rig.open_with(3).await;
    let mut leases = Vec::new();
    for (n, (held, claimed)) in rig.claim(3).await.into_iter().enumerate() {
        leases.push(rig.known(n as u8, held, &claimed).await);
        if n == 1 {
            rig.settle(held, Verdict::Succeeded).await;
        }
    }
    leases[2].lease_id = LeaseId::random();
    leases.push(leases[0].clone());
    let worker = WorkerId::generate();
    let replies = rig.engine.adopt(&rig.shard, worker, LEASE, &leases).await.unwrap();
    let held = rig.held_until().await;
    assert_eq!(replies, [held, Adopted::Over, Adopted::Stolen, held]);
}

/// With the fence that it has there, and whether it has ended or is held.
pub async fn a_walk_sees_every_state(rig: &Rig) {
    assert!(rig.walk().await.is_empty());
    rig.open_with(3).await;
    let run_at = rig.now().await.plus(ms(1_000));
    let later = Push { run_at, fence: Fence(7), attempt: 2, crashes: 1, ..rig.job(3).await };
    rig.push(&[later]).await;
    let (ended, _) = rig.claim_one().await;
    rig.settle(ended, Verdict::Succeeded).await;
    let (held, _) = rig.claim_one().await;
    rig.cancel(8, Fence(1)).await;
    let walk = rig.walk().await;
    let told = |entry: &LiveEntry| {
        let tally = (entry.attempt, entry.crashes);
        (entry.id, entry.fence, tally, entry.finishing, entry.leased)
    };
    let expected = [
        (id(0), ended.fence, (1, 0), true, false),
        (id(1), held.fence, (0, 0), false, true),
        (id(2), Fence(1), (0, 0), false, false),
        (id(3), Fence(7), (2, 1), false, false),
    ];
    assert_eq!(walk.values().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(walk[&id(3)].run_at, run_at);
}

/// However many there are.
pub async fn a_walk_sees_all(rig: &Rig) {
    rig.open().await;
    let now = rig.now().await;
    let job = || Push::new(Fence(1), kind("plain"), now, Bytes::from(vec![b'e'; 100]));
    let jobs: Vec<Push> = (0..900).map(|_| job()).collect();
    for batch in jobs.chunks(150) {
        assert_eq!(rig.push(batch).await, vec![Pushed::Added; 150]);
    }
    let seen: Vec<JobId> = rig.walk().await.into_keys().collect();
    let mut pushed: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    pushed.sort_unstable();
    assert_eq!(seen, pushed);
}

/// Whatever it is doing; a job that has moved on since it was seen stays.
pub async fn only_what_was_seen_is_dropped(rig: &Rig) {
    rig.open_with(3).await;
    let run_at = rig.now().await.plus(ms(1_000));
    rig.push(&[Push { run_at, ..rig.job(3).await }]).await;
    let (ended, _) = rig.claim_one().await;
    rig.settle(ended, Verdict::Succeeded).await;
    let (held, _) = rig.claim_one().await;
    let fences = [ended.fence, held.fence, Fence(1), Fence(1)];
    for (n, fence) in fences.into_iter().enumerate() {
        for other in [Fence(fence.0 - 1), Fence(fence.0 + 1)] {
            assert!(!rig.drop_job(n as u8, other, true).await);
        }
    }
    assert_eq!(rig.walk().await.len(), 4);
    let jobs: Vec<_> = fences.iter().enumerate().map(|(n, fence)| (id(n as u8), *fence)).collect();
    let absent = (id(9), Fence(1));
    let all = [&jobs[..], &[absent]].concat();
    let dropped = rig.engine.drop_jobs(&rig.shard, &all, false).await.unwrap();
    assert_eq!(dropped, [true, true, true, true, false]);
    let stats = rig.engine.stats(&rig.shard).await.unwrap();
    assert_eq!((stats.ready, stats.delayed, stats.leased, stats.outbox), (0, 0, 0, 1));
    assert_eq!(stats.bytes, crate::engine::model::OUTCOME_BYTES, "of the outcome, which stays");
    assert_eq!(rig.settle(held, Verdict::Succeeded).await, Settled::Gone);
    assert_eq!(rig.confirm_all().await.len(), 1);
    assert!(!rig.knows(0).await && !rig.knows(9).await);
    assert_eq!(rig.push(&[rig.job(0).await, rig.job(9).await]).await, [Pushed::Added; 2]);
}

/// A push that is under way must not bring it back; a redrive may.
pub async fn a_buried_job_stays_out(rig: &Rig) {
    rig.open().await;
    rig.push(&[Push { fence: Fence(5), ..rig.job(0).await }]).await;
    assert!(rig.drop_job(0, Fence(5), true).await);
    let at = async |fence| Push { fence: Fence(fence), ..rig.job(0).await };
    assert_eq!(rig.push(&[at(5).await]).await, [Pushed::Present]);
    assert_eq!(rig.push(&[at(6).await]).await, [Pushed::Added]);
}
