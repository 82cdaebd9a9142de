//! Names of WAL files, and positions in the WAL.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name of a file that a server archives: upper case, and nothing that could lead elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    text: String,
    pub(super) timeline: u32,
    pub(super) sort: Sort,
}

/// What such a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sort {
    /// A full segment of WAL; the two halves of its number.
    Segment(u32, u32),
    /// The beginning of one, which was the last of its timeline.
    Partial(u32, u32),
    /// Says from where to where a base backup was made; of the segment in which it began.
    Label(u32, u32),
    /// Where a timeline left which other.
    History,
}

impl Name {
    /// `None`: no file of a server's archive is named so.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let number = |at: usize| {
            let digits = text.get(at..at + 8)?;
            let is_hex = digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
            is_hex.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
        };
        let timeline = number(0)?;
        let sort = match text.len() {
            16 if text.ends_with(".history") => Sort::History,
            24 => Sort::Segment(number(8)?, number(16)?),
            32 if text.ends_with(".partial") => Sort::Partial(number(8)?, number(16)?),
            40 if text.ends_with(".backup") && text.as_bytes()[24] == b'.' => {
                number(25)?;
                Sort::Label(number(8)?, number(16)?)
            }
            _ => return None,
        };
        Some(Self { text: text.to_owned(), timeline, sort })
    }

    /// Of a segment, by its number from the beginning of all WAL.
    pub(super) fn of(timeline: u32, number: u64, segment_bytes: u64) -> Self {
        let each = each(segment_bytes);
        let (high, low) = ((number / each) as u32, (number % each) as u32);
        let text = format!("{timeline:08X}{high:08X}{low:08X}");
        Self { text, timeline, sort: Sort::Segment(high, low) }
    }

    /// Of the history of a timeline.
    pub(super) fn history(timeline: u32) -> Self {
        Self { text: format!("{timeline:08X}.history"), timeline, sort: Sort::History }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The number of the segment that it is or is about.
    pub(super) fn number(&self, segment_bytes: u64) -> Option<u64> {
        match self.sort {
            Sort::Segment(high, low) | Sort::Partial(high, low) | Sort::Label(high, low) => {
                Some(u64::from(high) * each(segment_bytes) + u64::from(low))
            }
            Sort::History => None,
        }
    }

    /// A full segment.
    pub(super) fn is_segment(&self) -> bool {
        matches!(self.sort, Sort::Segment(..))
    }
}

/// Segments for each step of the upper half of a number.
fn each(segment_bytes: u64) -> u64 {
    (1 << 32) / segment_bytes.max(1)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A position in the WAL, in bytes from its beginning; shown as PostgreSQL does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "not a position of WAL";
        let (high, low) = text.split_once('/').ok_or(WRONG)?;
        let half = |text: &str| u32::from_str_radix(text, 16).map_err(|_| WRONG);
        Ok(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB_16: u64 = 16 << 20;

    #[test]
    fn names_are_read_and_made() {
        let name = Name::parse("00000002000000030000000A").unwrap();
        assert_eq!((name.timeline, name.number(MIB_16)), (2, Some(3 * 256 + 10)));
        assert_eq!(Name::of(2, 3 * 256 + 10, MIB_16), name);
        // The segment after the last one of an upper half.
        assert_eq!(Name::of(1, 256, MIB_16).as_str(), "000000010000000100000000");
        assert_eq!(Name::of(1, 4, 1 << 30).as_str(), "000000010000000100000000");
        let partial = Name::parse("00000001000000000000000C.partial").unwrap();
        assert_eq!((partial.number(MIB_16), partial.is_segment()), (Some(12), false));
        let label = Name::parse("00000001000000000000000C.00000028.backup").unwrap();
        assert_eq!(label.sort, Sort::Label(0, 12));
        assert_eq!(Name::parse("00000002.history"), Some(Name::history(2)));
    }

    #[test]
    fn other_names_are_refused() {
        for text in [
            "",
            "..",
            "../../etc/passwd",
            "00000001000000000000000",
            "00000001000000000000000g",
            "00000001000000000000000a",
            "+0000001000000000000000A",
            "00000001000000000000000C.backup",
            "00000001000000000000000C/00000028.backup",
            "00000001000000000000000C.0000/028.backup",
            "00000002.histor",
            "postgresql.conf",
            "0000000é.history",
        ] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }

    #[test]
    fn positions_are_shown_as_they_are_read() {
        let at: Lsn = "1/2000028".parse().unwrap();
        assert_eq!((at.0, at.to_string().as_str()), (0x1_0200_0028, "1/2000028"));
        assert!("2000028".parse::<Lsn>().is_err());
    }
}
