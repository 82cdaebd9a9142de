//! What is signed in the store: a line of JSON, a line with its signature, and whatever is said to follow.
//!
//! The signature is over the first line's bytes as they are, so that nothing needs to be written in the same way twice.

use serde::{Deserialize, Serialize};

use super::BackupError;
use super::keys::Signer;

const SIGNATURE: &str = "hmac-sha256 ";

/// What is read before the signature is known to be good.
#[derive(Deserialize)]
struct Head {
    format: u32,
    key: String,
}

/// A value with its signature. It must have the fields `format` and `key` (the signer's name).
pub(super) fn seal(value: &impl Serialize, signer: &Signer) -> Vec<u8> {
    let mut text = serde_json::to_vec(value).expect("its maps have texts as keys");
    let signature = signer.sign(&text);
    text.extend_from_slice(format!("\n{SIGNATURE}{signature}\n").as_bytes());
    text
}

/// The JSON of what was sealed, and what follows it.
///
/// # Errors
/// [`BackupError::ForeignKey`], [`BackupError::NewerFormat`], [`BackupError::BadManifest`].
pub(super) fn unseal<'a>(
    bytes: &'a [u8],
    signer: &Signer,
    format: u32,
) -> Result<(&'a [u8], &'a [u8]), BackupError> {
    let bad = |why: &str| BackupError::BadManifest(why.into());
    let line = |bytes: &'a [u8]| {
        let end = bytes.iter().position(|b| *b == b'\n')?;
        Some((&bytes[..end], &bytes[end + 1..]))
    };
    let (text, rest) = line(bytes).ok_or_else(|| bad("it has no signature"))?;
    let head: Head = serde_json::from_slice(text).map_err(|_| bad("it is not JSON of ours"))?;
    if head.key != signer.name() {
        return Err(BackupError::ForeignKey { found: shown(&head.key), ours: signer.name() });
    }
    let (signature, rest) = line(rest).ok_or_else(|| bad("it has no signature"))?;
    let signature = std::str::from_utf8(signature).ok().map(str::trim);
    let signature = signature.and_then(|line| line.strip_prefix(SIGNATURE));
    let signature = signature.ok_or_else(|| bad("it has no signature"))?;
    if !signer.accepts(text, signature) {
        return Err(bad("the signature does not fit"));
    }
    if head.format > format {
        return Err(BackupError::NewerFormat(head.format));
    }
    Ok((text, rest))
}

/// What a stranger wrote, for a message.
fn shown(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).take(16).collect()
}
