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
