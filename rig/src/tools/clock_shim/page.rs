//! The page of memory that the shim reads.
//!
//! Layout, in the machine's byte order, 8 bytes each: magic, version (odd while it is being written), then for
//! the wall, monotonic and boot clocks: true time at the base, shown time at the base, rate in millionths.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

const MAGIC: u64 = 0x314b_434f_4c43_574c;
const SIZE: u64 = 4096;
const VERSION_AT: u64 = 8;
const LINES_AT: u64 = 16;
const LINE_BYTES: usize = 24;
const MILLION: i128 = 1_000_000;

/// A clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Which {
    /// Wall time (`CLOCK_REALTIME`, `gettimeofday`, `time`).
    Real,
    /// Time that leases and time-outs are measured by (`CLOCK_MONOTONIC`).
    Mono,
    /// The same with time asleep (`CLOCK_BOOTTIME`).
    Boot,
}

/// How a clock goes: from a base, at a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    true_at_base: i64,
    shown_at_base: i64,
    rate_ppm: i64,
}

impl Line {
    /// Shows `shown` at the true time `now`, both in nanoseconds, and goes on at `rate`.
    pub fn at(now: i64, shown: i64, rate: f64) -> Self {
        let rate_ppm = (rate * MILLION as f64).round() as i64;
        Self { true_at_base: now, shown_at_base: shown, rate_ppm: rate_ppm.max(1) }
    }

    /// What it shows at the true time `now`, in nanoseconds.
    pub fn shows(&self, now: i64) -> i64 {
        let since = i128::from(now - self.true_at_base) * i128::from(self.rate_ppm) / MILLION;
        self.shown_at_base.saturating_add(i64::try_from(since).unwrap_or(i64::MAX))
    }

    /// How much faster than the true time it goes.
    pub fn rate(&self) -> f64 {
        self.rate_ppm as f64 / MILLION as f64
    }

    fn bytes(self) -> [u8; LINE_BYTES] {
        let mut bytes = [0; LINE_BYTES];
        let numbers = [self.true_at_base, self.shown_at_base, self.rate_ppm];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: [u8; LINE_BYTES]) -> Self {
        let number = |n: usize| {
            i64::from_ne_bytes(bytes[n * 8..][..8].try_into().expect("eight bytes of 24"))
        };
        Self { true_at_base: number(0), shown_at_base: number(1), rate_ppm: number(2) }
    }
}

/// The page as a file. The processes map it; a write to the file is seen in their memory at once.
#[derive(Debug)]
pub(super) struct PageFile(File);

impl PageFile {
    /// Opens a page, or makes one with true clocks.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let page = Self(file);
        if page.0.metadata()?.len() == SIZE {
            return Ok(page);
        }
        page.0.set_len(SIZE)?;
        page.0.set_permissions(PermissionsExt::from_mode(0o644))?;
        for which in [Which::Real, Which::Mono, Which::Boot] {
            page.0.write_all_at(&Line::at(0, 0, 1.0).bytes(), place(which))?;
        }
        // Last: a process that finds no magic keeps the true clocks.
        page.0.write_all_at(&MAGIC.to_ne_bytes(), 0)?;
        Ok(page)
    }

    pub(super) fn line(&self, which: Which) -> io::Result<Line> {
        let mut bytes = [0; LINE_BYTES];
        self.0.read_exact_at(&mut bytes, place(which))?;
        Ok(Line::from_bytes(bytes))
    }

    /// Replaces a line; `make` gets the line until now, and the true time.
    pub(super) fn change(
        &self,
        which: Which,
        make: impl FnOnce(Line, i64) -> Line,
    ) -> io::Result<()> {
        let line = make(self.line(which)?, true_time(which));
        let mut version = [0; 8];
        self.0.read_exact_at(&mut version, VERSION_AT)?;
        // Even again if a tool died while it wrote.
        let version = u64::from_ne_bytes(version) & !1;
        self.0.write_all_at(&(version + 1).to_ne_bytes(), VERSION_AT)?;
        self.0.write_all_at(&line.bytes(), place(which))?;
        self.0.write_all_at(&(version + 2).to_ne_bytes(), VERSION_AT)
    }
}

fn place(which: Which) -> u64 {
    LINES_AT + which as u64 * LINE_BYTES as u64
}

/// What a clock of the kernel shows now, in nanoseconds.
#[expect(unsafe_code, reason = "the standard library tells no monotonic time as a number")]
pub(super) fn true_time(which: Which) -> i64 {
    let id = match which {
        Which::Real => libc::CLOCK_REALTIME,
        Which::Mono => libc::CLOCK_MONOTONIC,
        Which::Boot => libc::CLOCK_BOOTTIME,
    };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to `time`, which is valid and ours; these clocks exist on every Linux.
    let result = unsafe { libc::clock_gettime(id, &raw mut time) };
    assert_eq!(result, 0, "the kernel has this clock");
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_at_their_rates_and_survive_the_file() {
        let line = Line::at(1_000, 5_000, 10.0);
        assert_eq!((line.shows(1_000), line.shows(1_100), line.shows(900)), (5_000, 6_000, 4_000));
        assert_eq!(Line::from_bytes(line.bytes()), line);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page");
        let page = PageFile::open(&path).unwrap();
        assert_eq!(page.line(Which::Mono).unwrap().shows(77), 77, "true at first");
        page.change(Which::Boot, |_, _| line).unwrap();
        let again = PageFile::open(&path).unwrap();
        assert_eq!(again.line(Which::Boot).unwrap(), line);
        assert_eq!(again.line(Which::Real).unwrap(), Line::at(0, 0, 1.0));
    }
}
