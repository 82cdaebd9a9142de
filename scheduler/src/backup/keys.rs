//! The keys of backups: one that signs manifests, and age's pairs that keep parts secret.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use rand::RngCore as _;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use windlass_shared::config::BackupSettings;

use super::BackupError;

/// What a key's text begins with, so that people and scanners know it.
const PREFIX: &str = "wlbk_";

/// A fresh key for `backup.key`: 256 bits from the operating system.
pub fn new_key() -> SecretString {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    SecretString::from(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// What manifests are signed as.
const MANIFEST: &[u8] = b"windlass backup manifest v1\0";
/// What reports of drills are signed as, so that none passes for a manifest.
const REPORT: &[u8] = b"windlass backup drill v1\0";

/// Signs and checks manifests.
pub(super) struct Signer {
    key: [u8; 32],
    what: &'static [u8],
}

impl Signer {
    /// # Errors
    /// The setting is no key.
    pub(super) fn of(settings: &BackupSettings) -> Result<Self, BackupError> {
        let wrong = || {
            BackupError::Settings(
                "backup.key is not a key; `windlass backup keygen` makes one".into(),
            )
        };
        let text = settings.key.expose_secret().strip_prefix(PREFIX).ok_or_else(wrong)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
        Ok(Self { key: bytes.try_into().map_err(|_| wrong())?, what: MANIFEST })
    }

    /// One of the same key that signs and checks reports of drills.
    pub(super) fn of_reports(&self) -> Self {
        Self { what: REPORT, ..*self }
    }

    /// A short name that tells keys apart and gives nothing of them away.
    pub(super) fn name(&self) -> String {
        let mut hash = Sha256::new_with_prefix(b"windlass backup key name v1\0");
        hash.update(self.key);
        hex(&hash.finalize()[..8])
    }

    /// The signature of some bytes, as text.
    pub(super) fn sign(&self, bytes: &[u8]) -> String {
        hex(&self.mac(bytes).finalize().into_bytes())
    }

    /// Whether `signature` is that of `bytes`; takes the same time wherever they differ.
    pub(super) fn accepts(&self, bytes: &[u8], signature: &str) -> bool {
        unhex(signature).is_some_and(|given| self.mac(bytes).verify_slice(&given).is_ok())
    }

    fn mac(&self, bytes: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            <Hmac<Sha256>>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(self.what);
        mac.update(bytes);
        mac
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// Whom backups are encrypted for; empty: they are not.
pub(super) fn recipients(
    settings: &BackupSettings,
) -> Result<Vec<age::x25519::Recipient>, BackupError> {
    let parse = |text: &String| {
        text.parse().map_err(|_| {
            BackupError::Settings("backup.recipients holds what is no age recipient (age1…)".into())
        })
    };
    settings.recipients.iter().map(parse).collect()
}

/// The secret keys of the identity file; none, where there is no such file in the settings.
pub(super) fn identities(
    settings: &BackupSettings,
) -> Result<Vec<age::x25519::Identity>, BackupError> {
    let Some(path) = &settings.identity_file else { return Ok(Vec::new()) };
    let what = format!("cannot read backup.identity_file {}", path.display());
    let text = std::fs::read_to_string(path).map_err(BackupError::file(what))?;
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            line.parse().map_err(|_| {
                BackupError::Settings(
                    "backup.identity_file holds a line that is no age identity".into(),
                )
            })
        })
        .collect()
}
