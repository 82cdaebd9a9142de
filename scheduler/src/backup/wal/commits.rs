//! When transactions ended, as the bytes of WAL say it.
//!
//! PostgreSQL stops at a time where it meets a transaction that ended later. Where the archive ends without one, it does
//! not come up: it cannot know that there is none. Who looks before can, and names the place to stop at.

use std::time::Duration;

use windlass_shared::model::time::Timestamp;

use super::archive::Archive;
use super::name::{Lsn, Name};
use crate::backup::BackupError;

/// Of a page: bytes of its header, and of the longer one that begins a segment.
const PAGE_HEADER: usize = 24;
const FIRST_HEADER: usize = 40;
/// Flags of a page: it begins with the rest of a record; it has the longer header; a record before it was given up.
const CONTINUES: u16 = 1;
const IS_FIRST: u16 = 2;
const GIVES_UP: u16 = 8;
/// Bytes of a record's header.
const RECORD_HEADER: usize = 24;
/// All that is read of a record is in its first bytes.
const READ_MAX: usize = 128;
/// Whose a record is.
const OF_XLOG: u8 = 0;
const OF_TRANSACTIONS: u8 = 1;
/// The rest of the segment is empty.
const SWITCH: u8 = 0x40;
/// Commit, abort, and both of what was prepared.
const ENDS: [u8; 4] = [0x00, 0x20, 0x30, 0x40];
/// PostgreSQL's time begins in the year 2000: microseconds from 1970 until then.
const EPOCH: i64 = 946_684_800_000_000;
/// The time of a file may be behind that of what was written to it.
const COARSE: Duration = Duration::from_secs(1);

/// Where a recovery to a time stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Before the first transaction that ended after this. There is one.
    Time(Timestamp),
    /// After the record that begins here, the last one that is whole. Nothing before it ended after the time.
    Record(Lsn),
}

/// Where to stop for all that ended by `at` in these segments, which follow one another, and nothing that is archived after
/// them. Reads those that were written after `at`, from the last.
///
/// # Errors
/// [`BackupError::OutOfReach`]: that cannot be told.
pub(super) async fn stop_at(
    archive: &Archive,
    segments: &[Name],
    at: Timestamp,
) -> Result<Stop, BackupError> {
    let unknown = |name: &dyn std::fmt::Display| {
        BackupError::OutOfReach(format!(
            "of {name} it cannot be told whether anything was committed after {at}: take an earlier time, or --to-latest"
        ))
    };
    let (mut next, mut last) = (Vec::new(), None);
    for name in segments.iter().rev() {
        let found = archive.get(name).await?;
        let (head, raw) = found.ok_or_else(|| BackupError::WalGap(name.to_string()))?;
        if last.is_some() && head.written_at.plus(COARSE) < at {
            break;
        }
        let segment = Segment::read(&raw).ok_or_else(|| unknown(name))?;
        let told = segment.told(&next).ok_or_else(|| unknown(name))?;
        if told.latest.is_some_and(|latest| latest > at) {
            return Ok(Stop::Time(at));
        }
        last = last.or(told.last);
        next = segment.whole_rest(!next.is_empty());
    }
    last.map(Stop::Record).ok_or_else(|| unknown(&"the archive"))
}

/// What is in a segment, without the headers of its pages.
struct Segment {
    /// Records follow one another in each; the last may go on in the next segment.
    runs: Vec<Run>,
    /// The beginning of what is left of the record before.
    rest: Vec<u8>,
    /// Bytes of what is left of it, also of those in later segments.
    left: usize,
    /// It was written to its end.
    is_full: bool,
}

/// What records say.
#[derive(Default)]
struct Told {
    /// When the latest transaction ended.
    latest: Option<Timestamp>,
    /// Where the last whole one begins.
    last: Option<Lsn>,
}

#[derive(Default)]
struct Run {
    bytes: Vec<u8>,
    /// Where in them pages begin, and their positions in the WAL.
    pages: Vec<(usize, u64)>,
    /// The first record.
    first: usize,
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_ne_bytes)
}

