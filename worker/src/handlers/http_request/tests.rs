//! Real requests to servers on loopback, and the ones that must never be sent.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::target::Lookup;
use super::*;
use crate::error::Cause;

const MINUTE: Duration = Duration::from_secs(60);

/// A failure's code, message, whether it is tried again, and after what pause.
type Failed = (String, String, bool, Option<Duration>);

async fn send(handler: &HttpRequest, payload: Value) -> Result<Value, Failed> {
    let stamp = Stamp {
        job_id: "job-7".into(),
        attempt: 2,
        fence: 9,
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
    };
    let result = match parse::<Args>(payload.to_string().as_bytes()) {
        Ok(args) => handler.perform(args, stamp, MINUTE).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(output) => Ok(serde_json::from_slice(output.bytes()).unwrap()),
        Err(HandlerError(Cause::Failed { error, retry_after, .. })) => {
            Err((error.code, error.message, error.retryable, retry_after))
        }
        Err(other) => panic!("{other:?}"),
    }
}

fn private() -> HttpRequest {
    HttpRequest::new(true).unwrap()
}

/// A server that reads one request per connection, notes it, and answers with these bytes.
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

/// What a server does after its answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Close,
    Reset,
    Hang,
    /// Goes on with zeros until the other side has enough.
    Flood,
}

