//! The pure model of one shard: no I/O, no clock, no randomness. Engine time is an argument of every verb.
//!
//! It is the executable specification of the engine: [`embedded`](super::embedded) is this model behind
//! a mutex, and the Lua scripts of [`redis`](super::redis) are compared with it, reply by reply and
//! [`ShardDump`] by [`ShardDump`]. Where prose and code differ, the code is right.
//!
//! # Time
//!
//! Instants are µs since 1970, from 0 to 2^53 (exact in Lua). Orders use whole ms: `ceil_ms` of an
//! instant (rounded up), compared with `floor_ms` of engine time (rounded down), so that nothing happens
//! before its µs. `now_us`, `now_ms` below are engine time of the call; it never goes back in one shard
//! that keeps its state, and nothing breaks if it does.
//!
//! # State
//!
//! | part | what | Redis |
//! |---|---|---|
//! | `settings` | [`ShardSettings`], none until configured; then defaults hold for budgets and the unit | hash |
//! | `entries` | id → [`Entry`]: a record of fixed size, the kind and the envelope | hashes |
//! | `ready` | (score, id) ascending, ties by the id's 16 bytes | sorted set |
//! | `delayed` | (`ceil_ms(run_at)`, id) | sorted set |
//! | `leases` | (`until_ms`, id): when the lease runs out | sorted set |
//! | `claims` | (`claimed_at` µs, id) of the leased, for [`Shard::leased`] | sorted set |
//! | `outbox` | [`Outcome`]s by `seq`, no gaps | stream or list |
//! | `last_seq` | of the last outcome ever, 0 before the first; the first gets `max(now_us, 1)` | counter |
//! | `tombstones` | id → [`Tombstone`] in two windows (below) | two hashes |
//! | `bytes` | Σ envelope lengths of entries + `outbox_bytes` | counter |
//! | `outbox_bytes` | Σ over the outbox of detail length + [`OUTCOME_BYTES`] | counter |
//! | `recorded_seq` | of the last outcome confirmed, 0 before | counter |
//! | `gate` | ledger, generation, process, grace, slots, ramp and its beginning; none of a fresh shard | packed |
//! | `reported`, `present` | workers that reported since the gate was shut, and those that said that they are at it | set |
//! | `seen`, `no_reap_until` | the last sign of life while leases were held; until when nothing is reaped | packed |
//!
//! An id is in `ready`, `delayed`, or `leases` and `claims`, as its status says; `finishing` in none.
//! `score = ceil_ms(run_at) − priority level × floor_ms(priority_unit)`, computed when the job is pushed,
//! retried or snoozed, with the unit of that moment, and kept otherwise.
//!
//! **Placing** a job (pushed, retried, snoozed): `ready` if `run_at <= now_us` (exact), else `delayed`.
//!
//! **Tombstones**: window number `w = now_us div TOMBSTONE_TTL`. A tombstone is written into the present
//! window and stands in that and the next one, so it lives from one to two TTLs. Older ones do not stand
//! and are not in the dump, whether or not the store has dropped them yet. `standing(id)` is the greater
//! one of both windows. Two hashes cost about 90 bytes each: 30,000 jobs/s × 30 s = 81 MB at
//! worst, and keep a redriven job (higher fence) from being taken for the finished one. An id is never
//! both an entry and a standing tombstone: push takes the tombstone away.
//!
//! # Verbs
//!
//! **push**: a gate of another ledger: all `Late`, told as if there were none. `now > not_after`, or the gate has a higher generation than the caller knew (0 counts as 1): all `Late`. Else job by job:
//! entry with `fence >= pushed` → `Present`; `standing(id)` bars it ([`Tombstone::bars`]) → `Present`;
//! `bytes − replaced envelope + envelope > bytes_max` → `Full`;
//! not replacing, `run_at > now` and `delayed >= jobs_max` → `Full`;
//! not replacing, `run_at <= now` and the waiting of its group `>= 4 × (jobs_max − (entries − delayed))` → `Crowded`,
//! and so with a `Fresh` one whose group is in `refused`
//! (a refusal with `run_at <= now` notes group and `now` in `refused`, which has at most 2,000);
//! else the entry is (re)written as pushed, whatever it was (a lease is lost; `cancel`, `lease_id`, `worker`,
//! `claimed_at` are cleared), its tombstones go, it is placed → `Added`. Outcomes in the outbox stay.
//!
//! **claim**: promotes ≤ `move_max`, reaps ≤ `move_max`, in any state of the shard. Then the state, first that
//! holds: `Unverified` (the gate's process is not the one that serves), `Foreign` (the gate is of another ledger than the one asked
//! for), `Paused`, `Braked` (outbox ≥
//! `outbox_entries_max` entries or `outbox_bytes` ≥ `outbox_bytes_max`), `Warming` (while the ramp lasts the bound
//! of leases, `max(1, slots × (ramp + 9 × elapsed) div (10 × ramp))`, is reached), `Open`. Only `Open` goes on:
//! walks `ready` in order as it now stands, from rank
//! `offset` (0 without a kind filter), and stops *before* a member when `max` (≤ [`ENGINE_BATCH_MAX`], and what the
//! ramp leaves) are leased, `scan_max` were looked at, or `move_max` have expired. A member with `expires_at <= now_us` expires,
//! whatever its kind and however often it ran: `finishing`, its fence + 1, outcome `Expired`
//! with that fence and no `claimed_at` or worker. Else a member whose kind fits is leased:
//! `fence = max(now_us, fence + 1)`, `until_ms = ceil_ms(now + lease)`, `claimed_at = now`. Others stay.
//! `next_offset`: with a filter, when `scan_max` or `move_max` ended the walk (not `max`), `offset` + looked at
//! − leased − expired if `ready` still has a member there, else 0. `next_due` is the head of `delayed`, in whole ms.
//!
//! **extend**: no entry, not leased, or leased with a lower fence (the store went back in time) → `Gone`; another fence or
//! token → `Stolen`; else
//! `until_ms = max(until_ms, ceil_ms(now + lease))` → `Held`. A lease that ran out and is not reaped is held.
//!
//! **settle**, by the entry: none, or `fence` < the held one → `Gone`; `fence` > the held one → `Stolen`.
//! Fences equal: token equal → settled if leased, else `Repeated`; token differs → `Gone` if the
//! entry has none (never leased since the push, or reaped), else `Stolen`.
//! `Retry`, `Snooze` and `Release` with the cancel flag become `Cancelled`. `attempt + 1` for `Succeeded`, `Retry`
//! and `Dead`, in entry and outcome. `Retry`, `Snooze`: `run_at = now + delay`, new score, placed; `Retry` without a delay
//! under a budget: ready for a unit where nobody is behind, else behind. `Release`: ready
//! with its old score. Others: `finishing`. Fence, token, worker, `claimed_at` stay (so `Repeated` is seen).
//!
//! **promote**: `delayed` with `ceil_ms(run_at) <= now_ms`, in order, ≤ min(max, `move_max`) → `ready`, score kept; but
//! where there is a retry budget, those with an attempt that counted go *behind*, to `ceil_ms(run_at) + 2^50` of `delayed`.
//! With what is left of the bound, the first of those behind → `ready`, as long as there is a unit for each; all of them
//! where there is no budget.
//!
//! **reap**: nothing without leases. Else a sign of life: engine time has jumped if `now > seen + CLOCK_STEP_MIN`; then, if
//! `now >= no_reap_until + grace`, `no_reap_until = now + grace` ([`limits::CLOCK_STEP_MIN`]). `seen = now` if it is
//! ≥ 500 ms off. Nothing more while the gate is shut or `now < no_reap_until`. Else `leases` with
//! `until_ms < now_ms`, in order, ≤ min(max, `move_max`). The token is cleared. Cancel flag: `finishing`, outcome `Cancelled`, no crash counted. Else `crashes + 1`; at `max_crashes` or more:
//! `finishing`, outcome `Quarantined`; else `ready` with its old score, outcome `Lost`.
//!
//! An extend or adopt that holds something is such a sign of life too; a claim that leases sets `seen` to now.
//!
//! **configure**: a version lower than the present one → `false`; else replaces them → `true`.
//!
//! **cancel**(id, fence as the ledger knows it): `ready`/`delayed` → entry removed, tombstone
//! `max(entry's, given)`, whole as all that are not said to be otherwise, → `Removed`; leased → flag set, with `StopRunning` only → `Running`;
//! finishing → `Finishing`; absent → tombstone `max(standing, given)` → `Absent`.
//!
//! **confirm**(last): if it is in the outbox, it and those before it leave the outbox in order, and `recorded_seq` is
//! its seq; a terminal one whose entry is `finishing` with the outcome's fence also removes the entry and writes a
//! tombstone with that fence.
//!
//! **shut**(ledger, generation, not_after): `now > not_after` → `Late`. A gate of this ledger with a higher generation,
//! or with this one and open → `Newer`; with this one and shut → `Shut`, nothing changed. A gate of another ledger:
//! the shard is emptied first. Then the gate is that ledger and generation without process, nobody has reported.
//!
//! **open_gate**: a gate of another ledger or with a higher generation → `Newer`; none, or with a lower generation, or
//! another process serves → `Moved`; open already → `Open`, nothing changed. Else settings as by configure; the gate is as
//! given, its ramp begins now; with leases held `no_reap_until = now + grace`; `seen = now`; → `Open`.
//!
//! **seal**(ledger, generation): the gate is shut by these → sealed, `true`; else `false`.
//!
//! **adopt**(lease with fence f): *bound* is a gate that is open, or shut and sealed. `standing(id).fence >= f`, or `finishing`
//! with a fence ≥ f → `Over`. Leased with f and its token: `until_ms = max(until_ms, ceil_ms(now + lease))` → `Held`. Leased with a
//! fence ≥ f, or waiting with a fence > f, or with f but a higher `attempt` or `crashes` or this very token (that lease has ended) → `Stolen`. Bound: absent
//! or `finishing` → `Over`, leased → `Stolen`. Else the entry is (re)written as given, leased with f,
//! the token and `claimed_at`; tombstones go; budgets don't count → `Held`.
//!
//! **withdraw**(lease with fence f, looked): looks at ≤ `move_max` outcomes of the outbox, from the first one, or after
//! `looked` if it is of this generation; `looked` of the answer is the last one looked at. An entry with f and the given
//! token, `finishing` if the outcome ends the job, waiting if not → `Known`. An outcome of this job among those looked
//! at → `Waits`; not at the end of the outbox → `Behind`. Absent → out. With a fence > f: `Known` if a retry and
//! `attempt` is higher than given, else `Stolen`. Leased or `finishing`: with f and another token than the one given →
//! `Stolen`, else out. Waiting: with f but a higher `attempt` or `crashes` or the given token → `Stolen`, else out.
//! Out: the entry is removed, a tombstone `max(standing, f)` (not whole if the job is to run again) written → `Out`.
//!
//! **refused**(max): the first of `refused`, by (time, group), and whether fewer of them wait than
//! `3 × (jobs_max − (entries − delayed))`. **refilled**(groups): they leave `refused`.
//!
//! **report**(ledger, generation): the worker has reported, or said that it is present, if the gate is shut by these. **scan**: entries. **drop_jobs**: an entry with exactly this fence is
//! removed, and a tombstone with it written if `bury`.
//!
//! **Wake-ups** (hints; [`Wake`]): `ready` when a job entered `ready` while the shard is configured and not paused
//! (by claim: only if `ready` is not empty afterwards), when configure or open_gate opens a shard with ready jobs, and
//! when confirm lifts the brake over ready jobs; `outcomes` when the outbox grew; `cancels` for each flag set or set again;
//! `shut` when a gate was shut; `unverified` when a claim found it shut.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::flow::{Flow, FlowKey, Group, Limits};
use super::gate::*;
use super::*;
use crate::limits;

