//! A number of bytes in the templates' file.

use serde::Deserialize;

/// A number of bytes, written as such or as a text such as `"256MiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub(super) struct Size(pub(super) u64);

#[derive(Deserialize)]
#[serde(untagged, expecting = "not a size such as 1048576 or \"256MiB\"")]
enum Written {
    Number(u64),
    Text(String),
}

impl TryFrom<Written> for Size {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let text = match written {
            Written::Number(bytes) => return Ok(Self(bytes)),
            Written::Text(text) => text,
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let unit = match text[digits..].trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(format!("`{text}` is not a size such as \"256MiB\"")),
        };
        let number: u64 = text[..digits].parse().map_err(|_| format!("`{text}` is not a size"))?;
        number.checked_mul(unit).map(Self).ok_or_else(|| format!("`{text}` is too large"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("7", Some(7)),
            (r#""7""#, Some(7)),
            (r#""7 B""#, Some(7)),
            (r#""2KiB""#, Some(2 << 10)),
            (r#""256MiB""#, Some(256 << 20)),
            (r#""3GiB""#, Some(3 << 30)),
            (r#""99999999999GiB""#, None),
            (r#""MiB""#, None),
            (r#""1.5MiB""#, None),
            (r#""-1""#, None),
            ("-1", None),
        ] {
            assert_eq!(serde_json::from_str::<Size>(text).ok(), bytes.map(Size), "{text}");
        }
    }
}
