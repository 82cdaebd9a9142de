//! Lists: filters, pages, cursors.

use serde_json::{Value, json};

use crate::fixture::Fixture;

fn ids(page: &Value) -> Vec<String> {
    page["items"].as_array().unwrap().iter().map(|j| j["id"].as_str().unwrap().into()).collect()
}

/// Follows cursors to the end.
async fn all(api: &Fixture, query: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut cursor = String::new();
    for _ in 0..1_000 {
        let page = api.get(&format!("/v1/jobs?{query}{cursor}")).await.expect(200);
        found.extend(ids(&page));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
    panic!("the list does not end");
}

#[tokio::test]
async fn pages_hold_every_job_once_newest_first() {
    let api = Fixture::new().await;
    let mut submitted = Vec::new();
    for _ in 0..7 {
        submitted.push(api.submit(json!({"kind": "a"})).await);
    }
    submitted.reverse();
    assert_eq!(all(&api, "limit=3").await, submitted);
    assert_eq!(all(&api, "limit=500").await, submitted);
}

#[tokio::test]
async fn filters_select() {
    let api = Fixture::new().await;
    let a = api.submit(json!({"kind": "mail.send", "queue": "mail", "tags": ["x", "y"]})).await;
    let b = api.submit(json!({"kind": "noop", "tags": ["x"], "delay": "1h"})).await;
    let only = |id: &str| vec![id.to_owned()];
    assert_eq!(all(&api, "queue=mail").await, only(&a));
    assert_eq!(all(&api, "kind=noop").await, only(&b));
    assert_eq!(all(&api, "tag=x&tag=y").await, only(&a));
    assert_eq!(all(&api, "state=scheduled").await, only(&b));
    assert_eq!(all(&api, "state=scheduled&state=ready").await, [b.clone(), a.clone()]);
    assert_eq!(all(&api, "q=MAIL").await, only(&a));
    assert_eq!(all(&api, "q=%25").await, Vec::<String>::new());
    assert_eq!(all(&api, "created_after=2999-01-01T00:00:00Z").await, Vec::<String>::new());
    assert_eq!(all(&api, "created_before=2999-01-01T00:00:00Z").await.len(), 2);
    assert_eq!(all(&api, "workflow_id=01900000-0000-7000-8000-000000000000").await.len(), 0);
}

#[tokio::test]
async fn a_cursor_is_for_one_namespace_and_one_set_of_filters() {
    let api = Fixture::new().await;
    for _ in 0..3 {
        api.submit(json!({"kind": "a", "queue": "q"})).await;
    }
    let page = api.get("/v1/jobs?queue=q&limit=1").await.expect(200);
    let cursor = page["next_cursor"].as_str().unwrap().to_owned();
    api.get(&format!("/v1/jobs?queue=q&limit=2&cursor={cursor}")).await.expect(200);
    api.get(&format!("/v1/jobs?limit=1&cursor={cursor}")).await.refused(422, "invalid_cursor");
    api.get(&format!("/v1/jobs?queue=q&cursor=B{}", &cursor[1..]))
        .await
        .refused(422, "invalid_cursor");
    let other = http::Request::get(format!("/v1/jobs?queue=q&cursor={cursor}"))
        .header("windlass-namespace", "other")
        .body(axum::body::Body::empty())
        .unwrap();
    api.send(other).await.refused(422, "invalid_cursor");
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let api = Fixture::new().await;
    for (query, name) in [
        ("limit=1000000000", "limit"),
        ("limit=1e9", "limit"),
        ("limit=0", "limit"),
        ("state=done", "state"),
        ("queue=a%7Bb", "queue"),
        ("kind=..%2Fx", "kind"),
        ("tag=", "tag"),
        ("q=%E2%80%AE", "q"),
        ("created_after=yesterday", "created_after"),
        ("workflow_id=1", "workflow_id"),
        ("order=payload%3Bdrop", "order"),
    ] {
        let refused = api.get(&format!("/v1/jobs?{query}")).await.refused(422, "invalid");
        assert_eq!(refused["errors"][0]["parameter"], name, "{query}");
    }
}

/// Text that means something to SQL is only text.
#[tokio::test]
async fn filters_are_never_part_of_a_statement() {
    let api = Fixture::new().await;
    let odd =
        ["%", "_", "\\", "' OR 1=1 --", "\"; DROP TABLE jobs; --", "a%b", "$1", "?1", "*", "{}"];
    let mut ids = Vec::new();
    for tag in odd {
        ids.push(api.submit(json!({"kind": "a", "tags": [tag]})).await);
    }
    api.submit(json!({"kind": "a", "tags": ["plain"]})).await;
    for (tag, id) in odd.iter().zip(&ids) {
        let escaped: String = tag.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let found = api.get(&format!("/v1/jobs?tag={escaped}")).await.expect(200);
        let found: Vec<_> = found["items"].as_array().unwrap().iter().map(|j| &j["id"]).collect();
        assert_eq!(found, [id], "{tag}");
        let found = api.get(&format!("/v1/jobs?q={escaped}")).await.expect(200);
        let tags: Vec<_> =
            found["items"].as_array().unwrap().iter().map(|job| job["tags"][0].clone()).collect();
        let want = odd.iter().rev().filter(|other| other.contains(tag));
        assert_eq!(tags, want.map(|tag| json!(tag)).collect::<Vec<_>>(), "{tag}");
    }
}
