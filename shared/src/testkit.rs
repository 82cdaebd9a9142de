//! Conformance suites and private servers for tests.

pub mod redis_server;
