//! What overwatch writes, under the leader's epoch alone, and the looks that its rules judge from.

use std::collections::BTreeMap;
use std::time::Duration;

use super::scene::Scene;
use crate::engine::Ended;
use crate::ledger::alerts::{LookNote, TellNote, ToldRow};
use crate::ledger::{Epoch, Record, WorkerBeat};
use crate::model::alert::{Alert, AlertKey, AlertState, EndReason, Receiver, Severity, Stage};
use crate::model::id::{AlertId, WorkerId};
use crate::model::time::Timestamp;

super::cases![
    alerts_are_kept_as_they_were_given,
    a_pending_alert_that_came_to_nothing_is_gone,
    a_live_alert_has_its_key_for_itself,
    ended_alerts_are_forgotten_with_what_was_told,
    a_deposed_leader_writes_nothing,
    a_leader_whose_term_is_over_writes_nothing,
    what_was_told_is_kept_and_its_stage_never_falls,
    sums_count_jobs_and_attempts_by_queue,
    workers_of_every_namespace_are_seen,
];

const LONG: Duration = Duration::from_secs(600);

/// A fresh leader for longer than the case.
async fn new_leader(scene: &Scene) -> Epoch {
    depose(scene).await;
    let led = scene.ledger.lead(WorkerId::generate(), "scheduler-1", LONG).await.unwrap();
    led.expect("nobody leads")
}

async fn depose(scene: &Scene) {
    if let Some(leader) = scene.ledger.leader().await.unwrap() {
        scene.ledger.resign(leader.epoch).await.unwrap();
    }
}

/// Alerts keep whole milliseconds.
fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_millis(at.millis())
}

async fn alert(scene: &Scene, subject: &str) -> Alert {
    let now = whole(scene.ledger.now().await.unwrap());
    Alert {
        id: AlertId::generate(),
        key: AlertKey {
            code: "queue_latency".into(),
            namespace: Some(scene.namespace.clone()),
            subject: subject.into(),
        },
        severity: Severity::Warning,
        state: AlertState::Active,
        message: "it's \"late\"; \u{fc}".into(),
        evidence: BTreeMap::from([("oldest_s".to_owned(), "61".to_owned())]),
        of_namespaces: BTreeMap::new(),
        since: now,
        opened_at: Some(now),
        last_seen: now,
        judged_at: now,
        clear_since: None,
        ended_at: None,
        end_reason: None,
        flaps: 0,
    }
}

fn ended(alert: &Alert, at: Timestamp) -> Alert {
    Alert {
        state: AlertState::Ended,
        ended_at: Some(at),
        end_reason: Some(EndReason::Cleared),
        ..alert.clone()
    }
}

fn note(alerts: Vec<Alert>) -> LookNote {
    LookNote {
        alerts,
        dropped: Vec::new(),
        summary: "{}".into(),
        forget_before: Timestamp::default(),
    }
}

/// Those of the case, ended ones among them.
async fn found(scene: &Scene) -> Vec<Alert> {
    let all = scene.ledger.alerts(Timestamp::default()).await.unwrap();
    all.into_iter().filter(|a| a.key.namespace.as_ref() == Some(&scene.namespace)).collect()
}

async fn alerts_are_kept_as_they_were_given(scene: &Scene) {
    let epoch = new_leader(scene).await;
    let (first, second) = (alert(scene, "a").await, alert(scene, "b").await);
    let look =
        LookNote { summary: "{\"n\":1}".into(), ..note(vec![first.clone(), second.clone()]) };
    assert!(scene.ledger.note_look(epoch, look.clone()).await.unwrap());
    assert!(scene.ledger.note_look(epoch, look).await.unwrap(), "it may be repeated");
    assert_eq!(found(scene).await, [first.clone(), second.clone()]);
    let judged = scene.ledger.judged().await.unwrap().expect("a look is on record");
    assert_eq!(judged.summary, "{\"n\":1}");
    assert!(judged.at >= first.since && judged.at <= scene.ledger.now().await.unwrap());

    let over = ended(&first, whole(judged.at));
    assert!(scene.ledger.note_look(epoch, note(vec![over.clone()])).await.unwrap());
    assert_eq!(found(scene).await, [over, second.clone()]);
    let later = scene.ledger.alerts(whole(judged.at).plus(Duration::from_micros(1))).await.unwrap();
    assert!(later.contains(&second) && later.iter().all(|a| a.id != first.id));
}

async fn a_pending_alert_that_came_to_nothing_is_gone(scene: &Scene) {
    let epoch = new_leader(scene).await;
    let pending = Alert { state: AlertState::Pending, opened_at: None, ..alert(scene, "a").await };
    assert!(scene.ledger.note_look(epoch, note(vec![pending.clone()])).await.unwrap());
    assert_eq!(found(scene).await, std::slice::from_ref(&pending));
    let look = LookNote { dropped: vec![pending.id], ..note(vec![]) };
    assert!(scene.ledger.note_look(epoch, look).await.unwrap());
    assert_eq!(found(scene).await, []);
}

