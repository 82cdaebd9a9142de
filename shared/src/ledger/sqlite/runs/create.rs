//! A run comes in: the run, its steps and their jobs, all or nothing.

use super::jobs::{self, StepJob};
use super::steps::{self, Row};
use crate::ledger::Idempotency;
use crate::ledger::runs::{CreateOutcome, NewRun, Parent};
use crate::ledger::sqlite::fault::Fault;
use crate::ledger::sqlite::jobs::Columns;
use crate::ledger::sqlite::plan::tags_text;
use crate::ledger::sqlite::quotas::Doors;
use crate::ledger::sqlite::statement::{Args, execute, row};
use crate::ledger::sqlite::writer::{Tx, release, roll_back, savepoint, undo};
use crate::limits::IDEMPOTENCY_TTL;
use crate::model::id::WorkflowId;
use crate::model::job::{NewJob, Value};
use crate::model::name::Namespace;
use crate::model::time::Timestamp;

/// See [`crate::ledger::Ledger::create_run`].
pub(in crate::ledger::sqlite) async fn submit(
    tx: &mut Tx<'_>,
    new: &NewRun,
) -> Result<CreateOutcome, Fault> {
    // What a step starts is promised already.
    if new.parent.is_some() {
        return create(tx, new).await;
    }
    let jobs: Vec<NewJob> = new.steps.iter().filter_map(|step| step.job.clone()).collect();
    let mut doors = Doors::of_jobs(tx, jobs.iter()).await?;
    savepoint(tx).await?;
    let outcome = match create(tx, new).await {
        Ok(CreateOutcome::Created(released)) => match doors.admit(tx.now, &jobs) {
            Ok(()) => Ok(CreateOutcome::Created(released)),
            Err(exceeded) => {
                roll_back(tx).await?;
                Ok(CreateOutcome::OverQuota(exceeded))
            }
        },
        Ok(other) => Ok(other),
        Err(fault) => {
            undo(tx, fault.clone()).await?;
            Err(fault)
        }
    };
    release(tx).await?;
    doors.write(tx).await?;
    outcome
}

/// Brings a run in past the door.
///
/// # Errors
/// What was written has to be undone.
pub(in crate::ledger::sqlite) async fn create(
    tx: &mut Tx<'_>,
    new: &NewRun,
) -> Result<CreateOutcome, Fault> {
    if let Some(key) = &new.idempotency
        && let Some(outcome) = spent(tx, &new.namespace, key).await?
    {
        return Ok(outcome);
    }
    let id = Args::default().with(new.id.as_bytes().as_slice());
    if row(tx.connection, "SELECT 1 FROM workflows WHERE id = ?", id).await?.is_some() {
        return Ok(CreateOutcome::Replayed(new.id));
    }
    if let Some(parent) = new.parent {
        let Some(started_at) = waits(tx, parent).await? else {
            return Ok(CreateOutcome::ParentGone);
        };
        if let Some(child) = started(tx, parent, started_at).await? {
            return Ok(CreateOutcome::Replayed(child));
        }
    }
    insert(tx, new).await?;
    let made: Vec<StepJob<'_>> = new.steps.iter().filter_map(StepJob::of).collect();
    jobs::make_queues(tx, &new.namespace, &new.steps).await?;
    let released = jobs::insert(tx, new.id, &made).await?;
    let rows: Vec<Row<'_>> = new.steps.iter().map(Row::of).collect();
    steps::insert(tx, new.id, &new.namespace, &rows).await?;
    if let Some(key) = &new.idempotency {
        spend(tx, new, key).await?;
    }
    Ok(CreateOutcome::Created(released))
}

/// The answer of an earlier call with the same key.
async fn spent(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    key: &Idempotency,
) -> Result<Option<CreateOutcome>, Fault> {
    let sql = "SELECT created_at, body_hash, ids FROM idempotency WHERE namespace = ? AND key = ?";
    let args = Args::default().with(namespace.as_str()).with(key.key.as_str());
    let Some(found) = row(tx.connection, sql, args).await? else { return Ok(None) };
    let mut c = Columns::of(&found);
    if c.time()?.plus(IDEMPOTENCY_TTL) < tx.now {
        return Ok(None);
    }
    let (hash, ids): (&[u8], &[u8]) = (c.next()?, c.next()?);
    let id = ids.first_chunk::<16>().filter(|_| hash == key.body_hash);
    Ok(Some(match id {
        Some(id) => CreateOutcome::Replayed(WorkflowId::from_bytes(*id)),
        None => CreateOutcome::KeyReused,
    }))
}

