//! settle.

use super::*;
use crate::engine::Ended;

const AT_ONCE: Verdict = Verdict::Retry { delay: Duration::ZERO };

/// Everything that the ledger needs is in the outcome.
pub async fn success_ends_the_job(rig: &Rig) {
    rig.open().await;
    rig.push(&[Push { attempt: 1, crashes: 2, ..rig.job(0).await }]).await;
    let request = rig.request(1);
    let claimed_at = rig.now().await;
    let claimed = rig.claim_as(&request).await.jobs.remove(0);
    rig.advance(us(1_234)).await;
    assert_eq!(rig.settle(proof(&request, &claimed), Verdict::Succeeded).await, Settled::Settled);
    let outcomes = rig.outcomes().await;
    let expected = Outcome {
        seq: outcomes[0].seq,
        id: id(0),
        fence: claimed.fence,
        ended: Ended::Succeeded,
        at: rig.now().await,
        claimed_at: Some(claimed_at),
        worker: Some(request.worker),
        attempt: 2,
        crashes: 2,
        detail: Bytes::new(),
    };
    assert_eq!(outcomes, [expected]);
    assert_eq!(rig.state(0).await, Some(LiveState::Finishing));
    assert_eq!(rig.claim(9).await, []);
}

/// The delay is from engine time of the settle.
pub async fn a_retry_counts_and_waits(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    rig.advance(ms(7)).await;
    let run_at = rig.now().await.plus(ms(500));
    rig.settle(held, Verdict::Retry { delay: ms(500) }).await;
    let outcome = rig.last_outcome().await;
    assert_eq!((outcome.ended, outcome.attempt), (Ended::Retry(run_at), 1));
    assert_eq!(rig.state(0).await, Some(LiveState::Delayed));
    rig.advance(ms(499)).await;
    assert_eq!(rig.claim(9).await, []);
    rig.advance(ms(1)).await;
    let (_, again) = rig.claim_one().await;
    assert_eq!((again.attempt, again.crashes), (1, 0));
    assert!(again.fence > held.fence);
    assert_eq!(again.envelope, rig.job(0).await.envelope);
}

/// Behind the jobs that have waited longer: its place is that of the new time.
pub async fn a_retry_without_delay_is_ready_at_once(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    rig.advance(ms(5)).await;
    rig.push(&[rig.job(1).await]).await;
    rig.advance(ms(5)).await;
    rig.settle(held, AT_ONCE).await;
    assert_eq!(rig.last_outcome().await.ended, Ended::Retry(rig.now().await));
    assert_eq!(rig.claim_ids(9).await, [id(1), id(0)]);
}

/// Dead is the holder's decision; the engine does not know the most attempts.
pub async fn death_counts_and_ends_the_job(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    rig.settle(held, Verdict::Dead).await;
    let outcome = rig.last_outcome().await;
    assert_eq!((outcome.ended, outcome.attempt), (Ended::Dead, 1));
    assert_eq!(rig.claim(9).await, []);
}

/// As often as it likes.
pub async fn a_snooze_waits_and_does_not_count(rig: &Rig) {
    let (mut held, _) = rig.hold_one().await;
    for _ in 0..3 {
        let run_at = rig.now().await.plus(ms(20));
        rig.settle(held, Verdict::Snooze { delay: ms(20) }).await;
        let outcome = rig.last_outcome().await;
        assert_eq!((outcome.ended, outcome.attempt), (Ended::Snoozed(run_at), 0));
        assert_eq!(rig.claim(9).await, []);
        rig.advance(ms(20)).await;
        let (next, claimed) = rig.claim_one().await;
        assert_eq!(claimed.attempt, 0);
        held = next;
    }
}

/// A worker that stops hands its jobs back: nobody waits longer for it.
pub async fn a_release_returns_the_job_to_its_old_place(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    rig.advance(ms(5)).await;
    rig.push(&[rig.job(1).await]).await;
    rig.settle(held, Verdict::Release).await;
    let outcome = rig.last_outcome().await;
    assert_eq!((outcome.ended, outcome.attempt, outcome.crashes), (Ended::Released, 0, 0));
    assert_eq!(rig.claim_ids(9).await, [id(0), id(1)]);
}

/// Also when nobody asked for it through the engine.
pub async fn a_cancelled_attempt_ends_the_job_and_does_not_count(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    rig.settle(held, Verdict::Cancelled).await;
    let outcome = rig.last_outcome().await;
    assert_eq!((outcome.ended, outcome.attempt), (Ended::Cancelled, 0));
    assert_eq!(rig.claim(9).await, []);
}

/// Whatever the first one said, and whatever the second one says.
pub async fn a_repeated_settle_changes_nothing(rig: &Rig) {
    let verdicts = [
        Verdict::Succeeded,
        Verdict::Retry { delay: ms(10_000) },
        AT_ONCE,
        Verdict::Dead,
        Verdict::Snooze { delay: ms(10_000) },
        Verdict::Release,
        Verdict::Cancelled,
    ];
    rig.open().await;
    for (n, verdict) in (0..).zip(verdicts) {
        rig.push(&[rig.job(n).await]).await;
        let (held, _) = rig.claim_one().await;
        assert_eq!(rig.settle(held, verdict).await, Settled::Settled);
        let (outcomes, state) = (rig.outcomes().await, rig.state(n).await);
        assert_eq!(rig.settle(held, verdict).await, Settled::Repeated, "{verdict:?}");
        assert_eq!(rig.settle(held, Verdict::Dead).await, Settled::Repeated, "{verdict:?}");
        assert_eq!(rig.outcomes().await, outcomes);
        assert_eq!(rig.state(n).await, state);
        // Out of the way of the next ones.
        rig.claim(9).await;
        rig.confirm_all().await;
    }
}

