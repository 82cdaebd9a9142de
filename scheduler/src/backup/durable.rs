//! Folders and files of this machine, written so that they outlive a power cut.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::SystemTime;

/// Makes a folder, and those above it that are not there, each for its owner alone.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty());
    if let Some(above) = above {
        make(above)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    sync(above.unwrap_or(Path::new(".")))
}

/// The same, where it is in `root`, which must be there.
pub(super) fn make_in(root: &Path, folder: &Path) -> io::Result<()> {
    std::fs::metadata(root)?;
    make(folder)
}

/// Writes to disk what a file holds, or which entries a folder has. Some file systems sync no folders, and some folders
/// may be written to and not be read: there it does what can be done.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && path.is_dir() => {
            return Ok(());
        }
        opened => opened?,
    };
    match file.sync_all() {
        Err(error) if syncs_no_folders(&error) && file.metadata()?.is_dir() => Ok(()),
        synced => synced,
    }
}

fn syncs_no_folders(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// The same for a folder and everything in it. Links are not followed.
pub(super) fn sync_all(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let sort = entry.file_type()?;
        if sort.is_dir() {
            sync_all(&entry.path())?;
        } else if sort.is_file() {
            sync(&entry.path())?;
        }
    }
    sync(folder)
}

/// Removes from a folder of objects, and those in it, what writers that were killed have left: no list shows it. `until`:
/// what is younger stays.
pub(super) fn sweep(folder: &Path, until: Option<SystemTime>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(about) = entry.metadata() else { continue };
        if about.is_dir() {
            sweep(&path, until);
            continue;
        }
        // `NAME#1`, as object_store names what it has not published yet.
        let name = entry.file_name();
        let parts = name.to_str().and_then(|name| name.rsplit_once('#'));
        let is_left = parts.is_some_and(|(_, n)| n.parse::<u32>().is_ok());
        let is_old = about.modified().is_ok_and(|at| until.is_none_or(|until| at < until));
        if is_left && is_old {
            // The next one tries again.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_must_be_there_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        make_in(&root, &root.join("a/b")).unwrap_err();
        assert!(!root.exists());
        make(&root).unwrap();
        make_in(&root, &root.join("a/b")).unwrap();
        assert!(root.join("a/b").is_dir());
    }

    #[test]
    fn only_what_killed_writers_have_left_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        make(&inner).unwrap();
        make(&inner).unwrap();
        for name in ["old#1", "young#2", "plain", "no#number"] {
            std::fs::write(inner.join(name), "x").unwrap();
        }
        let now = SystemTime::now();
        let day = Duration::from_secs(24 * 3600);
        for name in ["old#1", "plain", "no#number"] {
            let file = File::options().write(true).open(inner.join(name)).unwrap();
            file.set_modified(now - 2 * day).unwrap();
        }
        sync_all(folder.path()).unwrap();
        let left = || {
            let entries = std::fs::read_dir(&inner).unwrap();
            let mut names: Vec<_> =
                entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        sweep(folder.path(), Some(now - day));
        assert_eq!(left(), ["no#number", "plain", "young#2"]);
        sweep(folder.path(), None);
        assert_eq!(left(), ["no#number", "plain"]);
    }
}
