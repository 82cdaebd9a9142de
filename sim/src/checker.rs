//! Whether the promises were kept, from what happened and from what the ledger says in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use windlass_shared::ledger::runs::RunFilter;
use windlass_shared::ledger::{JobFilter, Ledger};
use windlass_shared::model::id::JobId;
use windlass_shared::model::job::{Job, JobState};
use windlass_shared::model::workflow::WorkflowState;

use crate::below;
use crate::orders::{Order, Wish};
use crate::story::{Cost, Effect, Story, Trouble};
use crate::world::{QUEUES, Who, World, namespace, queue, shard};

/// Makes the ledger keep every change of every job.
pub const AUDIT: [&str; 2] = [
    "CREATE TABLE sim_audit (at INTEGER, id BLOB, was INTEGER, state INTEGER, fence_was INTEGER, fence INTEGER)",
    "CREATE TRIGGER sim_jobs AFTER UPDATE ON jobs WHEN old.state <> new.state OR old.fence <> new.fence BEGIN
         INSERT INTO sim_audit VALUES (CAST(unixepoch('subsec') * 1000 AS INTEGER), new.id, old.state, new.state, old.fence, new.fence);
     END",
];

/// One change of a job's row.
struct Change {
    /// In ms of the world.
    at: u64,
    was: JobState,
    state: JobState,
    fence_was: i64,
    fence: i64,
}

/// What is not at rest, or where something cannot be read; `None`: everything rests.
pub async fn unrest(world: &World, orders: &[Order]) -> Option<String> {
    match try_unrest(world, orders).await {
        Ok(unrest) => unrest,
        Err(error) => Some(error.to_string()),
    }
}

async fn try_unrest(world: &World, orders: &[Order]) -> anyhow::Result<Option<String>> {
    for (place, order) in orders.iter().enumerate() {
        let first = if place % 2 == 0 { Who::ApiA } else { Who::ApiB };
        let whose = if order.twice { vec![Who::ApiA, Who::ApiB] } else { vec![first] };
        let state = world.state();
        if let Some(who) = whose.iter().find(|who| !state.story.done.contains_key(&(place, **who)))
        {
            return Ok(Some(format!("order {place} of {who:?} has no answer")));
        }
    }
    let ledger = Ledger::Sqlite(std::sync::Arc::clone(&world.ledger));
    for name in QUEUES {
        let waiting = ledger.waiting(&namespace(), &queue(name), 10).await?;
        if waiting > 0 {
            return Ok(Some(format!("{waiting} jobs of {name} have not ended in the ledger")));
        }
    }
    let filter = RunFilter {
        states: vec![WorkflowState::Running, WorkflowState::Compensating],
        ..RunFilter::default()
    };
    if let Some(run) = ledger.list_runs(&namespace(), &filter, None, 1).await?.first() {
        return Ok(Some(format!("run {} has not ended", run.id)));
    }
    for name in QUEUES {
        let stats = world.engine().stats(&shard(name)).await?;
        let held = stats.ready + stats.delayed + stats.leased + stats.outbox;
        if held > 0 {
            return Ok(Some(format!("the engine has not forgotten {name}: {stats:?}")));
        }
    }
    Ok(None)
}

/// Compares the story with the ledger; what does not fit is noted as broken.
///
/// # Errors
/// The ledger cannot be read.
pub async fn check(
    world: &World,
    orders: &[Order],
    ledger: &Ledger,
    file: &Path,
) -> anyhow::Result<()> {
    let jobs = all_jobs(ledger).await?;
    let steps = steps_of_runs(world, ledger).await?;
    ledger.close().await;
    let changes = changes(file).await?;
    let mut state = world.state();
    let mut broken = Vec::new();
    let facts = Facts { jobs: &jobs, changes: &changes, story: &state.story };
    facts.nothing_is_lost(&mut broken);
    facts.states_move_once(&mut broken);
    facts.leases_come_in_time(&mut broken);
    facts.runs_are_bounded(&mut broken);
    facts.steps_are_in_order(orders, &steps, &mut broken);
    for (id, changes) in &changes {
        // The ledger's side of the jobs that something is said about.
        if broken.iter().any(|what| what.contains(&id.to_string())) {
            for Change { at, was, state: now, fence_was, fence } in changes {
                let line = format_args!("{id} at {at}: {was} {fence_was} -> {now} {fence}");
                state.story.trace.note(line);
            }
        }
    }
    for what in broken {
        state.story.broken(what);
    }
    Ok(())
}

