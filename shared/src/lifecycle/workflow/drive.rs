//! Carries runs on: reads what is due, has it decided, carries the decision out, until nothing is due.
//!
//! Any process may do so at any time, several at once: a decision is carried out over the version that it was made
//! over, or not at all. What is done outside of that transaction (pushing jobs, stopping them, starting and stopping
//! child runs) may be lost with the process. Each has its repair: the sweep pushes, a stopped run is looked at again
//! until it has ended, and a step stays due until its child is on record.

use std::collections::HashMap;
use std::sync::Mutex;

use futures::future::BoxFuture;
use futures::{TryStreamExt as _, stream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::decide::{Decision, Options, decide, wants};
use super::waits::Start;
use super::{Order, read};
use crate::expr::bounded::{Bounded, Unfinished};
use crate::ledger::LedgerError;
use crate::ledger::runs::{Advanced, END, RunChanged, Snapshot, Step};
use crate::lifecycle::Lifecycle;
use crate::lifecycle::delivery::Ticket;
use crate::lifecycle::push::belongs_in_engine;
use crate::model::id::{JobId, WorkflowId};
use crate::model::job::{Job, JobError};
use crate::model::workflow::{StepSpec, WorkflowState, code, permanent};

/// Decisions of one call; more is left to the next.
const ROUNDS_MAX: usize = 1_000;
/// Runs that one process carries on at once.
const RUNS_MAX: usize = 8;
/// Jobs stopped at once.
const STOPS_MAX: usize = 16;
/// Jobs read for stopping.
const STOP_PAGE: u32 = 500;
/// Threads for expressions.
const PLACES: usize = 4;

/// What one process does for runs.
pub(crate) struct Driver {
    /// Runs that are being carried on; `true`: something came up since.
    busy: Mutex<HashMap<WorkflowId, bool>>,
    places: Semaphore,
    pub(in crate::lifecycle) expressions: Bounded,
    shutdown: CancellationToken,
}

impl Driver {
    pub(crate) fn new(shutdown: CancellationToken) -> Self {
        Self {
            busy: Mutex::default(),
            places: Semaphore::new(RUNS_MAX),
            expressions: Bounded::new(PLACES),
            shutdown,
        }
    }

    /// Whether the caller is the one to carry it on; otherwise whoever does will look again.
    fn take(&self, id: WorkflowId) -> bool {
        let mut busy = self.busy.lock().expect("nothing panics while holding it");
        match busy.get_mut(&id) {
            Some(again) => {
                *again = true;
                false
            }
            None => {
                busy.insert(id, false);
                true
            }
        }
    }

    /// Whether nothing came up meanwhile.
    fn leave(&self, id: WorkflowId) -> bool {
        let mut busy = self.busy.lock().expect("nothing panics while holding it");
        if busy.get(&id) == Some(&true) {
            busy.insert(id, false);
            return false;
        }
        busy.remove(&id);
        true
    }
}

/// Forgets that a run is being carried on, however that ends.
struct Taken<'a>(&'a Driver, WorkflowId);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.busy.lock().expect("nothing panics while holding it").remove(&self.1);
    }
}

/// Carries a run on in the background. What is lost with this process is done by the scheduler's duty.
pub(crate) fn soon(life: &Lifecycle, id: WorkflowId) {
    if life.inner.driver.shutdown.is_cancelled() || !life.inner.driver.take(id) {
        return;
    }
    let life = life.clone();
    life.inner.tasks.clone().spawn(async move {
        let taken = Taken(&life.inner.driver, id);
        if let Err(error) = taken_on(&life, id).await {
            tracing::debug!(workflow.id = %id, %error, "a run could not be carried on now");
        }
        drop(taken);
    });
}

/// Carries a run on until nothing of it is due; how many decisions were carried out. `0` also where this process is at
/// it already.
///
/// # Errors
/// The ledger did not answer. What is due stays so.
pub(crate) async fn drive(life: &Lifecycle, id: WorkflowId) -> Result<u64, LedgerError> {
    if !life.inner.driver.take(id) {
        return Ok(0);
    }
    let _taken = Taken(&life.inner.driver, id);
    taken_on(life, id).await
}

