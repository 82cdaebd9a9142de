//! What follows in a run from a step that ended: parts of the statements that end steps.

/// Parts that lower the dependents of ended steps, and release the plain ones that wait for nothing more. They
/// read `fallen (workflow_id, ord, n)`, the dependents with how many of their needs have ended, and `clock`; they
/// yield `lowered` and `released`.
///
/// A row that another transaction has just changed is read again before it is changed here, so that two needs
/// that end at once both count.
macro_rules! lowered_ctes {
    () => {
        "lowered AS (
    UPDATE workflow_steps s SET needs_left = s.needs_left - f.n,
        state = CASE WHEN s.needs_left = f.n AND s.plain THEN 1 ELSE s.state END,
        started_at = CASE WHEN s.needs_left = f.n AND s.plain THEN clock.now ELSE s.started_at END,
        due = s.due + (s.needs_left = f.n AND NOT s.plain)::int
    FROM fallen f, clock
    WHERE s.workflow_id = f.workflow_id AND s.ord = f.ord AND s.state = 0
    RETURNING s.workflow_id, s.state, s.due, s.job_id
), released AS (
    UPDATE jobs j SET state = 2, run_at = clock.now, changed_at = clock.now
    FROM lowered l, clock
    WHERE l.state = 1 AND j.id = l.job_id AND j.state + 0 = 0
    RETURNING j.id
)"
    };
}
pub(in super::super) use lowered_ctes;

/// Parts that note the end of jobs on their steps. They read `gone (id, workflow_id, workflow_ord, state, at)`, the
/// jobs that have ended, and `clock`; they yield `stepped`, and `fallen` for [`lowered_ctes`].
///
/// A success of a step's one job ends the step. Anything else is looked at by the next advance.
macro_rules! noted_cte {
    () => {
        "ended AS (
    SELECT workflow_id, workflow_ord AS ord, count(*)::int AS n,
        count(*) FILTER (WHERE state <> 10)::int AS bad, max(at) AS at
    FROM gone WHERE workflow_id IS NOT NULL
    GROUP BY 1, 2 ORDER BY 1, 2
), stepped AS (
    UPDATE workflow_steps s SET
        items_open = s.items_open - e.n, items_failed = s.items_failed + e.bad,
        state = CASE WHEN NOT s.many AND e.bad = 0 THEN 10 ELSE s.state END,
        finished_at = CASE WHEN NOT s.many AND e.bad = 0 THEN e.at ELSE s.finished_at END,
        due = s.due + CASE WHEN s.many THEN (e.bad > 0 OR s.paced OR s.items_open = e.n)::int
            ELSE e.bad END
    FROM ended e WHERE s.workflow_id = e.workflow_id AND s.ord = e.ord AND s.state = 1
    RETURNING s.workflow_id, s.state, s.due, s.dependents
), fallen AS (
    SELECT s.workflow_id, d.ord, count(*)::int AS n
    FROM stepped s, unnest(s.dependents) AS d(ord)
    WHERE s.state = 10
    GROUP BY 1, 2 ORDER BY 1, 2
)"
    };
}
pub(in super::super) use noted_cte;
