//! `GET /v1/system/health`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use windlass_api::{App, Parts, router};
use windlass_shared::clock::Clock;
use windlass_shared::config::{ApiSettings, EngineSettings};
use windlass_shared::engine::Engine;
use windlass_shared::ledger::alerts::LookNote;
use windlass_shared::ledger::{Epoch, Role};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::alert::{Alert, AlertKey, AlertState, Severity};
use windlass_shared::model::health::{Summary, Sums, Window};
use windlass_shared::model::id::{AlertId, WorkerId};
use windlass_shared::model::name::Namespace;
use windlass_shared::model::time::Timestamp;
use windlass_shared::testkit::postgres_server::PostgresServer;
use windlass_shared::testkit::redis_server::{RedisOptions, RedisServer};

use crate::fixture::{Fixture, request};

const TERM: Duration = Duration::from_secs(600);

fn alert(code: &str, namespace: Option<&str>, severity: Severity, now: Timestamp) -> Alert {
    let namespace: Option<Namespace> = namespace.map(|name| name.parse().unwrap());
    Alert {
        id: AlertId::generate(),
        key: AlertKey { code: code.into(), namespace, subject: "q".into() },
        severity,
        state: AlertState::Active,
        message: format!("{code} holds"),
        evidence: BTreeMap::new(),
        of_namespaces: BTreeMap::new(),
        since: now,
        opened_at: Some(now),
        last_seen: now,
        judged_at: now,
        clear_since: None,
        ended_at: None,
        end_reason: None,
        flaps: 0,
    }
}

/// As if the leader had looked just now, and found this.
async fn judged(fixture: &Fixture, alerts: impl FnOnce(Timestamp) -> Vec<Alert>) -> Epoch {
    let ledger = fixture.life.ledger();
    let epoch = ledger.lead(WorkerId::generate(), "test", TERM).await.unwrap().unwrap();
    let now = ledger.now().await.unwrap();
    let sums = Sums {
        ended: 10,
        succeeded: 9,
        dead: 1,
        attempts: 20,
        run_ms: 400,
        wait_ms: 50,
        total_ms: 900,
        lost: 0,
    };
    let window = Window {
        hours: 1,
        overall: sums,
        namespaces: vec![("team-a".parse().unwrap(), sums)],
        queues: vec![("team-a".parse().unwrap(), "q".parse().unwrap(), sums)],
    };
    let summary = Summary { every_ms: 10_000, windows: vec![window], ..Summary::default() };
    let note = LookNote {
        receivers: Vec::new(),
        alerts: alerts(now),
        dropped: Vec::new(),
        summary: serde_json::to_string(&summary).unwrap(),
        forget_before: Timestamp::default(),
    };
    assert!(ledger.note_look(epoch, note).await.unwrap());
    epoch
}

async fn health(fixture: &Fixture) -> Value {
    fixture.get("/v1/system/health").await.expect(200)
}

fn codes(health: &Value) -> Vec<&str> {
    health["alerts"].as_array().unwrap().iter().map(|a| a["code"].as_str().unwrap()).collect()
}

fn component<'h>(health: &'h Value, name: &str) -> &'h Value {
    let mut components = health["components"].as_array().unwrap().iter();
    components.find(|component| component["name"] == name).unwrap()
}

#[tokio::test]
async fn where_nobody_looks_it_is_degraded() {
    let fixture = Fixture::new().await;
    let health = health(&fixture).await;
    assert_eq!(
        (&health["status"], &health["stale"]),
        (&"degraded".into(), &true.into()),
        "{health}"
    );
    assert_eq!(codes(&health), ["leader_absent"]);
    assert_eq!(component(&health, "scheduler")["status"], "degraded");
    assert!(component(&health, "ledger")["latency_ms"].is_number());
}

#[tokio::test]
async fn what_the_leader_wrote_is_shown_the_worst_first() {
    let fixture = Fixture::new().await;
    judged(&fixture, |_| Vec::new()).await;
    let well = health(&fixture).await;
    assert_eq!(
        (&well["status"], &well["alerts"]),
        (&"healthy".into(), &Value::Array(vec![])),
        "{well}"
    );
    assert_eq!(well["windows"][0]["overall"]["success_rate"], 0.9);
    assert_eq!(well["windows"][0]["overall"]["run_ms_mean"], 20.0);
    assert_eq!(well["windows"][0]["overall"]["total_ms_mean"], 90.0);
    assert_eq!(well["windows"][0]["queues"][0]["queue"], "q");

    let fixture = Fixture::new().await;
    judged(&fixture, |now| {
        let pending = Alert {
            state: AlertState::Pending,
            ..alert("recorder_lag", None, Severity::Critical, now)
        };
        vec![
            alert("version_skew", None, Severity::Info, now),
            alert("queue_latency", Some("team-a"), Severity::Warning, now),
            alert("no_worker", Some("team-a"), Severity::Critical, now),
            pending,
        ]
    })
    .await;
    let bad = health(&fixture).await;
    assert_eq!(bad["status"], "critical");
    assert_eq!(codes(&bad), ["no_worker", "queue_latency", "version_skew"]);
    assert_eq!(component(&bad, "workers")["status"], "critical");
    assert_eq!(component(&bad, "recorder")["status"], "healthy", "what pends does not count");
    assert_eq!(bad["recommendations"].as_array().unwrap().len(), 3);
    assert_eq!(bad["alerts"][0]["runbook"], "docs/overwatch.md#no_worker");
}

