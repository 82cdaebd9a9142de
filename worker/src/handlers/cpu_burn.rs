//! `cpu.burn`: keeps a processor busy, for trying out how jobs share one, and for replaying traces.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::error::HandlerError;
use crate::handler::{Handler, Typed};

/// Longest burn, in seconds.
const SECONDS_MAX: f64 = 3_600.0;
/// Rounds of reckoning between two looks at the clock; far below a millisecond.
const ROUNDS: u32 = 20_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    /// How long, in seconds of one processor: waiting for a turn on it does not count.
    seconds: f64,
}

#[derive(Serialize)]
pub(super) struct Burnt {
    /// Of the processor.
    cpu_seconds: f64,
    /// Of the clock on the wall.
    wall_seconds: f64,
}

/// Dropping it stops the burning: the attempt was stopped, and nobody else would tell the thread.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(super) fn handler() -> impl Handler {
    Typed::new(|_ctx: Context, args: Args| async move {
        if !(0.0..=SECONDS_MAX).contains(&args.seconds) {
            let message = format!("at `seconds`: must be from 0 to {SECONDS_MAX}");
            return Err(HandlerError::permanent("invalid_payload", message));
        }
        use_processor(Duration::from_secs_f64(args.seconds)).await
    })
}

/// Uses so much time of a processor, on a thread of its own: the runtime's have others to serve.
pub(super) async fn use_processor(length: Duration) -> Result<Burnt, HandlerError> {
    let stop = Stop(Arc::default());
    let stopped = Arc::clone(&stop.0);
    let burnt = tokio::task::spawn_blocking(move || burn(length, &stopped)).await;
    drop(stop);
    burnt.map_err(|error| HandlerError::retryable("burn_failed", error.to_string()))
}

/// Reckons until this thread has used so much of a processor, or it is told to stop.
fn burn(length: Duration, stopped: &AtomicBool) -> Burnt {
    let (started, used_before) = (Instant::now(), thread_time());
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    loop {
        let used = thread_time().saturating_sub(used_before);
        if used >= length || stopped.load(Ordering::Relaxed) {
            let (cpu_seconds, wall_seconds) = (used.as_secs_f64(), started.elapsed().as_secs_f64());
            return Burnt { cpu_seconds, wall_seconds };
        }
        for _ in 0..ROUNDS {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
        std::hint::black_box(x);
    }
}

/// What this thread has used of processors so far.
#[expect(unsafe_code, reason = "the standard library has no clock of a thread")]
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a whole timespec that outlives the call.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(answer, 0, "every Linux has this clock");
    let seconds = u64::try_from(time.tv_sec).expect("a clock of use does not run backwards");
    let nanos = u32::try_from(time.tv_nsec).expect("nanoseconds are below one thousand million");
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_uses_what_it_is_asked_for_and_no_more_once_stopped() {
        let length = Duration::from_millis(30);
        let burnt = burn(length, &AtomicBool::new(false));
        assert!(burnt.cpu_seconds >= 0.03 && burnt.wall_seconds >= burnt.cpu_seconds * 0.9);
        let burnt = burn(Duration::from_secs(3_600), &AtomicBool::new(true));
        assert!(burnt.cpu_seconds < 1.0);
    }
}
