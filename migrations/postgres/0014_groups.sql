-- Which part of the engine's room a job waits for: the group of its keys, 24 bits; none for jobs without keys. The engine
-- refuses groups that have their part, and the rest of each is found here without walking over the others.

ALTER TABLE jobs ADD COLUMN flow_group INT;

-- With all that a walk asks for, so that it passes over jobs for later without reading them.
CREATE INDEX jobs_groups ON jobs (namespace, queue, flow_group, id, run_at, changed_at)
    WHERE state < 10 AND flow_group IS NOT NULL;
