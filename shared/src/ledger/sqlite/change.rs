//! Changes to single jobs: cancel, redrive, patch, delete. Each looks, decides and writes in the writer's
//! transaction, and names the state that it expects all the same.

use super::fault::Fault;
use super::holds::{self, Hold, HoldKey};
use super::jobs::{Columns, job};
use super::plan::tags_text;
use super::record::cancelled;
use super::runs::note::{self, Gone};
use super::statement::{Args, execute, row};
use super::writer::Tx;
use super::{Changed, Guard, JobPatch, fit_text, orders, prune, queues};
use crate::model::id::{Fence, JobId, WorkflowId};
use crate::model::job::{Job, JobSpec, JobState};
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;

/// What a change must know of its job.
struct Known {
    state: JobState,
    fence: Fence,
    queue: QueueName,
    unique_key: Option<String>,
    unique_until: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    /// Of which run, and which step of it.
    step: Option<(WorkflowId, i32)>,
    order_key: Option<String>,
}

impl Known {
    /// Whether the job has another form than the caller saw.
    fn is_other(&self, seen: Guard<'_>) -> bool {
        self.fence != seen.fence || self.queue != *seen.queue
    }
    fn hold_key(&self, namespace: &Namespace) -> Option<HoldKey> {
        Some((namespace.clone(), self.queue.clone(), self.unique_key.clone()?))
    }
}

async fn known(tx: &mut Tx<'_>, namespace: &Namespace, id: JobId) -> Result<Option<Known>, Fault> {
    let sql = "SELECT state, fence, queue, unique_key, unique_until, expires_at, workflow_id, \
               workflow_ord, order_key FROM jobs WHERE id = ? AND namespace = ?";
    let Some(row) = row(tx.connection, sql, key(namespace, id)).await? else { return Ok(None) };
    let mut c = Columns::of(&row);
    Ok(Some(Known {
        state: c.state()?,
        fence: Fence(c.count()?),
        queue: c.parsed()?,
        unique_key: c.next()?,
        unique_until: c.maybe_time()?,
        expires_at: c.maybe_time()?,
        step: c.maybe_id()?.map(WorkflowId::from_bytes).zip(c.next()?),
        order_key: c.next()?,
    }))
}

fn key(namespace: &Namespace, id: JobId) -> Args {
    Args::default().with(id.as_bytes().as_slice()).with(namespace.as_str())
}

async fn reread(tx: &mut Tx<'_>, namespace: &Namespace, id: JobId) -> Result<Changed<Job>, Fault> {
    let job = job(tx.connection, namespace, id).await?;
    job.map(Changed::Done).ok_or_else(|| Fault::unreadable("a job that was just written"))
}

/// Ends a job as cancelled, or notes that somebody asked for it.
pub(super) async fn cancel(
    tx: &mut Tx<'_>,
    (namespace, id): (&Namespace, JobId),
    seen: Option<Guard<'_>>,
    running: bool,
    reason: &str,
) -> Result<Changed<Job>, Fault> {
    let Some(known) = known(tx, namespace, id).await? else { return Ok(Changed::Unknown) };
    let is_other = seen.is_some_and(|seen| known.is_other(seen));
    let is_blocked = known.state == JobState::Blocked;
    let waits_in_order =
        is_blocked && known.order_key.is_some() && orders::has_place(tx.connection, id).await?;
    // One that waits for its needs is its run's to end.
    if known.state.is_terminal() || is_other || is_blocked && !waits_in_order {
        return Ok(Changed::Refused(known.state));
    }
    let reason = fit_text(reason);
    if running && !waits_in_order {
        let sql = "UPDATE jobs SET cancel_requested = 1, cancel_reason = ? \
                   WHERE id = ? AND state < 10";
        let args = Args::default().with(reason.as_ref()).with(id.as_bytes().as_slice());
        execute(tx.connection, sql, args).await?;
        return reread(tx, namespace, id).await;
    }
    let sql = "UPDATE jobs SET state = ?, finished_at = ?, changed_at = ?, cancel_requested = 1, \
               cancel_reason = ?, \
               error_code = ?, error_message = ?, error_retryable = ? WHERE id = ? AND state < 10";
    let error = cancelled(&reason);
    let args = Args::default()
        .with(JobState::Cancelled as i16)
        .with(tx.now.micros())
        .with(tx.now.micros())
        .with(reason.as_ref())
        .with(error.code)
        .with(error.message)
        .with(error.retryable)
        .with(id.as_bytes().as_slice());
    execute(tx.connection, sql, args).await?;
    if let Some(key) = known.hold_key(namespace) {
        holds::free(tx.connection, &[(key, id)]).await?;
    }
    if let Some(step) = known.step {
        let mut gone = Gone::none(step);
        gone.count(JobState::Cancelled);
        note::note(tx, &[gone]).await?;
    }
    reread(tx, namespace, id).await
}

