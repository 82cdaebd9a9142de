-- What namespaces may bring in; those that may bring in what they like have no row. shared/src/ledger/quotas.rs says what
-- is reckoned with.
CREATE TABLE quotas (
    namespace  TEXT   NOT NULL PRIMARY KEY,
    settings   TEXT   NOT NULL,                    -- Quotas as JSON
    changed_at BIGINT NOT NULL,                    -- ledger time
    changed_by TEXT   NOT NULL,                    -- a key's name, or `local`
    tat_ns     BIGINT NOT NULL DEFAULT 0,          -- when the rate has recovered from all that was let in; ns since 1970
    jobs       BIGINT NOT NULL DEFAULT 0,          -- not finished, when they were counted last
    bytes      BIGINT NOT NULL DEFAULT 0,          -- of their payloads
    jobs_in    BIGINT NOT NULL DEFAULT 0,          -- let in since
    bytes_in   BIGINT NOT NULL DEFAULT 0,
    counts     BIGINT NOT NULL DEFAULT 0,          -- how often they were counted: of two counts at once one holds
    counted_at BIGINT,                             -- ledger time
    count_us   BIGINT NOT NULL DEFAULT 0           -- how long that took
);
