-- What overwatch found, and what was told to whom. shared/src/ledger/alerts.rs says what the columns mean. Only the leader
-- writes here, under its epoch.

CREATE TABLE alerts (
    id        BLOB    NOT NULL PRIMARY KEY,
    ended_at  INTEGER,                             -- ledger time
    state     INTEGER NOT NULL,                   -- AlertState
    code      TEXT    NOT NULL,
    namespace TEXT    NOT NULL,                   -- '': of the whole installation
    subject   TEXT    NOT NULL,
    body      TEXT    NOT NULL                     -- Alert as JSON
) STRICT;
-- One live alert of a subject, whoever looks.
CREATE UNIQUE INDEX alerts_live ON alerts (code, namespace, subject) WHERE state < 2;
CREATE INDEX alerts_ended_at ON alerts (ended_at) WHERE state = 2;

-- The latest look; no row before the first.
CREATE TABLE overwatch (
    one       INTEGER PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    epoch     INTEGER  NOT NULL,                    -- of the leader that looked
    judged_at INTEGER  NOT NULL,                    -- ledger time
    summary   TEXT    NOT NULL                     -- Summary as JSON
) STRICT;

CREATE TABLE receivers (
    seen_at INTEGER NOT NULL,                     -- ledger time at which it was in a leader's settings, to the hour
    name    TEXT    NOT NULL PRIMARY KEY,
    body    TEXT    NOT NULL                      -- Receiver as JSON
) STRICT;

-- What a receiver was told of an alert last.
CREATE TABLE alert_told (
    told_at  INTEGER NOT NULL,                    -- ledger time
    alert_id BLOB    NOT NULL,
    stage    INTEGER NOT NULL,                    -- Stage
    severity INTEGER NOT NULL,
    receiver TEXT    NOT NULL,
    PRIMARY KEY (receiver, alert_id)
) STRICT;

-- Of jobs whose end is counted in the row: how many, how many are dead or quarantined, and their times.
ALTER TABLE rollups ADD COLUMN ended    INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollups ADD COLUMN dead     INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollups ADD COLUMN wait_ms  INTEGER NOT NULL DEFAULT 0; -- from being due to the last claim
ALTER TABLE rollups ADD COLUMN total_ms INTEGER NOT NULL DEFAULT 0; -- from acceptance to the end
