//! What users and operators change by hand: each change names the states that allow it.

use std::time::Duration;

use super::scene::{Scene, at, changed, reachable_states};
use crate::engine::Ended;
use crate::ledger::{Changed, Guard, JobPatch, LedgerError, LogLine, Recorded};
use crate::model::id::{BlobId, Fence, JobId};
use crate::model::job::{Job, JobState, NewJob, OnConflict, Priority, Progress, Value};

super::cases![
    cancelling_ends_a_job_that_does_not_run,
    cancelling_a_running_job_only_asks,
    cancelling_a_terminal_job_is_refused,
    a_redriven_job_starts_afresh,
    a_redriven_job_ignores_its_old_lease,
    only_unsuccessful_ends_are_redriven,
    a_redriven_expired_job_does_not_expire_at_once,
    a_patch_changes_what_it_names,
    a_guarded_patch_changes_only_the_form_that_was_seen,
    a_patch_moves_a_job_in_time,
    a_patch_moves_a_job_to_another_queue,
    a_patch_to_a_queue_that_holds_the_key_is_refused,
    running_and_terminal_jobs_are_not_patched,
    only_terminal_jobs_are_deleted,
    a_deleted_job_leaves_nothing,
    unknown_jobs_are_not_changed,
    a_cancellation_of_another_form_changes_nothing,
    moving_a_job_to_one_queue_too_many_is_refused,
];

fn waits(state: JobState) -> bool {
    !state.is_terminal() && state != JobState::Running
}

async fn cancelling_ends_a_job_that_does_not_run(scene: &Scene) {
    // A job on record as running is cancelled too where the engine says that it does not run.
    for state in reachable_states().filter(|s| !s.is_terminal()) {
        let before = scene.ledger.now().await.unwrap();
        let id = scene.job_in(state).await.id;
        let answer =
            scene.ledger.cancel(&scene.namespace, id, None, false, "by hand").await.unwrap();
        let job = changed(answer);
        assert_eq!(job, scene.get(id).await);
        assert_eq!(job.state, JobState::Cancelled, "{state}");
        assert!(job.finished_at.unwrap() >= before);
        let error = job.error.unwrap();
        assert_eq!((error.code.as_str(), error.message.as_str()), ("cancelled", "by hand"));
        assert_eq!(scene.end(id, 99, Ended::Succeeded).await, Recorded::Stale);
    }
}

async fn cancelling_a_running_job_only_asks(scene: &Scene) {
    for state in reachable_states().filter(|s| !s.is_terminal()) {
        let before = scene.job_in(state).await;
        for _ in 0..2 {
            let answer = scene.ledger.cancel(&scene.namespace, before.id, None, true, "stop").await;
            let job = changed(answer.unwrap());
            assert!(job.cancel_requested);
            assert_eq!((job.state, job.fence), (before.state, before.fence));
            assert_eq!(job, scene.get(before.id).await);
        }
        // A result that comes first wins.
        assert_eq!(scene.end(before.id, 99, Ended::Succeeded).await, Recorded::Applied);
        assert_eq!(scene.get(before.id).await.state, JobState::Succeeded);
    }
}

async fn cancelling_a_terminal_job_is_refused(scene: &Scene) {
    for state in reachable_states().filter(|s| s.is_terminal()) {
        let job = scene.job_in(state).await;
        for running in [false, true] {
            let answer = scene.ledger.cancel(&scene.namespace, job.id, None, running, "late").await;
            assert_eq!(answer.unwrap(), Changed::Refused(state));
        }
        assert_eq!(scene.get(job.id).await, job);
    }
}

async fn a_redriven_job_starts_afresh(scene: &Scene) {
    for state in reachable_states().filter(|s| s.can_redrive()) {
        let before = scene.job_in(state).await;
        let now = scene.ledger.now().await.unwrap();
        let job = changed(scene.ledger.redrive(&scene.namespace, before.id).await.unwrap());
        assert_eq!(job, scene.get(before.id).await);
        assert_eq!((job.state, job.attempt, job.crashes), (JobState::Ready, 0, 0), "{state}");
        assert_eq!(job.fence, Fence(before.fence.0 + 1));
        assert_eq!((job.started_at, job.finished_at), (None, None));
        assert!(job.run_at >= now && !job.cancel_requested && job.output.is_none());
        assert_eq!(scene.end(job.id, 99, Ended::Succeeded).await, Recorded::Applied);
    }
}

