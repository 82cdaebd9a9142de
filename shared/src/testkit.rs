//! Conformance suites and private servers for tests.

pub mod engine_suite;
pub mod histories;
pub mod redis_server;
pub mod ledger_suite;
pub mod postgres_server;
