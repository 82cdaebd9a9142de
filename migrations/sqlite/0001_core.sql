-- The ledger's core tables on SQLite: the tables and words of ../postgres/0001_core.sql. What differs:
--
-- * Ids are BLOBs of 16 bytes; they compare as the UUIDs do. Lists of words are TEXT with a JSON array.
-- * `jobs` has a rowid of its own: its rows are wide, and a WITHOUT ROWID table keeps rows in inner pages too.
-- * Nothing is counted or linked by the database: every write goes through one writer, which keeps the tables
--   together. Blobs have no `refs`: who names a blob is looked up in two small indexes.

-- What this ledger is. A restored or cloned ledger is given another id.
CREATE TABLE meta (
    one        INTEGER PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    ledger_id  BLOB    NOT NULL DEFAULT (randomblob(16)),
    created_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER))
) STRICT;
INSERT INTO meta DEFAULT VALUES;

-- One row per job. Short columns first: a read stops at the last one that it needs.
CREATE TABLE jobs (
    row              INTEGER PRIMARY KEY,
    id               BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    state            INTEGER NOT NULL,
    fence            INTEGER NOT NULL,             -- highest recorded, or granted to a redrive
    namespace        TEXT    NOT NULL,
    queue            TEXT    NOT NULL,
    kind             TEXT    NOT NULL,
    unique_key       TEXT,
    unique_until     INTEGER,                      -- of a key held for a time; NULL: until terminal
    run_at           INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,             -- ledger time
    changed_at       INTEGER NOT NULL,             -- ledger time of the latest change of state
    started_at       INTEGER,                      -- engine time, as are finished_at and expires_at
    finished_at      INTEGER,
    expires_at       INTEGER,
    attempt          INTEGER NOT NULL DEFAULT 0,
    crashes          INTEGER NOT NULL DEFAULT 0,
    priority         INTEGER NOT NULL,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    error_retryable  INTEGER,                      -- with error_code and error_message, or none of the three
    error_code       TEXT,
    error_message    TEXT,
    worker           TEXT,
    workflow_id      BLOB,
    workflow_step    TEXT,
    cancel_reason    TEXT,
    tags             TEXT,                         -- NULL: none
    request_id       TEXT,
    traceparent      TEXT,
    usage            BLOB,                         -- of a success at the first attempt
    meta             BLOB,
    spec             TEXT    NOT NULL,             -- JobSpec as JSON
    payload_blob     BLOB,
    payload          BLOB,                         -- exactly one of payload and payload_blob
    output_blob      BLOB,
    output           BLOB                          -- at most one of output and output_blob
) STRICT;

-- What a queue still has to do, in id order. The later columns let a scan pass over jobs that are not due, or
-- changed just now, without fetching their rows. A job that ends leaves it, so it stays small.
CREATE INDEX jobs_live ON jobs (namespace, queue, id, run_at, changed_at) WHERE state < 10;

-- Who names a blob. Few jobs do.
CREATE INDEX jobs_payload_blob ON jobs (payload_blob) WHERE payload_blob IS NOT NULL;
CREATE INDEX jobs_output_blob ON jobs (output_blob) WHERE output_blob IS NOT NULL;

-- Attempts that did not succeed at once. A success at the first attempt is on the job's row alone.
CREATE TABLE attempts (
    job_id          BLOB    NOT NULL,
    fence           INTEGER NOT NULL,
    started_at      INTEGER,
    finished_at     INTEGER,
    attempt         INTEGER NOT NULL,
    outcome         INTEGER NOT NULL,
    error_retryable INTEGER,
    namespace       TEXT    NOT NULL,
    worker          TEXT,
    error_code      TEXT,
    error_message   TEXT,
    usage           BLOB,
    PRIMARY KEY (job_id, fence)
) STRICT, WITHOUT ROWID;

