//! withdraw.

use super::*;
use crate::engine::{Looked, Then, Withdrawal, Withdrawn};

impl Rig {
    pub(super) async fn withdraw(&self, lease: Withdrawal) -> Withdrawn {
        self.withdraw_after(lease, None).await.0
    }

    async fn withdraw_after(
        &self,
        lease: Withdrawal,
        looked: Option<Looked>,
    ) -> (Withdrawn, Looked) {
        let reply = self.engine.withdraw(&self.shard, &[lease], looked).await.expect("withdraw");
        (reply.leases[0], reply.looked)
    }
}

/// A lease whose outcome is recorded past the engine.
pub(super) fn withdrawal(held: Held, then: Then) -> Withdrawal {
    let Held { id, fence, lease_id } = held;
    Withdrawal { id, fence, lease_id: Some(lease_id), attempt: 0, crashes: 0, then }
}

/// Held by nobody else, it goes, and what is older stays out.
pub async fn a_withdrawn_job_is_out(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    assert_eq!(rig.withdraw(withdrawal(held, Then::Over)).await, Withdrawn::Out);
    assert_eq!(rig.withdraw(withdrawal(held, Then::Over)).await, Withdrawn::Out, "again");
    assert_eq!(rig.state(0).await, None);
    assert_eq!(rig.settle(held, Verdict::Succeeded).await, Settled::Gone);
    let again = Push { fence: held.fence, ..rig.job(0).await };
    assert_eq!(rig.push(std::slice::from_ref(&again)).await, [Pushed::Present], "it has ended");
    let stats = rig.engine.stats(&rig.shard).await.unwrap();
    assert_eq!((stats.leased, stats.bytes), (0, 0));
}

/// It is let in with the very fence of its outcome, but not as it was before that.
pub async fn a_withdrawn_job_that_runs_again_comes_back_waiting(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    for (n, then) in [(1, Then::Retry), (2, Then::Again)] {
        let other = Held { id: id(n), ..held };
        rig.push(&[rig.job(n).await]).await;
        assert_eq!(rig.withdraw(withdrawal(other, then)).await, Withdrawn::Out, "a ready one too");
        let waits = Push { fence: held.fence, ..rig.job(n).await };
        let runs = Push { under_way: true, ..waits.clone() };
        let older = Push { fence: Fence(held.fence.0 - 1), ..waits.clone() };
        assert_eq!(rig.push(&[older]).await, [Pushed::Present]);
        assert_eq!(rig.push(&[runs]).await, [Pushed::Present], "the lease is over");
        // Neither a weaker tombstone nor an older one takes its place.
        assert_eq!(rig.withdraw(withdrawal(other, then)).await, Withdrawn::Out);
        rig.cancel(n, Fence(1)).await;
        assert_eq!(rig.push(&[waits]).await, [Pushed::Added]);
    }
    let over = Held { id: id(3), ..held };
    rig.withdraw(withdrawal(over, Then::Over)).await;
    rig.withdraw(withdrawal(over, Then::Again)).await;
    let waits = Push { fence: held.fence, ..rig.job(3).await };
    assert_eq!(rig.push(&[waits]).await, [Pushed::Present], "the end stands");
}

/// What was settled here, and a retry that a later lease has counted, may be recorded; nothing is taken out for it.
pub async fn an_outcome_that_the_engine_knows_is_told_apart(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    rig.settle(held, Verdict::Retry { delay: Duration::ZERO }).await;
    let (retry, over) = (withdrawal(held, Then::Retry), withdrawal(held, Then::Over));
    assert_eq!(rig.withdraw(retry).await, Withdrawn::Known, "it waits in the outbox");
    rig.confirm_all().await;
    assert_eq!(rig.withdraw(over).await, Withdrawn::Stolen, "it was settled otherwise");
    let (later, _) = rig.claim_one().await;
    assert_eq!(rig.withdraw(retry).await, Withdrawn::Known);
    assert_eq!(rig.withdraw(over).await, Withdrawn::Stolen);
    assert_eq!(rig.withdraw(withdrawal(held, Then::Again)).await, Withdrawn::Stolen);
    let second = Withdrawal { attempt: 1, ..retry };
    assert_eq!(rig.withdraw(second).await, Withdrawn::Stolen, "the second has not counted");
    assert!(matches!(rig.extend(later, LEASE).await, Extended::Held { .. }));
    assert_eq!(rig.lose_leases().await, 1);
    assert_eq!(rig.withdraw(retry).await, Withdrawn::Waits, "the loss");
    rig.confirm_all().await;
    assert_eq!(rig.withdraw(retry).await, Withdrawn::Known, "also when that one is lost");
    let (last, _) = rig.claim_one().await;
    rig.settle(last, Verdict::Succeeded).await;
    assert_eq!(rig.withdraw(withdrawal(last, Then::Over)).await, Withdrawn::Known);
    assert_eq!(rig.state(0).await, Some(LiveState::Finishing));
}