impl Segment {
    /// `None`: it is none that is known.
    fn read(raw: &[u8]) -> Option<Self> {
        let block = u32_at(raw, 36)? as usize;
        if !block.is_power_of_two() || block <= FIRST_HEADER {
            return None;
        }
        let begin = u64_at(raw, 8)?;
        let (mut runs, mut rest, mut whole_left) = (vec![Run::default()], Vec::new(), 0);
        let mut pages = 0;
        for (number, page) in raw.chunks_exact(block).enumerate() {
            let flags = field(page, 2).map(u16::from_ne_bytes)?;
            let position = begin + (number * block) as u64;
            if u64_at(page, 8)? != position {
                // Nothing was written from here on.
                break;
            }
            let is_first = flags & IS_FIRST != 0;
            if is_first != (number == 0) {
                return None;
            }
            let header = if is_first { FIRST_HEADER } else { PAGE_HEADER };
            let left = if flags & CONTINUES == 0 { 0 } else { u32_at(page, 16)? as usize };
            if flags & GIVES_UP != 0 {
                runs.push(Run::default());
            }
            let run = runs.last_mut()?;
            if number == 0 {
                run.first = left.next_multiple_of(8);
                rest = page[header..][..left.min(READ_MAX).min(block - header)].to_vec();
                whole_left = left;
            }
            pages += 1;
            run.pages.push((run.bytes.len(), position + header as u64));
            run.bytes.extend_from_slice(&page[header..]);
        }
        let is_full = pages == raw.len() / block;
        Some(Self { runs, rest, left: whole_left, is_full })
    }

    /// What its records say, where `next` is the rest of the last one. `None`: it cannot be read.
    fn told(&self, next: &[u8]) -> Option<Told> {
        let mut all = Told::default();
        for (number, run) in self.runs.iter().enumerate() {
            let next = if number + 1 == self.runs.len() { next } else { &[] };
            let told = run.told(next)?;
            all.latest = all.latest.max(told.latest);
            all.last = told.last.or(all.last);
        }
        Some(all)
    }

    /// The beginning of what is left of the record before, where that is whole: it ends here, or goes on in the next segment
    /// (`goes_on`: with a whole one).
    fn whole_rest(self, goes_on: bool) -> Vec<u8> {
        let here = self.runs.first().map_or(0, |run| run.bytes.len());
        let is_through = self.is_full && self.runs.len() == 1 && goes_on;
        if self.left <= here || is_through { self.rest } else { Vec::new() }
    }
}

impl Run {
    fn told(&self, next: &[u8]) -> Option<Told> {
        let (mut told, mut at) = (Told::default(), self.first);
        while at < self.bytes.len() {
            let end = self.bytes.len().min(at + READ_MAX);
            let record = [&self.bytes[at..end], next].concat();
            let length = u32_at(&record, 0)? as usize;
            if length == 0 || (at + length > self.bytes.len() && next.is_empty()) {
                break;
            }
            // Each names the one before it: that they do shows that they were read as they were written.
            let named = u64_at(&record, 8)?;
            if length < RECORD_HEADER || told.last.is_some_and(|last| last.0 != named) {
                return None;
            }
            told.last = Some(self.position(at));
            let [info, whose] = field(&record, 16)?;
            if whose == OF_XLOG && info & 0xF0 == SWITCH {
                break;
            }
            if whose == OF_TRANSACTIONS && ENDS.contains(&(info & 0x70)) {
                told.latest = told.latest.max(Some(time_of(&record)?));
            }
            at += length.next_multiple_of(8);
        }
        Some(told)
    }

    fn position(&self, at: usize) -> Lsn {
        let page = self.pages.partition_point(|(begin, _)| *begin <= at) - 1;
        let (begin, position) = self.pages[page];
        Lsn(position + (at - begin) as u64)
    }
}

