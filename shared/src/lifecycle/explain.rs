//! "Why is this job not running?": the ordered list of what holds it back, each with evidence.

use std::collections::HashSet;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::{Lifecycle, Seen, order};
use crate::engine::ShardId;
use crate::engine::flow::Group;
use crate::engine::model::REFUSED_MAX;
use crate::engine::{Hold, Limit, LiveState, ShardStats};
use crate::ledger::runs::END;
use crate::ledger::{LedgerError, Queue, WorkerBeat, shard_of};
use crate::model::id::JobId;
use crate::model::job::{Job, JobState};
use crate::model::name::Namespace;
use crate::model::shaping::{Series, SeriesSort};
use crate::model::time::Timestamp;

mod circuit;

/// A worker that has not been heard of for this long does not count.
const WORKER_SEEN: Duration = Duration::from_secs(30);
/// The past that estimates rest on.
const RATE_WINDOW: Duration = Duration::from_secs(300);

/// Answer to [`Lifecycle::explain`].
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The job.
    pub id: JobId,
    /// Its state, the engine's word included.
    pub state: JobState,
    /// Nothing but its turn holds it back.
    pub runnable: bool,
    /// What holds it back, the most telling first.
    pub reasons: Vec<Reason>,
}

/// One thing that holds a job back.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reason {
    /// Stable, snake_case.
    pub code: &'static str,
    /// For people.
    pub detail: String,
    /// Since when, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Until when, where known or estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The facts behind it.
    pub evidence: serde_json::Value,
}

impl Reason {
    pub(super) fn new(
        code: &'static str,
        detail: impl Into<String>,
        evidence: serde_json::Value,
    ) -> Self {
        Self { code, detail: detail.into(), since: None, until: None, evidence }
    }
    fn since(mut self, at: Timestamp) -> Self {
        self.since = Some(at);
        self
    }
    fn until(mut self, at: Option<Timestamp>) -> Self {
        self.until = at;
        self
    }
}

/// The job's state for readers: the ledger's when terminal, else what the engine says, if it says anything.
pub fn visible_state(seen: &Seen) -> JobState {
    let recorded = seen.job.state;
    match seen.live.map(|live| live.state) {
        _ if recorded.is_terminal() => recorded,
        // The outcome is not recorded yet, so for every reader the attempt is still under way.
        Some(LiveState::Leased { .. } | LiveState::Finishing) => JobState::Running,
        Some(LiveState::Ready { .. }) => JobState::Ready,
        Some(LiveState::Delayed) if recorded == JobState::Retrying => JobState::Retrying,
        Some(LiveState::Delayed) => JobState::Scheduled,
        None => recorded,
    }
}

pub(super) async fn explain(
    life: &Lifecycle,
    namespace: &Namespace,
    id: JobId,
) -> Result<Option<Explanation>, LedgerError> {
    let Some(job) = life.inner.ledger.job(namespace, id).await? else {
        return Ok(None);
    };
    let shard = shard_of(&job);
    let stats = life.inner.engine.stats(&shard).await.ok();
    let live = life.inner.engine.peek(&shard, id).await.ok().flatten();
    let seen = Seen { job, live };
    let state = visible_state(&seen);
    let mut reasons = Vec::new();
    match state {
        JobState::Blocked => reasons.push(blocked(life, &seen.job).await?),
        JobState::Running => reasons.push(running(&seen)),
        JobState::Ready | JobState::Scheduled | JobState::Retrying => {
            let now = life.inner.clock.now();
            let queue = life.inner.ledger.queue(namespace, &seen.job.queue).await?;
            let workers = life.inner.ledger.workers(namespace, WORKER_SEEN).await?;
            reasons.extend(paused(queue.as_ref()));
            reasons.extend(not_due(&seen.job, now));
            reasons.extend(no_worker(&seen.job, &workers));
            reasons.extend(unverified(life, &shard, stats.as_ref()).await?);
            reasons.extend(limits(life, &shard, &seen).await);
            reasons.extend(retry_budget(&seen, queue.as_ref(), now));
            let is_refused = is_refused(life, &shard, &seen, stats.as_ref()).await;
            reasons.extend(engine_state(&seen, stats.as_ref(), is_refused, now));
            if let Some(reason) = waiting_turn(life, &seen, stats.as_ref(), now).await? {
                reasons.push(reason);
            }
        }
        JobState::Succeeded
        | JobState::Dead
        | JobState::Cancelled
        | JobState::Expired
        | JobState::Quarantined => reasons.push(finished(&seen.job)),
    }
    let runnable =
        !state.is_terminal() && reasons.iter().all(|reason| reason.code == "waiting_turn");
    Ok(Some(Explanation { id, state, runnable, reasons }))
}

