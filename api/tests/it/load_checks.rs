//! Load checks over HTTP. Nobody carries them out here: what a worker would put on record is put there by the test.

use http::Method;
use serde_json::json;
use windlass_shared::config::ApiSettings;
use windlass_shared::ledger::Role;
use windlass_shared::ledger::load_checks::{CheckBegun, CheckEnd, NewCheck};
use windlass_shared::model::id::{Fence, JobId};
use windlass_shared::model::load_check::{CheckState, Plan, Report, Verdict};
use windlass_shared::model::name::Namespace;

use crate::fixture::{Fixture, request};

const PATH: &str = "/v1/load-checks";

/// Begins a check as its worker does.
async fn begin(api: &Fixture, id: &str) -> NewCheck {
    let id: JobId = id.parse().unwrap();
    let shadow = Namespace::shadow(uuid::Uuid::now_v7());
    let (run, plan, ids) = (Fence(1), Plan::default(), (0, 1 << 47));
    let new = NewCheck { id, run, plan, shadow, ids };
    let begun = api.life.ledger().begin_check(&new).await.unwrap();
    assert!(matches!(begun, CheckBegun::Started(_)), "{begun:?}");
    new
}

async fn end(api: &Fixture, new: &NewCheck, state: CheckState) {
    let verdicts = vec![Verdict::at_most("lost", 0.0, 3.0)];
    let report = Report { verdicts, accepted: 5_000, refused: 1, ..Report::default() };
    let reasons = report.reasons();
    let end = CheckEnd { id: new.id, run: new.run, state, reasons, report: Some(report) };
    assert!(api.life.ledger().end_check(&end).await.unwrap());
}

#[tokio::test]
async fn a_check_is_started_once_and_shown_with_its_verdicts() {
    let api = Fixture::new().await;
    let body = json!({"rate_per_minute": 600, "duration": "1m"});
    let made = api.post(PATH, body.clone()).await;
    let location = made.header("location").to_owned();
    let made = made.expect(201);
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!(location, format!("{PATH}/{id}"));
    assert_eq!((&made["state"], &made["plan"]), (&json!("waiting"), &json!(null)));
    let second = api.post(PATH, json!({})).await.refused(409, "check_running");
    assert_eq!(second["holder"], id.as_str());
    assert_eq!(api.get(PATH).await.expect(200)["items"], json!([]), "it has not begun");

    // It is a job of the installation's own, with the plan and enough time.
    let job =
        request(Method::GET, &format!("/v1/jobs/{id}"), &[("windlass-namespace", "system")], "");
    let job = api.send(job).await.expect(200);
    assert_eq!((&job["kind"], &job["queue"]), (&json!("load_check.run"), &json!("system")));
    assert_eq!(job["payload"]["rate_per_minute"], 600);
    assert_eq!(job["timeout"], "5m2s");

    let new = begin(&api, &id).await;
    let shown = api.get(&location).await.expect(200);
    assert_eq!((&shown["state"], &shown["is_clean"]), (&json!("running"), &json!(false)));
    assert_eq!(shown["shadow"], new.shadow.as_str());
    api.post(PATH, json!({})).await.refused(409, "check_running");
    end(&api, &new, CheckState::Failed).await;
    let shown = api.get(&location).await.expect(200);
    assert_eq!((&shown["state"], &shown["accepted"]), (&json!("failed"), &json!(5_000)));
    let verdict = json!({"name": "lost", "limit": 0.0, "measured": 3.0, "holds": false});
    assert_eq!(shown["verdicts"], json!([verdict]));
    assert_eq!(shown["reasons"], json!(["lost is 3.000, the limit is 0"]));
    assert_eq!(api.get(PATH).await.expect(200)["items"], json!([shown]));
}

