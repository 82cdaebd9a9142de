//! Logs and metrics: their set-up, and the names that are used everywhere.
//!
//! Logs go to standard error, one event per line ([`logs`]). Metrics are recorded with the `metrics` macros
//! and rendered as Prometheus text by [`metrics::Metrics`]; every name is in [`names`], with its help text.
//! Labels that users can choose are bounded by [`labels`].

use std::time::Instant;

mod flood;
pub mod labels;
mod lines;
pub mod logs;
pub mod metrics;
pub mod names;

pub use logs::check_directives;

/// Counts and times one engine call.
pub fn engine_call(call: &'static str, started: Instant, failed: bool) {
    ::metrics::histogram!("windlass_engine_call_seconds", "call" => call).record(started.elapsed());
    if failed {
        ::metrics::counter!("windlass_engine_errors_total", "call" => call).increment(1);
    }
}

/// Counts and times one ledger call.
pub fn ledger_call(call: &'static str, started: Instant, failed: bool) {
    ::metrics::histogram!("windlass_ledger_call_seconds", "call" => call).record(started.elapsed());
    if failed {
        ::metrics::counter!("windlass_ledger_errors_total", "call" => call).increment(1);
    }
}