/// What a job is blocked by: its series of submissions, or those before it in its order, or steps of its workflow.
async fn blocked(life: &Lifecycle, job: &Job) -> Result<Reason, LedgerError> {
    if let Some(series) = life.inner.ledger.series(job.id).await? {
        return Ok(in_a_series(&series));
    }
    match order::blocked_by(life, job).await? {
        Some(reason) => Ok(reason),
        None => blocked_by(life, job).await,
    }
}

/// It stands for a series of submissions that is open.
fn in_a_series(series: &Series) -> Reason {
    let (code, detail, evidence) = match series.sort {
        SeriesSort::Debounce => (
            "debounced",
            "waits until nobody has submitted with its key for a while".to_owned(),
            json!({ "key": series.key, "latest_at": series.latest_at }),
        ),
        SeriesSort::Collect => (
            "collecting",
            format!("collects items: it has {} of at most {}", series.items, series.items_max),
            json!({
                "key": series.key, "items": series.items, "max": series.items_max,
                "bytes": series.bytes, "max_bytes": series.bytes_max,
            }),
        ),
    };
    Reason::new(code, detail, evidence).since(series.opened_at).until(Some(series.shuts_at))
}

/// Steps named in one reason.
const STEPS_SHOWN: usize = 50;
/// Steps read at once.
const STEPS_PAGE: u32 = 2_000;

/// The steps that have not ended of those that the job's step needs.
async fn blocked_by(life: &Lifecycle, job: &Job) -> Result<Reason, LedgerError> {
    let Some(of) = &job.workflow else {
        let detail = "what held it back ended a moment ago";
        return Ok(Reason::new("blocked_by", detail, json!({ "workflow": null })));
    };
    let ledger = &life.inner.ledger;
    let named = ledger.steps_named(of.id, std::slice::from_ref(&of.step)).await?;
    let needs: HashSet<i32> = named.iter().flat_map(|step| &step.needs).copied().collect();
    let last = needs.iter().max().copied().unwrap_or(END);
    let mut after = needs.iter().min().map_or(END, |first| first - 1);
    let mut open = Vec::new();
    // Every page ends further on; a run has a bounded number of steps.
    while after < last {
        let page = ledger.step_heads(of.id, after, STEPS_PAGE).await?;
        let Some(end) = page.last() else { break };
        after = end.ord;
        let waited = page.iter().filter(|s| needs.contains(&s.ord) && !s.state.is_terminal());
        open.extend(waited.map(|s| (s.id.clone(), s.state.as_str())));
    }
    let detail = match open.as_slice() {
        [] => format!("waits for workflow {} to release its step {:?}", of.id, of.step),
        [(id, state)] => format!("waits for the step {id:?} of its workflow, which is {state}"),
        many => format!("waits for {} steps of its workflow", many.len()),
    };
    let steps: Vec<_> = open
        .iter()
        .take(STEPS_SHOWN)
        .map(|(id, state)| json!({ "id": id, "state": state }))
        .collect();
    let evidence = json!({ "workflow": job.workflow, "steps": steps, "waiting_for": open.len() });
    Ok(Reason::new("blocked_by", detail, evidence))
}

fn finished(job: &Job) -> Reason {
    let detail = match job.state {
        JobState::Succeeded => "it has run and succeeded",
        JobState::Dead => {
            "its attempts are used up, or its error is permanent; retry it to run it again"
        }
        JobState::Cancelled => "it was cancelled; retry it to run it again",
        JobState::Expired => "it was not started before its expires_at; retry it to run it again",
        JobState::Quarantined => {
            "it kept losing its workers; look at its attempts before you retry it"
        }
        _ => "it has ended",
    };
    let evidence = json!({
        "finished_at": job.finished_at,
        "error": job.error,
        "attempt": job.attempt,
        "crashes": job.crashes,
    });
    Reason::new("finished", detail, evidence)
}

fn running(seen: &Seen) -> Reason {
    match seen.live.map(|live| live.state) {
        Some(LiveState::Leased { worker, claimed_at, expires_at, cancel }) => Reason::new(
            "running",
            if cancel { "it runs, and was asked to stop" } else { "it runs" },
            json!({ "worker": worker, "lease_expires_at": expires_at, "cancel_requested": cancel }),
        )
        .since(claimed_at),
        Some(LiveState::Finishing) => {
            Reason::new("recording", "it has ended; the outcome is being recorded", json!({}))
        }
        _ => Reason::new(
            "running",
            "it was running when the engine was last heard of",
            json!({ "worker": seen.job.worker }),
        ),
    }
}

