//! What rings keep, forget and replay.

use bytes::Bytes;
use windlass_shared::engine::Verdict;
use windlass_shared::model::id::{Fence, JobId, LeaseId};

use super::*;

fn shard(queue: &str) -> ShardId {
    ShardId::first("default".parse().unwrap(), queue.parse().unwrap())
}

fn dones(count: usize) -> Vec<Done> {
    let done = |_| {
        let held = Held { id: JobId::generate(), fence: Fence(1), lease_id: LeaseId::random() };
        Done {
            settle: Settle {
                dependency: None,
                held,
                verdict: Verdict::Succeeded,
                detail: Bytes::new(),
            },
            attempt: 1,
            crashes: 0,
            claimed_at: Timestamp::default(),
            at: Timestamp::default(),
            ledger: None,
            told: false,
        }
    };
    (0..count).map(done).collect()
}

fn at(generation: u64, last_seq: u64, recorded_seq: u64) -> Position {
    Position { generation: Some(generation), last_seq, recorded_seq }
}

fn one(entries: usize) -> (Rings, Arc<ShardRing>) {
    let rings = Rings::bounded(std::iter::once(shard("a")), entries, BYTES_MAX);
    let ring = Arc::clone(rings.get(&shard("a")).unwrap());
    (rings, ring)
}

#[test]
fn what_is_recorded_is_forgotten_and_nothing_before() {
    let (_rings, ring) = one(10);
    ring.keep(dones(3), &at(1, 103, 100));
    ring.keep(dones(2), &at(1, 105, 102));
    assert_eq!(ring.counts(), (5, 0));
    ring.note(&at(1, 107, 103));
    assert_eq!(ring.counts(), (2, 0));
    ring.note(&at(1, 107, 104));
    assert_eq!(ring.counts(), (2, 0), "part of the batch is not recorded");
    ring.note(&at(1, 107, 105));
    assert_eq!(ring.counts(), (0, 0));
    let room = &ring.room;
    let sums = (room.entries.load(Ordering::Relaxed), room.bytes.load(Ordering::Relaxed));
    assert_eq!(sums, (0, 0));
}

#[test]
fn a_shut_gate_and_another_generation_replay_all_that_is_kept() {
    let (_rings, ring) = one(10);
    ring.keep(dones(2), &at(1, 102, 100));
    ring.note(&Position { generation: None, last_seq: 0, recorded_seq: 0 });
    assert_eq!(ring.counts(), (0, 2));
    // Numbers of the new store say nothing of the old one's.
    ring.note(&at(2, 900, 900));
    assert_eq!(ring.counts(), (0, 2));
    ring.keep(dones(1), &at(2, 901, 900));
    ring.note(&at(3, 901, 901));
    assert_eq!(ring.counts(), (0, 3));
    let first = ring.take(2, usize::MAX);
    assert_eq!((first.len(), ring.take(9, 1).len()), (2, 1), "at least one, however large");
    assert!(first.iter().all(|replay| replay.then == Then::SettleAgain));
}

#[tokio::test]
async fn what_is_settled_behind_a_shut_gate_is_replayed_at_once() {
    let (rings, ring) = one(10);
    ring.keep(dones(2), &Position::default());
    assert_eq!(ring.counts(), (0, 2));
    rings.replays().await;
    ring.alarmed().await;
    assert!(!ring.until_replayed(Duration::ZERO).await);
    let taken = ring.take(9, usize::MAX);
    ring.put_back(taken);
    let taken = ring.take(9, usize::MAX);
    assert_eq!(ring.counts(), (0, 2), "until it is over it counts");
    ring.replayed(&taken, true);
    assert!(ring.until_replayed(Duration::ZERO).await);
    assert_eq!(ring.counts(), (0, 0));
}

#[test]
fn a_settle_that_the_ledger_has_before_the_engine_answers_is_not_kept() {
    let (_rings, ring) = one(10);
    let mut both = dones(2);
    for done in &both {
        ring.tell(done.clone());
    }
    let taken = ring.take(1, usize::MAX);
    ring.replayed(&taken, true);
    both.extend(dones(1));
    ring.keep(both, &at(1, 3, 0));
    assert_eq!(ring.counts(), (2, 1), "one is recorded; the other is not yet");
    let taken = ring.take(9, usize::MAX);
    ring.replayed(&taken, true);
    assert!(ring.lock().told.is_empty(), "nothing is left behind");
}

#[test]
fn a_full_ring_says_so_for_those_that_fill_it() {
    let rings = Rings::bounded([shard("a"), shard("b")].into_iter(), 10, BYTES_MAX);
    let (a, b) = (rings.get(&shard("a")).unwrap(), rings.get(&shard("b")).unwrap());
    a.keep(dones(9), &at(1, 9, 0));
    assert!(!a.is_full());
    b.keep(dones(1), &at(1, 1, 0));
    assert!(a.is_full() && !b.is_full());
    b.keep(dones(4), &at(1, 5, 0));
    assert!(b.is_full());
    a.note(&at(1, 9, 9));
    assert!(!a.is_full() && !b.is_full());
    let rings = Rings::bounded(std::iter::once(shard("a")), 10, 1_000);
    let a = rings.get(&shard("a")).unwrap();
    let mut large = dones(1);
    large[0].settle.detail = Bytes::from(vec![0; 1_000]);
    a.keep(large, &at(1, 1, 0));
    assert!(a.is_full());
}
