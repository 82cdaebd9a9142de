-- What housekeeping needs. Queues come in pages by their primary key, and new ones are told inside the process.

-- Ledger time of the latest report of progress. NULL: last written by a build that did not note it.
ALTER TABLE operations ADD COLUMN changed_at INTEGER;