/// Makes a job that did not succeed ready again.
pub(super) async fn redrive(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    id: JobId,
) -> Result<Changed<Job>, Fault> {
    let Some(known) = known(tx, namespace, id).await? else { return Ok(Changed::Unknown) };
    // A run makes its jobs run again itself, so that its steps wait for them.
    if !known.state.can_redrive() || known.step.is_some() {
        return Ok(Changed::Refused(known.state));
    }
    if !take_back_key(tx, namespace, id, &known).await? {
        return Ok(Changed::Refused(known.state));
    }
    let sql = "UPDATE jobs SET state = ?, fence = fence + 1, attempt = 0, crashes = 0, run_at = ?, \
               changed_at = ?, expires_at = ?, started_at = NULL, finished_at = NULL, \
               cancel_requested = 0, cancel_reason = NULL, usage = NULL, \
               output = NULL, output_blob = NULL WHERE id = ? AND state > 10";
    let args = Args::default()
        .with(JobState::Ready as i16)
        .with(tx.now.micros())
        .with(tx.now.micros())
        // A time that has passed would end the job at once.
        .with(known.expires_at.filter(|at| *at > tx.now).map(Timestamp::micros))
        .with(id.as_bytes().as_slice());
    execute(tx.connection, sql, args).await?;
    let sql = "DELETE FROM job_progress WHERE job_id = ?";
    execute(tx.connection, sql, Args::default().with(id.as_bytes().as_slice())).await?;
    reread(tx, namespace, id).await
}

/// Takes the job's unique key for it again; `false`: another job holds it. A key with a window is not taken
/// again: the window began with the submission.
async fn take_back_key(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    id: JobId,
    known: &Known,
) -> Result<bool, Fault> {
    let Some(key) = known.hold_key(namespace) else { return Ok(true) };
    match holds::holder(tx, &key).await? {
        Some(holder) => Ok(holder == id),
        None if known.unique_until.is_some() => Ok(true),
        None => {
            let hold = Hold { job: id, until: None, is_waiting: true };
            holds::take(tx.connection, &[(key, hold)]).await?;
            Ok(true)
        }
    }
}

/// Changes a job that waits.
pub(super) async fn patch(
    tx: &mut Tx<'_>,
    (namespace, id): (&Namespace, JobId),
    seen: Option<Guard<'_>>,
    patch: &JobPatch,
) -> Result<Changed<Job>, Fault> {
    let Some(known) = known(tx, namespace, id).await? else { return Ok(Changed::Unknown) };
    let is_other = seen.is_some_and(|seen| known.is_other(seen));
    let is_fixed = matches!(known.state, JobState::Running | JobState::Blocked);
    if known.state.is_terminal() || is_fixed || is_other {
        return Ok(Changed::Refused(known.state));
    }
    if patch.tags.iter().flatten().any(|tag| tag.contains('\0')) {
        return Err(Fault::refused("a tag contains a NUL character"));
    }
    if let Some(queue) = patch.queue.as_ref().filter(|queue| **queue != known.queue)
        && (known.order_key.is_some() || !move_to(tx, namespace, id, &known, queue).await?)
    {
        return Ok(Changed::Refused(known.state));
    }
    let state = match (known.state, patch.run_at) {
        (JobState::Scheduled | JobState::Ready, Some(at)) if at > tx.now => JobState::Scheduled,
        (JobState::Scheduled | JobState::Ready, Some(_)) => JobState::Ready,
        (state, _) => state,
    };
    let spec = match patch.max_attempts {
        Some(max_attempts) => Some(spec_with(tx, id, max_attempts).await?),
        None => None,
    };
    let sql = "UPDATE jobs SET fence = fence + 1, changed_at = ?, state = ?, \
               priority = coalesce(?, priority), run_at = coalesce(?, run_at), \
               queue = coalesce(?, queue), spec = coalesce(?, spec), tags = iif(?, ?, tags) \
               WHERE id = ? AND state < 10 AND state <> 3";
    let args = Args::default()
        .with(tx.now.micros())
        .with(state as i16)
        .with(patch.priority.map(|priority| priority.level()))
        .with(patch.run_at.map(Timestamp::micros))
        .with(patch.queue.as_ref().map(QueueName::as_str))
        .with(spec)
        .with(patch.tags.is_some())
        .with(patch.tags.as_deref().and_then(tags_text))
        .with(id.as_bytes().as_slice());
    execute(tx.connection, sql, args).await?;
    reread(tx, namespace, id).await
}

/// Moves the job's unique key to another queue, which is made if need be; `false`: it is held there.
async fn move_to(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    id: JobId,
    known: &Known,
    queue: &QueueName,
) -> Result<bool, Fault> {
    if let Some(old) = known.hold_key(namespace)
        && holds::holder(tx, &old).await? == Some(id)
    {
        let new = (namespace.clone(), queue.clone(), old.2.clone());
        if holds::holder(tx, &new).await?.is_some() {
            return Ok(false);
        }
        holds::forget(tx.connection, &old, id).await?;
        let hold = Hold { job: id, until: known.unique_until, is_waiting: true };
        holds::take(tx.connection, &[(new, hold)]).await?;
    }
    queues::ensure(tx, namespace, queue).await?;
    Ok(true)
}

async fn spec_with(tx: &mut Tx<'_>, id: JobId, max_attempts: u32) -> Result<String, Fault> {
    let sql = "SELECT spec FROM jobs WHERE id = ?";
    let args = Args::default().with(id.as_bytes().as_slice());
    let found = row(tx.connection, sql, args).await?;
    let found = found.ok_or_else(|| Fault::unreadable("a job that was just there"))?;
    let spec: JobSpec = Columns::of(&found).json()?;
    let spec = JobSpec { max_attempts, ..spec };
    serde_json::to_string(&spec).map_err(Fault::unreadable)
}

/// Forgets a terminal job.
pub(super) async fn delete(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    id: JobId,
) -> Result<Changed<()>, Fault> {
    let Some(known) = known(tx, namespace, id).await? else { return Ok(Changed::Unknown) };
    if !known.state.is_terminal() || known.step.is_some() {
        return Ok(Changed::Refused(known.state));
    }
    prune::forget(tx, &[id], prune::Cause::Asked).await?;
    Ok(Changed::Done(()))
}
