//! Every metric: its name, sort and help text. A test of the command line crate reads the sources and fails
//! for a name that is used and not here.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// What a metric measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Samples in buckets.
    Histogram,
}

use Sort::{Counter, Gauge, Histogram};

/// Name, sort, help text.
pub const NAMES: &[(&str, Sort, &str)] = &[
    ("windlass_build_info", Gauge, "1, labelled with the version of this process"),
    ("windlass_engine_call_seconds", Histogram, "Time of a call to the engine, by call"),
    ("windlass_engine_errors_total", Counter, "Calls to the engine that failed, by call"),
    ("windlass_ledger_call_seconds", Histogram, "Time of a call to the ledger, by call"),
    ("windlass_ledger_errors_total", Counter, "Calls to the ledger that failed, by call"),
];

/// Tells the recorder of this process the help texts.
pub(super) fn describe() {
    for (name, sort, help) in NAMES {
        match sort {
            Counter => describe_counter!(*name, *help),
            Gauge => describe_gauge!(*name, *help),
            Histogram => describe_histogram!(*name, *help),
        }
    }
}
