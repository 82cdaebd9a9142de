//! Makes base backups: all files of a PostgreSQL server, copied by `pg_basebackup` while it runs.

use std::cmp::Reverse;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use windlass_shared::config::{BackupSettings, LedgerSettings};
use windlass_shared::ledger::wal::{self as ledger, Archiver, Server};
use windlass_shared::model::id::LedgerId;
use windlass_shared::model::time::Timestamp;

use super::archive::Archive;
use super::extract::{FileManifest, MANIFEST};
use super::name::{Lsn, Name};
use super::reach::{Reach, reach_of};
use super::tar::{Entry, Reader, Sink};
use super::{BASES, CONTROL, WAL, history, retain, server, system_in};
use crate::backup::create::{keep_claim, store_parts};
use crate::backup::keys::{Signer, recipients};
use crate::backup::manifest::{PARTS_MAX, Part};
use crate::backup::pipe::{CHUNKS, Cut, pack};
use crate::backup::seal::{seal, unseal};
use crate::backup::store::{Store, id_of};
use crate::backup::{BackupError, Progress, pg};

/// The format of manifests.
const FORMAT: u32 = 1;
/// Longest time without a byte and without a file that was archived: PostgreSQL then waits for a checkpoint, or for its
/// archive, for too long.
const SILENCE_MAX: Duration = Duration::from_secs(180);
/// Longest of the files that are looked into.
const KEPT_MAX: usize = 512 << 20;

/// What a base backup is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Base {
    format: u32,
    key: String,
    /// Its id: a UUIDv7.
    pub id: String,
    /// Build that made it.
    pub made_by: String,
    /// Of which ledger. The server may hold other databases: they are in it as well.
    pub ledger: LedgerId,
    /// Major version of the server.
    pub version: i32,
    /// The identifier that `initdb` gave the server.
    pub system: String,
    /// Bytes of a file of WAL.
    pub segment_bytes: u64,
    /// The timeline on which it was made.
    pub timeline: u32,
    /// WAL is needed from here on,
    pub start: Lsn,
    /// and to here at least.
    pub end: Lsn,
    /// Ledger time when it was complete: the earliest instant to which it can be recovered.
    pub from: Timestamp,
    /// Whether the parts are encrypted (age).
    pub encrypted: bool,
    /// Bytes before compression.
    pub tar_bytes: u64,
    /// In order.
    pub parts: Vec<Part>,
}

impl Base {
    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// The segments without which it is nothing.
    pub(super) fn needed(&self) -> impl Iterator<Item = Name> + use<> {
        let (timeline, size) = (self.timeline, self.segment_bytes);
        (self.first_segment()..=self.last_segment()).map(move |n| Name::of(timeline, n, size))
    }

    pub(super) fn first_segment(&self) -> u64 {
        self.start.0 / self.segment_bytes
    }

    /// The one with the last byte that is needed.
    fn last_segment(&self) -> u64 {
        self.end.0.saturating_sub(1) / self.segment_bytes
    }

    pub(super) fn archive(&self, settings: &BackupSettings) -> Result<Archive, BackupError> {
        let bad = |_| BackupError::BadManifest("it names no server".into());
        Archive::open(settings, self.system.parse().map_err(bad)?)
    }

    fn decode(bytes: &[u8], id: &str, signer: &Signer) -> Result<Self, BackupError> {
        let bad = |why: &str| BackupError::BadManifest(why.into());
        let (text, _) = unseal(bytes, signer, FORMAT)?;
        let base: Self = serde_json::from_slice(text).map_err(|_| bad("a field is missing"))?;
        if base.id != id {
            return Err(bad("it is another backup's"));
        }
        let is_sane = base.segment_bytes.is_power_of_two() && base.start < base.end;
        if base.parts.is_empty() || base.parts.len() > PARTS_MAX || !is_sane {
            return Err(bad("it makes no sense"));
        }
        Ok(base)
    }
}

/// A base backup of the list.
#[derive(Debug)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// What it is and how far it reaches, or why it cannot be used.
    pub base: Result<(Base, Reach), BackupError>,
}

/// The complete ones, newest first by the earliest instant that they lead to; then those that cannot be used.
pub async fn list(settings: &BackupSettings) -> Result<Vec<Listed>, BackupError> {
    let (store, signer) = open(settings)?;
    let mut found = Vec::new();
    for entry in store.entries().await?.into_iter().filter(|entry| entry.complete) {
        let reached = async {
            let base = read(&store, &signer, &entry.id).await?;
            let reach = reach_of(&base, &base.archive(settings)?, None).await?;
            Ok((base, reach))
        };
        let base = reached.await;
        found.push(Listed { id: entry.id, base });
    }
    found.sort_by_key(|one| Reverse(one.base.as_ref().ok().map(|(base, _)| base.from)));
    Ok(found)
}