async fn a_redriven_job_ignores_its_old_lease(scene: &Scene) {
    let job = scene.job_in(JobState::Dead).await;
    changed(scene.ledger.redrive(&scene.namespace, job.id).await.unwrap());
    // Fence 10 was on record, the redrive took 11.
    for fence in [10, 11] {
        assert_eq!(scene.end(job.id, fence, Ended::Succeeded).await, Recorded::Stale);
    }
    assert_eq!(scene.end(job.id, 12, Ended::Dead).await, Recorded::Applied);
    let tries = scene.ledger.attempts(&scene.namespace, job.id).await.unwrap().unwrap();
    assert_eq!(tries.iter().map(|t| t.fence.0).collect::<Vec<_>>(), [10, 12]);
}

async fn only_unsuccessful_ends_are_redriven(scene: &Scene) {
    for state in reachable_states().filter(|s| !s.can_redrive()) {
        let job = scene.job_in(state).await;
        let answer = scene.ledger.redrive(&scene.namespace, job.id).await.unwrap();
        assert_eq!(answer, Changed::Refused(state));
        assert_eq!(scene.get(job.id).await, job);
    }
}

async fn a_redriven_expired_job_does_not_expire_at_once(scene: &Scene) {
    let past = scene.ledger.now().await.unwrap().minus(Duration::from_secs(5));
    let job = scene.accept(NewJob { expires_at: Some(past), ..scene.new_job() }).await;
    scene.end(job.id, 1, Ended::Expired).await;
    let job = changed(scene.ledger.redrive(&scene.namespace, job.id).await.unwrap());
    assert_eq!(job.expires_at, None);
}

async fn guarded(scene: &Scene, form: &Job, patch: &JobPatch) -> Changed<Job> {
    let seen = Some(Guard::of(form));
    scene.ledger.patch(&scene.namespace, form.id, seen, patch).await.unwrap()
}

async fn a_guarded_patch_changes_only_the_form_that_was_seen(scene: &Scene) {
    let seen = scene.accept(scene.new_job()).await;
    let patch = JobPatch { queue: Some("other".parse().unwrap()), ..JobPatch::default() };
    let moved = changed(guarded(scene, &seen, &patch).await);
    // Neither the old form, nor one with the right fence in the wrong queue.
    let half = Job { fence: moved.fence, ..seen.clone() };
    for stale in [&seen, &half] {
        assert_eq!(guarded(scene, stale, &patch).await, Changed::Refused(JobState::Ready));
    }
    assert_eq!(scene.get(seen.id).await, moved);
    assert_eq!(changed(guarded(scene, &moved, &patch).await).fence, Fence(moved.fence.0 + 1));
}

async fn a_patch_changes_what_it_names(scene: &Scene) {
    let before = scene.accept(scene.new_job()).await;
    let nothing = JobPatch::default();
    let job =
        changed(scene.ledger.patch(&scene.namespace, before.id, None, &nothing).await.unwrap());
    assert_eq!(job.fence, Fence(1));
    let patch = JobPatch {
        priority: Priority::new(9),
        max_attempts: Some(77),
        tags: Some(vec!["x".into(), "y,\"".into()]),
        ..JobPatch::default()
    };
    let job = changed(scene.ledger.patch(&scene.namespace, before.id, None, &patch).await.unwrap());
    assert_eq!(job, scene.get(before.id).await);
    let mut expected = before;
    expected.fence = Fence(2);
    expected.priority = Priority::MAX;
    expected.spec.max_attempts = 77;
    expected.tags = vec!["x".into(), "y,\"".into()];
    assert_eq!(job, expected);
    // Nothing of an older view of the job can be recorded.
    assert_eq!(scene.end(job.id, 2, Ended::Succeeded).await, Recorded::Stale);
}

