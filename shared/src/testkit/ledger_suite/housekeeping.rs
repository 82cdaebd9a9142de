//! Roll-ups, pruning, and the ledger's clock.

use std::time::Duration;

use super::scene::{Scene, aged, at};
use crate::engine::Ended;
use crate::ledger::retention::Whose;
use crate::ledger::{Record, Recorded, Rollup};
use crate::model::id::{BlobId, JobId};
use crate::model::job::{JobState, NewJob, Value};
use crate::model::time::Timestamp;

super::cases![
    rollups_count_attempts_by_minute,
    rollups_count_what_applied_alone,
    minutes_of_a_queue_are_its_own_and_of_the_last_hour,
    pruning_deletes_old_terminal_jobs_alone,
    pruning_is_bounded,
    pruning_takes_attempts_and_values_along,
    an_end_in_the_past_is_pruned_by_the_time_of_its_record,
    time_does_not_stand_still,
];

/// Start of the minute of the scene's beginning.
fn minute(n: i64) -> Timestamp {
    let minute = 60_000_000;
    Timestamp::from_micros(at(n).micros().div_euclid(minute) * minute)
}

async fn rollups_count_attempts_by_minute(scene: &Scene) {
    let mut batch = Vec::new();
    for (n, ended) in
        [Ended::Succeeded, Ended::Succeeded, Ended::Retry(at(0)), Ended::Dead, Ended::Lost]
            .into_iter()
            .enumerate()
    {
        let id = scene.accept(scene.new_job()).await.id;
        batch.push(Record { timed_out: n == 3, ..scene.record(id, 1, ended) });
    }
    let other = NewJob { queue: "z".parse().unwrap(), ..scene.new_job() };
    let later = scene.record(scene.accept(other).await.id, 120, Ended::Succeeded);
    batch.push(later);
    scene.records(batch).await;
    let row = |minute, queue: &str, outcome: &str, count| Rollup {
        minute,
        queue: queue.parse().unwrap(),
        kind: scene.new_job().kind,
        outcome: outcome.into(),
        count,
        run_ms: 250 * count,
    };
    let mut found = scene.ledger.rollups(&scene.namespace, minute(0)).await.unwrap();
    found.sort_by_key(|r| (r.minute, r.outcome.clone()));
    let mut expected = vec![
        row(minute(1), "q", "failed", 1),
        row(minute(1), "q", "lease_lost", 1),
        row(minute(1), "q", "succeeded", 2),
        row(minute(1), "q", "timed_out", 1),
        row(minute(120), "z", "succeeded", 1),
    ];
    assert_eq!(found, expected);
    let found = scene.ledger.rollups(&scene.namespace, minute(120)).await.unwrap();
    assert_eq!(found, expected.split_off(4));
    assert_eq!(
        scene.elsewhere().ledger.rollups(&scene.elsewhere().namespace, minute(0)).await.unwrap(),
        []
    );
}

async fn rollups_count_what_applied_alone(scene: &Scene) {
    let id = scene.accept(scene.new_job()).await.id;
    for expected in [Recorded::Applied, Recorded::Stale, Recorded::Stale] {
        assert_eq!(scene.end(id, 1, Ended::Succeeded).await, expected);
    }
    let found = scene.ledger.rollups(&scene.namespace, minute(0)).await.unwrap();
    assert_eq!(found.iter().map(|r| r.count).collect::<Vec<_>>(), [1]);
}

async fn minutes_of_a_queue_are_its_own_and_of_the_last_hour(scene: &Scene) {
    let now = scene.ledger.now().await.unwrap();
    let mut batch = Vec::new();
    // Two in the present minute, one a minute ago, one long ago; and another queue's.
    for (n, (ago, queue)) in
        [(0, "q"), (0, "q"), (60, "q"), (7_200, "q"), (0, "z")].into_iter().enumerate()
    {
        let job = NewJob { queue: queue.parse().unwrap(), ..scene.new_job() };
        let id = scene.accept(job).await.id;
        let at = now.minus(Duration::from_secs(ago));
        let claimed_at = Some(at.minus(Duration::from_millis(250)));
        let ended = if n == 0 { Ended::Dead } else { Ended::Succeeded };
        batch.push(Record { at, claimed_at, ..scene.record(id, 1, ended) });
    }
    scene.records(batch).await;
    let minutes = scene.ledger.queue_minutes(&scene.namespace, &scene.queue).await.unwrap().0;
    let found: Vec<_> = minutes.iter().map(|m| (m.count, m.run_ms)).collect();
    assert_eq!(found, [(1, 250), (2, 500)]);
    assert_eq!(minutes[1].minute.since(minutes[0].minute), Duration::from_secs(60));
    let elsewhere = scene.elsewhere();
    assert_eq!(scene.ledger.queue_minutes(&elsewhere.namespace, &scene.queue).await.unwrap().0, []);
}

/// A job with an id of the year 2001, like one that has been there for long. Each case has a day of its own,
/// so that their prunes don't meet.
fn old_job(scene: &Scene, day: u64) -> NewJob {
    let mut bytes = *JobId::first_at((day_start(day).millis() + 1).unsigned_abs()).as_bytes();
    bytes[8..].copy_from_slice(&JobId::generate().as_bytes()[8..]);
    bytes[9..11].copy_from_slice(&JobId::generate().as_bytes()[4..6]);
    NewJob { id: JobId::from_bytes(bytes), ..scene.new_job() }
}

