//! Reports over HTTP, against a server that remembers and answers as told; and straight to a ledger.

use std::sync::Arc;

use bytes::Bytes;
use secrecy::SecretString;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_shared::clock::Clock;
use windlass_shared::config::LedgerSettings;
use windlass_shared::engine::embedded::Embedded;
use windlass_shared::engine::envelope::{Detail, DetailHead};
use windlass_shared::engine::{Engine, Verdict};
use windlass_shared::ledger::Ledger;
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::id::{BlobId, Fence, JobId, LeaseId, LedgerId, WorkerId};
use windlass_shared::model::job::{JobError, Value};
use windlass_shared::model::name::Namespace;
use windlass_shared::model::time::Timestamp;
use windlass_worker::reporter::http::HttpReporter;
use windlass_worker::reporter::ledger::LedgerReporter;
use windlass_worker::reporter::{
    Beat, DirectOutcome, DirectReply, Left, LogEntry, ProgressEntry, Report, ReportError,
    ReportReply, Reporter,
};

/// Answers each request in turn with a status and a body; what was asked, once all are answered.
async fn server(
    answers: Vec<(u16, &'static str)>,
) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let mut asked = Vec::new();
        for (status, body) in answers {
            let (mut socket, _) = listener.accept().await.unwrap();
            asked.push(request(&mut socket).await);
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        }
        asked
    });
    (url, task)
}

async fn request(socket: &mut TcpStream) -> String {
    let mut text = String::new();
    loop {
        let mut buffer = [0; 4096];
        let read = socket.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the request ends early: {text}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |n| n.parse().unwrap()) {
            return text;
        }
    }
}

/// A life of jobs on a ledger and an empty engine.
fn life(ledger: &Ledger) -> Lifecycle {
    let engine = Engine::Embedded(Arc::new(Embedded::new(Clock::System)));
    let (ended, tasks) = (CancellationToken::new(), TaskTracker::new());
    Lifecycle::start(ledger.clone(), engine, Clock::System, ended, tasks)
}

fn report() -> Report {
    let job_id = JobId::generate();
    Report {
        worker: Beat {
            id: WorkerId::generate(),
            name: "w".into(),
            host: "h".into(),
            version: "1".into(),
            queues: vec!["default".parse().unwrap()],
            kinds: vec!["noop".parse().unwrap()],
            concurrency: 4,
            running: 1,
            started_at: Timestamp::from_millis(1_000),
        },
        logs: vec![LogEntry {
            job_id,
            attempt: 1,
            at: Timestamp::from_millis(2_000),
            level: "info".into(),
            message: "hello".into(),
        }],
        progress: vec![ProgressEntry { job_id, fence: Fence(7), percent: 12.5, message: None }],
    }
}

fn reporter(url: &str) -> HttpReporter {
    HttpReporter::new(url, Some(SecretString::from("sesame".to_owned()))).unwrap()
}

#[tokio::test]
async fn a_report_has_the_agreed_shape_and_carries_the_key() {
    let (url, asked) = server(vec![(
        200,
        r#"{"drain": true, "outcomes": [], "ledger": "09090909-0909-0909-0909-090909090909"}"#,
    )])
    .await;
    let report = report();
    let ledger = LedgerId::from_bytes([9; 16]);
    assert_eq!(
        reporter(&url).report(report.clone()).await.unwrap(),
        ReportReply { drain: true, ledger: Some(ledger) }
    );
    let asked = asked.await.unwrap().remove(0);
    let (head, body) = asked.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/worker/reports HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("authorization: Bearer sesame"), "{head}");
    let job_id = report.logs[0].job_id;
    let want = json!({
        "worker": {
            "id": report.worker.id, "name": "w", "host": "h", "version": "1", "queues": ["default"],
            "kinds": ["noop"], "concurrency": 4, "running": 1, "started_at": "1970-01-01T00:00:01.000Z",
        },
        "logs": [{
            "job_id": job_id, "attempt": 1, "at": "1970-01-01T00:00:02.000Z", "level": "info",
            "message": "hello",
        }],
        "progress": [{"job_id": job_id, "fence": 7, "percent": 12.5}],
    });
    assert_eq!(serde_json::from_str::<Json>(body).unwrap(), want);
}

