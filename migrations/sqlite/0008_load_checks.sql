-- Load checks and what they leave behind. shared/src/ledger/load_checks.rs says what the columns mean.

CREATE TABLE load_checks (
    id         BLOB NOT NULL PRIMARY KEY,          -- of the job in the namespace `system` that carries it out
    run        INTEGER NOT NULL,                      -- fence of the attempt that has it, or had it last
    started_at INTEGER NOT NULL,                      -- of that attempt; ledger time, as is ended_at
    ended_at   INTEGER,
    restarts   INTEGER NOT NULL DEFAULT 0,        -- times that it was given back, and began anew
    state      INTEGER NOT NULL,                    -- CheckState
    given_back INTEGER NOT NULL DEFAULT 0,
    namespace  TEXT NOT NULL,                       -- its shadow: where its load runs
    plan       TEXT NOT NULL,                       -- Plan as JSON
    reasons    TEXT NOT NULL DEFAULT '[]',          -- why it did not pass
    report     TEXT                                 -- Report as JSON, once it has ended
) STRICT;
-- At most one runs.
CREATE UNIQUE INDEX load_checks_running ON load_checks (state) WHERE state = 0;

-- Marks a namespace as the shadow of a check. Nothing is ever removed of a namespace without such a row.
CREATE TABLE load_check_shadows (
    namespace  TEXT NOT NULL PRIMARY KEY,
    check_id   BLOB NOT NULL,
    ids_from   INTEGER NOT NULL,                      -- milliseconds between which its jobs' ids were drawn
    ids_until  INTEGER NOT NULL,
    made_at    INTEGER NOT NULL,
    cleaned_at INTEGER                                -- NULL: something of it may be left
) STRICT;
CREATE INDEX load_check_shadows_unclean ON load_check_shadows (made_at) WHERE cleaned_at IS NULL;
