-- Who leads the schedulers, and how often each shard of the engine was verified. shared/src/ledger/gate_calls.rs
-- says what the columns mean.

-- The latest leader; no row before the first. The row stays when a term is over: epochs only rise.
CREATE TABLE leader (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    epoch      INTEGER NOT NULL,                   -- rises whenever the lead is taken
    expires_at INTEGER NOT NULL,                   -- ledger time
    holder     BLOB    NOT NULL,
    name       TEXT    NOT NULL
) STRICT;

-- A shard that is absent was never opened: generation 0. Rows are never deleted, or a shard of which leases were
-- given would pass for a new one.
CREATE TABLE shards (
    namespace  TEXT    NOT NULL,
    queue      TEXT    NOT NULL,
    shard      INTEGER NOT NULL,
    generation INTEGER NOT NULL CHECK (generation > 0),
    changed_at INTEGER NOT NULL,                   -- ledger time
    process    TEXT,                               -- 40 hexadecimal digits; NULL: being verified
    PRIMARY KEY (namespace, queue, shard)
) STRICT, WITHOUT ROWID;

-- Jobs of these queues may have been leased by a build that knew no gates, so none of them counts as new.
INSERT INTO shards (namespace, queue, shard, generation, changed_at)
SELECT namespace, name, 0, 1, CAST(unixepoch('subsec') * 1000000 AS INTEGER) FROM queues;
