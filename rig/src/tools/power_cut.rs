//! Cuts the power of a disk: shows what a server had really brought to it.
//!
//! On a loop device lies a btrfs image, in it an ext4 image on a second loop device, and on that the data
//! folders of the servers. A *cut* copies the ext4 image by reference, in milliseconds, while they go on. The
//! copy holds what the file system had handed to the disk, and not what it still kept in memory, which is what
//! a machine finds after its power came back. The copy is mounted (its journal is replayed), and servers are
//! started on it.
//!
//! It is kinder than real disks in one way: what was handed over counts as kept, also without a flush.
//! Needs root, loop devices, and `mkfs.btrfs` (Debian: `btrfs-progs`): [`missing`].

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub mod leftovers;
mod machine;
mod mounted;
pub mod writer;

pub use machine::missing;

use machine::run;
use mounted::Mounted;

/// What the folders of all disks are called, with the process and a number.
const FOLDER_PREFIX: &str = "windlass-power-cut-";
/// btrfs refuses to be smaller than some 110 MB, and copies of images that are written to need room.
const OUTER_SPARE_BYTES: u64 = 512 << 20;
/// Cuts of one disk.
const CUTS_MAX: u32 = 1_000;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum PowerCutError {
    /// This machine cannot do it.
    #[error("power cuts need what is missing here: {}", .0.join("; "))]
    Missing(Vec<String>),
    /// A program failed.
    #[error("`{command}`: {message}")]
    Program {
        /// Its command line.
        command: String,
        /// What it said.
        message: String,
    },
    /// A file or folder could not be used.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// There were too many cuts of one disk.
    #[error("a disk takes {CUTS_MAX} cuts")]
    TooMany,
}

/// A disk whose power can be cut. It is unmounted and removed when this and all its [`AfterCut`]s are
/// dropped, also by a panic. Stop the servers first: the files of those that still run vanish when they end.
#[derive(Debug)]
pub struct PowerCut {
    // Dropped in this order: the inner file system lies on the outer one.
    inner: Mounted,
    outer: Arc<Outer>,
    image: PathBuf,
    cuts: u32,
}

/// The disk as a cut has left it, mounted for servers to start on.
#[derive(Debug)]
pub struct AfterCut {
    mounted: Mounted,
    copied_in: Duration,
    image: PathBuf,
    _outer: Arc<Outer>,
}

/// The btrfs with the images.
#[derive(Debug)]
struct Outer {
    // Dropped in this order: the folder goes when nothing is mounted in it.
    mounted: Mounted,
    folder: Folder,
}

/// The folder of one disk, with the name of its owner in it; removed when dropped.
#[derive(Debug)]
struct Folder(PathBuf);

impl PowerCut {
    /// Makes an empty disk of this many bytes (32 MB or more; only what is written takes room) in the
    /// temporary folder. Removes what dead processes left there.
    ///
    /// Blocks for about half a second. Errors when the machine cannot ([`missing`]).
    pub fn start(disk_bytes: u64) -> Result<Self, PowerCutError> {
        Self::start_in(&std::env::temp_dir(), disk_bytes)
    }

    /// The same in this folder. In one of memory flushes cost nothing, and a cut takes as much as elsewhere.
    ///
    /// Errors as [`Self::start`].
    pub fn start_in(parent: &Path, disk_bytes: u64) -> Result<Self, PowerCutError> {
        let missing = missing();
        if !missing.is_empty() {
            return Err(PowerCutError::Missing(missing));
        }
        leftovers::clean(parent)?;
        let folder = Folder::make(parent)?;
        let image = folder.0.join("outer.img");
        make_image(&image, disk_bytes * 2 + OUTER_SPARE_BYTES)?;
        run("mkfs.btrfs", ["-q".as_ref(), image.as_os_str()])?;
        let mounted = Mounted::new(&image, "btrfs", folder.0.join("outer"))?;
        let inner_image = mounted.path().join("inner.img");
        let outer = Arc::new(Outer { mounted, folder });
        make_image(&inner_image, disk_bytes)?;
        run("mkfs.ext4", ["-q".as_ref(), "-F".as_ref(), "-m0".as_ref(), inner_image.as_os_str()])?;
        let inner = Mounted::new(&inner_image, "ext4", outer.folder.0.join("data"))?;
        open_to_all(inner.path())?;
        // The empty disk is on the disk: a cut right away finds a file system.
        run("sync", ["-f".as_ref(), inner.path().as_os_str()])?;
        Ok(Self { inner, outer, image: inner_image, cuts: 0 })
    }

