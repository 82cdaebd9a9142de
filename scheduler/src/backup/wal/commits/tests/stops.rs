//! Where a recovery is to stop.

use bytes::Bytes;
use windlass_shared::config::BackupSettings;

use super::*;
use crate::backup::keys::new_key;

const SEGMENT: usize = 16 * BLOCK;

fn read(wal: Writer) -> Segment {
    let mut raw = wal.raw;
    raw.resize(SEGMENT, 0);
    Segment::read(&raw).unwrap()
}

fn at(wal: &Writer) -> Option<Lsn> {
    Some(Lsn(wal.before))
}

/// Whose last record needs `more` bytes of the next segment; where the one before it begins.
fn cut(more: usize) -> (Writer, Option<Lsn>) {
    let mut wal = Writer::new(&[]);
    while SEGMENT - wal.raw.len() > 200 {
        wal.put(10, 0, &[1; 40]);
    }
    let before = at(&wal);
    let room = SEGMENT - wal.raw.len();
    let record = wal.record(10, 0, &vec![1; room + more - RECORD_HEADER]);
    wal.bytes(&record[..room]);
    (wal, before)
}

#[test]
fn the_last_whole_record_is_known() {
    let mut wal = Writer::new(&[]);
    for s in 0..9 {
        wal.put(OF_TRANSACTIONS, 0, &ended(s));
    }
    let commit = at(&wal);
    assert_eq!(read(Writer { raw: wal.raw.clone(), ..wal }).told(&[]).unwrap().last, commit);
    wal.put(OF_XLOG, SWITCH, &[]);
    let switch = at(&wal);
    assert!(switch > commit);
    assert_eq!(read(wal).told(&[]).unwrap().last, switch);
    assert_eq!(read(Writer::new(&[9; 700])).told(&[]).unwrap().last, None);
}

#[test]
fn one_that_goes_on_counts_where_its_end_is_there() {
    let (wal, before) = cut(80);
    let whole = at(&wal);
    let wal = read(wal);
    assert_eq!(wal.told(&[]).unwrap().last, before);
    let rest = read(Writer::new(&[1; 80])).whole_rest(false);
    assert_eq!(rest, [1; 80]);
    assert_eq!(wal.told(&rest).unwrap().last, whole);

    // It fills the next segment, and goes on in the one after it.
    let long = || {
        let mut wal = Writer::new(&[1; 80]);
        wal.bytes(&[1; SEGMENT]);
        wal.raw.truncate(SEGMENT);
        wal.raw[16..20].copy_from_slice(&(2 * SEGMENT as u32).to_ne_bytes());
        wal
    };
    assert_eq!(read(long()).whole_rest(true).len(), READ_MAX);
    assert!(read(long()).whole_rest(false).is_empty(), "the one after it is not there");
    let mut unwritten = long();
    unwritten.raw.truncate(SEGMENT - BLOCK);
    assert!(read(unwritten).whole_rest(true).is_empty(), "it was not written to its end");
}

/// Goal: a server that crashed in the middle of a record leaves its beginning behind, and goes on after it.
#[test]
fn a_record_that_was_given_up_is_passed_over() {
    let mut wal = Writer::new(&[]);
    wal.put(OF_TRANSACTIONS, 0, &ended(10));
    let room = BLOCK - wal.raw.len();
    let given_up = wal.record(10, 0, &[1; 3 * BLOCK]);
    wal.bytes(&given_up[..room]);
    wal.page(0);
    let flags = wal.raw[BLOCK + 2];
    wal.raw[BLOCK + 2] = flags | GIVES_UP as u8;
    wal.put(OF_TRANSACTIONS, 0, &ended(20));
    let last = at(&wal);
    let told = read(wal).told(&[]).unwrap();
    assert_eq!((told.latest, told.last), (Some(time(20)), last));
}

#[tokio::test]
async fn it_stops_before_what_ended_later_or_at_the_end_of_the_archive() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("wal")).unwrap();
    let mut settings = BackupSettings::new(folder.path().display().to_string(), "");
    settings.key = new_key();
    let archive = Archive::open(&settings, 7).unwrap();
    let names = [0, 1].map(|more| Name::of(1, BEGIN / SEGMENT as u64 + more, SEGMENT as u64));
    let mut first = Writer::new(&[]);
    first.put(OF_TRANSACTIONS, 0, &ended(10));
    let after_first = at(&first).map(Stop::Record);
    let mut second = Writer::new(&[]);
    second.put(OF_TRANSACTIONS, 0, &ended(20));
    second.put(10, 0, &[1; 50]);
    let after_second = at(&second).map(Stop::Record);
    for (name, mut wal, written_at) in [(&names[0], first, 15), (&names[1], second, 25)] {
        wal.raw.resize(SEGMENT, 0);
        archive.put(name, Bytes::from(wal.raw), time(written_at)).await.unwrap();
    }
    let stop = async |names: &[Name], s| stop_at(&archive, names, time(s)).await.ok();
    assert_eq!(stop(&names, 5).await, Some(Stop::Time(time(5))));
    assert_eq!(stop(&names, 19).await, Some(Stop::Time(time(19))));
    assert_eq!(stop(&names, 20).await, after_second);
    assert_eq!(stop(&names[..1], 12).await, after_first);
    assert_eq!(stop(&[], 12).await, None, "it cannot be told");

    // Nothing of it is whole: the record before is the last.
    let third = Name::of(1, BEGIN / SEGMENT as u64 + 2, SEGMENT as u64);
    let mut wal = Writer::new(&[1; 80]);
    wal.raw.resize(SEGMENT, 0);
    wal.raw[16..20].copy_from_slice(&(2 * SEGMENT as u32).to_ne_bytes());
    archive.put(&third, Bytes::from(wal.raw), time(35)).await.unwrap();
    assert_eq!(stop(&[&names[..], &[third]].concat(), 30).await, after_second);
}
