//! Remote workers: take, extend, settle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake};

use serde_json::{Value, json};
use windlass_shared::engine::{LiveState, ShardId};
use windlass_shared::model::name::Namespace;

use crate::fixture::{Fixture, SOON};

#[tokio::test]
async fn a_settle_lands_once_and_its_repeat_is_fine() {
    let api = Fixture::new().await;
    let id = api.submit(json!({"kind": "a", "payload": {"n": 1}})).await;
    let job = api.take("default").await;
    assert_eq!(
        (&job["id"], &job["payload"]["n"], &job["attempt"]),
        (&json!(id), &json!(1), &json!(1))
    );
    assert!(job["lease"]["fence"].as_u64().unwrap() > 0 && job["lease"]["expires_at"].is_string());
    let done = json!({"outcome": "succeed", "output": "ok"});
    assert_eq!(api.settle(&job, done.clone()).await, json!({"id": id, "ok": true}));
    assert_eq!(api.settle(&job, done.clone()).await["ok"], true);
    api.record("default").await;
    // Recorded and gone from the engine: the ledger knows that it landed.
    assert_eq!(api.settle(&job, done).await["ok"], true);
    // It did not land as a failure.
    let fail = json!({"outcome": "fail", "error": {"code": "x", "message": "y"}});
    assert_eq!(api.settle(&job, fail).await["error"]["code"], "stale_lease");
}

#[tokio::test]
async fn a_failure_is_tried_again_as_the_jobs_rules_say() {
    let api = Fixture::new().await;
    let rules = json!({"backoff": "fixed", "initial": "1ms", "jitter": "none"});
    let id = api.submit(json!({"kind": "a", "max_attempts": 2, "retry": rules})).await;
    let fail = json!({"outcome": "fail", "error": {"code": "boom", "message": "no"}});
    for attempt in 1..=2 {
        let job = api.take("default").await;
        assert_eq!(job["attempt"], attempt);
        assert_eq!(api.settle(&job, fail.clone()).await["ok"], true);
        api.record("default").await;
    }
    let job = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert_eq!((&job["state"], &job["error"]["code"]), (&json!("dead"), &json!("boom")));
    let attempts = api.get(&format!("/v1/jobs/{id}/attempts")).await.expect(200);
    assert_eq!(attempts["items"].as_array().unwrap().len(), 2);
    let permanent = api.submit(json!({"kind": "a"})).await;
    let job = api.take("default").await;
    let fail =
        json!({"outcome": "fail", "error": {"code": "bad", "message": "", "retryable": false}});
    assert_eq!(api.settle(&job, fail).await["ok"], true);
    api.record("default").await;
    assert_eq!(api.get(&format!("/v1/jobs/{permanent}")).await.expect(200)["state"], "dead");
}

#[tokio::test]
async fn snooze_and_release_are_no_attempts() {
    let api = Fixture::new().await;
    api.submit(json!({"kind": "a"})).await;
    let job = api.take("default").await;
    assert_eq!(api.settle(&job, json!({"outcome": "release"})).await["ok"], true);
    let job = api.take("default").await;
    assert_eq!(job["attempt"], 1);
    assert_eq!(api.settle(&job, json!({"outcome": "snooze", "delay": "1ms"})).await["ok"], true);
    assert_eq!(api.take("default").await["attempt"], 1);
}

#[tokio::test]
async fn stale_and_foreign_leases_are_refused_alone() {
    let api = Fixture::new().await;
    for _ in 0..2 {
        api.submit(json!({"kind": "a"})).await;
    }
    let (one, two) = (api.take("default").await, api.take("default").await);
    let item = |job: &Value, token: &Value| json!({"id": job["id"], "token": token});
    let (good, bad) = (&one["lease"]["token"], &two["lease"]["token"]);
    let items = json!([
        item(&one, good),
        item(&one, bad),
        item(&two, &json!("nonsense")),
        item(&json!({"id": "01900000-0000-7000-8000-000000000000"}), good),
    ]);
    let beat = json!({"worker": "w", "items": items, "lease": "1m"});
    let answer = api.post("/v1/leases/heartbeat", beat.clone()).await.expect(200);
    let ok: Vec<bool> =
        answer["results"].as_array().unwrap().iter().map(|r| r["ok"].as_bool().unwrap()).collect();
    assert_eq!(ok, [true, false, false, false]);
    assert!(answer["results"][0]["expires_at"].is_string());
    assert_eq!(answer["results"][1]["error"]["code"], "stale_lease");
    // A token is worth nothing in another namespace.
    let headers = [("windlass-namespace", "other")];
    let answer =
        api.post_with("/v1/leases/heartbeat", &headers, &beat.to_string()).await.expect(200);
    assert_eq!(answer["results"][0]["ok"], false);
}

