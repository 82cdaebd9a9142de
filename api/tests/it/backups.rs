//! Backups over HTTP. Nobody carries the jobs out here: what they would put on record is put there by the test.

use http::Method;
use serde_json::{Value, json};
use windlass_shared::config::ApiSettings;
use windlass_shared::ledger::Role;
use windlass_shared::ledger::backups::{Drilled, Made};
use windlass_shared::model::id::BackupId;
use windlass_shared::model::time::Timestamp;

use crate::fixture::{Fixture, request};

const PATH: &str = "/v1/backups";

async fn note(api: &Fixture, second: i64) -> BackupId {
    let at = Timestamp::from_millis(second * 1_000);
    let id = BackupId::from_uuid(uuid::Uuid::now_v7());
    let made_at = Timestamp::from_millis((second + 1) * 1_000);
    let made = Made { id, at, made_at, rows: 5, bytes: 6, encrypted: true };
    api.life.ledger().note_backup(&made).await.unwrap();
    id
}

async fn job(api: &Fixture, location: &str) -> Value {
    let job = request(Method::GET, location, &[("windlass-namespace", "system")], "");
    api.send(job).await.expect(200)
}

async fn able_to_restore() -> Fixture {
    let settings =
        ApiSettings { auth_required: false, can_restore: true, ..ApiSettings::default() };
    Fixture::with(settings).await
}

#[tokio::test]
async fn each_call_starts_one_job_at_a_time() {
    let api = able_to_restore().await;
    let id = note(&api, 1).await.to_string();
    for (path, kind, payload) in [
        (PATH.to_owned(), "backup.create", json!({})),
        (format!("{PATH}/{id}/verify"), "backup.drill", json!({"backup": id})),
        (format!("{PATH}/{id}/restore"), "backup.restore", json!({"backup": id})),
    ] {
        let made = api.post(&path, json!({})).await;
        let location = made.header("location").to_owned();
        let made = made.expect(201);
        let started = made["id"].as_str().unwrap();
        assert_eq!(location, format!("/v1/jobs/{started}"));
        let job = job(&api, &location).await;
        assert_eq!((&job["kind"], &job["queue"]), (&json!(kind), &json!("system")));
        assert_eq!((&job["namespace"], &job["payload"]), (&json!("system"), &payload));
        assert_eq!(job["timeout"], "12h");
        let second = api.post(&path, json!(null)).await.refused(409, "unique_key_held");
        assert_eq!(second["holder"], started, "{path}");
        // Once it has ended there may be another.
        let system = [("windlass-namespace", "system")];
        api.post_with(&format!("{location}/cancel"), &system, "").await.expect(200);
        api.post(&path, json!({})).await.expect(201);
    }
}

#[tokio::test]
async fn a_repeat_under_its_key_is_the_same_job() {
    let api = Fixture::new().await;
    let key = [("idempotency-key", "one")];
    let first = api.post_with(PATH, &key, "{}").await.expect(201);
    let again = api.post_with(PATH, &key, "{}").await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.expect(201)["id"], first["id"]);
    let verify = format!("{PATH}/{}/verify", note(&api, 1).await);
    api.post_with(&verify, &key, "{}").await.refused(422, "idempotency_key_reused");
    let key = [("idempotency-key", "two")];
    api.post_with(PATH, &key, "{}").await.refused(409, "unique_key_held");
}

