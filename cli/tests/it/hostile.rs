//! Bad input against the real process: clear refusals, nothing lost, memory flat.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::binary::{Dev, SOON, until, windlass_with};

/// By so much the most memory that the process ever held may exceed what it held before, in KiB. What 200
/// bodies of 1.25 MiB leave behind, or eight of 32 MiB, would be 256 MiB and more.
const GROWTH_MAX_KIB: u64 = 128 << 10;
/// Callers at once.
const CALLERS: usize = 8;
/// Bodies that they send.
const BODIES: usize = 200;
/// Connections that send half a request and then nothing.
const SLOW: usize = 100;
/// More than a job's body may have.
const JOB: usize = 1_400_000;

fn connect(dev: &Dev) -> TcpStream {
    let address = dev.url.strip_prefix("http://").expect("an address");
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("a socket");
    stream.set_write_timeout(Some(SOON)).expect("a socket");
    stream
}

fn head(path: &str, more: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Connection: close\r\n{more}\r\n"
    )
}

/// The status and the code of what the server said before it closed.
fn said(stream: &mut TcpStream) -> (u16, String) {
    let mut bytes = Vec::new();
    // A reset after the answer is as good as a close.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let problem: Value = serde_json::from_str(body).unwrap_or_default();
    (status, problem["code"].as_str().unwrap_or(&text).to_owned())
}

/// With a declared length.
fn whole(dev: &Dev, path: &str, more: &str, body: &str) -> (u16, String) {
    let mut stream = connect(dev);
    let length = format!("Content-Length: {}\r\n{more}", body.len());
    // The server may refuse, and close, before all is written.
    let _ = stream.write_all((head(path, &length) + body).as_bytes());
    said(&mut stream)
}

