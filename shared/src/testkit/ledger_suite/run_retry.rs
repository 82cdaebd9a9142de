//! Runs that ended: made to go on, and forgotten.

use std::time::Duration;

use bytes::Bytes;

use super::run_scene::{child, fails, many, moves, plain, signal, step_names, templated};
use super::scene::{Scene, aged_runs, at};
use crate::engine::Ended;
use crate::ledger::runs::{END, Items, NewRun, Release, Reset};
use crate::ledger::{LogLine, Record, Recorded};
use crate::model::id::{BlobId, JobId, WorkflowId};
use crate::model::job::{JobState, NewJob, Progress, Value};
use crate::model::time::Timestamp;
use crate::model::workflow::{StepState, WorkflowState, permanent};

super::cases![
    a_failed_run_goes_on_from_what_failed,
    a_retry_is_of_one_version_of_an_ended_run,
    the_detour_of_a_stop_is_taken_back,
    outcomes_from_before_a_retry_are_stale,
    a_for_each_keeps_what_succeeded,
    a_for_each_is_begun_anew,
    a_retried_wait_waits_again,
    a_deadline_is_as_far_away_as_at_first,
    finished_runs_are_forgotten_whole,
    runs_that_go_on_are_kept_with_their_jobs,
    pruning_of_runs_is_bounded,
    values_go_with_the_last_that_names_them,
];

/// A run of `a`, then `b`, then `c`, where `b` failed and the run with it.
async fn broken(scene: &Scene) -> WorkflowId {
    let (run, _) = scene.run_of(vec![plain("a", &[]), plain("b", &[0]), plain("c", &[1])]).await;
    scene.step_ends(run, "a", Ended::Succeeded).await;
    scene.step_ends(run, "b", Ended::Dead).await;
    let failed = fails(&scene.step(run, "b").await, StepState::Failed);
    scene
        .advance(run, |advance| {
            advance.moves.push(failed);
            advance.error = Some(permanent("step_failed", "no"));
            (advance.stop, advance.ending) = (true, Some(WorkflowState::Failed));
        })
        .await;
    scene.advance(run, |advance| advance.state = Some(WorkflowState::Failed)).await;
    run
}

fn reset(ord: i32, to: StepState, needs_left: u32, jobs: &[JobId]) -> Reset {
    Reset { ord, to, needs_left, due: false, jobs: jobs.to_vec(), items_open: None }
}

async fn resets_of_broken(scene: &Scene, run: WorkflowId) -> Vec<Reset> {
    let (b, c) = (scene.job_of(run, "b").await.id, scene.job_of(run, "c").await.id);
    vec![
        reset(END, StepState::Blocked, 1, &[]),
        reset(1, StepState::Released, 0, &[b]),
        reset(2, StepState::Blocked, 1, &[c]),
    ]
}

async fn a_failed_run_goes_on_from_what_failed(scene: &Scene) {
    let run = broken(scene).await;
    let ended = scene.snapshot(run).await.run;
    let first = scene.step(run, "a").await;
    let b = scene.job_of(run, "b").await;
    let progress = Progress { percent: 50.0, message: None };
    scene.ledger.set_progress(&scene.namespace, b.id, b.fence, &progress).await.unwrap();
    let resets = resets_of_broken(scene, run).await;
    let released = scene.ledger.retry_run(&ended, &resets).await.unwrap().unwrap();
    assert_eq!(step_names(&released), ["b"]);
    let now = scene.snapshot(run).await.run;
    assert_eq!((now.state, now.ending), (WorkflowState::Running, None));
    assert_eq!((&now.error, &now.output, now.finished_at), (&None, &None, None));
    assert!(now.version > ended.version);
    assert_eq!(now.created_at, ended.created_at);

    assert_eq!(scene.step(run, "a").await, first);
    let (rb, rc) = (scene.step(run, "b").await, scene.step(run, "c").await);
    assert_eq!((rb.state, rb.needs_left, rb.due), (StepState::Released, 0, 0));
    assert_eq!((rc.state, rc.needs_left, rc.due), (StepState::Blocked, 1, 0));
    for step in [&rb, &rc] {
        assert_eq!((&step.error, &step.output, step.finished_at), (&None, &None, None));
        assert_eq!(step.items, Items { total: 1, made: 1, open: 1, failed: 0 });
    }
    assert_eq!((rb.started_at.is_some(), rc.started_at), (true, None));
    let end = scene.end_of(run).await;
    assert_eq!((end.state, end.needs_left, end.due), (StepState::Blocked, 1, 0));
    assert_eq!(end.finished_at, None);

    let (again, c) = (scene.job_of(run, "b").await, scene.job_of(run, "c").await);
    assert_eq!((again.state, again.fence.0), (JobState::Ready, b.fence.0 + 1));
    assert_eq!((again.attempt, again.crashes, &again.error), (0, 0, &None));
    assert_eq!((again.started_at, again.finished_at, &again.progress), (None, None, &None));
    assert!(again.run_at > b.run_at && !again.cancel_requested);
    assert_eq!(released, [again]);
    assert_eq!((c.state, c.error, c.finished_at), (JobState::Blocked, None, None));
    assert!(!c.cancel_requested);

    assert_eq!(step_names(&scene.step_ends(run, "b", Ended::Succeeded).await.released), ["c"]);
    assert_eq!(scene.step_ends(run, "c", Ended::Succeeded).await.due, [run]);
    let end = scene.end_of(run).await;
    assert_eq!((end.needs_left, end.due), (0, 1));
}