/// The store of base backups. It must hold a folder of WAL: where there is none, nothing is mounted, and nothing is made.
fn open(settings: &BackupSettings) -> Result<(Store, Signer), BackupError> {
    Store::open_part(settings, WAL)?;
    Ok((Store::open(settings)?.under(BASES), Signer::of(settings)?))
}

/// A manifest, its signature checked.
pub(super) async fn read(store: &Store, signer: &Signer, id: &str) -> Result<Base, BackupError> {
    let id = id_of(id).ok_or_else(|| BackupError::NotFound("of such an id".into()))?;
    let bytes = store.manifest(&id).await?.ok_or_else(|| BackupError::NotFound(id.clone()))?;
    Base::decode(&bytes, &id, signer)
}

/// Makes a base backup of the server of a ledger, which may be in use, and removes old ones with the WAL that only they
/// needed. `from`: the ledger's database, as a role that may replicate. What is left when it is dropped or stopped
/// half-way has no manifest, and is removed after a day.
///
/// # Errors
/// [`BackupError::Server`]: the server does not allow it, or its WAL does not reach this store.
/// [`BackupError::Busy`]: another one is being made.
pub async fn create(
    settings: &BackupSettings,
    from: &LedgerSettings,
    progress: Progress<'_>,
    stop: &CancellationToken,
) -> Result<Base, BackupError> {
    let (store, signer) = open(settings)?;
    let server = ledger::look_at_server(from).await?;
    server::allows(&server)?;
    let id = Uuid::now_v7().to_string();
    let making = async {
        store.claim(&id).await?;
        tokio::select! {
            made = make(settings, from, &server, &store, &signer, &id, progress) => made,
            lost = keep_claim(&store, &id) => Err(lost),
        }
    };
    let made = stop.run_until_cancelled(making).await.unwrap_or(Err(BackupError::Stopped));
    if let Ok(base) = &made {
        tracing::info!(backup = id, bytes = base.bytes(), "made a base backup");
        // As long as nobody else makes one: its WAL must not go before its manifest is there.
        tokio::select! {
            retained = retain::retain(settings, &store, &signer, base) => {
                // What could not be removed now is removed after the next one.
                if let Err(error) = retained {
                    tracing::warn!(%error, "old base backups or their WAL could not be removed");
                }
            }
            _ = keep_claim(&store, &id) => {}
            () = stop.cancelled() => {}
        }
    }
    store.give_up_claim(&id).await;
    made
}

async fn make(
    settings: &BackupSettings,
    from: &LedgerSettings,
    server: &Server,
    store: &Store,
    signer: &Signer,
    id: &str,
    progress: Progress<'_>,
) -> Result<Base, BackupError> {
    let whom = Arc::new(recipients(settings)?);
    let encrypted = !whom.is_empty();
    let (dump, chunks) = mpsc::channel(CHUNKS);
    let (cut, parts) = mpsc::channel::<Cut>(1);
    let part_bytes = settings.part_bytes;
    let packing = tokio::task::spawn_blocking(move || pack(chunks, cut, part_bytes, &whom));
    let storing = store_parts(store, id, parts, progress);
    let (read, stored) = tokio::join!(copy(from, server, dump), storing);
    let packed = packing.await.expect("packing does not panic");
    // In this order: when storing ends, the others only say that nobody listens any more.
    let parts = stored?;
    let kept = read?;
    let tar_bytes = packed.map_err(BackupError::Decode)?;
    let after = ledger::look_at_server(from).await?;
    let system = system_in(&kept.control);
    let (Some(system), Some(range)) = (system, FileManifest::decode(&kept.manifest)?.range())
    else {
        return Err(BackupError::Tool("pg_basebackup left out what a server needs".into()));
    };
    let base = Base {
        format: FORMAT,
        key: signer.name(),
        id: id.to_owned(),
        made_by: env!("CARGO_PKG_VERSION").to_owned(),
        ledger: server.ledger,
        version: server.version,
        system: system.to_string(),
        segment_bytes: server.segment_bytes.unsigned_abs(),
        timeline: range.timeline,
        start: range.start,
        end: range.end,
        // As files say it; up, so that it stays true.
        from: Timestamp::from_millis(after.now.millis() + 1),
        encrypted,
        tar_bytes,
        parts,
    };
    // PostgreSQL says that its archive has all of it. Whether that is this one, only a look can tell.
    let there = base.archive(settings)?.names().await?;
    if let Some(missing) = base.needed().find(|name| !there.contains(name)) {
        return Err(BackupError::Server(format!(
            "PostgreSQL has archived its WAL, but {missing} is not in this store: archive_command must be `windlass backup wal-push %p` with the same backup.store"
        )));
    }
    if history::lost(&there).contains(&base.timeline) {
        let lost = Name::history(base.timeline);
        return Err(BackupError::Server(format!(
            "{lost} is not in this store, although WAL of older timelines is: archive it on the server, in its data directory, by `windlass backup wal-push pg_wal/{lost}`"
        )));
    }
    store.put_manifest(id, seal(&base, signer).into()).await?;
    Ok(base)
}

