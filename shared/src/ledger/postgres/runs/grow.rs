//! Steps come into a run that goes on.

use std::collections::{BTreeMap, HashMap};

use sqlx::PgConnection;

use super::rows::{StepJobRow, StepRow, insert_jobs, insert_steps};
use crate::ledger::runs::{NewStep, Run};
use crate::model::id::JobId;
use crate::model::workflow::StepState;

/// From a step that is there to the added ones.
type Edges = BTreeMap<i32, Vec<i32>>;

/// Brings steps in, and makes those that are there already wait for them. `false`: an edge goes to a step that is not
/// there, or before one that has started. The run is locked.
pub(super) async fn add(
    connection: &mut PgConnection,
    run: &Run,
    added: &[NewStep],
    now: i64,
    released: &mut Vec<JobId>,
) -> Result<bool, sqlx::Error> {
    if added.is_empty() {
        return Ok(true);
    }
    let (needs, dependents) = edges(added);
    let Some(ended) = look_at_needs(connection, run, &needs).await? else { return Ok(false) };
    let rows: Vec<StepRow<'_>> = added.iter().map(|step| settled(step, &ended)).collect();
    let jobs: Vec<StepJobRow<'_>> =
        rows.iter().filter_map(|row| StepJobRow::of(row.step, row.state)).collect();
    released.extend(jobs.iter().filter(|job| !job.blocked).map(|row| row.job.id));
    insert_jobs(connection, run.id, &jobs, now).await?;
    insert_steps(connection, run.id, &run.namespace, &rows, now).await?;
    let sql = "UPDATE workflows SET steps = steps + $2 WHERE id = $1";
    let count = i32::try_from(added.len()).unwrap_or(i32::MAX);
    sqlx::query(sql).bind(run.id.uuid()).bind(count).execute(&mut *connection).await?;
    join(connection, run, &needs, &dependents).await
}

/// The edges between added steps and others: from what they need, and to what needs them.
fn edges(added: &[NewStep]) -> (Edges, Edges) {
    let fresh: HashMap<i32, &NewStep> = added.iter().map(|step| (step.ord, step)).collect();
    let (mut needs, mut dependents) = (Edges::new(), Edges::new());
    for step in added {
        for need in step.needs.iter().filter(|need| !fresh.contains_key(need)) {
            needs.entry(*need).or_default().push(step.ord);
        }
        for dependent in step.dependents.iter().filter(|d| !fresh.contains_key(d)) {
            dependents.entry(*dependent).or_default().push(step.ord);
        }
    }
    (needs, dependents)
}

/// Whether each step that is needed has ended; `None`: one is not there.
async fn look_at_needs(
    connection: &mut PgConnection,
    run: &Run,
    needs: &Edges,
) -> Result<Option<HashMap<i32, bool>>, sqlx::Error> {
    let ords: Vec<i32> = needs.keys().copied().collect();
    let sql =
        "SELECT ord, state >= 10 FROM workflow_steps WHERE workflow_id = $1 AND ord = ANY($2)";
    let query = sqlx::query_as(sql).bind(run.id.uuid()).bind(ords);
    let found: Vec<(i32, bool)> = query.fetch_all(connection).await?;
    Ok((found.len() == needs.len()).then(|| found.into_iter().collect()))
}

/// A step as it comes in, where some of its needs have ended already.
fn settled<'a>(step: &'a NewStep, ended: &HashMap<i32, bool>) -> StepRow<'a> {
    let mut row = StepRow::fresh(step);
    let left = step.needs.iter().filter(|need| ended.get(need) != Some(&true)).count();
    row.needs_left = i32::try_from(left).unwrap_or(i32::MAX);
    if left == 0 && !step.needs.is_empty() && step.state == StepState::Blocked {
        match step.plain {
            true => row.state = StepState::Released,
            false => row.due = true,
        }
    }
    row
}

/// Notes the edges on the steps that were there before. `false`: what is to wait has started.
async fn join(
    connection: &mut PgConnection,
    run: &Run,
    needs: &Edges,
    dependents: &Edges,
) -> Result<bool, sqlx::Error> {
    const NEEDS: &str = "
WITH g AS (SELECT old, array_agg(new ORDER BY new) AS new FROM unnest($2::int[], $3::int[]) AS v(old, new) GROUP BY old)
UPDATE workflow_steps s SET dependents = s.dependents || g.new
FROM g WHERE s.workflow_id = $1 AND s.ord = g.old";
    const DEPENDENTS: &str = "
WITH g AS (SELECT old, array_agg(new ORDER BY new) AS new FROM unnest($2::int[], $3::int[]) AS v(old, new) GROUP BY old)
UPDATE workflow_steps s SET needs = s.needs || g.new, needs_left = s.needs_left + cardinality(g.new)
FROM g WHERE s.workflow_id = $1 AND s.ord = g.old AND s.state = 0";
    for (sql, edges) in [(NEEDS, needs), (DEPENDENTS, dependents)] {
        if edges.is_empty() {
            continue;
        }
        let pairs = || edges.iter().flat_map(|(old, new)| new.iter().map(|new| (*old, *new)));
        let joined = sqlx::query(sql)
            .bind(run.id.uuid())
            .bind(pairs().map(|pair| pair.0).collect::<Vec<i32>>())
            .bind(pairs().map(|pair| pair.1).collect::<Vec<i32>>())
            .execute(&mut *connection)
            .await?;
        if joined.rows_affected() != edges.len() as u64 {
            return Ok(false);
        }
    }
    Ok(true)
}