/// Notes what the key stands for from now on.
async fn spend(tx: &mut Tx<'_>, new: &NewRun, key: &Idempotency) -> Result<(), Fault> {
    let sql = "INSERT INTO idempotency (namespace, key, body_hash, ids, created_at) \
               VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET body_hash = excluded.body_hash, \
               ids = excluded.ids, created_at = excluded.created_at";
    let args = Args::default()
        .with(new.namespace.as_str())
        .with(key.key.as_str())
        .with(key.body_hash.as_slice())
        .with(new.id.as_bytes().as_slice())
        .with(tx.now.micros());
    execute(tx.connection, sql, args).await?;
    Ok(())
}

/// Since when a step waits for runs that it starts; `None`: it does not.
async fn waits(tx: &mut Tx<'_>, parent: Parent) -> Result<Option<i64>, Fault> {
    let sql = "SELECT coalesce(s.started_at, 0) FROM workflow_steps s \
               JOIN workflows w ON w.id = s.workflow_id WHERE s.workflow_id = ? AND s.ord = ? \
               AND s.state = 2 AND w.state < 10 AND w.ending IS NULL";
    let args = Args::default().with(parent.run.as_bytes().as_slice()).with(parent.ord);
    let found = row(tx.connection, sql, args).await?;
    found.map(|row| Columns::of(&row).next()).transpose()
}

/// The run that a step has started already since it waits. What it had started before a retry is not meant.
async fn started(
    tx: &mut Tx<'_>,
    parent: Parent,
    started_at: i64,
) -> Result<Option<WorkflowId>, Fault> {
    let sql = "SELECT id FROM workflows WHERE parent_id = ? AND parent_ord = ? \
               AND parent_item IS ? AND (state < 10 OR created_at >= ?) ORDER BY created_at DESC LIMIT 1";
    let args = Args::default()
        .with(parent.run.as_bytes().as_slice())
        .with(parent.ord)
        .with(parent.item)
        .with(started_at);
    let found = row(tx.connection, sql, args).await?;
    found.map(|row| Ok(WorkflowId::from_bytes(Columns::of(&row).id()?))).transpose()
}

/// The two columns of a value: bytes, and a reference.
pub(super) fn value_parts(value: Option<&Value>) -> (Option<&[u8]>, Option<&[u8]>) {
    match value {
        None => (None, None),
        Some(Value::Inline(bytes)) => (Some(bytes), None),
        Some(Value::Blob(id)) => (None, Some(id.as_bytes())),
    }
}

async fn insert(tx: &mut Tx<'_>, new: &NewRun) -> Result<(), Fault> {
    let sql = "INSERT INTO workflows (id, namespace, name, state, created_at, began_at, changed_at, \
               deadline, steps, definition, definition_version, document, options, input, \
               input_blob, tags, parent_id, parent_ord, parent_item, depth, rerun_of, request_id, \
               traceparent) VALUES (?1, ?2, ?3, 0, ?4, ?4, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, \
               ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)";
    let (input, blob) = value_parts(Some(&new.input));
    let steps = new.steps.iter().filter(|step| step.ord >= 0).count();
    let args = Args::default()
        .with(new.id.as_bytes().as_slice())
        .with(new.namespace.as_str())
        .with(new.name.as_str())
        .with(tx.now.micros())
        .with(new.deadline.map(Timestamp::micros))
        .with(i64::try_from(steps).unwrap_or(i64::MAX))
        .with(new.definition.as_ref().map(|(name, _)| name.as_str()))
        .with(new.definition.as_ref().map(|(_, version)| *version))
        .with(new.document.as_deref())
        .with(new.options.as_str())
        .with(input)
        .with(blob)
        .with(tags_text(&new.tags))
        .with(new.parent.as_ref().map(|parent| parent.run.as_bytes().as_slice()))
        .with(new.parent.map(|parent| parent.ord))
        .with(new.parent.and_then(|parent| parent.item))
        .with(new.depth)
        .with(new.rerun_of.as_ref().map(|id| id.as_bytes().as_slice()))
        .with(new.request_id.as_deref())
        .with(new.traceparent.as_deref());
    execute(tx.connection, sql, args).await?;
    Ok(())
}
