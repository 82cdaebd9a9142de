//! Time since boot, suspension included.

/// Milliseconds since boot. Unlike `Instant` it goes on while the machine is suspended, and so do the
/// leases in the store.
#[expect(unsafe_code, reason = "the standard library does not offer CLOCK_BOOTTIME")]
pub(crate) fn boot_ms() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the length of the call.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert_eq!(status, 0, "Linux has CLOCK_BOOTTIME since 2.6.39");
    time.tv_sec.unsigned_abs() * 1_000 + time.tv_nsec.unsigned_abs() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::boot_ms;

    #[test]
    fn it_moves_forward() {
        let before = boot_ms();
        assert!(before > 0 && boot_ms() >= before);
    }
}
