//! Hostile and careless input: each gets a clear 4xx, and nothing is stored.

use axum::body::Body;
use http::{Method, Request};
use serde_json::json;

use crate::fixture::{Fixture, request};

async fn nothing_stored(api: &Fixture) {
    let jobs = api.get("/v1/jobs").await.expect(200);
    assert_eq!(jobs["items"], json!([]));
}

#[tokio::test]
async fn bodies_that_are_not_json_or_cannot_be_read_by_everyone() {
    let api = Fixture::new().await;
    let nested =
        |n: usize| format!(r#"{{"kind":"a","payload":{}{}}}"#, "[".repeat(n), "]".repeat(n));
    for (body, code) in [
        (String::new(), "unsupported_media_type"),
        ("{".into(), "invalid_json"),
        ("nonsense".into(), "invalid_json"),
        ("\u{feff}{\"kind\":\"a\"}".into(), "invalid_json"),
        (r#"{"kind":"a","payload":NaN}"#.into(), "invalid_json"),
        (r#"{"kind":"a","payload":Infinity}"#.into(), "invalid_json"),
        (r#"{"kind":"a","payload":1e400}"#.into(), "invalid_json"),
        (r#"{"kind":"a","priority":1e400}"#.into(), "invalid_json"),
        (r#"{"kind":"a","payload":"\ud800"}"#.into(), "invalid_json"),
        (r#"{"kind":"\ud800"}"#.into(), "invalid_json"),
        (r#"{"kind":"a","payload":'x'}"#.into(), "invalid_json"),
        (r#"{"kind":"a"}{"kind":"b"}"#.into(), "invalid_json"),
        (format!(r#"{{"kind":"a","payload":{}"#, "[".repeat(200_000)), "invalid_json"),
        (nested(65), "too_deep"),
        (nested(128), "too_deep"),
        (nested(100_000), "too_deep"),
        (r#"{"kind":"a","meta":{"x":[[[[]]]],"y":"\udc00"}}"#.into(), "invalid_json"),
        (r#"{"kind":"a","queue":"a","queue":"b"}"#.into(), "duplicate_key"),
        (r#"{"kind":"a","unique":{"key":"k","key":"l"}}"#.into(), "duplicate_key"),
        (r#"{"kind":"a","tags":["a\u0000b"]}"#.into(), "nul_character"),
        (r#"{"kind":"a","unique":{"key":"\u0000"}}"#.into(), "nul_character"),
        (r#"{"kind":"a","order_key":"x\u0000"}"#.into(), "nul_character"),
    ] {
        let answer = api.post_with("/v1/jobs", &[], &body).await;
        let status = if code == "unsupported_media_type" { 415 } else { 400 };
        answer.refused(status, code);
    }
    for bytes in [
        &b"{\"kind\":\"\xff\"}"[..],
        b"{\"kind\":\"a\",\"payload\":\"\xc0\xaf\"}",
        b"\xff\xfe{\0}\0",
    ] {
        let request = Request::post("/v1/jobs")
            .header("content-type", "application/json")
            .body(Body::from(bytes.to_vec()))
            .unwrap();
        api.send(request).await.refused(400, "invalid_json");
    }
    nothing_stored(&api).await;
}

#[tokio::test]
async fn fields_that_are_well_formed_but_wrong() {
    let api = Fixture::new().await;
    let long = "x".repeat(300);
    let names = [
        "../x",
        "a{b}c",
        "a b",
        "a\r\nb",
        "\u{202e}x",
        long.as_str(),
        "🙂",
        "%00",
        "",
        "a/b",
        "{q}:1",
    ];
    for name in names {
        for field in ["kind", "queue", "circuit"] {
            let mut body = json!({"kind": "a"});
            body[field] = json!(name);
            let refused = api.post("/v1/jobs", body).await.refused(422, "invalid");
            assert_eq!(refused["errors"][0]["pointer"], format!("/{field}"), "{name:?}");
        }
    }
    for (field, value) in [
        ("kind", "null"),
        ("kind", "7"),
        ("priority", "10"),
        ("priority", "-1"),
        ("priority", "-0"),
        ("priority", "1.0"),
        ("priority", "18446744073709551616"),
        ("max_attempts", "0"),
        ("max_attempts", "1001"),
        ("max_attempts", "4294967296"),
        ("max_attempts", "\"5\""),
        ("max_crashes", "1001"),
        ("timeout", "0"),
        ("timeout", "\"8d\""),
        ("timeout", "9e18"),
        ("delay", "-1"),
        ("delay", "\"1 hour\""),
        ("delay", "\"4000d\""),
        ("run_at", "\"9999-01-01T00:00:00Z\""),
        ("run_at", "\"-000001-01-01T00:00:00Z\""),
        ("run_at", "\"tomorrow\""),
        ("expires_at", "\"9999-01-01T00:00:00Z\""),
        ("weight", "0"),
        ("exclusive", "1"),
        ("tags", "[\"\"]"),
        ("tags", "[1]"),
        ("tags", "[\"\\u202e\"]"),
        (
            "tags",
            "[\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\"]",
        ),
        ("meta", "[]"),
        ("meta", "\"x\""),
        ("unique", "{}"),
        ("unique", "{\"key\":\"\"}"),
        ("unique", "{\"key\":\"k\",\"scope\":\"window\"}"),
        ("unique", "{\"key\":\"k\",\"window\":\"1s\"}"),
        ("unique", "{\"key\":\"k\",\"on_conflict\":\"explode\"}"),
        ("retry", "{\"multiplier\":0.5}"),
        ("retry", "{\"multiplier\":101}"),
        ("retry", "{\"backoff\":\"cubic\"}"),
        ("retry", "{\"oops\":1}"),
        ("retry", "[\"fixed\"]"),
        ("unique", "[\"k\"]"),
        ("expect", "[null,\"true\"]"),
        ("retry", "{\"rules\":[{\"code\":\"\"}]}"),
        ("expect", "{}"),
        ("expect", "{\"schema\":[]}"),
        ("concurrency_key", "\"\""),
        ("oops", "1"),
    ] {
        let body = if field == "kind" {
            format!(r#"{{"kind":{value}}}"#)
        } else {
            format!(r#"{{"kind":"a","{field}":{value}}}"#)
        };
        let refused = api.post_with("/v1/jobs", &[], &body).await.refused(422, "invalid");
        let pointer = refused["errors"][0]["pointer"].as_str().unwrap();
        assert!(pointer.starts_with(&format!("/{field}")), "{pointer} for {body}");
    }
    api.post("/v1/jobs", json!({"kind": "a", "delay": 1, "run_at": "2030-01-01T00:00:00Z"}))
        .await
        .refused(422, "invalid");
    api.post("/v1/jobs", json!([])).await.refused(422, "invalid");
    api.post("/v1/jobs", json!(["a"])).await.refused(422, "invalid");
    api.post("/v1/jobs", json!(null)).await.refused(422, "invalid");
    api.post("/v1/leases/settle", json!({"worker": "w"})).await.refused(422, "invalid");
    api.post("/v1/leases/settle", json!({"worker": "w", "items": [[]]}))
        .await
        .refused(422, "invalid");
    api.post("/v1/jobs", json!({"kind": "a", "meta": {"x": "y".repeat(17_000)}}))
        .await
        .refused(422, "invalid");
    api.post("/v1/jobs", json!({"kind": "a", "concurrency_key": "k".repeat(256)}))
        .await
        .refused(422, "invalid");
    api.post("/v1/jobs", json!({"kind": "a", "expect": {"expr": "1".repeat(5_000)}}))
        .await
        .refused(422, "invalid");
    nothing_stored(&api).await;
}

#[tokio::test]
async fn many_faults_are_listed_together_and_cut() {
    let api = Fixture::new().await;
    let body = json!({"kind": "a b", "weight": 0, "timeout": 0, "tags": ["", "\u{1b}[2J"]});
    let refused = api.post("/v1/jobs", body).await.refused(422, "invalid");
    let pointers: Vec<&str> = refused["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["pointer"].as_str().unwrap())
        .collect();
    for pointer in ["/kind", "/weight", "/timeout", "/tags/0", "/tags/1"] {
        assert!(pointers.contains(&pointer), "{pointer} in {pointers:?}");
    }
    let key = "k".repeat(1_000_000);
    let answer = api.post_with("/v1/jobs", &[], &format!(r#"{{"kind":"a","{key}":1}}"#)).await;
    answer.refused(422, "invalid");
    assert!(answer.text.len() < 3_000, "{}", answer.text.len());
    let keys: String = (0..100_000).map(|i| format!(r#","k{i}":1"#)).collect();
    api.post_with("/v1/jobs", &[], &format!(r#"{{"kind":"a"{keys}}}"#))
        .await
        .refused(422, "invalid");
}

#[tokio::test]
async fn bodies_that_are_too_large_or_of_another_type() {
    let api = Fixture::new().await;
    let big = format!(r#"{{"kind":"a","payload":"{}"}}"#, "x".repeat(1 << 20));
    api.post_with("/v1/jobs", &[], &big).await.refused(413, "too_large");
    let huge = format!(r#"{{"kind":"a","payload":"{}"}}"#, "x".repeat(2 << 20));
    api.post_with("/v1/jobs", &[], &huge).await.refused(413, "too_large");
    // Refused by its declared length, before anything is read.
    let declared = Request::post("/v1/jobs")
        .header("content-type", "application/json")
        .header("content-length", "10000000000")
        .body(Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>()))
        .unwrap();
    api.send(declared).await.refused(413, "too_large");
    let json = r#"{"kind":"a"}"#;
    for kind in
        ["text/plain", "application/xml", "application/json; charset=utf-16", "multipart/form-data"]
    {
        let headers = [("content-type", kind)];
        api.post_with("/v1/jobs", &headers, json).await.refused(415, "unsupported_media_type");
    }
    for encoding in ["gzip", "br", "identity"] {
        let headers = [("content-encoding", encoding)];
        api.post_with("/v1/jobs", &headers, json).await.refused(415, "unsupported_media_type");
    }
    nothing_stored(&api).await;
}

#[tokio::test]
async fn keys_headers_and_paths_that_are_wrong() {
    let api = Fixture::new().await;
    let long = "k".repeat(1_000_000);
    for key in ["", long.as_str(), "a\u{e9}"] {
        let headers = [("idempotency-key", key)];
        api.post_with("/v1/jobs", &headers, r#"{"kind":"a"}"#).await.refused(400, "invalid_header");
    }
    for id in ["1", "x", "00000000000000000000000000000000", "%F0%9F%99%82", "..%2f..%2fetc", "%00"]
    {
        let answer = api.get(&format!("/v1/jobs/{id}")).await;
        answer.refused(422, "invalid");
    }
    api.get("/v1/jobs/%ff").await.refused(400, "invalid_request_line");
    for queue in ["a%20b", "%7Bq%7D", "..%2Fx", "%00", "%0d%0aFLUSHALL", &"q".repeat(129)] {
        api.get(&format!("/v1/queues/{queue}")).await.refused(422, "invalid");
        let path = format!("/v1/queues/{queue}/pause");
        api.send(request(Method::POST, &path, &[], "")).await.refused(422, "invalid");
    }
    for path in ["/v1/jobs?x=1", "/v1/leases?x", "/v1/queues/q/pause?now=true"] {
        let refused = api.post_with(path, &[], r#"{"kind":"a"}"#).await.refused(422, "invalid");
        assert!(refused["errors"][0]["parameter"].is_string(), "{refused}");
    }
    nothing_stored(&api).await;
}

/// Bodies without an end are refused at the limit, whatever they hold; nothing of them is kept.
#[tokio::test]
async fn bodies_without_an_end() {
    let api = Fixture::new().await;
    let opening = r#"{"kind":"a","payload":"#;
    for (piece, path) in [
        ("[", "/v1/jobs"),
        ("{\"a\":", "/v1/jobs"),
        ("\"x\",", "/v1/jobs"),
        (" ", "/v1/jobs"),
        ("[", "/v1/jobs/batch"),
        ("[", "/v1/jobs/actions"),
        ("[", "/v1/leases/settle"),
        ("[", "/v1/worker/reports"),
    ] {
        let piece = bytes::Bytes::from(piece.repeat(64 << 10));
        let first = Ok::<_, std::io::Error>(bytes::Bytes::from(opening));
        let rest = futures::stream::repeat_with(move || Ok(piece.clone()));
        let endless = futures::StreamExt::chain(futures::stream::iter([first]), rest);
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(Body::from_stream(endless))
            .unwrap();
        api.send(request).await.refused(413, "too_large");
    }
    nothing_stored(&api).await;
}

/// The budget for bodies is counted in bytes, not in pieces.
#[tokio::test]
async fn a_body_in_many_small_pieces_is_an_ordinary_body() {
    let api = Fixture::new().await;
    let text = format!(r#"{{"kind":"a","payload":"{}"}}"#, "x".repeat(300_000));
    let pieces =
        text.into_bytes().into_iter().map(|b| Ok::<_, std::io::Error>(bytes::Bytes::from(vec![b])));
    let request = Request::post("/v1/jobs")
        .header("content-type", "application/json")
        .body(Body::from_stream(futures::stream::iter(pieces)))
        .unwrap();
    api.send(request).await.expect(201);
}

/// A key stands for something in its own namespace only.
#[tokio::test]
async fn idempotency_keys_of_other_namespaces_are_others() {
    let api = Fixture::new().await;
    let post = |namespace: &'static str, kind: &str| {
        let headers = [("idempotency-key", "k"), ("windlass-namespace", namespace)];
        let body = json!({"kind": kind}).to_string();
        let request = request(Method::POST, "/v1/jobs", &headers, &body);
        api.send(request)
    };
    let one = post("one", "a").await;
    let two = post("two", "b").await;
    assert_eq!(two.header("idempotency-replayed"), "");
    assert_ne!(one.expect(201)["id"], two.expect(201)["id"]);
    post("two", "a").await.refused(422, "idempotency_key_reused");
}

/// What looks odd and is fine.
#[tokio::test]
async fn unusual_but_valid_input_is_taken() {
    let api = Fixture::new().await;
    for body in [
        r#"{"kind":"a","payload":18446744073709551616}"#.to_owned(),
        r#"{"kind":"a","payload":-0}"#.to_owned(),
        r#"{"kind":"a","payload":"\u0000"}"#.to_owned(),
        r#"{"kind":"a","payload":{"a":1,"a":2}}"#.to_owned(),
        format!(r#"{{"kind":"a","payload":{}{}}}"#, "[".repeat(64), "]".repeat(64)),
        "  \n{\"kind\" : \"a\"}\r\n".to_owned(),
        r#"{"kind":"a","queue":null,"delay":0,"tags":["é 🙂"]}"#.to_owned(),
        r#"{"kind":"a","delay":1.5,"timeout":"250ms"}"#.to_owned(),
        r#"{"\u006bind":"a"}"#.to_owned(),
    ] {
        let answer = api.post_with("/v1/jobs", &[], &body).await;
        assert_eq!(answer.status, 201, "{body}: {}", answer.text);
    }
}
