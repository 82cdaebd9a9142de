-- Submissions that are shaped before they are jobs (shared/src/model/shaping.rs).

-- Series that are open, at most one of a key. The job that stands for one is blocked; the row goes in the transaction that
-- shuts the series and makes the job ready.
CREATE TABLE series (
    namespace TEXT     NOT NULL,
    queue     TEXT     NOT NULL,
    kind      TEXT     NOT NULL,
    sort      SMALLINT NOT NULL,                   -- 1 debounced, 2 collecting
    key       TEXT     NOT NULL,
    job_id    UUID     NOT NULL,
    opened_at BIGINT   NOT NULL,
    shuts_at  BIGINT   NOT NULL,
    latest_at BIGINT   NOT NULL,
    items     INTEGER  NOT NULL,
    items_max INTEGER  NOT NULL,
    bytes     BIGINT   NOT NULL,                   -- of the payload that the items make
    bytes_max BIGINT   NOT NULL,
    PRIMARY KEY (namespace, queue, kind, sort, key)
);
CREATE INDEX series_shuts_at ON series (shuts_at);
CREATE INDEX series_job_id ON series (job_id);

-- What collecting jobs have so far; gone once it is their payload. `id` was drawn by the submitter.
CREATE TABLE series_items (
    job_id    UUID    NOT NULL,
    item      INTEGER NOT NULL,
    id        UUID    NOT NULL,
    namespace TEXT    NOT NULL,
    payload   BYTEA   NOT NULL,
    PRIMARY KEY (job_id, item)
);

-- When a key would have used up nothing of its rate (GCRA: the theoretical arrival time), and the last job that got
-- through. A row whose time has passed says nothing any more.
CREATE TABLE throttles (
    namespace TEXT   NOT NULL,
    queue     TEXT   NOT NULL,
    key       TEXT   NOT NULL,
    free_at   BIGINT NOT NULL,
    job_id    UUID   NOT NULL,
    PRIMARY KEY (namespace, queue, key)
);
CREATE INDEX throttles_free_at ON throttles (free_at);
