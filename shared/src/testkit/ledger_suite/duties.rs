//! What schedulers tell of their duties.

use std::time::Duration;

use super::scene::Scene;
use crate::ledger::Epoch;
use crate::ledger::duties::{
    Declared, DutyNote, DutyRow, ERROR_BYTES_MAX, Ended, GONE_AFTER, KEPT_FOR, Who,
};
use crate::model::id::WorkerId;

super::cases![
    what_a_process_tells_reads_back,
    a_process_that_is_silent_is_gone_and_then_forgotten,
    any_text_and_any_time_is_taken,
    a_process_that_has_nothing_to_tell_yet_lives,
];

fn note(duty: &str) -> DutyNote {
    DutyNote {
        declared: Declared {
            duty: duty.into(),
            what: "does something".into(),
            interval: Duration::from_millis(1_500),
            batch: 7,
            longest: Duration::from_secs(30),
            who: Who::Leader,
        },
        started: Some(Duration::from_secs(3)),
        ended: Some(Duration::from_secs(2)),
        outcome: Ended::Ok,
        took: Duration::from_millis(20),
        done: 5,
        ticks: 9,
        failures: 0,
        error: None,
        epoch: Some(Epoch(4)),
    }
}

async fn rows_of(scene: &Scene, replica: WorkerId) -> Vec<DutyRow> {
    let (mut rows, _) = scene.ledger.duties().await.unwrap();
    rows.retain(|row| row.replica == replica);
    rows
}

async fn what_a_process_tells_reads_back(scene: &Scene) {
    let replica = WorkerId::generate();
    let before = scene.ledger.now().await.unwrap();
    let living = scene.ledger.note_duties(replica, "first", &[note("b"), note("a")]).await.unwrap();
    assert!(living.contains(&replica));
    let failed = DutyNote {
        outcome: Ended::GivenUp,
        failures: 2,
        error: Some("took too long".into()),
        epoch: None,
        ..note("a")
    };
    scene.ledger.note_duties(replica, "second", std::slice::from_ref(&failed)).await.unwrap();
    let after = scene.ledger.now().await.unwrap();
    let rows = rows_of(scene, replica).await;
    let found: Vec<_> =
        rows.iter().map(|row| (row.declared.duty.as_str(), row.name.as_str())).collect();
    assert_eq!(found, [("b", "first"), ("a", "second")].into_iter().rev().collect::<Vec<_>>());
    let row = &rows[0];
    assert_eq!(row.declared, failed.declared);
    assert_eq!((row.outcome, row.failures, row.done), (Ended::GivenUp, 2, 5));
    assert_eq!((row.error.as_deref(), row.epoch), (Some("took too long"), None));
    assert_eq!((row.took, row.ticks), (failed.took, 9));
    assert!(row.seen_at >= before && row.seen_at <= after);
    // Ages become the ledger's times.
    assert_eq!(row.started_at, Some(row.seen_at.minus(Duration::from_secs(3))));
    assert_eq!(row.ended_at, Some(row.seen_at.minus(Duration::from_secs(2))));
    assert_eq!(rows[1].epoch, Some(Epoch(4)));
}

async fn a_process_that_is_silent_is_gone_and_then_forgotten(scene: &Scene) {
    let (silent, busy) = (WorkerId::generate(), WorkerId::generate());
    let write = async |replica| scene.ledger.note_duties(replica, "s", &[note("a")]).await.unwrap();
    write(silent).await;
    assert!(write(busy).await.contains(&silent));
    let silent_for = async |time: Duration| {
        let seen = scene.ledger.now().await.unwrap().minus(time).micros();
        // Of no other case: that one's name.
        let sql = format!("UPDATE duties SET seen_at = {seen} WHERE name = 's'");
        scene.ledger.tamper(sql).await.unwrap();
    };
    silent_for(GONE_AFTER).await;
    let living = write(busy).await;
    assert!(living.contains(&busy) && !living.contains(&silent));
    assert_eq!(rows_of(scene, silent).await.len(), 1, "for who looks into what happened");
    silent_for(KEPT_FOR + Duration::from_secs(1)).await;
    write(busy).await;
    assert_eq!(rows_of(scene, silent).await, []);
    assert_eq!(rows_of(scene, busy).await.len(), 1, "whoever writes is there");
}

async fn any_text_and_any_time_is_taken(scene: &Scene) {
    let replica = WorkerId::generate();
    let odd = DutyNote {
        started: Some(Duration::MAX),
        ended: None,
        outcome: Ended::Never,
        error: Some(format!("\0{}", "é".repeat(ERROR_BYTES_MAX))),
        ..note("odd")
    };
    scene.ledger.note_duties(replica, "odd\0name", &[odd]).await.unwrap();
    let rows = rows_of(scene, replica).await;
    let error = rows[0].error.as_ref().unwrap();
    assert!(error.len() <= ERROR_BYTES_MAX + 2 && error.ends_with('é'), "{}", error.len());
    assert_eq!(rows[0].ended_at, None);
}

/// A scheduler that has just started owns no shard otherwise, and what runs meanwhile is recorded late.
async fn a_process_that_has_nothing_to_tell_yet_lives(scene: &Scene) {
    let (fresh, other) = (WorkerId::generate(), WorkerId::generate());
    scene.ledger.note_duties(other, "s", &[note("a")]).await.unwrap();
    for _ in 0..2 {
        let living = scene.ledger.note_duties(fresh, "s", &[]).await.unwrap();
        assert_eq!(living.iter().filter(|replica| **replica == fresh).count(), 1);
        assert!(living.contains(&other));
    }
}
