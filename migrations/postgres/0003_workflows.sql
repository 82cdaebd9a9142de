-- Workflows: runs, their steps, and stored definitions. States are the numbers of shared/src/model/workflow.rs.

-- Which step of which run a job is, and which item of a `for_each`.
ALTER TABLE jobs ADD COLUMN workflow_ord INTEGER;
ALTER TABLE jobs ADD COLUMN workflow_item INTEGER;
CREATE INDEX jobs_by_workflow ON jobs (workflow_id, id) WHERE workflow_id IS NOT NULL;

CREATE TABLE workflows (
    id                 UUID     NOT NULL PRIMARY KEY,
    version            BIGINT   NOT NULL DEFAULT 0,   -- rises with every advance, cancel and retry
    created_at         BIGINT   NOT NULL,             -- ledger time, as are the next four
    began_at           BIGINT   NOT NULL,             -- accepted, or retried last
    changed_at         BIGINT   NOT NULL,
    finished_at        BIGINT,
    deadline           BIGINT,
    steps              INTEGER  NOT NULL,
    parent_ord         INTEGER,                       -- step and item of the run that started this one
    parent_item        INTEGER,
    definition_version INTEGER,
    state              SMALLINT NOT NULL,
    ending             SMALLINT,                      -- the state it takes when what still runs has ended
    depth              SMALLINT NOT NULL DEFAULT 0,
    namespace          TEXT     NOT NULL,
    name               TEXT     NOT NULL,
    parent_id          UUID,
    rerun_of           UUID,
    definition         TEXT,                          -- a stored one; NULL: `document` is the run's own
    document           TEXT,                          -- WorkflowSpec as JSON
    options            TEXT     NOT NULL,             -- what decisions need of it, as JSON
    input              BYTEA,                         -- exactly one of input and input_blob
    input_blob         UUID,
    output             BYTEA,                         -- at most one of output and output_blob
    output_blob        UUID,
    error_code         TEXT,
    error_message      TEXT,
    tags               TEXT[]   NOT NULL DEFAULT '{}',
    request_id         TEXT,
    traceparent        TEXT
);
CREATE INDEX workflows_by_namespace ON workflows (namespace, id);
CREATE INDEX workflows_deadline ON workflows (deadline) WHERE deadline IS NOT NULL AND state < 10;
CREATE INDEX workflows_finished ON workflows (finished_at) WHERE state >= 10;
CREATE INDEX workflows_parent ON workflows (parent_id) WHERE parent_id IS NOT NULL;

