//! The looks that overwatch's rules judge from.

use std::time::Duration;

use super::scene::Scene;
use super::schedules::{change, fire, schedule, without_work};
use crate::engine::Ended;
use crate::ledger::schedules::{PAUSED_BY, Schedule};
use crate::ledger::{Paused, Record, WorkerBeat};
use crate::model::id::WorkerId;
use crate::model::schedule::FireOutcome;
use crate::model::time::Timestamp;

super::cases![
    sums_count_jobs_and_attempts_by_queue,
    workers_of_every_namespace_are_seen,
    schedules_in_trouble_are_found_whoever_else_is_paused,
];

const LONG: Duration = Duration::from_secs(600);

async fn sums_count_jobs_and_attempts_by_queue(scene: &Scene) {
    let now = scene.ledger.now().await.unwrap();
    let second = Duration::from_secs(1);
    let mut records = Vec::new();
    let endings =
        [Ended::Succeeded, Ended::Retry(now), Ended::Dead, Ended::Lost, Ended::Quarantined];
    for ended in endings {
        let job = scene.accept(scene.new_job()).await;
        let claimed = job.run_at.max(job.created_at).plus(second * 2);
        records.push(Record {
            claimed_at: Some(claimed),
            at: claimed.plus(second * 3),
            ..scene.record(job.id, 1, ended)
        });
    }
    scene.records(records).await;
    let sums = scene.ledger.outcome_sums(now.minus(second * 60)).await.unwrap();
    let ours: Vec<_> = sums.iter().filter(|s| s.namespace == scene.namespace).collect();
    let [one] = ours[..] else { panic!("{ours:?}") };
    assert_eq!(one.queue, scene.queue);
    let sums = one.sums;
    assert_eq!((sums.ended, sums.succeeded, sums.dead), (3, 1, 2));
    assert_eq!((sums.attempts, sums.lost, sums.run_ms), (5, 2, 15_000));
    // Accepted and due at nearly one instant, of which the columns keep the microseconds.
    assert!((5_900..=6_100).contains(&sums.wait_ms), "{sums:?}");
    assert!((14_900..=15_100).contains(&sums.total_ms), "{sums:?}");
    let later = scene.ledger.outcome_sums(now.plus(LONG)).await.unwrap();
    assert!(later.iter().all(|s| s.namespace != scene.namespace));
}

async fn workers_of_every_namespace_are_seen(scene: &Scene) {
    let elsewhere = scene.elsewhere();
    for (namespace, name) in [(&scene.namespace, "a"), (&elsewhere.namespace, "b")] {
        let beat = WorkerBeat {
            id: WorkerId::generate(),
            name: name.into(),
            namespace: namespace.clone(),
            host: "h".into(),
            version: "1".into(),
            queues: vec!["q".into()],
            kinds: Vec::new(),
            concurrency: 1,
            running: 0,
            draining: false,
            started_at: Timestamp::default(),
            seen_at: Timestamp::default(),
        };
        scene.ledger.beat(&beat).await.unwrap();
    }
    let seen = scene.ledger.all_workers(LONG).await.unwrap();
    for namespace in [&scene.namespace, &elsewhere.namespace] {
        assert!(seen.iter().any(|w| w.namespace == *namespace));
    }
}

/// Goal: each list holds what it is for, and pauses of people take no place in the list of those by failures.
async fn schedules_in_trouble_are_found_whoever_else_is_paused(scene: &Scene) {
    // A pause keeps whole milliseconds.
    let now = Timestamp::from_millis(scene.ledger.now().await.unwrap().millis());
    let day = Duration::from_secs(24 * 3600);
    let pause = |by: &str| Paused {
        since: now,
        by: by.into(),
        reason: Some(format!("it said \"by\":\"{PAUSED_BY}\"")),
    };
    for (name, paused, due_at) in [
        ("a-paused-by-a-person", Some(pause("somebody")), Some(now.minus(day))),
        ("b-paused-by-failures", Some(pause(PAUSED_BY)), None),
        ("c-late", None, Some(now.minus(day))),
        ("d-in-time", None, Some(now.plus(day))),
        ("e-missed", None, None),
    ] {
        let new = Schedule { paused, failures: 3, look_at: due_at, ..schedule(scene, name) };
        let made = scene.ledger.create_schedule(&new).await.unwrap().expect("the name is free");
        if name == "e-missed" {
            let fires = [60, 120].map(|due| without_work(fire(due, FireOutcome::Missed)));
            change(scene, &made, |change| change.fires.extend(fires)).await;
        }
    }
    let find = async |limit, late_before, missed_since| {
        let troubles = scene.ledger.schedule_troubles(late_before, missed_since, limit);
        let mut found = troubles.await.unwrap();
        found.paused.retain(|(namespace, ..)| *namespace == scene.namespace);
        found.late.retain(|(namespace, ..)| *namespace == scene.namespace);
        found.missed.retain(|(namespace, ..)| *namespace == scene.namespace);
        found
    };
    let names = |name: &str| (scene.namespace.clone(), name.parse().unwrap());
    let found = find(1_000, now, now.minus(day)).await;
    let (namespace, name) = names("b-paused-by-failures");
    assert_eq!(found.paused, [(namespace, name, now, 3)]);
    let (namespace, name) = names("c-late");
    assert_eq!(found.late, [(namespace, name, now.minus(day))]);
    let (namespace, name) = names("e-missed");
    assert_eq!(found.missed, [(namespace, name, 2)]);
    let found = find(1_000, now.minus(day), now.plus(day)).await;
    assert_eq!((found.late, found.missed), (vec![], vec![]), "neither late nor missed by then");
}
