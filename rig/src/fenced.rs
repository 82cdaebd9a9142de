//! A store outside of the product that refuses lower fences: the fencing pattern that the documentation recommends to
//! handlers, as a folder with one small file per job.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// One register per key. Safe for several processes at once: each write holds the file's lock.
#[derive(Debug, Clone)]
pub struct FencedStore {
    folder: PathBuf,
}

impl FencedStore {
    /// A store in this folder, which is made if need be.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Writes with this fence, unless the register has seen a higher one; whether it was written. Blocks for as long
    /// as another write to the same key takes. `key` is an id: it must be a plain file name.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn write(&self, key: &str, fence: u64) -> std::io::Result<bool> {
        let path = self.folder.join(key);
        let mut file =
            File::options().create(true).truncate(false).read(true).write(true).open(path)?;
        file.lock()?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // A register that was never written is empty: any fence is higher.
        if text.trim().parse::<u64>().is_ok_and(|seen| seen > fence) {
            return Ok(false);
        }
        file.seek(SeekFrom::Start(0))?;
        // The same width each time, so that no rest of an older value stays.
        write!(file, "{fence:020}")?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_fence_is_refused_once_a_higher_one_has_written() {
        let folder = tempfile::tempdir().unwrap();
        let store = FencedStore::open(folder.path()).unwrap();
        assert!(store.write("a", 7).unwrap());
        assert!(store.write("a", 7).unwrap(), "the same holder may write again");
        assert!(store.write("a", 10).unwrap());
        assert!(!store.write("a", 9).unwrap());
        assert!(store.write("b", 1).unwrap(), "registers are apart");
    }
}