/// In chunks without a declared length, `size` bytes of `piece` over and over, and never an end.
fn endless(dev: &Dev, path: &str, piece: &str, size: usize) -> (u16, String) {
    let mut stream = connect(dev);
    let piece = piece.repeat((32 << 10) / piece.len());
    let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
    let _ = stream.write_all(head(path, "Transfer-Encoding: chunked\r\n").as_bytes());
    for _ in 0..size.div_ceil(piece.len()) {
        if stream.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    said(&mut stream)
}

/// One of the bad bodies, and the refusal that it must get.
fn bad_body(dev: &Dev, n: usize) -> ((u16, String), (u16, &'static str)) {
    let text = |payload: String| format!(r#"{{"kind":"bad","payload":{payload}}}"#);
    let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
    match n % 10 {
        0 => (endless(dev, "/v1/jobs", "[", JOB), (413, "too_large")),
        1 => (endless(dev, "/v1/jobs", "{\"kind\":", JOB), (413, "too_large")),
        2 => (endless(dev, "/v1/jobs", " ", JOB), (413, "too_large")),
        3 => (whole(dev, "/v1/jobs", "", &text("[".repeat(1_000_000))), (400, "invalid_json")),
        4 => (whole(dev, "/v1/jobs", "", &text(nested(500_000))), (400, "too_deep")),
        5 => {
            let key = format!(r#"{{"kind":"bad","{}":1}}"#, "k".repeat(1_000_000));
            (whole(dev, "/v1/jobs", "", &key), (422, "invalid"))
        }
        6 => {
            let keys: String = (0..90_000).map(|i| format!(r#","k{i}":1"#)).collect();
            (whole(dev, "/v1/jobs", "", &format!(r#"{{"kind":"bad"{keys}}}"#)), (422, "invalid"))
        }
        7 => {
            let text = text(format!("{:?}", "x".repeat(JOB)));
            (whole(dev, "/v1/jobs", "", &text), (413, "too_large"))
        }
        8 => {
            let bomb = "Content-Encoding: gzip\r\n";
            (whole(dev, "/v1/jobs", bomb, &"x".repeat(10_000)), (415, "unsupported_media_type"))
        }
        _ => {
            let jobs = vec![json!({"kind": "bad", "weight": 0}); 2_000];
            let body = json!({"jobs": jobs}).to_string();
            (whole(dev, "/v1/jobs/batch?atomic=true", "", &body), (422, "invalid"))
        }
    }
}

/// Half of a request each: of a head, of a declared body, of a chunked one.
fn slow_callers(dev: &Dev) -> Vec<TcpStream> {
    let half_bodies = [
        head("/v1/jobs", "Content-Length: 1000000\r\n") + "{\"kind\":\"bad\"",
        head("/v1/jobs", "Transfer-Encoding: chunked\r\n") + "4\r\n{\"ki\r\n",
        head("/v1/jobs/batch", "Content-Length: 30000000\r\n") + &"[".repeat(200_000),
    ];
    (0..SLOW)
        .map(|n| {
            let mut stream = connect(dev);
            let half = half_bodies.get(n % 4).map_or("POST /v1/jo", String::as_str);
            stream.write_all(half.as_bytes()).expect("it is taken");
            stream
        })
        .collect()
}

fn memory_kib(dev: &Dev, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", dev.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("Linux says it");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("KiB")
}

/// Goal: no input makes the process fail, lose a job, or keep memory. Method: jobs first; then, while many
/// connections hold half a request, 200 bodies that are too large, endless, too deep or wrong; then the
/// refusals, the jobs, and the highest memory of the process in all that time are looked at.
#[test]
fn a_storm_of_bad_input_costs_neither_jobs_nor_memory() {
    let data = tempfile::tempdir().expect("a folder");
    let bounds = [("WINDLASS_API__HEAD_TIMEOUT", "3s"), ("WINDLASS_API__BODY_TIMEOUT", "10s")];
    let mut dev = Dev::start(data.path(), &bounds);
    let lines = "{\"kind\": \"noop\"}\n".repeat(500);
    let submit = ["job", "submit", "--batch", "-"];
    let submitted = windlass_with(&submit, &[("WINDLASS_URL", &dev.url)], &lines);
    assert_eq!(submitted.code, 0, "{submitted:?}");
    // What every process does once is done before it is measured.
    for n in 0..10 {
        bad_body(&dev, n);
    }

    let before = memory_kib(&dev, "VmRSS:");
    // Forgets the highest mark so far.
    std::fs::write(format!("/proc/{}/clear_refs", dev.pid()), "5").expect("Linux allows it");
    let mut slow = slow_callers(&dev);
    let next = Mutex::new(0..BODIES);
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                loop {
                    let n = next.lock().expect("no caller panics while it holds it").next();
                    let Some(n) = n else { break };
                    let ((status, code), expected) = bad_body(&dev, n);
                    assert_eq!((status, code.as_str()), expected, "body {n}");
                }
            });
        }
    });
    println!("{} KiB after the small ones", memory_kib(&dev, "VmHWM:"));
    // The largest that there are, one at a time.
    for _ in 0..8 {
        let refused = endless(&dev, "/v1/jobs/batch", "[", (32 << 20) + 100_000);
        assert_eq!(refused, (413, "too_large".to_owned()));
    }
    for (n, stream) in slow.iter_mut().enumerate() {
        let (status, code) = said(stream);
        let expected = if n % 4 == 3 { status == 0 } else { status == 408 };
        assert!(expected, "slow caller {n}: {status} {code}");
    }
    let peak = memory_kib(&dev, "VmHWM:");
    println!(
        "memory: {before} KiB before, at most {peak} KiB since, {} KiB now",
        memory_kib(&dev, "VmRSS:")
    );
    assert!(peak <= before + GROWTH_MAX_KIB, "{before} KiB before, then {peak} KiB");

    let bad = dev.run(&["job", "list", "--kind", "bad", "--output", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&bad.out).expect("JSON")["items"], json!([]));
    until("every job of before has succeeded", || {
        let args = ["job", "list", "--state", "succeeded", "--limit", "500", "--output", "json"];
        let page: Value = serde_json::from_str(&dev.run(&args).out).expect("JSON");
        (page["items"].as_array().expect("a list").len() == 500).then_some(())
    });
    assert_eq!(dev.run(&["job", "submit", "noop", "--wait"]).code, 0);
    dev.signal("TERM");
    assert_eq!(dev.ended().code(), Some(0));
}
