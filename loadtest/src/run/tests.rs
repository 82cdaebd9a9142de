//! Against a fleet that is made up: each way in which one may break its promises must be noticed.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;

/// Changes what the fleet says of the `n`th job; `None` leaves it out.
type Twist = fn(u64, Value) -> Option<Value>;

#[derive(Clone)]
struct Fleet {
    jobs: Arc<Mutex<Vec<Value>>>,
    twist: Twist,
    /// Answers the `n`th submission so, instead of taking it.
    refuse: fn(u64) -> Option<(u16, &'static str)>,
    /// Also makes a job nobody is told of.
    ghosts: bool,
    /// Its clock is ahead.
    ahead: Duration,
    /// A list of what has not ended has something so many times yet, on its second page.
    live: Arc<AtomicU32>,
    /// What it says of workflows, one for all.
    run: RunTwist,
    /// Of a batch so many jobs are taken.
    taken: usize,
}

/// Changes what the fleet says of a workflow and of its jobs; `None`: it is not there.
type RunTwist = fn(Value, Vec<Value>) -> Option<(Value, Vec<Value>)>;

fn honest(_: u64, job: Value) -> Option<Value> {
    Some(job)
}

impl Fleet {
    fn sound() -> Self {
        Self {
            jobs: Arc::default(),
            twist: honest,
            refuse: |_| None,
            ghosts: false,
            ahead: Duration::ZERO,
            live: Arc::default(),
            run: |run, jobs| Some((run, jobs)),
            taken: usize::MAX,
        }
    }

    fn job(&self, body: &Value, count: u64) -> Value {
        let now = Clock::System.now().plus(self.ahead);
        let delay = if body["delay"].is_string() { Duration::from_secs(1) } else { Duration::ZERO };
        let run_at = now.plus(delay);
        let ms = |ms: u64| run_at.plus(Duration::from_millis(ms));
        let attempt = body["payload"]["fails"].as_u64().unwrap_or(0) + 1;
        json!({
            "n": count, "id": Uuid::now_v7(), "state": "succeeded", "attempt": attempt, "crashes": 0,
            "created_at": now, "run_at": run_at, "started_at": ms(2), "finished_at": ms(5),
            "workflow": null,
        })
    }

    /// A workflow of one diamond: begin, two, end; each step 5 ms after the one before.
    fn run(&self) -> Option<(Value, Vec<Value>)> {
        let now = Clock::System.now();
        let at = |ms: u64| now.plus(Duration::from_millis(ms));
        let job = |(n, step): (u64, &str)| {
            let (from, to) = ([0, 5, 5, 10][n as usize], [4, 9, 8, 14][n as usize]);
            json!({
                "n": n, "id": Uuid::now_v7(), "state": "succeeded", "attempt": 1, "crashes": 0,
                "created_at": now, "run_at": now, "started_at": at(from), "finished_at": at(to),
                "workflow": { "step": step },
            })
        };
        let steps = ["d0-begin", "d0-0", "d0-1", "d0-end"];
        let jobs = (0..).zip(steps).map(job).collect();
        let run = json!({ "state": "succeeded", "created_at": now, "finished_at": at(14) });
        (self.run)(run, jobs)
    }

