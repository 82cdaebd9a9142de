//! What an attempt leaves for the next: partial results, and what to do better. On a ledger, with a recorder.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_shared::clock::Clock;
use windlass_shared::config::LedgerSettings;
use windlass_shared::engine::ClaimRequest;
use windlass_shared::ledger::{Ledger, Submission};
use windlass_shared::lifecycle::{Lifecycle, record};
use windlass_shared::limits::VALUE_BYTES_MAX;
use windlass_shared::model::evaluate::{Evaluation, Previous};
use windlass_shared::model::id::{Fence, JobId, LeaseId, WorkerId};
use windlass_shared::model::job::{Expect, Job, JobSpec, JobState, NewJob, Value};
use windlass_shared::model::name::Namespace;
use windlass_worker::builder::WorkerBuilder;
use windlass_worker::checkpoint::{CheckpointError, ResumeError};
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;
use windlass_worker::reporter::Reporter;
use windlass_worker::reporter::ledger::LedgerReporter;

use crate::fixture::{PATIENCE, Rig, Running, limited, spec};

/// A rig whose jobs are on record, and a recorder.
struct Flow {
    rig: Rig,
    life: Lifecycle,
    reporter: Arc<LedgerReporter>,
    recorder: JoinHandle<()>,
    folder: TempDir,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.recorder.abort();
    }
}

impl Flow {
    async fn new() -> Self {
        let rig = Rig::new().await;
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
        let settings = LedgerSettings::new(url);
        Ledger::migrate(&settings).await.unwrap();
        let ledger = Ledger::open(&settings).await.unwrap();
        let life = Lifecycle::start(
            ledger.clone(),
            rig.engine.clone(),
            Clock::System,
            CancellationToken::new(),
            TaskTracker::new(),
        );
        let (recording, shard) = (life.clone(), rig.shard.clone());
        let recorder = tokio::spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            loop {
                pace.tick().await;
                record::record_outcomes(&recording, &shard).await.unwrap();
            }
        });
        let reporter = Arc::new(LedgerReporter::new(life.clone(), Namespace::default()));
        Self { rig, life, reporter, recorder, folder }
    }

    fn start(&self, add: impl FnOnce(WorkerBuilder) -> WorkerBuilder) -> Running {
        let builder = self.rig.builder().builtin().reporter(Arc::clone(&self.reporter) as _);
        Running::start(add(builder).build().unwrap())
    }

    async fn submit(&self, kind: &str, payload: Json, spec: JobSpec) -> JobId {
        let payload = Value::Inline(payload.to_string().into());
        let shard = &self.rig.shard;
        let (namespace, queue) = (shard.namespace.clone(), shard.queue.clone());
        let job = NewJob { spec, ..NewJob::new(namespace, queue, kind.parse().unwrap(), payload) };
        let id = job.id;
        let submission = Submission { jobs: vec![job], atomic: true, idempotency: None };
        self.life.submit(submission).await.unwrap();
        id
    }

    async fn end(&self, id: JobId) -> Job {
        let waited = self.life.wait(&Namespace::default(), id, PATIENCE).await.unwrap();
        waited.expect("it is on record").expect("it does not end")
    }

    async fn run(&self, kind: &str, payload: Json, spec: JobSpec) -> Job {
        let id = self.submit(kind, payload, spec).await;
        self.end(id).await
    }

    async fn checkpoint(&self, id: JobId) -> Option<Json> {
        let found = self.life.ledger().checkpoint(&Namespace::default(), id).await.unwrap();
        found.map(|found| serde_json::from_slice(&found.data).unwrap())
    }

    async fn evaluations(&self, id: JobId) -> Vec<Option<Evaluation>> {
        let attempts = self.life.ledger().attempts(&Namespace::default(), id).await.unwrap();
        let of = |usage: Option<Bytes>| usage.and_then(|notes| Evaluation::apart(&notes).1);
        attempts.unwrap().into_iter().map(|attempt| of(attempt.usage)).collect()
    }
}

fn output(job: &Job) -> Json {
    match &job.output {
        Some(Value::Inline(bytes)) => serde_json::from_slice(bytes).unwrap(),
        other => panic!("no inline output but {other:?}: {:?}", job.error),
    }
}

