-- What an installation was given once: an operator who deletes or changes it is not overruled.
CREATE TABLE defaults (
    name    TEXT    NOT NULL PRIMARY KEY,
    made_at INTEGER NOT NULL                       -- ledger time
) STRICT, WITHOUT ROWID;

-- When something of the installation's upkeep happened last.
CREATE TABLE upkeep (
    name TEXT    NOT NULL PRIMARY KEY,             -- Upkeep
    at   INTEGER NOT NULL                          -- ledger time
) STRICT, WITHOUT ROWID;

-- Backups that the installation's jobs made or met in the store. shared/src/ledger/backups.rs says what is kept.
CREATE TABLE backups (
    id          BLOB    NOT NULL PRIMARY KEY,
    at          INTEGER NOT NULL,                  -- the instant of the ledger that it holds
    made_at     INTEGER NOT NULL,                  -- when it was complete
    rows        INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,                  -- of all parts
    encrypted   INTEGER NOT NULL,
    drilled_at  INTEGER,                           -- its latest drill began
    verified_at INTEGER,                           -- the latest that passed began; the next two are of that one
    rto_ms      INTEGER,
    rpo_ms      INTEGER,
    drill_error TEXT                               -- why the latest did not pass
) STRICT, WITHOUT ROWID;
