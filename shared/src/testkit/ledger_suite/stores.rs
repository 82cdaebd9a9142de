//! Values, keys and operations that are kept by id.

use bytes::Bytes;

use super::scene::{Scene, at};
use crate::ledger::backups::{Backup, Drilled, Made};
use crate::ledger::upkeep::Upkeep;
use crate::ledger::{ApiKey, Operation, Role};
use crate::model::id::{BackupId, BlobId, KeyId, OperationId};

super::cases![
    a_value_reads_back_in_its_namespace,
    a_value_is_kept_once,
    a_key_reads_back_by_its_public_part,
    a_key_is_revoked_once,
    public_parts_are_unique,
    an_operation_reads_back_as_last_put,
    an_operation_without_progress_is_ended,
    a_default_is_noted_once,
    upkeep_is_known_by_its_latest_time,
    backups_are_listed_with_their_latest_drill,
];

async fn a_value_reads_back_in_its_namespace(scene: &Scene) {
    let id = BlobId::generate();
    let bytes = Bytes::from((0..=255u8).cycle().take(1 << 20).collect::<Vec<_>>());
    scene.ledger.put_blob(&scene.namespace, id, bytes.clone()).await.unwrap();
    assert_eq!(scene.ledger.blob(&scene.namespace, id).await.unwrap(), Some(bytes));
    assert_eq!(scene.ledger.blob(&scene.elsewhere().namespace, id).await.unwrap(), None);
    assert_eq!(scene.ledger.blob(&scene.namespace, BlobId::generate()).await.unwrap(), None);
}

async fn a_value_is_kept_once(scene: &Scene) {
    let id = BlobId::generate();
    for text in ["first", "first", "second"] {
        scene.ledger.put_blob(&scene.namespace, id, text.into()).await.unwrap();
    }
    assert_eq!(scene.ledger.blob(&scene.namespace, id).await.unwrap(), Some("first".into()));
}

fn api_key(role: Role) -> ApiKey {
    let id = KeyId::generate();
    ApiKey {
        id,
        public: id.to_string(),
        secret_hash: [7; 32],
        name: "ci".into(),
        role,
        namespace: None,
        created_at: at(0),
        expires_at: None,
        revoked_at: None,
    }
}

async fn a_key_reads_back_by_its_public_part(scene: &Scene) {
    let roles = [Role::Admin, Role::Operator, Role::Submitter, Role::Worker, Role::Viewer];
    let mut kept = Vec::new();
    for (n, role) in (0..).zip(roles) {
        let mut key = ApiKey { created_at: at(n), ..api_key(role) };
        if n % 2 == 0 {
            key.namespace = Some(scene.namespace.clone());
            key.expires_at = Some(at(900));
        }
        scene.ledger.create_key(&key).await.unwrap();
        assert_eq!(scene.ledger.key(&key.public).await.unwrap().as_ref(), Some(&key));
        kept.push(key);
    }
    let mut listed = scene.ledger.keys().await.unwrap();
    listed.retain(|k| kept.contains(k));
    kept.reverse();
    assert_eq!(listed, kept);
    assert_eq!(scene.ledger.key("no such key").await.unwrap(), None);
    assert_eq!(scene.ledger.key("odd\0text").await.unwrap(), None);
}

async fn a_key_is_revoked_once(scene: &Scene) {
    let key = api_key(Role::Viewer);
    scene.ledger.create_key(&key).await.unwrap();
    let before = scene.ledger.now().await.unwrap();
    assert!(scene.ledger.revoke_key(key.id).await.unwrap());
    let revoked = scene.ledger.key(&key.public).await.unwrap().unwrap();
    assert!(revoked.revoked_at.unwrap() >= before);
    assert!(!scene.ledger.revoke_key(key.id).await.unwrap());
    assert_eq!(scene.ledger.key(&key.public).await.unwrap(), Some(revoked));
    assert!(!scene.ledger.revoke_key(KeyId::generate()).await.unwrap());
}

