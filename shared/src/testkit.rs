//! Conformance suites and private servers for tests.

pub mod engine_suite;
pub mod histories;