async fn a_retry_is_of_one_version_of_an_ended_run(scene: &Scene) {
    let run = broken(scene).await;
    let ended = scene.snapshot(run).await.run;
    let resets = resets_of_broken(scene, run).await;
    let calls = (0..5).map(|_| scene.ledger.retry_run(&ended, &resets));
    let outcomes = futures::future::join_all(calls).await;
    let done = outcomes.into_iter().filter_map(|outcome| outcome.unwrap()).count();
    assert_eq!(done, 1);
    let going = scene.snapshot(run).await.run;
    let steps = scene.all_steps(run).await;
    assert_eq!(scene.ledger.retry_run(&going, &resets).await.unwrap(), None);
    assert_eq!((scene.snapshot(run).await.run, scene.all_steps(run).await), (going, steps));
}

/// Goal: a stop makes the end wait for what runs; once the run goes on, only its last steps are waited for.
async fn the_detour_of_a_stop_is_taken_back(scene: &Scene) {
    let (run, _) = scene.run_of(vec![plain("a", &[]), plain("b", &[0]), plain("c", &[])]).await;
    scene
        .advance(run, |advance| {
            (advance.stop, advance.ending) = (true, Some(WorkflowState::Cancelled));
        })
        .await;
    assert_eq!(scene.step(run, "a").await.dependents, [1, END]);
    scene.step_ends(run, "a", Ended::Succeeded).await;
    scene.step_ends(run, "c", Ended::Succeeded).await;
    scene.advance(run, |advance| advance.state = Some(WorkflowState::Cancelled)).await;
    let ended = scene.snapshot(run).await.run;
    let b = scene.job_of(run, "b").await.id;
    let resets = [reset(END, StepState::Blocked, 1, &[]), reset(1, StepState::Released, 0, &[b])];
    scene.ledger.retry_run(&ended, &resets).await.unwrap().unwrap();
    assert_eq!(scene.step(run, "a").await.dependents, [1]);
    assert_eq!(scene.step(run, "b").await.dependents, [END]);
    assert_eq!(scene.step(run, "c").await.dependents, [END]);
    assert_eq!(scene.step_ends(run, "b", Ended::Succeeded).await.due, [run]);
    assert_eq!(scene.end_of(run).await.needs_left, 0);
}

async fn outcomes_from_before_a_retry_are_stale(scene: &Scene) {
    let run = broken(scene).await;
    let old = scene.job_of(run, "b").await;
    let ended = scene.snapshot(run).await.run;
    let resets = resets_of_broken(scene, run).await;
    scene.ledger.retry_run(&ended, &resets).await.unwrap().unwrap();
    for fence in [old.fence.0, old.fence.0 + 1] {
        let late = scene.record(old.id, fence, Ended::Succeeded);
        let reply = scene.ledger.record(vec![late]).await.unwrap();
        assert_eq!((reply.replies, reply.released), (vec![Recorded::Stale], vec![]));
    }
    assert_eq!(scene.state_of(run, "b").await, (StepState::Released, 0));
    assert_eq!(scene.state_of(run, "c").await, (StepState::Blocked, 1));
}

