//! Makes a backup.

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
use super::scratch::Scratch;
use super::store::claim::EVERY;
use super::store::{Store, now};
use super::{BackupError, Progress, drill, pg, retain};

/// Makes a backup of the ledger, which may be in use, and removes old ones, and what drills have left. At `stop` it gives
/// back the claim and ends; when dropped, the claim holds up the next backup for a while. What is left of one that was not
/// completed has no manifest, and is removed after a day.
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
    let making = async {
        store.claim(&id).await?;
        tokio::select! {
            made = make(settings, from, &store, &signer, &id, progress) => made,
            lost = keep_claim(&store, &id) => Err(lost),
        }
    };
    let made = stop.run_until_cancelled(making).await.unwrap_or(Err(BackupError::Stopped));
    if let Ok(made) = &made {
        // As long as nobody else makes one.
        tokio::select! {
            () = clear_up(settings, from, &store, &signer, made) => {}
            _ = keep_claim(&store, &id) => {}
            () = stop.cancelled() => {}
        }
    }
    store.give_up_claim(&id).await;
    made
}

/// The backup is made; what cannot be removed now is removed after the next one.
async fn clear_up(
    settings: &BackupSettings,
    from: &LedgerSettings,
    store: &Store,
    signer: &Signer,
    made: &Manifest,
) {
    let (bytes, rows) = (made.bytes(), made.contents.rows());
    tracing::info!(backup = made.id, bytes, rows, "made a backup");
    if let Err(error) = retain::retain(settings, store, signer, made).await {
        tracing::warn!(%error, "old backups could not be removed");
    }
    if !from.is_sqlite() {
        drill::drop_left_overs(&drill::server(settings, from)).await;
    }
}

/// Until it is lost. One that cannot be extended for a while is not lost yet.
pub(super) async fn keep_claim(store: &Store, id: &str) -> BackupError {
    loop {
        tokio::time::sleep(EVERY).await;
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
