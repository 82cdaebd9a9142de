//! The installation as a whole, and what a queue needs.

use std::time::Duration;

use http::Method;
use serde_json::json;
use windlass_shared::config::ApiSettings;
use windlass_shared::engine::ShardId;
use windlass_shared::ledger::duties::{Declared, DutyNote, Ended, Who};
use windlass_shared::ledger::{QueueSettings, Role, WorkerBeat};
use windlass_shared::model::id::WorkerId;
use windlass_shared::model::name::Namespace;

use crate::fixture::{Fixture, request};

fn note(duty: &str, who: Who, ended: u64) -> DutyNote {
    DutyNote {
        declared: Declared {
            duty: duty.into(),
            what: "does it".into(),
            interval: Duration::from_secs(1),
            batch: 5,
            longest: Duration::from_secs(2),
            who,
        },
        started: Some(Duration::from_secs(ended)),
        ended: Some(Duration::from_secs(ended)),
        outcome: Ended::Failed,
        took: Duration::from_millis(1),
        done: 0,
        ticks: 8,
        failures: 2,
        error: Some("no luck".into()),
        epoch: None,
    }
}

#[tokio::test]
async fn duties_are_shown_with_their_last_results() {
    let api = Fixture::new().await;
    assert_eq!(api.get("/v1/system/duties").await.expect(200)["items"], json!([]));
    let (ledger, replica) = (api.life.ledger(), WorkerId::generate());
    let leading = ledger.lead(replica, "s1", Duration::from_secs(60)).await.unwrap().unwrap();
    let other = WorkerId::generate();
    let late = DutyNote { outcome: Ended::Standby, ..note("b", Who::Leader, 1) };
    ledger.note_duties(other, "s2", &[note("a", Who::Every, 1), late]).await.unwrap();
    let notes = [note("a", Who::Every, 1), note("b", Who::Leader, 100)];
    ledger.note_duties(replica, "s1", &notes).await.unwrap();
    let answer = api.get("/v1/system/duties").await.expect(200);
    assert_eq!(answer["leader"]["epoch"], json!(leading.0));
    assert_eq!(answer["leader"]["replica"], json!(replica.to_string()));
    let items = answer["items"].as_array().unwrap();
    let found: Vec<_> = items.iter().map(|d| (d["name"].as_str(), d["late"].as_bool())).collect();
    assert_eq!(found, [(Some("a"), Some(false)), (Some("b"), Some(true))]);
    let a = &items[0];
    assert_eq!(
        (&a["who"], &a["interval"], &a["longest"]),
        (&json!("every"), &json!("1s"), &json!("2s"))
    );
    let names: Vec<_> =
        a["replicas"].as_array().unwrap().iter().map(|r| r["name"].as_str()).collect();
    assert_eq!(names, [Some("s1"), Some("s2")]);
    let row = &a["replicas"][0];
    assert_eq!((&row["outcome"], &row["failures"]), (&json!("failed"), &json!(2)));
    assert_eq!(row["error"], "no luck");
}

#[tokio::test]
async fn duties_are_not_for_keys_of_one_namespace() {
    let settings = ApiSettings { auth_required: true, ..ApiSettings::default() };
    let api = Fixture::with(settings).await;
    for (namespace, status) in [(None, 200), (Some("a"), 403)] {
        let key = format!("Bearer {}", api.key(Role::Viewer, namespace).await);
        let headers = [("authorization", key.as_str())];
        let asked = request(Method::GET, "/v1/system/duties", &headers, "");
        assert_eq!(api.send(asked).await.status, status, "{namespace:?}");
    }
}

fn beat(n: u8, queues: &[&str], running: u32, draining: bool) -> WorkerBeat {
    WorkerBeat {
        id: WorkerId::from_bytes([n; 16]),
        name: format!("w{n}"),
        namespace: Namespace::default(),
        host: "h".into(),
        version: "1".into(),
        queues: queues.iter().map(|q| (*q).to_owned()).collect(),
        kinds: Vec::new(),
        concurrency: 4,
        running,
        draining,
        started_at: windlass_shared::model::time::Timestamp::from_millis(i64::from(n)),
        seen_at: windlass_shared::model::time::Timestamp::from_millis(0),
    }
}

