//! Client commands against a server that answers as the test says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::binary::{windlass, windlass_with};

/// One request, as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub line: String,
    headers: Vec<String>,
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|h| h.to_lowercase().starts_with(&format!("{name}:")));
        found.and_then(|h| h.split_once(':')).map(|(_, value)| value.trim())
    }
}

/// A server that gives these answers in order, one per connection, and notes what it was asked.
pub struct Server {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub fn answering(answers: Vec<(u16, &'static str, Value)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        // Ends with its last answer, or with the test's process.
        std::thread::spawn(move || {
            for (status, more, body) in answers {
                let (stream, _) = listener.accept().expect("a client");
                noted.lock().expect("whole").push(serve(stream, status, more, &body));
            }
        });
        Self { url, seen }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("whole").clone()
    }
}

fn serve(mut stream: std::net::TcpStream, status: u16, more: &str, body: &Value) -> Seen {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("text");
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let mut seen = Seen { line: lines.remove(0), headers: lines, body: String::new() };
    let length = seen.header("content-length").map_or(0, |v| v.parse().expect("a number"));
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).expect("a whole body");
    seen.body = String::from_utf8(bytes).expect("text");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n{more}\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).expect("sent");
    seen
}

const ID: &str = "0197b0a4-0000-7000-8000-000000000001";

#[test]
fn a_submission_carries_what_was_given_and_a_key_of_its_own() {
    let server = Server::answering(vec![(201, "", json!({ "id": ID, "state": "ready" }))]);
    let args = [
        "job",
        "submit",
        "echo",
        "--payload",
        "-",
        "--delay",
        "5m",
        "--tag",
        "a",
        "--tag",
        "b",
        "--unique-key",
        "u",
        "--on-conflict",
        "return-existing",
    ];
    let env = [("WINDLASS_URL", server.url.as_str()), ("WINDLASS_API_KEY", "secret")];
    let said = windlass_with(&args, &env, "{\"n\": 1}");
    assert_eq!((said.code, said.out.trim()), (0, ID), "{said:?}");
    let seen = &server.seen()[0];
    assert_eq!(seen.line, "POST /v1/jobs HTTP/1.1");
    assert_eq!(seen.header("authorization"), Some("Bearer secret"));
    assert!(seen.header("idempotency-key").is_some());
    let body: Value = serde_json::from_str(&seen.body).expect("JSON");
    let unique = json!({ "key": "u", "on_conflict": "return_existing" });
    let expected = json!({
        "kind": "echo", "payload": { "n": 1 }, "delay": "5m", "tags": ["a", "b"], "unique": unique
    });
    assert_eq!(body, expected);
}

/// Goal: a bulk retry sends what was chosen, under a key, and waits for its operation's end.
#[test]
fn a_bulk_retry_is_followed_to_its_end() {
    let operation = |state: &str, changed: u32, error: Value| {
        json!({
            "id": ID, "action": "retry", "state": state, "matched": 9, "changed": changed, "error": error,
        })
    };
    let env = |server: &Server| [("WINDLASS_URL", server.url.clone())];
    let run = |args: &[&str], env: &[(&str, String)]| {
        let env: Vec<(&str, &str)> = env.iter().map(|(name, v)| (*name, v.as_str())).collect();
        windlass(&[&["job", "retry-all"], args].concat(), &env)
    };
    let server = Server::answering(vec![
        (202, "", operation("running", 0, Value::Null)),
        (200, "", operation("running", 4, Value::Null)),
        (200, "", operation("succeeded", 9, Value::Null)),
    ]);
    let args =
        ["--state", "dead,expired", "--queue", "mail", "--tag", "a", "--rate", "7", "--wait"];
    let said = run(&args, &env(&server));
    assert!(said.code == 0 && said.out.contains("succeeded"), "{said:?}");
    let seen = server.seen();
    assert_eq!(seen[0].line, "POST /v1/jobs/actions HTTP/1.1");
    assert!(seen[0].header("idempotency-key").is_some());
    let filter = json!({ "states": ["dead", "expired"], "queue": "mail", "tags": ["a"] });
    let expected = json!({ "action": "retry", "filter": filter, "rate": 7, "dry_run": false });
    assert_eq!(serde_json::from_str::<Value>(&seen[0].body).expect("JSON"), expected);
    assert_eq!(seen[2].line, format!("GET /v1/operations/{ID} HTTP/1.1"));

    let stopped = operation("failed", 4, json!("its process was stopped"));
    let server = Server::answering(vec![(202, "", stopped)]);
    let said = run(&["--all", "--wait"], &env(&server));
    assert!(said.code == 3 && said.err.contains("its process was stopped"), "{said:?}");
}

#[test]
fn quotas_are_set_and_shown() {
    let view = json!({
        "namespace": "team-a", "rate": { "limit": 5, "per": "1s" }, "max_jobs": 9, "max_bytes": null,
        "used": { "rate": 0, "jobs": 3, "bytes": 0 },
    });
    let page = json!({ "items": [view.clone()], "next_cursor": null });
    let server = Server::answering(vec![(200, "", view), (200, "", page), (204, "", Value::Null)]);
    let env = [("WINDLASS_URL", server.url.as_str())];
    let rate = "{\"limit\": 5, \"per\": \"1s\"}";
    let said = windlass(&["quota", "set", "team-a", "--rate", rate, "--max-jobs", "9"], &env);
    assert!(said.code == 0 && said.out.contains("used.jobs"), "{said:?}");
    let said = windlass(&["quota", "list"], &env);
    assert!(said.out.contains("5 per 1s") && said.out.contains("3 of 9"), "{said:?}");
    assert_eq!(windlass(&["quota", "remove", "team-a"], &env).code, 0);
    let seen = server.seen();
    assert_eq!(seen[0].line, "PUT /v1/quotas/team-a HTTP/1.1");
    let sent: Value = serde_json::from_str(&seen[0].body).expect("JSON");
    assert_eq!(sent, json!({ "rate": { "limit": 5, "per": "1s" }, "max_jobs": 9 }));
    assert_eq!(seen[2].line, "DELETE /v1/quotas/team-a HTTP/1.1");
    assert_eq!(windlass(&["quota", "set", "team-a"], &env).code, 2);
    assert_eq!(windlass(&["quota", "set", "Team/../a", "--max-jobs", "1"], &env).code, 2);
}

