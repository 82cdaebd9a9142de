//! Outcomes: applied once, in the order of fences, and never taken back.

use bytes::Bytes;
use futures::future::join_all;

use super::scene::{Scene, at, changed, error, reachable_states};
use crate::engine::Ended;
use crate::ledger::{Record, Recorded};
use crate::limits::ATTEMPTS_SHOWN_MAX;
use crate::model::id::{BlobId, Fence, JobId};
use crate::model::job::{Attempt, AttemptOutcome, JobState, Value};

super::cases![
    a_first_success_is_on_the_job_alone,
    a_repeated_outcome_is_stale,
    a_lower_fence_is_stale,
    the_first_terminal_outcome_wins,
    unknown_jobs_are_named,
    a_retry_waits_for_its_time,
    a_success_after_failures_keeps_them,
    each_way_to_end_has_its_state,
    each_way_to_end_has_its_attempt,
    a_time_out_is_told_apart,
    outcomes_of_one_job_apply_in_order,
    replies_keep_the_order_of_the_records,
    running_is_noted_until_the_outcome,
    running_leaves_newer_records_alone,
    clients_that_record_the_same_apply_it_once,
    a_nul_in_an_error_does_not_fail_its_neighbours,
    an_output_by_reference_reads_back,
    a_large_batch_is_recorded,
    a_cancelled_attempt_carries_the_reason,
    an_empty_batch_is_recorded,
    of_very_many_attempts_the_newest_are_shown,
    rows_of_a_newer_build_fail_no_others,
];

async fn attempts(scene: &Scene, id: JobId) -> Vec<Attempt> {
    scene.ledger.attempts(&scene.namespace, id).await.unwrap().expect("the job is there")
}

async fn a_first_success_is_on_the_job_alone(scene: &Scene) {
    let id = scene.accept(scene.new_job()).await.id;
    assert_eq!(attempts(scene, id).await, []);
    let usage = Bytes::from_static(b"{\"cpu_ms\": 3}");
    let output = Value::Inline(Bytes::from_static(b"{\"ok\" : true}"));
    let record = Record {
        output: Some(output.clone()),
        usage: Some(usage.clone()),
        ..scene.record(id, 7, Ended::Succeeded)
    };
    assert_eq!(scene.records(vec![record.clone()]).await, [Recorded::Applied]);
    let job = scene.get(id).await;
    assert_eq!(job.state, JobState::Succeeded);
    assert_eq!((job.fence, job.attempt, job.crashes), (Fence(7), 1, 0));
    assert_eq!((job.started_at, job.finished_at), (record.claimed_at, Some(record.at)));
    assert_eq!((job.output, job.error, job.worker), (Some(output), None, record.worker.clone()));
    let made_up = Attempt {
        fence: Fence(7),
        attempt: 1,
        worker: record.worker,
        started_at: record.claimed_at,
        finished_at: Some(record.at),
        outcome: Some(AttemptOutcome::Succeeded),
        error: None,
        usage: Some(usage),
    };
    assert_eq!(attempts(scene, id).await, [made_up]);
}

async fn a_repeated_outcome_is_stale(scene: &Scene) {
    for ended in [Ended::Succeeded, Ended::Retry(at(50)), Ended::Released, Ended::Lost] {
        let id = scene.accept(scene.new_job()).await.id;
        assert_eq!(scene.end(id, 5, ended).await, Recorded::Applied);
        let (job, tries) = (scene.get(id).await, attempts(scene, id).await);
        assert_eq!(scene.end(id, 5, ended).await, Recorded::Stale);
        assert_eq!((scene.get(id).await, attempts(scene, id).await), (job, tries));
    }
}

async fn a_lower_fence_is_stale(scene: &Scene) {
    let id = scene.accept(scene.new_job()).await.id;
    scene.end(id, 5, Ended::Released).await;
    let job = scene.get(id).await;
    for fence in [4, 5] {
        assert_eq!(scene.end(id, fence, Ended::Succeeded).await, Recorded::Stale);
    }
    assert_eq!(scene.get(id).await, job);
    assert_eq!(scene.end(id, 6, Ended::Succeeded).await, Recorded::Applied);
}

async fn the_first_terminal_outcome_wins(scene: &Scene) {
    for state in reachable_states().filter(|s| s.is_terminal()) {
        let job = scene.job_in(state).await;
        for ended in [Ended::Succeeded, Ended::Dead, Ended::Retry(at(0)), Ended::Lost] {
            assert_eq!(scene.end(job.id, 1_000, ended).await, Recorded::Stale);
        }
        assert_eq!(scene.get(job.id).await, job);
    }
}