mod adopt;
mod audit;
mod cancel;
mod claim;
pub(super) mod crowd;
mod dump;
mod entry;
mod flow;
mod gate;
mod holds;
mod look;
mod outbox;
mod push;
mod settle;
mod tombstones;
mod upkeep;
mod withdraw;

pub(crate) use crowd::REFUSED_MAX;
pub use dump::ShardDump;
pub use entry::{Entry, Status};
pub(super) use flow::BEHIND_MS;
pub use flow::{Circuit, CircuitState, Due, FlowState, Saved, Scope, ScopeKind, Share, Turn};
pub use gate::GateState;
pub use outbox::OUTCOME_BYTES;
pub use tombstones::window;

pub(super) use gate::SEEN_EVERY;
use outbox::Outbox;
use tombstones::Tombstones;

/// Bounds of one shard's calls. Production uses the default; tests use small ones to reach them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most due, run-out or expired jobs that one call moves.
    pub move_max: u32,
    /// Most ready jobs that one claim looks at.
    pub scan_max: u32,
    /// Unrecorded outcomes from which on the shard gives no leases.
    pub outbox_entries_max: u64,
    /// The same in bytes.
    pub outbox_bytes_max: u64,
}

impl Default for Bounds {
    /// What [`crate::limits`] says.
    fn default() -> Self {
        Self {
            move_max: limits::MOVE_MAX as u32,
            scan_max: limits::CLAIM_SCAN_MAX as u32,
            outbox_entries_max: limits::OUTBOX_ENTRIES_MAX,
            outbox_bytes_max: limits::OUTBOX_BYTES_MAX,
        }
    }
}

