//! Submissions shaped before they are jobs, over two API processes, with a worker that sees what comes of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_shared::testkit::redis_server::process::free_port;

use crate::harness::{Fleet, Role, until};

/// A second API process of a fleet.
struct Second {
    url: String,
    _role: Role,
    http: reqwest::Client,
}

impl Second {
    async fn start(fleet: &Fleet) -> Self {
        let listen = format!("127.0.0.1:{}", free_port());
        let (url, http) = (format!("http://{listen}"), reqwest::Client::new());
        let second = Self { url, _role: fleet.role("api", &["--listen", &listen]), http };
        let url = format!("{}/readiness", second.url);
        until("the second API is ready", || async {
            let answer = second.http.get(&url).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        second
    }

    async fn post(&self, fleet: &Fleet, body: Value) -> (u16, Value) {
        let request = self.http.post(format!("{}/v1/jobs", self.url)).json(&body);
        let answer = request.bearer_auth(&fleet.submitter_key).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    }
}

async fn all(fleet: &Fleet, query: &str) -> Vec<Value> {
    let page = fleet.get(&format!("/v1/jobs?limit=500&{query}")).await;
    page["items"].as_array().expect("a list").clone()
}

/// Goal: a thousand submissions by eight clients over two API processes become calls of at most a hundred, and the handler
/// sees each item once, at the number that its submitter was told.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_items_are_seen_once_each() {
    let fleet = Fleet::start().await;
    let second = Second::start(&fleet).await;
    let _workers = (fleet.worker(4), fleet.worker(4));
    let clients = (0..8).map(|client| {
        let (fleet, second) = (&fleet, &second);
        async move {
            let mut told = Vec::new();
            for n in (client * 125)..((client + 1) * 125) {
                let job = json!({
                    "kind": "echo", "payload": n,
                    "collect": { "key": "k", "max": 100, "wait": "3s" },
                });
                let (status, answer) = match client % 2 {
                    0 => fleet.post("/v1/jobs", job).await,
                    _ => second.post(fleet, job).await,
                };
                assert_eq!(status, 202, "{answer}");
                told.push((n, answer));
            }
            told
        }
    });
    let mut told: BTreeMap<(String, u64), u64> = BTreeMap::new();
    for (n, answer) in futures::future::join_all(clients).await.into_iter().flatten() {
        let job = answer["id"].as_str().expect("an id").to_owned();
        let item = answer["item"].as_u64().expect("a number");
        assert!((1..=100).contains(&item), "{answer}");
        assert_eq!(told.insert((job, item), n), None, "told twice: {answer}");
    }
    let mut ids: Vec<String> = told.keys().map(|(job, _)| job.clone()).collect();
    ids.dedup();
    assert!(ids.len() >= 10, "{} jobs of at most a hundred items", ids.len());
    let mut seen: BTreeMap<(String, u64), u64> = BTreeMap::new();
    for job in fleet.all_in(&ids, "succeeded").await {
        assert_eq!(job["attempt"], 1, "{job}");
        let id = job["id"].as_str().expect("an id");
        let items = job["output"]["items"].as_array().expect("what the handler saw").clone();
        for (number, item) in (1..).zip(items) {
            seen.insert((id.to_owned(), number), item.as_u64().expect("a number"));
        }
    }
    assert_eq!(seen, told);
    assert_eq!(all(&fleet, "kind=echo").await.len(), ids.len(), "and no other job");
}

fn debounced(n: u32, delay: &str, max_wait: &str) -> Value {
    let rule = json!({ "key": "k", "delay": delay, "max_wait": max_wait });
    json!({ "kind": "echo", "payload": n, "debounce": rule })
}

/// Goal: of fifty submissions the last one runs, once, when it has been quiet; the others are cancelled and say for whom.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_submissions_run_once_with_the_last_payload() {
    let fleet = Fleet::start().await;
    let second = Second::start(&fleet).await;
    let _worker = fleet.worker(4);
    let mut before: Option<String> = None;
    for n in 0..50 {
        let job = debounced(n, "1500ms", "1m");
        let (status, answer) = match n % 2 {
            0 => fleet.post("/v1/jobs", job).await,
            _ => second.post(&fleet, job).await,
        };
        assert_eq!((status, &answer["state"]), (201, &json!("blocked")), "{answer}");
        assert_eq!(answer["replaced"].as_str(), before.as_deref(), "{answer}");
        before = answer["id"].as_str().map(str::to_owned);
    }
    let (last, since) = (before.expect("fifty were accepted"), Instant::now());
    let why = fleet.get(&format!("/v1/jobs/{last}/explain")).await;
    assert_eq!(why["reasons"][0]["code"], "debounced", "{why}");
    assert!(why["reasons"][0]["until"].is_string(), "{why}");
    let job = fleet.all_in(std::slice::from_ref(&last), "succeeded").await.remove(0);
    assert_eq!(job["output"], 49);
    let waited = since.elapsed();
    // A second for being late, and as much again for two slow cores.
    assert!(waited < Duration::from_millis(1500 + 2000), "{waited:?}");
    assert!(waited > Duration::from_millis(1000), "{waited:?}");
    let others = all(&fleet, "state=cancelled").await;
    assert_eq!(others.len(), 49);
    for other in others {
        assert_eq!(other["error"]["code"], "superseded", "{other}");
        assert_eq!(other["attempt"], 0, "{other}");
    }
    assert_eq!(all(&fleet, "state=succeeded").await.len(), 1);
}

