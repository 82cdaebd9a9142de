-- Jobs in order: those of one (namespace, queue, order_key) run one at a time, in the order in which they were accepted.
--
-- The rule is kept by triggers, so that it holds on every way by which a job comes to run and by which one ends: what
-- submits, redrives, releases a step, records, cancels, expires or forgets need not know of it. Rows without an
-- `order_key` are passed over by the triggers' conditions.
--
-- A job takes its place, a number, in the transaction that would let it run, under the lock on its order. It is blocked
-- unless it is the first. It gives its place up when it succeeds, is forgotten, or ends otherwise under
-- `order_on_failure: skip`; the first of those left is released in that same transaction.

ALTER TABLE jobs ADD COLUMN order_key TEXT;

-- One row per order with jobs in it. Locked by whoever takes or gives up a place.
CREATE TABLE order_chains (
    namespace TEXT   NOT NULL,
    queue     TEXT   NOT NULL,
    order_key TEXT   NOT NULL,
    head      BIGINT NOT NULL,                     -- number of the first
    next      BIGINT NOT NULL,                     -- number of the one that comes next
    PRIMARY KEY (namespace, queue, order_key)
) WITH (fillfactor = 50);                          -- room for updates in place

CREATE TABLE order_links (
    namespace  TEXT   NOT NULL,
    queue      TEXT   NOT NULL,
    order_key  TEXT   NOT NULL,
    number     BIGINT NOT NULL,
    job_id     UUID   NOT NULL,
    expires_at BIGINT,                             -- the job's: a blocked one is not in the engine, which would see to it
    PRIMARY KEY (namespace, queue, order_key, number)
);
CREATE UNIQUE INDEX order_links_job ON order_links (job_id);
CREATE INDEX order_links_expires_at ON order_links (expires_at) WHERE expires_at IS NOT NULL;

-- A job that may run takes its place, or finds the one that it has.
CREATE FUNCTION windlass_order_enter() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    mine  BIGINT;
    first BIGINT;
BEGIN
    SELECT l.number INTO mine FROM order_links l WHERE l.job_id = NEW.id;
    IF mine IS NULL THEN
        INSERT INTO order_chains AS c (namespace, queue, order_key, head, next)
        VALUES (NEW.namespace, NEW.queue, NEW.order_key, 1, 2)
        ON CONFLICT (namespace, queue, order_key) DO UPDATE SET next = c.next + 1
        RETURNING c.next - 1, c.head INTO mine, first;
        INSERT INTO order_links (namespace, queue, order_key, number, job_id, expires_at)
        VALUES (NEW.namespace, NEW.queue, NEW.order_key, mine, NEW.id, NEW.expires_at);
    ELSE
        SELECT c.head INTO first FROM order_chains c
        WHERE c.namespace = NEW.namespace AND c.queue = NEW.queue AND c.order_key = NEW.order_key FOR UPDATE;
        UPDATE order_links l SET expires_at = NEW.expires_at
        WHERE l.job_id = NEW.id AND l.expires_at IS DISTINCT FROM NEW.expires_at;
    END IF;
    IF mine <> first THEN
        NEW.state := 0;
    END IF;
    RETURN NEW;
END $$;

-- Lets a blocked job run. One whose row somebody holds is left to them: who ends it comes for the lock on its order next,
-- and lets the one behind it run; waiting for each other, both would be undone. Should they let go of it unchanged, the
-- sweep finds it.
CREATE FUNCTION windlass_order_release(job UUID) RETURNS BOOLEAN LANGUAGE plpgsql AS $$
DECLARE
    moment BIGINT := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
BEGIN
    PERFORM FROM jobs j WHERE j.id = job AND j.state + 0 = 0 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE jobs j SET state = CASE WHEN j.run_at > moment THEN 1 ELSE 2 END, run_at = greatest(j.run_at, moment),
        changed_at = moment
    WHERE j.id = job;
    RETURN true;
END $$;

