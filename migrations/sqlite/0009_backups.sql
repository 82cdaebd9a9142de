-- What an installation was given once: an operator who deletes or changes it is not overruled.
CREATE TABLE defaults (
    name    TEXT    NOT NULL PRIMARY KEY,
    made_at INTEGER NOT NULL                       -- ledger time
) STRICT, WITHOUT ROWID;