async fn public_parts_are_unique(scene: &Scene) {
    let key = api_key(Role::Admin);
    scene.ledger.create_key(&key).await.unwrap();
    let twin = ApiKey { public: key.public.clone(), ..api_key(Role::Viewer) };
    assert!(scene.ledger.create_key(&twin).await.is_err());
    assert_eq!(scene.ledger.key(&key.public).await.unwrap(), Some(key));
}

fn operation(scene: &Scene) -> Operation {
    Operation {
        id: OperationId::generate(),
        namespace: scene.namespace.clone(),
        action: "retry".into(),
        state: "running".into(),
        matched: 0,
        changed: 0,
        error: None,
        created_at: at(1),
        finished_at: None,
    }
}

async fn an_operation_reads_back_as_last_put(scene: &Scene) {
    let mut operation = operation(scene);
    let read = || scene.ledger.operation(&scene.namespace, operation.id);
    assert_eq!(read().await.unwrap(), None);
    scene.ledger.put_operation(&operation).await.unwrap();
    assert_eq!(read().await.unwrap().as_ref(), Some(&operation));
    operation.state = "failed".into();
    (operation.matched, operation.changed) = (1 << 40, 7);
    operation.error = Some("out of luck".into());
    operation.finished_at = Some(at(9));
    scene.ledger.put_operation(&operation).await.unwrap();
    let id = operation.id;
    let read = scene.ledger.operation(&scene.namespace, id).await.unwrap();
    assert_eq!(read, Some(operation));
    assert_eq!(scene.ledger.operation(&scene.elsewhere().namespace, id).await.unwrap(), None);
}

/// Goal: an operation whose process died does not say `running` for ever; one that makes progress is left alone,
/// however long ago it was begun.
async fn an_operation_without_progress_is_ended(scene: &Scene) {
    let [silent, busy, ended, of_old_build] = std::array::from_fn(|_| operation(scene));
    let ended = Operation { state: "succeeded".into(), finished_at: Some(at(2)), ..ended };
    for operation in [&silent, &ended, &of_old_build] {
        scene.ledger.put_operation(operation).await.unwrap();
    }
    let sql = format!(
        "UPDATE operations SET changed_at = NULL WHERE namespace = '{}' AND state = 'running' \
        AND matched = 0",
        scene.namespace
    );
    let silent_since = scene.ledger.now().await.unwrap();
    let later = loop {
        let now = scene.ledger.now().await.unwrap();
        if now > silent_since {
            break now;
        }
    };
    scene.ledger.put_operation(&busy).await.unwrap();
    let early = silent_since.minus(std::time::Duration::from_secs(600));
    scene.ledger.fail_silent_operations(None, early).await.unwrap();
    let read = |id| async move {
        scene.ledger.operation(&scene.namespace, id).await.unwrap().expect("it is kept")
    };
    assert_eq!(read(silent.id).await, silent);
    assert!(scene.ledger.fail_silent_operations(None, later).await.unwrap() >= 2);
    assert_eq!(read(busy.id).await, busy);
    let failed = read(silent.id).await;
    assert_eq!(failed.state, "failed");
    assert!(failed.error.is_some() && failed.finished_at.is_some());
    assert_eq!(read(ended.id).await, ended);
    // Progress of one that lives after all is taken.
    scene.ledger.put_operation(&silent).await.unwrap();
    assert_eq!(read(silent.id).await.state, "running");
    // What an older build put has no time of progress: its beginning counts.
    scene.ledger.put_operation(&of_old_build).await.unwrap();
    scene.ledger.tamper(sql).await.unwrap();
    scene.ledger.fail_silent_operations(None, at(2)).await.unwrap();
    assert_eq!(read(of_old_build.id).await.state, "failed");
}

async fn a_default_is_noted_once(scene: &Scene) {
    // The installation's own, whatever the namespace.
    let name = scene.namespace.to_string();
    assert!(!scene.ledger.has_default(&name).await.unwrap());
    for _ in 0..2 {
        scene.ledger.note_default(&name).await.unwrap();
        assert!(scene.ledger.has_default(&name).await.unwrap());
    }
    assert!(!scene.ledger.has_default(&format!("{name}-other")).await.unwrap());
    assert_eq!(scene.ledger.present_id().await.unwrap(), scene.ledger.id());
    assert!(!scene.ledger.was_replaced().await);
}

