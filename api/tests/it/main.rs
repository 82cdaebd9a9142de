//! The API on a real SQLite ledger and the embedded engine.

mod actions;
mod auth;
mod backups;
mod bad_input;
mod batch;
mod events;
mod fixture;
mod h2;
mod idempotency;
mod jobs;
mod leases;
mod lists;
mod load_checks;
mod logs;
mod openapi;
mod operations;
mod queues;
mod reports;
mod resume;
mod run_changes;
mod runs;
mod schedules;
mod serve;
mod system;
mod system_health;
mod workflow_documents;