    /// The folder that the disk is mounted on. Everybody may write there.
    pub fn data(&self) -> &Path {
        self.inner.path()
    }

    /// Cuts the power, as far as the copy is concerned; the servers on the disk itself do not notice.
    ///
    /// Blocks for some ten milliseconds. What was acknowledged before the call and must be durable has to be
    /// on the copy; what is acknowledged during the call may be.
    pub fn cut(&mut self) -> Result<AfterCut, PowerCutError> {
        let (image, copied_in) = self.copy()?;
        let folder = self.outer.folder.0.join(format!("crash-{}", self.cuts));
        let mounted = Mounted::new(&image, "ext4", folder)?;
        Ok(AfterCut { mounted, copied_in, image, _outer: Arc::clone(&self.outer) })
    }

    /// Cuts the power and goes on with what the cut has left, in the same place. The servers on the disk stand still
    /// when this is called, and `power_off` kills them once the copy is made; start them again after this. How
    /// long the copy took.
    ///
    /// Blocks for some hundred milliseconds. On an error the servers may be dead and the disk gone.
    pub fn fall_back(&mut self, power_off: impl FnOnce()) -> Result<Duration, PowerCutError> {
        let (image, copied_in) = self.copy()?;
        power_off();
        let place = self.inner.path().to_owned();
        self.inner.unmount();
        self.inner = Mounted::new(&image, "ext4", place)?;
        std::fs::remove_file(std::mem::replace(&mut self.image, image))?;
        Ok(copied_in)
    }

    /// What the disk holds now, in an image of its own, and how long that took.
    fn copy(&mut self) -> Result<(PathBuf, Duration), PowerCutError> {
        if self.cuts >= CUTS_MAX {
            return Err(PowerCutError::TooMany);
        }
        self.cuts += 1;
        let image = self.outer.mounted.path().join(format!("crash-{}.img", self.cuts));
        let started = Instant::now();
        run("cp", ["--reflink=always".as_ref(), self.image.as_os_str(), image.as_os_str()])?;
        Ok((image, started.elapsed()))
    }
}

impl AfterCut {
    /// The folder that the copy is mounted on.
    pub fn data(&self) -> &Path {
        self.mounted.path()
    }

    /// How long the copy took: when in this time the power failed is not known.
    pub fn copied_in(&self) -> Duration {
        self.copied_in
    }
}

impl Drop for AfterCut {
    fn drop(&mut self) {
        self.mounted.unmount();
        // Else its room is taken until the disk goes.
        let _ = std::fs::remove_file(&self.image);
    }
}

impl Folder {
    fn make(parent: &Path) -> Result<Self, PowerCutError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (pid, n) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = Self(parent.join(format!("{FOLDER_PREFIX}{pid}-{n}")));
        std::fs::create_dir(&folder.0)?;
        open_to_all(&folder.0)?;
        leftovers::write_owner(&folder.0)?;
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        leftovers::remove_folder(&self.0);
    }
}

fn make_image(path: &Path, bytes: u64) -> Result<(), PowerCutError> {
    Ok(File::create_new(path)?.set_len(bytes)?)
}

/// PostgreSQL refuses to run as root, so its user has to come in.
fn open_to_all(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o777))
}
