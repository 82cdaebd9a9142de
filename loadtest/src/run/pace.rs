//! Tells when calls are due, to a fraction of a millisecond: timers of the runtime have whole ones.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::profile::curve::Curve;

/// Calls that are due and not taken yet. With more the load would come later than intended without anybody's fault but ours.
const AHEAD_MAX: usize = 4_096;

/// The intended time of each call of a curve that begins now, when it has come. Ends with the last one, or when the receiver is
/// dropped.
pub(super) fn pace(curve: Curve) -> mpsc::Receiver<Duration> {
    let (tell, told) = mpsc::channel(AHEAD_MAX);
    let began = Instant::now();
    // A thread, whose sleep ends within about 0.1 ms.
    std::thread::spawn(move || {
        for n in 0..curve.calls() {
            let due = curve.at(n);
            let left = due.saturating_sub(began.elapsed());
            if !left.is_zero() {
                std::thread::sleep(left);
            }
            if tell.blocking_send(due).is_err() {
                return;
            }
        }
    });
    told
}