/// What a verb made worth waking for; see [`Signal`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wake {
    /// Jobs became claimable.
    pub ready: bool,
    /// Outcomes wait to be recorded.
    pub outcomes: bool,
    /// Leased jobs that are to be stopped.
    pub cancels: Vec<JobId>,
    /// The gate has been shut.
    pub shut: bool,
    /// A claim found it shut.
    pub unverified: bool,
}

/// One shard's whole state.
#[derive(Debug, Clone)]
pub struct Shard {
    bounds: Bounds,
    /// The process that serves it.
    process: ProcessId,
    gate: Option<GateState>,
    reported: BTreeSet<WorkerId>,
    present: BTreeSet<WorkerId>,
    /// The last sign of life while leases were held.
    seen: Timestamp,
    no_reap_until: Timestamp,
    settings: Option<ShardSettings>,
    entries: HashMap<JobId, Entry>,
    ready: BTreeSet<(i64, JobId)>,
    delayed: BTreeSet<(i64, JobId)>,
    leases: BTreeSet<(i64, JobId)>,
    claims: BTreeSet<(Timestamp, JobId)>,
    outbox: Outbox,
    tombstones: Tombstones,
    flow: FlowState,
    /// Groups that were refused room, and when, in µs.
    refused: Due<Group>,
    /// Of `settings`, by the keys of the kinds.
    kind_limits: BTreeMap<FlowKey, Limits>,
    /// Σ envelope lengths of `entries`.
    envelope_bytes: u64,
    /// A lease ended when there were as many as the queue allows.
    has_room_again: bool,
    wake: Wake,
}

