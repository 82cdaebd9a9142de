-- What overwatch found, and what was told to whom. shared/src/ledger/alerts.rs says what the columns mean. Only the leader
-- writes here, under its epoch.

CREATE TABLE alerts (
    id        UUID     NOT NULL PRIMARY KEY,
    ended_at  BIGINT,                              -- ledger time
    state     SMALLINT NOT NULL,                   -- AlertState
    code      TEXT     NOT NULL,
    namespace TEXT     NOT NULL,                   -- '': of the whole installation
    subject   TEXT     NOT NULL,
    body      TEXT     NOT NULL                    -- Alert as JSON
);
-- One live alert of a subject, whoever looks.
CREATE UNIQUE INDEX alerts_live ON alerts (code, namespace, subject) WHERE state < 2;
CREATE INDEX alerts_ended_at ON alerts (ended_at) WHERE state = 2;

-- The latest look; no row before the first.
CREATE TABLE overwatch (
    one       BOOLEAN PRIMARY KEY DEFAULT true CHECK (one),
    epoch     BIGINT  NOT NULL,                    -- of the leader that looked
    judged_at BIGINT  NOT NULL,                    -- ledger time
    summary   TEXT    NOT NULL                     -- Summary as JSON
);

CREATE TABLE receivers (
    seen_at BIGINT NOT NULL,                      -- ledger time at which it was in a leader's settings, to the hour
    name    TEXT   NOT NULL PRIMARY KEY,
    body    TEXT   NOT NULL                       -- Receiver as JSON
);

-- What a receiver was told of an alert last.
CREATE TABLE alert_told (
    told_at  BIGINT   NOT NULL,                    -- ledger time
    alert_id UUID     NOT NULL,
    stage    SMALLINT NOT NULL,                    -- Stage
    severity SMALLINT NOT NULL,
    receiver TEXT     NOT NULL,
    PRIMARY KEY (receiver, alert_id)
);

-- Of jobs whose end is counted in the row: how many, how many are dead or quarantined, and their times.
ALTER TABLE rollups ADD COLUMN ended    BIGINT NOT NULL DEFAULT 0;
ALTER TABLE rollups ADD COLUMN dead     BIGINT NOT NULL DEFAULT 0;
ALTER TABLE rollups ADD COLUMN wait_ms  BIGINT NOT NULL DEFAULT 0; -- from being due to the last claim
ALTER TABLE rollups ADD COLUMN total_ms BIGINT NOT NULL DEFAULT 0; -- from acceptance to the end
