//! The archive of a server's WAL in the store.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutMode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use windlass_shared::config::BackupSettings;
use windlass_shared::model::time::Timestamp;

use super::WAL;
use super::name::Name;
use crate::backup::BackupError;
use crate::backup::keys::{Signer, hex, identities, recipients};
use crate::backup::manifest::Part;
use crate::backup::pipe::{CHUNKS, opens, pack, unpack};
use crate::backup::seal::{seal, unseal};
use crate::backup::store::Store;

#[cfg(test)]
mod tests;

/// The format of heads.
const FORMAT: u32 = 1;
/// Longest object that is read: PostgreSQL's longest segment, where nothing of it can be compressed.
const BYTES_MAX: u64 = (1 << 30) + (16 << 20);
/// Before the content, where it is signed: it is not told what it hashes to without the key.
const CONTENT: &[u8] = b"windlass wal content v1\0";

/// What a WAL file of the archive is; signed, before its bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Head {
    format: u32,
    key: String,
    system: String,
    name: String,
    /// When the server wrote to it last: everything committed by then is in it, or in those before.
    pub(super) written_at: Timestamp,
    /// Bytes of the file.
    bytes: u64,
    /// A keyed sum of them.
    content: String,
    /// The bytes that follow.
    stored: Part,
    encrypted: bool,
}

/// What became of a file that was to be archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is in the archive now.
    New,
    /// It was in it already, with the same content.
    Same,
}

/// The archive of one server.
pub(super) struct Archive {
    store: Store,
    signer: Signer,
    settings: BackupSettings,
    system: String,
}

impl Archive {
    /// # Errors
    /// [`BackupError::Server`]: the store is a folder, and holds no archive at all.
    pub(super) fn open(settings: &BackupSettings, system: u64) -> Result<Self, BackupError> {
        let store = Store::open_part(settings, WAL)?;
        let signer = Signer::of(settings)?;
        Ok(Self { store, signer, settings: settings.clone(), system: system.to_string() })
    }

    fn folder(&self) -> Path {
        self.store.prefix.clone().join(self.system.as_str())
    }

    fn path(&self, name: &Name) -> Path {
        self.folder().join(format!("{:08X}", name.timeline)).join(name.as_str())
    }

    fn damaged(name: &Name, why: impl Into<String>) -> BackupError {
        BackupError::WalDamaged { name: name.to_string(), why: why.into() }
    }

    /// Puts a file into the archive; durable when this returns. One that was damaged there is put anew.
    ///
    /// # Errors
    /// [`BackupError::WalConflict`]: one of this name has other content.
    pub(super) async fn put(
        &self,
        name: &Name,
        raw: Bytes,
        written_at: Timestamp,
    ) -> Result<Pushed, BackupError> {
        let content = self.content_of(&raw);
        let object = self.object(name, raw, &content, written_at).await?;
        let path = self.path(name);
        match self.store.put(&path, object.clone(), PutMode::Create).await {
            Ok(()) => {
                self.store.settle(&path).await?;
                return Ok(Pushed::New);
            }
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => {}
            Err(error) => return Err(error.into()),
        }
        let object = match self.whole(name, &content).await {
            Ok(Some(_)) if !self.store.is_folder() => return Ok(Pushed::Same),
            // Anew: of what a disk failed to write, it says so once. It reads well from memory afterwards.
            Ok(Some(there)) => there,
            // What nobody can use any more is lost by nobody.
            Ok(None) | Err(BackupError::WalDamaged { .. }) => {
                tracing::warn!(wal = name.as_str(), "replacing a damaged file of the archive");
                object
            }
            Err(error) => return Err(error),
        };
        self.store.put(&path, object, PutMode::Overwrite).await?;
        self.store.settle(&path).await?;
        Ok(Pushed::Same)
    }

    /// The file that is there, where it is whole. It must have this content.
    async fn whole(&self, name: &Name, content: &str) -> Result<Option<Bytes>, BackupError> {
        let there = self.object_of(name).await?.unwrap_or_default();
        let (head, stored) = self.read(name, &there)?;
        if head.content != content {
            return Err(BackupError::WalConflict(name.to_string()));
        }
        let is_whole = is_whole(&head, stored);
        Ok(is_whole.then_some(there))
    }

    fn content_of(&self, raw: &[u8]) -> String {
        self.signer.sign(&[CONTENT, raw].concat())
    }

    async fn object(
        &self,
        name: &Name,
        raw: Bytes,
        content: &str,
        written_at: Timestamp,
    ) -> Result<Bytes, BackupError> {
        let whom = recipients(&self.settings)?;
        let encrypted = !whom.is_empty();
        let bytes = raw.len() as u64;
        let (sender, chunks) = mpsc::channel(1);
        let (cut, mut parts) = mpsc::channel(1);
        sender.try_send(raw).expect("the channel is empty");
        drop(sender);
        let packing = tokio::task::spawn_blocking(move || pack(chunks, cut, usize::MAX, &whom));
        let part = parts.recv().await;
        packing.await.expect("packing does not panic").map_err(BackupError::Decode)?;
        let (stored, payload) = part.expect("what is compressed is never empty");
        let head = Head {
            format: FORMAT,
            key: self.signer.name(),
            system: self.system.clone(),
            name: name.to_string(),
            written_at,
            bytes,
            content: content.to_owned(),
            stored,
            encrypted,
        };
        let mut object = seal(&head, &self.signer);
        object.extend_from_slice(&payload);
        Ok(object.into())
    }