async fn a_patch_moves_a_job_in_time(scene: &Scene) {
    let now = scene.ledger.now().await.unwrap();
    let (past, ahead) = (now.minus(Duration::from_secs(9)), now.plus(Duration::from_secs(900)));
    let id = scene.accept(scene.new_job()).await.id;
    for (run_at, state) in [(ahead, JobState::Scheduled), (past, JobState::Ready)] {
        let patch = JobPatch { run_at: Some(run_at), ..JobPatch::default() };
        let job = changed(scene.ledger.patch(&scene.namespace, id, None, &patch).await.unwrap());
        assert_eq!((job.run_at, job.state), (run_at, state));
    }
    let retrying = scene.job_in(JobState::Retrying).await;
    let patch = JobPatch { run_at: Some(past), ..JobPatch::default() };
    let job =
        changed(scene.ledger.patch(&scene.namespace, retrying.id, None, &patch).await.unwrap());
    assert_eq!((job.run_at, job.state), (past, JobState::Retrying));
}

async fn a_patch_moves_a_job_to_another_queue(scene: &Scene) {
    let job = scene.accept(scene.unique_job("k", OnConflict::Reject)).await;
    let patch = JobPatch { queue: Some("other".parse().unwrap()), ..JobPatch::default() };
    let moved = changed(scene.ledger.patch(&scene.namespace, job.id, None, &patch).await.unwrap());
    assert_eq!(moved.queue.as_str(), "other");
    let queues = scene.ledger.queues(Some(&scene.namespace)).await.unwrap();
    assert!(queues.iter().any(|q| q.name.as_str() == "other"));
    // The key went along: it is free in the old queue and held in the new one.
    scene.accept(scene.unique_job("k", OnConflict::Reject)).await;
    let there =
        NewJob { queue: moved.queue.clone(), ..scene.unique_job("k", OnConflict::ReturnExisting) };
    assert_eq!(scene.offer(there).await, Ok(crate::ledger::Accepted::Existing(job.id)));
}

async fn a_patch_to_a_queue_that_holds_the_key_is_refused(scene: &Scene) {
    let other = "other".parse().unwrap();
    scene.accept(NewJob { queue: other, ..scene.unique_job("k", OnConflict::Reject) }).await;
    let job = scene.accept(scene.unique_job("k", OnConflict::Reject)).await;
    let patch = JobPatch { queue: Some("other".parse().unwrap()), ..JobPatch::default() };
    let answer = scene.ledger.patch(&scene.namespace, job.id, None, &patch).await.unwrap();
    assert_eq!(answer, Changed::Refused(JobState::Ready));
    assert_eq!(scene.get(job.id).await, job);
}

async fn running_and_terminal_jobs_are_not_patched(scene: &Scene) {
    let patch = JobPatch { priority: Priority::new(1), ..JobPatch::default() };
    for state in reachable_states() {
        let job = scene.job_in(state).await;
        let answer = scene.ledger.patch(&scene.namespace, job.id, None, &patch).await.unwrap();
        if waits(state) {
            assert_eq!(changed(answer).priority, Priority::new(1).unwrap());
        } else {
            assert_eq!(answer, Changed::Refused(state));
            assert_eq!(scene.get(job.id).await, job);
        }
    }
}

async fn only_terminal_jobs_are_deleted(scene: &Scene) {
    for state in reachable_states() {
        let job = scene.job_in(state).await;
        let answer = scene.ledger.delete(&scene.namespace, job.id).await.unwrap();
        if state.is_terminal() {
            assert_eq!(answer, Changed::Done(()));
            assert_eq!(scene.find(job.id).await, None);
        } else {
            assert_eq!(answer, Changed::Refused(state));
            assert_eq!(scene.get(job.id).await, job);
        }
    }
}

