//! Deletes jobs and runs whose time is over, by namespace and state, in small batches with pauses. Leader only.
//!
//! Each rule walks over the jobs in the order of their making, or over the runs in the order of their ends, goes on where
//! it stopped, and has its turn after each batch of another: however much one has to delete, the others get on. A walk
//! over jobs passes over each once, [`LAG`] after its time can have come at the earliest; what took longer to end, and the
//! children whose parents had not ended, are found by a second walk from the beginning, every [`AGAIN_EVERY`].

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Mutex;
use tokio::time::Instant;
use windlass_shared::config::{RetentionRule, RetentionSettings, RunRule};
use windlass_shared::ledger::duties::Who;
use windlass_shared::ledger::retention::{Aged, AgedRuns, Pruned, RunPlace};
use windlass_shared::ledger::{Epoch, Ledger, LedgerError};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::id::JobId;
use windlass_shared::model::time::Timestamp;

use crate::board::Duty;
use crate::steady::{Reading, Steady};
use crate::ticker::{Ticks, leading};

/// Jobs, or steps of runs, of one batch: a statement of some ten milliseconds.
const BATCH: u32 = 200;
/// A tick begins no batch after this long.
const BUDGET: Duration = Duration::from_secs(8);
/// Longest pause after a batch; shorter ones are followed by one of their own length, so that half of the time is left
/// to others.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A job that ended within this of its making is found by the first walk.
const LAG: Duration = Duration::from_secs(600);
/// How often a rule begins from the first job again.
const AGAIN_EVERY: Duration = Duration::from_secs(3600);
/// A job may have got its id this much later, by a clock set back since, than it ended.
const CLOCK_STEP_MAX: Duration = Duration::from_secs(3600);

static DUTY: Duty = Duty {
    name: "retention",
    what: "deletes jobs and runs whose time is over, by namespace and state",
    interval: Duration::from_secs(10),
    batch: BATCH,
    longest: Duration::from_secs(60),
    who: Who::Leader,
};

pub(super) async fn run(
    life: Lifecycle,
    settings: RetentionSettings,
    steady: Steady,
    ticks: Ticks,
) {
    let walks = Arc::new(Mutex::new(Walks::new(&settings, steady)));
    leading(&DUTY, &ticks, |epoch| {
        let (life, walks) = (life.clone(), walks.clone());
        async move {
            let reading = Reading::of(life.ledger()).await?;
            walks.lock().await.tick(life.ledger(), epoch, reading, Pace::USUAL).await
        }
    })
    .await;
}

/// How much a tick does.
#[derive(Clone, Copy)]
struct Pace {
    batch: u32,
    budget: Duration,
}

impl Pace {
    const USUAL: Self = Self { batch: BATCH, budget: BUDGET };
}

/// What a walk is over.
enum Over {
    Jobs(RetentionRule, Course<JobId>),
    Runs(RunRule, Course<RunPlace>),
}

/// Where a walk is.
struct Course<P> {
    /// The last one that was looked at.
    at: Option<P>,
    /// Of the walk that began anew; `None`: there is none.
    again: Option<Option<P>>,
    /// When that began last; `None`: the first walk has not ended yet.
    again_at: Option<Instant>,
}

/// Every rule, in turn.
struct Walks {
    walks: Vec<Over>,
    /// Whose turn it is.
    next: usize,
    steady: Steady,
    /// When there was first something to walk for.
    since: Option<Instant>,
}

impl Walks {
    fn new(settings: &RetentionSettings, steady: Steady) -> Self {
        let jobs = settings.rules().into_iter().map(|rule| Over::Jobs(rule, Course::default()));
        let runs = settings.run_rules().into_iter().map(|rule| Over::Runs(rule, Course::default()));
        Self { walks: runs.chain(jobs).collect(), next: 0, steady, since: None }
    }

