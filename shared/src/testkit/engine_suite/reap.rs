//! reap and promote.

use super::*;
use crate::engine::Ended;

/// Its last ms belongs to the holder.
pub async fn a_lease_is_reaped_after_its_end_not_at_it(rig: &Rig) {
    rig.hold_one().await;
    rig.advance(LEASE + us(999)).await;
    assert_eq!(rig.reap(9).await, 0);
    rig.advance(us(1)).await;
    assert_eq!(rig.reap(9).await, 1);
    assert_eq!(rig.reap(9).await, 0);
}

/// Not behind those that came later.
pub async fn a_lost_job_is_ready_in_its_old_place(rig: &Rig) {
    let (_, claimed) = rig.hold_one().await;
    let claimed_at = rig.now().await;
    rig.advance(ms(10)).await;
    rig.push(&[rig.job(1).await]).await;
    assert_eq!(rig.lose_leases().await, 1);
    let outcome = rig.last_outcome().await;
    assert_eq!((outcome.id, outcome.ended, outcome.fence), (id(0), Ended::Lost, claimed.fence));
    assert_eq!(outcome.claimed_at, Some(claimed_at));
    assert_eq!((outcome.attempt, outcome.crashes), (0, 1));
    assert!(outcome.worker.is_some() && outcome.detail.is_empty());
    assert_eq!(rig.claim_ids(9).await, [id(0), id(1)]);
}

/// A lost lease spends no attempt; a failed attempt is no crash.
pub async fn crashes_count_apart_from_attempts(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    rig.settle(held, Verdict::Retry { delay: Duration::ZERO }).await;
    let (_, second) = rig.claim_one().await;
    assert_eq!((second.attempt, second.crashes), (1, 0));
    rig.lose_leases().await;
    let (held, third) = rig.claim_one().await;
    assert_eq!((third.attempt, third.crashes), (1, 1));
    rig.settle(held, Verdict::Retry { delay: Duration::ZERO }).await;
    let (_, fourth) = rig.claim_one().await;
    assert_eq!((fourth.attempt, fourth.crashes), (2, 1));
}

/// The last crash ends it.
pub async fn a_job_that_crashes_too_often_is_quarantined(rig: &Rig) {
    rig.open().await;
    rig.push(&[Push { max_crashes: 3, ..rig.job(0).await }]).await;
    for expected in [Ended::Lost, Ended::Lost, Ended::Quarantined] {
        rig.claim_one().await;
        assert_eq!(rig.lose_leases().await, 1);
        assert_eq!(rig.last_outcome().await.ended, expected);
    }
    assert_eq!(rig.last_outcome().await.crashes, 3);
    assert_eq!(rig.claim(9).await, []);
    assert_eq!(rig.state(0).await, Some(LiveState::Finishing));
    rig.confirm_all().await;
    assert_eq!(rig.state(0).await, None);
}

/// The ledger's count goes on; no crash allowed means none.
pub async fn crashes_of_before_the_push_count(rig: &Rig) {
    rig.open().await;
    rig.push(&[Push { crashes: 2, max_crashes: 3, ..rig.job(0).await }]).await;
    rig.push(&[Push { max_crashes: 0, ..rig.job(1).await }]).await;
    rig.claim(2).await;
    assert_eq!(rig.lose_leases().await, 2);
    let crashes: Vec<_> = rig.outcomes().await.iter().map(|o| (o.ended, o.crashes)).collect();
    assert_eq!(crashes, [(Ended::Quarantined, 3), (Ended::Quarantined, 1)]);
}

/// By the end of the lease, not by age; never more than the bound.
pub async fn a_reap_is_bounded_and_takes_the_oldest_first(rig: &Rig) {
    let most = BOUNDS.move_max;
    rig.open_with(most as u8 + 1).await;
    let first = ClaimRequest { lease: LEASE + ms(1), ..rig.request(1) };
    rig.claim_as(&first).await;
    rig.claim(99).await;
    rig.advance(LEASE + ms(2)).await;
    assert_eq!(rig.reap(1).await, 1);
    assert_eq!(rig.last_outcome().await.id, id(1));
    assert_eq!(rig.reap(u32::MAX).await, most);
    assert_eq!(rig.last_outcome().await.id, id(0), "its lease ran out last");
    assert_eq!(rig.reap(0).await, 0);
}

/// It may have been lost or not, so it asks the ledger; once somebody else holds it, it is told so.
pub async fn a_reaped_holder_settles_nothing(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    rig.lose_leases().await;
    assert_eq!(rig.settle(held, Verdict::Succeeded).await, Settled::Gone);
    let (again, _) = rig.claim_one().await;
    assert!(again.fence > held.fence);
    assert_eq!(rig.settle(held, Verdict::Succeeded).await, Settled::Stolen);
    assert_eq!(rig.outcomes().await.len(), 1, "only the loss");
    assert_eq!(rig.settle(again, Verdict::Succeeded).await, Settled::Settled);
}

/// Until the bound or the first that is not due.
pub async fn promote_is_bounded_and_takes_the_earliest_first(rig: &Rig) {
    let most = BOUNDS.move_max as u8;
    rig.open().await;
    let now = rig.now().await;
    for n in 0..=most {
        let run_at = now.plus(ms(100 - u64::from(n)));
        rig.push(&[Push { run_at, ..rig.job(n).await }]).await;
    }
    let promote = async |max| rig.engine.promote(&rig.shard, max).await.unwrap();
    assert_eq!(promote(9).await, 0);
    rig.advance(ms(100 - u64::from(most))).await;
    assert_eq!(promote(9).await, 1);
    assert_eq!(rig.state(most).await, Some(LiveState::Ready { ahead: 0 }));
    rig.push(&[Push { run_at: now.plus(ms(99)), ..rig.job(100).await }]).await;
    rig.advance(ms(100)).await;
    assert_eq!(promote(1).await, 1);
    assert_eq!(promote(u32::MAX).await, u32::from(most));
    assert_eq!(promote(u32::MAX).await, 0);
}