fn paused(queue: Option<&Queue>) -> Option<Reason> {
    let queue = queue?;
    let paused = queue.paused.as_ref()?;
    let detail = format!("queue {} was paused by {}", queue.name, paused.by);
    let evidence = json!({ "queue": queue.name, "by": paused.by, "reason": paused.reason });
    Some(Reason::new("queue_paused", detail, evidence).since(paused.since))
}

fn not_due(job: &Job, now: Timestamp) -> Option<Reason> {
    (job.run_at > now).then(|| {
        let retrying = job.state == JobState::Retrying;
        let detail = if retrying {
            "waits out the delay after a failed attempt"
        } else {
            "its time has not come"
        };
        let evidence = json!({ "run_at": job.run_at, "attempt": job.attempt, "error": job.error });
        Reason::new("not_due", detail, evidence).until(Some(job.run_at))
    })
}

fn no_worker(job: &Job, workers: &[WorkerBeat]) -> Option<Reason> {
    let serves = |names: &[String], name: &str| names.is_empty() || names.iter().any(|n| n == name);
    let here: Vec<&WorkerBeat> =
        workers.iter().filter(|w| serves(&w.queues, job.queue.as_str())).collect();
    let able: Vec<&&WorkerBeat> =
        here.iter().filter(|w| serves(&w.kinds, job.kind.as_str()) && !w.draining).collect();
    able.is_empty().then(|| {
        let detail = match (workers.is_empty(), here.is_empty()) {
            (true, _) => "no worker has been heard of".to_owned(),
            (_, true) => format!("no live worker takes jobs from queue {}", job.queue),
            _ => format!("no live worker of queue {} runs jobs of kind {}", job.queue, job.kind),
        };
        let evidence = json!({
            "queue": job.queue,
            "kind": job.kind,
            "workers_alive": workers.len(),
            "workers_of_queue": here.len(),
        });
        Reason::new("no_worker", detail, evidence)
    })
}

/// The limits that are used up: of its queue, its kind and its keys.
async fn limits(life: &Lifecycle, shard: &ShardId, seen: &Seen) -> Vec<Reason> {
    let holds = life.inner.engine.holds(shard, seen.job.id).await;
    let holds = holds.ok().flatten().unwrap_or_default();
    let mut reasons = Vec::with_capacity(holds.len());
    for hold in holds {
        reasons.push(match hold.limit {
            Limit::Circuit => circuit::open(life, shard, &seen.job, &hold).await,
            _ => limited(&seen.job, hold),
        });
    }
    reasons
}

fn limited(job: &Job, hold: Hold) -> Reason {
    let (queue, kind) = (job.queue.as_str(), job.kind.as_str());
    let (scope, name, setting) = match hold.limit {
        Limit::QueueConcurrency => ("queue", Some(queue), "max_concurrency"),
        Limit::QueueRate => ("queue", Some(queue), "rate_limit"),
        Limit::KindConcurrency => ("kind", Some(kind), "max_concurrency"),
        Limit::KindRate => ("kind", Some(kind), "rate_limit"),
        Limit::KeyConcurrency => {
            ("concurrency_key", job.spec.concurrency_key.as_deref(), "per_key_concurrency")
        }
        Limit::Circuit => ("circuit", job.spec.circuit.as_deref(), "circuit"),
        Limit::KeyRate => {
            ("rate_limit_key", job.spec.rate_limit_key.as_deref(), "per_key_rate_limit")
        }
    };
    let name = name.unwrap_or_default();
    let mut evidence = json!({ "scope": scope, "name": name, "setting": setting });
    match hold.most {
        Some(most) => {
            evidence["limit"] = most.into();
            evidence["running"] = hold.running.into();
            evidence["held_by"] = json!(hold.by);
            let detail = format!("{} of at most {most} jobs of {scope} {name} run", hold.running);
            Reason::new("concurrency_limited", detail, evidence)
        }
        None => {
            evidence["units"] = job.spec.rate_limit_units.into();
            let detail = format!("the rate of {scope} {name} is used up");
            Reason::new("rate_limited", detail, evidence).until(hold.until)
        }
    }
}