/// Goal: work goes on where it was stored last, after an error and after a time-out.
#[tokio::test]
async fn an_attempt_goes_on_from_where_the_one_before_stored() {
    let flow = Flow::new().await;
    let worker = flow.start(|b| {
        b.handle("count", |ctx: Context, (): ()| async move {
            let done: Vec<u32> = ctx.resume().await?.unwrap_or_default();
            let mut next = done.clone();
            next.push(ctx.attempt());
            ctx.checkpoint(&next).await?;
            match ctx.attempt() {
                1 => Err(HandlerError::retryable("first", "on purpose")),
                2 => std::future::pending().await,
                _ => Ok(done),
            }
        })
    });
    let id = flow.submit("count", json!(null), limited(3, 3_000)).await;
    let job = flow.end(id).await;
    assert_eq!(output(&job), json!([1, 2]));
    assert_eq!(flow.checkpoint(id).await, Some(json!([1, 2, 3])));
    // Over the limit in the last attempt: what was stored stays.
    let job = flow.run("count", json!(null), limited(2, 3_000)).await;
    assert_eq!((job.state, job.error.unwrap().code.as_str()), (JobState::Dead, "timeout"));
    assert_eq!(flow.checkpoint(job.id).await, Some(json!([1, 2])));
    worker.stop().await;
}

/// Goal: a worker that stops hands over what its jobs have done so far; no attempt is spent.
#[tokio::test]
async fn a_released_job_goes_on_elsewhere_at_its_first_attempt() {
    let mut flow = Flow::new().await;
    flow.rig.settings.drain_timeout = Duration::from_millis(50);
    let stored = Arc::new(tokio::sync::Notify::new());
    let tell = Arc::clone(&stored);
    let half = move |ctx: Context, (): ()| {
        let tell = Arc::clone(&tell);
        async move {
            if let Some(done) = ctx.resume::<u32>().await? {
                return Ok::<_, HandlerError>((done, ctx.attempt()));
            }
            ctx.checkpoint(&50).await?;
            tell.notify_one();
            std::future::pending().await
        }
    };
    let worker = flow.start(|b| b.handle("half", half.clone()));
    let id = flow.submit("half", json!(null), spec(1)).await;
    tokio::time::timeout(PATIENCE, stored.notified()).await.unwrap();
    worker.stop().await;
    let worker = flow.start(|b| b.handle("half", half));
    assert_eq!(output(&flow.end(id).await), json!([50, 1]));
    worker.stop().await;
}

/// Goal: after a crash the successor goes on from what the lost lease stored, and the lost lease stores no more.
#[tokio::test]
async fn a_crash_keeps_what_was_stored_and_its_lease_stores_no_more() {
    let flow = Flow::new().await;
    let id = flow.submit("part", json!(null), spec(1)).await;
    let claim = ClaimRequest {
        worker: WorkerId::generate(),
        lease_id: LeaseId::random(),
        max: 1,
        lease: Duration::from_millis(100),
        kinds: Vec::new(),
        offset: 0,
        ledger: None,
    };
    let (engine, shard) = (&flow.rig.engine, &flow.rig.shard);
    let first = async {
        loop {
            let reply = engine.claim(shard, &claim).await.unwrap();
            match reply.jobs.first() {
                Some(claimed) => return claimed.fence,
                // Not pushed yet.
                None => tokio::task::yield_now().await,
            }
        }
    };
    let first = tokio::time::timeout(PATIENCE, first).await.unwrap();
    let put = |fence, data| flow.reporter.put_checkpoint(id, fence, Bytes::from_static(data));
    assert!(put(first, b"[1]").await.unwrap());
    let reaped = async {
        while engine.reap(shard, 10).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reaped).await.unwrap();
    let worker = flow.start(|b| {
        b.handle("part", |ctx: Context, (): ()| async move {
            let mut done: Vec<u64> = ctx.resume().await?.unwrap_or_default();
            done.push(ctx.fence().0);
            ctx.checkpoint(&done).await?;
            // Whoever comes back from the dead is refused.
            Ok::<_, HandlerError>(done)
        })
    });
    let job = flow.end(id).await;
    let done = output(&job);
    assert_eq!((&done[0], job.crashes, job.attempt), (&json!(1), 1, 1));
    assert!(done[1].as_u64().unwrap() > first.0);
    assert!(!put(first, b"[]").await.unwrap());
    assert_eq!(flow.checkpoint(id).await, Some(done));
    worker.stop().await;
}

