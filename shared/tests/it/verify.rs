//! Verification of a shard on a real ledger (SQLite) and the embedded engine.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use windlass_shared::clock::Clock;
use windlass_shared::engine::embedded::Embedded;
use windlass_shared::engine::{
    Adopted, Adoption, ClaimState, Ended, Gate, LiveState, Push, Report, Settled, Validity, Verdict,
};
use windlass_shared::ledger::{RecordRunning, Recorded, Submission};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::lifecycle::compare::Auditor;
use windlass_shared::lifecycle::lease::{End, Landed, Shown, Take};
use windlass_shared::lifecycle::record::Direct;
use windlass_shared::lifecycle::sweep::Sweeper;
use windlass_shared::lifecycle::verify::{Verified, VerifySettings, verify};
use windlass_shared::model::id::{Fence, JobId, LeaseId, WorkerId};
use windlass_shared::model::job::{JobState, NewJob, Value};
use windlass_shared::testkit::gates::until;

mod direct;
mod remote;
mod rig;

use rig::*;

#[tokio::test]
async fn a_wiped_engine_gives_out_nothing_until_it_is_verified() {
    let rig = Rig::new().await;
    let jobs = rig.submit(3).await;
    let running = rig.claim(1).await;
    rig.engine.wipe();
    let late = rig.submit(1).await;
    soon("the late push", async || rig.live(late[0].id).await).await;
    let queue = rig.life.ledger().queues(None).await.unwrap().remove(0);
    Sweeper::default().pass(&rig.life, &queue).await.unwrap();
    let (state, claimed) = rig.try_claim(9).await;
    assert_eq!((state, claimed.len()), (ClaimState::Unverified, 0), "no push opens it again");

    rig.verify_with(&running).await;
    let (state, rest) = rig.try_claim(9).await;
    assert_eq!(state, ClaimState::Open);
    let mut ids: Vec<JobId> = rest.iter().chain(&running).map(|mine| mine.job.id).collect();
    ids.sort_unstable();
    let mut expected: Vec<JobId> = jobs.iter().chain(&late).map(|job| job.id).collect();
    expected.sort_unstable();
    assert_eq!(ids, expected, "each once, and the running one by its holder alone");
    for mine in rest.iter().chain(&running) {
        assert_eq!(rig.settle(mine, Verdict::Succeeded).await, Settled::Settled);
    }
    rig.record_all().await;
    for id in expected {
        assert_eq!(rig.state(id).await, JobState::Succeeded);
    }
}

#[tokio::test]
async fn an_engine_that_went_back_in_time_loses_what_has_ended_since() {
    let rig = Rig::new().await;
    let id = rig.submit(1).await[0].id;
    soon("the push", async || rig.live(id).await).await;
    let before = rig.engine.snapshot();
    let mine = rig.claim(1).await.remove(0);
    rig.settle(&mine, Verdict::Succeeded).await;
    rig.record_all().await;
    rig.engine.restart_from(before);
    assert!(matches!(rig.live(id).await, Some(LiveState::Ready { .. })), "it is back");
    rig.verify_with(&[]).await;
    assert_eq!(rig.live(id).await, None);
    assert!(rig.try_claim(1).await.1.is_empty());
}

#[tokio::test]
async fn an_older_form_of_a_job_is_replaced_by_the_one_on_record() {
    let rig = Rig::new().await;
    let id = rig.submit(1).await[0].id;
    soon("the push", async || rig.live(id).await).await;
    let before = rig.engine.snapshot();
    let mine = rig.claim(1).await.remove(0);
    let delay = Duration::from_secs(30);
    rig.settle(&mine, Verdict::Retry { delay }).await;
    rig.record_all().await;
    rig.engine.restart_from(before);
    rig.verify_with(&[]).await;
    let live = rig.life.engine().peek(&rig.shard, id).await.unwrap().expect("it waits");
    assert_eq!((live.state, live.attempt), (LiveState::Delayed, 1), "its delay is not forgotten");
}