/// A run whose `for_each` ended badly: of three items the first failed.
async fn broken_items(scene: &Scene) -> (WorkflowId, Vec<JobId>) {
    let (run, _) = scene.run_of(vec![many("m", &[], None)]).await;
    let mut start = moves(&scene.step(run, "m").await, StepState::Released);
    start.list = Some(("[1,2,3]".into(), 3));
    let item =
        |item| Release::Item { ord: 0, item, step: "m".into(), job: Box::new(scene.new_job()) };
    let releases: Vec<Release> = (0..3).map(item).collect();
    let (_, more) = scene
        .advance(run, |advance| (advance.moves, advance.releases) = (vec![start], releases))
        .await;
    assert!(!more);
    let jobs = scene.ledger.step_jobs(run, &[0]).await.unwrap();
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    scene.ends(ids[0], Ended::Dead).await;
    scene.ends(ids[1], Ended::Succeeded).await;
    scene.ends(ids[2], Ended::Succeeded).await;
    let failed = fails(&scene.step(run, "m").await, StepState::Failed);
    scene
        .advance(run, |advance| {
            advance.moves.push(failed);
            advance.state = Some(WorkflowState::Failed);
        })
        .await;
    (run, ids)
}

async fn a_for_each_keeps_what_succeeded(scene: &Scene) {
    let (run, ids) = broken_items(scene).await;
    let ended = scene.snapshot(run).await.run;
    let kept = Reset { items_open: Some(1), ..reset(0, StepState::Released, 0, &ids[..1]) };
    let resets = [reset(END, StepState::Blocked, 1, &[]), kept];
    let released = scene.ledger.retry_run(&ended, &resets).await.unwrap().unwrap();
    assert_eq!(released.iter().map(|job| job.id).collect::<Vec<_>>(), ids[..1]);
    let m = scene.step(run, "m").await;
    assert_eq!(m.items, Items { total: 3, made: 3, open: 1, failed: 0 });
    assert_eq!((m.state, m.list), (StepState::Released, Some(Bytes::from_static(b"[1,2,3]"))));
    let states = scene.ledger.step_jobs(run, &[0]).await.unwrap();
    let states: Vec<JobState> = states.iter().map(|job| job.state).collect();
    assert_eq!(states, [JobState::Ready, JobState::Succeeded, JobState::Succeeded]);
    assert_eq!(scene.ends(ids[0], Ended::Succeeded).await.due, [run]);
    let m = scene.step(run, "m").await;
    assert_eq!((m.items.open, m.items.failed, m.due), (0, 0, 1));
}

async fn a_for_each_is_begun_anew(scene: &Scene) {
    let (run, ids) = broken_items(scene).await;
    let ended = scene.snapshot(run).await.run;
    let anew = Reset { due: true, ..reset(0, StepState::Blocked, 0, &[]) };
    let resets = [reset(END, StepState::Blocked, 1, &[]), anew];
    assert_eq!(scene.ledger.retry_run(&ended, &resets).await.unwrap(), Some(vec![]));
    let m = scene.step(run, "m").await;
    assert_eq!((m.state, m.list, m.due), (StepState::Blocked, None, 1));
    assert_eq!(m.items, Items { total: 1, made: 1, open: 1, failed: 0 });
    assert_eq!(scene.ledger.step_jobs(run, &[0]).await.unwrap(), []);
    assert!(scene.is_due(run).await);
    // The old jobs stay on record, and the same items can be made again.
    assert_eq!(scene.get(ids[0]).await.state, JobState::Dead);
    let mut start = moves(&scene.step(run, "m").await, StepState::Released);
    start.list = Some(("[4]".into(), 1));
    let item = Release::Item { ord: 0, item: 0, step: "m".into(), job: Box::new(scene.new_job()) };
    let (released, _) = scene
        .advance(run, |advance| (advance.moves, advance.releases) = (vec![start], vec![item]))
        .await;
    let jobs = scene.ledger.step_jobs(run, &[0]).await.unwrap();
    assert_eq!(jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [released[0].id]);
    assert_eq!(scene.ends(released[0].id, Ended::Succeeded).await.due, [run]);
}

async fn a_retried_wait_waits_again(scene: &Scene) {
    let (run, _) = scene.run_of(vec![signal("a", &[]), templated("b", &[0])]).await;
    let mut wait = moves(&scene.step(run, "a").await, StepState::Waiting);
    wait.wake_at = Some(at(0));
    scene.advance(run, |advance| advance.moves.push(wait)).await;
    let mut end = fails(&scene.step(run, "a").await, StepState::Failed);
    end.output = Some("1".into());
    scene.advance(run, |advance| advance.moves.push(end)).await;
    scene.end_run(run, WorkflowState::Failed).await;
    let ended = scene.snapshot(run).await.run;
    let b = scene.job_of(run, "b").await.id;
    let resets = [
        reset(END, StepState::Blocked, 1, &[]),
        Reset { due: true, ..reset(0, StepState::Blocked, 0, &[]) },
        reset(1, StepState::Blocked, 1, &[b]),
    ];
    scene.ledger.retry_run(&ended, &resets).await.unwrap().unwrap();
    let a = scene.step(run, "a").await;
    assert_eq!((a.state, a.due, a.wake_at), (StepState::Blocked, 1, None));
    assert_eq!((a.output, a.error, a.started_at, a.finished_at), (None, None, None, None));
    scene.move_step(run, "a", StepState::Waiting).await;
    scene.move_step(run, "a", StepState::Succeeded).await;
    let b = scene.step(run, "b").await;
    assert_eq!((b.state, b.due), (StepState::Blocked, 1));
    let release =
        Release::Blocked { id: b.job_id.unwrap(), payload: None, run_at: at(0), expires_at: None };
    let go = moves(&b, StepState::Released);
    let (released, _) = scene
        .advance(run, |advance| (advance.moves, advance.releases) = (vec![go], vec![release]))
        .await;
    assert_eq!(step_names(&released), ["b"]);
}

