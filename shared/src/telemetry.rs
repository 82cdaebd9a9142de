//! Logs and metrics: their set-up, and the names that are used everywhere.

use std::time::Instant;

/// Counts and times one engine call.
pub fn engine_call(call: &'static str, started: Instant, failed: bool) {
    metrics::histogram!("windlass_engine_call_seconds", "call" => call).record(started.elapsed());
    if failed {
        metrics::counter!("windlass_engine_errors_total", "call" => call).increment(1);
    }
}

/// Counts and times one ledger call.
pub fn ledger_call(call: &'static str, started: Instant, failed: bool) {
    metrics::histogram!("windlass_ledger_call_seconds", "call" => call).record(started.elapsed());
    if failed {
        metrics::counter!("windlass_ledger_errors_total", "call" => call).increment(1);
    }
}
