//! What overwatch writes, under the leader's epoch alone.

use std::collections::BTreeMap;
use std::time::Duration;

use super::scene::Scene;
use crate::ledger::Epoch;
use crate::ledger::alerts::{ALERTS_MAX, LookNote, TellNote, ToldRow};
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
    one_that_does_not_read_is_there_in_outline,
    of_too_many_ends_the_latest_are_seen,
    what_was_told_is_kept_and_its_stage_never_falls,
    a_receiver_out_of_the_settings_is_forgotten_in_time,
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
        receivers: Vec::new(),
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

/// Goal: the record of another build keeps its key and its id, and the next look may write it anew.
async fn one_that_does_not_read_is_there_in_outline(scene: &Scene) {
    let epoch = new_leader(scene).await;
    let first = alert(scene, "a").await;
    let over = ended(&alert(scene, "b").await, first.since);
    let look = note(vec![first.clone(), over.clone()]);
    assert!(scene.ledger.note_look(epoch, look).await.unwrap());
    let sql = "UPDATE alerts SET body = '{\"id\":7}' WHERE namespace = ";
    scene.ledger.tamper(format!("{sql}'{}'", scene.namespace)).await.unwrap();
    let read = found(scene).await;
    let [live, gone] = &read[..] else { panic!("{read:?}") };
    assert_eq!((live.id, &live.key, live.state), (first.id, &first.key, AlertState::Active));
    assert!(live.since <= first.since.plus(LONG) && live.since >= first.since.minus(LONG));
    assert_eq!((gone.id, gone.state, gone.ended_at), (over.id, over.state, over.ended_at));
    assert!(scene.ledger.note_look(epoch, note(vec![first.clone(), over.clone()])).await.unwrap());
    assert_eq!(found(scene).await, [first, over]);
}

async fn of_too_many_ends_the_latest_are_seen(scene: &Scene) {
    let epoch = new_leader(scene).await;
    let base = alert(scene, "").await;
    // In the future, so that those of other cases do not count.
    let at = |n: u32| base.since.plus(LONG + Duration::from_millis(u64::from(n)));
    let alerts = (0..=ALERTS_MAX).map(|n| {
        let id = AlertId::generate();
        ended(&Alert { id, ..base.clone() }, at(n))
    });
    assert!(scene.ledger.note_look(epoch, note(alerts.collect())).await.unwrap());
    let seen = scene.ledger.alerts(at(0)).await.unwrap();
    let ends = || seen.iter().filter_map(|alert| alert.ended_at);
    assert_eq!(ends().count(), ALERTS_MAX as usize);
    assert_eq!((ends().min(), ends().max()), (Some(at(1)), Some(at(ALERTS_MAX))));
    let look = LookNote { forget_before: at(ALERTS_MAX + 1), ..note(vec![]) };
    while !scene.ledger.alerts(at(0)).await.unwrap().iter().all(|a| a.ended_at.is_none()) {
        assert!(scene.ledger.note_look(epoch, look.clone()).await.unwrap());
    }
}

/// Goal: a receiver is kept while a leader's settings have it, and for a while after, with what it was told.
async fn a_receiver_out_of_the_settings_is_forgotten_in_time(scene: &Scene) {
    let epoch = new_leader(scene).await;
    let first = alert(scene, "a").await;
    assert!(scene.ledger.note_look(epoch, note(vec![first.clone()])).await.unwrap());
    let (kept, gone) = (format!("k-{}", scene.namespace), format!("g-{}", scene.namespace));
    let row = ToldRow {
        alert: first.id,
        stage: Stage::Opened,
        severity: Severity::Warning,
        at: first.since,
    };
    for name in [&kept, &gone] {
        let tell = TellNote { receiver: Receiver::new(name, first.since), told: vec![row] };
        assert!(scene.ledger.note_told(epoch, tell).await.unwrap());
    }
    let known = async || {
        let all = scene.ledger.receivers().await.unwrap();
        let names = all.into_iter().map(|receiver| receiver.name);
        names.filter(|name| *name == kept || *name == gone).collect::<Vec<_>>()
    };
    let look = |receivers: &[&String], forget_before| LookNote {
        receivers: receivers.iter().map(|name| (*name).clone()).collect(),
        forget_before,
        ..note(vec![])
    };
    // Heard of just now, it is kept although nobody has it in the settings.
    let day = Duration::from_secs(24 * 3600);
    let day_ago = first.since.minus(day);
    assert!(scene.ledger.note_look(epoch, look(&[], day_ago)).await.unwrap());
    assert_eq!(known().await, [gone.clone(), kept.clone()]);
    // As if that had been for long; a look whose settings have it says so.
    let names = format!("('{kept}', '{gone}')");
    let sql = format!("UPDATE receivers SET seen_at = 1 WHERE name IN {names}");
    scene.ledger.tamper(sql).await.unwrap();
    assert!(scene.ledger.note_look(epoch, look(&[&kept], Timestamp::default())).await.unwrap());
    assert!(scene.ledger.note_look(epoch, look(&[], day_ago)).await.unwrap());
    assert_eq!(known().await, std::slice::from_ref(&kept));
    assert_eq!(scene.ledger.told(&kept).await.unwrap(), [row]);
    assert_eq!(scene.ledger.told(&gone).await.unwrap(), []);
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