#[tokio::test]
async fn refusals_are_told_from_outages() {
    for (status, transient) in [(401, false), (404, false), (422, false), (429, true), (503, true)]
    {
        let (url, _asked) = server(vec![(status, "{}")]).await;
        let error = reporter(&url).report(report()).await.unwrap_err();
        assert_eq!(error.is_transient(), transient, "{status}: {error}");
    }
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let error = reporter(&closed).report(report()).await.unwrap_err();
    assert!(error.is_transient() && !format!("{error:?}").contains("sesame"));
    for url in ["redis://x", "nonsense", "http://"] {
        assert!(HttpReporter::new(url, None).is_err(), "{url}");
    }
}

#[tokio::test]
async fn large_values_are_put_and_fetched_by_id() {
    let (url, asked) = server(vec![(204, ""), (200, "[1, 2]"), (404, "")]).await;
    let (reporter, id) = (reporter(&url), BlobId::generate());
    reporter.put_blob(id, Bytes::from_static(b"[1, 2]")).await.unwrap();
    assert_eq!(reporter.blob(id).await.unwrap(), Some(Bytes::from_static(b"[1, 2]")));
    assert_eq!(reporter.blob(id).await.unwrap(), None);
    let asked = asked.await.unwrap();
    assert!(
        asked[0].starts_with(&format!("PUT /v1/blobs/{id} "))
            && asked[0].ends_with("\r\n\r\n[1, 2]")
    );
    assert!(asked[1].starts_with(&format!("GET /v1/blobs/{id} ")));
    let (url, _asked) = server(vec![(404, "")]).await;
    let error = self::reporter(&url).put_blob(id, Bytes::new()).await.unwrap_err();
    assert!(matches!(error, ReportError::Refused(404)), "{error:?}");
}

#[tokio::test]
async fn partial_results_go_with_reports_and_come_with_their_answers() {
    let left = r#"{"drain": false, "outcomes": [], "checkpoints": [], "resume": [{"job_id": "x",
        "checkpoint": {"at": 7}, "previous": {"attempt": 1, "error": {"code": "c", "message": "m",
        "retryable": true}, "recommendations": ["r"], "score": 0.5}}]}"#;
    let none = r#"{"resume": [{"job_id": "x", "checkpoint": null, "previous": null}]}"#;
    let stored = |word: &'static str| match word {
        "stored" => r#"{"checkpoints": ["stored"], "resume": []}"#,
        _ => r#"{"checkpoints": ["stale"], "resume": []}"#,
    };
    let (url, asked) =
        server(vec![(200, stored("stored")), (200, stored("stale")), (200, left), (200, none)])
            .await;
    let (reporter, id) = (reporter(&url), JobId::generate());
    let data = Bytes::from_static(br#"{"at": 7}"#);
    assert!(reporter.put_checkpoint(id, Fence(9), data.clone()).await.unwrap());
    assert!(!reporter.put_checkpoint(id, Fence(9), data.clone()).await.unwrap());
    let found = reporter.left(id, Fence(9), 2).await.unwrap();
    assert_eq!(found.checkpoint, Some(data));
    let previous = found.previous.unwrap();
    assert_eq!((previous.attempt, previous.score), (1, Some(0.5)));
    assert_eq!(previous.recommendations, ["r"]);
    assert_eq!(reporter.left(id, Fence(9), 1).await.unwrap(), Left::default());
    let bodies: Vec<Json> = asked
        .await
        .unwrap()
        .iter()
        .map(|asked| serde_json::from_str(asked.split_once("\r\n\r\n").unwrap().1).unwrap())
        .collect();
    let stores = json!({"checkpoints": [{"job_id": id, "fence": 9, "data": {"at": 7}}]});
    assert_eq!(bodies[0], stores);
    assert_eq!(bodies[2], json!({"resume": [{"job_id": id, "fence": 9, "attempt": 2}]}));
    for status in [401, 413, 422] {
        let (url, _asked) = server(vec![(status, "{}")]).await;
        let error = self::reporter(&url).put_checkpoint(id, Fence(9), Bytes::from("1")).await;
        assert!(!error.unwrap_err().is_transient(), "{status}");
    }
}