async fn unknown_jobs_are_named(scene: &Scene) {
    assert_eq!(scene.end(JobId::generate(), 1, Ended::Succeeded).await, Recorded::Unknown);
    // A namespace's jobs are unknown in another.
    let job = scene.accept(scene.new_job()).await;
    let record = scene.elsewhere().record(job.id, 1, Ended::Dead);
    assert_eq!(scene.records(vec![record]).await, [Recorded::Unknown]);
    assert_eq!(scene.get(job.id).await, job);
}

async fn a_retry_waits_for_its_time(scene: &Scene) {
    let id = scene.accept(scene.new_job()).await.id;
    let record = Record {
        error: Some(error("boom", "it broke")),
        ..scene.record(id, 3, Ended::Retry(at(500)))
    };
    scene.records(vec![record.clone()]).await;
    let job = scene.get(id).await;
    assert_eq!((job.state, job.run_at, job.attempt), (JobState::Retrying, at(500), 1));
    assert_eq!((&job.error, job.finished_at), (&record.error, None));
    let expected = Attempt {
        fence: Fence(3),
        attempt: 1,
        worker: record.worker,
        started_at: record.claimed_at,
        finished_at: Some(record.at),
        outcome: Some(AttemptOutcome::Failed),
        error: record.error,
        usage: None,
    };
    assert_eq!(attempts(scene, id).await, [expected]);
}

async fn a_success_after_failures_keeps_them(scene: &Scene) {
    let id = scene.accept(scene.new_job()).await.id;
    for fence in 1..=2u32 {
        let record = Record {
            attempt: fence,
            error: Some(error("boom", "again")),
            ..scene.record(id, fence.into(), Ended::Retry(at(0)))
        };
        scene.records(vec![record]).await;
    }
    scene.records(vec![Record { attempt: 3, ..scene.record(id, 3, Ended::Succeeded) }]).await;
    let tries = attempts(scene, id).await;
    let seen: Vec<_> = tries.iter().map(|a| (a.fence.0, a.attempt, a.outcome.unwrap())).collect();
    let failed = AttemptOutcome::Failed;
    assert_eq!(seen, [(1, 1, failed), (2, 2, failed), (3, 3, AttemptOutcome::Succeeded)]);
    let job = scene.get(id).await;
    assert_eq!((job.state, job.attempt, job.error), (JobState::Succeeded, 3, None));
}

async fn each_way_to_end_has_its_state(scene: &Scene) {
    let later = at(900);
    let ways = [
        (Ended::Succeeded, JobState::Succeeded, false),
        (Ended::Retry(later), JobState::Retrying, true),
        (Ended::Dead, JobState::Dead, false),
        (Ended::Snoozed(later), JobState::Scheduled, true),
        (Ended::Released, JobState::Ready, false),
        (Ended::Cancelled, JobState::Cancelled, false),
        (Ended::Expired, JobState::Expired, false),
        (Ended::Lost, JobState::Ready, false),
        (Ended::Quarantined, JobState::Quarantined, false),
    ];
    for (ended, state, moved) in ways {
        let before = scene.accept(scene.new_job()).await;
        let record = Record { crashes: 2, attempt: 4, ..scene.record(before.id, 9, ended) };
        scene.records(vec![record.clone()]).await;
        let job = scene.get(before.id).await;
        assert_eq!((job.state, job.fence), (state, Fence(9)), "{ended:?}");
        assert_eq!((job.attempt, job.crashes), (4, 2), "{ended:?}");
        assert_eq!(job.run_at, if moved { later } else { before.run_at }, "{ended:?}");
        let finished = state.is_terminal().then_some(record.at);
        assert_eq!(job.finished_at, finished, "{ended:?}");
    }
}

async fn each_way_to_end_has_its_attempt(scene: &Scene) {
    use AttemptOutcome as O;
    let ways = [
        (Ended::Retry(at(1)), O::Failed),
        (Ended::Dead, O::Failed),
        (Ended::Snoozed(at(1)), O::Snoozed),
        (Ended::Released, O::Released),
        (Ended::Cancelled, O::Cancelled),
        (Ended::Lost, O::LeaseLost),
        (Ended::Quarantined, O::LeaseLost),
    ];
    for (ended, outcome) in ways {
        let id = scene.accept(scene.new_job()).await.id;
        scene.end(id, 9, ended).await;
        let tries = attempts(scene, id).await;
        assert_eq!(tries.len(), 1, "{ended:?}");
        assert_eq!(tries[0].outcome, Some(outcome), "{ended:?}");
    }
    // Without a claim there was no attempt.
    for ended in [Ended::Expired, Ended::Cancelled] {
        let id = scene.accept(scene.new_job()).await.id;
        let record = Record { claimed_at: None, attempt: 0, ..scene.record(id, 9, ended) };
        assert_eq!(scene.records(vec![record]).await, [Recorded::Applied]);
        assert_eq!(attempts(scene, id).await, [], "{ended:?}");
    }
}

