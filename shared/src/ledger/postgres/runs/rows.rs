//! Rows of steps and of their jobs on their way in.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use super::super::insert::array_text;
use super::super::queues;
use super::super::row::{int4, value_parts};
use crate::ledger::runs::NewStep;
use crate::ledger::unfinished::group_of;
use crate::model::id::WorkflowId;
use crate::model::job::NewJob;
use crate::model::name::Namespace;
use crate::model::time::Timestamp;
use crate::model::workflow::StepState;

/// Rows of one statement.
const CHUNK: usize = 1_000;

/// A job of a step, on its way in.
pub(super) struct StepJobRow<'a> {
    pub(super) ord: i32,
    pub(super) step: &'a str,
    pub(super) item: Option<u32>,
    pub(super) blocked: bool,
    pub(super) job: &'a NewJob,
}

impl<'a> StepJobRow<'a> {
    pub(super) fn of_step(step: &'a NewStep) -> Option<Self> {
        Self::of(step, step.state)
    }

    /// As if the step were in this state.
    pub(super) fn of(step: &'a NewStep, state: StepState) -> Option<Self> {
        let job = step.job.as_ref()?;
        let blocked = state != StepState::Released;
        Some(Self { ord: step.ord, step: &step.id, item: None, blocked, job })
    }
}