-- A job gives its place up.
CREATE FUNCTION windlass_order_leave() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    mine      BIGINT;
    following BIGINT;
    its_job   UUID;
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.state > 10 AND NEW.spec::json ->> 'order_on_failure' = 'block' THEN
        RETURN NEW;
    END IF;
    -- The lock first: every statement after it sees what was done under it before.
    PERFORM FROM order_chains c
    WHERE c.namespace = OLD.namespace AND c.queue = OLD.queue AND c.order_key = OLD.order_key FOR UPDATE;
    DELETE FROM order_links l WHERE l.job_id = OLD.id RETURNING l.number INTO mine;
    IF mine IS NULL THEN
        RETURN NEW;
    END IF;
    SELECT l.number, l.job_id INTO following, its_job FROM order_links l
    WHERE l.namespace = OLD.namespace AND l.queue = OLD.queue AND l.order_key = OLD.order_key AND l.number > mine
    ORDER BY l.number LIMIT 1;
    IF following IS NULL THEN
        DELETE FROM order_chains c WHERE c.namespace = OLD.namespace AND c.queue = OLD.queue
            AND c.order_key = OLD.order_key AND c.head = mine;
        RETURN NEW;
    END IF;
    UPDATE order_chains c SET head = following WHERE c.namespace = OLD.namespace AND c.queue = OLD.queue
        AND c.order_key = OLD.order_key AND c.head = mine;
    IF FOUND THEN
        PERFORM windlass_order_release(its_job);
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER order_enters BEFORE INSERT ON jobs FOR EACH ROW
WHEN (NEW.order_key IS NOT NULL AND NEW.state IN (1, 2)) EXECUTE FUNCTION windlass_order_enter();

-- Released, or redriven.
CREATE TRIGGER order_returns BEFORE UPDATE OF state ON jobs FOR EACH ROW
WHEN (NEW.order_key IS NOT NULL AND NEW.state IN (1, 2) AND (OLD.state = 0 OR OLD.state >= 10))
EXECUTE FUNCTION windlass_order_enter();

CREATE TRIGGER order_leaves AFTER UPDATE OF state ON jobs FOR EACH ROW
WHEN (OLD.order_key IS NOT NULL AND OLD.state < 10 AND NEW.state >= 10) EXECUTE FUNCTION windlass_order_leave();

-- Of a step that waits for its needs again. By its name it comes before `order_returns`, which blocks others.
CREATE TRIGGER order_awaits BEFORE UPDATE OF state ON jobs FOR EACH ROW
WHEN (OLD.order_key IS NOT NULL AND OLD.state >= 10 AND NEW.state = 0) EXECUTE FUNCTION windlass_order_leave();

CREATE TRIGGER order_forgets AFTER DELETE ON jobs FOR EACH ROW
WHEN (OLD.order_key IS NOT NULL) EXECUTE FUNCTION windlass_order_leave();

-- Locks the orders of jobs that end together, in the order in which submissions lock them, before the triggers do so one
-- by one; 3 and each job.
CREATE FUNCTION windlass_order_lock(ended UUID[], namespaces TEXT[], queues TEXT[], keys TEXT[])
RETURNS TABLE (noted SMALLINT, subject UUID) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM order_chains c
    JOIN unnest(namespaces, queues, keys) AS e(namespace, queue, order_key)
        ON c.namespace = e.namespace AND c.queue = e.queue AND c.order_key = e.order_key
    ORDER BY c.namespace COLLATE "C", c.queue COLLATE "C", c.order_key COLLATE "C" FOR UPDATE OF c;
    RETURN QUERY SELECT 3::smallint, e FROM unnest(ended) AS e;
END $$;

-- Sets an order right whose first is blocked though nothing is before it, or is gone; the job that was let run, if any.
CREATE FUNCTION windlass_order_mend(of_namespace TEXT, of_queue TEXT, of_key TEXT) RETURNS UUID LANGUAGE plpgsql AS $$
DECLARE
    first   BIGINT;
    its_job UUID;
BEGIN
    PERFORM FROM order_chains c
    WHERE c.namespace = of_namespace AND c.queue = of_queue AND c.order_key = of_key FOR UPDATE;
    LOOP
        SELECT l.number, l.job_id INTO first, its_job FROM order_links l
        WHERE l.namespace = of_namespace AND l.queue = of_queue AND l.order_key = of_key ORDER BY l.number LIMIT 1;
        EXIT WHEN first IS NULL;
        PERFORM FROM jobs j WHERE j.id = its_job AND j.state + 0 <> 10;
        EXIT WHEN FOUND;
        DELETE FROM order_links l WHERE l.job_id = its_job;
    END LOOP;
    IF first IS NULL THEN
        DELETE FROM order_chains c WHERE c.namespace = of_namespace AND c.queue = of_queue AND c.order_key = of_key;
        RETURN NULL;
    END IF;
    UPDATE order_chains c SET head = first
    WHERE c.namespace = of_namespace AND c.queue = of_queue AND c.order_key = of_key AND c.head <> first;
    RETURN CASE WHEN windlass_order_release(its_job) THEN its_job END;
END $$;
