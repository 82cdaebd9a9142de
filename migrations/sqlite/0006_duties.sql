-- What the schedulers do by themselves, and how it went last: one row for each duty of each process. Only a view:
-- nothing is decided by it but who of the living records which shards first. shared/src/ledger/duties.rs says what the
-- columns mean.
CREATE TABLE duties (
    replica     BLOB    NOT NULL,                  -- the process, by an id drawn at its start
    duty        TEXT    NOT NULL,
    seen_at     INTEGER NOT NULL,                  -- ledger time of the write, as are the next two
    started_at  INTEGER,
    ended_at    INTEGER,
    epoch       INTEGER,                           -- of a leader
    interval_us INTEGER NOT NULL,
    longest_us  INTEGER NOT NULL,
    took_us     INTEGER NOT NULL,
    done        INTEGER NOT NULL,
    ticks       INTEGER NOT NULL,
    failures    INTEGER NOT NULL,
    batch       INTEGER NOT NULL,
    name        TEXT    NOT NULL,                  -- the process's label
    what        TEXT    NOT NULL,
    who         TEXT    NOT NULL,
    outcome     TEXT    NOT NULL,
    error       TEXT,
    PRIMARY KEY (replica, duty)
) STRICT, WITHOUT ROWID;
