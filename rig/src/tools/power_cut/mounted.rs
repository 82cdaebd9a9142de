//! An image that is mounted, and will not stay so.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::PowerCutError;
use super::machine::run;

/// Longest wait for a server's last files to be closed.
const BUSY_MAX: Duration = Duration::from_secs(5);

/// A mounted image. Unmounted when dropped; its loop device goes with the mount.
#[derive(Debug)]
pub(super) struct Mounted {
    path: PathBuf,
    is_mounted: bool,
}

impl Mounted {
    /// Mounts `image` on the new folder `path`.
    pub(super) fn new(image: &Path, kind: &str, path: PathBuf) -> Result<Self, PowerCutError> {
        std::fs::create_dir(&path)?;
        let options = ["-t".as_ref(), kind.as_ref(), "-o".as_ref(), "loop".as_ref()];
        run("mount", options.into_iter().chain([image.as_os_str(), path.as_os_str()]))?;
        Ok(Self { path, is_mounted: true })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts; a second call does nothing.
    pub(super) fn unmount(&mut self) {
        if std::mem::take(&mut self.is_mounted) {
            unmount(&self.path);
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Unmounts, waits for those that are about to leave, and in the end takes the name away from those who stay:
/// the mount and its loop device then go with their last file.
pub(super) fn unmount(path: &Path) {
    let deadline = Instant::now() + BUSY_MAX;
    loop {
        match run("umount", [path.as_os_str()]) {
            Ok(_) => break,
            Err(_) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => {
                eprintln!("power cut: {error}; it goes when its last user ends");
                if let Err(error) = run("umount", ["--lazy".as_ref(), path.as_os_str()]) {
                    eprintln!("power cut: {error}");
                }
                break;
            }
        }
    }
    // Fails only when it is still mounted, which was said above.
    let _ = std::fs::remove_dir(path);
}