async fn a_time_out_is_told_apart(scene: &Scene) {
    for ended in [Ended::Retry(at(1)), Ended::Dead] {
        let id = scene.accept(scene.new_job()).await.id;
        let record = Record { timed_out: true, ..scene.record(id, 1, ended) };
        scene.records(vec![record]).await;
        assert_eq!(attempts(scene, id).await[0].outcome, Some(AttemptOutcome::TimedOut));
    }
}

async fn outcomes_of_one_job_apply_in_order(scene: &Scene) {
    use Recorded::{Applied, Stale};
    let (a, b) = (scene.accept(scene.new_job()).await.id, scene.accept(scene.new_job()).await.id);
    let batch = vec![
        scene.record(a, 1, Ended::Retry(at(9))),
        scene.record(b, 2, Ended::Succeeded),
        scene.record(a, 2, Ended::Lost),
        scene.record(b, 1, Ended::Retry(at(9))),
        scene.record(a, 2, Ended::Lost),
        scene.record(a, 3, Ended::Succeeded),
    ];
    let expected = [Applied, Applied, Applied, Stale, Stale, Applied];
    assert_eq!(scene.records(batch).await, expected);
    assert_eq!(scene.get(a).await.state, JobState::Succeeded);
    assert_eq!(scene.get(b).await.state, JobState::Succeeded);
    let fences: Vec<_> = attempts(scene, a).await.iter().map(|t| t.fence.0).collect();
    assert_eq!(fences[..2], [1, 2]);
}

async fn replies_keep_the_order_of_the_records(scene: &Scene) {
    use Recorded::{Applied, Stale, Unknown};
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(scene.accept(scene.new_job()).await.id);
    }
    scene.end(ids[1], 5, Ended::Succeeded).await;
    let batch = vec![
        scene.record(ids[2], 1, Ended::Succeeded),
        scene.record(JobId::generate(), 1, Ended::Succeeded),
        scene.record(ids[1], 6, Ended::Succeeded),
        scene.record(ids[0], 1, Ended::Dead),
    ];
    assert_eq!(scene.records(batch).await, [Applied, Unknown, Stale, Applied]);
}

async fn running_is_noted_until_the_outcome(scene: &Scene) {
    let id = scene.accept(scene.new_job()).await.id;
    scene.start(id, 4).await;
    scene.start(id, 4).await;
    let job = scene.get(id).await;
    assert_eq!((job.state, job.fence, job.attempt), (JobState::Running, Fence(4), 1));
    assert_eq!((job.started_at, job.worker.as_deref()), (Some(at(4)), Some("w1")));
    let under_way = Attempt {
        fence: Fence(4),
        attempt: 1,
        worker: Some("w1".into()),
        started_at: Some(at(4)),
        finished_at: None,
        outcome: None,
        error: None,
        usage: None,
    };
    assert_eq!(attempts(scene, id).await, [under_way]);
    // The outcome of that very lease applies; it replaces the note.
    assert_eq!(scene.end(id, 4, Ended::Retry(at(9))).await, Recorded::Applied);
    assert_eq!(attempts(scene, id).await.len(), 1);
    assert_eq!(scene.get(id).await.state, JobState::Retrying);
}

async fn running_leaves_newer_records_alone(scene: &Scene) {
    for state in reachable_states().filter(|s| s.is_terminal() || *s == JobState::Retrying) {
        let job = scene.job_in(state).await;
        scene.start(job.id, 9).await;
        scene.start(job.id, 10).await;
        assert_eq!(scene.get(job.id).await, job);
    }
    let dead = scene.job_in(JobState::Dead).await;
    scene.start(dead.id, 11).await;
    assert_eq!(scene.get(dead.id).await, dead);
    let retrying = scene.job_in(JobState::Retrying).await;
    scene.start(retrying.id, 11).await;
    assert_eq!(scene.get(retrying.id).await.state, JobState::Running);
    scene.ledger.record_running(Vec::new()).await.unwrap();
}

async fn clients_that_record_the_same_apply_it_once(scene: &Scene) {
    let ids: Vec<_> =
        scene.submit(scene.new_jobs(50)).await.into_iter().map(super::scene::new).collect();
    let mut batch: Vec<_> =
        ids.iter().map(|j| scene.record(j.id, 1, Ended::Retry(at(60)))).collect();
    let calls = (0..10).map(|n| {
        // Each in an order of its own, to meet in the middle.
        batch.rotate_left(n);
        scene.ledger.record(batch.clone())
    });
    let replies: Vec<_> =
        join_all(calls).await.into_iter().flat_map(|r| r.expect("record").replies).collect();
    let applied = replies.iter().filter(|r| **r == Recorded::Applied).count();
    let stale = replies.iter().filter(|r| **r == Recorded::Stale).count();
    assert_eq!((applied, stale), (50, 450));
    let counted = scene.ledger.rollups(&scene.namespace, at(-120)).await.unwrap();
    assert_eq!(counted.iter().map(|r| r.count).sum::<u64>(), 50);
}