#[tokio::test]
async fn wrong_plans_are_refused_field_by_field() {
    let api = Fixture::new().await;
    for (body, pointer) in [
        (json!({"rate_per_minute": 0}), "/rate_per_minute"),
        (json!({"rate_per_minute": 60_000, "duration": "1h"}), "/rate_per_minute"),
        (json!({"duration": "2h"}), "/duration"),
        (json!({"payload_bytes": 1 << 20}), "/payload_bytes"),
        (json!({"delay": "5m"}), "/delay"),
        (json!({"slots": 10_000}), "/slots"),
        (json!({"start_p99_max": "0s"}), "/start_p99_max"),
        (json!({"rate": 5}), "/rate"),
    ] {
        let problem = api.post(PATH, body).await.refused(422, "invalid");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
}

#[tokio::test]
async fn a_repeat_under_its_key_is_the_same_check() {
    let api = Fixture::new().await;
    let key = [("idempotency-key", "one")];
    let first = api.post_with(PATH, &key, "{}").await.expect(201);
    let again = api.post_with(PATH, &key, "{}").await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.expect(201)["id"], first["id"]);
    let other = api.post_with(PATH, &key, r#"{"slots": 3}"#).await;
    other.refused(422, "idempotency_key_reused");
    // Another key gets another check, and there is one already.
    let key = [("idempotency-key", "two")];
    api.post_with(PATH, &key, "{}").await.refused(409, "check_running");
}

#[tokio::test]
async fn a_check_that_has_not_begun_is_aborted_at_once() {
    let api = Fixture::new().await;
    let id = api.post(PATH, json!({})).await.expect(201)["id"].as_str().unwrap().to_owned();
    let abort = format!("{PATH}/{id}/abort");
    let aborted = api.post(&abort, json!(null)).await.expect(200);
    assert_eq!(aborted["state"], "aborted");
    api.post(PATH, json!({})).await.expect(201);
    // A job of another kind is no check, whatever is asked of it.
    let body = r#"{"kind": "system.ping", "queue": "system"}"#;
    let own = [("windlass-namespace", "system")];
    let ping = api.post_with("/v1/jobs", &own, body).await.expect(201);
    let ping = ping["id"].as_str().unwrap();
    api.get(&format!("{PATH}/{ping}")).await.refused(404, "not_found");
    api.post(&format!("{PATH}/{ping}/abort"), json!(null)).await.refused(404, "not_found");
}

#[tokio::test]
async fn lists_go_on_where_a_page_ends() {
    let api = Fixture::new().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = JobId::generate().to_string();
        let new = begin(&api, &id).await;
        end(&api, &new, CheckState::Failed).await;
        ids.insert(0, json!(id));
    }
    let page = api.get(&format!("{PATH}?limit=2")).await.expect(200);
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = api.get(&format!("{PATH}?limit=2&cursor={cursor}")).await.expect(200);
    let seen: Vec<_> = [&page, &rest]
        .into_iter()
        .flat_map(|page| page["items"].as_array().unwrap())
        .map(|item| item["id"].clone())
        .collect();
    assert_eq!(seen, ids);
    assert!(rest["next_cursor"].is_null());
    api.get(&format!("{PATH}?cursor=x")).await.refused(422, "invalid_cursor");
}

/// A check loads everybody: admins of one namespace start none, and see none.
#[tokio::test]
async fn checks_are_for_keys_that_are_bound_to_no_namespace() {
    let api = Fixture::with(ApiSettings::default()).await;
    let send = async |key: &str, method: Method, path: &str| {
        let authorization = format!("Bearer {key}");
        let headers = [("authorization", authorization.as_str())];
        api.send(request(method, path, &headers, "")).await
    };
    let bound = api.key(Role::Admin, Some("a")).await;
    for method in [Method::GET, Method::POST, Method::HEAD] {
        let answer = send(&bound, method.clone(), PATH).await;
        assert_eq!(answer.status, 403, "{method}");
    }
    send(&bound, Method::GET, PATH).await.refused(403, "namespace_denied");
    let viewer = api.key(Role::Viewer, None).await;
    send(&viewer, Method::GET, PATH).await.expect(200);
    send(&viewer, Method::POST, PATH).await.refused(403, "forbidden");
    let operator = api.key(Role::Operator, None).await;
    send(&operator, Method::POST, PATH).await.refused(403, "forbidden");
    let admin = api.key(Role::Admin, None).await;
    send(&admin, Method::POST, PATH).await.expect(201);
}