    async fn object_of(&self, name: &Name) -> Result<Option<Bytes>, BackupError> {
        match self.store.objects.get(&self.path(name)).await {
            Ok(found) if found.meta.size > BYTES_MAX => {
                Err(Self::damaged(name, format!("it has {} bytes", found.meta.size)))
            }
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The head of an object, its signature checked, and the bytes that follow it.
    fn read<'a>(&self, name: &Name, object: &'a [u8]) -> Result<(Head, &'a [u8]), BackupError> {
        let (text, stored) = unseal(object, &self.signer, FORMAT).map_err(|error| match error {
            BackupError::BadManifest(why) => Self::damaged(name, why),
            other => other,
        })?;
        let head: Head =
            serde_json::from_slice(text).map_err(|_| Self::damaged(name, "a field is missing"))?;
        if head.name != name.as_str() || head.system != self.system {
            return Err(Self::damaged(name, "it is another file, put in its place"));
        }
        Ok((head, stored))
    }

    /// A file of the archive with when the server wrote to it last, everything about it checked; `None`: it is not there.
    pub(super) async fn get(&self, name: &Name) -> Result<Option<(Head, Bytes)>, BackupError> {
        let Some(object) = self.object_of(name).await? else { return Ok(None) };
        let (head, stored) = self.read(name, &object)?;
        if !is_whole(&head, stored) {
            return Err(Self::damaged(name, "its checksum differs"));
        }
        let identities = if head.encrypted { identities(&self.settings)? } else { Vec::new() };
        if head.encrypted && !opens(stored, &identities) {
            return Err(BackupError::ForeignRecipient);
        }
        let (sender, parts) = mpsc::channel(1);
        let (out, mut chunks) = mpsc::channel::<Bytes>(CHUNKS);
        let stored = object.slice_ref(stored);
        sender.try_send(stored).expect("the channel is empty");
        drop(sender);
        let encrypted = head.encrypted;
        let unpacking =
            tokio::task::spawn_blocking(move || unpack(parts, &out, encrypted, &identities));
        let mut raw = BytesMut::new();
        while let Some(chunk) = chunks.recv().await {
            raw.extend_from_slice(&chunk);
            if raw.len() as u64 > head.bytes {
                break;
            }
        }
        drop(chunks);
        unpacking.await.expect("unpacking does not panic").map_err(BackupError::Decode)?;
        if raw.len() as u64 != head.bytes || self.content_of(&raw) != head.content {
            return Err(Self::damaged(name, "its content differs"));
        }
        Ok(Some((head, raw.freeze())))
    }

    /// Bytes of a segment, of the latest that says so; `None`: there is none.
    pub(super) async fn segment_bytes(
        &self,
        names: &BTreeSet<Name>,
    ) -> Result<Option<u64>, BackupError> {
        let mut damaged = None;
        for name in names.iter().rev().filter(|name| name.is_segment()) {
            let object = self.object_of(name).await?.unwrap_or_default();
            match self.read(name, &object) {
                Ok((head, _)) => return Ok(Some(head.bytes.max(1))),
                Err(error @ BackupError::WalDamaged { .. }) => damaged = Some(error),
                Err(error) => return Err(error),
            }
        }
        damaged.map_or(Ok(None), Err)
    }

    /// When the server wrote to a file last.
    pub(super) async fn written_at(&self, name: &Name) -> Result<Timestamp, BackupError> {
        let object = self.object_of(name).await?.unwrap_or_default();
        Ok(self.read(name, &object)?.0.written_at)
    }

    /// The names of all files.
    pub(super) async fn names(&self) -> Result<BTreeSet<Name>, BackupError> {
        let found = self.store.objects.list(Some(&self.folder()));
        // Anything else is not ours.
        let names = found.try_filter_map(|object| async move {
            Ok(object.location.filename().and_then(Name::parse))
        });
        Ok(names.try_collect().await?)
    }

    /// Removes what writers that were killed have left before `until`.
    pub(super) async fn sweep(&self, until: Timestamp) {
        self.store.sweep(&self.folder(), Some(until)).await;
    }

    /// Removes a file. Safe to repeat.
    pub(super) async fn remove(&self, name: &Name) -> Result<(), BackupError> {
        match self.store.objects.delete(&self.path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_whole(head: &Head, stored: &[u8]) -> bool {
    stored.len() as u64 == head.stored.bytes && hex(&Sha256::digest(stored)) == head.stored.sha256
}
