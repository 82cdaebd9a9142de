//! API keys: `wl_<environment>_<8 public>_<43 secret>_<6 checksum>`.
//!
//! The public part finds the record; the secret part is 256 random bits and is stored as SHA-256 only (a
//! slow hash adds nothing to 256 random bits and would let a flood burn CPU). The checksum tells a typo or
//! a random guess from a key without asking the ledger.

use secrecy::SecretString;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const PUBLIC_LEN: usize = 8;
const SECRET_LEN: usize = 43;
const CHECKSUM_LEN: usize = 6;
const ENVIRONMENT_MAX: usize = 16;

/// A key that was just made. Its text is shown once.
pub struct NewKey {
    /// What the caller keeps.
    pub text: SecretString,
    /// By which its record is found.
    pub public: String,
    /// What the ledger keeps of the secret.
    pub secret_hash: [u8; 32],
}

/// A text in the form of a key, its checksum verified. Not yet known to belong to anyone.
#[derive(Clone, PartialEq, Eq)]
pub struct PresentedKey {
    /// By which its record is found.
    pub public: String,
    secret_hash: [u8; 32],
}

/// Makes a key. `environment` becomes part of its text, for people and secret scanners: `dev`, `live`.
///
/// # Panics
/// When `environment` is not 1 to 16 lower-case letters and digits: it comes from settings, not from callers.
pub fn generate(environment: &str) -> NewKey {
    assert!(
        is_environment(environment),
        "an environment is 1 to {ENVIRONMENT_MAX} lower-case letters and digits"
    );
    let public = random_text(PUBLIC_LEN);
    let secret = random_text(SECRET_LEN);
    let body = format!("wl_{environment}_{public}_{secret}");
    let text = format!("{body}_{}", checksum(&body));
    let secret_hash = Sha256::digest(secret.as_bytes()).into();
    NewKey { text: SecretString::from(text), public, secret_hash }
}

/// Reads the text of a key. `None`: it is none, or has a typo.
pub fn parse(text: &str) -> Option<PresentedKey> {
    let (body, given) = text.rsplit_once('_')?;
    let mut parts = body.split('_');
    let (prefix, environment) = (parts.next()?, parts.next()?);
    let (public, secret) = (parts.next()?, parts.next()?);
    let well_formed = parts.next().is_none()
        && prefix == "wl"
        && is_environment(environment)
        && is_code(public, PUBLIC_LEN)
        && is_code(secret, SECRET_LEN)
        && is_code(given, CHECKSUM_LEN);
    if !well_formed || checksum(body) != given {
        return None;
    }
    let secret_hash = Sha256::digest(secret.as_bytes()).into();
    Some(PresentedKey { public: public.to_owned(), secret_hash })
}

impl PresentedKey {
    /// Whether the secret is the one on record. Takes the same time for every answer, and for a key that
    /// is not on record (`None`), which is compared with a digest that no secret has.
    pub fn matches(&self, on_record: Option<&[u8; 32]>) -> bool {
        let known = on_record.is_some();
        let expected = on_record.unwrap_or(&[0; 32]);
        bool::from(self.secret_hash.ct_eq(expected)) & known
    }
}

fn random_text(len: usize) -> String {
    use rand::Rng as _;
    let mut rng = rand::rng();
    (0..len).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

fn checksum(body: &str) -> String {
    let digest = Sha256::digest(body.as_bytes());
    digest[..CHECKSUM_LEN].iter().map(|b| char::from(ALPHABET[usize::from(*b) % 62])).collect()
}

fn is_environment(text: &str) -> bool {
    (1..=ENVIRONMENT_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn is_code(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_key_survives_its_text() {
        let key = generate("live");
        let text = key.text.expose_secret();
        assert_eq!(text.len(), "wl_live_".len() + 8 + 1 + 43 + 1 + 6);
        let read = parse(text).expect("a fresh key parses");
        assert_eq!(read.public, key.public);
        assert!(read.matches(Some(&key.secret_hash)));
        assert!(!read.matches(Some(&generate("live").secret_hash)));
        assert!(!read.matches(None));
    }

    #[test]
    fn the_dummy_digest_lets_nobody_in() {
        let mut key = parse(generate("dev").text.expose_secret()).unwrap();
        key.secret_hash = [0; 32];
        assert!(!key.matches(None));
    }

    #[test]
    fn every_single_typo_is_noticed() {
        let key = generate("dev");
        let text = key.text.expose_secret();
        for at in 0..text.len() {
            let mut typo = text.as_bytes().to_vec();
            typo[at] = if typo[at] == b'x' { b'y' } else { b'x' };
            let typo = String::from_utf8(typo).unwrap();
            // One in 62^6 typos of the body would pass; a fixed position of the checksum never does.
            assert!(parse(&typo).is_none(), "{at}");
        }
        for text in ["", "wl", "wl_dev", &text[1..], &format!("{text} "), &format!("{text}\0")] {
            assert!(parse(text).is_none(), "{text:?}");
        }
    }
}