impl Shard {
    /// An empty shard without a gate, served by this process.
    pub fn new(bounds: Bounds, process: ProcessId) -> Self {
        Self {
            bounds,
            process,
            gate: None,
            reported: BTreeSet::new(),
            present: BTreeSet::new(),
            seen: Timestamp::default(),
            no_reap_until: Timestamp::default(),
            settings: None,
            entries: HashMap::new(),
            ready: BTreeSet::new(),
            delayed: BTreeSet::new(),
            leases: BTreeSet::new(),
            claims: BTreeSet::new(),
            outbox: Outbox::default(),
            tombstones: Tombstones::default(),
            flow: FlowState::default(),
            refused: Due::default(),
            kind_limits: BTreeMap::new(),
            envelope_bytes: 0,
            has_room_again: false,
            wake: Wake::default(),
        }
    }

    /// The same state, served by another process: the store has started anew.
    pub fn served_by(self, process: ProcessId) -> Self {
        Self { process, ..self }
    }

    /// What the verbs since the last call made worth waking for.
    pub fn take_wake(&mut self) -> Wake {
        let limit = self.queue_concurrency();
        if std::mem::take(&mut self.has_room_again)
            && limit.is_some_and(|limit| (self.leases.len() as u64) < limit)
            && self.has_ready()
        {
            self.wake_ready();
        }
        std::mem::take(&mut self.wake)
    }