fn day_start(day: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000_000_000).plus(Duration::from_secs(86_400 * day))
}

async fn end_old(scene: &Scene, id: JobId, ended: Ended, at: Timestamp) {
    let record = Record { at, claimed_at: Some(at), ..scene.record(id, 1, ended) };
    assert_eq!(scene.records(vec![record]).await, [Recorded::Applied]);
    recorded_at(scene, id, at).await;
}

/// As if the end had been recorded then.
async fn recorded_at(scene: &Scene, id: JobId, at: Timestamp) {
    scene.ledger.tamper_job(id, &format!("changed_at = {}", at.micros())).await.unwrap();
}

async fn pruning_deletes_old_terminal_jobs_alone(scene: &Scene) {
    let noon = day_start(1).plus(Duration::from_secs(43_200));
    let evening = day_start(1).plus(Duration::from_secs(80_000));
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(scene.accept(old_job(scene, 1)).await.id);
    }
    end_old(scene, ids[0], Ended::Succeeded, noon.minus(Duration::from_micros(1))).await;
    end_old(scene, ids[1], Ended::Dead, noon).await;
    end_old(scene, ids[2], Ended::Retry(noon), noon.minus(Duration::from_secs(9))).await;
    assert!(scene.prune_all(noon, 100).await >= 1);
    let left: Vec<_> = ids.iter().copied().filter(|id| *id != ids[0]).collect();
    let mut found: Vec<_> =
        scene.ledger.jobs(&ids).await.unwrap().into_iter().map(|j| j.id).collect();
    found.sort_by_key(|id| ids.iter().position(|i| i == id));
    assert_eq!(found, left);
    scene.prune_all(evening, 100).await;
    assert_eq!(scene.find(ids[1]).await, None);
    assert_eq!(scene.get(ids[2]).await.state, JobState::Retrying);
    assert_eq!(scene.get(ids[3]).await.state, JobState::Ready);
}

async fn pruning_is_bounded(scene: &Scene) {
    let before = day_start(3);
    let mut ids = Vec::new();
    for _ in 0..7 {
        let id = scene.accept(old_job(scene, 2)).await.id;
        end_old(scene, id, Ended::Succeeded, before.minus(Duration::from_secs(60))).await;
        ids.push(id);
    }
    let all = aged(Whose::Only(scene.namespace.clone()), before);
    let step = scene.ledger.prune_jobs(None, &all, None, 3).await.unwrap().unwrap();
    assert!(step.deleted == 3 && !step.at_end, "{step:?}");
    assert!(scene.ledger.jobs(&ids).await.unwrap().len() >= 4);
    scene.prune_all(before, 3).await;
    assert_eq!(scene.ledger.jobs(&ids).await.unwrap(), []);
}

async fn pruning_takes_attempts_and_values_along(scene: &Scene) {
    let before = day_start(5);
    let (payload, output) = (BlobId::generate(), BlobId::generate());
    for blob in [payload, output] {
        scene.ledger.put_blob(&scene.namespace, blob, "v".into()).await.unwrap();
    }
    let job = NewJob { payload: Value::Blob(payload), ..old_job(scene, 4) };
    let id = scene.accept(job).await.id;
    end_old(scene, id, Ended::Retry(before), before.minus(Duration::from_secs(60))).await;
    let record = Record {
        at: before.minus(Duration::from_secs(30)),
        output: Some(Value::Blob(output)),
        ..scene.record(id, 2, Ended::Succeeded)
    };
    scene.records(vec![record]).await;
    recorded_at(scene, id, before.minus(Duration::from_secs(30))).await;
    scene.prune_all(before, 100).await;
    assert_eq!(scene.ledger.attempts(&scene.namespace, id).await.unwrap(), None);
    for blob in [payload, output] {
        assert_eq!(scene.ledger.blob(&scene.namespace, blob).await.unwrap(), None);
    }
}

async fn time_does_not_stand_still(scene: &Scene) {
    let first = scene.ledger.now().await.unwrap();
    assert!(first > at(0));
    while scene.ledger.now().await.unwrap() <= first {}
}

/// Goal: whoever reports an end with a time of long ago, or far ahead, neither loses a job early nor keeps it.
async fn an_end_in_the_past_is_pruned_by_the_time_of_its_record(scene: &Scene) {
    let before = day_start(7);
    let (early, late) =
        (scene.accept(old_job(scene, 6)).await.id, scene.accept(old_job(scene, 6)).await.id);
    let past = before.minus(Duration::from_secs(3_600));
    let record =
        Record { at: past, claimed_at: Some(past), ..scene.record(early, 1, Ended::Succeeded) };
    scene.records(vec![record]).await;
    end_old(scene, late, Ended::Succeeded, past).await;
    let ahead = before.plus(Duration::from_secs(1 << 32)).micros();
    scene.ledger.tamper_job(late, &format!("finished_at = {ahead}")).await.unwrap();
    scene.prune_all(before, 100).await;
    assert_eq!(scene.get(early).await.state, JobState::Succeeded);
    assert_eq!(scene.find(late).await, None);
}