    /// Gives each rule its turns until all are through, or the budget has passed; how much was deleted. Nothing is, where
    /// the reading is not to be trusted, or the epoch leads no more.
    async fn tick(
        &mut self,
        ledger: &Ledger,
        epoch: Epoch,
        now: Reading,
        pace: Pace,
    ) -> anyhow::Result<u64> {
        if !self.steady.trusts(now) {
            return Ok(0);
        }
        let started = Instant::now();
        let since = *self.since.get_or_insert(now.own);
        let mut through = vec![false; self.walks.len()];
        let mut deleted = 0;
        while through.contains(&false) {
            let turn = self.next % self.walks.len();
            self.next = (turn + 1) % self.walks.len();
            if through[turn] {
                continue;
            }
            let began = Instant::now();
            // Where one fails, the next tick goes on with the others first.
            let step = self.walks[turn].step(ledger, epoch, now, pace.batch).await?;
            let Some(step) = step else { return Ok(deleted) };
            through[turn] = step.at_end;
            deleted += step.deleted;
            metrics::counter!("windlass_retention_deleted_total").increment(step.deleted);
            if started.elapsed() >= pace.budget {
                break;
            }
            tokio::time::sleep(began.elapsed().min(PAUSE_MAX)).await;
        }
        let behind = self.walks.iter().zip(&through).filter(|(_, through)| !**through);
        let behind = behind.map(|(walk, _)| walk.behind(now, since)).max().unwrap_or_default();
        metrics::gauge!("windlass_retention_behind_seconds").set(behind.as_secs_f64());
        Ok(deleted)
    }
}

/// What a step of a walk came to.
struct Step {
    deleted: u64,
    at_end: bool,
}

impl Over {
    /// One batch of the walk, or of the one that began anew where the first is at its end. `None`: the epoch leads no
    /// more, and the walk is where it was.
    async fn step(
        &mut self,
        ledger: &Ledger,
        epoch: Epoch,
        now: Reading,
        batch: u32,
    ) -> Result<Option<Step>, LedgerError> {
        match self {
            Self::Jobs(rule, course) => {
                let before = now.ledger.minus(rule.keep);
                let aged = |made_before| Aged {
                    whose: rule.whose.clone(),
                    states: rule.states.clone(),
                    before,
                    made_before,
                };
                let first = aged(before.minus(LAG));
                let again = aged(before.plus(CLOCK_STEP_MAX));
                let look = |is_again, after| -> BoxFuture<'_, _> {
                    let aged = if is_again { &again } else { &first };
                    ledger.prune_jobs(Some(epoch), aged, after, batch)
                };
                course.step(now.own, look).await
            }
            Self::Runs(rule, course) => {
                let time = |(state, keep): &(_, Duration)| (*state, now.ledger.minus(*keep));
                let aged = AgedRuns {
                    whose: rule.whose.clone(),
                    states: rule.states.clone(),
                    before: now.ledger.minus(rule.keep),
                    jobs: rule.jobs.iter().map(time).collect(),
                };
                let look = |_, after| ledger.prune_runs(Some(epoch), &aged, after, batch);
                course.step(now.own, look).await
            }
        }
    }

    /// How long what comes next has been past its time at least. Of a walk that has not begun nothing is known but since
    /// when it might have.
    fn behind(&self, now: Reading, since: Instant) -> Duration {
        let (keep, reached) = match self {
            Self::Jobs(rule, course) => (rule.keep, course.at.and_then(JobId::drawn_at)),
            Self::Runs(rule, course) => (rule.keep, course.at.map(|at| at.finished_at)),
        };
        let past = |at: Timestamp| now.ledger.minus(keep).since(at);
        reached.map_or_else(|| now.own.saturating_duration_since(since), past)
    }
}

impl<P> Default for Course<P> {
    fn default() -> Self {
        Self { at: None, again: None, again_at: None }
    }
}

impl<P: Copy> Course<P> {
    /// `look` takes a step of the first walk, or of one from the beginning, behind a place.
    async fn step<'l>(
        &mut self,
        now: Instant,
        look: impl Fn(bool, Option<P>) -> BoxFuture<'l, Result<Option<Pruned<P>>, LedgerError>>,
    ) -> Result<Option<Step>, LedgerError> {
        let Some(first) = look(false, self.at).await? else { return Ok(None) };
        self.at = first.last.or(self.at);
        if !first.at_end {
            return Ok(Some(Step { deleted: first.deleted, at_end: false }));
        }
        // The first walk was from the beginning itself.
        let again_at = *self.again_at.get_or_insert(now);
        if self.again.is_none() && now.saturating_duration_since(again_at) >= AGAIN_EVERY {
            (self.again, self.again_at) = (Some(None), Some(now));
        }
        let Some(at) = self.again else {
            return Ok(Some(Step { deleted: first.deleted, at_end: true }));
        };
        let Some(again) = look(true, at).await? else { return Ok(None) };
        self.again = (!again.at_end).then_some(again.last.or(at));
        Ok(Some(Step { deleted: first.deleted + again.deleted, at_end: again.at_end }))
    }
}

#[cfg(test)]
mod tests;
