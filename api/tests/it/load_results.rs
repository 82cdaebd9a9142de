//! Results of load tests over HTTP.

use http::Method;
use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture, request};

const PATH: &str = "/v1/load-results";

fn body(profile: &str, passed: bool) -> Value {
    json!({
        "profile": profile, "machine": "here", "passed": passed,
        "began_at": "2026-01-02T03:04:05.678Z",
        "result": {"figures": {"lost": 0.0}, "series": [1, 2, 3]},
    })
}

async fn put_at(api: &Fixture, id: &str, body: &Value) -> Answer {
    let json = [("content-type", "application/json")];
    api.send(request(Method::PUT, &format!("{PATH}/{id}"), &json, &body.to_string())).await
}

async fn put(api: &Fixture, body: &Value) -> String {
    let id = uuid::Uuid::now_v7().to_string();
    put_at(api, &id, body).await.expect(200);
    id
}

#[tokio::test]
async fn a_result_is_kept_listed_and_read_whole() {
    let api = Fixture::new().await;
    let first = put(&api, &body("smoke", true)).await;
    let second = put(&api, &body("smoke", false)).await;
    let third = put(&api, &body("spike", true)).await;
    let ids = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap();
        items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    let page = api.get(PATH).await.expect(200);
    assert_eq!(ids(&page), [third.as_str(), &second, &first]);
    assert_eq!(page["items"][0]["figures"], json!({"lost": 0.0}));
    assert!(page["items"][0].get("result").is_none(), "{page}");
    let page = api.get(&format!("{PATH}?profile=smoke&machine=here&passed=true")).await.expect(200);
    assert_eq!(ids(&page), [first.as_str()]);
    let page = api.get(&format!("{PATH}?limit=2")).await.expect(200);
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = api.get(&format!("{PATH}?limit=2&cursor={cursor}")).await.expect(200);
    assert_eq!((ids(&rest), &rest["next_cursor"]), (vec![first.clone()], &Value::Null));
    let whole = api.get(&format!("{PATH}/{first}")).await.expect(200);
    assert_eq!(whole["result"], body("smoke", true)["result"]);
    assert_eq!(whole["began_at"], "2026-01-02T03:04:05.678Z");
    api.get(&format!("{PATH}/{}", uuid::Uuid::now_v7())).await.refused(404, "not_found");
}

#[tokio::test]
async fn what_is_no_result_is_refused_field_by_field() {
    let api = Fixture::new().await;
    let id = uuid::Uuid::now_v7().to_string();
    for (field, value) in [
        ("profile", json!("")),
        ("profile", json!("a b")),
        ("machine", json!("")),
        ("machine", json!("a\u{7}b")),
        ("result", json!([1])),
    ] {
        let mut wrong = body("smoke", true);
        wrong[field] = value.clone();
        let problem = put_at(&api, &id, &wrong).await.refused(422, "invalid");
        assert_eq!(problem["errors"][0]["pointer"], format!("/{field}"), "{value}");
    }
    api.get(&format!("{PATH}?passed=perhaps")).await.refused(422, "invalid");
}
