//! The live feed of changes.

use http_body_util::BodyExt as _;
use serde_json::json;
use tower::ServiceExt as _;

use crate::fixture::{Fixture, SOON, request};

/// The stream's text until it holds `needle`.
async fn until(body: &mut axum::body::Body, needle: &str) -> String {
    let mut text = String::new();
    tokio::time::timeout(SOON, async {
        while !text.contains(needle) {
            let frame = body.frame().await.expect("the stream goes on").unwrap();
            text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    })
    .await
    .unwrap_or_else(|_| panic!("no {needle:?} in {text:?}"));
    text
}

async fn watch(api: &Fixture, query: &str, headers: &[(&str, &str)]) -> axum::body::Body {
    let path = format!("/v1/events{query}");
    let request = request(http::Method::GET, &path, headers, "");
    let response = api.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    response.into_body()
}

#[tokio::test]
async fn recorded_changes_are_streamed_filtered_and_resumed() {
    let api = Fixture::new().await;
    let mut all = watch(&api, "", &[]).await;
    let mut some = watch(&api, "?queue=b&state=succeeded", &[]).await;
    let a = api.submit(json!({"kind": "x", "queue": "a"})).await;
    let b = api.submit(json!({"kind": "x", "queue": "b"})).await;
    api.finish_one("a").await;
    api.finish_one("b").await;
    let text = until(&mut all, &b).await;
    assert!(text.contains(&a) && text.contains("event: job") && text.contains("\"succeeded\""));
    let text = until(&mut some, &b).await;
    assert!(!text.contains(&a), "{text}");
    // From just before the event of `b`.
    let id: u64 = text.lines().find_map(|l| l.strip_prefix("id: ")).unwrap().parse().unwrap();
    let from = (id - 1).to_string();
    let mut resumed = watch(&api, "", &[("last-event-id", &from)]).await;
    let text = until(&mut resumed, &b).await;
    assert!(!text.contains(&a) && !text.contains("reset"), "{text}");
    let mut lost = watch(&api, "", &[("last-event-id", "1")]).await;
    until(&mut lost, "event: reset").await;
}

#[tokio::test]
async fn streams_end_with_the_process() {
    let api = Fixture::new().await;
    let body = watch(&api, "", &[]).await;
    api.shutdown.cancel();
    tokio::time::timeout(SOON, body.collect()).await.expect("the stream ends").unwrap();
}

#[tokio::test]
async fn a_caller_can_hold_a_bounded_number_of_streams() {
    let api = Fixture::new().await;
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(watch(&api, "", &[]).await);
    }
    let refused = api.get("/v1/events").await;
    refused.refused(429, "rate_limited");
    assert_eq!(refused.header("retry-after"), "5");
    held.pop();
    held.push(watch(&api, "", &[]).await);
}
