//! The manifest: what a backup is, signed.

use serde::{Deserialize, Serialize};
use windlass_shared::ledger::backup::{Contents, Origin};
use windlass_shared::model::time::Timestamp;

use super::BackupError;
use super::keys::Signer;
use super::seal::{seal, unseal};

/// The format that this build writes, and the only one that it reads.
pub const FORMAT: u32 = 1;
/// Longest manifest that is read.
pub(super) const BYTES_MAX: u64 = 64 << 20;
/// Most parts that are believed in.
pub(super) const PARTS_MAX: usize = 1_000_000;

/// What a backup is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// See [`FORMAT`].
    pub format: u32,
    /// The short name of the key that signs it.
    pub key: String,
    /// Its id: a UUIDv7.
    pub id: String,
    /// Build that made it.
    pub made_by: String,
    /// Of which ledger, and when.
    pub origin: Origin,
    /// What the ledger held at that instant.
    pub contents: Contents,
    /// Whether the parts are encrypted (age).
    pub encrypted: bool,
    /// Bytes of the dump before compression.
    pub dump_bytes: u64,
    /// When it was complete.
    pub finished_at: Timestamp,
    /// In order.
    pub parts: Vec<Part>,
}

/// One part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    pub(super) fn encode(&self, signer: &Signer) -> Vec<u8> {
        seal(self, signer)
    }

    /// Reads and checks one that is said to be of backup `id`.
    ///
    /// # Errors
    /// [`BackupError::ForeignKey`], [`BackupError::NewerFormat`], [`BackupError::BadManifest`].
    pub(super) fn decode(bytes: &[u8], id: &str, signer: &Signer) -> Result<Self, BackupError> {
        let bad = |why: &str| BackupError::BadManifest(why.into());
        let (text, _) = unseal(bytes, signer, FORMAT)?;
        let manifest: Self = serde_json::from_slice(text).map_err(|_| bad("a field is missing"))?;
        if manifest.id != id {
            return Err(bad("it is another backup's"));
        }
        if manifest.parts.is_empty() || manifest.parts.len() > PARTS_MAX {
            return Err(bad("it has no parts, or too many"));
        }
        Ok(manifest)
    }
}
