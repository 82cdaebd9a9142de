//! Workflows looked at without running them: `validate` and `optimize`.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use windlass_shared::ledger::WorkerBeat;
use windlass_shared::model::name::Namespace;
use windlass_shared::model::time::Span;
use windlass_shared::model::workflow::graph::Graph;
use windlass_shared::model::workflow::{ChildOf, Work, WorkflowSpec};

use super::documents;
use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, Code};
use crate::extract::{self, DOCUMENT, NoParams, RawBody};
use crate::requests::workflow::Checked;
use crate::requests::workflow::estimate::{Estimate, History};
use crate::requests::workflow::optimize::{self, Hint, Redundant};
use crate::requests::workflow::shape::WorkflowRequest;
use crate::views::plan::{CriticalPath, Optimization, Outlook, Suggestion, Validation, Warning};

/// How far back run times are looked at.
const HISTORY: Duration = Duration::from_secs(7 * 24 * 3600);
/// A worker that has not been heard of for this long does not count.
const WORKER_SEEN: Duration = Duration::from_secs(30);
/// Warnings, changes and suggestions listed in one answer.
const LISTED_MAX: usize = 100;
/// Definitions looked up for warnings.
const LOOKUPS_MAX: usize = 50;

/// Check a workflow
///
/// Without running it: 200 with its levels, its critical path and what is perhaps not meant, or what its submission
/// would answer.
#[utoipa::path(
    post, path = "/v1/workflows/validate", tag = "workflows",
    request_body(content((WorkflowRequest<'static> = "application/json"), (String = "application/yaml"))),
    responses((status = 200, description = "It can be run.", body = Validation)),
)]
pub async fn validate_workflow(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    body: RawBody<DOCUMENT>,
) -> Result<Json<Validation>, ApiError> {
    let json = documents::json_text(&app, &body).await?;
    let checked = documents::check(&app, &caller.namespace, json, None).await?.checked;
    let history = history(&app, &caller.namespace).await?;
    let mut warnings = absent(&app, &caller.namespace, &checked.spec).await?;
    let view = documents::bounded(&app, move || {
        let Checked { spec, graph, depth, .. } = &checked;
        warnings.extend(redundant_warnings(spec, graph));
        warnings.truncate(LISTED_MAX);
        Ok(Validation {
            valid: true,
            steps: graph.len(),
            edges: graph.edges(),
            levels: graph.groups().len(),
            depth: *depth,
            critical_path: critical_path(spec, &Estimate::of(spec, graph, &history)),
            parallel_groups: groups(spec, graph),
            warnings,
        })
    });
    Ok(Json(view.await?))
}

/// Improve a workflow
///
/// What it would gain: needs that say nothing are dropped from the document in the answer, and hints name what
/// somebody who knows the steps might change. Estimates rest on the mean run times of the last 7 days.
#[utoipa::path(
    post, path = "/v1/workflows/optimize", tag = "workflows",
    request_body(content((WorkflowRequest<'static> = "application/json"), (String = "application/yaml"))),
    responses((status = 200, description = "What it would gain.", body = Optimization)),
)]
pub async fn optimize_workflow(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
    body: RawBody<DOCUMENT>,
) -> Result<Json<Optimization>, ApiError> {
    let json = documents::json_text(&app, &body).await?;
    let checked = documents::check(&app, &caller.namespace, json.clone(), None).await?.checked;
    let history = history(&app, &caller.namespace).await?;
    let view = documents::bounded(&app, move || optimization(&checked, &json, &history)).await?;
    Ok(Json(view))
}

fn optimization(
    checked: &Checked,
    json: &Bytes,
    history: &History,
) -> Result<Optimization, ApiError> {
    let Checked { spec, graph, reads, .. } = checked;
    let dropped = optimize::redundant(graph);
    let leaner = optimize::without(spec, graph, &dropped)
        .ok_or_else(|| ApiError::new(Code::Internal, "fewer needs made a graph unsound"))?;
    let before = Estimate::of(spec, graph, history);
    let after = Estimate::of(spec, &leaner, history);
    let hints = optimize::hints(spec, &leaner, reads, history, &after);
    let document: serde_json::Value = extract::parse(extract::text(json)?, "")?;
    Ok(Optimization {
        before: outlook(spec, graph, &before),
        after: outlook(spec, &leaner, &after),
        changes: dropped.iter().take(LISTED_MAX).map(|edge| change(spec, edge)).collect(),
        suggestions: hints
            .into_iter()
            .take(LISTED_MAX)
            .map(|hint| suggestion(spec, hint))
            .collect(),
        parallel_groups: groups(spec, &leaner),
        unknown_kinds: unknown_kinds(spec, history),
        document: optimize::improved(document, spec, &dropped),
    })
}

async fn history(app: &App, namespace: &Namespace) -> Result<History, ApiError> {
    let since = app.life.clock().now().minus(HISTORY);
    Ok(History::of(&app.life.ledger().rollups(namespace, since).await?))
}

/// What a run would wait for and is not there now: workers and definitions.
async fn absent(
    app: &App,
    namespace: &Namespace,
    spec: &WorkflowSpec,
) -> Result<Vec<Warning>, ApiError> {
    let workers = app.life.ledger().workers(namespace, WORKER_SEEN).await?;
    let mut seen = BTreeSet::new();
    let mut warnings = Vec::new();
    let mut lookups = 0;
    for (at, step) in spec.steps.iter().enumerate() {
        if warnings.len() >= LISTED_MAX {
            break;
        }
        match &step.work {
            Work::Job(job) if seen.insert((job.kind.to_string(), job.queue.to_string())) => {
                let able = workers.iter().any(|w| serves(w, job.queue.as_str(), job.kind.as_str()));
                if !able {
                    let message = format!(
                        "no live worker of queue {} runs jobs of kind {}",
                        job.queue, job.kind
                    );
                    let pointer = format!("/steps/{at}/kind");
                    warnings.push(Warning { code: "no_worker", pointer, message });
                }
            }
            Work::Child(child) => {
                let ChildOf::Definition { name, version } = &child.of else { continue };
                lookups += 1;
                if lookups > LOOKUPS_MAX {
                    continue;
                }
                if app.life.ledger().definition(namespace, name, *version).await?.is_none() {
                    let message = match version {
                        Some(version) => format!("there is no version {version} of {name:?} now"),
                        None => format!("there is no definition {name:?} now"),
                    };
                    let pointer = format!("/steps/{at}/payload/definition");
                    warnings.push(Warning { code: "unknown_definition", pointer, message });
                }
            }
            _ => {}
        }
    }
    Ok(warnings)
}

fn serves(worker: &WorkerBeat, queue: &str, kind: &str) -> bool {
    let any = |names: &[String], name: &str| names.is_empty() || names.iter().any(|n| n == name);
    !worker.draining && any(&worker.queues, queue) && any(&worker.kinds, kind)
}

fn redundant_warnings(spec: &WorkflowSpec, graph: &Graph) -> Vec<Warning> {
    let found = optimize::redundant(graph);
    found
        .iter()
        .take(LISTED_MAX)
        .map(|edge| Warning {
            code: "redundant_need",
            pointer: format!("/steps/{}/needs", edge.step),
            message: change(spec, edge).message,
        })
        .collect()
}

fn change(spec: &WorkflowSpec, edge: &Redundant) -> Suggestion {
    let (step, need) = (id(spec, edge.step), id(spec, edge.need));
    let message = format!("{step:?} need not name {need:?}: another of its needs comes after that");
    Suggestion { code: "redundant_need", step, need: Some(need), message, estimate: None }
}

fn suggestion(spec: &WorkflowSpec, hint: Hint) -> Suggestion {
    Suggestion {
        code: hint.code,
        step: id(spec, hint.step),
        need: hint.need.map(|need| id(spec, need)),
        message: hint.message,
        estimate: hint.seconds.map(span),
    }
}

fn outlook(spec: &WorkflowSpec, graph: &Graph, estimate: &Estimate) -> Outlook {
    let parallelism = if estimate.seconds > 0.0 { estimate.total / estimate.seconds } else { 0.0 };
    Outlook {
        edges: graph.edges(),
        critical_path: critical_path(spec, estimate),
        total_work: span(estimate.total),
        parallelism,
    }
}

fn critical_path(spec: &WorkflowSpec, estimate: &Estimate) -> CriticalPath {
    let steps: Vec<String> = estimate.path.iter().map(|step| id(spec, *step)).collect();
    CriticalPath { length: steps.len(), steps, estimate: span(estimate.seconds) }
}

fn groups(spec: &WorkflowSpec, graph: &Graph) -> Vec<Vec<String>> {
    let ids = |group: Vec<u32>| group.into_iter().map(|step| id(spec, step)).collect();
    graph.groups().into_iter().map(ids).collect()
}

fn unknown_kinds(spec: &WorkflowSpec, history: &History) -> Vec<String> {
    let kinds = spec.steps.iter().filter_map(|step| match &step.work {
        Work::Job(job) => Some(job.kind.as_str()),
        _ => None,
    });
    let unknown: BTreeSet<&str> = kinds.filter(|kind| !history.knows(kind)).collect();
    unknown.into_iter().take(LISTED_MAX).map(str::to_owned).collect()
}

fn id(spec: &WorkflowSpec, step: u32) -> String {
    spec.steps[step as usize].id.clone()
}

/// Sums of durations that are bounded each stay far below the end of a `Duration`.
fn span(seconds: f64) -> Span {
    Span(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}
