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

-- Backups that the installation's jobs made or met in the store. shared/src/ledger/backups.rs says what is kept.
CREATE TABLE backups (
    id          UUID    NOT NULL PRIMARY KEY,
    at          BIGINT  NOT NULL,                  -- the instant of the ledger that it holds
    made_at     BIGINT  NOT NULL,                  -- when it was complete
    rows        BIGINT  NOT NULL,
    bytes       BIGINT  NOT NULL,                  -- of all parts
    encrypted   BOOLEAN NOT NULL,
    drilled_at  BIGINT,                            -- its latest drill began
    verified_at BIGINT,                            -- the latest that passed began; the next two are of that one
    rto_ms      BIGINT,
    rpo_ms      BIGINT,
    drill_error TEXT                               -- why the latest did not pass
);

-- Transactions of others that hold a lock on `jobs`.
CREATE FUNCTION windlass_holders_of_jobs() RETURNS TEXT[]
LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
    SELECT coalesce(array_agg(virtualtransaction), '{}') FROM pg_locks
    WHERE locktype = 'relation' AND relation = 'jobs'::regclass AND granted AND pid IS DISTINCT FROM pg_backend_pid()
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
$$;

-- As before, but for who is waited for. Whoever holds `jobs` for long, as `pg_dump` does to the end of a backup, is not:
-- behind a lock that waits, every claim and submission waits too. So holders are looked at twice, and the lock is asked for
-- only where those of the first look have gone meanwhile. (Not waiting at all would never succeed on a busy table.)
CREATE OR REPLACE FUNCTION windlass_drop_empty_partitions(before DATE, most INTEGER) RETURNS INTEGER
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '200ms' AS $$
DECLARE
    name    TEXT;
    used    BOOLEAN;
    holders TEXT[];
    dropped INTEGER := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('windlass_ensure_partitions')) THEN
        RETURN 0;
    END IF;
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'jobs'::regclass AND c.relname ~ '^jobs_[0-9]{8}$'
          AND c.relname < 'jobs_' || to_char(least(before, (clock_timestamp() AT TIME ZONE 'UTC')::date - 1), 'YYYYMMDD')
        ORDER BY c.relname
    LOOP
        EXIT WHEN dropped >= most;
        -- Looked at without the locks first: a day in use is the common case.
        EXECUTE format('SELECT EXISTS (SELECT FROM %I)', name) INTO used;
        CONTINUE WHEN used;
        IF holders IS NULL THEN
            holders := windlass_holders_of_jobs();
            PERFORM pg_sleep(0.2);
            EXIT WHEN holders && windlass_holders_of_jobs();
        END IF;
        LOCK TABLE ONLY jobs IN ACCESS EXCLUSIVE MODE;
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', name);
        EXECUTE format('SELECT EXISTS (SELECT FROM %I)', name) INTO used;
        CONTINUE WHEN used;
        EXECUTE format('DROP TABLE %I', name);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;

-- The timeline of the server when the ledger was adopted after a recovery of its files; NULL: it never was.
ALTER TABLE meta ADD COLUMN adopted_timeline INTEGER;
