-- Who leads the schedulers, and how often each shard of the engine was verified. shared/src/ledger/gate_calls.rs
-- says what the columns mean.

-- The latest leader; no row before the first. The row stays when a term is over: epochs only rise.
CREATE TABLE leader (
    one        BOOLEAN PRIMARY KEY DEFAULT true CHECK (one),
    epoch      BIGINT NOT NULL,                    -- rises whenever the lead is taken
    expires_at BIGINT NOT NULL,                    -- ledger time
    holder     UUID   NOT NULL,
    name       TEXT   NOT NULL
);

-- A shard that is absent was never opened: generation 0. Rows are never deleted, or a shard of which leases were
-- given would pass for a new one.
CREATE TABLE shards (
    generation BIGINT  NOT NULL CHECK (generation > 0),
    changed_at BIGINT  NOT NULL,                   -- ledger time
    shard      INTEGER NOT NULL,
    namespace  TEXT    NOT NULL,
    queue      TEXT    NOT NULL,
    process    TEXT,                               -- 40 hexadecimal digits; NULL: being verified
    PRIMARY KEY (namespace, queue, shard)
);

-- Jobs of these queues may have been leased by a build that knew no gates, so none of them counts as new.
INSERT INTO shards (namespace, queue, shard, generation, changed_at)
SELECT namespace, name, 0, 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint FROM queues;
