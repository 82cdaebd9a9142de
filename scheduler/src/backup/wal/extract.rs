//! Writes the files of a base backup, and compares each with PostgreSQL's own list of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::CONTROL;
use super::name::Lsn;
use super::tar::{Entry, Sink};
use crate::backup::keys::hex;
use crate::backup::{BackupError, durable};

/// PostgreSQL's list of what is in a base backup.
pub(super) const MANIFEST: &str = "backup_manifest";

/// That list.
#[derive(Deserialize)]
pub(super) struct FileManifest {
    #[serde(rename = "Files")]
    files: Vec<FileLine>,
    #[serde(rename = "WAL-Ranges")]
    ranges: Vec<Range>,
}

#[derive(Deserialize)]
struct FileLine {
    #[serde(rename = "Path")]
    path: Option<String>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Checksum")]
    checksum: Option<String>,
}

/// The WAL that a base needs.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Range {
    #[serde(rename = "Timeline")]
    pub(super) timeline: u32,
    #[serde(rename = "Start-LSN")]
    pub(super) start: Lsn,
    #[serde(rename = "End-LSN")]
    pub(super) end: Lsn,
}

impl FileManifest {
    pub(super) fn decode(text: &[u8]) -> Result<Self, BackupError> {
        serde_json::from_slice(text).map_err(|error| BackupError::Decode(error.into()))
    }

    /// `None`: there are several, or none. A base of a primary has one.
    pub(super) fn range(&self) -> Option<Range> {
        match self.ranges.as_slice() {
            [range] => Some(range.clone()),
            _ => None,
        }
    }
}

/// Writes into a folder. The control file, without which no server starts, is kept back until [`Extracted::complete`].
pub(super) struct Extract {
    folder: PathBuf,
    /// The file that is being written.
    open: Option<(String, Output, Sha256, u64)>,
    /// Sizes and sums of what was written.
    written: BTreeMap<String, (u64, String)>,
    control: Vec<u8>,
    manifest: Vec<u8>,
}

enum Output {
    File(File),
    Control,
    Manifest,
}

impl Extract {
    pub(super) fn into(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            open: None,
            written: BTreeMap::new(),
            control: Vec::new(),
            manifest: Vec::new(),
        }
    }

    /// Compares what was written with the list.
    ///
    /// # Errors
    /// [`BackupError::Differs`].
    pub(super) fn check(self) -> Result<Extracted, BackupError> {
        let manifest = FileManifest::decode(&self.manifest)?;
        let mut differences = Vec::new();
        for line in &manifest.files {
            // Names that are no text are refused when they are read from the stream.
            let path = line.path.as_deref().unwrap_or_default();
            match self.written.get(path) {
                None => differences.push(format!("file {path} is missing")),
                Some((size, sum))
                    if *size != line.size || line.checksum.as_ref().is_some_and(|c| c != sum) =>
                {
                    differences.push(format!("file {path} differs"));
                }
                Some(_) => {}
            }
        }
        let listed: BTreeSet<&str> =
            manifest.files.iter().filter_map(|line| line.path.as_deref()).collect();
        let written = self.written.keys().filter(|path| *path != MANIFEST);
        for path in written.filter(|path| !listed.contains(path.as_str())) {
            differences.push(format!("file {path} is not on PostgreSQL's list"));
        }
        if manifest.files.is_empty() || self.control.is_empty() {
            differences.push("there is no server in it".into());
        }
        differences.truncate(20);
        if !differences.is_empty() {
            return Err(BackupError::Differs(differences));
        }
        Ok(Extracted { folder: self.folder, control: self.control, manifest: self.manifest })
    }
}

/// A data directory that lacks its control file.
pub(super) struct Extracted {
    folder: PathBuf,
    control: Vec<u8>,
    manifest: Vec<u8>,
}

impl Extracted {
    /// Makes it one that a server starts on. Everything else is on disk before: a server that starts on less than all of it
    /// would not notice.
    pub(super) fn complete(self) -> io::Result<()> {
        create(&self.folder.join(MANIFEST))?.write_all(&self.manifest)?;
        durable::sync_all(&self.folder)?;
        let above = self.folder.parent().filter(|above| !above.as_os_str().is_empty());
        durable::sync(above.unwrap_or(Path::new(".")))?;
        let control = self.folder.join(CONTROL);
        let mut file = create(&control)?;
        file.write_all(&self.control)?;
        file.sync_all()?;
        durable::sync(control.parent().unwrap_or(&self.folder))
    }
}