    async fn serve(self) -> String {
        let router = Router::new()
            .route(
                "/openapi.json",
                get(|| async { Json(json!({ "info": { "version": "1.2.3" } })) }),
            )
            .route("/v1/jobs", post(submit).get(list))
            .route("/v1/jobs/batch", post(batch))
            .route("/v1/workflows", post(submit_run).get(list_runs))
            .route("/v1/workflows/{id}", get(show_run))
            .route("/v1/queues/{queue}", get(queue).patch(changed))
            .route("/v1/queues/{queue}/{change}", post(changed))
            .with_state(self);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }
}

async fn queue(Path(_): Path<String>) -> Json<Value> {
    Json(json!({ "depth": { "ready": 1, "delayed": 2, "running": 3, "finishing": 4 } }))
}

async fn submit(State(fleet): State<Fleet>, Json(body): Json<Value>) -> Response {
    let mut jobs = fleet.jobs.lock().unwrap();
    let n = jobs.len() as u64;
    if let Some((status, code)) = (fleet.refuse)(n) {
        // So that it is the next one's turn; nothing is listed of it, unless nobody knows whether it was written.
        let is_written = code == "outcome_unknown";
        jobs.push(if is_written { fleet.job(&body, n) } else { Value::Null });
        let status = axum::http::StatusCode::from_u16(status).unwrap();
        return (status, Json(json!({ "code": code }))).into_response();
    }
    let job = fleet.job(&body, n);
    jobs.push(job.clone());
    if fleet.ghosts {
        let ghost = fleet.job(&body, n + 1);
        jobs.push(ghost);
    }
    (axum::http::StatusCode::CREATED, Json(job)).into_response()
}

async fn changed() -> Json<Value> {
    Json(json!({}))
}

async fn submit_run() -> Response {
    let id = Uuid::now_v7();
    (axum::http::StatusCode::CREATED, Json(json!({ "id": id }))).into_response()
}

async fn show_run(State(fleet): State<Fleet>) -> Response {
    match fleet.run() {
        Some((run, _)) => Json(run).into_response(),
        None => axum::http::StatusCode::NOT_FOUND.into_response(),
    }
}

async fn list_runs() -> Json<Value> {
    Json(json!({ "items": [], "next_cursor": null }))
}

async fn batch(State(fleet): State<Fleet>, Json(body): Json<Value>) -> Json<Value> {
    let mut jobs = fleet.jobs.lock().unwrap();
    let mut results = Vec::new();
    for (n, one) in body["jobs"].as_array().unwrap().iter().enumerate() {
        if n >= fleet.taken {
            results.push(json!({ "error": { "code": "queue_full" } }));
            continue;
        }
        let job = fleet.job(one, jobs.len() as u64);
        results.push(json!({ "id": job["id"] }));
        jobs.push(job);
    }
    Json(json!({ "results": results }))
}

async fn list(
    State(fleet): State<Fleet>,
    Query(query): Query<Vec<(String, String)>>,
) -> Json<Value> {
    let after = query.iter().find(|(name, _)| name == "cursor");
    if query.iter().any(|(name, _)| name == "state") {
        let is_live = fleet.live.load(Ordering::Relaxed) > 0;
        return Json(match (is_live, after) {
            (false, _) => json!({ "items": [], "next_cursor": null }),
            (true, None) => json!({ "items": [], "next_cursor": "more" }),
            (true, Some(_)) => {
                fleet.live.fetch_sub(1, Ordering::Relaxed);
                json!({ "items": [{}], "next_cursor": null })
            }
        });
    }
    if query.iter().any(|(name, _)| name == "workflow_id") {
        let items = fleet.run().map(|(_, jobs)| jobs).unwrap_or_default();
        return Json(json!({ "items": items, "next_cursor": null }));
    }
    let from: usize = after.map_or(0, |(_, at)| at.parse().unwrap());
    let jobs = fleet.jobs.lock().unwrap();
    // Small pages, so that there are several.
    let to = jobs.len().min(from + 7);
    let shown = jobs[from..to].iter().filter(|job| !job.is_null());
    let items: Vec<Value> =
        shown.filter_map(|job| (fleet.twist)(job["n"].as_u64().unwrap(), job.clone())).collect();
    let next = (to < jobs.len()).then(|| to.to_string());
    Json(json!({ "items": items, "next_cursor": next }))
}

/// 40 jobs, a quarter of them delayed and a quarter failing at first.
const PROFILE: &str = r#"
    about = "short"
    jobs = { delayed_percent = 25, delay = "1s", failing_percent = 25 }
    settle = "1s"
    stages = [{ name = "burst", burst = 40 }]
    [thresholds]
    lost = { max = 0 }
    wrong = { max = 0 }
    repeated = { max = 0 }
    early = { max = 0 }
    ghosts = { max = 0 }
    errors_percent = { max = 0 }
"#;

async fn run_on(fleet: Fleet) -> LoadResult {
    run_profile(fleet, PROFILE).await
}

async fn run_profile(fleet: Fleet, profile: &str) -> LoadResult {
    let target =
        Target { url: fleet.serve().await, api_key: None, namespace: None, watched: Vec::new() };
    let profile = Profile::parse(profile).unwrap();
    let options = Options { seed: 7, traces: Vec::new() };
    run("test", &profile, &target, options, &|_| {}, CancellationToken::new()).await.unwrap()
}

/// The only thresholds that do not hold.
fn failed(result: &LoadResult) -> Vec<&str> {
    result.thresholds.iter().filter(|held| !held.holds).map(|held| held.name.as_str()).collect()
}

#[tokio::test]
async fn a_sound_fleet_passes_and_every_job_is_looked_at() {
    let result = run_on(Fleet::sound()).await;
    assert!(result.passed, "{:?}", failed(&result));
    assert_eq!(result.figures.get("accepted"), Some(40.0));
    assert_eq!(result.figures.get("burst.calls"), Some(40.0));
    assert_eq!(result.fleet_version, "1.2.3");
    let end = result.figures.get("end_p50_ms").unwrap();
    assert!((5.0..2_000.0).contains(&end), "{end}");
    assert!(result.series.iter().any(|second| second.depth == Some(10)), "{:?}", result.series);
    assert!(result.examples.is_empty() && result.codes.is_empty());
}

#[tokio::test]
async fn each_broken_promise_is_noticed_and_named() {
    fn with(mut job: Value, field: &str, value: impl Into<Value>) -> Option<Value> {
        job[field] = value.into();
        Some(job)
    }
    let cases: [(&str, Twist); 6] = [
        ("lost", |n, job| (n != 3).then_some(job)),
        ("lost", |n, job| match n {
            3 => with(with(job, "finished_at", Value::Null)?, "state", "running"),
            _ => Some(job),
        }),
        ("wrong", |n, job| if n == 3 { with(job, "state", "dead") } else { Some(job) }),
        ("repeated", |n, job| if n == 3 { with(job, "crashes", 1) } else { Some(job) }),
        // Of a job that was to fail at first.
        ("wrong", |_, job| if job["attempt"] == 2 { with(job, "attempt", 1) } else { Some(job) }),
        ("early", |_, job| {
            if job["run_at"] == job["created_at"] {
                return Some(job);
            }
            let created = job["created_at"].clone();
            with(job, "started_at", created)
        }),
    ];
    for (n, (name, twist)) in cases.into_iter().enumerate() {
        let result = run_on(Fleet { twist, ..Fleet::sound() }).await;
        // A job that did not end as planned is an error, too.
        let named: Vec<&str> =
            failed(&result).into_iter().filter(|other| *other != "errors_percent").collect();
        assert_eq!(named, [name], "case {n}");
        assert!(!result.passed && (name == "repeated" || !result.examples.is_empty()), "case {n}");
    }
}

#[tokio::test]
async fn jobs_that_nobody_was_told_of_are_noticed_unless_an_answer_was_lost() {
    let result = run_on(Fleet { ghosts: true, ..Fleet::sound() }).await;
    assert_eq!(failed(&result), ["ghosts"]);
    assert_eq!(result.figures.get("ghosts"), Some(40.0));
}

#[tokio::test]
async fn refusals_and_failures_are_errors_by_what_was_said() {
    let refuse = |n| match n {
        3 => Some((429, "busy")),
        5 => Some((500, "busy")),
        _ => None,
    };
    let result = run_on(Fleet { refuse, ..Fleet::sound() }).await;
    assert_eq!(failed(&result), ["errors_percent"]);
    assert_eq!(result.figures.get("refused_percent"), Some(2.5));
    assert_eq!(result.figures.get("errors_percent"), Some(5.0));
    let codes: Vec<_> = result.codes.iter().map(|(code, n)| (code.as_str(), *n)).collect();
    assert_eq!(codes, [("submit: 429 busy", 1), ("submit: 500 busy", 1)]);
}

#[tokio::test]
async fn a_fleet_whose_clock_is_ahead_does_not_look_slow() {
    let ahead = Duration::from_secs(3_600);
    let result = run_on(Fleet { ahead, ..Fleet::sound() }).await;
    assert!(result.passed, "{:?}", failed(&result));
    let end = result.figures.get("end_max_ms").unwrap();
    assert!(end < 60_000.0, "{end}");
    assert!(result.notes.iter().any(|note| note.contains("ahead")), "{:?}", result.notes);
}

#[tokio::test]
async fn every_way_in_which_calls_come_makes_calls() {
    let profile = r#"
        about = "all ways"
        mix = { submit = 2, batch = 1 }
        jobs = { batch = 5 }
        stages = [
            { name = "rate", rate = 50, for = "400ms" },
            { name = "ramp", rate = [0, 100], for = "400ms" },
            { name = "flat", in_flight = 2, for = "200ms" },
            { name = "half", times_peak = 0.5, for = "200ms" },
            { name = "people", users = 5, think = ["10ms", "20ms"], for = "300ms" },
        ]
        [thresholds]
        lost = { max = 0 }
        "half.calls_per_second" = { max_times = 0.7, of = "flat.calls_per_second" }
    "#;
    let result = run_profile(Fleet::sound(), profile).await;
    let calls = |stage: &str| result.figures.get(&format!("{stage}.calls")).unwrap();
    assert_eq!((calls("rate"), calls("ramp")), (20.0, 20.0));
    assert!(calls("flat") > 2.0 && calls("half") > 1.0 && calls("people") >= 5.0);
    // Batches count all their jobs.
    assert!(result.figures.get("accepted").unwrap() > result.figures.get("calls").unwrap());
    assert!(failed(&result).is_empty(), "{:?}", result.thresholds);
}

#[tokio::test]
async fn callers_wait_while_more_is_in_the_queue_than_may_be() {
    // There are always 10.
    let profile = |most: u32| {
        format!(
            "about = \"bounded\"\nstages = [{{ name = \"all\", in_flight = 2, depth_max = {most}, for = \"500ms\" }}]\n"
        )
    };
    let result = run_profile(Fleet::sound(), &profile(10)).await;
    let free = result.figures.get("calls").unwrap();
    let result = run_profile(Fleet::sound(), &profile(9)).await;
    let held = result.figures.get("calls").unwrap();
    // Some are made before the first look.
    assert!(held > 0.0 && held < free / 2.0, "{held} of {free}");
}

#[tokio::test]
async fn a_load_that_is_stopped_has_not_passed_and_is_checked_all_the_same() {
    let fleet = Fleet::sound();
    let target =
        Target { url: fleet.serve().await, api_key: None, namespace: None, watched: Vec::new() };
    let text = PROFILE.replace("burst = 40", "rate = 100, for = \"1h\"");
    let profile = Profile::parse(&text).unwrap();
    let stop = CancellationToken::new();
    let stopper = stop.clone();
    let tell = move |progress: &Progress<'_>| {
        if progress.accepted >= 20 {
            stopper.cancel();
        }
    };
    let options = Options { seed: 1, traces: Vec::new() };
    let result = run("test", &profile, &target, options, &tell, stop).await.unwrap();
    assert!(result.was_stopped && !result.passed);
    assert!(failed(&result).is_empty() && result.figures.get("accepted").unwrap() >= 20.0);
}

