//! claim, without kind filters.

use super::*;
use crate::engine::{ClaimState, Ended};

/// By time, then by id.
pub async fn leases_are_given_in_ready_order(rig: &Rig) {
    rig.open().await;
    let now = rig.now().await;
    let at = |back_ms| now.minus(ms(back_ms));
    let times = [(0, at(1)), (1, at(3)), (2, at(2)), (3, at(3)), (4, now)];
    let mut jobs = Vec::new();
    for (n, run_at) in times {
        jobs.push(Push { run_at, ..rig.job(n).await });
    }
    jobs.reverse();
    rig.push(&jobs).await;
    assert_eq!(rig.claim_ids(2).await, [id(1), id(3)]);
    assert_eq!(rig.claim_ids(9).await, [id(2), id(0), id(4)]);
}

/// One level up is a minute ahead by default, and no more: nothing starves.
pub async fn a_level_of_priority_is_worth_a_unit_of_waiting(rig: &Rig) {
    rig.open().await;
    let now = rig.now().await;
    let level = |n| Priority::new(n).unwrap();
    let waited = |s: u64| now.minus(Duration::from_secs(s));
    rig.push(&[
        Push { priority: level(5), run_at: now, ..rig.job(0).await },
        Push { priority: level(4), run_at: waited(59), ..rig.job(1).await },
        Push { priority: level(4), run_at: waited(61), ..rig.job(2).await },
        Push { priority: level(0), run_at: waited(301), ..rig.job(3).await },
        Push { priority: level(9), run_at: now, ..rig.job(4).await },
    ])
    .await;
    assert_eq!(rig.claim_ids(9).await, [id(4), id(2), id(3), id(0), id(1)]);
}

/// Jobs that are there keep their places.
pub async fn a_new_unit_of_priority_orders_later_pushes(rig: &Rig) {
    rig.open().await;
    let now = rig.now().await;
    let high = Priority::MAX;
    let before = now.minus(ms(10));
    rig.push(&[
        Push { run_at: before, ..rig.job(0).await },
        Push { priority: high, ..rig.job(1).await },
    ])
    .await;
    let priority_unit = Duration::ZERO;
    rig.configure(ShardSettings { version: 2, priority_unit, ..ShardSettings::default() }).await;
    // Without a unit, only time counts: they come last, in order of time.
    rig.push(&[
        Push { priority: high, ..rig.job(2).await },
        Push { run_at: before, ..rig.job(3).await },
    ])
    .await;
    assert_eq!(rig.claim_ids(9).await, [id(1), id(0), id(3), id(2)]);
}

/// Two who ask get different jobs.
pub async fn a_job_has_one_holder(rig: &Rig) {
    rig.open_with(3).await;
    assert_eq!(rig.claim_ids(2).await, [id(0), id(1)]);
    assert_eq!(rig.claim_ids(2).await, [id(2)]);
    assert_eq!(rig.claim_ids(2).await, []);
}

/// Also nothing at all.
pub async fn a_claim_gives_no_more_than_asked(rig: &Rig) {
    rig.open_with(3).await;
    assert_eq!(rig.claim(0).await, []);
    assert_eq!(rig.claim(1).await.len(), 1);
    assert_eq!(rig.claim(u32::MAX).await.len(), 2);
}

/// However much is asked for: what the bound on looking lets through.
pub async fn a_claim_looks_at_a_bounded_number(rig: &Rig) {
    let most = BOUNDS.scan_max as usize;
    rig.open_with(most as u8 + 1).await;
    assert_eq!(rig.claim(u32::MAX).await.len(), most);
}

/// In µs, and the claim's instant is the start of the attempt.
pub async fn the_fence_is_engine_time(rig: &Rig) {
    rig.open_with(1).await;
    rig.advance(us(777)).await;
    let now = rig.now().await;
    let request = rig.request(1);
    let reply = rig.claim_as(&request).await;
    assert_eq!(reply.state, ClaimState::Open);
    assert_eq!(reply.now, now);
    assert_eq!(reply.jobs[0].fence, Fence(now.micros() as u64));
    let Some(LiveState::Leased { worker, claimed_at, .. }) = rig.state(0).await else {
        panic!("it is leased")
    };
    assert_eq!((worker, claimed_at), (request.worker, now));
}