#[tokio::test]
async fn in_one_process_reports_go_to_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let settings =
        LedgerSettings::new(format!("sqlite://{}", dir.path().join("ledger.db").display()));
    Ledger::migrate(&settings).await.unwrap();
    let ledger = Ledger::open(&settings).await.unwrap();
    let reporter: Arc<dyn Reporter> =
        Arc::new(LedgerReporter::new(life(&ledger), Namespace::default()));
    let report = report();
    let id = report.worker.id;
    let own = Some(ledger.id());
    assert_eq!(reporter.report(report).await.unwrap(), ReportReply { drain: false, ledger: own });
    let within = std::time::Duration::from_secs(60);
    let workers = ledger.workers(&Namespace::default(), within).await.unwrap();
    assert_eq!(workers.iter().map(|w| (w.id, w.running)).collect::<Vec<_>>(), [(id, 1)]);
    assert!(ledger.drain_worker(&Namespace::default(), id).await.unwrap());
    let again =
        Report { worker: Beat { id, ..self::report().worker }, logs: vec![], progress: vec![] };
    assert_eq!(reporter.report(again).await.unwrap(), ReportReply { drain: true, ledger: own });
    let blob = BlobId::generate();
    reporter.put_blob(blob, Bytes::from_static(b"7")).await.unwrap();
    assert_eq!(reporter.blob(blob).await.unwrap(), Some(Bytes::from_static(b"7")));
    assert_eq!(reporter.blob(BlobId::generate()).await.unwrap(), None);
    ledger.close().await;
}

fn outcome(verdict: Verdict, detail: Detail) -> DirectOutcome {
    DirectOutcome {
        job_id: JobId::generate(),
        fence: Fence(7),
        lease_id: LeaseId::from_bytes([2; 16]),
        verdict,
        at: Timestamp::from_millis(3_000),
        claimed_at: Timestamp::from_millis(1_000),
        attempt: 2,
        crashes: 1,
        worker: WorkerId::from_bytes([1; 16]),
        detail: detail.encode(),
    }
}

#[tokio::test]
async fn outcomes_go_by_the_direct_path_with_all_that_the_engine_would_carry() {
    let answer = r#"{"outcomes": ["applied", "stale", "unknown"]}"#;
    let (url, asked) = server(vec![(200, answer), (200, answer), (409, "{}")]).await;
    let reporter = reporter(&url);
    let good = Detail {
        head: DetailHead {
            worker: Some("w".into()),
            usage: Some(json!({"cpu_ms": 5})),
            ..DetailHead::default()
        },
        output: Some(Value::Inline(Bytes::from_static(b"[1, 2]"))),
    };
    let blob = BlobId::generate();
    let large = Detail { output: Some(Value::Blob(blob)), ..Detail::default() };
    let error = JobError { code: "not so fine".into(), message: "m".into(), retryable: true };
    let late = Detail {
        head: DetailHead { error: Some(error), timed_out: true, ..DetailHead::default() },
        output: None,
    };
    let delay = std::time::Duration::from_millis(1_500);
    let outcomes = vec![
        outcome(Verdict::Succeeded, good),
        outcome(Verdict::Succeeded, large),
        outcome(Verdict::Retry { delay }, late),
    ];
    let ledger = LedgerId::from_bytes([9; 16]);
    let replies = reporter.record(Some(ledger), outcomes.clone()).await.unwrap();
    assert_eq!(replies, [DirectReply::Applied, DirectReply::Stale, DirectReply::Unknown]);
    let fewer = reporter.record(None, outcomes[..1].to_vec()).await.unwrap_err();
    assert!(fewer.is_transient(), "an answer about something else is no answer");
    let foreign = reporter.record(Some(ledger), outcomes.clone()).await.unwrap_err();
    assert!(matches!(foreign, ReportError::WrongLedger), "{foreign:?}");
    let bodies: Vec<Json> = asked
        .await
        .unwrap()
        .iter()
        .map(|asked| serde_json::from_str(asked.split_once("\r\n\r\n").unwrap().1).unwrap())
        .collect();
    let item = |n: usize, outcome: &str| {
        json!({"job_id": outcomes[n].job_id, "fence": 7,
            "lease_id": outcomes[n].lease_id, "outcome": outcome, "at": "1970-01-01T00:00:03.000Z",
            "claimed_at": "1970-01-01T00:00:01.000Z", "attempt": 2, "crashes": 1, "timed_out": false,
            "worker": "01010101-0101-0101-0101-010101010101"})
    };
    let mut wanted = [item(0, "succeeded"), item(1, "succeeded"), item(2, "retry")];
    wanted[0]["worker"] = json!("w (01010101-0101-0101-0101-010101010101)");
    wanted[0]["output"] = json!([1, 2]);
    wanted[0]["usage"] = json!({"cpu_ms": 5});
    wanted[1]["output_blob"] = json!(blob);
    wanted[2]["delay"] = json!("1s500ms");
    wanted[2]["timed_out"] = json!(true);
    // What the API would refuse is not worth losing the outcome for.
    wanted[2]["error"] = json!({"code": "notsofine", "message": "m", "retryable": true});
    assert_eq!(bodies[0], json!({"ledger": ledger, "outcomes": wanted}));
    assert_eq!(bodies[1].get("ledger"), None);
}