#[tokio::test]
async fn what_cannot_be_stored_says_why() {
    let flow = Flow::new().await;
    let (ledger, seen) = (flow.life.ledger().clone(), Arc::new(Mutex::new(Vec::new())));
    let note = Arc::clone(&seen);
    let worker = flow.start(|b| {
        b.handle("store", move |ctx: Context, (): ()| {
            let (ledger, note) = (ledger.clone(), Arc::clone(&note));
            async move {
                ctx.checkpoint(&"x".repeat(VALUE_BYTES_MAX - 2)).await?;
                let too_large = ctx.checkpoint(&"x".repeat(VALUE_BYTES_MAX - 1)).await;
                let keys = std::collections::HashMap::from([((1, 2), 3)]);
                let not_json = ctx.checkpoint(&keys).await;
                let (namespace, later) = (Namespace::default(), Fence(ctx.fence().0 + 1));
                let put = ledger.put_checkpoint(&namespace, ctx.job_id(), later, "7".into());
                assert!(put.await?);
                let stale = ctx.checkpoint(&8).await;
                let unfit = ctx.resume::<String>().await;
                note.lock().unwrap().push((too_large, not_json, stale, unfit));
                Ok::<_, HandlerError>(())
            }
        })
    });
    let id = flow.submit("store", json!(null), spec(1)).await;
    assert_eq!(flow.end(id).await.state, JobState::Succeeded);
    let (too_large, not_json, stale, unfit) = seen.lock().unwrap().pop().unwrap();
    assert!(matches!(too_large, Err(CheckpointError::TooLarge(n)) if n == VALUE_BYTES_MAX + 1));
    assert!(matches!(not_json, Err(CheckpointError::NotJson(_))));
    assert!(matches!(stale, Err(CheckpointError::Stale)));
    assert!(matches!(unfit, Err(ResumeError::Unfit(_))));
    assert_eq!(flow.checkpoint(id).await, Some(json!(7)));
    worker.stop().await;
}

/// Goal: jobs that don't look back, and first attempts that ask for the one before, cost nothing.
#[tokio::test]
async fn nothing_is_asked_for_that_nobody_wants() {
    let mut rig = Rig::new().await;
    let worker = rig.start(|b| {
        b.handle("look", |ctx: Context, (): ()| async move {
            let none = ctx.previous().await?.is_none() && ctx.attempt() == 1;
            Ok::<_, HandlerError>(none)
        })
    });
    assert_eq!(rig.run("look", json!(null), spec(1)).await.output(), json!(true));
    rig.run("fail", json!({"times": 2}), spec(3)).await;
    assert_eq!(*rig.memory.asked.lock().unwrap(), 0);
    worker.stop().await;
}

fn evaluated(attempts: u32, evaluate: &Json) -> JobSpec {
    let evaluate = serde_json::from_value(evaluate.clone()).unwrap();
    JobSpec { expect: Some(Expect { evaluate, ..Expect::default() }), ..spec(attempts) }
}

