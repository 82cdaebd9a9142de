//! The ring: settles that the engine has answered and the ledger may not have yet.
//!
//! An engine that is wiped or goes back in time forgets outcomes that it has said yes to. So a worker keeps every
//! settle until the shard says that the ledger has it ([`Position::recorded_seq`]), and tells the ledger itself, by the
//! direct path (`direct`), when the shard's gate is shut or was opened anew. Nothing is ever dropped for want of room:
//! a full ring keeps the worker from claiming.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use windlass_shared::engine::{Held, Position, Settle, ShardId};
use windlass_shared::model::id::LedgerId;
use windlass_shared::model::time::Timestamp;

/// Settles that one worker keeps before it claims no more.
const ENTRIES_MAX: usize = 50_000;
/// The same in bytes.
const BYTES_MAX: usize = 64 << 20;

/// A settle, with what the ledger has to be told if the engine forgets it.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    pub(crate) settle: Settle,
    /// Attempts that counted, this one included where it counts.
    pub(crate) attempt: u32,
    /// Leases lost before this one.
    pub(crate) crashes: u32,
    /// Start of the attempt, in engine time.
    pub(crate) claimed_at: Timestamp,
    /// Its end, in engine time as far as the worker knows it.
    pub(crate) at: Timestamp,
    /// Of whose job it is; `None`: not known.
    pub(crate) ledger: Option<LedgerId>,
    /// The direct path was asked to record it although the engine has not answered.
    pub(crate) told: bool,
}

impl Done {
    /// What it costs in the ring.
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.settle.detail.len()
    }
}

/// What follows once the ledger has an outcome by the direct path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing: the engine knows nothing of the lease.
    Forget,
    /// It is settled at the engine once more: one that went back in time may have the lease again, and nobody would
    /// extend it.
    SettleAgain,
    /// It is noted for the lane, which still tries to settle it.
    Note,
    /// Nothing; the lane has given up. What the ledger does not get is counted when the worker ends.
    Abandoned,
}

/// An outcome on its way to the ledger by the direct path.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    pub(crate) done: Done,
    pub(crate) then: Then,
}

/// The rings of one worker, by shard.
pub(crate) struct Rings {
    shards: HashMap<ShardId, Arc<ShardRing>>,
    replays: Arc<Notify>,
}

/// Sums over a worker's rings, and its bounds.
#[derive(Debug)]
struct Room {
    entries: AtomicUsize,
    bytes: AtomicUsize,
    bounds: Bounds,
}

#[derive(Debug, Clone, Copy)]
struct Bounds {
    entries: usize,
    bytes: usize,
    shards: usize,
}

impl Rings {
    /// For these shards; one that is named twice has one ring.
    pub(crate) fn new(shards: impl Iterator<Item = ShardId>) -> Self {
        Self::bounded(shards, ENTRIES_MAX, BYTES_MAX)
    }

    pub(crate) fn bounded(
        shards: impl Iterator<Item = ShardId>,
        entries: usize,
        bytes: usize,
    ) -> Self {
        let mut shards: Vec<ShardId> = shards.collect();
        shards.sort_unstable();
        shards.dedup();
        let bounds = Bounds { entries, bytes, shards: shards.len().max(1) };
        let room = Room { entries: AtomicUsize::new(0), bytes: AtomicUsize::new(0), bounds };
        let room = Arc::new(room);
        let replays = Arc::new(Notify::new());
        let ring = |shard: ShardId| {
            let ring = ShardRing {
                shard: Arc::new(shard.clone()),
                turn: tokio::sync::Mutex::new(()),
                state: Mutex::default(),
                holds: Mutex::default(),
                room: Arc::clone(&room),
                alarm: Notify::new(),
                replays: Arc::clone(&replays),
                answered: watch::Sender::new(0),
            };
            (shard, Arc::new(ring))
        };
        Self { shards: shards.into_iter().map(ring).collect(), replays }
    }

    pub(crate) fn get(&self, shard: &ShardId) -> Option<&Arc<ShardRing>> {
        self.shards.get(shard)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<ShardRing>> {
        self.shards.values()
    }

    /// Waits until some ring may have something to replay. May be dropped at any time; one listener.
    pub(crate) async fn replays(&self) {
        self.replays.notified().await;
    }
}

/// What is known of a shard's gate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Seen {
    /// Nothing yet.
    #[default]
    Nothing,
    Shut,
    Open(u64),
}