/// Makes the queues of steps that come in, those of their later jobs too; `false`: there is no room for one.
pub(super) async fn make_queues(
    connection: &mut PgConnection,
    namespace: &Namespace,
    steps: &[NewStep],
) -> Result<bool, sqlx::Error> {
    let queues: BTreeSet<_> = steps.iter().flat_map(NewStep::queues).collect();
    for queue in queues {
        if !queues::make(connection, namespace, queue).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Inserts jobs of steps, makes their queues, and counts the blobs that they name. How many queues there are is not
/// looked at: those of a step were made with it ([`make_queues`]), and what has begun is not held up by the bound.
pub(super) async fn insert_jobs(
    connection: &mut PgConnection,
    run: WorkflowId,
    rows: &[StepJobRow<'_>],
    now: i64,
) -> Result<(), sqlx::Error> {
    const SQL: &str = "
WITH input AS MATERIALIZED (
    SELECT * FROM unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::smallint[], $8::bytea[],
        $9::uuid[], $10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::bytea[], $15::text[],
        $16::text[], $17::int[], $18::text[], $19::int[], $20::boolean[], $21::text[], $22::int[])
    AS i(id, namespace, queue, kind, priority, payload, payload_blob, run_at, expires_at, spec, tags, meta,
        request_id, traceparent, ord, step, item, blocked, order_key, flow_group)
), made AS (
    INSERT INTO jobs (id, fence, run_at, created_at, changed_at, expires_at, state, priority, namespace,
        queue, kind, spec, payload, payload_blob, tags, meta, request_id, traceparent, workflow_id,
        workflow_ord, workflow_step, workflow_item, order_key, flow_group)
    SELECT id, 0, coalesce(run_at, $2), $2, $2, expires_at,
        CASE WHEN blocked THEN 0 WHEN run_at > $2 THEN 1 ELSE 2 END, priority, namespace, queue, kind, spec,
        payload, payload_blob, coalesce(tags::text[], '{}'), meta, request_id, traceparent, $1, ord, step, item,
        order_key, flow_group
    FROM input
), numbered AS (
    INSERT INTO workflow_items (workflow_id, ord, item, job_id)
    SELECT $1, ord, item, id FROM input WHERE item IS NOT NULL
), named AS (
    UPDATE blobs b SET refs = b.refs + n.jobs
    FROM (SELECT namespace, payload_blob, count(*)::int AS jobs FROM input
          WHERE payload_blob IS NOT NULL GROUP BY namespace, payload_blob) n
    WHERE b.namespace = n.namespace AND b.id = n.payload_blob
)
INSERT INTO queues (namespace, name, created_at) SELECT DISTINCT namespace, queue, $2 FROM input ORDER BY 1, 2
ON CONFLICT (namespace, name) DO NOTHING";
    for rows in rows.chunks(CHUNK) {
        fn each<'a, T>(rows: &[StepJobRow<'a>], part: impl Fn(&StepJobRow<'a>) -> T) -> Vec<T> {
            rows.iter().map(part).collect()
        }
        let specs = each(rows, |r| {
            serde_json::to_string(&r.job.spec).map_err(|e| sqlx::Error::Encode(e.into()))
        });
        sqlx::query(SQL)
            .bind(run.uuid())
            .bind(now)
            .bind(each(rows, |r| r.job.id.uuid()))
            .bind(each(rows, |r| r.job.namespace.as_str()))
            .bind(each(rows, |r| r.job.queue.as_str()))
            .bind(each(rows, |r| r.job.kind.as_str()))
            .bind(each(rows, |r| i16::from(r.job.priority.level())))
            .bind(each(rows, |r| value_parts(Some(&r.job.payload)).0))
            .bind(each(rows, |r| value_parts(Some(&r.job.payload)).1))
            .bind(each(rows, |r| r.job.run_at.map(Timestamp::micros)))
            .bind(each(rows, |r| r.job.expires_at.map(Timestamp::micros)))
            .bind(specs.into_iter().collect::<Result<Vec<String>, _>>()?)
            .bind(each(rows, |r| array_text(&r.job.tags)))
            .bind(each(rows, |r| r.job.meta.as_deref()))
            .bind(each(rows, |r| r.job.request_id.as_deref()))
            .bind(each(rows, |r| r.job.traceparent.as_deref()))
            .bind(each(rows, |r| r.ord))
            .bind(each(rows, |r| r.step))
            .bind(each(rows, |r| r.item.map(int4)))
            .bind(each(rows, |r| r.blocked))
            .bind(each(rows, |r| r.job.spec.order_key.as_deref()))
            .bind(each(rows, |r| group_of(&r.job.spec, &r.job.kind)))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// A step on its way in, and how it is by then.
pub(super) struct StepRow<'a> {
    pub(super) step: &'a NewStep,
    pub(super) state: StepState,
    pub(super) due: bool,
    pub(super) needs_left: i32,
}

impl<'a> StepRow<'a> {
    /// Of which no need has ended.
    pub(super) fn fresh(step: &'a NewStep) -> Self {
        let needs_left = i32::try_from(step.needs.len()).unwrap_or(i32::MAX);
        Self { step, state: step.state, due: step.due, needs_left }
    }
}

/// Inserts steps.
pub(super) async fn insert_steps(
    connection: &mut PgConnection,
    run: WorkflowId,
    namespace: &Namespace,
    rows: &[StepRow<'_>],
    now: i64,
) -> Result<(), sqlx::Error> {
    // Arrays of arrays must have one length in PostgreSQL, so the positions travel as array literals.
    const SQL: &str = "
INSERT INTO workflow_steps (workflow_id, namespace, ord, step, state, due, needs, dependents, needs_left, plain,
    many, paced, job_id, spec, started_at)
SELECT $1, $2, ord, step, state, due, needs::int[], dependents::int[], needs_left, plain, many, paced, job_id, spec,
    CASE WHEN state = 1 THEN $3::bigint END
FROM unnest($4::int[], $5::text[], $6::smallint[], $7::bigint[], $8::text[], $9::text[], $10::int[],
    $11::boolean[], $12::boolean[], $13::boolean[], $14::uuid[], $15::text[])
AS v(ord, step, state, due, needs, dependents, needs_left, plain, many, paced, job_id, spec)";
    for rows in rows.chunks(CHUNK) {
        fn each<'a, T>(rows: &[StepRow<'a>], part: impl Fn(&StepRow<'a>) -> T) -> Vec<T> {
            rows.iter().map(part).collect()
        }
        sqlx::query(SQL)
            .bind(run.uuid())
            .bind(namespace.as_str())
            .bind(now)
            .bind(each(rows, |r| r.step.ord))
            .bind(each(rows, |r| r.step.id.as_str()))
            .bind(each(rows, |r| r.state as i16))
            .bind(each(rows, |r| i64::from(r.due)))
            .bind(each(rows, |r| literal(&r.step.needs)))
            .bind(each(rows, |r| literal(&r.step.dependents)))
            .bind(each(rows, |r| r.needs_left))
            .bind(each(rows, |r| r.step.plain))
            .bind(each(rows, |r| r.step.many))
            .bind(each(rows, |r| r.step.paced))
            .bind(each(rows, |r| r.step.job.as_ref().map(|job| job.id.uuid())))
            .bind(each(rows, |r| r.step.spec.as_str()))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

fn literal(numbers: &[i32]) -> String {
    let texts: Vec<String> = numbers.iter().map(i32::to_string).collect();
    format!("{{{}}}", texts.join(","))
}