async fn a_deleted_job_leaves_nothing(scene: &Scene) {
    let blob = BlobId::generate();
    scene.ledger.put_blob(&scene.namespace, blob, "x".into()).await.unwrap();
    let shared = scene.accept(NewJob { payload: Value::Blob(blob), ..scene.new_job() }).await;
    let job = scene.accept(NewJob { payload: Value::Blob(blob), ..scene.new_job() }).await;
    let line =
        LogLine { seq: 0, at: at(1), attempt: 1, level: "info".into(), message: "hello".into() };
    assert!(scene.ledger.append_logs(&scene.namespace, job.id, &[line]).await.unwrap());
    let progress = Progress { percent: 50.0, message: None };
    scene.ledger.set_progress(&scene.namespace, job.id, Fence(1), &progress).await.unwrap();
    for id in [shared.id, job.id] {
        // A value that two jobs name goes with the second.
        let value = scene.ledger.blob(&scene.namespace, blob).await.unwrap();
        assert!(value.is_some());
        scene.end(id, 1, Ended::Dead).await;
        changed(scene.ledger.delete(&scene.namespace, id).await.unwrap());
    }
    assert_eq!(scene.ledger.blob(&scene.namespace, blob).await.unwrap(), None);
    assert_eq!(scene.ledger.attempts(&scene.namespace, job.id).await.unwrap(), None);
    assert_eq!(scene.ledger.logs(&scene.namespace, job.id, 0, 10).await.unwrap(), None);
    assert_eq!(scene.end(job.id, 99, Ended::Succeeded).await, Recorded::Unknown);
}

async fn unknown_jobs_are_not_changed(scene: &Scene) {
    let other = scene.elsewhere();
    let dead = scene.job_in(JobState::Dead).await;
    let ready = scene.job_in(JobState::Ready).await;
    for id in [JobId::generate(), dead.id, ready.id] {
        let (ledger, namespace) = (&other.ledger, &other.namespace);
        assert_eq!(ledger.cancel(namespace, id, None, false, "").await.unwrap(), Changed::Unknown);
        assert_eq!(ledger.redrive(namespace, id).await.unwrap(), Changed::Unknown);
        let patch = JobPatch::default();
        assert_eq!(ledger.patch(namespace, id, None, &patch).await.unwrap(), Changed::Unknown);
        assert_eq!(ledger.delete(namespace, id).await.unwrap(), Changed::Unknown);
    }
    assert_eq!((scene.get(dead.id).await, scene.get(ready.id).await), (dead, ready));
}

/// Goal: what the engine said about one form of a job ends no other form of it.
async fn a_cancellation_of_another_form_changes_nothing(scene: &Scene) {
    let ledger = &scene.ledger;
    let old = scene.accept(scene.new_job()).await;
    let patch = JobPatch { queue: Some("elsewhere".parse().unwrap()), ..JobPatch::default() };
    let moved = changed(ledger.patch(&scene.namespace, old.id, None, &patch).await.unwrap());
    let other_queue = Guard { fence: moved.fence, queue: &old.queue };
    let other_fence = Guard { fence: old.fence, queue: &moved.queue };
    for guard in [Guard::of(&old), other_queue, other_fence] {
        for running in [false, true] {
            let answer = ledger.cancel(&scene.namespace, old.id, Some(guard), running, "x").await;
            assert_eq!(answer.unwrap(), Changed::Refused(moved.state));
        }
    }
    assert_eq!(scene.get(old.id).await, moved);
    let guard = Some(Guard::of(&moved));
    let asked = changed(ledger.cancel(&scene.namespace, old.id, guard, true, "x").await.unwrap());
    assert!(asked.cancel_requested && asked.state == moved.state);
    let ended = changed(ledger.cancel(&scene.namespace, old.id, guard, false, "x").await.unwrap());
    assert_eq!(ended.state, JobState::Cancelled);
    let late = ledger.cancel(&scene.namespace, old.id, guard, false, "x").await.unwrap();
    assert_eq!(late, Changed::Refused(JobState::Cancelled));
}

async fn moving_a_job_to_one_queue_too_many_is_refused(scene: &Scene) {
    let job = scene.accept(scene.new_job()).await;
    scene.fill_with_queues().await;
    let patch =
        |queue: &str| JobPatch { queue: Some(queue.parse().unwrap()), ..JobPatch::default() };
    let refused = scene.ledger.patch(&scene.namespace, job.id, None, &patch("one-more")).await;
    assert!(matches!(refused, Err(LedgerError::TooManyQueues)), "{refused:?}");
    assert_eq!(scene.get(job.id).await, job);
    changed(scene.ledger.patch(&scene.namespace, job.id, None, &patch("full-1")).await.unwrap());
}