impl Server {
    async fn answering(answer: impl Into<Vec<u8>>, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, notes) = (answer.into(), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), then, Arc::clone(&notes)));
            }
        });
        Self { address, seen }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, answer: Vec<u8>, then: Then, seen: Arc<Mutex<Vec<String>>>) {
    let mut request = Vec::new();
    let mut part = [0; 4096];
    while !is_whole(&request) {
        match stream.read(&mut part).await {
            Ok(read @ 1..) => request.extend_from_slice(&part[..read]),
            _ => break,
        }
    }
    seen.lock().unwrap().push(String::from_utf8(request).unwrap());
    let _ = stream.write_all(&answer).await;
    match then {
        Then::Close => {}
        Then::Reset => stream.set_zero_linger().unwrap(),
        Then::Hang => std::future::pending().await,
        Then::Flood => while stream.write_all(&[0; 4096]).await.is_ok() {},
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

fn answer(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_request_says_which_job_it_belongs_to() {
    let server = Server::answering(
        answer(
            "201 Created\r\nContent-Type: application/json\r\nX-A: 1\r\nX-A: 2",
            r#"{"id": 12345678901234567890123}"#,
        ),
        Then::Close,
    )
    .await;
    let payload = json!({
        "method": "post", "url": server.url("/hook?a=b%20c"), "query": {"n": 5, "q": "x&y", "t": true},
        "headers": {"X-Own": "yes"}, "json": {"order": [1.50]}, "expect_status": [201],
    });
    let output = send(&private(), payload).await.unwrap();
    assert_eq!(output["status"], 201);
    assert_eq!(output["headers"]["x-a"], "1, 2");
    // As it came: no number is rounded.
    assert!(output.to_string().contains(r#""json":{"#));
    let seen = server.seen();
    let (head, body) = seen[0].split_once("\r\n\r\n").unwrap();
    assert_eq!(body, r#"{"order":[1.5]}"#);
    let mut lines: Vec<&str> = head.lines().collect();
    assert_eq!(lines.remove(0), "POST /hook?a=b%20c&n=5&q=x%26y&t=true HTTP/1.1");
    lines.sort_unstable();
    assert_eq!(
        lines.join("\n"),
        format!(
            "accept: */*\ncontent-length: {}\ncontent-type: application/json\nhost: {}\nidempotency-key: job-7\n\
             traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\nuser-agent: windlass\n\
             windlass-attempt: 2\nwindlass-fence: 9\nwindlass-job-id: job-7\nx-own: yes",
            body.len(),
            server.address
        )
    );
}

#[tokio::test]
async fn a_caller_can_choose_its_idempotency_key_and_content_type() {
    let server = Server::answering(answer("200 OK", "fine"), Then::Close).await;
    let headers = json!({"Idempotency-Key": "own", "Content-Type": "application/vnd.x+json"});
    let payload = json!({"method": "PUT", "url": server.url("/"), "headers": headers, "json": 1});
    let output = send(&private(), payload).await.unwrap();
    assert_eq!((&output["body"], &output["truncated"]), (&"fine".into(), &Value::Null));
    let seen = server.seen();
    assert!(
        seen[0].contains("idempotency-key: own\r\n")
            && seen[0].contains("content-type: application/vnd.x+json\r\n")
    );
    assert!(!seen[0].contains("idempotency-key: job-7"));
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let inner = Server::answering(answer("200 OK", "secret"), Then::Close).await;
    for (status, location) in [
        ("302 Found", inner.url("/")),
        ("307 Temporary Redirect", inner.url("/")),
        ("301 Moved", "http://169.254.169.254/".into()),
        ("302 Found", "file:///etc/passwd".into()),
        ("302 Found", "gopher://127.0.0.1:6379/".into()),
    ] {
        let outer = Server::answering(
            answer(&format!("{status}\r\nLocation: {location}"), ""),
            Then::Close,
        )
        .await;
        let payload = json!({"method": "POST", "url": outer.url("/"), "body": "kept"});
        let (code, _, retryable, _) = send(&private(), payload.clone()).await.unwrap_err();
        assert_eq!(
            (code.as_str(), retryable),
            (format!("http_status_{}", &status[..3]).as_str(), false)
        );
        let mut wanted = payload;
        wanted["expect_status"] = json!("3xx");
        let output = send(&private(), wanted).await.unwrap();
        assert_eq!(output["headers"]["location"], location);
        assert_eq!(outer.seen().len(), 2);
    }
    assert_eq!(inner.seen(), [""; 0]);
}

#[tokio::test]
async fn a_status_decides_whether_it_is_tried_again() {
    for (head, retryable, pause) in [
        ("400 Bad Request", false, None),
        ("404 Not Found\r\nRetry-After: 7", false, None),
        ("408 Request Timeout", true, None),
        ("425 Too Early", true, None),
        ("429 Too Many Requests\r\nRetry-After: 120", true, Some(Duration::from_secs(120))),
        ("500 Oops", true, None),
        (
            "503 Busy\r\nRetry-After: Wed, 21 Oct 2099 07:28:00 GMT",
            true,
            Some(Duration::from_secs(24 * 3600)),
        ),
        ("503 Busy\r\nRetry-After: Wed, 21 Oct 2015 07:28:00 GMT", true, Some(Duration::ZERO)),
        ("503 Busy\r\nRetry-After: later", true, None),
    ] {
        let server = Server::answering(answer(head, "the\nreason"), Then::Close).await;
        let failed = send(&private(), json!({"url": server.url("/")})).await.unwrap_err();
        let status = &head[..3];
        let message = format!("the answer had status {status}: the\\nreason");
        assert_eq!(failed, (format!("http_status_{status}"), message, retryable, pause), "{head}");
    }
    let server = Server::answering(answer("404 Not Found", ""), Then::Close).await;
    let wanted = json!({"url": server.url("/"), "expect_status": [200, 404]});
    assert_eq!(send(&private(), wanted).await.unwrap()["status"], 404);
    let server = Server::answering(answer("200 OK", ""), Then::Close).await;
    let unwanted = json!({"url": server.url("/"), "expect_status": 204});
    assert_eq!(send(&private(), unwanted).await.unwrap_err().0, "http_status_200");
}

#[tokio::test]
async fn answers_that_do_not_end_are_given_up() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
    for begun in ["", "HTTP/1.1 200", head, &format!("{head}x")] {
        let server = Server::answering(begun, Then::Hang).await;
        let started = Instant::now();
        let failed = send(&private(), json!({"url": server.url("/"), "timeout": "200ms"}))
            .await
            .unwrap_err();
        assert_eq!(
            failed,
            ("http_timeout".into(), "no complete answer within 200ms".into(), true, None)
        );
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn the_limit_of_the_job_bounds_the_limit_of_the_request() {
    let server = Server::answering("", Then::Hang).await;
    let args =
        parse::<Args>(json!({"url": server.url("/"), "timeout": "1h"}).to_string().as_bytes())
            .unwrap();
    let stamp = Stamp { job_id: "j".into(), attempt: 1, fence: 1, traceparent: None };
    let result = private().perform(args, stamp, Duration::from_millis(100)).await;
    let Err(HandlerError(Cause::Failed { error, .. })) = result else { panic!("{result:?}") };
    assert_eq!(error.code, "http_timeout");
}

#[tokio::test]
async fn endless_bodies_are_cut_and_not_read_on() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n";
    for head in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n",
        chunked,
    ] {
        let server = Server::answering(head, Then::Flood).await;
        let output = send(&private(), json!({"url": server.url("/")})).await.unwrap();
        assert_eq!(output["truncated"], true, "{head}");
        assert!(output.to_string().len() <= windlass_shared::limits::VALUE_BYTES_MAX);
    }
}

#[tokio::test]
async fn a_compressed_body_is_not_blown_up() {
    let head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n";
    let server =
        Server::answering([head.as_bytes(), &[0x1f, 0x8b, 0x08, 0xff]].concat(), Then::Close).await;
    let output = send(&private(), json!({"url": server.url("/")})).await.unwrap();
    assert_eq!(output["body_base64"], "H4sI/w==");
    assert!(!server.seen()[0].to_lowercase().contains("accept-encoding"));
}

#[tokio::test]
async fn broken_answers_are_tried_again() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nxxxxx";
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-A: b\r\n".repeat(200));
    let long = format!("HTTP/1.1 200 OK\r\nX-A: {}\r\n\r\n", "b".repeat(1 << 20));
    for (bytes, then) in [
        (half, Then::Close),
        (half, Then::Reset),
        ("", Then::Close),
        ("SSH-2.0-OpenSSH_9.2\r\n", Then::Close),
        ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", Then::Close),
        (&many, Then::Close),
        (&long, Then::Close),
    ] {
        let server = Server::answering(bytes, then).await;
        let failed =
            send(&private(), json!({"url": server.url("/?token=canary")})).await.unwrap_err();
        assert_eq!((failed.0.as_str(), failed.2), ("http_body", true), "{failed:?}");
        assert!(!failed.1.contains("canary"), "{}", failed.1);
    }
}

#[tokio::test]
async fn a_connection_that_fails_is_tried_again_and_tells_no_secret() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let not_tls = plain.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    for url in [
        format!("http://{unused}/hooks/canary?token=canary"),
        format!("https://{not_tls}/canary?token=canary"),
    ] {
        let failed =
            send(&private(), json!({"url": url, "query": {"key": "canary"}})).await.unwrap_err();
        assert_eq!((failed.0.as_str(), failed.2), ("http_connect", true), "{failed:?}");
        assert!(!failed.1.contains("canary") && failed.1.contains(": "), "{}", failed.1);
    }
}

#[tokio::test]
async fn hostile_targets_are_refused_for_good_before_anything_is_sent() {
    let public = HttpRequest::new(false).unwrap();
    for (url, code) in [
        ("http://127.0.0.1:6379/", "http_blocked_address"),
        ("http://localhost", "http_blocked_address"),
        ("http://0.0.0.0", "http_blocked_address"),
        ("http://[::]", "http_blocked_address"),
        ("http://[::1]", "http_blocked_address"),
        ("http://0/", "invalid_payload"),
        ("http://2130706433/", "invalid_payload"),
        ("http://0x7f.1", "invalid_payload"),
        ("http://0177.0.0.1", "invalid_payload"),
        ("http://127.1", "invalid_payload"),
        ("http://①②⑦.0.0.1", "invalid_payload"),
        ("http://[::ffff:127.0.0.1]", "http_blocked_address"),
        ("http://[::ffff:7f00:1]", "http_blocked_address"),
        ("http://[::127.0.0.1]", "http_blocked_address"),
        ("http://[64:ff9b::a9fe:a9fe]", "http_blocked_address"),
        ("http://[64:ff9b:1::7f00:1]", "http_blocked_address"),
        ("http://[2002:7f00:1::]", "http_blocked_address"),
        ("http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]", "http_blocked_address"),
        ("http://[fe80::1%25eth0]", "invalid_payload"),
        ("http://[fe80::1]", "http_blocked_address"),
        ("http://[fd00::1]", "http_blocked_address"),
        ("http://[fec0::1]", "http_blocked_address"),
        ("http://[5f00::1]", "http_blocked_address"),
        ("http://[100::1]", "http_blocked_address"),
        ("http://[3fff::1]", "http_blocked_address"),
        ("http://169.254.169.254", "http_blocked_address"),
        ("http://100.100.100.200", "http_blocked_address"),
        ("http://metadata.google.internal", "http_blocked_address"),
        ("http://168.63.129.16", "http_blocked_address"),
        ("http://100.64.0.1", "http_blocked_address"),
        ("http://192.0.0.1", "http_blocked_address"),
        ("http://198.18.0.1", "http_blocked_address"),
        ("http://192.88.99.1", "http_blocked_address"),
        ("http://224.0.0.1", "http_blocked_address"),
        ("http://240.0.0.1", "http_blocked_address"),
        ("http://255.255.255.255", "http_blocked_address"),
        ("http://user:pass@host", "invalid_payload"),
        ("http://ok#@127.0.0.1", "invalid_payload"),
        ("http://ok\\@127.0.0.1", "invalid_payload"),
        ("http://127.0.0.1%2f@ok", "invalid_payload"),
        ("http://exam\tple.com", "invalid_payload"),
        ("http://example.com/\n", "invalid_payload"),
        ("file:///etc/passwd", "invalid_payload"),
        ("gopher://127.0.0.1:6379/_FLUSHALL", "invalid_payload"),
        ("redis://127.0.0.1", "invalid_payload"),
    ] {
        let failed = send(&public, json!({"url": url})).await.expect_err(url);
        assert_eq!((failed.0.as_str(), failed.2), (code, false), "{url}: {}", failed.1);
    }
    let server = Server::answering(answer("200 OK", ""), Then::Close).await;
    let failed = send(&public, json!({"url": server.url("/")})).await.unwrap_err();
    assert_eq!(failed.0, "http_blocked_address");
    assert_eq!(server.seen(), [""; 0]);
}

/// A handler whose names lead to these addresses, one list per lookup; the last stays.
fn resolving(reach: Reach, answers: &[&[&str]]) -> HttpRequest {
    let answers: Vec<Vec<SocketAddr>> = answers
        .iter()
        .map(|list| {
            list.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 0)).collect()
        })
        .collect();
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let lookup: Lookup = Arc::new(move |_| {
        let n = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let found = answers[n.min(answers.len() - 1)].clone();
        Box::pin(async move { Ok(found) })
    });
    HttpRequest::with_resolver(CheckedResolver { reach, lookup }).unwrap()
}

#[tokio::test]
async fn names_that_lead_inside_are_refused() {
    let server = Server::answering(answer("200 OK", ""), Then::Close).await;
    let port = server.address.port();
    for addresses in [
        &["127.0.0.1"][..],
        &["8.8.8.8", "127.0.0.1"],
        &["127.0.0.1", "8.8.8.8"],
        &["8.8.8.8", "::ffff:127.0.0.1"],
        &["8.8.8.8", "fd00::1"],
        &["169.254.169.254"],
    ] {
        let handler = resolving(Reach::Public, &[addresses]);
        let url = format!("http://name.example:{port}/");
        let failed = send(&handler, json!({"url": url})).await.unwrap_err();
        assert_eq!(
            (failed.0.as_str(), failed.2),
            ("http_blocked_address", false),
            "{addresses:?}: {}",
            failed.1
        );
        assert!(!addresses.iter().any(|address| failed.1.contains(address)), "{}", failed.1);
    }
    assert_eq!(server.seen(), [""; 0]);
}

#[tokio::test]
async fn a_name_that_changes_is_checked_at_each_connection() {
    let server = Server::answering(answer("200 OK\r\nConnection: close", "ok"), Then::Close).await;
    let handler = resolving(Reach::Private, &[&["127.0.0.1"], &["169.254.169.254"]]);
    let payload = json!({"url": format!("http://name.example:{}/", server.address.port())});
    assert_eq!(send(&handler, payload.clone()).await.unwrap()["body"], "ok");
    assert_eq!(send(&handler, payload).await.unwrap_err().0, "http_blocked_address");
    let seen = server.seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].contains(&format!("host: name.example:{}\r\n", server.address.port())));
}