#[tokio::test]
async fn a_fleet_that_is_slow_to_end_is_waited_for() {
    let fleet = Fleet::sound();
    fleet.live.store(2, Ordering::Relaxed);
    let live = Arc::clone(&fleet.live);
    let result = run_on(fleet).await;
    assert_eq!((live.load(Ordering::Relaxed), result.passed), (0, true));
    let fleet = Fleet::sound();
    fleet.live.store(u32::MAX, Ordering::Relaxed);
    let result = run_on(fleet).await;
    assert!(!result.passed && result.reasons()[0].contains("under way"), "{:?}", result.reasons());
}

#[tokio::test]
async fn a_write_of_which_nobody_knows_is_no_ghost() {
    let refuse = |n| (n < 3).then_some((503, "outcome_unknown"));
    let result = run_on(Fleet { refuse, ..Fleet::sound() }).await;
    assert_eq!(failed(&result), ["errors_percent"]);
    assert_eq!(result.figures.get("ghosts"), Some(0.0));
    assert_eq!(result.figures.get("failed_percent"), Some(7.5));
    assert_eq!(result.figures.get("refused_percent"), Some(0.0));
}

/// Two workflows of one diamond each.
const RUNS: &str = r#"
    about = "runs"
    mix = { workflow = 1 }
    settle = "1s"
    stages = [{ name = "all", burst = 2 }]
    [thresholds]
    lost = { max = 0 }
    wrong = { max = 0 }
    repeated = { max = 0 }
    early = { max = 0 }
    ghosts = { max = 0 }