#[tokio::test]
async fn a_queue_says_how_many_workers_it_needs() {
    let api = Fixture::new().await;
    api.get("/v1/scale/mail").await.refused(404, "not_found");
    for _ in 0..40 {
        api.submit(json!({"kind": "x", "queue": "mail"})).await;
    }
    // A push may be on its way still.
    let asked = "/v1/scale/mail?objective=10s&service_time=10s&slots_per_worker=8";
    let need = loop {
        let need = api.get(asked).await;
        // The first push opens the shard.
        if need.status == 200 && need.json()["backlog"] == 40 {
            break need.json();
        }
        tokio::task::yield_now().await;
    };
    // 40 jobs of 10 s in 10 s: each of 20 slots starts two.
    assert_eq!((&need["slots_needed"], &need["replicas"]), (&json!(20), &json!(3)));
    assert_eq!((&need["basis"], &need["workers"]), (&json!("default"), &json!(0)));
    api.take("mail").await;
    let running = api.get(asked).await.expect(200);
    assert_eq!((&running["running"], &running["slots_needed"]), (&json!(1), &json!(20)));
    // Workers of the queue, in the order in which they are best stopped.
    let ledger = api.life.ledger();
    for (n, running) in [(1, 2), (2, 0), (3, 0), (4, 4)] {
        ledger.beat(&beat(n, &["mail", "io"], running, false)).await.unwrap();
    }
    ledger.beat(&beat(9, &["io"], 0, false)).await.unwrap();
    ledger.drain_worker(&Namespace::default(), WorkerId::from_bytes([4; 16])).await.unwrap();
    let need = api.get(asked).await.expect(200);
    assert_eq!((&need["workers"], &need["slots_per_worker"]), (&json!(3), &json!(4.0)));
    assert_eq!(need["replicas"], 5);
    let ids: Vec<_> = [4, 3, 2, 1].map(|n| json!(WorkerId::from_bytes([n; 16]).to_string())).into();
    assert_eq!(need["drain_order"], json!(ids));
    api.post("/v1/queues/mail/pause", json!({})).await.expect(200);
    let paused = api.get(asked).await.expect(200);
    assert_eq!((&paused["slots_needed"], &paused["replicas"]), (&json!(1), &json!(1)));
    for bad in ["objective=0s", "objective=2d", "objective=soon", "slots_per_worker=0", "x=1"] {
        api.get(&format!("/v1/scale/mail?{bad}")).await.refused(422, "invalid");
    }
}

/// Goal: while the queue store may have lost something, autoscalers are told nothing, and so leave things as they are.
#[tokio::test]
async fn a_queue_that_is_being_compared_says_nothing() {
    let api = Fixture::new().await;
    let queue = "/v1/scale/mail";
    // Never opened: it has nothing, and that is so.
    let (ledger, engine) = (api.life.ledger(), api.life.engine());
    let shard = ShardId::first(Namespace::default(), "mail".parse().unwrap());
    let settings = QueueSettings::default();
    ledger.set_queue(&shard.namespace, &shard.queue, None, &settings).await.unwrap();
    assert_eq!(api.get(queue).await.expect(200)["slots_needed"], 0);
    api.submit(json!({"kind": "x", "queue": "mail"})).await;
    while !engine.stats(&shard).await.unwrap().open {
        tokio::task::yield_now().await;
    }
    api.get(queue).await.expect(200);
    let epoch = ledger.lead(WorkerId::generate(), "s", Duration::from_secs(60)).await.unwrap();
    let generation = ledger.next_generation(&shard, epoch.unwrap()).await.unwrap().unwrap();
    let not_after = engine.now().await.unwrap().plus(Duration::from_secs(60));
    engine.shut(&shard, ledger.id(), generation, not_after).await.unwrap();
    let refused = api.get(queue).await;
    refused.refused(503, "unavailable");
    assert_eq!(refused.header("retry-after"), "5");
}