/// When engine time lies behind: after a failover, or within one µs.
pub async fn the_fence_rises_above_the_last_one(rig: &Rig) {
    rig.open().await;
    let ahead = Fence(rig.now().await.micros() as u64 + 1_000_000_000);
    rig.push(&[Push { fence: ahead, ..rig.job(0).await }]).await;
    let mut last = ahead;
    for _ in 0..3 {
        let (held, claimed) = rig.claim_one().await;
        assert_eq!(claimed.fence, Fence(last.0 + 1));
        last = claimed.fence;
        rig.settle(held, Verdict::Release).await;
    }
}

/// In whole ms, never shorter than asked.
pub async fn a_lease_lasts_as_asked(rig: &Rig) {
    rig.open_with(1).await;
    let now = rig.now().await;
    let request = ClaimRequest { lease: us(3_000_001), ..rig.request(1) };
    let reply = rig.claim_as(&request).await;
    assert_eq!(reply.jobs[0].expires_at, now.plus(ms(3_001)));
}

/// A wiped engine must be compared with the ledger first.
pub async fn an_unverified_shard_gives_no_leases(rig: &Rig) {
    rig.push(&[rig.job(0).await]).await;
    let reply = rig.claim_as(&rig.request(9)).await;
    assert_eq!((reply.state, reply.jobs.len()), (ClaimState::Unverified, 0));
    rig.open().await;
    assert_eq!(rig.claim_ids(9).await, [id(0)]);
}

/// Leases go on, end and are reaped; delayed jobs become ready; none are given.
pub async fn a_paused_shard_gives_no_leases_but_moves(rig: &Rig) {
    rig.open_with(2).await;
    let (held, _) = rig.claim_one().await;
    let (lost, _) = rig.claim_one().await;
    let run_at = rig.now().await.plus(ms(5));
    rig.push(&[Push { run_at, ..rig.job(2).await }]).await;
    rig.configure(ShardSettings { version: 2, paused: true, ..ShardSettings::default() }).await;
    assert!(matches!(rig.extend(held, LEASE * 2).await, Extended::Held { .. }));
    rig.advance(LEASE + ms(1)).await;
    let reply = rig.claim_as(&rig.request(9)).await;
    assert_eq!((reply.state, reply.jobs.len()), (ClaimState::Paused, 0));
    assert!(matches!(rig.state(2).await, Some(LiveState::Ready { .. })), "promoted");
    assert_eq!(rig.last_outcome().await.ended, Ended::Lost);
    assert_eq!(rig.settle(held, Verdict::Succeeded).await, Settled::Settled);
    rig.configure(ShardSettings { version: 3, ..ShardSettings::default() }).await;
    assert_eq!(rig.claim_ids(9).await, [lost.id, id(2)]);
}

/// Until some are recorded. What is held goes on.
pub async fn too_many_outcomes_brake(rig: &Rig) {
    let most = BOUNDS.outbox_entries_max;
    rig.open_with(most as u8 + 2).await;
    for _ in 0..most - 1 {
        let (held, _) = rig.claim_one().await;
        rig.settle(held, Verdict::Succeeded).await;
    }
    let (held, _) = rig.claim_one().await;
    rig.settle(held, Verdict::Succeeded).await;
    let reply = rig.claim_as(&rig.request(9)).await;
    assert_eq!((reply.state, reply.jobs.len()), (ClaimState::Braked, 0));
    let oldest = rig.outcomes().await[0].mark();
    rig.confirm(oldest).await;
    assert_eq!(rig.claim(9).await.len(), 2);
}

/// One large detail is enough.
pub async fn too_large_outcomes_brake(rig: &Rig) {
    rig.open_with(3).await;
    for (bytes, expected) in
        [(BOUNDS.outbox_bytes_max / 2, ClaimState::Open), (2_000, ClaimState::Braked)]
    {
        let (held, _) = rig.claim_one().await;
        let detail = Bytes::from(vec![0; bytes as usize]);
        rig.settle_all(&[Settle { dependency: None, held, verdict: Verdict::Succeeded, detail }])
            .await;
        assert_eq!(rig.claim_as(&rig.request(0)).await.state, expected);
    }
    rig.confirm_all().await;
    assert_eq!(rig.claim_as(&rig.request(0)).await.state, ClaimState::Open);
}