"#;

#[tokio::test]
async fn each_broken_promise_of_a_workflow_is_noticed_and_named() {
    let sound = run_profile(Fleet::sound(), RUNS).await;
    assert!(sound.passed, "{:?} {:?}", sound.reasons(), sound.examples);
    assert_eq!(sound.figures.get("accepted"), Some(8.0));
    let cases: [(&str, RunTwist); 6] = [
        ("lost", |_, _| None),
        ("lost", |mut run, jobs| {
            run["finished_at"] = Value::Null;
            Some((run, jobs))
        }),
        ("lost", |run, mut jobs| {
            jobs.pop();
            Some((run, jobs))
        }),
        ("wrong", |mut run, jobs| {
            run["state"] = "failed".into();
            Some((run, jobs))
        }),
        ("repeated", |run, mut jobs| {
            let mut second = jobs[1].clone();
            second["id"] = json!(Uuid::now_v7());
            jobs.push(second);
            Some((run, jobs))
        }),
        ("early", |run, mut jobs| {
            jobs[3]["started_at"] = jobs[1]["started_at"].clone();
            Some((run, jobs))
        }),
    ];
    for (n, (name, run)) in cases.into_iter().enumerate() {
        let result = run_profile(Fleet { run, ..Fleet::sound() }, RUNS).await;
        assert_eq!(failed(&result), [name], "case {n}: {:?}", result.examples);
        assert!(!result.examples.is_empty(), "case {n}");
    }
}

