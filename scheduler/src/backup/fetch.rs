//! Reads backups, and checks all that can be checked without a database.

use std::cmp::Reverse;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use windlass_shared::config::{BackupSettings, LedgerSettings};
use windlass_shared::ledger::backup as ledger;

use super::keys::{Signer, hex, identities};
use super::manifest::{Manifest, Part};
use super::pipe::{CHUNKS, opens, unpack};
use super::store::{Entry, Store, id_of};
use super::{BackupError, Progress};

/// A backup of the list.
#[derive(Debug)]
pub struct Listed {
    /// Where it is.
    pub entry: Entry,
    /// Its manifest, or why it is none that can be used.
    pub manifest: Result<Manifest, BackupError>,
}

/// The complete ones, newest first by the instant of the ledger that they hold; then those with a manifest that cannot be
/// used.
pub async fn list(settings: &BackupSettings) -> Result<Vec<Listed>, BackupError> {
    let (store, signer) = (Store::open(settings)?, Signer::of(settings)?);
    let mut found = Vec::new();
    for entry in store.entries().await?.into_iter().filter(|entry| entry.complete) {
        let manifest = match read(&store, &signer, &entry.id).await {
            Err(error) if error.is_passing() => return Err(error),
            manifest => manifest,
        };
        found.push(Listed { entry, manifest });
    }
    found.sort_by_key(|one| Reverse(one.manifest.as_ref().ok().map(|manifest| manifest.origin.at)));
    Ok(found)
}

/// The newest one that is ours, if there is one.
pub async fn newest(settings: &BackupSettings) -> Result<Option<Manifest>, BackupError> {
    Ok(list(settings).await?.into_iter().find_map(|one| one.manifest.ok()))
}

/// A manifest, its signature checked.
pub async fn manifest(settings: &BackupSettings, id: &str) -> Result<Manifest, BackupError> {
    read(&Store::open(settings)?, &Signer::of(settings)?, id).await
}

pub(super) async fn read(
    store: &Store,
    signer: &Signer,
    id: &str,
) -> Result<Manifest, BackupError> {
    let id = id_of(id).ok_or_else(|| BackupError::NotFound("of such an id".into()))?;
    let bytes = store.manifest(&id).await?.ok_or_else(|| BackupError::NotFound(id.clone()))?;
    Manifest::decode(&bytes, &id, signer)
}

/// A backup that was found whole, ready to be restored.
pub struct Checked {
    /// What it is.
    pub manifest: Manifest,
    parts: Parts,
}

/// Checks the signature, the schema against this build's, that it can be decrypted, and every byte of every part.
pub async fn check(
    settings: &BackupSettings,
    into: &LedgerSettings,
    id: &str,
    progress: Progress<'_>,
) -> Result<Checked, BackupError> {
    let (store, signer) = (Store::open(settings)?, Signer::of(settings)?);
    let manifest = read(&store, &signer, id).await?;
    let (found, ours) = (manifest.origin.schema, ledger::schema_version(into));
    let is_sqlite = manifest.origin.database == "sqlite";
    if is_sqlite != into.is_sqlite() {
        let other = &manifest.origin.database;
        return Err(BackupError::OtherDatabase(format!(
            "the backup is of a ledger on {other}; the target is another sort of database"
        )));
    }
    if found != ours {
        return Err(BackupError::OtherSchema { found, ours });
    }
    let (id, list) = (manifest.id.clone(), manifest.parts.clone());
    let parts = Parts::check(settings, store, id, list, manifest.encrypted, progress).await?;
    Ok(Checked { manifest, parts })
}

impl Checked {
    /// See [`Parts::dump`].
    pub(super) fn dump(
        self,
    ) -> (Manifest, mpsc::Receiver<Bytes>, impl Future<Output = Result<(), BackupError>> + Send)
    {
        let (dump, over) = self.parts.dump();
        (self.manifest, dump, over)
    }
}

/// Parts that were found whole.
pub(super) struct Parts {
    store: Store,
    id: String,
    list: Vec<Part>,
    encrypted: bool,
    identities: Vec<age::x25519::Identity>,
}

impl Parts {
    /// Checks that they can be decrypted, and every byte of each.
    pub(super) async fn check(
        settings: &BackupSettings,
        store: Store,
        id: String,
        list: Vec<Part>,
        encrypted: bool,
        progress: Progress<'_>,
    ) -> Result<Self, BackupError> {
        store.note_reader(&id).await;
        let identities = if encrypted { identities(settings)? } else { Vec::new() };
        let mut total = 0;
        for (number, part) in list.iter().enumerate() {
            let bytes = part_of(&store, &id, number, part).await?;
            if number == 0 && encrypted && !opens(&bytes, &identities) {
                return Err(BackupError::ForeignRecipient);
            }
            total += part.bytes;
            progress("checked", total);
        }
        Ok(Self { store, id, list, encrypted, identities })
    }

    /// What is in them, in chunks. Every part is checked once more: the store may have changed since. The channel ends
    /// early when something is wrong; what, the future says.
    pub(super) fn dump(
        self,
    ) -> (mpsc::Receiver<Bytes>, impl Future<Output = Result<(), BackupError>> + Send) {
        let Self { store, id, list, encrypted, identities } = self;
        let (sender, parts) = mpsc::channel(1);
        let (out, dump) = mpsc::channel(CHUNKS);
        let unpacking =
            tokio::task::spawn_blocking(move || unpack(parts, &out, encrypted, &identities));
        let fetching = tokio::spawn(async move {
            for (number, part) in list.iter().enumerate() {
                let bytes = part_of(&store, &id, number, part).await?;
                if sender.send(bytes).await.is_err() {
                    // Unpacking has ended, and says why.
                    break;
                }
            }
            Ok::<_, BackupError>(())
        });
        let over = async move {
            fetching.await.expect("fetching does not panic")?;
            unpacking.await.expect("unpacking does not panic").map_err(BackupError::Decode)
        };
        (dump, over)
    }
}

async fn part_of(
    store: &Store,
    id: &str,
    number: usize,
    part: &Part,
) -> Result<Bytes, BackupError> {
    let bytes = store.part_of(id, number, part.bytes).await?;
    let (bytes, sum) = tokio::task::spawn_blocking(move || {
        let sum = hex(&Sha256::digest(&bytes));
        (bytes, sum)
    })
    .await
    .expect("hashing does not panic");
    if sum != part.sha256 { Err(BackupError::PartDamaged(number)) } else { Ok(bytes) }
}