#[tokio::test]
async fn only_the_kinds_asked_for_are_taken_from_the_queues_in_order() {
    let api = Fixture::new().await;
    for (kind, queue) in [("x", "low"), ("y", "low"), ("y", "high"), ("z", "high")] {
        api.submit(json!({"kind": kind, "queue": queue})).await;
    }
    let body = json!({"worker": "w", "queues": ["high", "low"], "kinds": ["x", "y"], "max": 10, "wait": "20s"});
    let mut taken = Vec::new();
    while taken.len() < 3 {
        let jobs = api.post("/v1/leases", body.clone()).await.expect(200);
        for job in jobs["jobs"].as_array().unwrap() {
            taken.push(format!(
                "{}/{}",
                job["queue"].as_str().unwrap(),
                job["kind"].as_str().unwrap()
            ));
        }
    }
    taken.sort();
    assert_eq!(taken, ["high/y", "low/x", "low/y"]);
    let now = json!({"worker": "w", "queues": ["high", "low"], "kinds": ["x", "y"]});
    assert_eq!(api.post("/v1/leases", now).await.expect(200)["jobs"], json!([]));
}

#[tokio::test]
async fn a_long_poll_wakes_for_a_job() {
    let api = Fixture::new().await;
    let (job, _) = tokio::join!(
        tokio::time::timeout(SOON, api.take("q")),
        api.submit(json!({"kind": "a", "queue": "q"})),
    );
    assert_eq!(job.unwrap()["kind"], "a");
}

#[tokio::test]
async fn a_caller_who_hangs_up_costs_the_job_no_crash() {
    let api = Fixture::new().await;
    {
        let poll = api.take("q");
        let mut poll = std::pin::pin!(poll);
        // The poll is under way, and then dropped.
        assert!(futures::poll!(poll.as_mut()).is_pending());
    }
    let id = api.submit(json!({"kind": "a", "queue": "q"})).await;
    let job = api.take("q").await;
    assert_eq!((&job["id"], &job["crashes"], &job["attempt"]), (&json!(id), &json!(0), &json!(1)));
}

#[tokio::test]
async fn wrong_lease_calls_are_named() {
    let api = Fixture::new().await;
    for (body, pointer) in [
        (json!({}), "/worker"),
        (json!({"worker": ""}), "/worker"),
        (json!({"worker": "w", "queues": []}), "/queues"),
        (json!({"worker": "w", "queues": ["a b"]}), "/queues/0"),
        (json!({"worker": "w", "max": 201}), "/max"),
        (json!({"worker": "w", "lease": "1s"}), "/lease"),
        (json!({"worker": "w", "wait": "51s"}), "/wait"),
    ] {
        let refused = api.post("/v1/leases", body).await.refused(422, "invalid");
        assert_eq!(refused["errors"][0]["pointer"], pointer);
    }
    let id = "01900000-0000-7000-8000-000000000000";
    for (item, pointer) in [
        (json!({"outcome": "fail"}), "/items/0/error"),
        (json!({"outcome": "snooze"}), "/items/0/delay"),
        (json!({"outcome": "release", "output": 1}), "/items/0/output"),
        (json!({"outcome": "explode"}), "/items/0/outcome"),
    ] {
        let mut full = json!({"id": id, "token": "t"});
        full.as_object_mut().unwrap().extend(item.as_object().unwrap().clone());
        let body = json!({"worker": "w", "items": [full]});
        let refused = api.post("/v1/leases/settle", body).await.refused(422, "invalid");
        assert_eq!(refused["errors"][0]["pointer"], pointer);
    }
}

