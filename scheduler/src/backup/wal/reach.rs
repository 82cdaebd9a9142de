//! How far the archive carries a base backup, and along which timelines.

use std::collections::{BTreeMap, BTreeSet};

use windlass_shared::model::time::Timestamp;

use super::archive::Archive;
use super::base::Base;
use super::history::{self, Histories, histories, went_on};
use super::name::{Lsn, Name};
use crate::backup::BackupError;

/// How far WAL goes on from a base without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The timeline that is followed to its end.
    pub timeline: u32,
    /// Everything committed by then can be had back; `None`: not even what the base itself needs is there.
    pub until: Option<Timestamp>,
    /// Segments, from the first that the base needs.
    pub segments: u64,
    /// The first that is missing, although later WAL is there.
    pub gap: Option<String>,
    /// Timelines that left this base's after it was made.
    pub later_timelines: Vec<u32>,
    /// The segments, in order.
    pub(super) names: Vec<Name>,
}

/// How far `base` can be recovered along `timeline`; `None`: its own.
///
/// # Errors
/// [`BackupError::OutOfReach`]: the timeline does not come from that of the base, or left it before the base was made.
/// [`BackupError::WalGap`]: the history of a timeline is not there, although its WAL is: a server that recovers would begin
/// it once more.
pub(super) async fn reach_of(
    base: &Base,
    archive: &Archive,
    timeline: Option<u32>,
) -> Result<Reach, BackupError> {
    let names = archive.names().await?;
    if let Some(lost) = history::lost(&names).range(base.timeline..).next() {
        return Err(BackupError::WalGap(Name::history(*lost).to_string()));
    }
    let histories = histories(archive, &names).await?;
    let path = |(other, left): (&u32, &Vec<_>)| Some((*other, path_of(base, *other, left)?));
    let paths: BTreeMap<_, _> = histories.iter().filter_map(path).collect();
    let timeline = timeline.unwrap_or(base.timeline);
    let own = vec![(base.timeline, 0)];
    let path = if timeline == base.timeline { Some(&own) } else { paths.get(&timeline) };
    let path = path.ok_or_else(|| {
        BackupError::OutOfReach(format!(
            "timeline {timeline} is not known to come from timeline {} of the base after it was made",
            base.timeline
        ))
    })?;
    let (reached, gap) = walk(base, path, &names, &histories);
    let whole = base.needed().all(|name| names.contains(&name));
    let until = match reached.last() {
        Some(last) if whole => Some(archive.written_at(last).await?),
        _ => None,
    };
    Ok(Reach {
        timeline,
        until,
        segments: reached.len() as u64,
        gap: gap.map(|name| name.to_string()),
        later_timelines: paths.into_keys().collect(),
        names: reached,
    })
}

/// The timelines from that of the base to this one, each with the first segment that is its; `None`: it did not leave
/// that of the base, or before the base was complete.
fn path_of(base: &Base, timeline: u32, history: &[(u32, Lsn)]) -> Option<Vec<(u32, u64)>> {
    let mut path = vec![(base.timeline, 0)];
    let mut left: Option<Lsn> = None;
    for &(parent, at) in history {
        if let Some(left) = left {
            path.push((parent, left.0 / base.segment_bytes));
        }
        if left.is_some() || parent == base.timeline {
            left = Some(at);
        }
        if parent == base.timeline && at < base.end {
            return None;
        }
    }
    path.push((timeline, left?.0 / base.segment_bytes));
    Some(path)
}

/// The segments before one is missing, and what is missing although WAL went on: later ones are there, or a timeline left
/// later, or the one before went on by itself, which PostgreSQL would follow instead.
fn walk(
    base: &Base,
    path: &[(u32, u64)],
    names: &BTreeSet<Name>,
    histories: &Histories,
) -> (Vec<Name>, Option<Name>) {
    let size = base.segment_bytes;
    let name_of = |number: u64| {
        // Of the newest timeline that has begun by then, as PostgreSQL looks for it.
        let newest = path.iter().rev().find(|(_, begin)| *begin <= number);
        Name::of(newest.map_or(base.timeline, |(timeline, _)| *timeline), number, size)
    };
    let (mut reached, mut number) = (Vec::new(), base.first_segment());
    let missing = loop {
        let name = name_of(number);
        if !names.contains(&name) {
            break name;
        }
        reached.push(name);
        number += 1;
    };
    let is_later = |name: &Name| {
        name.number(size).is_some_and(|later| later > number && name_of(later) == *name)
    };
    // PostgreSQL goes back to no timeline that is older than what it has read.
    let begun = reached.last().map_or(base.timeline, |last: &Name| last.timeline);
    let has_other = |(timeline, _): &(u32, u64)| {
        (begun..missing.timeline).contains(timeline)
            && names.contains(&Name::of(*timeline, number, size))
    };
    let goes_on = names.iter().any(|name| name.is_segment() && is_later(name))
        || went_on(histories, missing.timeline, number, size)
        || path.iter().any(has_other);
    (reached, goes_on.then_some(missing))
}

#[cfg(test)]
mod tests {
    use windlass_shared::config::BackupSettings;