-- One row per step, and one more with the position -1: the end of the run, which needs every step that no other
-- needs. `needs_left` counts the steps that have not ended; each lowers it once, in the transaction that ends it.
CREATE TABLE workflow_steps (
    workflow_id   UUID     NOT NULL,
    ord           INTEGER  NOT NULL,
    due           BIGINT   NOT NULL DEFAULT 0,        -- reasons to look at it that no advance has seen yet
    wake_at       BIGINT,                             -- look at it then
    started_at    BIGINT,
    finished_at   BIGINT,
    needs_left    INTEGER  NOT NULL,
    items_total   INTEGER  NOT NULL DEFAULT 1,
    items_made    INTEGER  NOT NULL DEFAULT 1,        -- jobs made so far
    items_open    INTEGER  NOT NULL DEFAULT 1,        -- jobs not ended, those not made included
    items_failed  INTEGER  NOT NULL DEFAULT 0,
    state         SMALLINT NOT NULL,
    plain         BOOLEAN  NOT NULL,                  -- released as it stands by the transaction that ends its last need
    many          BOOLEAN  NOT NULL,                  -- for_each
    paced         BOOLEAN  NOT NULL DEFAULT false,    -- max_parallel: the end of an item makes room for the next
    job_id        UUID,                               -- of a step with one job
    namespace     TEXT     NOT NULL,
    step          TEXT     NOT NULL,
    needs         INTEGER[] NOT NULL,
    dependents    INTEGER[] NOT NULL,
    spec          TEXT     NOT NULL,                  -- StepSpec as JSON
    items         BYTEA,                              -- the list of a for_each, as JSON
    output        BYTEA,                              -- of a step without a job
    error_code    TEXT,
    error_message TEXT,
    PRIMARY KEY (workflow_id, ord)
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX workflow_steps_by_id ON workflow_steps (workflow_id, step);
CREATE INDEX workflow_steps_due ON workflow_steps (workflow_id, ord) WHERE due > 0;
CREATE INDEX workflow_steps_wake ON workflow_steps (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX workflow_steps_waiting ON workflow_steps (workflow_id, wake_at) WHERE wake_at IS NOT NULL;

-- The jobs of a `for_each`, by item.
CREATE TABLE workflow_items (
    workflow_id UUID    NOT NULL,
    ord         INTEGER NOT NULL,
    item        INTEGER NOT NULL,
    job_id      UUID    NOT NULL,
    PRIMARY KEY (workflow_id, ord, item)
);

-- Signals that came before their step waited, and approvals given.
CREATE TABLE workflow_signals (
    workflow_id UUID   NOT NULL,
    seq         BIGINT GENERATED ALWAYS AS IDENTITY,
    at          BIGINT NOT NULL,
    namespace   TEXT   NOT NULL,
    kind        TEXT   NOT NULL,                      -- `signal`, or `approval` with the step's id as name
    name        TEXT   NOT NULL,
    by          TEXT   NOT NULL,
    role        TEXT,
    approved    BOOLEAN,
    reason      TEXT,
    body        BYTEA,
    taken       BOOLEAN NOT NULL DEFAULT false,
    PRIMARY KEY (workflow_id, seq)
);

-- Stored definitions. A version is never changed.
CREATE TABLE definitions (
    namespace  TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    created_at BIGINT  NOT NULL,
    by         TEXT    NOT NULL,
    document   TEXT    NOT NULL,                      -- WorkflowSpec as JSON
    source     TEXT    NOT NULL,                      -- as it was put
    PRIMARY KEY (namespace, name, version)
);

-- Partial results of jobs, to resume from. The latest of each job only.
CREATE TABLE checkpoints (
    job_id     UUID   NOT NULL PRIMARY KEY,
    namespace  TEXT   NOT NULL,
    fence      BIGINT NOT NULL,
    at         BIGINT NOT NULL,
    data       BYTEA  NOT NULL
);

-- How steps end. A run's steps change only under the lock on its row in `workflows`; who needs several of these takes
-- them in id order, and after the locks on jobs that end. What both functions say: 1 and a job that may run now, or
-- 2 and a run with something to be decided over. Every statement in them sees what others have committed before it
-- had the lock, which one large statement would not.

-- Lowers the dependents of steps that have ended, of locked runs, and releases the plain ones that wait for nothing more.
CREATE FUNCTION windlass_steps_ended(runs UUID[], ords INTEGER[])
RETURNS TABLE (noted SMALLINT, subject UUID)
LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    moment BIGINT := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
BEGIN
    RETURN QUERY
    WITH fallen AS MATERIALIZED (
        SELECT e.run, d.ord, count(*)::int AS n
        FROM unnest(runs, ords) AS e(run, ord)
        JOIN workflow_steps s ON s.workflow_id = e.run AND s.ord = e.ord
        CROSS JOIN LATERAL unnest(s.dependents) AS d(ord)
        GROUP BY 1, 2
    ), lowered AS (
        UPDATE workflow_steps s SET needs_left = s.needs_left - f.n,
            state = CASE WHEN s.needs_left = f.n AND s.plain THEN 1 ELSE 0 END,
            started_at = CASE WHEN s.needs_left = f.n AND s.plain THEN moment END,
            due = s.due + (s.needs_left = f.n AND NOT s.plain)::int
        FROM fallen f
        WHERE s.workflow_id = f.run AND s.ord = f.ord AND s.state = 0
        RETURNING s.workflow_id, s.state, s.due, s.job_id
    ), released AS (
        UPDATE jobs j SET state = 2, run_at = moment, changed_at = moment
        FROM lowered l
        WHERE l.state = 1 AND j.id = l.job_id AND j.state + 0 = 0
        RETURNING j.id
    )
    SELECT 1::smallint, r.id FROM released r
    UNION ALL SELECT DISTINCT 2::smallint, l.workflow_id FROM lowered l WHERE l.due > 0;
END $$;

-- Notes the end of jobs on their steps, each job once, by the transaction that ends it. A success of a step's one job
-- ends the step; anything else is for the next advance to look at.
CREATE FUNCTION windlass_jobs_ended(runs UUID[], ords INTEGER[], good BOOLEAN[])
RETURNS TABLE (noted SMALLINT, subject UUID)
LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    moment     BIGINT;
    due_runs   UUID[];
    ended_runs UUID[];
    ended_ords INTEGER[];
BEGIN
    PERFORM 1 FROM workflows w WHERE w.id = ANY(runs) ORDER BY w.id FOR NO KEY UPDATE;
    moment := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    WITH ended AS MATERIALIZED (
        SELECT e.run, e.ord, count(*)::int AS n, count(*) FILTER (WHERE NOT e.good)::int AS bad
        FROM unnest(runs, ords, good) AS e(run, ord, good)
        GROUP BY 1, 2
    ), stepped AS (
        UPDATE workflow_steps s SET
            items_open = s.items_open - e.n, items_failed = s.items_failed + e.bad,
            state = CASE WHEN s.many OR e.bad > 0 THEN 1 ELSE 10 END,
            finished_at = CASE WHEN s.many OR e.bad > 0 THEN NULL ELSE moment END,
            due = s.due + CASE WHEN s.many THEN (e.bad > 0 OR s.paced OR s.items_open = e.n)::int
                ELSE e.bad END
        FROM ended e
        WHERE s.workflow_id = e.run AND s.ord = e.ord AND s.state = 1
        RETURNING s.workflow_id, s.ord, s.state, s.due
    )
    SELECT array_agg(DISTINCT s.workflow_id) FILTER (WHERE s.due > 0),
        array_agg(s.workflow_id) FILTER (WHERE s.state = 10), array_agg(s.ord) FILTER (WHERE s.state = 10)
    INTO due_runs, ended_runs, ended_ords FROM stepped s;
    RETURN QUERY SELECT 2::smallint, r FROM unnest(due_runs) AS r;
    IF ended_runs IS NOT NULL THEN
        RETURN QUERY SELECT e.noted, e.subject FROM windlass_steps_ended(ended_runs, ended_ords) AS e;
    END IF;
END $$;