#[tokio::test]
async fn a_lease_of_before_does_not_count_against_the_one_that_came_after_it() {
    let rig = Rig::new().await;
    let id = rig.submit(1).await[0].id;
    let first = rig.claim(1).await.remove(0);
    let before = rig.engine.snapshot();
    rig.settle(&first, Verdict::Release).await;
    rig.record_all().await;
    let second = rig.claim(1).await.remove(0);
    rig.engine.restart_from(before);
    rig.verify_with(std::slice::from_ref(&second)).await;
    assert_eq!(rig.settle(&first, Verdict::Succeeded).await, Settled::Stolen);
    assert_eq!(rig.settle(&second, Verdict::Succeeded).await, Settled::Settled);
    rig.record_all().await;
    let job = rig.life.ledger().job(&rig.shard.namespace, id).await.unwrap().unwrap();
    assert_eq!((job.state, job.fence), (JobState::Succeeded, second.job.fence));
}

#[tokio::test]
async fn a_deposed_leader_opens_nothing() {
    let rig = Rig::new().await;
    rig.submit(1).await;
    rig.claim(1).await;
    rig.life.ledger().resign(rig.epoch).await.unwrap();
    let other = rig.life.ledger().lead(WorkerId::generate(), "other", SOON).await.unwrap();
    assert!(other.is_some_and(|epoch| epoch > rig.epoch));
    rig.engine.wipe();
    assert_eq!(rig.verify().await, Verified::NotLeader);
    assert_eq!(rig.try_claim(1).await.0, ClaimState::Unverified);
}

#[tokio::test]
async fn a_store_that_is_wiped_while_it_is_verified_is_compared_again() {
    let rig = Rig::new().await;
    let jobs = rig.submit(2).await;
    let running = rig.claim(1).await;
    rig.engine.wipe();
    let worker = async {
        rig.adopt_and_report(&[]).await;
    };
    let again = async {
        // After the first half, which has pushed: the worker has not reported yet.
        soon("a push", async || rig.live(jobs[1].id).await).await;
        rig.engine.wipe();
        // The report of before is gone too.
        worker.await;
        rig.adopt(&running).await;
    };
    let (verified, ()) = tokio::join!(rig.verify(), again);
    assert!(matches!(verified, Verified::Opened { .. }), "{verified:?}");
    let generation = rig.life.ledger().shard(&rig.shard).await.unwrap().generation;
    assert!(generation >= 3, "opened first, wiped twice: {generation}");
    let left: Vec<JobId> = rig.try_claim(9).await.1.iter().map(|mine| mine.job.id).collect();
    assert_eq!(left, [jobs[1].id]);
}

#[tokio::test]
async fn of_two_verifications_at_once_one_opens_the_gate() {
    let rig = Rig::new().await;
    rig.submit(5).await;
    let running = rig.claim(2).await;
    rig.engine.wipe();
    let worker = async {
        loop {
            rig.adopt_and_report(&running).await;
            tokio::task::yield_now().await;
        }
    };
    let both = async { tokio::join!(rig.verify(), rig.verify()) };
    let (one, two) = tokio::select! {
        both = both => both,
        () = worker => unreachable!("it goes on for ever"),
    };
    assert!([one, two].iter().any(|v| matches!(v, Verified::Opened { .. })), "{one:?} {two:?}");
    assert_eq!(rig.try_claim(9).await.1.len(), 3);
}

#[tokio::test]
async fn a_worker_that_does_not_report_is_waited_for_no_longer_than_the_window() {
    let rig = Rig::new().await;
    rig.submit(1).await;
    rig.claim(1).await;
    rig.engine.wipe();
    let hasty = VerifySettings { window: Duration::from_millis(50), ..patient() };
    let verified = verify(&rig.life, &rig.shard, rig.epoch, &hasty).await.unwrap();
    assert!(matches!(verified, Verified::Opened { missing: 1, .. }), "{verified:?}");
}

#[tokio::test]
async fn what_another_ledger_left_is_wiped() {
    let theirs = Rig::new().await;
    theirs.submit(3).await;
    theirs.claim(1).await;
    let ours = Rig::with(tempfile::tempdir().unwrap(), Arc::clone(&theirs.engine)).await;
    // Its queue has been open elsewhere: this is a ledger that was restored, say.
    assert!(ours.life.ledger().first_generation(&ours.shard).await.unwrap());
    let job = ours.submit(1).await.remove(0);
    ours.verify_with(&[]).await;
    let claimed: Vec<JobId> = ours.try_claim(9).await.1.iter().map(|mine| mine.job.id).collect();
    assert_eq!(claimed, [job.id]);
}