/// The outputs of remote workers pass the same gates as those of Windlass's own.
#[tokio::test]
async fn an_output_that_its_gate_refuses_fails_the_attempt() {
    let api = Fixture::new().await;
    let retry = json!({"backoff": "fixed", "initial": "1ms", "jitter": "none"});
    let schema = json!({"type": "object", "required": ["sum"]});
    let expect = json!({"schema": schema, "expr": "output.sum > 2"});
    let body = json!({"kind": "a", "max_attempts": 4, "retry": retry, "expect": expect});
    let id = api.submit(body).await;
    for output in [json!({"output": {"sum": 1}}), json!({"output": {}}), json!({})] {
        let job = api.take("default").await;
        let mut end = json!({"outcome": "succeed"});
        end.as_object_mut().unwrap().extend(output.as_object().unwrap().clone());
        for _ in 0..2 {
            // Repeating it is fine and says the same.
            let settled = api.settle(&job, end.clone()).await;
            assert_eq!((&settled["ok"], &settled["error"]), (&json!(true), &Value::Null));
            assert_eq!(settled["rejected"]["code"], "result_rejected", "{settled}");
            assert_eq!(settled["rejected"]["retryable"], true);
        }
        api.record("default").await;
    }
    let job = api.take("default").await;
    let settled = api.settle(&job, json!({"outcome": "succeed", "output": {"sum": 3}})).await;
    assert_eq!((&settled["ok"], settled.get("rejected")), (&json!(true), None));
    api.record("default").await;
    let job = api.get(&format!("/v1/jobs/{id}")).await.expect(200);
    assert_eq!((&job["state"], &job["output"]), (&json!("succeeded"), &json!({"sum": 3})));
    let attempts = api.get(&format!("/v1/jobs/{id}/attempts")).await.expect(200);
    let codes: Vec<&Value> =
        attempts["items"].as_array().unwrap().iter().map(|a| &a["error"]["code"]).collect();
    let refused = json!("result_rejected");
    assert_eq!(codes.iter().filter(|code| ***code == refused).count(), 3, "{codes:?}");
}

#[tokio::test]
async fn a_gate_that_is_wrong_or_slow_ends_in_time() {
    let api = Fixture::new().await;
    let wrong = api.submit(json!({"kind": "a", "expect": {"expr": "output +"}})).await;
    let job = api.take("default").await;
    let settled = api.settle(&job, json!({"outcome": "succeed", "output": 1})).await;
    assert_eq!(settled["rejected"]["code"], "invalid_expect");
    api.record("default").await;
    let job = api.get(&format!("/v1/jobs/{wrong}")).await.expect(200);
    assert_eq!((&job["state"], &job["error"]["code"]), (&json!("dead"), &json!("invalid_expect")));

    let list: Vec<u32> = (0..3_000).collect();
    let expr = "output.all(a, output.all(b, output.all(c, a + b + c >= 0)))";
    api.submit(json!({"kind": "a", "expect": {"expr": expr}})).await;
    let job = api.take("default").await;
    let settle = api.settle(&job, json!({"outcome": "succeed", "output": list}));
    let settled = tokio::time::timeout(SOON, settle).await.expect("in bounded time");
    assert_eq!(settled["rejected"]["code"], "invalid_expect");
}

/// Notes that it was woken.
#[derive(Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The jobs are leased, their large payloads are being read, and then the caller is gone.
#[tokio::test]
async fn a_caller_who_hangs_up_while_payloads_are_read_costs_the_jobs_no_crash() {
    const JOBS: usize = 40;
    let api = Fixture::new().await;
    let payload = "x".repeat(100_000);
    let mut ids = Vec::new();
    for _ in 0..JOBS {
        ids.push(api.submit(json!({"kind": "a", "queue": "q", "payload": payload})).await);
    }
    let body = json!({"worker": "w", "queues": ["q"], "wait": "20s", "max": JOBS});
    {
        let mut call = std::pin::pin!(api.post("/v1/leases", body.clone()));
        let bell = Arc::new(Bell::default());
        let waker = Arc::clone(&bell).into();
        let mut told = false;
        loop {
            bell.0.store(false, Ordering::SeqCst);
            let polled = call.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending(), "so many payloads take a while");
            if told {
                break;
            }
            while !bell.0.load(Ordering::SeqCst) {
                tokio::task::yield_now().await;
            }
            // Woken with the jobs leased, it has been told of them: the next poll begins to read.
            told = is_leased(&api, &ids[0]).await;
        }
    }
    let mut left = JOBS;
    while left > 0 {
        let leases = tokio::time::timeout(SOON, api.post("/v1/leases", body.clone())).await;
        let leases = leases.unwrap().expect(200);
        let jobs = leases["jobs"].as_array().unwrap();
        assert!(!jobs.is_empty(), "{left} jobs are still leased to nobody");
        left -= jobs.len();
        for job in jobs {
            assert_eq!((&job["crashes"], &job["attempt"]), (&json!(0), &json!(1)));
        }
    }
}

async fn is_leased(api: &Fixture, id: &str) -> bool {
    let shard = ShardId::first(Namespace::default(), "q".parse().unwrap());
    let live = api.life.engine().peek(&shard, id.parse().unwrap()).await.unwrap();
    live.is_some_and(|live| matches!(live.state, LiveState::Leased { .. }))
}
