//! Conformance suites and private servers for tests.

pub mod engine_suite;
pub mod gates;
pub mod histories;
pub mod ledger_suite;
pub mod postgres_server;
pub mod redis_server;
