//! A process that carries runs on, and the hands of a worker.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use serde_json::{Value as Json, json};
use tokio::sync::Mutex;
use tokio::time::Interval;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_shared::clock::Clock;
use windlass_shared::config::{EngineSettings, LedgerSettings};
use windlass_shared::engine::envelope::{Detail, DetailHead, Envelope};
use windlass_shared::engine::{ClaimRequest, Engine, Held, Settle, ShardId, Verdict};
use windlass_shared::ledger::Ledger;
use windlass_shared::ledger::runs::{CreateOutcome, NewGiven, Run, RunFilter, Step};
use windlass_shared::lifecycle::sweep::Sweeper;
use windlass_shared::lifecycle::workflow::Order;
use windlass_shared::lifecycle::{Lifecycle, record};
use windlass_shared::model::id::{LeaseId, WorkerId, WorkflowId};
use windlass_shared::model::job::{Job, JobError, JobSpec, Value};
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::workflow::{StepState, WorkflowSpec, WorkflowState};

/// How long a test waits for what must happen soon.
const SOON: Duration = Duration::from_secs(60);
/// Pace of looking: a loop without one takes the cores that the ledger's threads need.
const PACE: Duration = Duration::from_millis(1);
/// A push is refused when the machine stands still for seconds; the sweep makes it good, as everywhere.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

pub struct Rig {
    pub life: Lifecycle,
    pub namespace: Namespace,
    shard: ShardId,
    pace: Mutex<Interval>,
    sweeper: Mutex<(Interval, Sweeper)>,
    _folder: tempfile::TempDir,
}

impl Rig {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/ledger.db", folder.path().display());
        let settings = LedgerSettings::new(url);
        Ledger::migrate(&settings).await.unwrap();
        let ledger = Ledger::open(&settings).await.unwrap();
        let engine = Engine::open(&EngineSettings::new("embedded")).await.unwrap();
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let life = Lifecycle::start(ledger, engine, Clock::System, shutdown, tasks);
        let namespace = Namespace::default();
        let shard = ShardId::first(namespace.clone(), QueueName::default());
        let pace = Mutex::new(tokio::time::interval(PACE));
        let sweeper = Mutex::new((tokio::time::interval(SWEEP_EVERY), Sweeper::default()));
        Self { life, namespace, shard, pace, sweeper, _folder: folder }
    }

    pub async fn submit(&self, spec: Json, input: Json) -> WorkflowId {
        let order = order(serde_json::from_value(spec).expect("a workflow"), input);
        let id = order.id;
        let outcome = self.life.submit_run(order).await.unwrap();
        assert!(matches!(outcome, CreateOutcome::Created(_)), "{outcome:?}");
        id
    }

    /// Submits, works until the run has ended, and tells how.
    pub async fn end_of(&self, spec: Json, input: Json) -> Ended {
        let id = self.submit(spec, input).await;
        self.ended(id).await
    }

    pub async fn run(&self, id: WorkflowId) -> Run {
        self.life.ledger().run(&self.namespace, id).await.unwrap().expect("a run on record")
    }

    pub async fn steps(&self, id: WorkflowId) -> HashMap<String, Step> {
        let steps = self.life.ledger().steps(id, -1, 2_000).await.unwrap();
        steps.into_iter().map(|step| (step.id.clone(), step)).collect()
    }

    /// The end first.
    pub async fn steps_with_end(&self, id: WorkflowId) -> Vec<Step> {
        self.life.ledger().steps(id, -2, 2_000).await.unwrap()
    }

    pub async fn state_of(&self, id: WorkflowId, step: &str) -> StepState {
        self.steps(id).await[step].state
    }

    pub async fn job_of(&self, id: WorkflowId, step: &str) -> Job {
        let job = self.steps(id).await[step].job_id.expect("a step with a job");
        self.life.ledger().job(&self.namespace, job).await.unwrap().expect("a job on record")
    }

    /// Works until a condition holds.
    pub async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        mut look: impl FnMut() -> F,
    ) -> T {
        let rounds = std::cell::Cell::new(0);
        let working = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                self.work().await;
                rounds.set(rounds.get() + 1);
            }
        };
        if let Ok(found) = tokio::time::timeout(SOON, working).await {
            return found;
        }
        panic!("not in time: {what}, {} rounds\n{}", rounds.get(), self.picture().await);
    }

    /// Everything that has not ended.
    async fn picture(&self) -> String {
        let ledger = self.life.ledger();
        let mut lines = Vec::new();
        let runs =
            ledger.list_runs(&self.namespace, &RunFilter::default(), None, 100).await.unwrap();
        for run in runs {
            lines.push(format!("{} {} {:?} {:?}", run.id, run.name, run.state, run.ending));
            for step in ledger.steps(run.id, -2, 2_000).await.unwrap() {
                if step.state.is_terminal() {
                    continue;
                }
                let mut job = String::new();
                if let Some(id) = step.job_id {
                    let seen = self.life.get(&self.namespace, id).await.unwrap();
                    job = format!("{:?}", seen.map(|seen| (seen.job.state, seen.live)));
                }
                let (id, due, left) = (&step.id, step.due, step.needs_left);
                lines.push(format!(
                    "  {id} {:?} due {due} left {left} {:?} {job}",
                    step.state, step.items
                ));
            }
        }
        lines.truncate(40);
        lines.join("\n")
    }

    pub async fn ended(&self, id: WorkflowId) -> Ended {
        let run = self
            .until("the run has ended", || async {
                let run = self.run(id).await;
                run.state.is_terminal().then_some(run)
            })
            .await;
        Ended { steps: self.steps(id).await, run }
    }

    /// One round of what a fleet does: jobs run, outcomes are recorded, runs are carried on. Jobs of the kind `hold` are
    /// left alone.
    pub async fn work(&self) {
        let request = ClaimRequest {
            worker: WorkerId::generate(),
            lease_id: LeaseId::random(),
            max: 200,
            lease: Duration::from_secs(15),
            kinds: vec!["do".parse().unwrap()],
            offset: 0,
            ledger: None,
        };
        let reply = self.life.engine().claim(&self.shard, &request).await.unwrap();
        let settles: Vec<Settle> = reply
            .jobs
            .iter()
            .map(|job| {
                let held = Held { id: job.id, fence: job.fence, lease_id: request.lease_id };
                let payload = Envelope::decode(&job.envelope).unwrap().payload;
                let (verdict, detail) = done(&payload, job.attempt);
                Settle { dependency: None, held, verdict, detail: detail.encode() }
            })
            .collect();
        if !settles.is_empty() {
            self.life.engine().settle(&self.shard, &settles).await.unwrap();
        }
        record::record_outcomes(&self.life, &self.shard).await.unwrap();
        for (_, id) in self.life.ledger().due_runs(None, 100).await.unwrap() {
            self.life.advance_run(id).await.unwrap();
        }
        let mut sweeper = self.sweeper.lock().await;
        if sweeper.0.tick().now_or_never().is_some()
            && let Some(queue) =
                self.life.ledger().queue(&self.namespace, &self.shard.queue).await.unwrap()
        {
            sweeper.1.pass(&self.life, &queue).await.unwrap();
        }
        drop(sweeper);
        self.pace.lock().await.tick().await;
    }
}

