//! Tombstones: ids that left the shard stay out for a while.

use super::*;
use crate::limits::TOMBSTONE_TTL;

/// A push that was in time when the job was removed is refused, wherever in its life the tombstone is.
pub async fn a_tombstone_outlives_the_push_window(rig: &Rig) {
    rig.open().await;
    for n in 0..8 {
        let job = rig.job(n).await;
        let not_after = rig.now().await.plus(PUSH_WINDOW);
        rig.cancel(n, Fence(1)).await;
        rig.advance(PUSH_WINDOW).await;
        let reply = rig.engine.push(&rig.shard, &[job], &until(not_after)).await.unwrap();
        assert_eq!(reply.pushed, [Pushed::Present]);
    }
    assert_eq!(rig.claim(9).await, []);
}

/// Looked at all along, or only at the end.
pub async fn a_tombstone_stands_for_its_time_and_no_longer_than_twice(rig: &Rig) {
    rig.open().await;
    for (n, looks) in [(0, 1), (1, 10)] {
        rig.cancel(n, Fence(1)).await;
        for _ in 0..looks {
            rig.advance(TOMBSTONE_TTL / looks).await;
            assert!(rig.knows(n).await);
        }
        assert_eq!(rig.push(&[rig.job(n).await]).await, [Pushed::Present]);
        rig.advance(TOMBSTONE_TTL).await;
        assert!(!rig.knows(n).await);
        assert_eq!(rig.push(&[rig.job(n).await]).await, [Pushed::Added]);
    }
    rig.cancel(2, Fence(1)).await;
    rig.advance(TOMBSTONE_TTL * 2).await;
    assert!(!rig.knows(2).await, "also when nobody looked for long");
}

/// A finished job does not start again by a late push.
pub async fn a_confirmed_job_stays_out(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    rig.settle(held, Verdict::Succeeded).await;
    rig.confirm_all().await;
    assert!(rig.knows(0).await);
    let same = Push { fence: held.fence, ..rig.job(0).await };
    assert_eq!(rig.push(&[rig.job(0).await, same]).await, [Pushed::Present; 2]);
    assert_eq!(rig.claim(9).await, []);
}

/// At once: its fence is higher than that of the end.
pub async fn a_redriven_job_gets_in(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    rig.settle(held, Verdict::Dead).await;
    rig.confirm_all().await;
    let fence = Fence(held.fence.0 + 1);
    let redriven = [Push { fence, ..rig.job(0).await }];
    assert_eq!(rig.push(&redriven).await, [Pushed::Added]);
    let (_, claimed) = rig.claim_one().await;
    assert!(claimed.fence > fence);
}

/// Not by a second cancellation with an older view, not by another window.
pub async fn a_tombstone_is_never_lowered(rig: &Rig) {
    rig.open().await;
    rig.cancel(0, Fence(9)).await;
    rig.advance(TOMBSTONE_TTL).await;
    rig.cancel(0, Fence(4)).await;
    let same = [Push { fence: Fence(9), ..rig.job(0).await }];
    assert_eq!(rig.push(&same).await, [Pushed::Present]);
    rig.advance(TOMBSTONE_TTL).await;
    assert_eq!(rig.push(&same).await, [Pushed::Present], "the second one carried it on");
    rig.advance(TOMBSTONE_TTL).await;
    assert_eq!(rig.push(&same).await, [Pushed::Added]);
}

/// The later tombstone is the one that counts.
pub async fn the_end_of_a_redriven_job_stands_too(rig: &Rig) {
    rig.open().await;
    rig.cancel(0, Fence(5)).await;
    assert_eq!(rig.push(&[Push { fence: Fence(6), ..rig.job(0).await }]).await, [Pushed::Added]);
    let (held, _) = rig.claim_one().await;
    rig.settle(held, Verdict::Succeeded).await;
    rig.confirm_all().await;
    let again = |fence| async move { rig.push(&[Push { fence, ..rig.job(0).await }]).await };
    assert_eq!(again(Fence(7)).await, [Pushed::Present]);
    assert_eq!(again(held.fence).await, [Pushed::Present]);
    assert_eq!(again(Fence(held.fence.0 + 1)).await, [Pushed::Added]);
}