    /// Gives the shard its settings; see the module's rules.
    pub fn configure(&mut self, now: Timestamp, settings: &ShardSettings) -> bool {
        if self.settings.as_ref().is_some_and(|present| settings.version < present.version) {
            return false;
        }
        let was_open = self.is_open();
        let before = self.settings.replace(settings.clone());
        self.limit_flow(now, &before.map(|settings| settings.flow).unwrap_or_default());
        if !was_open && self.has_ready() {
            self.wake_ready();
        }
        true
    }

    /// Configured and not paused. The brake is another matter: it comes and goes by itself.
    fn is_open(&self) -> bool {
        self.settings.as_ref().is_some_and(|settings| !settings.paused)
    }

    /// Most leases at once, if the queue has such a limit.
    fn queue_concurrency(&self) -> Option<u64> {
        self.settings.as_ref()?.flow.queue.concurrency.map(u64::from)
    }

    fn is_braked(&self) -> bool {
        self.outbox.len() >= self.bounds.outbox_entries_max
            || self.outbox.bytes() >= self.bounds.outbox_bytes_max
    }

    fn bytes(&self) -> u64 {
        self.envelope_bytes + self.outbox.bytes()
    }

    /// Whether a claim might find something.
    fn has_ready(&self) -> bool {
        !self.ready.is_empty() || self.flow.has_any_turn()
    }

    fn wake_ready(&mut self) {
        self.wake.ready |= self.is_open();
    }

    fn score(&self, run_at: Timestamp, priority: Priority) -> i64 {
        let unit = match &self.settings {
            Some(settings) => settings.priority_unit,
            None => ShardSettings::default().priority_unit,
        };
        let unit_ms = i64::try_from(unit.as_millis()).unwrap_or(i64::MAX);
        let lead_ms = unit_ms.saturating_mul(i64::from(priority.level()));
        ceil_ms(run_at).saturating_sub(lead_ms)
    }

    /// Puts an entry that is in no order into the one that its `run_at` asks for.
    fn place(&mut self, now: Timestamp, id: JobId) {
        let entry = self.entries.get_mut(&id).expect("only entries are placed");
        if entry.run_at <= now {
            self.make_ready(now, id);
        } else {
            entry.status = Status::Delayed;
            self.delayed.insert((ceil_ms(entry.run_at), id));
        }
    }

    /// Puts an entry that is in no order back to its old place among the ready.
    fn make_ready(&mut self, now: Timestamp, id: JobId) {
        let entry = self.entries.get_mut(&id).expect("only entries become ready");
        entry.status = Status::Ready;
        let (score, flow) = (entry.score, entry.flow);
        match flow {
            Some(flow) => self.enter_lane(now, id, &flow, score),
            None => {
                self.ready.insert((score, id));
                self.wake_ready();
            }
        }
    }

