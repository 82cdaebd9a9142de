-- What housekeeping needs: queues in pages, word of new queues, operations that are known to be stuck, and a
-- drop of partitions that cannot deadlock with submissions.

-- Pages of queues by name, in the order of bytes whatever the database's collation is.
CREATE INDEX queues_by_name ON queues (namespace COLLATE "C", name COLLATE "C");

-- Ledger time of the latest report of progress. NULL: last written by a build that did not note it.
ALTER TABLE operations ADD COLUMN changed_at BIGINT;

-- A new queue is told to who listens, so that its first outcome need not wait for the next look at the table.
-- Only a hint: listeners also look.
CREATE FUNCTION windlass_tell_queue() RETURNS TRIGGER
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('windlass_queues', NEW.namespace || '/' || NEW.name);
    RETURN NULL;
END $$;
CREATE TRIGGER queues_told AFTER INSERT ON queues FOR EACH ROW EXECUTE FUNCTION windlass_tell_queue();

-- Drops at most `most` partitions of days before `before` that hold no row any more; how many. The parent is
-- locked before the child, which is the order of submissions, and not waited for long: everything that comes
-- behind a waiting lock on `jobs` waits with it. Fails with 55P03 when the parent is busy; ask again later.
CREATE OR REPLACE FUNCTION windlass_drop_empty_partitions(before DATE, most INTEGER) RETURNS INTEGER
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '200ms' AS $$
DECLARE
    name    TEXT;
    used    BOOLEAN;
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
        LOCK TABLE ONLY jobs IN ACCESS EXCLUSIVE MODE;
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', name);
        EXECUTE format('SELECT EXISTS (SELECT FROM %I)', name) INTO used;
        CONTINUE WHEN used;
        EXECUTE format('DROP TABLE %I', name);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;