async fn all_jobs(ledger: &Ledger) -> anyhow::Result<BTreeMap<JobId, Job>> {
    let (mut jobs, mut before) = (BTreeMap::new(), None);
    loop {
        let page = ledger.list(&namespace(), &JobFilter::default(), before, 500).await?;
        jobs.extend(page.jobs.into_iter().map(|job| (job.id, job)));
        match page.next {
            Some(next) => before = Some(next),
            None => return Ok(jobs),
        }
    }
}

/// The jobs of the steps of each run, by the place of its order.
type Steps = BTreeMap<usize, Vec<Option<JobId>>>;

async fn steps_of_runs(world: &World, ledger: &Ledger) -> anyhow::Result<Steps> {
    let runs = world.state().story.runs.clone();
    let mut all = Steps::new();
    for (place, run) in runs {
        let steps = ledger.steps(run, -1, 100).await?;
        all.insert(place, steps.into_iter().map(|step| step.job_id).collect());
    }
    Ok(all)
}

async fn changes(file: &Path) -> anyhow::Result<BTreeMap<JobId, Vec<Change>>> {
    let options = SqliteConnectOptions::new().filename(file).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let rows: Vec<(i64, Vec<u8>, i16, i16, i64, i64)> =
        sqlx::query_as("SELECT at, id, was, state, fence_was, fence FROM sim_audit ORDER BY rowid")
            .fetch_all(&mut connection)
            .await?;
    let begin_ms = u64::try_from(below::wall_us() / 1_000)? - below::now_ns() / 1_000_000;
    let state =
        |n| JobState::from_number(n).ok_or_else(|| anyhow::anyhow!("{n} is no state of a job"));
    let mut changes: BTreeMap<JobId, Vec<Change>> = BTreeMap::new();
    for (at, id, was, now, fence_was, fence) in rows {
        let id = JobId::from_bytes(id.try_into().map_err(|_| anyhow::anyhow!("no id"))?);
        let at = u64::try_from(at)?.saturating_sub(begin_ms);
        let change = Change { at, was: state(was)?, state: state(now)?, fence_was, fence };
        changes.entry(id).or_default().push(change);
    }
    connection.close().await?;
    Ok(changes)
}

struct Facts<'a> {
    jobs: &'a BTreeMap<JobId, Job>,
    changes: &'a BTreeMap<JobId, Vec<Change>>,
    story: &'a Story,
}

