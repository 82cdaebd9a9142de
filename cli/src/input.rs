//! What commands take: files, standard input, JSON in a flag.

use std::io::Read;

use anyhow::Context;
use serde_json::Value;

use crate::exit::{Failure, Outcome};

/// Largest file that is read into a request, in bytes.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// A flag's value: JSON, `@FILE` with JSON, or `-` for standard input.
///
/// # Errors
/// It is none of these.
pub fn json_of(flag: &str, given: &str) -> Outcome<Value> {
    let text = match given.strip_prefix('@') {
        Some(path) => String::from_utf8(read(path)?).ok(),
        None if given == "-" => String::from_utf8(read("-")?).ok(),
        None => Some(given.to_owned()),
    };
    text.and_then(|text| serde_json::from_str(&text).ok()).ok_or_else(|| {
        let hint =
            format!("{flag} must be JSON, @FILE or -; a text needs quotes: {flag} '\"text\"'");
        Failure::Usage(hint)
    })
}

/// A whole file, or standard input for `-`.
///
/// # Errors
/// It is not there, cannot be read, or is larger than 32 MiB.
pub fn read(path: &str) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::new();
    let source: Box<dyn Read> = if path == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        let file = std::fs::File::open(path)
            .map_err(|error| Failure::Usage(format!("cannot open {path}: {error}")))?;
        Box::new(file)
    };
    source
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {path}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::Usage(format!("{path} is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}