/// Goal: a fresh queue is opened by the push of its first job, once, however many processes push at once.
#[tokio::test]
async fn a_new_queue_is_opened_by_its_first_push() {
    let rig = Rig::new().await;
    let others: Vec<Lifecycle> = (0..4).map(|_| process(rig.life.ledger(), &rig.engine)).collect();
    let job = || {
        let (namespace, queue) = (rig.shard.namespace.clone(), rig.shard.queue.clone());
        NewJob::new(namespace, queue, "echo".parse().unwrap(), Value::Inline("1".into()))
    };
    let submits = others
        .iter()
        .map(|life| life.submit(Submission { jobs: vec![job()], atomic: true, idempotency: None }));
    futures::future::try_join_all(submits).await.unwrap();
    rig.claim(4).await;
    let on_record = soon("the note", async || {
        let record = rig.life.ledger().shard(&rig.shard).await.unwrap();
        record.process.is_some().then_some(record)
    })
    .await;
    assert_eq!(on_record.generation, 1);
}

#[tokio::test]
async fn the_audit_takes_out_what_the_ledger_does_not_know_or_has_ended() {
    let rig = Rig::new().await;
    let jobs = rig.submit(2).await;
    let ended = rig.claim(1).await.remove(0);
    // Ended past the engine, which still has it leased and cannot be told: its entry is as before.
    let before = rig.engine.snapshot();
    let record = ended.record(&rig.shard.namespace, Ended::Succeeded);
    rig.life.record_direct(vec![record.into()]).await.unwrap();
    rig.engine.restart_from(before);
    let stranger = Push::new(Fence(1), "echo".parse().unwrap(), ended.at, Bytes::new());
    let ledger = rig.life.ledger().id();
    let not_after = rig.life.engine().now().await.unwrap().plus(SOON);
    rig.life
        .engine()
        .push(&rig.shard, std::slice::from_ref(&stranger), &Validity { ledger, ..until(not_after) })
        .await
        .unwrap();

    let queue = rig.life.ledger().queues(None).await.unwrap().remove(0);
    let found = Auditor::default().pass(&rig.life, &queue).await.unwrap();
    assert_eq!((found.checked, found.dropped), (3, 2));
    assert_eq!(rig.live(stranger.id).await, None);
    assert_eq!(rig.live(ended.job.id).await, None);
    let other = jobs.iter().find(|job| job.id != ended.job.id).unwrap();
    assert!(rig.live(other.id).await.is_some(), "what waits is left alone");
}

/// Nothing of the old one is leased from the first job of the new one on.
#[tokio::test]
async fn a_new_ledger_finds_the_store_of_another_and_empties_it() {
    let engine = Arc::new(Embedded::new(Clock::System));
    let old = Rig::with(tempfile::tempdir().unwrap(), engine.clone()).await;
    old.submit(2).await;
    let running = old.claim(1).await.remove(0);
    let new = Rig::with(tempfile::tempdir().unwrap(), engine).await;
    let ours = new.submit(1).await;
    soon("a gate of the new ledger", async || {
        let gate = new.life.engine().gate(&new.shard).await.unwrap().gate;
        gate.filter(|gate| gate.ledger == new.life.ledger().id() && gate.process.is_some())
    })
    .await;
    let claimed = new.claim(1).await;
    assert_eq!(claimed[0].job.id, ours[0].id);
    assert_eq!(new.try_claim(9).await.1.len(), 0, "what another ledger had left is gone");
    assert_eq!(old.settle(&running, Verdict::Succeeded).await, Settled::Gone);
    // The old one does not push into it any more.
    old.submit(1).await;
    let queue = old.life.ledger().queue(&old.shard.namespace, &old.shard.queue).await.unwrap();
    let swept = Sweeper::default().pass(&old.life, &queue.unwrap()).await.unwrap();
    assert_eq!((swept.pushed, new.try_claim(9).await.1.len()), (0, 0));
}

/// Goal: a worker that is there but slow, as when the API is behind with its replays, is waited for longer than one that
/// says nothing.
#[tokio::test]
async fn a_worker_that_is_at_it_is_waited_for_beyond_the_window() {
    let window = Duration::from_secs(1);
    for (is_at_it, not_in_time) in [(true, 0), (false, 1)] {
        let rig = Rig::new().await;
        rig.submit(1).await;
        rig.claim(1).await;
        rig.engine.wipe();
        let settings = VerifySettings { window, ..patient() };
        let verified = verify(&rig.life, &rig.shard, rig.epoch, &settings);
        let slowly = async {
            let engine = rig.life.engine();
            let gate = soon("a shut gate", async || engine.gate(&rig.shard).await.unwrap().gate);
            let Gate { ledger, generation, .. } = gate.await;
            let report = async |report| {
                let said = engine.report(&rig.shard, ledger, generation, rig.worker, report);
                said.await.unwrap();
            };
            if is_at_it {
                report(Report::Present).await;
            }
            tokio::time::sleep(window + window / 2).await;
            report(Report::Done).await;
        };
        let (verified, ()) = tokio::join!(verified, slowly);
        let Verified::Opened { missing, .. } = verified.unwrap() else { panic!("not opened") };
        assert_eq!(missing, not_in_time);
    }
}

