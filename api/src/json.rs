//! What serde does not say about a JSON text: how deep it is, whether its strings and numbers can be read
//! by everyone, and where in it an error lies.
//!
//! Everything here walks the text with an explicit stack: no input makes it recurse.

use std::collections::HashSet;
use std::fmt::Write as _;

/// Why a JSON value that is well-formed is not accepted as a payload, output or `meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValueFault {
    /// Nested deeper than [`windlass_shared::limits::JSON_DEPTH_MAX`].
    #[error("is nested too deeply")]
    Depth,
    /// `"\ud800"`: no character, and many readers fail on it.
    #[error("holds half of a surrogate pair")]
    Surrogate,
    /// `1e400`: no reader keeps it.
    #[error("holds a number that is out of range")]
    Number,
}

/// Checks a value that serde_json has found well-formed. One pass, no allocation.
///
/// # Errors
/// The first fault found.
pub fn check_value(text: &str, depth_max: usize) -> Result<(), ValueFault> {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0_usize);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = check_string(bytes, at + 1)?,
            b'[' | b'{' => {
                depth += 1;
                if depth > depth_max {
                    return Err(ValueFault::Depth);
                }
                at += 1;
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            b'-' | b'0'..=b'9' => at = check_number(text, at)?,
            _ => at += 1,
        }
    }
    Ok(())
}

/// Returns the index after the closing quote.
fn check_string(bytes: &[u8], mut at: usize) -> Result<usize, ValueFault> {
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return Ok(at + 1),
            b'\\' if bytes.get(at + 1) == Some(&b'u') => match unit(bytes, at) {
                0xD800..=0xDBFF => {
                    if !matches!(unit(bytes, at + 6), 0xDC00..=0xDFFF) {
                        return Err(ValueFault::Surrogate);
                    }
                    at += 12;
                }
                0xDC00..=0xDFFF => return Err(ValueFault::Surrogate),
                _ => at += 6,
            },
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    Ok(at)
}

/// The UTF-16 unit of the `\uXXXX` at `at`; 0 where there is none.
fn unit(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 6)
        .filter(|escape| escape.starts_with(b"\\u"))
        .and_then(|escape| std::str::from_utf8(&escape[2..]).ok())
        .and_then(|hex| u32::from_str_radix(hex, 16).ok())
        .unwrap_or(0)
}

/// Returns the index after the number.
fn check_number(text: &str, start: usize) -> Result<usize, ValueFault> {
    let rest = &text.as_bytes()[start..];
    let is_number = |b: &&u8| matches!(**b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let len = rest.iter().take_while(is_number).count();
    // Only these can leave the range of a double; the others are not worth a conversion.
    let suspicious = len > 300 || rest[..len].iter().any(|b| matches!(b, b'e' | b'E'));
    if suspicious {
        let number: Option<f64> = text[start..start + len].parse().ok();
        if !number.is_some_and(f64::is_finite) {
            return Err(ValueFault::Number);
        }
    }
    Ok(start + len)
}

/// A place in a JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// JSON pointer to the value being read there.
    pub pointer: String,
    /// The key just read there was used before in the same object.
    pub duplicate_key: bool,
}

enum Level {
    Object { keys: HashSet<String>, key: Option<String>, duplicate: bool },
    Array { index: usize },
}

