//! Conformance suites and private servers for tests.
