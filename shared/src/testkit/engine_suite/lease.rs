//! extend.

use super::*;
use crate::engine::Withdraw;

/// From engine time, not from the old end.
pub async fn an_extended_lease_ends_later(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    rig.advance(ms(10_000)).await;
    let expires_at = rig.now().await.plus(LEASE);
    assert_eq!(rig.extend(held, LEASE).await, Extended::Held { expires_at, cancel: false });
    rig.advance(LEASE).await;
    assert_eq!(rig.reap(9).await, 0);
    rig.advance(ms(1)).await;
    assert_eq!(rig.reap(9).await, 1);
}

/// A shorter extension changes nothing.
pub async fn a_lease_never_moves_back(rig: &Rig) {
    let (held, claimed) = rig.hold_one().await;
    let unmoved = Extended::Held { expires_at: claimed.expires_at, cancel: false };
    assert_eq!(rig.extend(held, ms(3_000)).await, unmoved);
    rig.advance(LEASE).await;
    assert_eq!(rig.reap(9).await, 0);
}

/// Nobody took the job: its holder keeps it.
pub async fn a_lease_that_ran_out_is_held_until_reaped(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    rig.advance(LEASE * 2).await;
    assert!(matches!(rig.extend(held, LEASE).await, Extended::Held { .. }));
    assert_eq!(rig.reap(9).await, 0);
    rig.advance(LEASE * 2).await;
    assert_eq!(rig.reap(9).await, 1);
    assert_eq!(rig.extend(held, LEASE).await, Extended::Gone);
}

/// A wrong token, a wrong fence and a later holder are theft; no lease at all is not.
pub async fn extend_tells_gone_from_stolen(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    let token = Held { lease_id: LeaseId::random(), ..held };
    let fence = Held { fence: Fence(held.fence.0 - 1), ..held };
    assert_eq!(rig.extend(token, LEASE).await, Extended::Stolen);
    assert_eq!(rig.extend(fence, LEASE).await, Extended::Stolen);
    assert_eq!(rig.extend(Held { id: id(9), ..held }, LEASE).await, Extended::Gone);
    rig.settle(held, Verdict::Release).await;
    assert_eq!(rig.extend(held, LEASE).await, Extended::Gone);
    let (again, _) = rig.claim_one().await;
    assert_eq!(rig.extend(held, LEASE).await, Extended::Stolen);
    rig.settle(again, Verdict::Succeeded).await;
    assert_eq!(rig.extend(again, LEASE).await, Extended::Gone);
}

/// One lost lease does not spoil the others.
pub async fn extend_answers_for_each_lease_in_order(rig: &Rig) {
    rig.open_with(3).await;
    let held: Vec<Held> = rig.claim(3).await.into_iter().map(|(held, _)| held).collect();
    rig.settle(held[1], Verdict::Succeeded).await;
    rig.advance(ms(1)).await;
    let replies = rig.engine.extend(&rig.shard, &held, LEASE).await.unwrap();
    let expires_at = rig.now().await.plus(LEASE);
    let kept = Extended::Held { expires_at, cancel: false };
    assert_eq!(replies.leases, [kept, Extended::Gone, kept]);
}

/// Every time, until the attempt ends.
pub async fn extend_tells_of_a_cancellation(rig: &Rig) {
    let (held, claimed) = rig.hold_one().await;
    let jobs = [(id(0), claimed.fence)];
    rig.engine.cancel(&rig.shard, &jobs, Withdraw::StopRunning).await.unwrap();
    for _ in 0..2 {
        let reply = rig.extend(held, LEASE).await;
        assert!(matches!(reply, Extended::Held { cancel: true, .. }), "{reply:?}");
    }
}
