-- Workflows: runs, their steps, and stored definitions. States are the numbers of shared/src/model/workflow.rs.

-- Which step of which run a job is, and which item of a `for_each`.
ALTER TABLE jobs ADD COLUMN workflow_ord INTEGER;
ALTER TABLE jobs ADD COLUMN workflow_item INTEGER;
CREATE INDEX jobs_by_workflow ON jobs (workflow_id, id) WHERE workflow_id IS NOT NULL;

CREATE TABLE workflows (
    id                 UUID     NOT NULL PRIMARY KEY,
    version            BIGINT   NOT NULL DEFAULT 0,   -- rises with every advance, cancel and retry
    created_at         BIGINT   NOT NULL,             -- ledger time, as are the next three
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
CREATE INDEX workflow_steps_due ON workflow_steps (workflow_id) WHERE due > 0;
CREATE INDEX workflow_steps_wake ON workflow_steps (wake_at) WHERE wake_at IS NOT NULL;

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

-- Partial results of running jobs, to resume from. The latest of each job only.
CREATE TABLE checkpoints (
    job_id     UUID   NOT NULL PRIMARY KEY,
    namespace  TEXT   NOT NULL,
    fence      BIGINT NOT NULL,
    at         BIGINT NOT NULL,
    data       BYTEA  NOT NULL
);
