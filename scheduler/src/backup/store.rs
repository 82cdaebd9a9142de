//! Where backups are: a folder, or any object store.
//!
//! Names are made of ids and numbers only: `ID/part-00000`, `ID/manifest`, and `running` beside them (`claim`). Base
//! backups and WAL have folders of their own ([`super::wal`]).

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use uuid::Uuid;
use windlass_shared::model::time::Timestamp;

use windlass_shared::config::BackupSettings;

use super::{BackupError, durable};

pub(super) mod claim;

/// Environment variables of these beginnings say how object stores are reached.
const CREDENTIALS: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];
/// Of those, where S3 is.
const ENDPOINTS: [&str; 3] = ["aws_endpoint_url", "aws_endpoint_url_s3", "aws_endpoint"];
/// A request that takes longer has failed: for a part of the usual size on a line of 2.5 Mbit/s. `AWS_TIMEOUT` and its
/// like say otherwise.
const REQUEST_MAX: Duration = Duration::from_secs(120);

/// An open store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) prefix: Path,
    /// Of a folder: files are kept from other users of the machine.
    folder: Option<PathBuf>,
}

/// A folder of the store that is named like a backup.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// Whether there is a manifest.
    pub complete: bool,
    /// The latest change of anything in it.
    pub changed_at: Timestamp,
    /// Somebody began to read it last.
    pub read_at: Option<Timestamp>,
}