/// What a job of these tests does: fails for good with `fail`, else returns `out`, or its whole payload.
fn done(payload: &Value, attempt: u32) -> (Verdict, Detail) {
    let Value::Inline(bytes) = payload else { panic!("small payloads only") };
    let payload: Json = serde_json::from_slice(bytes).expect("a payload is JSON");
    let fails = payload.get("fail").filter(|_| payload.get("until") != Some(&json!(attempt)));
    if let Some(code) = fails {
        let error = JobError {
            code: code.as_str().unwrap_or("broken").into(),
            message: "as told".into(),
            retryable: false,
        };
        let head = DetailHead { error: Some(error), ..DetailHead::default() };
        return (Verdict::Dead, Detail { head, output: None });
    }
    let output = payload.get("out").cloned().unwrap_or(payload);
    let output = Some(Value::Inline(Bytes::from(output.to_string())));
    (Verdict::Succeeded, Detail { head: DetailHead::default(), output })
}

pub fn order(spec: WorkflowSpec, input: Json) -> Order {
    Order {
        id: WorkflowId::generate(),
        namespace: Namespace::default(),
        spec,
        definition: None,
        input,
        deadline: None,
        tags: Vec::new(),
        rerun_of: None,
        request_id: Some("req-1".into()),
        traceparent: None,
        idempotency: None,
    }
}

/// A run that has ended.
pub struct Ended {
    pub run: Run,
    pub steps: HashMap<String, Step>,
}

impl Ended {
    pub fn state(&self) -> WorkflowState {
        self.run.state
    }

    pub fn output(&self) -> Json {
        match &self.run.output {
            Some(Value::Inline(bytes)) => serde_json::from_slice(bytes).unwrap(),
            other => panic!("no output: {other:?}, {:?}", self.run.error),
        }
    }

    pub fn error(&self) -> (String, String) {
        let error = self.run.error.clone().expect("an error");
        (error.code, error.message)
    }

    pub fn of(&self, step: &str) -> StepState {
        self.steps[step].state
    }

    pub fn why(&self, step: &str) -> String {
        self.steps[step].error.as_ref().map_or_else(String::new, |error| error.code.clone())
    }
}

/// A workflow of these steps, with more fields of its own.
pub fn workflow(steps: Vec<Json>, mut more: Json) -> Json {
    more["name"] = json!("test");
    more["steps"] = Json::from(steps);
    more
}

/// A step that does what its payload says.
pub fn step(id: &str, needs: &[usize], payload: Json) -> Json {
    with(id, needs, job("do", payload), json!({}))
}

/// A step with more fields.
pub fn with(id: &str, needs: &[usize], work: Json, mut more: Json) -> Json {
    more["id"] = json!(id);
    more["needs"] = json!(needs);
    more["work"] = work;
    more
}

/// A job of a kind.
pub fn job(kind: &str, payload: Json) -> Json {
    json!({ "job": template(kind, payload) })
}

/// What `compensate` takes.
pub fn template(kind: &str, payload: Json) -> Json {
    let is_template = payload.to_string().contains("${{");
    json!({
        "queue": "default",
        "kind": kind,
        "payload": payload,
        "is_template": is_template,
        "spec": JobSpec { max_attempts: 1, ..JobSpec::default() },
    })
}

/// A signal from somebody.
pub fn signal(name: &str, body: Option<&'static str>) -> NewGiven {
    NewGiven {
        name: name.into(),
        by: "ada".into(),
        role: None,
        approved: None,
        reason: None,
        body: body.map(Into::into),
    }
}
