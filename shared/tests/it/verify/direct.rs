//! Outcomes that are recorded past an engine that has lost, or gone back on, what it knew.

use std::any::Any;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use windlass_shared::engine::{Engine, EngineError};
use windlass_shared::ledger::LedgerError;
use windlass_shared::tap::EngineTap;

use super::*;

#[tokio::test]
async fn what_was_settled_and_lost_is_recorded_by_the_direct_path_and_does_not_run_again() {
    let rig = Rig::new().await;
    let id = rig.submit(1).await[0].id;
    let mine = rig.claim(1).await.remove(0);
    let before = rig.engine.snapshot();
    assert_eq!(rig.settle(&mine, Verdict::Succeeded).await, Settled::Settled);
    rig.engine.restart_from(before);
    let replay = async {
        rig.adopt_and_report(&[]).await;
    };
    let record = mine.record(&rig.shard.namespace, Ended::Succeeded);
    let replies = rig.life.record_direct(vec![record.into()]).await.unwrap();
    assert_eq!(replies, [Recorded::Applied]);
    let (verified, ()) = tokio::join!(rig.verify(), replay);
    assert!(matches!(verified, Verified::Opened { .. }), "{verified:?}");
    assert_eq!(rig.state(id).await, JobState::Succeeded);
    assert!(rig.try_claim(1).await.1.is_empty());
    assert_eq!(rig.adopt(&[mine]).await, [Adopted::Over], "its tombstone stands");
}

/// Goal: a lease that has the number of another one does not end it. Method: the store has gone back to before the
/// first claim, and its clock with it, so that the second one gets the same number.
#[tokio::test]
async fn an_outcome_does_not_end_the_lease_of_another_holder_with_its_number() {
    let rig = Rig::new().await;
    let id = rig.submit(1).await[0].id;
    let mine = rig.claim(1).await.remove(0);
    let others = Adoption { lease_id: LeaseId::random(), ..mine.adoption() };
    rig.engine.wipe();
    let adopted = async {
        soon("a shut gate", async || rig.life.engine().gate(&rig.shard).await.unwrap().gate).await;
        let leases = std::slice::from_ref(&others);
        let engine = rig.life.engine();
        let held = engine.adopt(&rig.shard, WorkerId::generate(), LEASE, leases).await.unwrap();
        assert!(matches!(held[0], Adopted::Held { .. }), "{held:?}");
        rig.adopt_and_report(&[]).await;
    };
    let (verified, ()) = tokio::join!(rig.verify(), adopted);
    assert!(matches!(verified, Verified::Opened { .. }), "{verified:?}");
    let record = mine.record(&rig.shard.namespace, Ended::Succeeded);
    let direct = Direct { record, lease_id: Some(mine.lease_id) };
    assert_eq!(rig.life.record_direct(vec![direct]).await.unwrap(), [Recorded::Stale]);
    assert!(!rig.state(id).await.is_terminal());
    let live = rig.live(id).await;
    assert!(matches!(live, Some(LiveState::Leased { .. })), "{live:?}");
}

/// Goal: an attempt that failed while its engine was lost counts, and its delay holds, although the comparison has
/// pushed the job again meanwhile with the same fence, that of its running attempt on record.
#[tokio::test]
async fn a_failed_attempt_counts_although_the_comparison_was_faster() {
    let rig = Rig::new().await;
    let id = rig.submit(1).await[0].id;
    let mine = rig.claim(1).await.remove(0);
    let running = RecordRunning {
        id,
        fence: mine.job.fence,
        attempt: 1,
        claimed_at: mine.at,
        worker: rig.worker.to_string(),
    };
    rig.life.ledger().record_running(vec![running]).await.unwrap();
    rig.engine.wipe();
    rig.verify_with(&[]).await;
    assert!(matches!(rig.live(id).await, Some(LiveState::Ready { .. })), "pushed again");
    let again = mine.at.plus(Duration::from_secs(600));
    let record = mine.record(&rig.shard.namespace, Ended::Retry(again));
    let replies = rig.life.record_direct(vec![record.into()]).await.unwrap();
    assert_eq!(replies, [Recorded::Applied]);
    let live = rig.life.engine().peek(&rig.shard, id).await.unwrap();
    let live = live.expect("it waits for its next attempt");
    assert_eq!((live.state, live.attempt, live.run_at), (LiveState::Delayed, 1, again));
}

impl Rig {
    /// The ledger's word on a job: its state, fence and attempts.
    async fn on_record(&self, id: JobId) -> (JobState, Fence, u32) {
        let job = self.life.ledger().job(&self.shard.namespace, id).await.unwrap();
        let job = job.expect("it was accepted");
        (job.state, job.fence, job.attempt)
    }

    /// What a worker does that heard nothing of its settle.
    async fn record_direct(&self, mine: &Mine, ended: Ended) -> Recorded {
        let record = mine.record(&self.shard.namespace, ended);
        let direct = Direct { record, lease_id: Some(mine.lease_id) };
        self.life.record_direct(vec![direct]).await.unwrap()[0]
    }
}