/// What a reader that stopped at byte `offset` of a well-formed text was reading.
///
/// `member`: the fault is in a member of the container, not in the container as a whole. serde_json reads
/// the closing bracket after a member's fault before it notes the position.
pub fn place_at(text: &str, offset: usize, member: bool) -> Place {
    let bytes = text.as_bytes();
    let mut end = offset.min(bytes.len());
    if member && end > 0 && matches!(bytes[end - 1], b'}' | b']') {
        end -= 1;
    }
    let mut levels: Vec<Level> = Vec::new();
    let mut at = 0;
    while at < end {
        match bytes[at] {
            b'{' => {
                levels.push(Level::Object { keys: HashSet::new(), key: None, duplicate: false });
                at += 1;
            }
            b'[' => {
                levels.push(Level::Array { index: 0 });
                at += 1;
            }
            b'}' | b']' => {
                levels.pop();
                at += 1;
            }
            b',' => {
                match levels.last_mut() {
                    Some(Level::Array { index }) => *index += 1,
                    Some(Level::Object { key, duplicate, .. }) => {
                        *key = None;
                        *duplicate = false;
                    }
                    None => {}
                }
                at += 1;
            }
            b'"' => {
                let close = string_end(bytes, at + 1);
                if let Some(Level::Object { keys, key: key @ None, duplicate }) = levels.last_mut()
                {
                    let name: String = text
                        .get(at..close)
                        .and_then(|quoted| serde_json::from_str(quoted).ok())
                        .unwrap_or_default();
                    *duplicate = !keys.insert(name.clone());
                    *key = Some(name);
                }
                at = close;
            }
            _ => at += 1,
        }
    }
    let duplicate_key =
        matches!(levels.last(), Some(Level::Object { duplicate: true, key: Some(_), .. }));
    Place { pointer: pointer_of(&levels), duplicate_key }
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn pointer_of(levels: &[Level]) -> String {
    let mut pointer = String::new();
    for level in levels {
        match level {
            Level::Object { key: Some(key), .. } => {
                pointer.push('/');
                pointer.push_str(&escape_pointer(key));
            }
            Level::Object { key: None, .. } => {}
            Level::Array { index } => {
                // Writing to a String cannot fail.
                let _ = write!(pointer, "/{index}");
            }
        }
    }
    pointer
}

/// One reference token of a JSON pointer (RFC 6901), cut to a length that fits into an answer.
pub fn escape_pointer(token: &str) -> String {
    let short: String = token.chars().take(100).collect();
    short.replace('~', "~0").replace('/', "~1")
}

/// The byte offset of serde_json's line and column.
pub fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    before + column
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_without_recursion() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_eq!(check_value(&nested(64), 64), Ok(()));
        assert_eq!(check_value(&nested(65), 64), Err(ValueFault::Depth));
        assert_eq!(check_value(&nested(1_000_000), 64), Err(ValueFault::Depth));
        // Brackets in strings are no nesting.
        assert_eq!(check_value(r#"{"a":"[[[[","b":"\"[["}"#, 1), Ok(()));
        // Width is no nesting either.
        assert_eq!(check_value(&format!("[{}1]", "[],".repeat(1000)), 2), Ok(()));
    }

    #[test]
    fn half_surrogates_are_found_and_pairs_are_not() {
        for bad in [r#""\ud800""#, r#""\udc00""#, r#""\ud800A""#, r#""\ud800x""#, r#""\uD800\n""#] {
            assert_eq!(check_value(bad, 64), Err(ValueFault::Surrogate), "{bad}");
        }
        for good in [r#""\ud83d\ude00""#, r#""\u0041""#, r#""\\ud800""#, r#""\u0000""#] {
            assert_eq!(check_value(good, 64), Ok(()), "{good}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_found() {
        assert_eq!(check_value("1e400", 64), Err(ValueFault::Number));
        assert_eq!(check_value(r#"{"a":[1,-1E309]}"#, 64), Err(ValueFault::Number));
        assert_eq!(check_value(&"9".repeat(400), 64), Err(ValueFault::Number));
        for good in ["1e308", "-0", "18446744073709551616", "1e-400", r#""1e400""#] {
            assert_eq!(check_value(good, 64), Ok(()), "{good}");
        }
    }

    #[test]
    fn places_are_named_by_pointer() {
        let text = r#"{"a": {"b/c": [1, {"d": "x"}]}, "a": 2}"#;
        let at = |needle: &str| text.find(needle).unwrap() + needle.len();
        assert_eq!(place_at(text, at("\"x\""), true).pointer, "/a/b~1c/1/d");
        assert_eq!(place_at(text, at("[1"), true).pointer, "/a/b~1c/0");
        assert_eq!(place_at(text, at("{\"b/c\""), true).pointer, "/a/b~1c");
        let second = place_at(text, text.rfind("\"a\"").unwrap() + 3, true);
        assert_eq!((second.pointer.as_str(), second.duplicate_key), ("/a", true));
        assert!(!place_at(text, at("{\"a\""), true).duplicate_key);
        // After the bracket that closes the innermost object: its last member, or itself.
        assert_eq!(place_at(text, at("\"x\"}"), true).pointer, "/a/b~1c/1/d");
        assert_eq!(place_at(text, at("\"x\"}"), false).pointer, "/a/b~1c/1");
    }

    #[test]
    fn lines_and_columns_become_offsets() {
        assert_eq!(offset_of("ab\ncd", 2, 1), 4);
        assert_eq!(offset_of("abcd", 1, 3), 3);
    }
}
