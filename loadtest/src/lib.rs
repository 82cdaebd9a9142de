//! Benchmarks and load profiles.