/// Goal: a storm that never pauses still runs every `max_wait`, each run with what was the latest then.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_that_never_pauses_runs_every_max_wait() {
    let fleet = Fleet::start().await;
    let _worker = fleet.worker(4);
    let (began, mut n, mut first) = (Instant::now(), 0, None);
    let mut opened = Vec::new();
    while began.elapsed() < Duration::from_secs(5) {
        let (status, answer) = fleet.post("/v1/jobs", debounced(n, "900ms", "1s")).await;
        assert_eq!(status, 201, "{answer}");
        if answer["replaced"].is_null() {
            opened.push(n);
        }
        first.get_or_insert(answer);
        n += 1;
    }
    let ran = until("the last one has run", || async {
        let ran = all(&fleet, "state=succeeded").await;
        let is_last = ran.first().is_some_and(|job| job["output"] == n - 1);
        is_last.then_some(ran)
    })
    .await;
    // Five seconds of storm, each run at most one second and a bit after the one before it.
    assert!((4..=6).contains(&ran.len()), "{} runs of {n} submissions", ran.len());
    let mut outputs: Vec<u32> =
        ran.iter().map(|job| job["output"].as_u64().expect("a number") as u32).collect();
    outputs.reverse();
    let last_of_series: Vec<u32> =
        opened.iter().skip(1).map(|first| first - 1).chain([n - 1]).collect();
    assert_eq!(outputs, last_of_series, "each run has the last payload of its series");
    let rest = all(&fleet, "state=ready").await.len() + all(&fleet, "state=blocked").await.len();
    assert_eq!(rest, 0);
}

/// Goal: a scheduler that dies once it has shut a series, before it could tell the engine, costs time and no job.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_survives_the_death_of_who_shuts_it() {
    let mut fleet = Fleet::start().await;
    fleet.stop_scheduler();
    let collect = json!({ "key": "k", "max": 100, "wait": "300ms" });
    let job = json!({ "kind": "echo", "payload": 7, "collect": collect });
    let (status, answer) = fleet.post("/v1/jobs", job).await;
    assert_eq!(status, 202, "{answer}");
    let id = answer["id"].as_str().expect("an id").to_owned();
    fleet.set("WINDLASS_FAIL", "series.shut=abort");
    let mut dying = fleet.role("scheduler", &[]);
    until("the scheduler has shut it and died", || async {
        (fleet.job(&id).await["state"] == "ready").then_some(())
    })
    .await;
    dying.died().await;
    fleet.unset("WINDLASS_FAIL");
    let _workers = (fleet.role("scheduler", &[]), fleet.worker(4));
    let job = fleet.all_in(std::slice::from_ref(&id), "succeeded").await.remove(0);
    assert_eq!(job["output"], json!({ "items": [7] }));
    assert_eq!(fleet.attempts(&id).await.len(), 1);
}
