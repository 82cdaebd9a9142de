-- What an installation was given once: an operator who deletes or changes it is not overruled.
CREATE TABLE defaults (
    name    TEXT   NOT NULL PRIMARY KEY,
    made_at BIGINT NOT NULL                        -- ledger time
);

-- When something of the installation's upkeep happened last.
CREATE TABLE upkeep (
    name TEXT   NOT NULL PRIMARY KEY,              -- Upkeep
    at   BIGINT NOT NULL                           -- ledger time
);

-- Backups that the installation's jobs made or met in the store. shared/src/ledger/backups.rs says what is kept.
CREATE TABLE backups (
    id          UUID    NOT NULL PRIMARY KEY,
    at          BIGINT  NOT NULL,                  -- the instant of the ledger that it holds
    made_at     BIGINT  NOT NULL,                  -- when it was complete
    rows        BIGINT  NOT NULL,
    bytes       BIGINT  NOT NULL,                  -- of all parts
    encrypted   BOOLEAN NOT NULL,
    drilled_at  BIGINT,                            -- its latest drill began
    verified_at BIGINT,                            -- the latest that passed began; the next two are of that one
    rto_ms      BIGINT,
    rpo_ms      BIGINT,
    drill_error TEXT                               -- why the latest did not pass
);

-- The timeline of the server when the ledger was adopted after a recovery of its files; NULL: it never was.
ALTER TABLE meta ADD COLUMN adopted_timeline INTEGER;