#[tokio::test]
async fn a_name_without_an_address_is_tried_again() {
    let handler = resolving(Reach::Public, &[&[]]);
    let failed = send(&handler, json!({"url": "http://name.example/"})).await.unwrap_err();
    assert_eq!((failed.0.as_str(), failed.2), ("http_connect", true), "{}", failed.1);
}

#[tokio::test]
async fn payloads_that_make_no_request_are_refused() {
    let server = Server::answering(answer("200 OK", ""), Then::Close).await;
    let url = server.url("/");
    let mut payloads = vec![
        json!({}),
        json!({"url": 7}),
        json!({"url": url, "method": "CONNECT"}),
        json!({"url": url, "method": "GET / HTTP/1.1\r\nX: y"}),
        json!({"url": url, "follow": true}),
        json!({"url": url, "json": 1, "body": "1"}),
        json!({"url": url, "timeout": 0}),
        json!({"url": url, "expect_status": "ok"}),
        json!({"url": url, "headers": {"a b": "c"}}),
        json!({"url": url, "headers": {"": "c"}}),
        json!({"url": url, "headers": {":path": "/"}}),
        json!({"url": url, "headers": {"X": "a\r\nHost: b"}}),
        json!({"url": url, "headers": {"X": "a\u{0}"}}),
        json!({"url": url, "headers": {"X": "a".repeat(40 << 10)}}),
        json!({"url": url, "headers": (0..65).map(|n| (format!("x-{n}"), json!("1"))).collect::<serde_json::Map<_, _>>()}),
    ];
    payloads.extend(
        [
            "Host",
            "content-length",
            "Transfer-Encoding",
            "Connection",
            "Upgrade",
            "TE",
            "Trailer",
            "Keep-Alive",
            "Expect",
            "Proxy-Authorization",
            "Proxy-Connection",
            "Windlass-Job-Id",
            "windlass-fence",
            "Windlass-X",
        ]
        .map(|name| json!({"url": url, "headers": {name: "x"}})),
    );
    let private = private();
    for payload in payloads {
        let failed = send(&private, payload.clone()).await.unwrap_err();
        assert_eq!(
            (failed.0.as_str(), failed.2),
            ("invalid_payload", false),
            "{payload}: {}",
            failed.1
        );
    }
    assert_eq!(server.seen(), [""; 0]);
}
