//! `http.request` against a server that says what a test tells it to.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use windlass_shared::engine::Ended;

use crate::fixture::{Ending, Rig, Running, spec};

/// Answers every connection with one text, and keeps what it was asked.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// `answer` is sent as it is; then the connection stays open if `hang`.
    async fn start(answer: impl Into<Vec<u8>>, hang: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (answer, seen) = (answer.into(), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut socket, _)) = listener.accept().await {
                let asked = request(&mut socket).await;
                seen.lock().unwrap().push(asked);
                // The client may have enough before the end.
                let _ = socket.write_all(&answer).await;
                if hang {
                    open.push(socket);
                }
            }
        });
        Self { url, asked, task }
    }

    fn asked(&self) -> String {
        self.asked.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

/// Reads a head and as much body as it announces.
async fn request(socket: &mut tokio::net::TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = socket.read(&mut buffer).await.unwrap_or(0);
        text.extend_from_slice(&buffer[..read]);
        let all = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = all.split_once("\r\n\r\n") else {
            assert!(read > 0, "the request ends early: {all}");
            continue;
        };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |n| n.parse().unwrap()) {
            return all;
        }
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

async fn rig(allow_private: bool) -> (Rig, Running) {
    let mut rig = Rig::new().await;
    rig.settings.http_allow_private = allow_private;
    let worker = rig.start(|b| b);
    (rig, worker)
}

async fn once(rig: &mut Rig, payload: Json) -> Ending {
    let id = rig.push("http.request", payload, spec(2)).await;
    rig.first(id).await
}

#[tokio::test]
async fn a_request_carries_what_it_was_told_and_which_job_it_is_for() {
    let (mut rig, worker) = rig(true).await;
    let server = Server::start(
        answer(
            "201 Created",
            "content-type: application/json\r\nx-a: b\r\n",
            "{\"id\": 12345678901234567890}",
        ),
        false,
    )
    .await;
    let payload = json!({
        "method": "post", "url": format!("{}/path?x=1", server.url), "headers": {"x-mine": "yes"},
        "query": {"q": "a b", "n": 3, "t": true}, "json": {"big": 9007199254740993u64},
    });
    let id = rig.push("http.request", payload, spec(1)).await;
    let end = rig.last(id).await;
    assert_eq!(end.ended, Ended::Succeeded, "{end:?}");
    let output = end.output();
    assert_eq!((&output["status"], &output["headers"]["x-a"]), (&json!(201), &json!("b")));
    assert_eq!(output["json"]["id"], json!(12345678901234567890u64));
    let asked = server.asked();
    assert!(asked.starts_with("POST /path?x=1&n=3&q=a+b&t=true HTTP/1.1\r\n"), "{asked}");
    for part in [
        "x-mine: yes\r\n",
        "content-type: application/json\r\n",
        "{\"big\":9007199254740993}",
        &format!("windlass-job-id: {id}\r\n"),
        &format!("idempotency-key: {id}\r\n"),
        "windlass-fence: ",
        "windlass-attempt: 1\r\n",
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
    ] {
        assert!(asked.contains(part), "{part} is missing in {asked}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn statuses_decide_between_success_retry_and_death() {
    let (mut rig, worker) = rig(true).await;
    for (status, headers, expect, want) in [
        ("204 No Content", "", json!(null), "ok"),
        ("404 Not Found", "", json!(404), "ok"),
        ("404 Not Found", "", json!([200, 404]), "ok"),
        ("404 Not Found", "", json!(null), "dead http_status_404"),
        ("200 OK", "", json!(201), "dead http_status_200"),
        ("400 Bad Request", "", json!(null), "dead http_status_400"),
        ("408 Request Timeout", "", json!(null), "retry http_status_408"),
        ("425 Too Early", "", json!(null), "retry http_status_425"),
        ("500 Oops", "", json!(null), "retry http_status_500"),
        ("503 Busy", "retry-after: 120\r\n", json!(null), "later http_status_503"),
        (
            "429 Slow",
            "retry-after: Fri, 31 Dec 2100 23:59:59 GMT\r\n",
            json!(null),
            "later http_status_429",
        ),
    ] {
        let server = Server::start(answer(status, headers, ""), false).await;
        let end = once(&mut rig, json!({"url": server.url, "expect_status": expect})).await;
        let got = match end.ended {
            Ended::Succeeded => "ok".to_owned(),
            Ended::Dead => format!("dead {}", end.code()),
            Ended::Retry(at) if at >= end.at.plus(Duration::from_secs(119)) => {
                format!("later {}", end.code())
            }
            Ended::Retry(_) => format!("retry {}", end.code()),
            other => format!("{other:?}"),
        };
        assert_eq!(got, want, "{status} {expect}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn redirects_are_answers_and_not_followed() {
    let (mut rig, worker) = rig(true).await;
    let other = Server::start(answer("200 OK", "", "secret"), false).await;
    for status in ["302 Found", "307 Temporary Redirect"] {
        let location = format!("location: {}\r\n", other.url);
        let server = Server::start(answer(status, &location, ""), false).await;
        let end = once(&mut rig, json!({"url": server.url, "method": "POST", "body": "x"})).await;
        let code = format!("http_status_{}", &status[..3]);
        assert_eq!((end.ended, end.code()), (Ended::Dead, code.as_str()));
    }
    assert_eq!(other.asked(), "");
    worker.stop().await;
}

#[tokio::test]
async fn payloads_that_would_break_out_are_refused_for_good() {
    let (mut rig, worker) = rig(true).await;
    let server = Server::start(answer("200 OK", "", ""), false).await;
    for (field, value) in [
        ("headers", json!({"x": "a\r\nhost: b"})),
        ("headers", json!({"x\r\ny": "a"})),
        ("headers", json!({"Host": "b"})),
        ("headers", json!({"content-length": "1"})),
        ("headers", json!({"Transfer-Encoding": "chunked"})),
        ("headers", json!({"connection": "close"})),
        ("headers", json!({"Windlass-Fence": "1"})),
        ("headers", json!({"Proxy-Authorization": "x"})),
        ("method", json!("CONNECT")),
        ("method", json!("GET /x HTTP/1.1\r\n")),
        ("redirect", json!(true)),
        ("body", json!("both")),
    ] {
        let mut payload = json!({"url": server.url, "json": 1});
        payload[field] = value;
        let end = once(&mut rig, payload.clone()).await;
        assert_eq!((end.ended, end.code()), (Ended::Dead, "invalid_payload"), "{payload}");
    }
    assert_eq!(server.asked(), "");
    worker.stop().await;
}

#[tokio::test]
async fn inner_addresses_are_refused_for_good_before_anything_is_sent() {
    let (mut rig, worker) = rig(false).await;
    let server = Server::start(answer("200 OK", "", ""), false).await;
    let port = server.url.rsplit_once(':').unwrap().1.to_owned();
    for (host, code) in [
        ("127.0.0.1", "http_blocked_address"),
        ("localhost", "http_blocked_address"),
        ("[::ffff:7f00:1]", "http_blocked_address"),
        ("[::1]", "http_blocked_address"),
        ("2130706433", "invalid_payload"),
        ("0x7f.1", "invalid_payload"),
    ] {
        let end = once(&mut rig, json!({"url": format!("http://{host}:{port}/")})).await;
        assert_eq!((end.ended, end.code()), (Ended::Dead, code), "{host}");
    }
    assert_eq!(server.asked(), "");
    worker.stop().await;
}

#[tokio::test]
async fn a_bad_peer_costs_one_attempt_and_little_memory() {
    let (mut rig, worker) = rig(true).await;
    let refused = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let end = once(&mut rig, json!({"url": refused})).await;
    assert_eq!(end.code(), "http_connect");
    let silent = Server::start("", true).await;
    let end = once(&mut rig, json!({"url": silent.url, "timeout": "100ms"})).await;
    assert_eq!(end.code(), "http_timeout");
    let trickle = Server::start("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc", true).await;
    let end = once(&mut rig, json!({"url": trickle.url, "timeout": "100ms"})).await;
    assert_eq!(end.code(), "http_timeout");
    let cut = Server::start("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc", false).await;
    let end = once(&mut rig, json!({"url": cut.url})).await;
    assert_eq!(end.code(), "http_body", "{end:?}");
    let nonsense = Server::start("SSH-2.0-OpenSSH\r\n", false).await;
    let end = once(&mut rig, json!({"url": nonsense.url})).await;
    assert_eq!(end.code(), "http_body", "{end:?}");
    assert!(matches!(end.ended, Ended::Retry(_)));
    assert!(!end.message().contains("127.0.0.1"), "{}", end.message());
    let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    endless.resize(4 << 20, b'x');
    let server = Server::start(endless, true).await;
    let id = rig.push("http.request", json!({"url": server.url}), spec(1)).await;
    let end = rig.last(id).await;
    assert_eq!(end.ended, Ended::Succeeded);
    worker.stop().await;
}