/// A file for its owner alone, as PostgreSQL demands.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// A folder for its owner alone; one that is there stays.
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl Sink for Extract {
    fn begin(&mut self, entry: &Entry) -> io::Result<()> {
        let path = self.folder.join(&entry.path);
        if entry.bytes.is_none() {
            return create_folder(&path);
        }
        let output = match entry.path.as_str() {
            CONTROL => Output::Control,
            MANIFEST => Output::Manifest,
            _ => Output::File(create(&path)?),
        };
        self.open = Some((entry.path.clone(), output, Sha256::new(), 0));
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (_, output, sum, size) = self.open.as_mut().expect("a file began");
        match output {
            Output::File(file) => file.write_all(bytes)?,
            Output::Control => self.control.extend_from_slice(bytes),
            Output::Manifest => self.manifest.extend_from_slice(bytes),
        }
        sum.update(bytes);
        *size += bytes.len() as u64;
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        let (path, _, sum, size) = self.open.take().expect("a file began");
        self.written.insert(path, (size, hex(&sum.finalize())));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn extract(folder: &Path, files: &[(&str, &[u8])]) -> Extract {
        let mut extract = Extract::into(folder);
        for (path, bytes) in files {
            let bytes_of = Some(bytes.len() as u64);
            extract.begin(&Entry { path: (*path).to_owned(), bytes: bytes_of }).unwrap();
            extract.bytes(bytes).unwrap();
            extract.end().unwrap();
        }
        extract
    }

    fn manifest(files: &[(&str, &[u8])]) -> Vec<u8> {
        let line = |(path, bytes): &(&str, &[u8])| {
            serde_json::json!({
                "Path": path, "Size": bytes.len(), "Checksum": hex(&Sha256::digest(bytes)),
            })
        };
        let files: Vec<_> = files.iter().map(line).collect();
        serde_json::json!({ "Files": files, "WAL-Ranges": [] }).to_string().into_bytes()
    }

    /// Goal: whenever a restore is killed, no server starts on what it leaves: the control file comes last.
    #[test]
    fn the_control_file_comes_last() {
        let folder = tempfile::tempdir().unwrap();
        let files: [(&str, &[u8]); 2] = [(CONTROL, b"control"), ("PG_VERSION", b"15")];
        std::fs::create_dir(folder.path().join("global")).unwrap();
        let list = manifest(&files);
        let extract = extract(folder.path(), &[files[0], files[1], (MANIFEST, &list)]);
        let extracted = extract.check().unwrap();
        let control = folder.path().join(CONTROL);
        assert!(!control.exists() && folder.path().join("PG_VERSION").exists());
        extracted.complete().unwrap();
        assert_eq!(std::fs::read(control).unwrap(), b"control");
    }

    #[test]
    fn what_is_missing_or_differs_is_refused() {
        let there: [(&str, &[u8]); 2] = [(CONTROL, b"control"), ("PG_VERSION", b"15")];
        let missing: [(&str, &[u8]); 3] = [there[0], there[1], ("base/1/1", b"")];
        let differs: [(&str, &[u8]); 2] = [there[0], ("PG_VERSION", b"16")];
        let longer: [(&str, &[u8]); 2] = [there[0], ("PG_VERSION", b"15 ")];
        for (listed, what) in [
            (&missing[..], "base/1/1 is missing"),
            (&differs, "PG_VERSION differs"),
            (&longer, "PG_VERSION differs"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let list = manifest(listed);
            let extract = extract(folder.path(), &[there[0], there[1], (MANIFEST, &list)]);
            let refused = extract.check().err().unwrap().to_string();
            assert!(refused.contains(what), "{refused}");
        }
    }

    fn refused(files: &[(&str, &[u8])], list: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let files = [files, &[(MANIFEST, list)]].concat();
        extract(folder.path(), &files).check().err().expect("it is refused").to_string()
    }

    #[test]
    fn what_is_no_server_is_refused() {
        let said = refused(&[(CONTROL, b"control")], &manifest(&[]));
        assert!(said.contains("no server"), "its list is empty: {said}");
        let version: [(&str, &[u8]); 1] = [("PG_VERSION", b"15")];
        let said = refused(&version, &manifest(&version));
        assert!(said.contains("no server"), "it has no control file: {said}");
        for list in [&b""[..], b"{}", &manifest(&version)[1..]] {
            refused(&[(CONTROL, b"control"), version[0]], list);
        }
    }

    #[test]
    fn what_is_not_on_the_list_is_refused() {
        let listed: [(&str, &[u8]); 2] = [(CONTROL, b"control"), ("PG_VERSION", b"15")];
        let list = manifest(&listed);
        let said = refused(&[listed[0], listed[1], ("1", b"more")], &list);
        assert!(said.contains("file 1 is not on PostgreSQL's list"), "{said}");
    }

    #[test]
    fn files_without_a_sum_in_the_list_are_compared_by_size() {
        let list = serde_json::json!({
            "Files": [{ "Path": "PG_VERSION", "Size": 3 }], "WAL-Ranges": [],
        });
        let said =
            refused(&[(CONTROL, b"control"), ("PG_VERSION", b"15")], list.to_string().as_bytes());
        assert!(said.contains("PG_VERSION differs"), "{said}");
    }

    /// PostgreSQL does not start on what others may read.
    #[test]
    fn all_of_it_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut extract = Extract::into(folder.path());
        extract.begin(&Entry { path: "global".to_owned(), bytes: None }).unwrap();
        extract.begin(&Entry { path: "global/1".to_owned(), bytes: Some(0) }).unwrap();
        let mode = |path| folder.path().join(path).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("global"), mode("global/1")), (0o700, 0o600));
    }

    #[test]
    fn nothing_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut extract = extract(folder.path(), &[("PG_VERSION", b"15")]);
        let again = extract.begin(&Entry { path: "PG_VERSION".to_owned(), bytes: Some(2) });
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let outside = folder.path().join("outside");
        std::fs::write(&outside, "theirs").unwrap();
        std::os::unix::fs::symlink(&outside, folder.path().join("link")).unwrap();
        assert!(extract.begin(&Entry { path: "link".to_owned(), bytes: Some(2) }).is_err());
        assert_eq!(std::fs::read(outside).unwrap(), b"theirs");
    }

    #[test]
    fn the_wal_of_a_base_is_one_range() {
        let range =
            serde_json::json!({ "Timeline": 2, "Start-LSN": "0/2000028", "End-LSN": "0/3" });
        let of = |count| {
            let list = serde_json::json!({ "Files": [], "WAL-Ranges": vec![range.clone(); count] });
            let range = FileManifest::decode(list.to_string().as_bytes()).unwrap().range()?;
            Some((range.timeline, range.start, range.end))
        };
        assert_eq!(of(1), Some((2, Lsn(0x200_0028), Lsn(3))));
        assert_eq!((of(0), of(2)), (None, None));
    }
}