async fn a_live_alert_has_its_key_for_itself(scene: &Scene) {
    let epoch = new_leader(scene).await;
    let first = alert(scene, "a").await;
    assert!(scene.ledger.note_look(epoch, note(vec![first.clone()])).await.unwrap());
    let double = alert(scene, "a").await;
    assert!(scene.ledger.note_look(epoch, note(vec![double.clone()])).await.is_err());
    assert_eq!(found(scene).await, std::slice::from_ref(&first));
    let over = ended(&first, first.since);
    assert!(scene.ledger.note_look(epoch, note(vec![over.clone()])).await.unwrap());
    assert!(scene.ledger.note_look(epoch, note(vec![double.clone()])).await.unwrap());
    assert_eq!(found(scene).await, [over, double]);
}

async fn ended_alerts_are_forgotten_with_what_was_told(scene: &Scene) {
    let epoch = new_leader(scene).await;
    let base = alert(scene, "a").await;
    let old = ended(&base, base.since.minus(LONG));
    let fresh = ended(&alert(scene, "b").await, base.since);
    let look = note(vec![old.clone(), fresh.clone()]);
    assert!(scene.ledger.note_look(epoch, look).await.unwrap());
    let receiver = format!("r-{}", scene.namespace);
    let told =
        |id| ToldRow { alert: id, stage: Stage::Ended, severity: Severity::Info, at: base.since };
    let tell = TellNote {
        receiver: Receiver::new(&receiver, base.since),
        told: vec![told(old.id), told(fresh.id)],
    };
    assert!(scene.ledger.note_told(epoch, tell).await.unwrap());
    let look = LookNote { forget_before: base.since.minus(LONG / 2), ..note(vec![]) };
    assert!(scene.ledger.note_look(epoch, look).await.unwrap());
    assert_eq!(found(scene).await, std::slice::from_ref(&fresh));
    assert_eq!(scene.ledger.told(&receiver).await.unwrap(), [told(fresh.id)]);
}

async fn a_deposed_leader_writes_nothing(scene: &Scene) {
    let past = new_leader(scene).await;
    let first = alert(scene, "a").await;
    assert!(scene.ledger.note_look(past, note(vec![first.clone()])).await.unwrap());
    let before = scene.ledger.judged().await.unwrap();
    new_leader(scene).await;
    writes_nothing(scene, past, &first).await;
    assert_eq!(scene.ledger.judged().await.unwrap(), before);
}

async fn a_leader_whose_term_is_over_writes_nothing(scene: &Scene) {
    let epoch = new_leader(scene).await;
    let first = alert(scene, "a").await;
    assert!(scene.ledger.note_look(epoch, note(vec![first.clone()])).await.unwrap());
    depose(scene).await;
    writes_nothing(scene, epoch, &first).await;
}

async fn writes_nothing(scene: &Scene, epoch: Epoch, first: &Alert) {
    let look = LookNote {
        dropped: vec![first.id],
        forget_before: first.since.plus(LONG),
        ..note(vec![alert(scene, "b").await])
    };
    assert!(!scene.ledger.note_look(epoch, look).await.unwrap());
    assert_eq!(found(scene).await, std::slice::from_ref(first));
    let receiver = format!("r-{}", scene.namespace);
    let row = ToldRow {
        alert: first.id,
        stage: Stage::Opened,
        severity: Severity::Info,
        at: first.since,
    };
    let tell = TellNote { receiver: Receiver::new(&receiver, first.since), told: vec![row] };
    assert!(!scene.ledger.note_told(epoch, tell).await.unwrap());
    assert_eq!(scene.ledger.told(&receiver).await.unwrap(), []);
    assert!(scene.ledger.receivers().await.unwrap().iter().all(|r| r.name != receiver));
}

async fn what_was_told_is_kept_and_its_stage_never_falls(scene: &Scene) {
    let epoch = new_leader(scene).await;
    let first = alert(scene, "a").await;
    assert!(scene.ledger.note_look(epoch, note(vec![first.clone()])).await.unwrap());
    let name = format!("r-{}", scene.namespace);
    let row = ToldRow {
        alert: first.id,
        stage: Stage::Ended,
        severity: Severity::Critical,
        at: first.since,
    };
    // Of an alert that is forgotten by now nothing is kept.
    let stray = ToldRow { alert: AlertId::generate(), ..row };
    let mut receiver = Receiver::new(&name, first.since);
    let tell = TellNote { receiver: receiver.clone(), told: vec![row, stray] };
    assert!(scene.ledger.note_told(epoch, tell).await.unwrap());
    receiver.failures = 3;
    receiver.last_error = Some("HTTP 500".into());
    let later = ToldRow { stage: Stage::Opened, at: first.since.plus(LONG), ..row };
    let tell = TellNote { receiver: receiver.clone(), told: vec![later] };
    assert!(scene.ledger.note_told(epoch, tell).await.unwrap());
    let expected = ToldRow { stage: Stage::Ended, ..later };
    assert_eq!(scene.ledger.told(&name).await.unwrap(), [expected]);
    assert!(scene.ledger.receivers().await.unwrap().contains(&receiver));
    assert_eq!(scene.ledger.told("nobody").await.unwrap(), []);
}

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
    let troubles = scene.ledger.schedule_troubles(Timestamp::default(), Timestamp::default(), 10);
    assert!(troubles.await.unwrap().late.is_empty(), "nothing was due so long ago");
}