/// The only case that notes any: upkeep is the installation's, and cases share a ledger.
async fn upkeep_is_known_by_its_latest_time(scene: &Scene) {
    let ledger = &scene.ledger;
    for (time, latest) in [(5, 5), (3, 5), (8, 8)] {
        ledger.note_upkeep(Upkeep::Backup, Some(at(time))).await.unwrap();
        let last = ledger.last_upkeep().await.unwrap();
        assert_eq!(last.get(&Upkeep::Backup), Some(&at(latest)), "{last:?}");
        assert_eq!(last.get(&Upkeep::Drill), None);
    }
    ledger.note_upkeep(Upkeep::BackupsWanted, None).await.unwrap();
    let first = ledger.last_upkeep().await.unwrap()[&Upkeep::BackupsWanted];
    ledger.note_upkeep(Upkeep::BackupsWanted, None).await.unwrap();
    assert_eq!(ledger.last_upkeep().await.unwrap()[&Upkeep::BackupsWanted], first, "once");
}

/// The only case that notes any: backups are the installation's, and cases share a ledger.
async fn backups_are_listed_with_their_latest_drill(scene: &Scene) {
    let ledger = &scene.ledger;
    let made = |n: i64| Made {
        id: BackupId::from_uuid(uuid::Uuid::now_v7()),
        at: at(n),
        made_at: at(n + 1),
        rows: 7,
        bytes: 1 << 40,
        encrypted: n == 2,
    };
    let all = [made(0), made(1), made(2)];
    for made in &all {
        ledger.note_backup(made).await.unwrap();
        // What is on record stays as it was made.
        ledger.note_backup(&Made { rows: 8, ..*made }).await.unwrap();
    }
    let [oldest, middle, newest] = all.map(|made| Backup {
        made,
        verified_at: None,
        rto_ms: None,
        rpo_ms: None,
        drill_error: None,
    });
    let listed = ledger.backups(None, 2).await.unwrap();
    assert_eq!(listed, [newest.clone(), middle.clone()]);
    let rest = ledger.backups(Some(middle.made.id), 500).await.unwrap();
    assert_eq!(rest, [oldest]);
    assert_eq!(ledger.backup(newest.made.id).await.unwrap(), Some(newest));

    let id = middle.made.id;
    let good = Drilled { at: at(20), rto_ms: 30, rpo_ms: 40, error: None };
    let bad = Drilled { at: at(30), rto_ms: 1, rpo_ms: 2, error: Some("part_damaged".into()) };
    let proven =
        Backup { verified_at: Some(at(20)), rto_ms: Some(30), rpo_ms: Some(40), ..middle.clone() };
    let doubted = Backup { drill_error: bad.error.clone(), ..proven.clone() };
    let again = Drilled { at: at(40), ..good.clone() };
    let proven_again = Backup { verified_at: Some(at(40)), ..proven.clone() };
    // The third comes late: it began before the second.
    let late = Drilled { at: at(25), rto_ms: 9, ..good.clone() };
    for (drilled, then) in
        [(&good, &proven), (&bad, &doubted), (&late, &doubted), (&again, &proven_again)]
    {
        ledger.note_drill(id, drilled).await.unwrap();
        assert_eq!(ledger.backup(id).await.unwrap().as_ref(), Some(then), "{drilled:?}");
    }
    let unknown = BackupId::from_uuid(uuid::Uuid::now_v7());
    ledger.note_drill(unknown, &good).await.unwrap();
    assert_eq!(ledger.backup(unknown).await.unwrap(), None);

    for _ in 0..2 {
        ledger.forget_backup(id).await.unwrap();
        assert_eq!(ledger.backup(id).await.unwrap(), None);
    }
    assert_eq!(ledger.backups(None, 500).await.unwrap().len(), 2);
}
