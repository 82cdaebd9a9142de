//! Whether the machine itself stood still: on one that is busy with other work every process may wait for seconds, and
//! then leases run out that no fault of the experiment explains.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PACE: Duration = Duration::from_millis(20);

/// Watches from a thread of its own until it is dropped.
#[derive(Debug)]
pub struct Machine {
    longest_us: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Machine {
    /// Starts to watch.
    pub fn watch() -> Self {
        let (longest_us, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (longest, stopped) = (Arc::clone(&longest_us), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let asleep = Instant::now();
                std::thread::sleep(PACE);
                let over = asleep.elapsed().saturating_sub(PACE).as_micros();
                longest.fetch_max(u64::try_from(over).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Self { longest_us, stop }
    }

    /// The longest time so far by which a thread that had nothing to do woke too late. Other processes may have waited
    /// longer: this one asks for next to nothing.
    pub fn longest_stall(&self) -> Duration {
        Duration::from_micros(self.longest_us.load(Ordering::Relaxed))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