/// Sends all files of a server as one tar stream, and returns those of them that say what it is.
async fn copy(
    from: &LedgerSettings,
    server: &Server,
    to: mpsc::Sender<Bytes>,
) -> Result<Kept, BackupError> {
    let program = pg::client("pg_basebackup", server.version).await?;
    let mut command = pg::command(&program);
    command.envs(pg::environment(from)?).env("PGAPPNAME", "windlass base backup");
    // Without WAL, PostgreSQL ends only when all that it takes was archived.
    command.args(["--pgdata=-", "--format=tar", "--wal-method=none", "--checkpoint=fast"]);
    command.args(["--manifest-checksums=SHA256", "--no-password", "--label=windlass"]);
    let running =
        pg::Running::start("pg_basebackup", command.stdout(std::process::Stdio::piped()))?;
    let (out, mut chunks) = mpsc::channel::<Bytes>(CHUNKS);
    // Owns the sender, so that the channel ends with the program.
    let pumping = async move { running.pump(&out).await };
    let watching = async {
        let mut reader = Reader::new(Kept::default());
        let mut archiver = server.archiver.clone();
        loop {
            let Ok(next) = tokio::time::timeout(SILENCE_MAX, chunks.recv()).await else {
                let now = ledger::look_at_server(from).await?.archiver;
                if !goes_on(&archiver, &now) {
                    return Err(BackupError::Server(format!(
                        "PostgreSQL sent nothing for {} s: see in its log whether archive_command works",
                        SILENCE_MAX.as_secs()
                    )));
                }
                archiver = now;
                continue;
            };
            let Some(chunk) = next else { break };
            reader.feed(&chunk).map_err(BackupError::Decode)?;
            if to.send(chunk).await.is_err() {
                return Err(BackupError::Stopped);
            }
        }
        Ok(reader)
    };
    let (_, reader) = tokio::try_join!(pumping, watching).map_err(with_hint)?;
    reader.finish().map_err(BackupError::Decode)
}

/// Whether there is progress in what PostgreSQL waits for: it may have much to archive.
fn goes_on(before: &Archiver, now: &Archiver) -> bool {
    now.fails_at().is_none() && now.last_archived > before.last_archived
}

/// The one setting that nobody but a superuser can look up.
fn with_hint(error: BackupError) -> BackupError {
    match error {
        BackupError::Tool(why) if why.contains("pg_hba.conf") => BackupError::Server(format!(
            "{why}; add a line to pg_hba.conf such as `host replication ROLE ADDRESS scram-sha-256`, and reload the server"
        )),
        other => other,
    }
}

/// Files of the stream that say what it is.
#[derive(Default)]
struct Kept {
    control: Vec<u8>,
    manifest: Vec<u8>,
    now: Option<&'static str>,
}

impl Sink for Kept {
    fn begin(&mut self, entry: &Entry) -> io::Result<()> {
        self.now = [CONTROL, MANIFEST].into_iter().find(|name| *name == entry.path);
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let kept = match self.now {
            Some(CONTROL) => &mut self.control,
            Some(_) => &mut self.manifest,
            None => return Ok(()),
        };
        if kept.len() + bytes.len() > KEPT_MAX {
            return Err(io::Error::other("the server has too many files"));
        }
        kept.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archiving_goes_on_while_files_are_archived_and_the_latest_did_not_fail() {
        let of = |archived: i64, failed: Option<i64>| Archiver {
            last_archived: Some(Timestamp::from_millis(archived)),
            last_failed: failed.map(|at| (Timestamp::from_millis(at), "x".to_owned())),
        };
        let before = of(5, Some(3));
        assert!(goes_on(&before, &of(6, Some(3))));
        assert!(!goes_on(&before, &of(5, Some(3))) && !goes_on(&before, &of(6, Some(7))));
    }
}