async fn a_nul_in_an_error_does_not_fail_its_neighbours(scene: &Scene) {
    let (bad, good) =
        (scene.accept(scene.new_job()).await.id, scene.accept(scene.new_job()).await.id);
    let record = Record {
        error: Some(error("a\0b", "x\0y")),
        worker: Some("w\0".into()),
        ..scene.record(bad, 1, Ended::Dead)
    };
    let replies = scene.records(vec![record, scene.record(good, 1, Ended::Succeeded)]).await;
    assert_eq!(replies, [Recorded::Applied, Recorded::Applied]);
    let seen = scene.get(bad).await.error.unwrap();
    assert!(seen.message.starts_with('x') && seen.message.ends_with('y'), "{seen:?}");
}

async fn an_output_by_reference_reads_back(scene: &Scene) {
    let id = scene.accept(scene.new_job()).await.id;
    let output = Some(Value::Blob(BlobId::generate()));
    let record = Record { output: output.clone(), ..scene.record(id, 1, Ended::Succeeded) };
    scene.records(vec![record]).await;
    assert_eq!(scene.get(id).await.output, output);
}

async fn a_large_batch_is_recorded(scene: &Scene) {
    let jobs: Vec<_> = scene.submit(scene.new_jobs(1_500)).await;
    let batch: Vec<_> = jobs
        .into_iter()
        .map(|r| scene.record(super::scene::new(r).id, 1, Ended::Succeeded))
        .collect();
    let replies = scene.records(batch).await;
    assert_eq!(replies.len(), 1_500);
    assert!(replies.iter().all(|r| *r == Recorded::Applied));
}

async fn a_cancelled_attempt_carries_the_reason(scene: &Scene) {
    let job = scene.job_in(JobState::Running).await;
    changed(scene.ledger.cancel(&scene.namespace, job.id, None, true, "not needed").await.unwrap());
    assert_eq!(scene.end(job.id, 10, Ended::Cancelled).await, Recorded::Applied);
    let job = scene.get(job.id).await;
    assert_eq!(job.state, JobState::Cancelled);
    assert_eq!(job.error.unwrap().message, "not needed");
}

async fn an_empty_batch_is_recorded(scene: &Scene) {
    assert_eq!(scene.records(Vec::new()).await, []);
}

async fn of_very_many_attempts_the_newest_are_shown(scene: &Scene) {
    let id = scene.accept(scene.new_job()).await.id;
    let over = 3;
    let sql = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) \
         INSERT INTO attempts (job_id, fence, namespace, attempt, outcome) \
         SELECT j.id, n.i, j.namespace, 1, {} FROM n, jobs j WHERE j.namespace = '{}'",
        ATTEMPTS_SHOWN_MAX + over,
        AttemptOutcome::Snoozed as i16,
        scene.namespace
    );
    scene.ledger.tamper(sql).await.unwrap();
    let shown = attempts(scene, id).await;
    let fences: Vec<u64> = shown.iter().map(|a| a.fence.0).collect();
    let expected = u64::from(over) + 1..=u64::from(ATTEMPTS_SHOWN_MAX + over);
    assert_eq!(fences, expected.collect::<Vec<_>>());
}

/// Goal: what a newer build wrote of one job keeps no other job's outcome out, and hides no other attempt.
async fn rows_of_a_newer_build_fail_no_others(scene: &Scene) {
    let mut batch = Vec::new();
    for set in ["state = 7", "kind = 'not \"a\" kind'", "spec = '{}x'", "fence = 0"] {
        let id = scene.accept(scene.new_job()).await.id;
        scene.ledger.tamper_job(id, set).await.unwrap();
        batch.push(scene.record(id, 5, Ended::Succeeded));
    }
    let (strange, sound) = (batch[0].id, batch[3].id);
    let replies = scene.records(batch).await;
    assert_eq!((replies[0], replies[3]), (Recorded::Applied, Recorded::Applied));
    assert_eq!(scene.get(sound).await.state, JobState::Succeeded);
    // What it was is not known; that it has ended is.
    assert_eq!(scene.get(strange).await.state, JobState::Succeeded);

    let id = scene.accept(scene.new_job()).await.id;
    for fence in 1..=3 {
        scene.end(id, fence, Ended::Released).await;
    }
    let sql = format!(
        "UPDATE attempts SET outcome = 99 WHERE fence = 2 AND namespace = '{}'",
        scene.namespace
    );
    scene.ledger.tamper(sql).await.unwrap();
    let fences: Vec<u64> = attempts(scene, id).await.iter().map(|a| a.fence.0).collect();
    assert_eq!(fences, [1, 3]);
}
