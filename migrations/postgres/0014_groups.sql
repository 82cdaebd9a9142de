-- Which part of the engine's room a job waits for: the group of its keys, 24 bits; none for jobs without keys. The engine
-- refuses groups that have their part, and the rest of each is found here without walking over the others.

ALTER TABLE jobs ADD COLUMN flow_group INT;

CREATE INDEX jobs_groups ON jobs (namespace, queue, flow_group, id) WHERE state < 10 AND flow_group IS NOT NULL;