    /// Takes an entry out of the orders that its status says it is in.
    fn unplace(&mut self, now: Timestamp, id: JobId) {
        let Entry { status, score, run_at, claimed_at, flow, fence, .. } = self.entries[&id];
        let removed = match status {
            Status::Ready => match flow {
                Some(flow) => self.leave_lane(now, id, &flow, score),
                None => self.ready.remove(&(score, id)),
            },
            Status::Delayed => {
                let entry = self.entries.get_mut(&id).expect("it was looked at");
                let behind = if std::mem::take(&mut entry.is_behind) { BEHIND_MS } else { 0 };
                self.delayed.remove(&(ceil_ms(run_at) + behind, id))
            }
            Status::Leased { until_ms } => {
                let claimed_at = claimed_at.expect("a leased entry was claimed");
                let is_full = self.queue_concurrency() == Some(self.leases.len() as u64);
                self.has_room_again |= is_full;
                let removed =
                    self.leases.remove(&(until_ms, id)) && self.claims.remove(&(claimed_at, id));
                self.end_flow(now, (id, fence), flow.as_ref(), claimed_at);
                removed
            }
            Status::Finishing => true,
        };
        debug_assert!(removed, "{id} was not where its status says: {status:?}");
    }

    /// Appends the outcome of the entry as it now stands; `lease` is whether a lease ended.
    fn report(&mut self, now: Timestamp, id: JobId, ended: Ended, lease: bool, detail: Bytes) {
        let entry = &self.entries[&id];
        self.outbox.push(Outcome {
            seq: 0,
            id,
            fence: entry.fence,
            ended,
            at: now,
            claimed_at: entry.claimed_at.filter(|_| lease),
            worker: entry.worker.filter(|_| lease),
            attempt: entry.attempt,
            crashes: entry.crashes,
            detail,
        });
        self.wake.outcomes = true;
    }

    fn forget(&mut self, id: JobId) {
        if let Some(entry) = self.entries.remove(&id) {
            self.envelope_bytes -= entry.envelope.len() as u64;
        }
    }
}

/// Whole milliseconds, rounded up.
fn ceil_ms(at: Timestamp) -> i64 {
    let floor_ms = at.millis();
    if Timestamp::from_millis(floor_ms) < at { floor_ms + 1 } else { floor_ms }
}

/// When a lease of this length, given or extended now, runs out.
fn until_ms(now: Timestamp, lease: Duration) -> i64 {
    ceil_ms(now.plus(lease))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::gates::until;

    #[test]
    fn milliseconds_round_up_and_never_down() {
        for (us, ms) in [(0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (-1, 0), (-1_000, -1)] {
            assert_eq!(ceil_ms(Timestamp::from_micros(us)), ms, "{us} µs");
        }
    }

    #[test]
    fn the_bounds_of_production_hold_for_batches() {
        let process = ProcessId::generate();
        let mut shard = Shard::new(Bounds::default(), process);
        let now = Timestamp::from_millis(1_000);
        let ledger = LedgerId::from_bytes([7; 16]);
        shard.shut(now, ledger, 1, now);
        let opening = Opening {
            settings: ShardSettings::default(),
            ledger,
            generation: 1,
            process,
            grace: Duration::ZERO,
            slots: 0,
            ramp: Duration::ZERO,
        };
        assert_eq!(shard.open_gate(now, &opening), Opened::Open);
        let job = |n: u16| {
            let mut id = [0; 16];
            id[..2].copy_from_slice(&n.to_be_bytes());
            Push {
                id: JobId::from_bytes(id),
                ..Push::new(Fence(1), "plain".parse().unwrap(), now, Bytes::new())
            }
        };
        let jobs: Vec<Push> = (0..500).map(job).collect();
        shard.push(now, &jobs, &Validity { ledger, ..until(now) });
        let request = ClaimRequest {
            worker: WorkerId::generate(),
            lease_id: LeaseId::random(),
            max: 1_000,
            lease: Duration::from_secs(1),
            kinds: Vec::new(),
            offset: 0,
            ledger: None,
        };
        assert_eq!(shard.claim(now, &request).jobs.len(), limits::ENGINE_BATCH_MAX);
        assert_eq!(shard.claim(now, &request).jobs.len(), limits::ENGINE_BATCH_MAX);
        let later = now.plus(Duration::from_secs(2));
        assert_eq!(shard.reap(later, u32::MAX) as usize, limits::MOVE_MAX);
    }
}