    use super::super::WAL;
    use super::*;
    use crate::backup::keys::new_key;

    fn base(timeline: u32, start: u64, end: u64) -> Base {
        serde_json::from_value(serde_json::json!({
            "format": 1, "key": "", "id": "", "made_by": "", "ledger": uuid::Uuid::nil(), "version": 15,
            "system": "1", "segment_bytes": 16 << 20, "timeline": timeline,
            "start": Lsn(start << 24), "end": Lsn((end << 24) + 1), "from": Timestamp::default(),
            "encrypted": false, "tar_bytes": 0, "parts": [],
        }))
        .unwrap()
    }

    fn names(all: &[(u32, u64)]) -> BTreeSet<Name> {
        all.iter().map(|(timeline, number)| Name::of(*timeline, *number, 16 << 20)).collect()
    }

    fn walked(path: &[(u32, u64)], all: &[(u32, u64)]) -> (Option<u64>, Option<u64>) {
        walked_with(path, all, &Histories::new())
    }

    fn walked_with(
        path: &[(u32, u64)],
        all: &[(u32, u64)],
        histories: &Histories,
    ) -> (Option<u64>, Option<u64>) {
        let (reached, gap) = walk(&base(1, 2, 3), path, &names(all), histories);
        let number = |name: Name| name.number(16 << 20).unwrap();
        (reached.last().cloned().map(number), gap.map(number))
    }

    #[test]
    fn a_gap_is_not_the_end() {
        let own = [(1, 0)];
        assert_eq!(walked(&own, &[(1, 1), (1, 2), (1, 3), (1, 4)]), (Some(4), None));
        assert_eq!(walked(&own, &[(1, 2), (1, 3), (1, 5)]), (Some(3), Some(4)));
        assert_eq!(walked(&own, &[(1, 3)]), (None, Some(2)));
        assert_eq!(walked(&own, &[]), (None, None));
        // What another timeline has is none of it.
        assert_eq!(walked(&own, &[(1, 2), (1, 3), (2, 5)]), (Some(3), None));
    }

    #[test]
    fn a_later_timeline_is_followed_from_where_it_left() {
        let path = [(1, 0), (2, 4)];
        assert_eq!(walked(&path, &[(1, 2), (1, 3), (2, 4), (2, 5)]), (Some(5), None));
        // The old timeline went on by itself: that does not count.
        assert_eq!(walked(&path, &[(1, 2), (1, 3), (1, 4), (2, 5)]), (Some(3), Some(4)));
        assert_eq!(walked(&path, &[(1, 2), (1, 3), (1, 4)]), (Some(3), Some(4)));
        assert_eq!(walked(&path, &[(1, 2), (1, 3)]), (Some(3), None));
        let both = [(1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (2, 4), (2, 5)];
        assert_eq!(walked(&path, &both), (Some(5), None));
    }

    #[test]
    fn a_timeline_does_not_end_before_another_one_left_it() {
        let left = Histories::from([(2, vec![(1, Lsn(6 << 24))])]);
        let own = [(1, 0)];
        assert_eq!(walked_with(&own, &[(1, 2), (1, 3), (1, 4)], &left), (Some(4), Some(5)));
        assert_eq!(walked_with(&own, &[(1, 2), (1, 3), (1, 4), (1, 5)], &left), (Some(5), None));
        let path = [(1, 0), (2, 6)];
        assert_eq!(walked_with(&path, &[(1, 2), (1, 3), (1, 4)], &left), (Some(4), Some(5)));
    }

    #[test]
    fn histories_say_where_timelines_left() {
        let base = base(2, 5, 6);
        let of = |timeline, text: &str| path_of(&base, timeline, &history::decode(text.as_bytes()));
        assert_eq!(
            of(3, "1\t0/3000000\twhy\n\n2\t0/8000100\tno recovery target\n"),
            Some(vec![(2, 0), (3, 8)])
        );
        assert_eq!(
            of(4, "# a comment\n1\t0/3000000\twhy\n2\t0/8000100\twhy\n3\t0/9000000\twhy\n"),
            Some(vec![(2, 0), (3, 8), (4, 9)])
        );
        // It left before the base was made, or left another one.
        assert_eq!(of(3, "1\t0/3000000\twhy\n2\t0/4000000\twhy\n"), None);
        assert_eq!(of(3, "1\t0/9000000\twhy\n"), None);
    }

    #[tokio::test]
    async fn a_base_reaches_nothing_without_all_wal_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = BackupSettings::new(folder.path().display().to_string(), "");
        settings.key = new_key();
        std::fs::create_dir(folder.path().join(WAL)).unwrap();
        let archive = Archive::open(&settings, 1).unwrap();
        let base = base(1, 2, 3);
        let mut untils = Vec::new();
        for number in [2, 3] {
            let at = Timestamp::from_millis(number as i64);
            archive.put(&Name::of(1, number, 16 << 20), "wal".into(), at).await.unwrap();
            untils.push(reach_of(&base, &archive, None).await.unwrap().until);
        }
        assert_eq!(untils, [None, Some(Timestamp::from_millis(3))]);
    }
}
