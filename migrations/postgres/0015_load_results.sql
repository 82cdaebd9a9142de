-- Results of load tests. shared/src/ledger/load_results.rs says what the columns mean.

CREATE TABLE load_results (
    id       UUID    NOT NULL PRIMARY KEY,
    profile  TEXT    NOT NULL,
    machine  TEXT    NOT NULL,                       -- where the load was made
    passed   BOOLEAN NOT NULL,
    began_at BIGINT  NOT NULL,                       -- by the clock of that machine
    result   TEXT    NOT NULL                        -- LoadResult as JSON
);
CREATE INDEX load_results_by_profile ON load_results (profile, machine, id);