/// Settles of one engine call.
#[derive(Debug)]
struct Batch {
    last_seq: u64,
    dones: Vec<Done>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    seen: Seen,
    /// In order of their numbers; all of the generation in `seen`.
    kept: VecDeque<Batch>,
    /// On their way to the ledger, oldest first.
    replays: VecDeque<Replay>,
    /// Put into `replays` so far.
    queued: u64,
    /// Of what is on its way, that which the engine never answered.
    abandoned: usize,
    /// Open settles that the direct path was told of, and whether the ledger has them.
    told: HashMap<Held, bool>,
    entries: usize,
    bytes: usize,
}

/// The ring of one shard. Its lock is held for moments.
pub(crate) struct ShardRing {
    pub(crate) shard: Arc<ShardId>,
    /// Held while a settle is under way until its answer is noted, and while leases are adopted: see `adoption`.
    pub(crate) turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    /// Of which ledger its jobs are, as it said last.
    holds: Mutex<Option<LedgerId>>,
    room: Arc<Room>,
    alarm: Notify,
    replays: Arc<Notify>,
    /// Replays that are over.
    answered: watch::Sender<u64>,
}

impl ShardRing {
    /// Keeps what the engine has settled in one call, until a later position shows that it is recorded. Settles
    /// that the ledger has already by the direct path are left out.
    pub(crate) fn keep(&self, mut dones: Vec<Done>, position: &Position) {
        let mut state = self.lock();
        // First: whatever is of another generation leaves.
        self.note_in(&mut state, position);
        if !state.told.is_empty() {
            dones.retain(|done| state.told.remove(&done.settle.held) != Some(true));
        }
        if dones.is_empty() {
            return;
        }
        if position.generation.is_none() {
            return self.queue(&mut state, dones, Then::SettleAgain);
        }
        if dones.capacity() > 2 * dones.len() {
            dones.shrink_to_fit();
        }
        let (entries, bytes) = cost(&dones);
        self.add(&mut state, entries, bytes);
        state.kept.push_back(Batch { last_seq: position.last_seq, dones, bytes });
    }

    /// Takes over what any reply says of the shard: forgets what is recorded, and replays what may be lost.
    pub(crate) fn note(&self, position: &Position) {
        self.note_in(&mut self.lock(), position);
    }

    fn note_in(&self, state: &mut State, position: &Position) {
        let seen = position.generation.map_or(Seen::Shut, Seen::Open);
        if state.seen == seen {
            while state.kept.front().is_some_and(|first| first.last_seq <= position.recorded_seq) {
                let Some(Batch { dones, bytes, .. }) = state.kept.pop_front() else { break };
                self.subtract(state, dones.len(), bytes);
            }
            return;
        }
        let is_news = state.seen != Seen::Nothing || seen == Seen::Shut;
        state.seen = seen;
        // Also of an old reply that comes late: replaying for nothing does no harm.
        self.replay_in(state);
        if is_news {
            self.alarm.notify_one();
        }
    }

    /// Sends all that is kept by the direct path.
    pub(crate) fn replay_all(&self) {
        self.replay_in(&mut self.lock());
    }

    fn replay_in(&self, state: &mut State) {
        for Batch { dones, bytes, .. } in std::mem::take(&mut state.kept) {
            self.subtract(state, dones.len(), bytes);
            self.queue(state, dones, Then::SettleAgain);
        }
    }

    /// Sends settles by the direct path that the engine does not know, or has been given up.
    pub(crate) fn send(&self, mut dones: Vec<Done>, then: Then) {
        let mut state = self.lock();
        if !state.told.is_empty() {
            dones.retain(|done| state.told.remove(&done.settle.held) != Some(true));
        }
        self.queue(&mut state, dones, then);
    }

    /// Sends a settle by the direct path that the engine has not answered; the caller goes on settling it.
    pub(crate) fn tell(&self, done: Done) {
        let mut state = self.lock();
        state.told.insert(done.settle.held, false);
        self.queue(&mut state, vec![done], Then::Note);
    }

    /// The engine's answer to this one needs nothing to be kept.
    pub(crate) fn untell(&self, done: &Done) {
        self.lock().told.remove(&done.settle.held);
    }

    fn queue(&self, state: &mut State, dones: Vec<Done>, then: Then) {
        if dones.is_empty() {
            return;
        }
        let (entries, bytes) = cost(&dones);
        self.add(state, entries, bytes);
        state.queued += entries as u64;
        state.abandoned += if then == Then::Abandoned { entries } else { 0 };
        state.replays.extend(dones.into_iter().map(|done| Replay { done, then }));
        self.replays.notify_one();
    }

