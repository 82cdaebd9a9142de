//! Cursors of lists: opaque, signed, and bound to the namespace and the filters that they were made for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use windlass_shared::model::name::Namespace;

use crate::error::{ApiError, Code};

const SIGNATURE_LEN: usize = 16;
const TEXT_MAX: usize = 512;

/// Signs and checks cursors. One key per ledger, so that every replica takes every replica's cursors.
#[derive(Clone)]
pub struct CursorKey([u8; 32]);

impl CursorKey {
    /// From 32 secret bytes.
    pub const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The text of a cursor. `scope` names the list and holds every filter, in a fixed order.
    pub fn seal(&self, namespace: &Namespace, scope: &str, position: &[u8]) -> String {
        let mut bytes = position.to_vec();
        bytes.extend_from_slice(&self.signature(namespace, scope, position));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The position in a cursor that [`Self::seal`] made with the same namespace and scope.
    ///
    /// # Errors
    /// 422 `invalid_cursor` for every other text.
    pub fn open(
        &self,
        namespace: &Namespace,
        scope: &str,
        text: &str,
    ) -> Result<Vec<u8>, ApiError> {
        use subtle::ConstantTimeEq as _;
        if text.len() > TEXT_MAX {
            return Err(not_one());
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| not_one())?;
        let split = bytes.len().checked_sub(SIGNATURE_LEN).ok_or_else(not_one)?;
        let given = bytes.split_off(split);
        let expected = self.signature(namespace, scope, &bytes);
        if bool::from(given.ct_eq(&expected)) { Ok(bytes) } else { Err(not_one()) }
    }

    /// As [`Self::open`], of a list whose positions are `N` bytes long.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_bytes<const N: usize>(
        &self,
        namespace: &Namespace,
        scope: &str,
        text: &str,
    ) -> Result<[u8; N], ApiError> {
        self.open(namespace, scope, text)?.try_into().map_err(|_| not_one())
    }

    /// As [`Self::open`], of a list whose positions are names.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_name(
        &self,
        namespace: &Namespace,
        scope: &str,
        text: &str,
    ) -> Result<String, ApiError> {
        String::from_utf8(self.open(namespace, scope, text)?).map_err(|_| not_one())
    }

    fn signature(
        &self,
        namespace: &Namespace,
        scope: &str,
        position: &[u8],
    ) -> [u8; SIGNATURE_LEN] {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        // Lengths before the parts: no two inputs run together into the same bytes.
        for part in [namespace.as_str().as_bytes(), scope.as_bytes(), position] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        let full = mac.finalize().into_bytes();
        full[..SIGNATURE_LEN].try_into().expect("a SHA-256 is longer than the signature")
    }
}

/// 422 for a cursor that is none of the list.
pub fn not_one() -> ApiError {
    ApiError::new(Code::InvalidCursor, "not a cursor of this list")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_works_only_where_it_was_made() {
        let key = CursorKey::new([7; 32]);
        let (ours, theirs): (Namespace, Namespace) = ("a".parse().unwrap(), "b".parse().unwrap());
        let text = key.seal(&ours, "jobs?queue=x", b"0123456789abcdef");
        assert_eq!(key.open(&ours, "jobs?queue=x", &text).unwrap(), b"0123456789abcdef");
        assert!(key.open(&theirs, "jobs?queue=x", &text).is_err());
        assert!(key.open(&ours, "jobs?queue=y", &text).is_err());
        assert!(CursorKey::new([8; 32]).open(&ours, "jobs?queue=x", &text).is_err());
    }

    #[test]
    fn no_edited_cursor_is_taken() {
        let key = CursorKey::new([7; 32]);
        let namespace = Namespace::default();
        let text = key.seal(&namespace, "s", b"0123456789abcdef");
        for at in 0..text.len() {
            let mut edited = text.clone().into_bytes();
            edited[at] = if edited[at] == b'A' { b'B' } else { b'A' };
            let edited = String::from_utf8(edited).unwrap();
            assert!(key.open(&namespace, "s", &edited).is_err(), "{at}");
        }
        for text in ["", "A", "====", "\u{202e}", &"A".repeat(100_000)] {
            assert!(key.open(&namespace, "s", text).is_err());
        }
    }
}
