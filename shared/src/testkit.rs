//! Conformance suites and private servers for tests.

pub mod ledger_suite;
pub mod postgres_server;
