//! The manifest: what a backup is, signed.
//!
//! One line of JSON, and one with its signature. The signature is over the first line's bytes as they are, so that
//! nothing needs to be written in the same way twice.

use serde::{Deserialize, Serialize};
use windlass_shared::ledger::backup::{Contents, Origin};
use windlass_shared::model::time::Timestamp;

use super::BackupError;
use super::keys::Signer;

/// The format that this build writes, and the only one that it reads.
pub const FORMAT: u32 = 1;
/// Longest manifest that is read.
pub(super) const BYTES_MAX: u64 = 64 << 20;
/// Most parts that are believed in.
const PARTS_MAX: usize = 1_000_000;
const SIGNATURE: &str = "hmac-sha256 ";

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

/// What is read before the signature is known to be good.
#[derive(Deserialize)]
struct Head {
    format: u32,
    key: String,
}

impl Manifest {
    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    pub(super) fn encode(&self, signer: &Signer) -> Vec<u8> {
        let mut text = serde_json::to_vec(self).expect("its maps have texts as keys");
        let signature = signer.sign(&text);
        text.extend_from_slice(format!("\n{SIGNATURE}{signature}\n").as_bytes());
        text
    }

    /// Reads and checks one that is said to be of backup `id`.
    ///
    /// # Errors
    /// [`BackupError::ForeignKey`], [`BackupError::NewerFormat`], [`BackupError::BadManifest`].
    pub(super) fn decode(bytes: &[u8], id: &str, signer: &Signer) -> Result<Self, BackupError> {
        let bad = |why: &str| BackupError::BadManifest(why.into());
        let end =
            bytes.iter().position(|b| *b == b'\n').ok_or_else(|| bad("it has no signature"))?;
        let (text, rest) = bytes.split_at(end);
        let head: Head = serde_json::from_slice(text).map_err(|_| bad("it is not JSON of ours"))?;
        if head.key != signer.name() {
            return Err(BackupError::ForeignKey { found: shown(&head.key), ours: signer.name() });
        }
        let signature = std::str::from_utf8(rest).ok().map(str::trim);
        let signature = signature.and_then(|line| line.strip_prefix(SIGNATURE));
        let signature = signature.ok_or_else(|| bad("it has no signature"))?;
        if !signer.accepts(text, signature) {
            return Err(bad("the signature does not fit"));
        }
        if head.format > FORMAT {
            return Err(BackupError::NewerFormat(head.format));
        }
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

/// What a stranger wrote, for a message.
fn shown(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).take(16).collect()
}