async fn a_deadline_is_as_far_away_as_at_first(scene: &Scene) {
    let hour = Duration::from_secs(3_600);
    let deadline = scene.ledger.now().await.unwrap().plus(hour);
    let new = NewRun { deadline: Some(deadline), ..scene.new_run(vec![plain("a", &[])]) };
    scene.create(&new).await;
    let a = scene.job_of(new.id, "a").await.id;
    let created = scene.snapshot(new.id).await.run.created_at;
    let length = deadline.since(created);
    for _ in 0..3 {
        scene.ends(a, Ended::Dead).await;
        scene.end_run(new.id, WorkflowState::Failed).await;
        let ended = scene.snapshot(new.id).await.run;
        let before = scene.ledger.now().await.unwrap();
        let resets =
            [reset(END, StepState::Blocked, 1, &[]), reset(0, StepState::Released, 0, &[a])];
        scene.ledger.retry_run(&ended, &resets).await.unwrap().unwrap();
        let after = scene.ledger.now().await.unwrap();
        let deadline = scene.snapshot(new.id).await.run.deadline.unwrap();
        assert!(deadline >= before.plus(length) && deadline <= after.plus(length));
    }
}

fn day_start(day: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000_000_000).plus(Duration::from_secs(86_400 * day))
}

/// As if every run of the scene that has ended had done so then.
async fn finished_at(scene: &Scene, at: Timestamp) {
    let sql = format!(
        "UPDATE workflows SET finished_at = {} WHERE namespace = '{}' AND state >= 10",
        at.micros(),
        scene.namespace
    );
    scene.ledger.tamper(sql).await.unwrap();
}

async fn finished_runs_are_forgotten_whole(scene: &Scene) {
    let before = day_start(101);
    let run = broken(scene).await;
    let (with_list, items) = broken_items(scene).await;
    let ids = [scene.job_of(run, "a").await.id, scene.job_of(run, "b").await.id, items[0]];
    let (ledger, namespace) = (&scene.ledger, &scene.namespace);
    let line = LogLine { seq: 0, at: at(0), attempt: 1, level: "info".into(), message: "x".into() };
    assert!(ledger.append_logs(namespace, ids[1], &[line]).await.unwrap());
    scene.prune_all(before, 100).await;
    assert!(ledger.run(namespace, run).await.unwrap().is_some());
    finished_at(scene, before.minus(Duration::from_micros(1))).await;
    assert!(scene.prune_all(before, 100).await > 0);
    for run in [run, with_list] {
        assert_eq!(ledger.run(namespace, run).await.unwrap(), None);
        assert_eq!(ledger.steps(run, i32::MIN, 10).await.unwrap(), []);
        assert_eq!(ledger.step_jobs(run, &[0, 1, 2]).await.unwrap(), []);
        assert_eq!(ledger.live_jobs(run, None, 10).await.unwrap(), []);
    }
    assert_eq!(ledger.jobs(&ids).await.unwrap(), []);
    assert_eq!(ledger.logs(namespace, ids[1], 0, 10).await.unwrap(), None);
    assert_eq!(ledger.attempts(namespace, ids[1]).await.unwrap(), None);
}