/// Goal: a lease whose end is on record, and that came back with an older store, is not waited for: the attempt would be
/// made a second time, with the number that it had. Method: the settle and its outcome are lost after they were recorded.
#[tokio::test]
async fn a_lease_that_ended_on_record_and_came_back_gives_way_to_the_next_attempt() {
    let rig = Rig::new().await;
    let id = rig.submit(1).await[0].id;
    let mine = rig.claim(1).await.remove(0);
    let before = rig.engine.snapshot();
    let delay = Duration::from_secs(20);
    assert_eq!(rig.settle(&mine, Verdict::Retry { delay }).await, Settled::Settled);
    rig.record_all().await;
    assert_eq!(rig.state(id).await, JobState::Retrying);
    rig.engine.restart_from(before);
    assert!(matches!(rig.live(id).await, Some(LiveState::Leased { .. })), "it has gone back");
    rig.verify_with(&[]).await;
    let live = rig.life.engine().peek(&rig.shard, id).await.unwrap().expect("it waits");
    assert_eq!((live.state, live.attempt), (LiveState::Delayed, 1));
}

/// Goal: nor is it started as it waited before that end, which is what a push brings that looked at the ledger while the
/// lease was thought to run. Method: such a form is put where the engine has lost everything.
#[tokio::test]
async fn a_waiting_form_of_before_the_end_on_record_gives_way_to_the_next_attempt() {
    let delay = Duration::from_secs(20);
    let at_once = Duration::ZERO;
    let verdicts = [
        (Verdict::Retry { delay }, 1),
        (Verdict::Retry { delay: at_once }, 1),
        (Verdict::Snooze { delay }, 0),
    ];
    for (verdict, attempt) in verdicts {
        let rig = Rig::new().await;
        let id = rig.submit(1).await[0].id;
        let mine = rig.claim(1).await.remove(0);
        rig.settle(&mine, verdict).await;
        rig.record_all().await;
        let engine = rig.life.engine();
        let again = engine.peek(&rig.shard, id).await.unwrap().expect("it waits");
        rig.engine.wipe();
        let older = Push { under_way: true, ..mine.adoption().job };
        let valid = Validity { ledger: rig.life.ledger().id(), ..until(mine.at.plus(SOON)) };
        engine.push(&rig.shard, &[older], &valid).await.unwrap();
        assert_eq!(rig.live(id).await, Some(LiveState::Ready { ahead: 0 }), "at once");
        rig.verify_with(&[]).await;
        let live = engine.peek(&rig.shard, id).await.unwrap().expect("it waits");
        assert_eq!((live.attempt, live.run_at), (attempt, again.run_at));
    }
}

/// Goal: the audit leaves alone what is as the ledger has it, after every outcome that has a job wait.
#[tokio::test]
async fn the_audit_finds_nothing_in_jobs_that_wait_for_their_next_attempt() {
    let rig = Rig::new().await;
    let delay = Duration::from_secs(20);
    rig.submit(4).await;
    let mut mine = rig.claim(3).await;
    mine.push(rig.claim_for(Duration::from_millis(1)).await);
    for (mine, verdict) in
        mine.iter().zip([Verdict::Retry { delay }, Verdict::Snooze { delay }, Verdict::Release])
    {
        assert_eq!(rig.settle(mine, verdict).await, Settled::Settled);
    }
    let lost = mine[3].job.id;
    soon("the loss", async || {
        rig.life.engine().reap(&rig.shard, 9).await.unwrap();
        matches!(rig.live(lost).await, Some(LiveState::Ready { .. })).then_some(())
    })
    .await;
    rig.record_all().await;
    let queue = rig.life.ledger().queues(None).await.unwrap().remove(0);
    let found = Auditor::default().pass(&rig.life, &queue).await.unwrap();
    assert_eq!((found.checked, found.dropped, found.pushed), (4, 0, 0));
}
