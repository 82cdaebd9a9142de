//! cancel.

use super::*;
use crate::engine::{CancelReply, Ended, Withdraw};

impl Rig {
    async fn cancel_as(&self, n: u8, fence: Fence, how: Withdraw) -> CancelReply {
        let jobs = [(id(n), fence)];
        self.engine.cancel(&self.shard, &jobs, how).await.expect("cancel")[0]
    }

    /// Cancels a job, running or not.
    pub(super) async fn cancel(&self, n: u8, fence: Fence) -> CancelReply {
        self.cancel_as(n, fence, Withdraw::StopRunning).await
    }
}

/// It cannot start, nor come back late.
pub async fn a_ready_job_is_removed(rig: &Rig) {
    rig.open_with(2).await;
    assert_eq!(rig.cancel(0, Fence(1)).await, CancelReply::Removed);
    assert_eq!(rig.push(&[rig.job(0).await]).await, [Pushed::Present]);
    assert_eq!(rig.claim_ids(9).await, [id(1)]);
    assert_eq!(rig.outcomes().await, [], "the caller tells the ledger");
    assert_eq!(rig.cancel(0, Fence(1)).await, CancelReply::Absent, "a repeat is harmless");
}

/// Before its time, with either reach. Its tombstone has the higher of both fences.
pub async fn a_delayed_job_is_removed(rig: &Rig) {
    rig.open().await;
    let run_at = rig.now().await.plus(ms(100));
    rig.push(&[Push { fence: Fence(3), run_at, ..rig.job(0).await }]).await;
    assert_eq!(rig.cancel_as(0, Fence(2), Withdraw::WaitingOnly).await, CancelReply::Removed);
    rig.advance(ms(100)).await;
    assert_eq!(rig.claim(9).await, []);
    assert_eq!(rig.push(&[Push { fence: Fence(3), ..rig.job(0).await }]).await, [Pushed::Present]);
    assert_eq!(rig.push(&[Push { fence: Fence(4), ..rig.job(0).await }]).await, [Pushed::Added]);
}

/// The push of a submission may still be on its way.
pub async fn an_absent_job_is_kept_out(rig: &Rig) {
    rig.open().await;
    assert_eq!(rig.cancel(0, Fence(1)).await, CancelReply::Absent);
    assert!(rig.knows(0).await);
    assert_eq!(rig.state(0).await, None);
    assert_eq!(rig.push(&[rig.job(0).await]).await, [Pushed::Present]);
    assert_eq!(rig.claim(9).await, []);
}

/// Retry, snooze and release would start it again.
pub async fn a_running_job_is_told_and_does_not_start_again(rig: &Rig) {
    let again = [
        Verdict::Retry { delay: Duration::ZERO },
        Verdict::Snooze { delay: ms(10) },
        Verdict::Release,
    ];
    rig.open_with(3).await;
    for (n, verdict) in (0..).zip(again) {
        let (held, claimed) = rig.claim_one().await;
        for _ in 0..2 {
            assert_eq!(rig.cancel(n, claimed.fence).await, CancelReply::Running);
        }
        assert!(matches!(rig.state(n).await, Some(LiveState::Leased { cancel: true, .. })));
        assert_eq!(rig.settle(held, verdict).await, Settled::Settled);
        let outcome = rig.last_outcome().await;
        assert_eq!((outcome.ended, outcome.attempt), (Ended::Cancelled, 0), "{verdict:?}");
        assert_eq!(rig.state(n).await, Some(LiveState::Finishing));
    }
    rig.advance(ms(1_000)).await;
    assert_eq!(rig.claim(9).await, []);
}

/// What it did, it did.
pub async fn a_running_job_that_succeeds_has_succeeded(rig: &Rig) {
    rig.open_with(2).await;
    for (n, verdict, ended) in
        [(0, Verdict::Succeeded, Ended::Succeeded), (1, Verdict::Dead, Ended::Dead)]
    {
        let (held, claimed) = rig.claim_one().await;
        assert_eq!(rig.cancel(n, claimed.fence).await, CancelReply::Running);
        rig.settle(held, verdict).await;
        assert_eq!(rig.last_outcome().await.ended, ended);
    }
}

/// It runs on as if nobody had asked, and may start again.
pub async fn a_running_job_is_spared_on_request(rig: &Rig) {
    let (held, claimed) = rig.hold_one().await;
    let reply = rig.cancel_as(0, claimed.fence, Withdraw::WaitingOnly).await;
    assert_eq!(reply, CancelReply::Running);
    assert!(matches!(rig.extend(held, LEASE).await, Extended::Held { cancel: false, .. }));
    rig.settle(held, Verdict::Release).await;
    assert_eq!(rig.claim_ids(9).await, [id(0)]);
}

/// Its worker died before it could stop.
pub async fn a_running_job_whose_lease_runs_out_ends_as_cancelled(rig: &Rig) {
    let (_, claimed) = rig.hold_one().await;
    rig.cancel(0, claimed.fence).await;
    assert_eq!(rig.lose_leases().await, 1);
    let outcome = rig.last_outcome().await;
    assert_eq!((outcome.ended, outcome.fence), (Ended::Cancelled, claimed.fence));
    assert_eq!((outcome.attempt, outcome.crashes), (0, 0));
    assert!(outcome.claimed_at.is_some() && outcome.worker.is_some());
    assert_eq!(rig.claim(9).await, []);
    rig.confirm_all().await;
    assert_eq!(rig.state(0).await, None);
}

/// The outcome waits to be recorded and decides.
pub async fn a_finished_job_is_left_to_its_outcome(rig: &Rig) {
    let (held, claimed) = rig.hold_one().await;
    rig.settle(held, Verdict::Succeeded).await;
    assert_eq!(rig.cancel(0, claimed.fence).await, CancelReply::Finishing);
    assert_eq!(rig.outcomes().await.len(), 1);
}

/// Twice the same: the second finds it gone.
pub async fn cancel_answers_for_each_job_in_order(rig: &Rig) {
    rig.open_with(2).await;
    rig.claim_one().await;
    let jobs = [(id(9), Fence(1)), (id(1), Fence(1)), (id(0), Fence(1)), (id(1), Fence(1))];
    let how = Withdraw::StopRunning;
    let replies = rig.engine.cancel(&rig.shard, &jobs, how).await.unwrap();
    let absent = CancelReply::Absent;
    assert_eq!(replies, [absent, CancelReply::Removed, CancelReply::Running, absent]);
}