    /// The oldest replays that are of one ledger, up to these bounds, at least one if there are any. They count until
    /// [`Self::replayed`].
    pub(crate) fn take(&self, entries_max: usize, bytes_max: usize) -> Vec<Replay> {
        let mut state = self.lock();
        let mut bytes = 0;
        let ledger = state.replays.front().and_then(|first| first.done.ledger);
        let fits = state.replays.iter().take(entries_max).take_while(|replay| {
            let first = bytes == 0;
            bytes += replay.done.bytes();
            replay.done.ledger == ledger && (first || bytes <= bytes_max)
        });
        let fits = fits.count();
        state.replays.drain(..fits).collect()
    }

    /// Gives back what could not be sent.
    pub(crate) fn put_back(&self, replays: Vec<Replay>) {
        let mut state = self.lock();
        for replay in replays.into_iter().rev() {
            state.replays.push_front(replay);
        }
    }

    /// Notes that these are over: recorded, or refused for good.
    pub(crate) fn replayed(&self, replays: &[Replay], recorded: bool) {
        let mut state = self.lock();
        let bytes = replays.iter().map(|replay| replay.done.bytes()).sum();
        self.subtract(&mut state, replays.len(), bytes);
        state.abandoned -= replays.iter().filter(|replay| replay.then == Then::Abandoned).count();
        for replay in replays.iter().filter(|replay| recorded && replay.then == Then::Note) {
            // Not there any more: the engine was faster.
            if let Some(has) = state.told.get_mut(&replay.done.settle.held) {
                *has = true;
            }
        }
        self.answered.send_modify(|answered| *answered += replays.len() as u64);
    }

    /// Waits, at most so long, until all that is to be replayed by now is over; whether it is.
    pub(crate) async fn until_replayed(&self, patience: Duration) -> bool {
        let mark = self.lock().queued;
        let mut answered = self.answered.subscribe();
        let over = answered.wait_for(|answered| *answered >= mark);
        matches!(tokio::time::timeout(patience, over).await, Ok(Ok(_)))
    }

    /// Whether the worker's rings are full and this one holds its part of it: then its shard is not claimed from.
    /// All rings together stay below twice the bounds, beside what the slots hold.
    pub(crate) fn is_full(&self) -> bool {
        let Room { entries, bytes, bounds } = &*self.room;
        let too_many = entries.load(Ordering::Relaxed) >= bounds.entries;
        let too_large = bytes.load(Ordering::Relaxed) >= bounds.bytes;
        if !too_many && !too_large {
            return false;
        }
        let state = self.lock();
        too_many && state.entries >= bounds.entries / bounds.shards
            || too_large && state.bytes >= bounds.bytes / bounds.shards
    }

    /// Settles that are kept or being replayed, in all rings of the worker.
    pub(crate) fn kept_by_all(&self) -> usize {
        self.room.entries.load(Ordering::Relaxed)
    }

    /// Settles that are kept, and those that are being replayed.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        let kept = state.kept.iter().map(|batch| batch.dones.len()).sum();
        (kept, state.entries - kept)
    }

    /// Settles that the engine never answered, were given up, and are not in the ledger yet.
    pub(crate) fn abandoned(&self) -> usize {
        self.lock().abandoned
    }

    /// Of which ledger the shard's jobs are, as it said last.
    pub(crate) fn holds(&self) -> Option<LedgerId> {
        *self.holds.lock().expect("nobody panics while holding it")
    }

    /// Notes of which ledger the shard's jobs are.
    pub(crate) fn note_holds(&self, ledger: Option<LedgerId>) {
        *self.holds.lock().expect("nobody panics while holding it") = ledger;
    }

    /// Says that the gate is to be looked at.
    pub(crate) fn alarm(&self) {
        self.alarm.notify_one();
    }

    /// Waits for an alarm. May be dropped at any time; one listener.
    pub(crate) async fn alarmed(&self) {
        self.alarm.notified().await;
    }

    fn add(&self, state: &mut State, entries: usize, bytes: usize) {
        state.entries += entries;
        state.bytes += bytes;
        self.room.entries.fetch_add(entries, Ordering::Relaxed);
        self.room.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn subtract(&self, state: &mut State, entries: usize, bytes: usize) {
        state.entries -= entries;
        state.bytes -= bytes;
        self.room.entries.fetch_sub(entries, Ordering::Relaxed);
        self.room.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding a ring")
    }
}

fn cost(dones: &[Done]) -> (usize, usize) {
    (dones.len(), dones.iter().map(Done::bytes).sum())
}

#[cfg(test)]
mod tests;
