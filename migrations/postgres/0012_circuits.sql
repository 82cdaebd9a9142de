-- Circuits that jobs were accepted with, or that somebody has set. shared/src/ledger/circuits.rs says what is kept.
CREATE TABLE circuits (
    namespace TEXT COLLATE "C" NOT NULL,
    name      TEXT COLLATE "C" NOT NULL,
    settings  TEXT   NOT NULL DEFAULT '{}',        -- CircuitSettings as JSON
    version   BIGINT NOT NULL DEFAULT 0,           -- rises with every change; 0: nobody has changed anything
    noted_at  BIGINT NOT NULL,                     -- ledger time
    PRIMARY KEY (namespace, name)
);

-- What queues carry to their shards.
CREATE INDEX circuits_changed ON circuits (namespace) WHERE version > 0;