async fn taken_on(life: &Lifecycle, id: WorkflowId) -> Result<u64, LedgerError> {
    let driver = &life.inner.driver;
    let _place = driver.places.acquire().await.expect("the semaphore is never closed");
    let (mut done, mut refused) = (0, HashMap::new());
    for _ in 0..ROUNDS_MAX {
        let more = match driver.shutdown.is_cancelled() {
            true => false,
            false => round(life, id, &mut refused).await?,
        };
        done += u64::from(more);
        if !more && driver.leave(id) {
            break;
        }
    }
    Ok(done)
}

/// One decision; whether another one may be due.
async fn round(
    life: &Lifecycle,
    id: WorkflowId,
    refused: &mut HashMap<i32, JobError>,
) -> Result<bool, LedgerError> {
    let ledger = &life.inner.ledger;
    let Some(snapshot) = ledger.run_snapshot(id).await? else { return Ok(false) };
    let run = &snapshot.run;
    let overdue = run.deadline.is_some_and(|deadline| deadline <= snapshot.now)
        && run.ending.is_none()
        && run.state == WorkflowState::Running;
    if run.state.is_terminal() || (snapshot.due.is_empty() && !overdue) {
        return Ok(false);
    }
    let ticket = life.inner.delivery.ticket().await;
    let Some((snapshot, decision)) = decided(life, snapshot, refused).await? else {
        return Ok(false);
    };
    if decision.is_empty() {
        return Ok(false);
    }
    for (id, bytes) in &decision.blobs {
        ledger.put_blob(&snapshot.run.namespace, *id, bytes.clone()).await?;
    }
    let (released, more) = match ledger.advance(&snapshot.run, &decision.advance).await? {
        Advanced::Conflict => return Ok(true),
        Advanced::Done { released, more } => (released, more),
    };
    metrics::counter!("windlass_workflow_advances_total").increment(1);
    push(life, released, ticket);
    outside(life, &snapshot, &decision, refused).await?;
    if let Some(state) = decision.advance.state.filter(|state| state.is_terminal()) {
        metrics::counter!("windlass_workflows_ended_total", "state" => state.as_str()).increment(1);
        if let Some(parent) = snapshot.run.parent {
            soon(life, parent.run);
        }
    }
    Ok(more || !decision.start.is_empty())
}

/// Reads what the decision wants, and has it made, on a thread of its own where expressions are evaluated.
async fn decided(
    life: &Lifecycle,
    mut snapshot: Snapshot,
    refused: &HashMap<i32, JobError>,
) -> Result<Option<(Snapshot, Decision)>, LedgerError> {
    let options: Options = match serde_json::from_str(&snapshot.run.options) {
        Ok(options) => options,
        Err(error) => {
            tracing::error!(workflow.id = %snapshot.run.id, %error, "this build cannot read a run");
            return Ok(None);
        }
    };
    let (mut spoiled, mut all) = (None, false);
    loop {
        let specs: HashMap<i32, StepSpec> = snapshot.due.iter().filter_map(spec_of).collect();
        let mut wants = wants(&snapshot, &specs, &options);
        wants.all |= all;
        let mut facts = read::facts(&life.inner.ledger, &snapshot.run, &wants).await?;
        facts.refused.clone_from(refused);
        facts.spoiled = facts.spoiled.or_else(|| spoiled.take());
        if facts.spoiled.is_some() && snapshot.due.len() > 1 {
            // Which of them is at fault shows when they are looked at one by one.
            one_of(&mut snapshot, &specs);
            continue;
        }
        if !wants.evaluates || facts.spoiled.is_some() {
            let decision = decide(&snapshot, &specs, &options, &facts);
            if decision.lacks_all {
                (all, spoiled) = (true, facts.spoiled);
                continue;
            }
            return Ok(Some((snapshot, decision)));
        }
        let work = {
            let (snapshot, specs, options) = (snapshot.clone(), specs.clone(), options.clone());
            move || decide(&snapshot, &specs, &options, &facts)
        };
        match life.inner.driver.expressions.run(work).await {
            Ok(decision) if decision.lacks_all => all = true,
            Ok(decision) => return Ok(Some((snapshot, decision))),
            Err(Unfinished::Crowded) => {
                return Err(LedgerError::Unavailable("too many expressions at once".into()));
            }
            Err(unfinished) if snapshot.due.len() == 1 => {
                spoiled = Some(permanent(code::EXPRESSION_FAILED, unfinished.to_string()));
            }
            Err(_) => one_of(&mut snapshot, &specs),
        }
    }
}

