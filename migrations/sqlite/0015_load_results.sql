-- Results of load tests. shared/src/ledger/load_results.rs says what the columns mean.

CREATE TABLE load_results (
    id       BLOB    NOT NULL PRIMARY KEY,
    profile  TEXT    NOT NULL,
    machine  TEXT    NOT NULL,                       -- where the load was made
    passed   INTEGER NOT NULL,
    began_at INTEGER NOT NULL,                       -- by the clock of that machine
    result   TEXT    NOT NULL                        -- LoadResult as JSON
) STRICT;
CREATE INDEX load_results_by_profile ON load_results (profile, machine, id);
