//! Workflows: one large graph over HTTP, until its run has ended.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use windlass_shared::config::LedgerSettings;
use windlass_shared::ledger::Ledger;
use windlass_shared::ledger::runs::Step;
use windlass_shared::model::id::WorkflowId;
use windlass_shared::model::job::JobState;
use windlass_shared::model::name::Namespace;
use windlass_shared::model::workflow::{WorkflowState, limits};

use crate::fleet::{self, Fleet};
use crate::graph::{self, Edges};
use crate::http::Client;
use crate::report::{CpuPerJob, Report, Run, Times};
use crate::{RUNS_MAX, cpu};

/// Pause between two looks at the ledger.
const LOOK: Duration = Duration::from_millis(25);
/// Steps and jobs read at once when all are checked in the end.
const PAGE: usize = 1_000;

/// What to run, against processes that run already.
#[derive(Debug, Clone)]
pub struct WorkflowBench {
    /// Where, and of what kind steps are.
    pub fleet: Fleet,
    /// The ledger behind it: to see the run's end and to check its steps without loading the API.
    pub ledger: LedgerSettings,
    /// Steps side by side in the fan.
    pub wide: u32,
    /// Diamonds after it.
    pub diamonds: u32,
    /// Rows that they stand in.
    pub lanes: u32,
    /// How often.
    pub runs: u32,
    /// A run that takes longer has failed.
    pub limit: Duration,
}

/// Runs it.
///
/// # Errors
/// Options out of bounds, a call that fails, a step that did not succeed or came too early, or a run over its limit.
pub async fn run(bench: &WorkflowBench) -> Result<Report> {
    ensure!((1..=RUNS_MAX).contains(&bench.runs), "runs must be 1 to {RUNS_MAX}");
    let of = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    let steps =
        of(bench.wide).saturating_add(of(bench.diamonds).saturating_mul(4)).saturating_add(2);
    ensure!(
        steps <= limits::STEPS_MAX,
        "that is {steps} steps; at most {} are allowed",
        limits::STEPS_MAX
    );
    let edges = graph::fan_and_diamonds(of(bench.wide), of(bench.diamonds), of(bench.lanes), 2);
    let client = bench.fleet.client()?;
    let ledger = fleet::open_ledger(&bench.ledger).await?;
    let mut runs = Vec::new();
    for _ in 0..bench.runs {
        let run = one(bench, &client, &ledger, &edges);
        runs.push(tokio::time::timeout(bench.limit, run).await.context("the run took too long")??);
    }
    ledger.close().await;
    let name = format!(
        "workflow: 1 -> {} -> 1, then {} diamonds in {} rows; {} steps",
        bench.wide,
        bench.diamonds,
        bench.lanes,
        edges.len()
    );
    let latency = "last need ended to step started";
    Ok(Report::new(name, latency, runs))
}

async fn one(
    bench: &WorkflowBench,
    client: &Client,
    ledger: &Ledger,
    edges: &Edges,
) -> Result<Run> {
    let job = json!({"kind": bench.fleet.kind, "queue": bench.fleet.queue});
    let body = graph::document("bench", edges, &job).to_string();
    let before = bench.fleet.cpu()?;
    let (own_before, started) = (cpu::own(), Instant::now());
    let id = fleet::submit(client, "/v1/workflows", body.into(), &mut 0).await?;
    let id = WorkflowId::from_uuid(id);
    let namespace = Namespace::default();
    let state = loop {
        let run = ledger.run(&namespace, id).await?.context("the run is not on record")?;
        if run.state.is_terminal() {
            break run.state;
        }
        tokio::time::sleep(LOOK).await;
    };
    let (took, own_after, after) = (started.elapsed(), cpu::own(), bench.fleet.cpu()?);
    ensure!(state == WorkflowState::Succeeded, "the run ended as {}", state.as_str());
    let ran = ran(ledger, id).await?;
    graph::check(edges, &ran)?;
    let mut latency = Times::default();
    for (id, needs) in edges {
        let last = needs.iter().map(|need| ran[need].ended).max();
        if let Some(last) = last {
            latency.add(ran[id].started.since(last));
        }
    }
    let steps = edges.len() as u64;
    let mut cpu = bench.fleet.cpu_between(&before, &after, steps);
    cpu.push(CpuPerJob::between("client", own_before, own_after, steps));
    Ok(Run::new(steps, took, cpu, latency.percentiles()))
}

/// When each step ran, from the record of its job.
///
/// # Errors
/// A step that is not there, did not succeed, or took more than one attempt.
pub async fn ran(ledger: &Ledger, id: WorkflowId) -> Result<HashMap<String, graph::Span>> {
    let mut steps: Vec<Step> = Vec::new();
    loop {
        let after = steps.last().map_or(-1, |step| step.ord);
        let page = ledger.steps(id, after, u32::try_from(PAGE)?).await?;
        let is_last = page.len() < PAGE;
        steps.extend(page);
        if is_last {
            break;
        }
    }
    let mut ran = HashMap::with_capacity(steps.len());
    for page in steps.chunks(PAGE) {
        let ids: Vec<_> = page.iter().filter_map(|step| step.job_id).collect();
        for job in ledger.jobs(&ids).await? {
            let step = job.workflow.as_ref().context("a job of no step")?.step.clone();
            ensure!(job.state == JobState::Succeeded, "the step {step} ended as {}", job.state);
            ensure!(job.attempt == 1, "the step {step} took {} attempts", job.attempt);
            let started = job.started_at.context("it succeeded without a start")?;
            let ended = job.finished_at.context("it succeeded without an end")?;
            ensure!(
                ran.insert(step.clone(), graph::Span { started, ended }).is_none(),
                "the step {step} has two jobs"
            );
        }
    }
    Ok(ran)
}
