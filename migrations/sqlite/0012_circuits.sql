-- Circuits that jobs were accepted with, or that somebody has set. shared/src/ledger/circuits.rs says what is kept.
CREATE TABLE circuits (
    namespace TEXT    NOT NULL,
    name      TEXT    NOT NULL,
    settings  TEXT    NOT NULL DEFAULT '{}',       -- CircuitSettings as JSON
    version   INTEGER NOT NULL DEFAULT 0,          -- rises with every change; 0: nobody has changed anything
    noted_at  INTEGER NOT NULL,                    -- ledger time
    PRIMARY KEY (namespace, name)
) STRICT, WITHOUT ROWID;

-- What queues carry to their shards.
CREATE INDEX circuits_changed ON circuits (namespace) WHERE version > 0;