/// The target is a secret of the settings: callers can neither choose it nor read it.
#[tokio::test]
async fn a_restore_needs_its_setting_and_takes_no_target() {
    let api = Fixture::new().await;
    let path = format!("{PATH}/{}/restore", note(&api, 1).await);
    let refused = api.post(&path, json!({})).await.refused(422, "invalid");
    assert!(refused["detail"].as_str().unwrap().contains("backup.restore_url"), "{refused}");
    let api = able_to_restore().await;
    let refused = api.post(&path, json!({"into": "postgres://u:hunter2@db/x"})).await;
    let problem = refused.refused(422, "invalid");
    assert_eq!(problem["errors"][0]["pointer"], "/into", "{problem}");
    assert!(!refused.text.contains("hunter2"), "{}", refused.text);
    let jobs = request(Method::GET, "/v1/jobs", &[("windlass-namespace", "system")], "");
    assert_eq!(api.send(jobs).await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn what_is_sent_is_checked() {
    let api = able_to_restore().await;
    api.post(PATH, json!({"keep": 3})).await.refused(422, "invalid");
    for call in ["verify", "restore"] {
        let problem =
            api.post(&format!("{PATH}/x/{call}"), json!({})).await.refused(422, "invalid");
        assert_eq!(problem["errors"][0]["parameter"], "id", "{problem}");
    }
    api.get(&format!("{PATH}/x")).await.refused(422, "invalid");
    let unknown = BackupId::from_uuid(uuid::Uuid::now_v7());
    api.get(&format!("{PATH}/{unknown}")).await.refused(404, "not_found");
}

#[tokio::test]
async fn backups_are_shown_with_their_drills_newest_first() {
    let api = Fixture::new().await;
    let mut ids = Vec::new();
    for second in 0..3 {
        ids.insert(0, note(&api, second).await);
    }
    let began = Timestamp::from_millis(10_000);
    let good = Drilled { at: began, rto_ms: 7, rpo_ms: 8, error: None };
    api.life.ledger().note_drill(ids[2], &good).await.unwrap();
    let shown = api.get(&format!("{PATH}/{}", ids[2])).await.expect(200);
    let expected = json!({
        "id": ids[2], "at": "1970-01-01T00:00:00.000Z", "made_at": "1970-01-01T00:00:01.000Z",
        "rows": 5, "bytes": 6, "encrypted": true,
        "verified_at": "1970-01-01T00:00:10.000Z", "rto_ms": 7, "rpo_ms": 8, "drill_error": null,
    });
    assert_eq!(shown, expected);

    let page = api.get(&format!("{PATH}?limit=2")).await.expect(200);
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = api.get(&format!("{PATH}?limit=2&cursor={cursor}")).await.expect(200);
    let pages = [&page, &rest].into_iter().flat_map(|page| page["items"].as_array().unwrap());
    let seen: Vec<Value> = pages.map(|item| item["id"].clone()).collect();
    assert_eq!(json!(seen), json!(ids));
    assert_eq!((&rest["items"][0], &rest["next_cursor"]), (&expected, &json!(null)));
    api.get(&format!("{PATH}?cursor=x")).await.refused(422, "invalid_cursor");
}

/// A backup holds everybody's jobs: admins of one namespace make none, and see none.
#[tokio::test]
async fn backups_are_for_keys_that_are_bound_to_no_namespace() {
    let settings = ApiSettings { can_restore: true, ..ApiSettings::default() };
    let api = Fixture::with(settings).await;
    let id = note(&api, 1).await;
    let one = format!("{PATH}/{id}");
    let posts = [PATH.to_owned(), format!("{one}/verify"), format!("{one}/restore")];
    let gets = [PATH.to_owned(), one];
    let send = async |key: &str, method: Method, path: &str| {
        let authorization = format!("Bearer {key}");
        api.send(request(method, path, &[("authorization", authorization.as_str())], "")).await
    };
    let bound = api.key(Role::Admin, Some("a")).await;
    let viewer = api.key(Role::Viewer, None).await;
    let operator = api.key(Role::Operator, None).await;
    let worker = api.key(Role::Worker, None).await;
    let admin = api.key(Role::Admin, None).await;
    for path in &gets {
        send(&bound, Method::GET, path).await.refused(403, "namespace_denied");
        send(&worker, Method::GET, path).await.refused(403, "forbidden");
        send(&viewer, Method::GET, path).await.expect(200);
    }
    for path in &posts {
        send(&bound, Method::POST, path).await.refused(403, "namespace_denied");
        for key in [&viewer, &operator, &worker] {
            send(key, Method::POST, path).await.refused(403, "forbidden");
        }
        send(&admin, Method::POST, path).await.expect(201);
    }
}
