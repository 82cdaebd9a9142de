-- Workflows on SQLite: the tables and words of ../postgres/0003_workflows.sql; what differs is as in 0001, and:
--
-- * A row is written anew as a whole, so what a step is made of is kept apart from what it does: the end of a wide
--   run has thousands of needs, and each step that ends lowers its `needs_left`.

ALTER TABLE jobs ADD COLUMN workflow_ord INTEGER;
ALTER TABLE jobs ADD COLUMN workflow_item INTEGER;
CREATE INDEX jobs_by_workflow ON jobs (workflow_id, id) WHERE workflow_id IS NOT NULL;

-- Blocked jobs are not a queue's business.
DROP INDEX jobs_live;
CREATE INDEX jobs_live ON jobs (namespace, queue, id, run_at, changed_at) WHERE state > 0 AND state < 10;

CREATE TABLE workflows (
    id                 BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    version            INTEGER NOT NULL DEFAULT 0,
    created_at         INTEGER NOT NULL,
    began_at           INTEGER NOT NULL,      -- accepted, or made to go on, at
    changed_at         INTEGER NOT NULL,
    finished_at        INTEGER,
    deadline           INTEGER,
    steps              INTEGER NOT NULL,
    parent_ord         INTEGER,
    parent_item        INTEGER,
    definition_version INTEGER,
    state              INTEGER NOT NULL,
    ending             INTEGER,
    depth              INTEGER NOT NULL DEFAULT 0,
    namespace          TEXT    NOT NULL,
    name               TEXT    NOT NULL,
    parent_id          BLOB,
    rerun_of           BLOB,
    definition         TEXT,
    document           TEXT,
    options            TEXT    NOT NULL,
    input              BLOB,
    input_blob         BLOB,
    output             BLOB,
    output_blob        BLOB,
    error_code         TEXT,
    error_message      TEXT,
    tags               TEXT,
    request_id         TEXT,
    traceparent        TEXT
) STRICT;
CREATE INDEX workflows_by_namespace ON workflows (namespace, id);
CREATE INDEX workflows_deadline ON workflows (deadline) WHERE deadline IS NOT NULL AND state < 10;
CREATE INDEX workflows_finished ON workflows (finished_at) WHERE state >= 10;
CREATE INDEX workflows_parent ON workflows (parent_id, parent_ord, id) WHERE parent_id IS NOT NULL;
CREATE INDEX workflows_input_blob ON workflows (input_blob) WHERE input_blob IS NOT NULL;
CREATE INDEX workflows_output_blob ON workflows (output_blob) WHERE output_blob IS NOT NULL;

CREATE TABLE workflow_steps (
    workflow_id   BLOB    NOT NULL,
    ord           INTEGER NOT NULL,
    due           INTEGER NOT NULL DEFAULT 0,
    wake_at       INTEGER,
    started_at    INTEGER,
    finished_at   INTEGER,
    needs_left    INTEGER NOT NULL,
    items_total   INTEGER NOT NULL DEFAULT 1,
    items_made    INTEGER NOT NULL DEFAULT 1,
    items_open    INTEGER NOT NULL DEFAULT 1,
    items_failed  INTEGER NOT NULL DEFAULT 0,
    state         INTEGER NOT NULL,
    plain         INTEGER NOT NULL,
    many          INTEGER NOT NULL,
    paced         INTEGER NOT NULL DEFAULT 0,
    job_id        BLOB,
    namespace     TEXT    NOT NULL,
    step          TEXT    NOT NULL,
    output        BLOB,
    error_code    TEXT,
    error_message TEXT,
    PRIMARY KEY (workflow_id, ord)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX workflow_steps_by_id ON workflow_steps (workflow_id, step);
CREATE INDEX workflow_steps_due ON workflow_steps (workflow_id) WHERE due > 0;
CREATE INDEX workflow_steps_wake ON workflow_steps (wake_at) WHERE wake_at IS NOT NULL;

-- What a step is made of.
CREATE TABLE workflow_plans (
    row         INTEGER PRIMARY KEY,
    workflow_id BLOB    NOT NULL,
    ord         INTEGER NOT NULL,
    needs       TEXT    NOT NULL,             -- JSON arrays of positions
    dependents  TEXT    NOT NULL,
    spec        TEXT    NOT NULL,
    items       BLOB,
    UNIQUE (workflow_id, ord)
) STRICT;

CREATE TABLE workflow_items (
    workflow_id BLOB    NOT NULL,
    ord         INTEGER NOT NULL,
    item        INTEGER NOT NULL,
    job_id      BLOB    NOT NULL,
    PRIMARY KEY (workflow_id, ord, item)
) STRICT, WITHOUT ROWID;

CREATE TABLE workflow_signals (
    seq         INTEGER PRIMARY KEY,
    workflow_id BLOB    NOT NULL,
    at          INTEGER NOT NULL,
    namespace   TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    by          TEXT    NOT NULL,
    role        TEXT,
    approved    INTEGER,
    reason      TEXT,
    body        BLOB,
    taken       INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX workflow_signals_of ON workflow_signals (workflow_id, seq);

CREATE TABLE definitions (
    namespace  TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    by         TEXT    NOT NULL,
    document   TEXT    NOT NULL,
    source     TEXT    NOT NULL,
    PRIMARY KEY (namespace, name, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoints (
    job_id    BLOB    NOT NULL PRIMARY KEY,
    namespace TEXT    NOT NULL,
    fence     INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    data      BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