-- Who holds a unique key. `until` NULL: until the holder is terminal, whose transition deletes the row; else
-- until that instant (ledger time), after which anybody may take it over.
CREATE TABLE holds (
    namespace  TEXT NOT NULL,
    queue      TEXT NOT NULL,
    unique_key TEXT NOT NULL,
    job_id     BLOB NOT NULL,
    until      INTEGER,
    PRIMARY KEY (namespace, queue, unique_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX holds_until ON holds (until) WHERE until IS NOT NULL;

-- What an idempotency key stands for: 16 bytes per job of the submission, in order, zero where refused.
CREATE TABLE idempotency (
    namespace  TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    body_hash  BLOB    NOT NULL,
    ids        BLOB    NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_created_at ON idempotency (created_at);

CREATE TABLE queues (
    namespace  TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    settings   TEXT    NOT NULL DEFAULT '{}',      -- QueueSettings as JSON
    paused     TEXT,                               -- Paused as JSON
    version    INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
) STRICT, WITHOUT ROWID;

-- How far a job is. Apart from the job's row, which would be rewritten by every report.
CREATE TABLE job_progress (
    job_id    BLOB    NOT NULL PRIMARY KEY,
    namespace TEXT    NOT NULL,
    fence     INTEGER NOT NULL,
    percent   REAL    NOT NULL,
    message   TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE job_logs (
    job_id    BLOB    NOT NULL,
    seq       INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    attempt   INTEGER NOT NULL,
    namespace TEXT    NOT NULL,
    level     TEXT    NOT NULL,
    message   TEXT    NOT NULL,
    PRIMARY KEY (job_id, seq)
) STRICT;

-- Lines offered so far, kept or not: gives the lines their numbers.
CREATE TABLE job_log_heads (
    job_id    BLOB    NOT NULL PRIMARY KEY,
    namespace TEXT    NOT NULL,
    lines     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE workers (
    namespace   TEXT    NOT NULL,
    id          BLOB    NOT NULL,
    name        TEXT    NOT NULL,
    host        TEXT    NOT NULL,
    version     TEXT    NOT NULL,
    queues      TEXT    NOT NULL,
    kinds       TEXT    NOT NULL,
    concurrency INTEGER NOT NULL,
    running     INTEGER NOT NULL,
    draining    INTEGER NOT NULL DEFAULT 0,
    started_at  INTEGER NOT NULL,
    seen_at     INTEGER NOT NULL,                  -- ledger time
    PRIMARY KEY (namespace, id)
) STRICT, WITHOUT ROWID;

-- Large payloads and outputs. One goes with the last job that names it, or with age if no job ever did.
CREATE TABLE blobs (
    row        INTEGER PRIMARY KEY,
    namespace  TEXT    NOT NULL,
    id         BLOB    NOT NULL,
    created_at INTEGER NOT NULL,
    bytes      BLOB    NOT NULL,
    UNIQUE (namespace, id)
) STRICT;
CREATE INDEX blobs_created_at ON blobs (created_at);

CREATE TABLE api_keys (
    id          BLOB    NOT NULL PRIMARY KEY,
    public      TEXT    NOT NULL UNIQUE,           -- names no namespace: it is what a namespace is found by
    secret_hash BLOB    NOT NULL,
    name        TEXT    NOT NULL,
    role        TEXT    NOT NULL,
    namespace   TEXT,                              -- NULL: everywhere
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER,
    revoked_at  INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE operations (
    namespace   TEXT    NOT NULL,
    id          BLOB    NOT NULL,
    action      TEXT    NOT NULL,
    state       TEXT    NOT NULL,
    matched     INTEGER NOT NULL,
    changed     INTEGER NOT NULL,
    error       TEXT,
    created_at  INTEGER NOT NULL,
    finished_at INTEGER,
    PRIMARY KEY (namespace, id)
) STRICT, WITHOUT ROWID;

-- Attempts that ended, by minute. Written with the outcomes, so that no page ever counts jobs.
CREATE TABLE rollups (
    namespace TEXT    NOT NULL,
    minute    INTEGER NOT NULL,                    -- its start
    queue     TEXT    NOT NULL,
    kind      TEXT    NOT NULL,
    outcome   INTEGER NOT NULL,
    count     INTEGER NOT NULL,
    run_ms    INTEGER NOT NULL,
    PRIMARY KEY (namespace, minute, queue, kind, outcome)
) STRICT, WITHOUT ROWID;
CREATE INDEX rollups_minute ON rollups (minute);
