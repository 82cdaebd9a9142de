-- What an installation was given once: an operator who deletes or changes it is not overruled.
CREATE TABLE defaults (
    name    TEXT   NOT NULL PRIMARY KEY,
    made_at BIGINT NOT NULL                        -- ledger time
);

-- When something of the installation's upkeep happened last.
CREATE TABLE upkeep (
    name TEXT   NOT NULL PRIMARY KEY,              -- Upkeep
    at   BIGINT NOT NULL                           -- ledger time
);