impl Facts<'_> {
    /// When the end of a job was recorded, in ns of the world, rounded up.
    fn ended_at(&self, id: JobId) -> Option<u64> {
        let end = self.changes.get(&id)?.iter().find(|change| change.state.is_terminal())?;
        Some((end.at + 1) * 1_000_000)
    }

    fn nothing_is_lost(&self, broken: &mut Vec<String>) {
        for (order, ids) in &self.story.accepted {
            for id in ids {
                match self.jobs.get(id) {
                    None => broken.push(format!("order {order}: job {id} is lost")),
                    Some(job) if !job.state.is_terminal() => {
                        broken.push(format!("order {order}: job {id} is still {}", job.state));
                    }
                    Some(_) => {}
                }
            }
        }
        let accepted: usize = self.story.accepted.values().map(Vec::len).sum();
        let on_record = self.jobs.values().filter(|job| job.workflow.is_none()).count();
        // Every client asks until it has an answer, so no job is there that nobody knows of.
        if on_record > accepted {
            broken.push(format!("{on_record} jobs are on record for {accepted} accepted"));
        }
    }

    fn states_move_once(&self, broken: &mut Vec<String>) {
        for (id, changes) in self.changes {
            for change in changes {
                if change.was.is_terminal() && change.was != change.state {
                    broken.push(format!("{id} was {} and became {}", change.was, change.state));
                }
                if change.fence < change.fence_was {
                    let (was, is) = (change.fence_was, change.fence);
                    broken.push(format!("the fence of {id} fell from {was} to {is}"));
                }
            }
        }
    }

    fn leases_come_in_time(&self, broken: &mut Vec<String>) {
        for ((id, fence), lease) in &self.story.leases {
            if self.ended_at(*id).is_some_and(|end| lease.at > end) {
                broken.push(format!("{id} was leased with {fence} after its end was recorded"));
            }
            if self.story.cancelled.get(id).is_some_and(|at| lease.at > *at) {
                broken.push(format!("{id} was leased with {fence} after it was cancelled"));
            }
            let Some(job) = self.jobs.get(id) else {
                broken.push(format!("{id} was leased and is not on record"));
                continue;
            };
            let during =
                |from: u64, to: Option<u64>| lease.at > from && to.is_none_or(|to| lease.at < to);
            for pause in &self.story.pauses {
                if job.queue == queue(QUEUES[pause.queue]) && during(pause.from, pause.to) {
                    broken.push(format!("{id} was leased while {} stood still", job.queue));
                }
            }
        }
        for effect in &self.story.effects {
            if self.ended_at(effect.job).is_some_and(|end| effect.from > end) {
                let (id, who) = (effect.job, effect.who);
                broken.push(format!("{who:?} began {id} after its end was recorded"));
            }
        }
    }

    fn runs_are_bounded(&self, broken: &mut Vec<String>) {
        let mut begun: BTreeMap<JobId, Vec<&Effect>> = BTreeMap::new();
        for effect in &self.story.effects {
            begun.entry(effect.job).or_default().push(effect);
        }
        for (id, effects) in begun {
            let Some(job) = self.jobs.get(&id) else { continue };
            if job.attempt > job.spec.max_attempts {
                broken.push(format!("{id} was attempted {} times", job.attempt));
            }
            let leases: BTreeSet<u64> = effects.iter().map(|effect| effect.fence).collect();
            if leases.len() < effects.len() {
                broken.push(format!("{id} began twice under one lease"));
            }
            if job.state == JobState::Cancelled {
                // It ends with the first of its outcomes that is recorded; later ones, which may wait in the same
                // outbox already, count no more.
                continue;
            }
            let counted = job.attempt as usize;
            let causes = effects
                .iter()
                .filter(|effect| self.may_be_in_vain(effect, job.spec.exclusive))
                .count();
            if effects.len() > counted + causes {
                let runs = effects.len();
                let what = format!("{runs} times for {counted} attempts and {causes} causes");
                broken.push(format!("{id} ran {what}"));
            }
        }
    }

    /// Whether something went wrong that may have cost this run its lease, while it ran or until its end was known
    /// to the engine.
    fn may_be_in_vain(&self, effect: &Effect, exclusive: bool) -> bool {
        const UNTIL_SETTLED_NS: u64 = 15_000_000_000;
        let end = effect.to.unwrap_or(u64::MAX).saturating_add(UNTIL_SETTLED_NS);
        let near = |trouble: &&Trouble| trouble.meets(effect.from, end);
        self.story.troubles.iter().filter(near).any(|trouble| match trouble.cost {
            Cost::Leases => trouble.whose.is_none_or(|who| who == effect.who),
            // Their worker stops them itself when it cannot extend their leases.
            Cost::Engine => exclusive || !self.is_clean(trouble),
            Cost::Time => false,
        })
    }

    /// Whether nothing else went wrong at about the time of an engine's loss: then it costs no runs.
    fn is_clean(&self, loss: &Trouble) -> bool {
        const BEFORE_NS: u64 = 20_000_000_000;
        const AFTER_NS: u64 = 40_000_000_000;
        let (from, to) = (loss.from.saturating_sub(BEFORE_NS), loss.to + AFTER_NS);
        self.story.troubles.iter().filter(|other| other.meets(from, to)).count() == 1
    }

    fn steps_are_in_order(&self, orders: &[Order], steps: &Steps, broken: &mut Vec<String>) {
        for (place, jobs) in steps {
            let Wish::Run(drawn) = &orders[*place].wish else { continue };
            for (step, (_, needs)) in drawn.iter().enumerate() {
                let Some(job) = jobs.get(step).copied().flatten() else { continue };
                let firsts = self.story.leases.range((job, 0)..=(job, u64::MAX));
                let Some(first) = firsts.map(|(_, lease)| lease.at).min() else { continue };
                for need in needs {
                    let need = jobs.get(*need).copied().flatten();
                    let parent = need.and_then(|id| self.jobs.get(&id));
                    let ended = need.and_then(|id| self.ended_at(id));
                    let good = parent.is_some_and(|job| job.state == JobState::Succeeded);
                    // The end is known to the millisecond.
                    if !good || ended.is_none_or(|end| first + 1_000_000 < end) {
                        broken.push(format!("step {step} of order {place} ran too early"));
                    }
                }
            }
        }
    }
}
