//! Makes a backup.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use windlass_shared::config::{BackupSettings, LedgerSettings};
use windlass_shared::failpoint;
use windlass_shared::ledger::backup::{self as ledger, Contents, Origin, Snapshot};
use windlass_shared::model::time::Timestamp;

use super::keys::{Signer, recipients};
use super::manifest::{FORMAT, Manifest, Part};
use super::pipe::{CHUNK, CHUNKS, Cut, pack};
use super::store::{CLAIM_EVERY, Store, now};
use super::{BackupError, Progress, pg, retain};

/// Makes a backup of the ledger, which may be in use, and removes old ones. When dropped or stopped half-way, what is
/// left has no manifest, and is removed after a day.
///
/// # Errors
/// [`BackupError::Busy`]: another one is being made.
pub async fn create(
    settings: &BackupSettings,
    from: &LedgerSettings,
    progress: Progress<'_>,
    stop: &CancellationToken,
) -> Result<Manifest, BackupError> {
    let (store, signer) = (Store::open(settings)?, Signer::of(settings)?);
    let id = Uuid::now_v7().to_string();
    store.claim(&id).await?;
    let making = make(settings, from, &store, &signer, &id, progress);
    let made = tokio::select! {
        biased;
        () = stop.cancelled() => Err(BackupError::Stopped),
        made = making => made,
        lost = keep_claim(&store, &id) => Err(lost),
    };
    store.give_up_claim(&id).await;
    let manifest = made?;
    tracing::info!(
        backup = id,
        bytes = manifest.bytes(),
        rows = manifest.contents.rows(),
        "made a backup"
    );
    // The backup is made; what could not be removed now is removed after the next one.
    if let Err(error) = retain::retain(settings, &store, &signer).await {
        tracing::warn!(%error, "old backups could not be removed");
    }
    Ok(manifest)
}

/// Until it is lost. One that cannot be extended for a while is not lost yet.
pub(super) async fn keep_claim(store: &Store, id: &str) -> BackupError {
    loop {
        tokio::time::sleep(CLAIM_EVERY).await;
        match store.extend_claim(id).await {
            Err(error @ BackupError::Busy(_)) => return error,
            Err(error) => tracing::warn!(%error, "cannot say that a backup is still being made"),
            Ok(()) => {}
        }
    }
}

async fn make(
    settings: &BackupSettings,
    from: &LedgerSettings,
    store: &Store,
    signer: &Signer,
    id: &str,
    progress: Progress<'_>,
) -> Result<Manifest, BackupError> {
    let whom = Arc::new(recipients(settings)?);
    let encrypted = !whom.is_empty();
    let (dump, chunks) = mpsc::channel(CHUNKS);
    let (cut, parts) = mpsc::channel(1);
    let part_bytes = settings.part_bytes;
    let packing = tokio::task::spawn_blocking(move || pack(chunks, cut, part_bytes, &whom));
    let storing = store_parts(store, id, parts, progress);
    let reading = async {
        if from.is_sqlite() {
            read_sqlite(from, dump).await
        } else {
            read_postgres(from, dump).await
        }
    };
    let (read, stored) = tokio::join!(reading, storing);
    let packed = packing.await.expect("packing does not panic");
    // In this order: when storing ends, the others only say that nobody listens any more.
    let parts = stored?;
    let (mut origin, contents) = read?;
    // As files say it; down, so that it stays true.
    origin.at = Timestamp::from_millis(origin.at.millis());
    let dump_bytes = packed.map_err(BackupError::Decode)?;
    failpoint!("backup.before_manifest");
    let manifest = Manifest {
        format: FORMAT,
        key: signer.name(),
        id: id.to_owned(),
        made_by: env!("CARGO_PKG_VERSION").to_owned(),
        origin,
        contents,
        encrypted,
        dump_bytes,
        finished_at: now(),
        parts,
    };
    store.put_manifest(id, manifest.encode(signer).into()).await?;
    Ok(manifest)
}

pub(super) async fn store_parts(
    store: &Store,
    id: &str,
    mut parts: mpsc::Receiver<Cut>,
    progress: Progress<'_>,
) -> Result<Vec<Part>, BackupError> {
    let (mut stored, mut total) = (Vec::new(), 0);
    while let Some((part, bytes)) = parts.recv().await {
        store.put_part(id, stored.len(), bytes).await?;
        failpoint!("backup.part_stored");
        total += part.bytes;
        stored.push(part);
        progress("stored", total);
    }
    Ok(stored)
}

type Read = Result<(Origin, Contents), BackupError>;

/// The snapshot stays open until `pg_dump` has ended, and both see the same.
async fn read_postgres(from: &LedgerSettings, dump: mpsc::Sender<Bytes>) -> Read {
    let mut snapshot = Snapshot::open(from).await?;
    let pg_dump = pg::client("pg_dump", snapshot.origin().version).await?;
    let (origin, name) = (snapshot.origin().clone(), snapshot.name().to_owned());
    let dumping = pg::dump(&pg_dump, from, &name, dump);
    let ((), contents) = tokio::try_join!(dumping, async { Ok(snapshot.contents().await?) })?;
    snapshot.end().await;
    Ok((origin, contents))
}

/// SQLite copies itself, since the file of a ledger in use is nothing to copy. The copy is beside it: there is as much
/// room as there was for the ledger itself.
async fn read_sqlite(from: &LedgerSettings, dump: mpsc::Sender<Bytes>) -> Read {
    let scratch = Scratch::beside(&ledger::sqlite_file(from)?)?;
    let copy = scratch.path.join("copy.db");
    let origin = ledger::copy_sqlite(from, &copy).await?;
    let copied = LedgerSettings::new(format!("sqlite://{}", copy.display()));
    let contents = ledger::contents(&copied).await?;
    let mut file =
        tokio::fs::File::open(&copy).await.map_err(BackupError::file("cannot read the copy"))?;
    let mut buffer = bytes::BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        let read =
            file.read_buf(&mut buffer).await.map_err(BackupError::file("cannot read the copy"))?;
        if read == 0 {
            return Ok((origin, contents));
        }
        if dump.send(buffer.split().freeze()).await.is_err() {
            return Err(BackupError::Stopped);
        }
    }
}

/// A folder (mode 0700) that goes when it is dropped; what a killed process leaves, the next one removes.
pub(super) struct Scratch {
    pub(super) path: PathBuf,
}

const SCRATCH: &str = ".windlass-backup-";

impl Scratch {
    /// Beside this file.
    pub(super) fn beside(file: &Path) -> Result<Self, BackupError> {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        Self::within(folder.unwrap_or(Path::new(".")))
    }

    /// In this folder, which is made if need be.
    pub(super) fn within(folder: &Path) -> Result<Self, BackupError> {
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700).recursive(true);
        let what = format!("cannot make a folder in {}", folder.display());
        builder.create(folder).map_err(BackupError::file(what.clone()))?;
        sweep(folder);
        let path =
            folder.join(format!("{SCRATCH}{}-{}", std::process::id(), Uuid::new_v4().simple()));
        builder.recursive(false).create(&path).map_err(BackupError::file(what))?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is swept by the next one.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Removes what processes that are gone have left.
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(SCRATCH)?.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Another one may sweep it at the same time.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