#[tokio::test]
async fn a_key_of_a_namespace_sees_what_is_of_it() {
    let fixture = Fixture::with(ApiSettings::default()).await;
    judged(&fixture, |now| {
        let mut many = alert("dead_growing", None, Severity::Warning, now);
        many.of_namespaces =
            BTreeMap::from([("team-a".parse().unwrap(), 7), ("team-b".parse().unwrap(), 70)]);
        vec![
            alert("queue_latency", Some("team-a"), Severity::Warning, now),
            alert("no_worker", Some("team-b"), Severity::Critical, now),
            alert("notifier_failing", None, Severity::Warning, now),
            many,
        ]
    })
    .await;
    let seen_by = async |role, namespace| {
        let key = fixture.key(role, namespace).await;
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str())];
        let request = request(http::Method::GET, "/v1/system/health", &headers, "");
        fixture.send(request).await
    };
    let all = seen_by(Role::Viewer, None).await.expect(200);
    assert_eq!(codes(&all).len(), 4);
    let ours = seen_by(Role::Viewer, Some("team-a")).await.expect(200);
    assert_eq!(codes(&ours), ["dead_growing", "queue_latency"]);
    assert_eq!(ours["status"], "degraded");
    assert!(ours["alerts"][0]["message"].as_str().unwrap().contains(" 7 "), "{ours}");
    // As a word or a value, wherever it is: a latency may have these digits.
    let told = ours.to_string();
    let theirs = ["team-b", " 70 ", "\"70\"", ":70,", ":70}"];
    assert!(!theirs.iter().any(|text| told.contains(text)), "{ours}");
    assert_eq!(ours["windows"][0]["overall"]["ended"], 10);
    let theirs = seen_by(Role::Viewer, Some("team-b")).await.expect(200);
    assert_eq!(theirs["windows"][0]["overall"]["ended"], 0);
    assert_eq!(theirs["windows"][0]["queues"], Value::Array(vec![]));
    seen_by(Role::Worker, None).await.refused(403, "forbidden");
}

/// Goal: while the ledger is away the answer is critical, from memory, and says since when.
#[tokio::test]
async fn without_the_ledger_it_answers_from_memory() {
    let fixture = Fixture::new().await;
    judged(&fixture, |now| vec![alert("queue_latency", Some("default"), Severity::Warning, now)])
        .await;
    assert_eq!(health(&fixture).await["status"], "degraded");
    fixture.life.ledger().close().await;
    let answer = async || {
        let health = health(&fixture).await;
        (health["from_memory"] == true && component(&health, "ledger")["status"] == "critical")
            .then_some(health)
    };
    let away = tokio::time::timeout(crate::fixture::SOON, async {
        loop {
            if let Some(health) = answer().await {
                return health;
            }
        }
    });
    let away = away.await.unwrap();
    assert_eq!(away["status"], "critical");
    assert_eq!(codes(&away), ["ledger_away", "queue_latency"]);
    let again = health(&fixture).await;
    assert_eq!(again["alerts"][0]["since"], away["alerts"][0]["since"]);
}

/// Asks until the answer is as it is to be.
async fn until(router: &axum::Router, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let asking = async {
        loop {
            let asked = request(http::Method::GET, "/v1/system/health", &[], "");
            let answer = router.clone().oneshot(asked).await.unwrap();
            assert_eq!(answer.status(), 200);
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let health: Value = serde_json::from_slice(&body).unwrap();
            if wanted(&health) {
                return health;
            }
        }
    };
    let found = tokio::time::timeout(crate::fixture::SOON, asking).await;
    found.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// Goal: with Redis gone, and then with PostgreSQL gone as well, it answers, is critical, and says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_answers_without_redis_and_without_postgresql() {
    let mut postgres = PostgresServer::start();
    let mut redis = RedisServer::start(RedisOptions::default());
    let ledger = postgres.ledger().await;
    let engine = Engine::open(&EngineSettings::new(redis.url())).await.unwrap();
    let shutdown = CancellationToken::new();
    let life =
        Lifecycle::start(ledger, engine, Clock::System, shutdown.clone(), TaskTracker::new());
    let app = App::new(Parts {
        life,
        settings: ApiSettings { auth_required: false, ..ApiSettings::default() },
        cursor_key: [7; 32],
        environment: "test".into(),
        metrics: Arc::new(String::new),
        shutdown,
    });
    let router = router(app);
    let first = until(&router, "both are there", |health| health["from_memory"] == false).await;
    assert_eq!(component(&first, "engine")["status"], "healthy");

    redis.kill_9();
    let status = |health: &Value, name: &str| component(health, name)["status"] == "critical";
    let away = until(&router, "the engine is away", |health| status(health, "engine")).await;
    assert_eq!((&away["status"], &away["from_memory"]), (&"critical".into(), &false.into()));
    assert!(codes(&away).contains(&"engine_away"), "{away}");

    postgres.kill_9();
    let away = until(&router, "the ledger is away", |health| status(health, "ledger")).await;
    assert_eq!((&away["status"], &away["from_memory"]), (&"critical".into(), &true.into()));
    assert!(codes(&away).contains(&"ledger_away"), "{away}");
}