/// Keeps the first due step that this build can read.
fn one_of(snapshot: &mut Snapshot, specs: &HashMap<i32, StepSpec>) {
    snapshot.due.retain(|step| step.ord == END || specs.contains_key(&step.ord));
    snapshot.due.truncate(1);
}

/// The end has none; one that cannot be read, of a newer build, is left to that.
fn spec_of(step: &Step) -> Option<(i32, StepSpec)> {
    if step.ord < 0 {
        return None;
    }
    match serde_json::from_str(&step.spec) {
        Ok(spec) => Some((step.ord, spec)),
        Err(error) => {
            tracing::error!(step = %step.id, %error, "a step on record cannot be read");
            None
        }
    }
}

/// What lies outside of the ledger's transaction.
async fn outside(
    life: &Lifecycle,
    snapshot: &Snapshot,
    decision: &Decision,
    refused: &mut HashMap<i32, JobError>,
) -> Result<(), LedgerError> {
    for start in &decision.start {
        match start_child(life, snapshot, start).await {
            // Will be so the next time too: its step fails for it.
            Err(error @ LedgerError::TooManyQueues) => {
                let text = format!("the workflow could not be started: {error}");
                refused.insert(start.ord, permanent(code::CHILD_FAILED, text));
            }
            started => started?,
        }
    }
    for child in &decision.stop {
        let why = "the workflow that started it was stopped";
        // One that compensates is waited for.
        let _: RunChanged<_> =
            Box::pin(super::stop::cancel(life, &snapshot.run.namespace, *child, why)).await?;
    }
    if decision.stop_jobs {
        stop_jobs(life, snapshot).await?;
    }
    Ok(())
}

fn start_child<'a>(
    life: &'a Lifecycle,
    snapshot: &'a Snapshot,
    start: &'a Start,
) -> BoxFuture<'a, Result<(), LedgerError>> {
    let run = &snapshot.run;
    let order = Order {
        id: start.id,
        namespace: run.namespace.clone(),
        spec: (*start.spec).clone(),
        definition: start.definition.clone(),
        input: start.input.clone(),
        deadline: None,
        tags: Vec::new(),
        rerun_of: None,
        request_id: run.request_id.clone(),
        traceparent: run.traceparent.clone(),
        idempotency: None,
    };
    let parent = crate::ledger::runs::Parent { run: run.id, ord: start.ord, item: start.item };
    Box::pin(async move {
        // Whatever became of it: its parent looks again.
        super::submit::submit(life, order, Some((parent, run.depth + 1))).await.map(|_| ())
    })
}

/// Carries out the order to stop a run, in the background. What is lost is done when the run is looked at again.
pub(crate) fn stop_soon(life: &Lifecycle, snapshot: Snapshot) {
    let life = life.clone();
    life.inner.tasks.clone().spawn(async move {
        if let Err(error) = stop_jobs(&life, &snapshot).await {
            tracing::debug!(workflow.id = %snapshot.run.id, %error, "its jobs could not be stopped now");
        }
        soon(&life, snapshot.run.id);
    });
}

/// Stops every job of a run that may still run.
async fn stop_jobs(life: &Lifecycle, snapshot: &Snapshot) -> Result<(), LedgerError> {
    let run = &snapshot.run;
    let mut after: Option<JobId> = None;
    loop {
        let page = life.inner.ledger.live_jobs(run.id, after, STOP_PAGE).await?;
        after = page.last().copied();
        let is_last = page.len() < STOP_PAGE as usize;
        stream::iter(page.into_iter().map(Ok))
            .try_for_each_concurrent(STOPS_MAX, |id| async move {
                life.cancel(&run.namespace, id, "its workflow was stopped").await.map(|_| ())
            })
            .await?;
        if is_last {
            return Ok(());
        }
    }
}

/// Hands jobs over to the engine.
pub(in crate::lifecycle) fn push(life: &Lifecycle, jobs: Vec<Job>, ticket: Option<Ticket>) {
    let Some(ticket) = ticket else { return };
    let now = life.inner.clock.now();
    let jobs: Vec<Job> = jobs.into_iter().filter(|job| belongs_in_engine(job, now)).collect();
    if !jobs.is_empty() {
        life.inner.pusher.offer(jobs, ticket);
    }
}
