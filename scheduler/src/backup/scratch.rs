//! Folders for what is under way: copies of a ledger as plain as the ledger itself.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::BackupError;

const PREFIX: &str = ".windlass-backup-";
/// The file of a folder that is locked by who uses it. The lock goes with the process, however that ends, and is seen from
/// other containers that have the volume.
const LOCK: &str = "lock";
/// Tries to make a folder: another process may sweep one before it is locked.
const TRIES: usize = 16;

/// A folder (mode 0700) that goes when it is dropped; what a killed process leaves, the next one beside it removes.
pub(super) struct Scratch {
    pub(super) path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Beside this file.
    pub(super) fn beside(file: &Path) -> Result<Self, BackupError> {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        Self::within(folder.unwrap_or(Path::new(".")))
    }

    /// In this folder, which is made if need be.
    pub(super) fn within(folder: &Path) -> Result<Self, BackupError> {
        let failed = || BackupError::file(format!("cannot make a folder in {}", folder.display()));
        let mut builder = DirBuilder::new();
        builder.mode(0o700).recursive(true).create(folder).map_err(failed())?;
        sweep(folder);
        builder.recursive(false);
        for _ in 0..TRIES {
            let path = folder.join(format!("{PREFIX}{}", Uuid::new_v4().simple()));
            builder.create(&path).map_err(failed())?;
            if let Some(lock) = lock(&path) {
                return Ok(Self { path, _lock: lock });
            }
        }
        Err(failed()(std::io::Error::other("it cannot be locked")))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is swept by the next one.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// The lock of a folder; `None`: somebody has it, or the folder is gone.
fn lock(folder: &Path) -> Option<File> {
    let path = folder.join(LOCK);
    let mut options = OpenOptions::new();
    let lock = options.create(true).truncate(false).write(true).mode(0o600).open(&path).ok()?;
    lock.try_lock().ok()?;
    // It may have been another one's, who has removed the folder since.
    let (locked, there) = (lock.metadata().ok()?, std::fs::metadata(&path).ok()?);
    (locked.ino() == there.ino()).then_some(lock)
}

/// Removes what processes that are gone have left.
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(PREFIX))
            && let Some(_lock) = lock(&entry.path())
        {
            tracing::info!(folder = %entry.path().display(), "removing what a process has left");
            // What stays is swept by the next one.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_swept_and_what_is_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let used = Scratch::within(folder.path()).unwrap();
        let left = Scratch::within(folder.path()).unwrap();
        std::fs::write(left.path.join("copy.db"), "rows").unwrap();
        let path = left.path.clone();
        // As a process that is killed leaves it: the lock is gone, the folder is not.
        let Scratch { _lock, .. } = &left;
        _lock.unlock().unwrap();
        std::mem::forget(left);
        let bystander = folder.path().join("ledger.db");
        std::fs::write(&bystander, "").unwrap();

        let next = Scratch::within(folder.path()).unwrap();
        assert!(!path.exists(), "what was left is gone");
        assert!(used.path.exists() && next.path.exists() && bystander.exists());
        drop((used, next));
        let there: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(there.len(), 1, "{there:?}");
    }
}
