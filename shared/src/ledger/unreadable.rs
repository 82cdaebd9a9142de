//! Rows that this build cannot read: written by a newer one, or by hand. They are counted, said in the log and
//! passed over, so that one row never hides its neighbours.

use std::fmt::Display;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The log says so at most this often; the metric counts each.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// The rows of `rows` that read; `what` they are, for the log.
pub(super) fn readable<R, T, E: Display>(
    what: &'static str,
    rows: &[R],
    read: impl Fn(&R) -> Result<T, E>,
) -> Vec<T> {
    let mut values = Vec::with_capacity(rows.len());
    for row in rows {
        match read(row) {
            Ok(value) => values.push(value),
            Err(error) => note(what, &error),
        }
    }
    values
}

/// Counts a row that does not read, and says so now and then.
pub(super) fn note(what: &'static str, error: &dyn Display) {
    metrics::counter!("windlass_ledger_unreadable_rows_total").increment(1);
    static STARTED: OnceLock<Instant> = OnceLock::new();
    /// When the log spoke last, in ms since `STARTED`, plus 1; 0: never.
    static SAID: AtomicU64 = AtomicU64::new(0);
    let now = STARTED.get_or_init(Instant::now).elapsed().as_millis();
    let now = u64::try_from(now).unwrap_or(u64::MAX - 1) + 1;
    let said = SAID.load(Ordering::Relaxed);
    let is_due = said == 0 || now.saturating_sub(said) >= SAID_EVERY.as_millis() as u64;
    if is_due && SAID.compare_exchange(said, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        tracing::error!(what, %error, "the ledger holds a row that this build cannot read; it is passed over");
    }
}
