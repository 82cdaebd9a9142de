//! Which statuses of an answer count as success.

use std::ops::RangeInclusive;

use serde::Deserialize;

/// Most entries of a list.
const ENTRIES_MAX: usize = 100;

/// `204`, `"2xx"`, `"200-299"`, or a list of these; 200 to 299 where nothing is said.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub(super) struct Statuses(Vec<RangeInclusive<u16>>);

impl Default for Statuses {
    fn default() -> Self {
        Self(vec![200..=299])
    }
}

impl Statuses {
    pub(super) fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "not a status such as 204, \"2xx\" or \"200-299\", or a list of them"
)]
enum Written {
    One(Entry),
    Many(Vec<Entry>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Number(u16),
    Text(String),
}

impl TryFrom<Written> for Statuses {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let entries = match written {
            Written::One(entry) => vec![entry],
            Written::Many(entries) => entries,
        };
        if entries.is_empty() || entries.len() > ENTRIES_MAX {
            return Err(format!("a list of statuses has 1 to {ENTRIES_MAX} entries"));
        }
        entries.iter().map(range).collect::<Result<_, _>>().map(Self)
    }
}

fn range(entry: &Entry) -> Result<RangeInclusive<u16>, String> {
    let found = match entry {
        Entry::Number(status) => Some(*status..=*status),
        Entry::Text(text) => from_text(text),
    };
    found
        .filter(|range| {
            *range.start() >= 100 && *range.end() <= 599 && range.start() <= range.end()
        })
        .ok_or_else(|| "statuses are from 100 to 599".into())
}

fn from_text(text: &str) -> Option<RangeInclusive<u16>> {
    if let Some(class) = text.strip_suffix("xx") {
        let first = class.parse::<u16>().ok()?.checked_mul(100)?;
        return Some(first..=first.checked_add(99)?);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Statuses> {
        serde_json::from_str(text).ok()
    }

    #[test]
    fn every_spelling_is_read() {
        for (text, inside, outside) in [
            ("204", vec![204], vec![200, 205]),
            (r#""2xx""#, vec![200, 299], vec![199, 300]),
            (r#""200-204""#, vec![200, 204], vec![205]),
            (r#"[200, "3xx", "404-405"]"#, vec![200, 301, 405], vec![201, 406]),
        ] {
            let statuses = read(text).unwrap();
            assert!(inside.iter().all(|status| statuses.contains(*status)), "{text}");
            assert!(!outside.iter().any(|status| statuses.contains(*status)), "{text}");
        }
        let default = Statuses::default();
        assert!(default.contains(200) && default.contains(299) && !default.contains(302));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "[]",
            "0",
            "99",
            "600",
            r#""6xx""#,
            r#""99999xx""#,
            r#""300-200""#,
            r#""ok""#,
            r#""-""#,
            "{}",
            "true",
        ] {
            assert!(read(text).is_none(), "{text}");
        }
        let long = format!("[{}200]", "200,".repeat(ENTRIES_MAX));
        assert!(read(&long).is_none());
    }
}
