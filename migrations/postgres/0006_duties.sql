-- What the schedulers do by themselves, and how it went last: one row for each duty of each process. Only a view:
-- nothing is decided by it but who of the living records which shards first. shared/src/ledger/duties.rs says what the
-- columns mean.
CREATE TABLE duties (
    replica     UUID     NOT NULL,                 -- the process, by an id drawn at its start
    duty        TEXT     NOT NULL,
    seen_at     BIGINT   NOT NULL,                 -- ledger time of the write, as are the next two
    started_at  BIGINT,
    ended_at    BIGINT,
    epoch       BIGINT,                            -- of a leader
    interval_us BIGINT   NOT NULL,
    longest_us  BIGINT   NOT NULL,
    took_us     BIGINT   NOT NULL,
    done        BIGINT   NOT NULL,
    ticks       BIGINT   NOT NULL,
    failures    BIGINT   NOT NULL,
    batch       INTEGER  NOT NULL,
    name        TEXT     NOT NULL,                 -- the process's label
    what        TEXT     NOT NULL,
    who         TEXT     NOT NULL,
    outcome     TEXT     NOT NULL,
    error       TEXT,
    PRIMARY KEY (replica, duty)
) WITH (fillfactor = 50);                          -- room for updates in place
