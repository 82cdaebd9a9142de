//! A worker, and a dependency that fails and recovers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use windlass_shared::engine::envelope::{Envelope, EnvelopeHead};
use windlass_shared::engine::flow::{CircuitSetting, FlowKey, FlowSettings};
use windlass_shared::engine::model::CircuitState;
use windlass_shared::engine::{Ended, Push, ShardSettings};
use windlass_shared::model::dependency::default_circuit;
use windlass_shared::model::id::{Fence, JobId};
use windlass_shared::model::job::{JobSpec, Priority, Value};
use windlass_shared::model::time::Timestamp;
use windlass_shared::testkit::gates::until;

use crate::fixture::{PATIENCE, Rig, spec};

const PROBE: Duration = Duration::from_millis(400);

/// Answers 503 until it is mended, then 200.
struct Dependency {
    url: String,
    calls: Arc<AtomicUsize>,
    works: Arc<AtomicBool>,
}

impl Dependency {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (calls, works) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let server = Self { url, calls: Arc::clone(&calls), works: Arc::clone(&works) };
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let _ = socket.read(&mut head).await;
                calls.fetch_add(1, Ordering::SeqCst);
                let status = if works.load(Ordering::SeqCst) { "200 OK" } else { "503 Away" };
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        server
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn called(&self, times: usize) {
        let wait = async {
            while self.calls() < times {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the calls do not come");
    }
}

/// Pushes a request of which the circuit is that of its host.
async fn push(rig: &Rig, url: &str) -> JobId {
    let kind = "http.request".parse().unwrap();
    let payload = json!({ "url": url }).to_string();
    let circuit = default_circuit(&kind, &payload).expect("a host").to_string();
    let spec = JobSpec { circuit: Some(circuit), ..spec(5) };
    let (id, now) = (JobId::generate(), rig.engine.now().await.unwrap());
    let flow = spec.flow(&kind);
    let head = EnvelopeHead {
        kind: kind.clone(),
        spec,
        created_at: Timestamp::default(),
        priority: Priority::default(),
        traceparent: None,
        request_id: None,
        workflow: None,
        payload_blob: None,
    };
    let envelope = Envelope { head, payload: Value::Inline(payload.into()) }.encode();
    let push = Push { id, flow, ..Push::new(Fence(0), kind, now, envelope) };
    let valid = until(now.plus(Duration::from_secs(5)));
    rig.engine.push(&rig.shard, &[push], &valid).await.unwrap();
    id
}

/// Goal: after as many failures as open the circuit, calls stop but for one probe at a time, at most one in each probe
/// interval; no job loses an attempt to that; and all of them run once the dependency has recovered.
#[tokio::test]
async fn calls_to_what_fails_stop_and_no_attempt_is_lost() {
    let mut rig = Rig::new().await;
    rig.settings.http_allow_private = true;
    // One call at a time: so that none is under way when the circuit opens.
    rig.settings.concurrency = 1;
    let server = Dependency::start().await;
    let host = server.url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let rule = CircuitSetting { probe_us: PROBE.as_micros() as u64, ..CircuitSetting::default() };
    let flow =
        FlowSettings { circuits: [(FlowKey::of(&host), rule)].into(), ..FlowSettings::default() };
    let settings = ShardSettings { version: 2, flow, ..ShardSettings::default() };
    rig.engine.configure(&rig.shard, &settings).await.unwrap();
    let mut jobs = Vec::new();
    for _ in 0..8 {
        jobs.push(push(&rig, &server.url).await);
    }
    let worker = rig.start(|builder| builder);
    server.called(5).await;
    let opened = Instant::now();
    server.called(8).await;
    // The first of the three probes is no earlier than an interval after the fifth failure.
    assert!(opened.elapsed() >= 3 * PROBE - PROBE / 4, "{:?}", opened.elapsed());
    let circuits = rig.engine.circuits(&rig.shard).await.unwrap();
    assert!(circuits.iter().any(|(_, known)| known.state != CircuitState::Closed), "{circuits:?}");

    server.works.store(true, Ordering::SeqCst);
    let mut attempts = 0;
    for id in jobs {
        let end = rig.last(id).await;
        assert_eq!(end.ended, Ended::Succeeded, "{end:?}");
        attempts += end.attempt;
    }
    assert_eq!(attempts, 8 + 5, "each succeeded once, and five calls failed: probes are none");
    let circuits = rig.engine.circuits(&rig.shard).await.unwrap();
    assert!(circuits.iter().all(|(_, known)| known.state == CircuitState::Closed), "{circuits:?}");
    worker.stop().await;
}