#[test]
fn a_submission_refused_for_overload_is_sent_again_under_the_same_key() {
    let busy = json!({ "title": "busy", "code": "overloaded" });
    let server = Server::answering(vec![
        (503, "retry-after: 0\r\n", busy),
        (201, "", json!({ "id": ID, "state": "ready" })),
    ]);
    let said = windlass(&["job", "submit", "noop"], &[("WINDLASS_URL", &server.url)]);
    assert_eq!(said.code, 0, "{said:?}");
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].header("idempotency-key"), seen[1].header("idempotency-key"));
    assert_eq!(seen[0].body, seen[1].body);
}

#[test]
fn a_problem_is_shown_in_words_and_exits_1() {
    let problem = json!({
        "type": "about:blank", "title": "Unprocessable", "status": 422, "detail": "the job is not valid",
        "code": "invalid_request", "request_id": "r-1\u{1b}[2J",
        "errors": [{ "pointer": "/kind", "message": "must not be empty" }],
    });
    let server = Server::answering(vec![(422, "", problem)]);
    let said = windlass(&["job", "submit", "noop"], &[("WINDLASS_URL", &server.url)]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("the job is not valid (invalid_request, HTTP 422)"), "{}", said.err);
    assert!(said.err.contains("/kind: must not be empty"), "{}", said.err);
    assert!(said.err.contains("request r-1") && !said.err.contains('\u{1b}'), "{:?}", said.err);
}

#[test]
fn no_server_is_told_with_what_to_do() {
    // A port that was free a moment ago; nobody listens on it.
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let url = format!("http://user:canary@127.0.0.1:{port}");
    let said = windlass(&["job", "cancel", ID], &[("WINDLASS_URL", &url)]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("is `windlass dev` or `windlass api` running there"), "{}", said.err);
    assert!(!said.err.contains("canary"), "{}", said.err);
}

#[test]
fn waiting_for_a_job_that_dies_exits_3_and_goes_on_over_204() {
    let dead = json!({
        "id": ID, "state": "dead", "attempt": 5, "max_attempts": 5,
        "error": { "code": "boom", "message": "it broke", "retryable": false },
    });
    let server = Server::answering(vec![(204, "", Value::Null), (200, "", dead)]);
    let said = windlass(&["job", "wait", ID], &[("WINDLASS_URL", &server.url)]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.out.contains("boom: it broke"), "{said:?}");
    assert!(server.seen()[1].line.starts_with(&format!("GET /v1/jobs/{ID}/wait?timeout=30")));
}

#[test]
fn a_wait_ends_at_its_timeout_with_3() {
    let server = Server::answering(vec![(204, "", Value::Null)]);
    let said = windlass(&["job", "wait", ID, "--timeout", "0s"], &[("WINDLASS_URL", &server.url)]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.err.contains("is not finished yet"), "{said:?}");
}

#[test]
fn lists_are_tables_or_json_and_filters_reach_the_server() {
    let page = json!({
        "items": [{ "id": ID, "state": "dead", "queue": "default", "kind": "x\u{1b}[31m", "attempt": 5,
            "max_attempts": 5, "created_at": "2026-01-01T00:00:00.000Z", "error": { "code": "boom" } }],
        "next_cursor": "c1",
    });
    let server = Server::answering(vec![(200, "", page.clone()), (200, "", page.clone())]);
    let env = [("WINDLASS_URL", server.url.as_str())];
    let said = windlass(&["job", "list", "--state", "dead,expired", "--tag", "a&b"], &env);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.out.contains("5/5") && said.out.contains("boom") && said.out.contains("--cursor c1")
    );
    assert!(!said.out.contains('\u{1b}'), "{:?}", said.out);
    let line = &server.seen()[0].line;
    assert!(line.contains("state=dead%2Cexpired") && line.contains("tag=a%26b"), "{line}");
    let said = windlass(&["job", "list", "--output", "json"], &env);
    assert_eq!(serde_json::from_str::<Value>(&said.out).expect("JSON"), page);
}

#[test]
fn a_batch_with_a_rejected_line_says_which_and_exits_1() {
    let answer = json!({ "accepted": 1, "rejected": 1, "results": [
        { "index": 0, "id": ID, "state": "ready" },
        { "index": 1, "error": { "code": "invalid", "message": "kind is missing" } },
    ]});
    let server = Server::answering(vec![(200, "", answer)]);
    let lines = "{\"kind\": \"noop\"}\n{}\n";
    let env = [("WINDLASS_URL", server.url.as_str())];
    let said = windlass_with(&["job", "submit", "--batch", "-"], &env, lines);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.out.contains("accepted 1, rejected 1") && said.out.contains("line 2: kind is missing")
    );
    let seen = &server.seen()[0];
    assert_eq!(seen.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(seen.body, lines);
}
