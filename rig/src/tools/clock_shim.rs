//! Moves the clocks that other processes read: wall time by offsets, steps and rates; the monotonic clocks by
//! rates.
//!
//! A small C library (`shim.c`) is compiled with `cc`, which every machine with Rust has, and loaded into the
//! processes with `LD_PRELOAD`. They share a page of memory with this tool, so a change holds at once. It
//! works with programs that are linked dynamically to the C library (Redis, PostgreSQL, Rust for
//! `*-linux-gnu`), not with static ones, and changes neither the kernel's clock nor the times of files.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

mod page;

pub use page::{Line, Which};

use page::PageFile;

const SOURCE: &str = include_str!("clock_shim/shim.c");
const LIBRARY: &str = "clock_shim.so";
const PAGE: &str = "clock.page";
const PAGE_VARIABLE: &str = "WINDLASS_CLOCK_FILE";
/// Added to the number of a clock it asks the shim for the true one, as evidence needs it. The kernel knows no such
/// clock.
pub const TRUE_CLOCK: libc::clockid_t = 0x1_0000;
/// Rates beyond this would overflow within a long test.
const RATE_MAX: f64 = 1_000.0;

/// The clocks of the processes that it was applied to.
#[derive(Debug)]
pub struct ClockShim {
    folder: PathBuf,
    page: PageFile,
    _own: Option<tempfile::TempDir>,
}

impl ClockShim {
    /// True clocks, in a temporary folder that ends with this. Processes keep their last clocks then.
    ///
    /// Errors when `cc` is missing or fails.
    pub fn new() -> anyhow::Result<Self> {
        let own = tempfile::Builder::new().prefix("windlass-clock-").tempdir()?;
        let shim = Self::in_folder(own.path())?;
        Ok(Self { _own: Some(own), ..shim })
    }

    /// The clocks of a folder: those that it holds already, else true ones. Other users may read it.
    ///
    /// Errors as [`Self::new`].
    pub fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        // PostgreSQL runs as another user.
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755))?;
        let library = folder.join(LIBRARY);
        if !library.exists() {
            compile(folder, &library)?;
        }
        let page = PageFile::open(&folder.join(PAGE))?;
        Ok(Self { folder: folder.to_owned(), page, _own: None })
    }

    /// Lets a process that is to be started, and its children, read these clocks.
    pub fn apply(&self, command: &mut Command) {
        command.envs(self.variables());
    }

    /// The environment variables that do so.
    pub fn variables(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", self.folder.join(LIBRARY)), (PAGE_VARIABLE, self.folder.join(PAGE))]
    }

    /// Wall time is true time plus `ms`, and goes at the true rate.
    pub fn offset(&self, ms: i64) -> io::Result<()> {
        self.page.change(Which::Real, |_, now| Line::at(now, now + ms * 1_000_000, 1.0))
    }

    /// Steps wall time by `ms` from what it is.
    pub fn step(&self, ms: i64) -> io::Result<()> {
        let by = ms * 1_000_000;
        self.page.change(Which::Real, |line, now| Line::at(now, line.shows(now) + by, line.rate()))
    }

    /// From now a clock goes `rate` times as fast as the true one. It does not jump.
    ///
    /// Waits by the monotonic clock (`epoll_wait`, sleeps, the waits of Rust's standard library) are
    /// shortened with it; one that has begun keeps its length. Errors when the rate is not above 0 and at
    /// most 1,000.
    pub fn rate(&self, which: Which, rate: f64) -> io::Result<()> {
        if !(rate > 0.0 && rate <= RATE_MAX) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "rates are above 0, up to 1000",
            ));
        }
        self.page.change(which, |line, now| Line::at(now, line.shows(now), rate))
    }

    /// What a clock shows now to those processes, in nanoseconds.
    pub fn shows(&self, which: Which) -> io::Result<i64> {
        Ok(self.page.line(which)?.shows(page::true_time(which)))
    }
}

/// Whether this process itself reads clocks of the shim.
pub fn is_loaded() -> bool {
    let preloaded = std::env::var_os("LD_PRELOAD").unwrap_or_default();
    let ours = std::env::split_paths(&preloaded).any(|library| library.ends_with(LIBRARY));
    ours && std::env::var_os(PAGE_VARIABLE).is_some()
}

fn compile(folder: &Path, library: &Path) -> anyhow::Result<()> {
    let source = folder.join("clock_shim.c");
    std::fs::write(&source, SOURCE)?;
    // Another tool may do the same in this folder: a name of its own, then a rename.
    let fresh = folder.join(format!("{LIBRARY}.{}", std::process::id()));
    let output = Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
        .arg(&fresh)
        .arg(&source)
        .output()
        .context("the clock shim needs the C compiler `cc`")?;
    let messages = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "cc does not compile the clock shim:\n{messages}");
    std::fs::set_permissions(&fresh, PermissionsExt::from_mode(0o755))?;
    std::fs::rename(&fresh, library)?;
    Ok(())
}
