-- The ledger's core tables.
--
-- Conventions. Times are BIGINT microseconds since 1970 (UTC). States and outcomes are SMALLINT with the
-- numbers of shared/src/model/job.rs; 10 and above is terminal. The caller's JSON (payload, output, meta) is
-- BYTEA, as it came; nothing here parses it. Every table has the namespace, and so has every unique
-- constraint whose columns are not globally unique ids.

-- What this ledger is. A restored or cloned ledger is given another id.
CREATE TABLE meta (
    one        BOOLEAN PRIMARY KEY DEFAULT true CHECK (one),
    ledger_id  UUID   NOT NULL DEFAULT gen_random_uuid(),
    created_at BIGINT NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
);
INSERT INTO meta DEFAULT VALUES;

-- One row per job. Ids are UUIDv7, so a range of ids is a range of time: one partition a day.
CREATE TABLE jobs (
    id               UUID     NOT NULL,
    fence            BIGINT   NOT NULL,            -- highest recorded, or granted to a redrive
    run_at           BIGINT   NOT NULL,
    created_at       BIGINT   NOT NULL,            -- ledger time
    changed_at       BIGINT   NOT NULL,            -- ledger time of the latest change of state
    started_at       BIGINT,                       -- engine time, as are finished_at and expires_at
    finished_at      BIGINT,
    expires_at       BIGINT,
    attempt          INTEGER  NOT NULL DEFAULT 0,
    crashes          INTEGER  NOT NULL DEFAULT 0,
    state            SMALLINT NOT NULL,
    priority         SMALLINT NOT NULL,
    cancel_requested BOOLEAN  NOT NULL DEFAULT false,
    error_retryable  BOOLEAN,                      -- with error_code and error_message, or none of the three
    namespace        TEXT     NOT NULL,
    queue            TEXT     NOT NULL,
    kind             TEXT     NOT NULL,
    spec             TEXT     NOT NULL,            -- JobSpec as JSON
    payload          BYTEA,                        -- exactly one of payload and payload_blob
    payload_blob     UUID,
    output           BYTEA,                        -- at most one of output and output_blob
    output_blob      UUID,
    error_code       TEXT,
    error_message    TEXT,
    worker           TEXT,
    tags             TEXT[]   NOT NULL DEFAULT '{}',
    meta             BYTEA,
    unique_key       TEXT,
    unique_until     BIGINT,                       -- of a key held for a time; NULL: until terminal
    workflow_id      UUID,
    workflow_step    TEXT,
    cancel_reason    TEXT,
    usage            BYTEA,                        -- of a success at the first attempt
    request_id       TEXT,
    traceparent      TEXT,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);

-- Catches ids outside the prepared days, so that no insert can fail for want of a partition.
CREATE TABLE jobs_default PARTITION OF jobs DEFAULT;

-- What a queue still has to do, in id order. The later columns let a scan pass over jobs that are not due, or
-- changed just now, without fetching their rows. A job that ends leaves it, so it stays small.
CREATE INDEX jobs_live ON jobs (namespace, queue, id, run_at, changed_at) WHERE state < 10;

-- Makes the partitions from yesterday to `days_ahead` from today (UTC) that don't exist yet; how many. Safe to
-- repeat and to run anywhere at once. Runs as the owner, so that the role of the running processes needs no
-- DDL rights.
CREATE FUNCTION windlass_ensure_partitions(days_ahead INTEGER) RETURNS INTEGER
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    day   DATE;
    name  TEXT;
    made  INTEGER := 0;
    today DATE := (clock_timestamp() AT TIME ZONE 'UTC')::date;
BEGIN
    -- One maker at a time; the others have nothing to do.
    IF NOT pg_try_advisory_xact_lock(hashtext('windlass_ensure_partitions')) THEN
        RETURN 0;
    END IF;
    FOR day IN SELECT today + n FROM generate_series(-1, least(days_ahead, 31)) AS n LOOP
        name := 'jobs_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass(quote_ident(name)) IS NOT NULL;
        -- Attached, not created in place: that takes the weaker lock on the parent, so that submissions run on.
        BEGIN
            EXECUTE format('CREATE TABLE %I (LIKE jobs INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
            EXECUTE format('ALTER TABLE jobs ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                name, windlass_first_id(day), windlass_first_id(day + 1));
            made := made + 1;
        EXCEPTION WHEN check_violation THEN
            -- The default partition has ids of that day, and keeps that day then.
            RAISE WARNING 'partition % is not made: the default partition has its ids', name;
        END;
    END LOOP;
    RETURN made;
END $$;

-- The smallest id of a day (UTC).
CREATE FUNCTION windlass_first_id(day DATE) RETURNS UUID
LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((day - DATE '1970-01-01')::bigint * 86400000), 12, '0') || repeat('0', 20))::uuid
$$;

-- Drops at most `most` partitions of days before `before` that hold no row any more; how many.
CREATE FUNCTION windlass_drop_empty_partitions(before DATE, most INTEGER) RETURNS INTEGER
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    name    TEXT;
    used    BOOLEAN;
    dropped INTEGER := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('windlass_ensure_partitions')) THEN
        RETURN 0;
    END IF;
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'jobs'::regclass AND c.relname ~ '^jobs_[0-9]{8}$'
          AND c.relname < 'jobs_' || to_char(least(before, (clock_timestamp() AT TIME ZONE 'UTC')::date - 1), 'YYYYMMDD')
        ORDER BY c.relname
    LOOP
        EXIT WHEN dropped >= most;
        -- Looked at without a lock first: a day in use is the common case.
        EXECUTE format('SELECT EXISTS (SELECT FROM %I)', name) INTO used;
        CONTINUE WHEN used;
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', name);
        EXECUTE format('SELECT EXISTS (SELECT FROM %I)', name) INTO used;
        CONTINUE WHEN used;
        EXECUTE format('DROP TABLE %I', name);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;

