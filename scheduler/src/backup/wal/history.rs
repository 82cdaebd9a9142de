//! Histories of timelines: which left which other, and where.

use std::collections::{BTreeMap, BTreeSet};

use super::archive::Archive;
use super::name::{Lsn, Name, Sort};
use crate::backup::BackupError;

/// By timeline: those that it came through, the oldest first, and where each was left.
pub(super) type Histories = BTreeMap<u32, Vec<(u32, Lsn)>>;

/// All that the archive has.
pub(super) async fn histories(
    archive: &Archive,
    names: &BTreeSet<Name>,
) -> Result<Histories, BackupError> {
    let mut found = Histories::new();
    for name in names.iter().filter(|name| name.sort == Sort::History) {
        // One that was there a moment ago is no end of anything.
        let read = archive.get(name).await?;
        let (_, text) = read.ok_or_else(|| BackupError::WalGap(name.to_string()))?;
        found.insert(name.timeline, decode(&text));
    }
    Ok(found)
}

pub(super) fn decode(text: &[u8]) -> Vec<(u32, Lsn)> {
    let text = String::from_utf8_lossy(text);
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// Whether WAL of `timeline` went on beyond its segment `number`, since one that left it began later.
pub(super) fn went_on(
    histories: &Histories,
    timeline: u32,
    number: u64,
    segment_bytes: u64,
) -> bool {
    let mut left = histories.values().flatten();
    left.any(|(parent, at)| *parent == timeline && at.0 / segment_bytes > number)
}

/// Timelines that began when there was an archive, and whose history is not in it: a server that asks for it would take
/// the timeline for one that nobody has begun yet. The oldest of the archive is none of them: its beginning may have been
/// before that of the archive.
pub(super) fn lost(names: &BTreeSet<Name>) -> BTreeSet<u32> {
    let begun: BTreeSet<u32> =
        names.iter().filter(|name| name.sort != Sort::History).map(|name| name.timeline).collect();
    begun.into_iter().skip(1).filter(|one| !names.contains(&Name::history(*one))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_lost_where_its_timeline_began_in_the_archive() {
        let of = |all: &[&str]| -> Vec<u32> {
            lost(&all.iter().map(|text| Name::parse(text).unwrap()).collect()).into_iter().collect()
        };
        let (one, two, three) = (
            "000000010000000000000005",
            "000000020000000000000006",
            "00000003000000000000000A.partial",
        );
        let none: Vec<u32> = Vec::new();
        assert_eq!(of(&[one, "00000002.history", two]), none);
        assert_eq!(of(&[one, two]), [2]);
        assert_eq!(of(&[one, two, "00000002.history", three]), [3]);
        // The archive was begun on timeline 2.
        assert_eq!(of(&[two]), none);
        assert_eq!(of(&["00000002.history"]), none);
    }

    #[test]
    fn a_timeline_came_as_far_as_others_left_it() {
        let histories =
            Histories::from([(3, decode(b"# why\n1\t0/3000000\twhy\n\n2\t0/8000100\tno\n"))]);
        let went_on = |timeline, number| went_on(&histories, timeline, number, 16 << 20);
        assert!(went_on(2, 7) && !went_on(2, 8) && went_on(1, 2) && !went_on(1, 3));
        assert!(!went_on(3, 1));
    }
}