/// Goal: the gate tells the next attempt what to do better, and the attempt sees it.
#[tokio::test]
async fn the_next_attempt_is_told_what_to_do_better() {
    let flow = Flow::new().await;
    let worker = flow.start(|b| {
        b.handle("write", |ctx: Context, (): ()| async move {
            let mut report = json!({"title": "t", "previous": ctx.previous().await?});
            let advice = ctx.previous().await?.map(|p| p.recommendations).unwrap_or_default();
            if advice.iter().any(|text| text == "Cite two sources.") {
                report["sources"] = json!(["a", "b"]);
            }
            ctx.set_usage(json!({"tokens": 5}));
            Ok::<_, HandlerError>(report)
        })
    });
    let cites = json!({"name": "cites", "expr": "size(value.sources) >= 2",
        "recommendation": "Cite two sources."});
    let gate = json!({"rules": [cites], "completeness": {"required": ["/title", "/sources"]}});
    let job = flow.run("write", json!(null), evaluated(3, &gate)).await;
    let report = output(&job);
    assert_eq!((job.attempt, &report["sources"]), (2, &json!(["a", "b"])));
    let previous: Previous = serde_json::from_value(report["previous"].clone()).unwrap();
    assert_eq!((previous.attempt, previous.score), (1, Some(0.25)));
    assert_eq!(previous.error.code, "result_rejected");
    let evaluations = flow.evaluations(job.id).await;
    assert_eq!(evaluations[0].as_ref().unwrap().recommendations, previous.recommendations);
    assert_eq!(evaluations[1], None);
    let attempts = flow.life.ledger().attempts(&Namespace::default(), job.id).await.unwrap();
    let usage = attempts.unwrap()[0].usage.clone().unwrap();
    assert_eq!(Evaluation::apart(&usage).0, Some(Bytes::from_static(br#"{"tokens":5}"#)));
    worker.stop().await;
}

#[tokio::test]
async fn the_evaluate_kind_scores_a_value_and_fails_below_the_threshold() {
    let flow = Flow::new().await;
    let worker = flow.start(|b| b);
    let rule = json!({"name": "positive", "expr": "value.n > 0", "recommendation": "Be positive."});
    let payload = |n: i64, threshold: f64| {
        json!({"value": {"n": n}, "rules": [rule], "threshold": threshold,
            "accuracy": {"expected": {"n": 5}, "tolerance": 0.2}})
    };
    let passed = output(&flow.run("evaluate", payload(6, 1.0), spec(1)).await);
    assert_eq!(
        passed,
        json!({"score": 1.0, "passed": true, "threshold": 1.0,
        "scores": {"accuracy": 1.0, "rules": 1.0}, "failures": [], "recommendations": []})
    );
    let half = output(&flow.run("evaluate", payload(7, 0.5), spec(1)).await);
    assert_eq!((&half["score"], &half["passed"]), (&json!(0.5), &json!(true)));
    let failed = flow.run("evaluate", payload(-1, 0.95), spec(2)).await;
    let error = failed.error.unwrap();
    assert_eq!((failed.state, failed.attempt), (JobState::Dead, 2));
    assert_eq!((error.code.as_str(), error.retryable), ("evaluation_failed", true));
    assert!(error.message.contains("Be positive."), "{}", error.message);
    for evaluation in flow.evaluations(failed.id).await {
        let evaluation = evaluation.unwrap();
        assert_eq!((evaluation.score, evaluation.passed), (0.0, false));
    }
    worker.stop().await;
}

#[tokio::test]
async fn hostile_and_wrong_evaluations_end_at_once_and_for_good() {
    let flow = Flow::new().await;
    let worker = flow.start(|b| b);
    let list: Vec<u32> = vec![1; 3_000];
    let slow = "value.all(a, value.all(b, value.all(c, a == b && b == c)))";
    for payload in [
        json!({"rules": [{"name": "r", "expr": "true"}]}),
        json!({"value": 1}),
        json!({"value": 1, "rule": []}),
        json!({"value": 1, "rules": [{"name": "r", "expr": "value +"}]}),
        json!({"value": list, "rules": [{"name": "r", "expr": slow}]}),
        json!({"value": 1, "schema": {"type": 7}}),
        json!({"value": 1, "schema": {"$ref": "http://127.0.0.1:1/s.json"}}),
        json!({"value": 1, "rules": [{"name": "r", "expr": "(".repeat(4_000)}]}),
        json!([1]),
    ] {
        let job = flow.run("evaluate", payload.clone(), spec(3)).await;
        let error = job.error.unwrap();
        assert_eq!((error.code.as_str(), job.attempt), ("invalid_payload", 1), "{payload}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn checkpoints_of_one_attempt_are_stored_in_their_order() {
    let flow = Flow::new().await;
    let rounds = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&rounds);
    let worker = flow.start(|b| {
        b.handle("many", move |ctx: Context, (): ()| {
            let rounds = Arc::clone(&counted);
            async move {
                let stores = (0..50_u32).map(|n| {
                    let ctx = ctx.clone();
                    async move { ctx.checkpoint(&n).await }
                });
                futures::future::try_join_all(stores).await?;
                rounds.fetch_add(1, Ordering::SeqCst);
                Ok::<_, HandlerError>(())
            }
        })
    });
    let job = flow.run("many", json!(null), spec(1)).await;
    assert_eq!((job.state, rounds.load(Ordering::SeqCst)), (JobState::Succeeded, 1));
    assert_eq!(flow.checkpoint(job.id).await, Some(json!(49)));
    worker.stop().await;
}

#[tokio::test]
async fn a_command_is_told_as_well() {
    let mut flow = Flow::new().await;
    let file = flow.folder.path().join("commands.toml");
    let say = "[commands.say]\nprogram = \"/bin/sh\"\nargs = [\"-c\", 'echo \"$WINDLASS_PREVIOUS\"', \"--\"]\n";
    std::fs::write(&file, say).unwrap();
    flow.rig.settings.commands_file = Some(file);
    let worker = flow.start(|b| b);
    let better = json!({"rules": [{"name": "better", "expr": "value.stdout.contains('Say it better')",
        "recommendation": "Say it better."}]});
    let job = flow.run("command.run", json!({"command": "say"}), evaluated(2, &better)).await;
    assert_eq!(job.attempt, 2);
    let stdout = output(&job)["stdout"].as_str().unwrap().to_owned();
    let previous: Previous = serde_json::from_str(&stdout).unwrap();
    assert_eq!((previous.attempt, previous.score), (1, Some(0.0)));
    // Only where the output is evaluated.
    let rejected = Expect { expr: Some("output.stdout != '\\n'".into()), ..Expect::default() };
    let plain = JobSpec { expect: Some(rejected), ..spec(2) };
    let job = flow.run("command.run", json!({"command": "say"}), plain).await;
    assert_eq!((job.state, job.attempt), (JobState::Dead, 2));
    worker.stop().await;
}
