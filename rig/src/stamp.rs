//! The two clocks that every line of evidence carries.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::tools::clock_shim;

/// One instant on both clocks. Engine time is the wall clock of the host of Redis, which in the rig is this host,
/// unless an experiment moves that clock. Both are the true ones, also in a process whose clocks an experiment moves.
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
    i64::try_from(micros(libc::CLOCK_REALTIME)).unwrap_or(i64::MAX)
}

/// Microseconds since boot (`CLOCK_BOOTTIME`).
pub fn boot_us() -> u64 {
    micros(libc::CLOCK_BOOTTIME)
}

/// What a clock shows, whatever the clock shim makes of it.
#[expect(unsafe_code, reason = "the standard library does not offer CLOCK_BOOTTIME")]
fn micros(clock: libc::clockid_t) -> u64 {
    static MOVED: OnceLock<bool> = OnceLock::new();
    // Without the shim the kernel is asked, which does not know the true clocks by their numbers.
    let moved = *MOVED.get_or_init(clock_shim::is_loaded);
    let clock = if moved { clock + clock_shim::TRUE_CLOCK } else { clock };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the length of the call.
    let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(
        status, 0,
        "Linux has CLOCK_BOOTTIME since 2.6.39, and the shim knows the true clocks"
    );
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
}
