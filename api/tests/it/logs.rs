//! A job's log as a stream.

use serde_json::json;

use crate::fixture::{Fixture, SOON, request};

async fn write(api: &Fixture, id: &str, lines: &[&str]) {
    let logs: Vec<_> = lines
        .iter()
        .map(|text| {
            json!({"job_id": id, "attempt": 1, "level": "info", "message": text,
            "at": "2026-01-01T00:00:00Z"})
        })
        .collect();
    api.post("/v1/worker/reports", json!({"logs": logs})).await.expect(200);
}

#[tokio::test]
async fn following_a_log_ends_with_the_job_and_goes_on_where_it_broke_off() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a"})).await;
    write(&api, &id, &["one", "two"]).await;
    let path = format!("/v1/jobs/{id}/logs?follow=true");
    let follow = async { tokio::time::timeout(SOON, api.get(&path)).await.unwrap() };
    let (streamed, ()) = tokio::join!(follow, async {
        write(&api, &id, &["three"]).await;
        api.finish_one("default").await;
    });
    assert_eq!(streamed.header("content-type"), "text/event-stream");
    let ids: Vec<&str> =
        streamed.text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids, ["1", "2", "3"], "{}", streamed.text);
    assert!(streamed.text.contains("event: end"));
    let headers = [("last-event-id", "2")];
    let rest = api.send(request(http::Method::GET, &path, &headers, "")).await;
    assert!(!rest.text.contains("\"two\"") && rest.text.contains("\"three\""), "{}", rest.text);
    let bad = [("last-event-id", "x")];
    api.send(request(http::Method::GET, &path, &bad, "")).await.refused(400, "invalid_header");
}

#[tokio::test]
async fn a_log_has_pages() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a"})).await;
    write(&api, &id, &["a", "b", "c"]).await;
    let page = api.get(&format!("/v1/jobs/{id}/logs?limit=2")).await.expect(200);
    assert_eq!((page["items"].as_array().unwrap().len(), &page["next_cursor"]), (2, &json!("2")));
    let rest = api.get(&format!("/v1/jobs/{id}/logs?limit=2&after=2")).await.expect(200);
    assert_eq!((&rest["items"][0]["message"], &rest["next_cursor"]), (&json!("c"), &json!(null)));
}