/// When a transaction ended: what the data of such a record begins with.
fn time_of(record: &[u8]) -> Option<Timestamp> {
    let mut at = RECORD_HEADER;
    loop {
        match record.get(at)? {
            // Where it came from; of which transaction it is a part.
            253 => at += 3,
            252 => at += 5,
            // The data, with one byte or four that say its length.
            255 => break at += 2,
            254 => break at += 5,
            _ => return None,
        }
    }
    let micros = i64::from_ne_bytes(field(record, at)?);
    Some(Timestamp::from_micros(micros.checked_add(EPOCH)?))
}

#[cfg(test)]
mod tests {
    use windlass_shared::config::BackupSettings;

    use super::super::WAL;
    use super::*;
    use crate::backup::keys::new_key;

    mod stops;

    const BLOCK: usize = 512;
    const BEGIN: u64 = 7 << 20;

    fn time(s: i64) -> Timestamp {
        Timestamp::from_millis(s * 1000)
    }

    /// Records, one after another, cut into pages.
    struct Writer {
        raw: Vec<u8>,
        before: u64,
    }

    impl Writer {
        fn new(rest: &[u8]) -> Self {
            let mut new = Self { raw: Vec::new(), before: 0 };
            new.page(rest.len());
            new.bytes(rest);
            new
        }

        fn page(&mut self, left: usize) {
            let is_first = self.raw.is_empty();
            let flags = u16::from(left > 0) | if is_first { IS_FIRST } else { 0 };
            let position = BEGIN + self.raw.len() as u64;
            let mut header = vec![0; if is_first { FIRST_HEADER } else { PAGE_HEADER }];
            header[2..4].copy_from_slice(&flags.to_ne_bytes());
            header[8..16].copy_from_slice(&position.to_ne_bytes());
            header[16..20].copy_from_slice(&(left as u32).to_ne_bytes());
            if is_first {
                header[36..40].copy_from_slice(&(BLOCK as u32).to_ne_bytes());
            }
            self.raw.extend(header);
        }

        fn bytes(&mut self, bytes: &[u8]) {
            let mut bytes = bytes.to_vec();
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            let whole = bytes.len();
            for (done, byte) in bytes.into_iter().enumerate() {
                if self.raw.len().is_multiple_of(BLOCK) {
                    self.page(if done == 0 { 0 } else { whole - done });
                }
                self.raw.push(byte);
            }
        }

        fn record(&mut self, whose: u8, info: u8, data: &[u8]) -> Vec<u8> {
            let mut record = vec![0; RECORD_HEADER];
            record[0..4].copy_from_slice(&((RECORD_HEADER + data.len()) as u32).to_ne_bytes());
            record[8..16].copy_from_slice(&self.before.to_ne_bytes());
            (record[16], record[17]) = (info, whose);
            record.extend_from_slice(data);
            let on_new_page = self.raw.len().is_multiple_of(BLOCK);
            let header = if on_new_page { PAGE_HEADER } else { 0 };
            self.before = BEGIN + (self.raw.len() + header) as u64;
            record
        }

        fn put(&mut self, whose: u8, info: u8, data: &[u8]) {
            let record = self.record(whose, info, data);
            self.bytes(&record);
        }

        /// The whole segment.
        fn whole(mut self) -> Vec<u8> {
            self.raw.resize(16 * BLOCK, 0);
            self.raw
        }

        fn latest(self, next: &[u8]) -> Option<Option<Timestamp>> {
            Segment::read(&self.whole())?.told(next).map(|told| told.latest)
        }
    }

    /// A segment of whose last record, which ended something in second 30, it has `kept` bytes; and the rest of that.
    fn cut(kept: usize) -> (Writer, Vec<u8>) {
        let mut wal = Writer::new(&[]);
        while wal.raw.len() < 16 * BLOCK - kept {
            let left = 16 * BLOCK - kept - wal.raw.len();
            // The last one, within the last page, fills it up to there.
            wal.put(10, 0, &vec![1; if left > 400 { 104 } else { left - RECORD_HEADER }]);
        }
        let room = 16 * BLOCK - wal.raw.len();
        let record = wal.record(OF_TRANSACTIONS, 0, &ended(30));
        wal.bytes(&record[..room]);
        (wal, record[room..].to_vec())
    }

