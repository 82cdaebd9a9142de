-- Jobs in order, on SQLite: the tables, words and rule of ../postgres/0011_order.sql. There is one writer, so nothing is
-- locked.

ALTER TABLE jobs ADD COLUMN order_key TEXT;

CREATE TABLE order_chains (
    namespace TEXT    NOT NULL,
    queue     TEXT    NOT NULL,
    order_key TEXT    NOT NULL,
    head      INTEGER NOT NULL,
    next      INTEGER NOT NULL,
    PRIMARY KEY (namespace, queue, order_key)
) STRICT, WITHOUT ROWID;

CREATE TABLE order_links (
    namespace  TEXT    NOT NULL,
    queue      TEXT    NOT NULL,
    order_key  TEXT    NOT NULL,
    number     INTEGER NOT NULL,
    job_id     BLOB    NOT NULL,
    expires_at INTEGER,
    left_at    INTEGER,                            -- set to give the place up: a trigger does the rest, and deletes the row
    PRIMARY KEY (namespace, queue, order_key, number)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX order_links_job ON order_links (job_id);
CREATE INDEX order_links_expires_at ON order_links (expires_at) WHERE expires_at IS NOT NULL;

CREATE TRIGGER order_enters AFTER INSERT ON jobs
WHEN NEW.order_key IS NOT NULL AND NEW.state IN (1, 2)
BEGIN
    INSERT INTO order_chains (namespace, queue, order_key, head, next)
    VALUES (NEW.namespace, NEW.queue, NEW.order_key, 1, 2)
    ON CONFLICT DO UPDATE SET next = next + 1;
    INSERT INTO order_links (namespace, queue, order_key, number, job_id, expires_at)
    SELECT c.namespace, c.queue, c.order_key, c.next - 1, NEW.id, NEW.expires_at FROM order_chains c
    WHERE c.namespace = NEW.namespace AND c.queue = NEW.queue AND c.order_key = NEW.order_key;
    UPDATE jobs SET state = 0
    WHERE id = NEW.id AND (SELECT c.head <> c.next - 1 FROM order_chains c
        WHERE c.namespace = NEW.namespace AND c.queue = NEW.queue AND c.order_key = NEW.order_key);
END;

-- Released, or redriven.
CREATE TRIGGER order_returns AFTER UPDATE OF state ON jobs
WHEN NEW.order_key IS NOT NULL AND NEW.state IN (1, 2) AND (OLD.state = 0 OR OLD.state >= 10)
BEGIN
    INSERT INTO order_chains (namespace, queue, order_key, head, next)
    SELECT NEW.namespace, NEW.queue, NEW.order_key, 1, 2
    WHERE NOT EXISTS (SELECT 1 FROM order_links l WHERE l.job_id = NEW.id)
    ON CONFLICT DO UPDATE SET next = next + 1;
    INSERT INTO order_links (namespace, queue, order_key, number, job_id, expires_at)
    SELECT c.namespace, c.queue, c.order_key, c.next - 1, NEW.id, NEW.expires_at FROM order_chains c
    WHERE c.namespace = NEW.namespace AND c.queue = NEW.queue AND c.order_key = NEW.order_key
      AND NOT EXISTS (SELECT 1 FROM order_links l WHERE l.job_id = NEW.id);
    UPDATE order_links SET expires_at = NEW.expires_at
    WHERE job_id = NEW.id AND expires_at IS NOT NEW.expires_at;
    UPDATE jobs SET state = 0
    WHERE id = NEW.id AND (SELECT l.number <> c.head FROM order_links l
        JOIN order_chains c ON c.namespace = l.namespace AND c.queue = l.queue AND c.order_key = l.order_key
        WHERE l.job_id = NEW.id);
END;

-- Ended, or of a step that waits for its needs again.
CREATE TRIGGER order_leaves AFTER UPDATE OF state ON jobs
WHEN NEW.order_key IS NOT NULL AND (OLD.state >= 10 AND NEW.state = 0 OR OLD.state < 10 AND (NEW.state = 10
    OR NEW.state > 10 AND coalesce(json_extract(NEW.spec, '$.order_on_failure'), 'skip') <> 'block'))
BEGIN
    UPDATE order_links SET left_at = NEW.changed_at WHERE job_id = NEW.id;
END;

CREATE TRIGGER order_forgets AFTER DELETE ON jobs
WHEN OLD.order_key IS NOT NULL
BEGIN
    UPDATE order_links SET left_at = OLD.changed_at WHERE job_id = OLD.id;
END;

CREATE TRIGGER order_left AFTER UPDATE OF left_at ON order_links
BEGIN
    DELETE FROM order_links WHERE job_id = NEW.job_id;
    UPDATE order_chains SET head = coalesce((SELECT min(l.number) FROM order_links l
        WHERE l.namespace = NEW.namespace AND l.queue = NEW.queue AND l.order_key = NEW.order_key), 0)
    WHERE namespace = NEW.namespace AND queue = NEW.queue AND order_key = NEW.order_key AND head = NEW.number;
    DELETE FROM order_chains
    WHERE namespace = NEW.namespace AND queue = NEW.queue AND order_key = NEW.order_key AND head = 0;
    UPDATE jobs SET state = iif(run_at > NEW.left_at, 1, 2), run_at = max(run_at, NEW.left_at),
        changed_at = max(changed_at, NEW.left_at)
    WHERE state = 0 AND id = (SELECT l.job_id FROM order_chains c
        JOIN order_links l ON l.namespace = c.namespace AND l.queue = c.queue AND l.order_key = c.order_key
            AND l.number = c.head
        WHERE c.namespace = NEW.namespace AND c.queue = NEW.queue AND c.order_key = NEW.order_key);
END;