/// Goal: no job of a run is forgotten before its run, however old it is; nor a child before its parent has ended.
async fn runs_that_go_on_are_kept_with_their_jobs(scene: &Scene) {
    let before = day_start(103);
    let old = |day: u64, job: NewJob| {
        let mut bytes = *JobId::first_at((day_start(day).millis() + 1).unsigned_abs()).as_bytes();
        bytes[9..].copy_from_slice(&JobId::generate().as_bytes()[9..]);
        NewJob { id: JobId::from_bytes(bytes), ..job }
    };
    let mut new = scene.new_run(vec![plain("a", &[]), child("b", &[])]);
    let first = old(102, new.steps[0].job.take().unwrap());
    let id = first.id;
    new.steps[0].job = Some(first);
    scene.create(&new).await;
    let record = Record { at: day_start(102), ..scene.record(id, 1, Ended::Succeeded) };
    scene.records(vec![record]).await;
    let changed = format!("changed_at = {}", day_start(102).micros());
    scene.ledger.tamper_job(id, &changed).await.unwrap();
    scene.move_step(new.id, "b", StepState::Waiting).await;
    let kid = scene.new_child(new.id, 1);
    scene.create(&kid).await;
    scene.ends(kid.steps[0].job.as_ref().unwrap().id, Ended::Succeeded).await;
    scene.end_run(kid.id, WorkflowState::Succeeded).await;
    finished_at(scene, day_start(102)).await;

    scene.prune_all(before, 100).await;
    assert_eq!(scene.get(id).await.state, JobState::Succeeded);
    assert_eq!(scene.ledger.children(new.id, &[1]).await.unwrap().len(), 1);
    assert_eq!(scene.ledger.step_jobs(kid.id, &[0]).await.unwrap().len(), 1);
    // With the parent's end both go.
    scene.end_run(new.id, WorkflowState::Succeeded).await;
    finished_at(scene, day_start(102)).await;
    scene.prune_all(before, 100).await;
    assert_eq!(scene.find(id).await, None);
    for run in [new.id, kid.id] {
        assert_eq!(scene.ledger.run(&scene.namespace, run).await.unwrap(), None);
    }
}

async fn pruning_of_runs_is_bounded(scene: &Scene) {
    let before = day_start(105);
    let mut runs = Vec::new();
    for _ in 0..6 {
        let (run, jobs) =
            scene.run_of((0..4).map(|n| plain(&format!("s{n}"), &[])).collect()).await;
        let batch = jobs.iter().map(|job| scene.record(job.id, 1, Ended::Succeeded)).collect();
        scene.records(batch).await;
        scene.end_run(run, WorkflowState::Succeeded).await;
        runs.push((run, jobs));
    }
    finished_at(scene, day_start(104)).await;
    let step = scene.ledger.prune_runs(None, &aged_runs(before), None, 5).await.unwrap().unwrap();
    assert!(!step.at_end && step.last.is_some(), "{step:?}");
    let mut left = 0;
    for (run, _) in &runs {
        left += usize::from(scene.ledger.run(&scene.namespace, *run).await.unwrap().is_some());
    }
    assert!(left >= 4, "{left} runs are left");
    scene.prune_all(before, 5).await;
    for (run, jobs) in &runs {
        assert_eq!(scene.ledger.run(&scene.namespace, *run).await.unwrap(), None);
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        assert_eq!(scene.ledger.jobs(&ids).await.unwrap(), []);
    }
}

/// Goal: the values that a run names are kept as long as it is, and no longer.
async fn values_go_with_the_last_that_names_them(scene: &Scene) {
    let before = day_start(107);
    let blobs: Vec<BlobId> = (0..4).map(|_| BlobId::generate()).collect();
    for blob in &blobs {
        scene.ledger.put_blob(&scene.namespace, *blob, "v".into()).await.unwrap();
    }
    // Two runs have the same input; one has a payload, an output of a job and an output of its own beside.
    let shared = NewRun { input: Value::Blob(blobs[0]), ..scene.new_run(vec![plain("a", &[])]) };
    scene.create(&shared).await;
    let mut new = NewRun { input: Value::Blob(blobs[0]), ..scene.new_run(vec![plain("a", &[])]) };
    let job = new.steps[0].job.as_mut().unwrap();
    job.payload = Value::Blob(blobs[1]);
    let id = job.id;
    scene.create(&new).await;
    let record =
        Record { output: Some(Value::Blob(blobs[2])), ..scene.record(id, 1, Ended::Succeeded) };
    scene.records(vec![record]).await;
    let output = Value::Blob(blobs[3]);
    scene
        .advance(new.id, |advance| {
            advance.state = Some(WorkflowState::Succeeded);
            advance.output = Some(output);
        })
        .await;
    finished_at(scene, day_start(106)).await;
    scene.prune_all(before, 100).await;
    let mut there = Vec::new();
    for blob in &blobs {
        there.push(scene.ledger.blob(&scene.namespace, *blob).await.unwrap().is_some());
    }
    assert_eq!(there, [true, false, false, false]);
    scene.end_run(shared.id, WorkflowState::Cancelled).await;
    finished_at(scene, day_start(106)).await;
    scene.prune_all(before, 100).await;
    assert_eq!(scene.ledger.blob(&scene.namespace, blobs[0]).await.unwrap(), None);
}
