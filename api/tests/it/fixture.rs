//! An API of its own for each test: a fresh ledger in a folder that goes away with it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use windlass_api::{App, Parts, router};
use windlass_shared::clock::Clock;
use windlass_shared::config::{ApiSettings, EngineSettings, LedgerSettings};
use windlass_shared::engine::{Engine, ShardId};
use windlass_shared::ledger::{ApiKey, Ledger, Role};
use windlass_shared::lifecycle::{Lifecycle, record};
use windlass_shared::model::id::KeyId;
use windlass_shared::model::name::Namespace;
use windlass_shared::model::time::Timestamp;

/// Longer than anything takes that works.
pub const SOON: Duration = Duration::from_secs(60);

pub struct Fixture {
    pub app: App,
    pub router: Router,
    pub life: Lifecycle,
    pub shutdown: CancellationToken,
    _folder: TempDir,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{error} in {} {:?}", self.status, self.text))
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        if self.text.is_empty() { Value::Null } else { self.json() }
    }

    /// A refusal in the promised form.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        let body = self.json();
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["status"], status);
        for field in ["type", "title", "detail", "request_id"] {
            assert!(body[field].is_string(), "{field} in {body}");
        }
        assert_eq!(body["request_id"], self.headers["x-request-id"].to_str().unwrap());
        body
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Fixture {
    pub async fn new() -> Self {
        Self::with(ApiSettings { auth_required: false, ..ApiSettings::default() }).await
    }

    pub async fn with(settings: ApiSettings) -> Self {
        Self::with_clock(settings, Clock::System).await
    }

    /// On a host with this clock. The ledger keeps its own.
    pub async fn with_clock(settings: ApiSettings, clock: Clock) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
        let ledger_settings = LedgerSettings::new(url);
        Ledger::migrate(&ledger_settings).await.unwrap();
        let ledger = Ledger::open(&ledger_settings).await.unwrap();
        let engine = Engine::open(&EngineSettings::new("embedded")).await.unwrap();
        let shutdown = CancellationToken::new();
        let life = Lifecycle::start(ledger, engine, clock, shutdown.clone(), TaskTracker::new());
        let app = App::new(Parts {
            life: life.clone(),
            settings,
            cursor_key: [7; 32],
            environment: "test".into(),
            metrics: Arc::new(|| "windlass_up 1\n".into()),
            shutdown: shutdown.clone(),
        });
        Self { router: router(app.clone()), app, life, shutdown, _folder: folder }
    }

    /// A key of this role; its text.
    pub async fn key(&self, role: Role, namespace: Option<&str>) -> String {
        use secrecy::ExposeSecret as _;
        let fresh = windlass_api::keys::generate("test");
        let record = ApiKey {
            id: KeyId::generate(),
            public: fresh.public,
            secret_hash: fresh.secret_hash,
            name: "a test's key".into(),
            role,
            namespace: namespace.map(|n| n.parse().unwrap()),
            created_at: self.life.clock().now(),
            expires_at: None,
            revoked_at: None,
        };
        self.life.ledger().create_key(&record).await.unwrap();
        fresh.text.expose_secret().to_owned()
    }

    /// So many seconds from now, as text.
    pub fn now(&self, seconds: i64) -> Value {
        let micros = self.life.clock().now().micros() + seconds * 1_000_000;
        serde_json::to_value(Timestamp::from_micros(micros)).unwrap()
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(request(Method::GET, path, &[], "")).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(request(Method::POST, path, &[], &body.to_string())).await
    }

    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.send(request(Method::POST, path, headers, body)).await
    }

    /// Submits a job; its id.
    pub async fn submit(&self, body: Value) -> String {
        let job = self.post("/v1/jobs", body).await.expect(201);
        job["id"].as_str().unwrap().to_owned()
    }

    /// Takes one job of a queue as a remote worker, waiting for it; with its lease.
    pub async fn take(&self, queue: &str) -> Value {
        let body = json!({"worker": "w", "queues": [queue], "wait": "20s"});
        let leases = self.post("/v1/leases", body).await.expect(200);
        leases["jobs"][0].clone()
    }

    /// Settles a taken job.
    pub async fn settle(&self, job: &Value, end: Value) -> Value {
        let mut item = json!({"id": job["id"], "token": job["lease"]["token"]});
        item.as_object_mut().unwrap().extend(end.as_object().unwrap().clone());
        let body = json!({"worker": "w", "items": [item]});
        let answer = self.post("/v1/leases/settle", body).await.expect(200);
        answer["results"][0].clone()
    }

    /// Brings what has ended in the engine into the ledger, as the scheduler's recorder does.
    pub async fn record(&self, queue: &str) -> usize {
        let shard = ShardId::first(Namespace::default(), queue.parse().unwrap());
        record::record_outcomes(&self.life, &shard).await.unwrap()
    }

    /// Runs one job of a queue to its end.
    pub async fn finish_one(&self, queue: &str) -> Value {
        let job = self.take(queue).await;
        assert_eq!(self.settle(&job, json!({"outcome": "succeed"})).await["ok"], true);
        self.record(queue).await;
        job
    }
}

pub fn request(method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Request<Body> {
    let mut builder = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let named = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    if !body.is_empty() && !named {
        builder = builder.header("content-type", "application/json");
    }
    builder.body(Body::from(body.to_owned())).unwrap()
}
