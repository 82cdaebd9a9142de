//! Where the database file is, and the lock that keeps other processes away from it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;

use super::LedgerError;
use crate::config::LedgerSettings;
use crate::ledger::alerts::Space;

/// A database file on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    file: PathBuf,
}

/// The right to be the one process on a database; given up when dropped, and by the operating system when
/// the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Place {
    /// Reads `sqlite://PATH` (or `sqlite:PATH`). The path is taken as it stands; relative ones start at the
    /// working directory.
    ///
    /// # Errors
    /// [`LedgerError::Unfit`] for an empty path, for options, and for a database in memory.
    pub(super) fn of(settings: &LedgerSettings) -> Result<Self, LedgerError> {
        let url = settings.url.expose_secret();
        let rest = url.strip_prefix("sqlite:").ok_or_else(|| unfit("not a sqlite:// address"))?;
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if path.is_empty() || path.ends_with('/') {
            return Err(unfit("a SQLite ledger needs a file: sqlite://PATH"));
        }
        if path.contains('?') {
            return Err(unfit("the address of a SQLite ledger takes no options: sqlite://PATH"));
        }
        if path.starts_with(':') {
            return Err(unfit("a ledger in memory would forget every job: sqlite://PATH"));
        }
        // Through a link the lock would be another one than beside the file itself.
        let file = PathBuf::from(path);
        Ok(Self { file: file.canonicalize().unwrap_or(file) })
    }

    /// The database file.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// What the database takes, and what its volume has left for this process.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the operating system does not say.
    pub(super) fn space(&self) -> Result<Space, LedgerError> {
        let mut used = self.file.metadata().map_err(unavailable)?.len();
        let mut log = self.file.clone().into_os_string();
        log.push("-wal");
        match std::fs::metadata(log) {
            Ok(log) => used += log.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(unavailable(error)),
        }
        if crate::tap::simulated() {
            // A world that is to come out the same again knows nothing of this machine's.
            return Ok(Space { used, free: None });
        }
        let volume = rustix::fs::statvfs(&self.file).map_err(|error| unavailable(error.into()))?;
        Ok(Space { used, free: Some(volume.f_bavail.saturating_mul(volume.f_frsize)) })
    }

    /// Takes the lock, and makes folder (mode 0700) and file (mode 0600) where they are missing. SQLite gives
    /// its two side files the mode of the database.
    ///
    /// # Errors
    /// [`LedgerError::Unfit`] when another process has the lock (it is named), [`LedgerError::Unavailable`]
    /// when folder or files cannot be made.
    pub(super) fn lock(&self) -> Result<Lock, LedgerError> {
        if let Some(folder) = self.file.parent() {
            make_folder(folder).map_err(unavailable)?;
        }
        let lock = self.take_lock()?;
        private().open(&self.file).map_err(unavailable)?;
        Ok(lock)
    }

    /// Whether a process has the lock. Makes nothing.
    pub(super) fn is_locked(&self) -> Result<bool, LedgerError> {
        let mut path = self.file.clone().into_os_string();
        path.push(".lock");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(unavailable(error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(unavailable(error)),
        }
    }

    fn take_lock(&self) -> Result<Lock, LedgerError> {
        let mut path = self.file.clone().into_os_string();
        path.push(".lock");
        let mut file = private().open(&path).map_err(unavailable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder); // only for the message
                let holder = holder.trim();
                return Err(unfit(format!(
                    "{} is in use by process {}; a SQLite ledger serves one process",
                    self.file.display(),
                    if holder.is_empty() { "(unknown)" } else { holder },
                )));
            }
            Err(TryLockError::Error(error)) => return Err(unavailable(error)),
        }
        file.rewind()
            .and_then(|()| file.set_len(0))
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(unavailable)?;
        Ok(Lock { _file: file })
    }
}

/// Makes a folder with those above it, so that a power cut does not take it away again: SQLite sees to the
/// entries in it, not to its own.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    let missing: Vec<&Path> = folder
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .collect();
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    for made in missing {
        let above = made.parent().filter(|above| !above.as_os_str().is_empty());
        File::open(above.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options
}

fn unfit(why: impl Into<String>) -> LedgerError {
    LedgerError::Unfit(why.into())
}

fn unavailable(error: std::io::Error) -> LedgerError {
    LedgerError::Unavailable(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Result<Place, LedgerError> {
        Place::of(&LedgerSettings::new(url))
    }

    #[test]
    fn a_linked_file_has_the_lock_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a.db"), folder.path().join("link.db"));
        let real = place(&format!("sqlite://{}", file.display())).unwrap();
        let lock = real.lock().unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let linked = place(&format!("sqlite://{}", link.display())).unwrap();
        assert!(matches!(linked.lock(), Err(LedgerError::Unfit(_))));
        drop(lock);
        linked.lock().unwrap();
    }

    #[test]
    fn addresses_name_a_file_and_nothing_else() {
        assert_eq!(place("sqlite:///var/lib/a.db").unwrap().file(), Path::new("/var/lib/a.db"));
        assert_eq!(place("sqlite://data/a b.db").unwrap().file(), Path::new("data/a b.db"));
        assert_eq!(place("sqlite:a.db").unwrap().file(), Path::new("a.db"));
        for url in ["sqlite://", "sqlite:///data/", "sqlite::memory:", "sqlite://a.db?mode=ro"] {
            assert!(matches!(place(url), Err(LedgerError::Unfit(_))), "{url}");
        }
    }
}
