-- Submissions that are shaped before they are jobs: the tables and words of ../postgres/0013_shaping.sql.

CREATE TABLE series (
    namespace TEXT    NOT NULL,
    queue     TEXT    NOT NULL,
    kind      TEXT    NOT NULL,
    sort      INTEGER NOT NULL,                    -- 1 debounced, 2 collecting
    key       TEXT    NOT NULL,
    job_id    BLOB    NOT NULL,
    opened_at INTEGER NOT NULL,
    shuts_at  INTEGER NOT NULL,
    latest_at INTEGER NOT NULL,
    items     INTEGER NOT NULL,
    items_max INTEGER NOT NULL,
    bytes     INTEGER NOT NULL,                    -- of the payload that the items make
    bytes_max INTEGER NOT NULL,
    PRIMARY KEY (namespace, queue, kind, sort, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX series_shuts_at ON series (shuts_at);
CREATE INDEX series_job_id ON series (job_id);

-- With a rowid: its rows may be wide.
CREATE TABLE series_items (
    job_id    BLOB    NOT NULL,
    item      INTEGER NOT NULL,
    id        BLOB    NOT NULL,
    namespace TEXT    NOT NULL,
    payload   BLOB    NOT NULL,
    PRIMARY KEY (job_id, item)
) STRICT;

CREATE TABLE throttles (
    namespace TEXT    NOT NULL,
    queue     TEXT    NOT NULL,
    key       TEXT    NOT NULL,
    free_at   INTEGER NOT NULL,
    job_id    BLOB    NOT NULL,
    PRIMARY KEY (namespace, queue, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX throttles_free_at ON throttles (free_at);