    fn ended(s: i64) -> Vec<u8> {
        [&[253, 0, 0, 255, 8][..], &(s * 1_000_000 - EPOCH).to_ne_bytes()].concat()
    }

    #[test]
    fn the_latest_end_is_found_across_pages() {
        let mut wal = Writer::new(&[9; 700]);
        for s in 0..40 {
            wal.put(10, 0, &[1; 61]);
            wal.put(OF_TRANSACTIONS, if s % 2 == 0 { 0x80 } else { 0x20 }, &ended(1000 - s));
        }
        // It ends nothing: it only prepares.
        wal.put(OF_TRANSACTIONS, 0x10, &ended(5000));
        assert_eq!(wal.latest(&[]), Some(Some(time(1000))));
    }

    #[test]
    fn what_follows_the_switch_is_nothing() {
        let mut wal = Writer::new(&[]);
        wal.put(OF_TRANSACTIONS, 0, &ended(10));
        wal.put(OF_XLOG, SWITCH, &[]);
        wal.put(OF_TRANSACTIONS, 0, &ended(20));
        assert_eq!(wal.latest(&[]), Some(Some(time(10))));
        assert_eq!(Writer::new(&[]).latest(&[]), Some(None));
    }

    #[test]
    fn records_that_do_not_follow_each_other_are_not_believed() {
        let mut wal = Writer::new(&[]);
        wal.put(OF_TRANSACTIONS, 0, &ended(10));
        wal.before += 8;
        wal.put(OF_TRANSACTIONS, 0, &ended(20));
        assert_eq!(wal.latest(&[]), None);
        assert!(Segment::read(&[0; 4096]).is_none() && Segment::read(&[]).is_none());
    }

    #[test]
    fn a_record_may_go_on_in_the_next_segment() {
        for kept in [8, 16, 24, 32] {
            let (wal, next) = cut(kept);
            assert_eq!(wal.latest(&next), Some(Some(time(30))), "{kept}");
            assert_eq!(cut(kept).0.latest(&[]), Some(None), "it is not whole");
        }
        let next = Writer::new(&[3; 20]);
        let mut raw = next.raw;
        raw.resize(16 * BLOCK, 0);
        assert_eq!(Segment::read(&raw).unwrap().rest, [3; 20]);
    }

    /// Goal: what ended at the instant is not after it, a commit counts wherever it is cut, and what cannot be read is no
    /// answer.
    #[tokio::test]
    async fn an_archive_tells_whether_anything_ended_after_an_instant() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = BackupSettings::new(folder.path().display().to_string(), "");
        settings.key = new_key();
        std::fs::create_dir(folder.path().join(WAL)).unwrap();
        let archive = Archive::open(&settings, 7).unwrap();
        let names = [0, 1, 2, 3].map(|number| Name::of(1, number, 16 * BLOCK as u64));
        let (first, rest) = cut(16);
        let mut second = Writer::new(&rest);
        second.put(OF_TRANSACTIONS, 0, &ended(20));
        let last = Lsn(second.before);
        // Files say only roughly when they were written.
        let (old, at) = (time(5), time(30).minus(Duration::from_millis(500)));
        let segments = [(vec![9; 16 * BLOCK], old), (first.whole(), at), (second.whole(), at)];
        for (name, (raw, at)) in names.iter().zip(segments) {
            archive.put(name, raw.into(), at).await.unwrap();
        }
        let shortly = time(30).minus(Duration::from_millis(200));
        let stop = stop_at(&archive, &names[1..3], shortly).await.unwrap();
        assert_eq!(stop, Stop::Time(shortly));
        // The first, which is no WAL at all, was written before.
        let stop = stop_at(&archive, &names[..3], time(30)).await.unwrap();
        assert_eq!(stop, Stop::Record(last));
        let told = stop_at(&archive, &names[..1], old).await;
        assert!(matches!(told, Err(BackupError::OutOfReach(_))), "{told:?}");
        let told = stop_at(&archive, &names, time(30)).await;
        assert!(matches!(told, Err(BackupError::WalGap(_))), "{told:?}");
    }
}
