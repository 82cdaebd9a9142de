-- Load checks and what they leave behind. shared/src/ledger/load_checks.rs says what the columns mean.

CREATE TABLE load_checks (
    id         UUID NOT NULL PRIMARY KEY,          -- of the job in the namespace `system` that carries it out
    run        BIGINT NOT NULL,                      -- fence of the attempt that has it, or had it last
    started_at BIGINT NOT NULL,                      -- of that attempt; ledger time, as is ended_at
    ended_at   BIGINT,
    restarts   INTEGER NOT NULL DEFAULT 0,        -- times that it was given back, and began anew
    state      SMALLINT NOT NULL,                    -- CheckState
    given_back BOOLEAN NOT NULL DEFAULT false,
    namespace  TEXT NOT NULL,                       -- its shadow: where its load runs
    plan       TEXT NOT NULL,                       -- Plan as JSON
    reasons    TEXT NOT NULL DEFAULT '[]',          -- why it did not pass
    report     TEXT                                 -- Report as JSON, once it has ended
);
-- At most one runs.
CREATE UNIQUE INDEX load_checks_running ON load_checks (state) WHERE state = 0;

-- Marks a namespace as the shadow of a check. Nothing is ever removed of a namespace without such a row.
CREATE TABLE load_check_shadows (
    namespace  TEXT NOT NULL PRIMARY KEY,
    check_id   UUID NOT NULL,
    ids_from   BIGINT NOT NULL,                      -- milliseconds between which its jobs' ids were drawn
    ids_until  BIGINT NOT NULL,
    made_at    BIGINT NOT NULL,
    cleaned_at BIGINT                                -- NULL: something of it may be left
);
CREATE INDEX load_check_shadows_unclean ON load_check_shadows (made_at) WHERE cleaned_at IS NULL;