#[tokio::test]
async fn what_is_lost_in_a_warm_up_counts_and_its_times_do_not() {
    let profile = PROFILE
        .replace("burst = 40 }", "burst = 40, warm_up = true }, { name = \"then\", burst = 5 }");
    let twist: Twist = |n, job| (n != 3).then_some(job);
    let result = run_profile(Fleet { twist, ..Fleet::sound() }, &profile).await;
    assert_eq!(result.figures.get("lost"), Some(1.0));
    assert_eq!(result.figures.get("accepted"), Some(5.0));
}

#[tokio::test]
async fn a_backlog_is_as_large_as_it_says_or_an_error() {
    let profile = PROFILE.replace("burst = 40", "burst = 1, backlog = 1234, hold = 50");
    let fleet = Fleet::sound();
    let jobs = Arc::clone(&fleet.jobs);
    let result = run_profile(fleet, &profile).await;
    assert_eq!((jobs.lock().unwrap().len(), result.figures.get("accepted")), (1235, Some(1.0)));
    let target = Target {
        url: Fleet { taken: 900, ..Fleet::sound() }.serve().await,
        api_key: None,
        namespace: None,
        watched: Vec::new(),
    };
    let profile = Profile::parse(&profile).unwrap();
    let options = Options { seed: 7, traces: Vec::new() };
    let ran = run("test", &profile, &target, options, &|_| {}, CancellationToken::new()).await;
    assert!(ran.unwrap_err().to_string().contains("takes no more"));
}
