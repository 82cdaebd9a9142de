//! Scalars of YAML 1.2's core schema as JSON.

use std::fmt::Write as _;

/// Appends a JSON string.
pub fn push_text(json: &mut String, text: &str) {
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            c if c < ' ' => {
                // Writing to a String cannot fail.
                let _ = write!(json, "\\u{:04x}", c as u32);
            }
            c => json.push(c),
        }
    }
    json.push('"');
}

/// Appends what a scalar without quotes means.
///
/// # Errors
/// It is a number that JSON has not.
pub fn push_plain(json: &mut String, text: &str) -> Result<(), &'static str> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => json.push_str("null"),
        "true" | "True" | "TRUE" => json.push_str("true"),
        "false" | "False" | "FALSE" => json.push_str("false"),
        ".nan" | ".NaN" | ".NAN" => return Err("NaN is no JSON number"),
        _ => {
            let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
            if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
                return Err("infinity is no JSON number");
            }
            match based(text).transpose()? {
                Some(number) => json.push_str(&number.to_string()),
                None if !push_decimal(json, text) => push_text(json, text),
                None => {}
            }
        }
    }
    Ok(())
}

/// `0x1F` and `0o17`.
fn based(text: &str) -> Option<Result<u64, &'static str>> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x', ..] => (&text[2..], 16),
        [b'0', b'o', ..] => (&text[2..], 8),
        _ => return None,
    };
    let is_number = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    is_number.then(|| u64::from_str_radix(digits, radix).map_err(|_| "the number is out of range"))
}

/// Appends a decimal number as JSON writes it; `false`: it is none, and nothing is appended.
fn push_decimal(json: &mut String, text: &str) -> bool {
    let (sign, rest) = match text.as_bytes().first() {
        Some(b'-') => ("-", &text[1..]),
        Some(b'+') => ("", &text[1..]),
        _ => ("", text),
    };
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let has_digit = !whole.is_empty() || fraction.is_some_and(|f| !f.is_empty());
    let power = exponent.map(|e| e.strip_prefix(['-', '+']).unwrap_or(e));
    let fine = has_digit
        && digits(whole)
        && fraction.is_none_or(digits)
        && power.is_none_or(|p| !p.is_empty() && digits(p));
    if !fine {
        return false;
    }
    let whole = whole.trim_start_matches('0');
    json.push_str(sign);
    json.push_str(if whole.is_empty() { "0" } else { whole });
    if let Some(fraction) = fraction {
        json.push('.');
        json.push_str(if fraction.is_empty() { "0" } else { fraction });
    }
    if let Some(exponent) = exponent {
        json.push('e');
        json.push_str(exponent);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        for (text, want) in [
            ("", "null"),
            ("NULL", "null"),
            ("True", "true"),
            ("007", "7"),
            ("-0", "-0"),
            ("+1.", "1.0"),
            (".5", "0.5"),
            ("1e-3", "1e-3"),
            ("0x1f", "31"),
            ("0o17", "15"),
            ("18446744073709551616", "18446744073709551616"),
            ("1.2.3", "\"1.2.3\""),
            ("-", "\"-\""),
            (".", "\".\""),
            ("e5", "\"e5\""),
            ("1e", "\"1e\""),
            ("0xg", "\"0xg\""),
            ("12:30", "\"12:30\""),
            ("yes", "\"yes\""),
            ("nULL", "\"nULL\""),
        ] {
            let mut json = String::new();
            push_plain(&mut json, text).unwrap();
            assert_eq!(json, want, "{text}");
            assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
        }
        for text in ["-.inf", ".NAN", "0xfffffffffffffffff"] {
            assert!(push_plain(&mut String::new(), text).is_err(), "{text}");
        }
    }
}