/// Of two leases of one job only the later one settles it.
pub async fn a_later_lease_beats_an_earlier_one(rig: &Rig) {
    let (first, _) = rig.hold_one().await;
    rig.settle(first, Verdict::Release).await;
    let (second, _) = rig.claim_one().await;
    let mixed = Held { lease_id: first.lease_id, ..second };
    assert_eq!(rig.settle(first, Verdict::Succeeded).await, Settled::Stolen);
    assert_eq!(rig.settle(mixed, Verdict::Succeeded).await, Settled::Stolen);
    rig.settle(second, Verdict::Succeeded).await;
    assert_eq!(rig.settle(first, Verdict::Succeeded).await, Settled::Stolen);
    let ends: Vec<_> = rig.outcomes().await.iter().map(|outcome| outcome.ended).collect();
    assert_eq!(ends, [Ended::Released, Ended::Succeeded]);
}

/// A fence may repeat after a failover; a token does not.
pub async fn a_wrong_token_settles_nothing(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    let other = Held { lease_id: LeaseId::random(), ..held };
    assert_eq!(rig.settle(other, Verdict::Succeeded).await, Settled::Stolen);
    assert!(matches!(rig.extend(held, LEASE).await, Extended::Held { .. }));
    assert_eq!(rig.outcomes().await, []);
}

/// The engine went back in time, or knows nothing of that lease: the ledger must tell.
pub async fn a_fence_from_the_future_settles_nothing(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    let ahead = Held { fence: Fence(held.fence.0 + 1), ..held };
    assert_eq!(rig.settle(ahead, Verdict::Succeeded).await, Settled::Gone);
    rig.push(&[rig.job(1).await]).await;
    let never_leased = Held { id: id(1), fence: Fence(1), ..held };
    assert_eq!(rig.settle(never_leased, Verdict::Succeeded).await, Settled::Gone);
    assert_eq!(rig.outcomes().await, []);
}

/// No trace is left of it: it was recorded, as the ledger will say.
pub async fn settle_after_confirm_is_gone(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    rig.settle(held, Verdict::Succeeded).await;
    rig.confirm_all().await;
    assert_eq!(rig.settle(held, Verdict::Succeeded).await, Settled::Gone);
    assert_eq!(rig.settle(Held { id: id(9), ..held }, Verdict::Dead).await, Settled::Gone);
    assert_eq!(rig.outcomes().await, []);
}

/// The fence and the token decide, not the time.
pub async fn a_settle_after_the_end_of_its_lease_counts(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    rig.advance(LEASE * 10).await;
    assert_eq!(rig.settle(held, Verdict::Succeeded).await, Settled::Settled);
    assert_eq!(rig.reap(9).await, 0);
}

/// Also the same lease twice in one call.
pub async fn settles_of_one_call_stand_alone(rig: &Rig) {
    rig.open_with(3).await;
    let held: Vec<Held> = rig.claim(3).await.into_iter().map(|(held, _)| held).collect();
    let settle = |held, verdict| Settle { dependency: None, held, verdict, detail: Bytes::new() };
    let replies = rig
        .settle_all(&[
            settle(held[0], Verdict::Succeeded),
            settle(Held { id: id(9), ..held[0] }, Verdict::Succeeded),
            settle(held[0], Verdict::Dead),
            settle(Held { lease_id: LeaseId::random(), ..held[1] }, Verdict::Dead),
            settle(held[2], AT_ONCE),
        ])
        .await;
    let (settled, gone) = (Settled::Settled, Settled::Gone);
    assert_eq!(replies, [settled, gone, Settled::Repeated, Settled::Stolen, settled]);
    let ids: Vec<_> = rig.outcomes().await.iter().map(|outcome| outcome.id).collect();
    assert_eq!(ids, [id(0), id(2)]);
}

/// So that no push starts it again before the ledger knows.
pub async fn a_settled_job_stays_until_confirmed(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    rig.settle(held, Verdict::Succeeded).await;
    // However long the recorder is away.
    rig.advance(Duration::from_secs(3_600)).await;
    assert!(rig.knows(0).await);
    assert_eq!(rig.push(&[rig.job(0).await]).await, [Pushed::Present]);
    assert_eq!(rig.claim(9).await, []);
    assert_eq!(rig.confirm_all().await.len(), 1);
    assert_eq!(rig.state(0).await, None);
}

/// Any bytes, none included.
pub async fn details_travel_unchanged(rig: &Rig) {
    rig.open_with(2).await;
    let bytes: Vec<u8> = (0..=255).collect();
    for detail in [Bytes::from(bytes), Bytes::new()] {
        let (held, _) = rig.claim_one().await;
        let settle =
            Settle { dependency: None, held, verdict: Verdict::Dead, detail: detail.clone() };
        rig.settle_all(&[settle]).await;
        assert_eq!(rig.last_outcome().await.detail, detail);
    }
}