impl Store {
    /// Opens the store of these settings; a folder is made if need be (mode 0700).
    ///
    /// # Errors
    /// The address cannot be read.
    pub fn open(settings: &BackupSettings) -> Result<Self, BackupError> {
        let text = settings.store.as_str();
        if let Some(folder) = folder_of(text) {
            let what = format!("cannot make the folder of backups {}", folder.display());
            durable::make(&folder).map_err(BackupError::file(what))?;
            return Self::in_folder(folder);
        }
        let wrong = || {
            BackupError::Settings(
                "backup.store is not an address of a folder or an object store".into(),
            )
        };
        let url: reqwest::Url = text.parse().map_err(|_| wrong())?;
        if !matches!(url.scheme(), "s3" | "s3a" | "gs" | "az" | "azure" | "abfs" | "abfss") {
            return Err(wrong());
        }
        let options = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| CREDENTIALS.iter().any(|prefix| name.starts_with(prefix)))
            .map(|(name, value)| (name.to_ascii_lowercase(), value));
        let options: Vec<(String, String)> = options.collect();
        if url.scheme().starts_with("s3") {
            refuse_plain_http(&options)?;
        }
        let timeout = ("timeout".to_owned(), format!("{} s", REQUEST_MAX.as_secs()));
        let options = std::iter::once(timeout).chain(options);
        let (objects, prefix) = object_store::parse_url_opts(&url, options)?;
        Ok(Self { objects: objects.into(), prefix, folder: None })
    }

    fn in_folder(folder: PathBuf) -> Result<Self, BackupError> {
        let objects = LocalFileSystem::new_with_prefix(&folder)?.with_fsync(true);
        Ok(Self { objects: Arc::new(objects), prefix: Path::default(), folder: Some(folder) })
    }

    /// Opens a part of the store, with names of its own. In a folder nothing is made: where the folder is not mounted,
    /// everything would go to the disk below, and be gone from sight later.
    ///
    /// # Errors
    /// [`BackupError::Server`]: it is not there.
    pub(super) fn open_part(settings: &BackupSettings, name: &str) -> Result<Self, BackupError> {
        let Some(folder) = folder_of(&settings.store) else {
            return Ok(Self::open(settings)?.under(name));
        };
        if !folder.is_absolute() {
            return Err(BackupError::Settings(
                "backup.store must begin with a slash: PostgreSQL runs commands in its data directory"
                    .into(),
            ));
        }
        let part = folder.join(name);
        match std::fs::metadata(&part) {
            // Its own root, so that it is not made later either.
            Ok(_) => Self::in_folder(part),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(BackupError::Server(format!(
                    "there is no folder {}: is it mounted? It is made once, by hand (docs/point-in-time.md)",
                    part.display()
                )))
            }
            Err(error) => {
                Err(BackupError::file(format!("cannot look into {}", part.display()))(error))
            }
        }
    }

    /// One in memory, which replaces on conditions as object stores do.
    #[cfg(test)]
    pub(super) fn in_memory() -> Self {
        let objects = Arc::new(object_store::memory::InMemory::new());
        Self { objects, prefix: Path::from("of/ours"), folder: None }
    }

    /// A part of it, with names of its own.
    pub(super) fn under(self, name: &str) -> Self {
        Self { prefix: self.prefix.join(name), ..self }
    }

    fn path(&self, id: &str, name: &str) -> Path {
        self.prefix.clone().join(id).join(name)
    }

    fn part(&self, id: &str, part: usize) -> Path {
        self.path(id, &format!("part-{part:05}"))
    }

    /// Of a store that is a folder: the file of an object.
    fn file(&self, path: &Path) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(path.as_ref()))
    }

    /// Whether it is a folder of this machine.
    pub(super) fn is_folder(&self) -> bool {
        self.folder.is_some()
    }

    /// Stores an object durably. In a folder that is there: it was mounted when it was opened, and may be no more.
    pub(super) async fn put(
        &self,
        path: &Path,
        bytes: Bytes,
        mode: PutMode,
    ) -> Result<(), object_store::Error> {
        let options = PutOptions { mode, ..PutOptions::default() };
        if let (Some(file), Some(root)) = (self.file(path), self.folder.clone()) {
            on_disk(move || durable::make_in(&root, file.parent().unwrap_or(&root))).await?;
        }
        self.objects.put_opts(path, PutPayload::from_bytes(bytes), options).await?;
        if let Some(file) = self.file(path) {
            // The folder keeps others out already; this is for copies that are made of it.
            let _ = tokio::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).await;
        }
        Ok(())
    }

    /// Of a store that is a folder: writes to disk an object that is there, and the way to it. Who has put it may have been
    /// killed before.
    pub(super) async fn settle(&self, path: &Path) -> Result<(), object_store::Error> {
        let (Some(file), Some(root)) = (self.file(path), self.folder.clone()) else {
            return Ok(());
        };
        on_disk(move || {
            let mut way = file.ancestors().take_while(|path| path.starts_with(&root));
            way.try_for_each(durable::sync)
        })
        .await
    }

    /// Of a store that is a folder: removes what writers that were killed have left under `path`; `until`: what is younger
    /// stays.
    pub(super) async fn sweep(&self, path: &Path, until: Option<Timestamp>) {
        let Some(folder) = self.file(path) else { return };
        let until = until.map(|at| {
            let since_1970 = at.since(Timestamp::default());
            std::time::SystemTime::UNIX_EPOCH + since_1970
        });
        // What stays is in nobody's way.
        let _ = on_disk(move || {
            durable::sweep(&folder, until);
            Ok(())
        })
        .await;
    }

    /// Stores a part. Ids are given once: what it may replace is the same part, whose answer was lost.
    pub(super) async fn put_part(
        &self,
        id: &str,
        part: usize,
        bytes: Bytes,
    ) -> Result<(), BackupError> {
        Ok(self.put(&self.part(id, part), bytes, PutMode::Overwrite).await?)
    }

    /// Stores the manifest. From then on there is a backup. May be repeated.
    pub(super) async fn put_manifest(&self, id: &str, bytes: Bytes) -> Result<(), BackupError> {
        let path = self.path(id, "manifest");
        self.put(&path, bytes, PutMode::Overwrite).await?;
        Ok(self.settle(&path).await?)
    }

    /// Stores the report of the latest drill of a backup.
    pub(super) async fn put_report(&self, id: &str, bytes: Bytes) -> Result<(), BackupError> {
        Ok(self.put(&self.path(id, "drill"), bytes, PutMode::Overwrite).await?)
    }

    /// Says that somebody begins to read a backup, so that it is not removed meanwhile.
    pub(super) async fn note_reader(&self, id: &str) {
        // Who may only read the store restores all the same.
        let _ =
            self.put(&self.path(id, "read"), Bytes::from_static(b"read"), PutMode::Overwrite).await;
    }

    /// The report of the latest drill.
    pub(super) async fn report(&self, id: &str) -> Result<Option<Bytes>, BackupError> {
        self.get(&self.path(id, "drill"), super::manifest::BYTES_MAX).await
    }

    /// A part of exactly so many bytes; `None`: it is not there.
    ///
    /// # Errors
    /// [`BackupError::PartSize`], without reading it.
    pub(super) async fn part_of(
        &self,
        id: &str,
        part: usize,
        expected: u64,
    ) -> Result<Bytes, BackupError> {
        let found = match self.objects.get(&self.part(id, part)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(BackupError::MissingPart(part));
            }
            Err(error) => return Err(error.into()),
        };
        if found.meta.size != expected {
            return Err(BackupError::PartSize { part, found: found.meta.size, expected });
        }
        Ok(found.bytes().await?)
    }

    /// The manifest; `None`: there is none.
    pub(super) async fn manifest(&self, id: &str) -> Result<Option<Bytes>, BackupError> {
        self.get(&self.path(id, "manifest"), super::manifest::BYTES_MAX).await
    }

    async fn get(&self, path: &Path, most: u64) -> Result<Option<Bytes>, BackupError> {
        match self.objects.get(path).await {
            Ok(found) if found.meta.size > most => {
                Err(BackupError::BadManifest(format!("it has {} bytes", found.meta.size)))
            }
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What is there, in the order of ids, the latest first. Anything that is not named like a backup is left alone.
    pub async fn entries(&self) -> Result<Vec<Entry>, BackupError> {
        let found = match self.objects.list_with_delimiter(Some(&self.prefix)).await {
            Ok(found) => found,
            // A list does not say that it was refused; a read does.
            Err(error) => return Err(self.claimed().await.err().unwrap_or(error.into())),
        };
        let mut entries = Vec::new();
        for folder in found.common_prefixes {
            let Some(id) = folder.filename().and_then(id_of) else { continue };
            let objects: Vec<_> = self.objects.list(Some(&folder)).try_collect().await?;
            let complete =
                objects.iter().any(|object| object.location.filename() == Some("manifest"));
            let at = |object: &object_store::ObjectMeta| {
                Timestamp::from_millis(object.last_modified.timestamp_millis())
            };
            let changed_at = objects.iter().map(at).max().unwrap_or_default();
            let read_at =
                objects.iter().find(|object| object.location.filename() == Some("read")).map(at);
            entries.push(Entry { id, complete, changed_at, read_at });
        }
        entries.sort_by(|a, b| b.id.cmp(&a.id));
        Ok(entries)
    }

    /// Removes a backup: the manifest first, so that what is left of it half-way is none.
    pub(super) async fn remove(&self, id: &str) -> Result<(), BackupError> {
        match self.objects.delete(&self.path(id, "manifest")).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let folder = self.prefix.clone().join(id);
        let objects: Vec<_> = self.objects.list(Some(&folder)).try_collect().await?;
        for object in objects {
            match self.objects.delete(&object.location).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.sweep(&folder, None).await;
        if let Some(root) = &self.folder {
            // Not empty only when somebody else put something there.
            let _ = tokio::fs::remove_dir(root.join(self.prefix.as_ref()).join(id)).await;
        }
        Ok(())
    }
}

/// Does what blocks elsewhere.
async fn on_disk(
    work: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) -> Result<(), object_store::Error> {
    let done = tokio::task::spawn_blocking(work).await.expect("it does not panic");
    done.map_err(|error| object_store::Error::Generic { store: "folder", source: error.into() })
}

/// An id, where the text is one and nothing else: what becomes part of a path.
pub fn id_of(text: &str) -> Option<String> {
    let id: Uuid = text.parse().ok()?;
    (id.to_string() == text).then_some(id.to_string())
}

/// The time, as files say it: in whole milliseconds.
pub(super) fn now() -> Timestamp {
    Timestamp::from_millis(windlass_shared::clock::Clock::System.now().millis())
}

/// An endpoint of S3 without TLS must be meant: without that, every request would fail, again and again.
fn refuse_plain_http(options: &[(String, String)]) -> Result<(), BackupError> {
    let is_plain = |(name, value): &&(String, String)| {
        ENDPOINTS.contains(&name.as_str()) && value.starts_with("http://")
    };
    let is_meant = |(name, value): &(String, String)| {
        let yes = ["1", "true", "on", "yes", "y"];
        name == "aws_allow_http" && yes.contains(&value.to_ascii_lowercase().as_str())
    };
    let Some((name, _)) = options.iter().find(is_plain) else { return Ok(()) };
    if options.iter().any(is_meant) {
        return Ok(());
    }
    let name = name.to_ascii_uppercase();
    Err(BackupError::Settings(format!(
        "{name} is plain http: set AWS_ALLOW_HTTP=true where that is meant"
    )))
}

fn folder_of(text: &str) -> Option<PathBuf> {
    if let Some(path) = text.strip_prefix("file://") {
        return Some(PathBuf::from(path));
    }
    (!text.contains("://")).then(|| PathBuf::from(text))
}
