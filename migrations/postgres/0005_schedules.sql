-- Schedules, and a row for every time at which one was due. shared/src/ledger/schedules.rs says what the columns mean.

CREATE TABLE schedules (
    id         UUID    NOT NULL PRIMARY KEY,       -- one of the same name made later has another
    version    BIGINT  NOT NULL,                   -- rises with every change; a decision names the one that it saw
    cursor_at  BIGINT  NOT NULL,                   -- every due time up to here has its row
    look_at    BIGINT,                             -- when there is something to decide; NULL: when something changes
    fires_from BIGINT  NOT NULL DEFAULT 0,          -- rows of fires with an earlier due time may be gone
    created_at BIGINT  NOT NULL,
    changed_at BIGINT  NOT NULL,                   -- latest change by a caller
    failures   INTEGER NOT NULL DEFAULT 0,         -- in a row
    namespace  TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    spec       TEXT    NOT NULL,                   -- ScheduleSpec as JSON
    paused     TEXT,                               -- Paused as JSON
    UNIQUE (namespace, name)
);
CREATE INDEX schedules_look ON schedules (look_at) WHERE look_at IS NOT NULL;

-- The key is what makes a fire happen once, whoever tries: its work is submitted in the transaction that makes its row.
CREATE TABLE fires (
    schedule_id UUID     NOT NULL,
    due         BIGINT   NOT NULL,
    decided_at  BIGINT   NOT NULL,                 -- ledger time
    late        BIGINT   NOT NULL,                 -- microseconds between the planned time and decided_at
    source      SMALLINT NOT NULL,                 -- FireSource
    outcome     SMALLINT NOT NULL,                 -- FireOutcome
    result      SMALLINT,                          -- FireResult, once the work has ended
    job_id      UUID,                              -- of a fired one exactly one of these two
    workflow_id UUID,
    namespace   TEXT     NOT NULL,
    reason      TEXT,
    detail      TEXT,                              -- the reason in words, where there are any
    PRIMARY KEY (schedule_id, due)
);
-- Those whose end is not noted yet, and those that wait for their turn.
CREATE INDEX fires_open ON fires (schedule_id, due) WHERE outcome = 1 AND result IS NULL;
CREATE INDEX fires_waiting ON fires (schedule_id, due) WHERE outcome = 0;
CREATE INDEX fires_decided_at ON fires (decided_at);
