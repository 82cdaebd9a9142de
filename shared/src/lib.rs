//! The domain, the engine, the ledger and the life of a job.