/// A lease that was taken back must not count.
pub async fn what_waits_of_a_job_goes_before_its_withdrawal(rig: &Rig) {
    rig.open_with(3).await;
    let mut claims = rig.claim(2).await;
    let (held, other) = (claims.remove(0).0, claims.remove(0).0);
    rig.settle(other, Verdict::Succeeded).await;
    let nameless = |held, then| Withdrawal { lease_id: None, ..withdrawal(held, then) };
    let retry = nameless(held, Then::Retry);
    rig.settle(held, Verdict::Retry { delay: LEASE }).await;
    assert_eq!(rig.withdraw(retry).await, Withdrawn::Waits);
    rig.confirm_all().await;
    let (third, _) = rig.claim_one().await;
    rig.settle(third, Verdict::Succeeded).await;
    assert_eq!(rig.withdraw(retry).await, Withdrawn::Stolen, "what waits is of another");
    let over = nameless(third, Then::Over);
    assert_eq!(rig.withdraw(over).await, Withdrawn::Waits);
    rig.confirm_all().await;
    assert_eq!(rig.withdraw(over).await, Withdrawn::Out);
}

/// Some at a time, and by whichever generation did so.
pub async fn a_long_outbox_is_looked_through_once(rig: &Rig) {
    rig.open_with(12).await;
    let (held, _) = rig.claim_one().await;
    for (ended, _) in rig.claim(9).await.into_iter().chain(rig.claim(2).await) {
        rig.settle(ended, Verdict::Succeeded).await;
    }
    let over = withdrawal(held, Then::Over);
    let (first, looked) = rig.withdraw_after(over, None).await;
    let (second, further) = rig.withdraw_after(over, Some(looked)).await;
    assert_eq!((first, second), (Withdrawn::Behind, Withdrawn::Behind));
    assert_eq!(further.seq, looked.seq + u64::from(BOUNDS.move_max));
    let elsewhere = Looked { generation: Some(2), ..further };
    assert_eq!(rig.withdraw_after(over, Some(elsewhere)).await, (Withdrawn::Behind, looked));
    assert!(matches!(rig.state(0).await, Some(LiveState::Leased { .. })), "nothing was changed");
    let (third, end) = rig.withdraw_after(over, Some(further)).await;
    assert_eq!((third, end.seq), (Withdrawn::Out, rig.last_outcome().await.seq));
}

/// Whoever has a later lease decides, and so does an end that waits to be recorded.
pub async fn a_job_of_others_is_not_withdrawn(rig: &Rig) {
    let (held, _) = rig.hold_one().await;
    let older = Withdrawal { fence: Fence(held.fence.0 - 1), ..withdrawal(held, Then::Over) };
    assert_eq!(rig.withdraw(older).await, Withdrawn::Stolen);
    let token = Withdrawal { lease_id: Some(LeaseId::random()), ..withdrawal(held, Then::Over) };
    assert_eq!(rig.withdraw(token).await, Withdrawn::Stolen);
    assert_eq!(rig.lose_leases().await, 1);
    rig.confirm_all().await;
    assert_eq!(
        rig.withdraw(withdrawal(held, Then::Over)).await,
        Withdrawn::Stolen,
        "it was taken back"
    );
    let (held, _) = rig.claim_one().await;
    rig.settle(held, Verdict::Dead).await;
    let nameless = Withdrawal { lease_id: None, ..withdrawal(held, Then::Over) };
    assert_eq!(rig.withdraw(nameless).await, Withdrawn::Waits);
    rig.confirm_all().await;
    assert_eq!(rig.withdraw(withdrawal(held, Then::Over)).await, Withdrawn::Out);
}