SELECT windlass_ensure_partitions(3);

-- Attempts that did not succeed at once. A success at the first attempt is on the job's row alone.
CREATE TABLE attempts (
    job_id          UUID     NOT NULL,
    fence           BIGINT   NOT NULL,
    started_at      BIGINT,
    finished_at     BIGINT,
    attempt         INTEGER  NOT NULL,
    outcome         SMALLINT NOT NULL,
    error_retryable BOOLEAN,
    namespace       TEXT     NOT NULL,
    worker          TEXT,
    error_code      TEXT,
    error_message   TEXT,
    usage           BYTEA,
    PRIMARY KEY (job_id, fence)
);

-- Who holds a unique key. `until` NULL: until the holder is terminal, whose transition deletes the row; else
-- until that instant (ledger time), after which anybody may take it over.
CREATE TABLE holds (
    namespace  TEXT NOT NULL,
    queue      TEXT NOT NULL,
    unique_key TEXT NOT NULL,
    job_id     UUID NOT NULL,
    until      BIGINT,
    PRIMARY KEY (namespace, queue, unique_key)
);
CREATE INDEX holds_until ON holds (until) WHERE until IS NOT NULL;

-- What an idempotency key stands for: 16 bytes per job of the submission, in order, zero where refused.
CREATE TABLE idempotency (
    namespace  TEXT   NOT NULL,
    key        TEXT   NOT NULL,
    body_hash  BYTEA  NOT NULL,
    ids        BYTEA  NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, key)
);
CREATE INDEX idempotency_created_at ON idempotency (created_at);

CREATE TABLE queues (
    namespace  TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    settings   TEXT   NOT NULL DEFAULT '{}',       -- QueueSettings as JSON
    paused     TEXT,                               -- Paused as JSON
    version    BIGINT NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, name)
);

-- How far a job is. Apart from the job's row, which would be rewritten by every report.
CREATE TABLE job_progress (
    job_id    UUID             NOT NULL PRIMARY KEY,
    namespace TEXT             NOT NULL,
    fence     BIGINT           NOT NULL,
    percent   DOUBLE PRECISION NOT NULL,
    message   TEXT
);

CREATE TABLE job_logs (
    job_id    UUID    NOT NULL,
    seq       BIGINT  NOT NULL,
    at        BIGINT  NOT NULL,
    attempt   INTEGER NOT NULL,
    namespace TEXT    NOT NULL,
    level     TEXT    NOT NULL,
    message   TEXT    NOT NULL,
    PRIMARY KEY (job_id, seq)
);

-- Lines offered so far, kept or not: gives the lines their numbers, one appender at a time.
CREATE TABLE job_log_heads (
    job_id    UUID   NOT NULL PRIMARY KEY,
    namespace TEXT   NOT NULL,
    lines     BIGINT NOT NULL
);

CREATE TABLE workers (
    namespace   TEXT    NOT NULL,
    id          UUID    NOT NULL,
    name        TEXT    NOT NULL,
    host        TEXT    NOT NULL,
    version     TEXT    NOT NULL,
    queues      TEXT[]  NOT NULL,
    kinds       TEXT[]  NOT NULL,
    concurrency INTEGER NOT NULL,
    running     INTEGER NOT NULL,
    draining    BOOLEAN NOT NULL DEFAULT false,
    started_at  BIGINT  NOT NULL,
    seen_at     BIGINT  NOT NULL,                  -- ledger time
    PRIMARY KEY (namespace, id)
);

-- Large payloads and outputs. `refs` counts the jobs that name one; it goes with the last of them. One that no
-- job ever named goes with age.
CREATE TABLE blobs (
    namespace  TEXT    NOT NULL,
    id         UUID    NOT NULL,
    bytes      BYTEA   NOT NULL,
    refs       INTEGER NOT NULL DEFAULT 0,
    created_at BIGINT  NOT NULL,
    PRIMARY KEY (namespace, id)
);
CREATE INDEX blobs_unnamed ON blobs (created_at) WHERE refs = 0;

CREATE TABLE api_keys (
    id          UUID   NOT NULL PRIMARY KEY,
    public      TEXT   NOT NULL UNIQUE,            -- names no namespace: it is what a namespace is found by
    secret_hash BYTEA  NOT NULL,
    name        TEXT   NOT NULL,
    role        TEXT   NOT NULL,
    namespace   TEXT,                              -- NULL: everywhere
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT,
    revoked_at  BIGINT
);

CREATE TABLE operations (
    namespace   TEXT   NOT NULL,
    id          UUID   NOT NULL,
    action      TEXT   NOT NULL,
    state       TEXT   NOT NULL,
    matched     BIGINT NOT NULL,
    changed     BIGINT NOT NULL,
    error       TEXT,
    created_at  BIGINT NOT NULL,
    finished_at BIGINT,
    PRIMARY KEY (namespace, id)
);

-- Attempts that ended, by minute. Written with the outcomes, so that no page ever counts jobs.
CREATE TABLE rollups (
    namespace TEXT     NOT NULL,
    minute    BIGINT   NOT NULL,                   -- its start
    queue     TEXT     NOT NULL,
    kind      TEXT     NOT NULL,
    outcome   SMALLINT NOT NULL,
    count     BIGINT   NOT NULL,
    run_ms    BIGINT   NOT NULL,
    PRIMARY KEY (namespace, minute, queue, kind, outcome)
) WITH (fillfactor = 50);                          -- room for updates in place
CREATE INDEX rollups_minute ON rollups (minute);
