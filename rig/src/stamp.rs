//! The two clocks that every line of evidence carries.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// One instant on both clocks. Engine time is the wall clock of the host of Redis, which in the rig is this host,
/// unless an experiment moves that clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Microseconds since boot, suspension included; what durations are taken from.
    pub boot_us: u64,
    /// Microseconds since 1970; what is compared with engine time.
    pub wall_us: i64,
}

impl Stamp {
    /// Now.
    pub fn now() -> Self {
        Self { boot_us: boot_us(), wall_us: wall_us() }
    }

    /// Seconds from `earlier` to this; 0 if it is later.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        self.boot_us.saturating_sub(earlier.boot_us) as f64 / 1e6
    }
}

/// Microseconds since 1970.
pub fn wall_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

/// Microseconds since boot (`CLOCK_BOOTTIME`).
#[expect(unsafe_code, reason = "the standard library does not offer CLOCK_BOOTTIME")]
pub fn boot_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the length of the call.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert_eq!(status, 0, "Linux has CLOCK_BOOTTIME since 2.6.39");
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
}