/// The gate of a shard that was open before is shut.
async fn unverified(
    life: &Lifecycle,
    shard: &ShardId,
    stats: Option<&ShardStats>,
) -> Result<Option<Reason>, LedgerError> {
    if stats.is_none_or(|stats| stats.open) {
        return Ok(None);
    }
    let record = life.inner.ledger.shard(shard).await?;
    let is_new = record.generation == 1 && record.process.is_none();
    if record.generation == 0 || is_new {
        // Whoever pushes its first job is opening it.
        return Ok(None);
    }
    let leader = life.inner.ledger.leader().await?;
    let detail = match &leader {
        Some(leader) if leader.expires_at > life.inner.ledger.now().await? => {
            "the queue store was lost or has started anew; it is being compared with the ledger before \
             it gives out jobs again"
        }
        _ => {
            "the queue store was lost or has started anew and must be compared with the ledger, but no \
             scheduler leads; is one running?"
        }
    };
    let evidence = json!({
        "generation": record.generation,
        "leader": leader.map(|leader| leader.name),
    });
    Ok(Some(Reason::new("engine_unverified", detail, evidence).since(record.changed_at)))
}

/// What the engine itself adds: it is away, closed, full, braked, or does not have the job yet.
fn engine_state(
    seen: &Seen,
    stats: Option<&ShardStats>,
    is_refused: bool,
    now: Timestamp,
) -> Option<Reason> {
    let Some(stats) = stats else {
        let detail =
            "the queue store does not answer; jobs wait safely in the ledger until it does";
        return Some(Reason::new("engine_unavailable", detail, json!({})));
    };
    let far = seen.job.run_at > now.plus(crate::limits::SCHEDULE_AHEAD);
    if stats.outbox >= crate::limits::OUTBOX_ENTRIES_MAX {
        let detail = "too many outcomes wait to be recorded; is a scheduler running?";
        return Some(Reason::new("outbox_full", detail, json!({ "outcomes": stats.outbox })));
    }
    if seen.live.is_some() || far {
        return None;
    }
    Some(if is_refused {
        let detail = "waits in the ledger: others of its group have the group's part of the room in the \
                      queue store, and it follows as they go";
        let evidence = json!({ "jobs_there": stats.ready + stats.leased + stats.outbox });
        Reason::new("waiting_in_ledger", detail, evidence)
    } else {
        let detail =
            "is on its way from the ledger to the queue store; the sweep brings it within seconds";
        Reason::new("not_delivered_yet", detail, json!({ "created_at": seen.job.created_at }))
    })
}

/// A retry that is due and waits for its queue's budget.
fn retry_budget(seen: &Seen, queue: Option<&Queue>, now: Timestamp) -> Option<Reason> {
    let budget = queue?.settings.retry_budget.as_ref()?;
    let live = seen.live?;
    if live.state != LiveState::Delayed || live.attempt == 0 || live.run_at > now {
        return None;
    }
    let detail =
        "retries of its queue have used up their budget (`retry_budget`); it comes as others start";
    Some(Reason::new("retry_budget", detail, json!({ "budget": budget })).since(live.run_at))
}

/// Whether the engine has refused room to jobs of the job's group, which then wait in the ledger.
async fn is_refused(
    life: &Lifecycle,
    shard: &ShardId,
    seen: &Seen,
    stats: Option<&ShardStats>,
) -> bool {
    if seen.live.is_some() || stats.is_none_or(|stats| stats.refused == 0) {
        return false;
    }
    let group = Group::of(seen.job.spec.flow(&seen.job.kind).as_ref());
    let refused = life.inner.engine.refused(shard, REFUSED_MAX as u32).await;
    refused.is_ok_and(|refused| refused.iter().any(|refused| refused.group == group))
}

async fn waiting_turn(
    life: &Lifecycle,
    seen: &Seen,
    stats: Option<&ShardStats>,
    now: Timestamp,
) -> Result<Option<Reason>, LedgerError> {
    let (Some(LiveState::Ready { ahead }), Some(stats)) = (seen.live.map(|l| l.state), stats)
    else {
        return Ok(None);
    };
    let since = now.minus(RATE_WINDOW);
    let ended: u64 = life
        .inner
        .ledger
        .rollups(&seen.job.namespace, since)
        .await?
        .iter()
        .filter(|rollup| rollup.queue == seen.job.queue)
        .map(|rollup| rollup.count)
        .sum();
    let per_second = ended as f64 / RATE_WINDOW.as_secs_f64();
    let until = (ended > 0)
        .then(|| now.plus(Duration::from_secs_f64((ahead as f64 / per_second).min(1e9))));
    let evidence = json!({
        "ahead": ahead,
        "ready": stats.ready,
        "running": stats.leased,
        "ended_per_second": per_second,
    });
    let detail = format!("{ahead} jobs of its queue are before it");
    Ok(Some(Reason::new("waiting_turn", detail, evidence).until(until)))
}