/// So that a queue moves while every scheduler is down, and no call takes long.
pub async fn a_claim_promotes_and_reaps_a_bounded_number(rig: &Rig) {
    let most = BOUNDS.move_max as u8;
    rig.open_with(most + 1).await;
    assert_eq!(rig.claim(99).await.len(), usize::from(most) + 1);
    let run_at = rig.now().await.plus(ms(1));
    for n in 0..=most {
        rig.push(&[Push { run_at, ..rig.job(100 + n).await }]).await;
    }
    rig.advance(LEASE + ms(1)).await;
    rig.claim_as(&rig.request(0)).await;
    let stats = rig.engine.stats(&rig.shard).await.unwrap();
    assert_eq!((stats.ready, stats.delayed, stats.leased), (2 * u64::from(most), 1, 1));
    rig.claim_as(&rig.request(0)).await;
    let stats = rig.engine.stats(&rig.shard).await.unwrap();
    assert_eq!((stats.delayed, stats.leased), (0, 0));
}

/// In whole ms, rounded up: asking then is not too early.
pub async fn the_next_due_is_the_earliest_delayed(rig: &Rig) {
    rig.open().await;
    let now = rig.now().await;
    assert_eq!(rig.claim_as(&rig.request(1)).await.next_due, None);
    let (sooner, later) = (now.plus(us(1_001)), now.plus(ms(900)));
    rig.push(&[
        Push { run_at: later, ..rig.job(0).await },
        Push { run_at: sooner, ..rig.job(1).await },
    ])
    .await;
    assert_eq!(rig.claim_as(&rig.request(1)).await.next_due, Some(now.plus(ms(2))));
    rig.advance(ms(2)).await;
    let reply = rig.claim_as(&rig.request(1)).await;
    assert_eq!((reply.jobs[0].id, reply.next_due), (id(1), Some(later)));
}

/// The ledger learns of it as of an end without a lease.
pub async fn an_expired_job_ends_unclaimed(rig: &Rig) {
    rig.open_with(2).await;
    let expires_at = Some(rig.now().await.plus(ms(10)));
    let job = Push { fence: Fence(7), attempt: 2, crashes: 1, expires_at, ..rig.job(0).await };
    rig.push(&[job]).await;
    rig.advance(ms(11)).await;
    assert_eq!(rig.claim_ids(9).await, [id(1)]);
    let outcome = rig.last_outcome().await;
    assert_eq!((outcome.id, outcome.ended), (id(0), Ended::Expired));
    assert_eq!(outcome.fence, Fence(8));
    assert_eq!((outcome.claimed_at, outcome.worker), (None, None));
    assert_eq!((outcome.attempt, outcome.crashes), (2, 1));
    assert_eq!(outcome.at, rig.now().await);
    assert_eq!(rig.state(0).await, Some(LiveState::Finishing));
    rig.confirm_all().await;
    assert_eq!(rig.state(0).await, None);
}

/// Each attempt is a start: a retry that comes too late does not run either.
pub async fn a_job_that_ran_before_may_expire(rig: &Rig) {
    rig.open().await;
    let expires_at = Some(rig.now().await.plus(ms(10)));
    rig.push(&[Push { expires_at, ..rig.job(0).await }]).await;
    let (held, _) = rig.claim_one().await;
    rig.settle(held, Verdict::Retry { delay: ms(10) }).await;
    rig.advance(ms(10)).await;
    assert_eq!(rig.claim(9).await, []);
    let outcome = rig.last_outcome().await;
    assert_eq!((outcome.ended, outcome.attempt), (Ended::Expired, 1));
    assert_eq!(outcome.fence, Fence(held.fence.0 + 1));
    assert_eq!((outcome.claimed_at, outcome.worker), (None, None));
}

/// A µs before, it may still start.
pub async fn a_job_expires_at_its_instant(rig: &Rig) {
    rig.open().await;
    let at = rig.now().await.plus(ms(10));
    let (this, next) = (Some(at), Some(at.plus(us(1))));
    rig.push(&[Push { expires_at: this, ..rig.job(0).await }]).await;
    rig.push(&[Push { expires_at: next, ..rig.job(1).await }]).await;
    rig.advance(ms(10)).await;
    assert_eq!(rig.claim_ids(9).await, [id(1)]);
}

/// A claim over a long row of expired jobs takes several calls.
pub async fn a_claim_ends_a_bounded_number_of_expired_jobs(rig: &Rig) {
    let most = BOUNDS.move_max as usize;
    rig.open().await;
    let now = rig.now().await;
    for n in 0..=most as u8 {
        rig.push(&[Push { expires_at: Some(now), ..rig.job(n).await }]).await;
    }
    rig.push(&[rig.job(200).await]).await;
    assert_eq!(rig.claim_ids(9).await, []);
    assert_eq!(rig.outcomes().await.len(), most);
    assert_eq!(rig.claim_ids(9).await, [id(200)]);
    assert_eq!(rig.outcomes().await.len(), most + 1);
}