/// Goal: who is told that its outcome is stale forgets it, so by then it must be on record. Method: each verdict is settled,
/// its reply lost, and nobody records; then the worker comes by the direct path, and once more when all is recorded.
#[tokio::test]
async fn what_waits_in_the_outbox_is_on_record_when_its_repeat_is_answered() {
    let delay = LEASE;
    let verdicts = [
        (Verdict::Retry { delay }, JobState::Retrying, 1),
        (Verdict::Snooze { delay }, JobState::Scheduled, 0),
        (Verdict::Release, JobState::Ready, 0),
        (Verdict::Succeeded, JobState::Succeeded, 1),
    ];
    for (verdict, state, attempt) in verdicts {
        let rig = Rig::new().await;
        let id = rig.submit(1).await[0].id;
        let mine = rig.claim(1).await.remove(0);
        assert_eq!(rig.settle(&mine, verdict).await, Settled::Settled);
        let ended = match verdict {
            Verdict::Retry { .. } => Ended::Retry(mine.at.plus(delay)),
            Verdict::Snooze { .. } => Ended::Snoozed(mine.at.plus(delay)),
            Verdict::Release => Ended::Released,
            _ => Ended::Succeeded,
        };
        for reply in [Recorded::Applied, Recorded::Stale] {
            assert_eq!(rig.record_direct(&mine, ended).await, reply);
            assert_eq!(rig.on_record(id).await, (state, mine.job.fence, attempt));
            rig.record_all().await;
        }
        assert_eq!(rig.on_record(id).await, (state, mine.job.fence, attempt));
    }
}

/// Goal: the result of a lease that was taken back does not count, and that it was taken back is on record by then.
/// Method: its loss waits in the outbox; then the next lease comes by the direct path too.
#[tokio::test]
async fn the_result_of_a_lease_that_was_taken_back_does_not_count() {
    let rig = Rig::new().await;
    let id = rig.submit(1).await[0].id;
    let lost = rig.claim_for(Duration::from_millis(1)).await;
    let later = rig.claim(1).await.remove(0);
    assert!(later.job.fence > lost.job.fence, "it ran out");
    assert_eq!(rig.record_direct(&lost, Ended::Succeeded).await, Recorded::Stale);
    assert_eq!(rig.on_record(id).await, (JobState::Ready, lost.job.fence, 0));
    assert_eq!(rig.record_direct(&later, Ended::Succeeded).await, Recorded::Applied);
}

/// Goal: an attempt that a later one has counted is on record, even if the engine has forgotten both its end and its
/// outcome. Method: the engine goes back to before the first claim; the second lease is adopted.
#[tokio::test]
async fn a_retry_that_the_engine_has_forgotten_is_recorded_beside_the_next_attempt() {
    let rig = Rig::new().await;
    let id = rig.submit(1).await[0].id;
    soon("the push", async || rig.live(id).await).await;
    let before = rig.engine.snapshot();
    let first = rig.claim(1).await.remove(0);
    rig.settle(&first, Verdict::Retry { delay: Duration::ZERO }).await;
    let second = rig.claim(1).await.remove(0);
    rig.engine.restart_from(before);
    rig.verify_with(std::slice::from_ref(&second)).await;
    assert_eq!(rig.record_direct(&first, Ended::Retry(first.at)).await, Recorded::Applied);
    assert_eq!(rig.on_record(id).await, (JobState::Retrying, first.job.fence, 1));
    let live = rig.live(id).await;
    assert!(matches!(live, Some(LiveState::Leased { .. })), "the second runs on: {live:?}");
    assert_eq!(rig.settle(&second, Verdict::Succeeded).await, Settled::Settled);
    rig.record_all().await;
    assert_eq!(rig.on_record(id).await, (JobState::Succeeded, second.job.fence, 2));
}

/// Has somebody verify the engine each time it has let go of jobs, for as long as there is somebody.
struct Verifying {
    engine: Arc<Embedded>,
    asks: mpsc::Sender<oneshot::Sender<()>>,
}

impl EngineTap for Verifying {
    fn before(&self, _: &'static str) -> BoxFuture<'_, Result<Arc<Embedded>, EngineError>> {
        Box::pin(async { Ok(Arc::clone(&self.engine)) })
    }

    fn saw(&self, _: &'static str, _: &dyn Any) {}

    fn after(&self, call: &'static str) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            let (done, is_done) = oneshot::channel();
            if call == "withdraw" && self.asks.send(done).await.is_ok() {
                // Who was asked last may have gone away before they saw it: then nobody verifies.
                let _ = is_done.await;
            }
            Ok(())
        })
    }
}

/// Goal: who tells an outcome is not told to come again because the engine was verified just then; and is told so where
/// that does not end. The job does not run again.
#[tokio::test]
async fn a_verification_between_letting_go_and_the_commit_is_gone_round() {
    for (times, is_recorded) in [(0, true), (1, true), (2, true), (3, false)] {
        let rig = Rig::new().await;
        let id = rig.submit(1).await[0].id;
        let mine = rig.claim(1).await.remove(0);
        let (asks, mut asked) = mpsc::channel(1);
        let tap = Verifying { engine: Arc::clone(&rig.engine), asks };
        let life = process_on(rig.life.ledger(), Engine::Tapped(Arc::new(tap)));
        let verifying = async {
            for _ in 0..times {
                let done = asked.recv().await.unwrap();
                rig.engine.wipe();
                rig.verify_with(&[]).await;
                done.send(()).unwrap();
            }
            drop(asked);
        };
        let record = mine.record(&rig.shard.namespace, Ended::Succeeded);
        let (replies, ()) = tokio::join!(life.record_direct(vec![record.into()]), verifying);
        if is_recorded {
            assert_eq!(replies.unwrap(), [Recorded::Applied], "{times}");
            assert!(rig.try_claim(1).await.1.is_empty());
        } else {
            assert!(matches!(replies, Err(LedgerError::Unavailable(_))), "{replies:?}");
        }
        assert_eq!(rig.state(id).await == JobState::Succeeded, is_recorded, "{times}");
    }
}
