//! Probes, metrics, documentation pages, and what every answer carries.

use http::Method;
use tower::ServiceExt as _;
use windlass_shared::config::ApiSettings;
use windlass_shared::ledger::Role;

use crate::fixture::{Fixture, request};

#[tokio::test]
async fn probes_and_pages_answer_without_a_key() {
    let api = Fixture::with(ApiSettings::default()).await;
    for path in ["/liveness", "/readiness", "/startup"] {
        assert_eq!(api.get(path).await.expect(200)["status"], "ok", "{path}");
    }
    let health = api.get("/health").await.expect(200);
    assert_eq!(health["status"], "ok");
    assert_eq!(health["components"][0]["name"], "ledger");
    assert!(health["components"][1]["latency_ms"].is_number());
    let page = api.get("/docs").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-security-policy").contains("script-src 'self'"));
    assert_eq!(api.get("/openapi.json").await.expect(200)["openapi"], "3.1.0");
}

#[tokio::test]
async fn readiness_follows_the_ledger_and_the_drain() {
    let api = Fixture::new().await;
    api.get("/readiness").await.expect(200);
    api.life.ledger().close().await;
    // Answers are kept for half a second.
    tokio::time::timeout(crate::fixture::SOON, async {
        while api.get("/readiness").await.status != 503 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("readiness fails without the ledger");
    assert_eq!(api.get("/health").await.expect(503)["status"], "down");
    assert_eq!(api.get("/liveness").await.status, 200);
    let answer = api.post("/v1/jobs", serde_json::json!({"kind": "a"})).await;
    assert!(answer.status.is_server_error(), "{}", answer.text);
    assert!(!answer.text.contains("sqlite") && !answer.text.contains("/tmp"), "{}", answer.text);
    let draining = Fixture::new().await;
    draining.shutdown.cancel();
    draining.get("/readiness").await.expect(503);
}

#[tokio::test]
async fn metrics_are_on_the_admin_listener_where_there_is_one() {
    let dev = Fixture::new().await;
    assert!(dev.get("/metrics").await.text.contains("windlass_up 1"));
    // Where keys are needed, these need one as well.
    let api = Fixture::with(ApiSettings::default()).await;
    api.get("/metrics").await.refused(401, "unauthenticated");
    let authorization = format!("Bearer {}", api.key(Role::Viewer, None).await);
    let headers = [("authorization", authorization.as_str())];
    let answer = api.send(request(Method::GET, "/metrics", &headers, "")).await;
    assert!(answer.text.contains("windlass_up 1"), "{}", answer.text);
    let settings =
        ApiSettings { admin_listen: Some(([127, 0, 0, 1], 0).into()), ..ApiSettings::default() };
    let api = Fixture::with(settings).await;
    api.get("/metrics").await.refused(404, "not_found");
    let admin = windlass_api::admin_router(api.app.clone());
    for path in ["/metrics", "/liveness", "/health"] {
        let response = admin.clone().oneshot(request(Method::GET, path, &[], "")).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
    }
    let response = admin.oneshot(request(Method::GET, "/v1/jobs", &[], "")).await.unwrap();
    assert_eq!(response.status(), 404);
}

#[tokio::test]
async fn unknown_routes_and_methods_are_refused_in_the_same_form() {
    let api = Fixture::new().await;
    api.get("/v2/nope").await.refused(404, "not_found");
    api.get("/v1/nope").await.refused(404, "not_found");
    let answer = api.send(request(Method::PUT, "/v1/jobs", &[], "")).await;
    answer.refused(405, "method_not_allowed");
    let allow = answer.header("allow");
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    let head = api.send(request(Method::HEAD, "/v1/jobs", &[], "")).await;
    assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
}
