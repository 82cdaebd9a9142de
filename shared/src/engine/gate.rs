//! The gate of a shard: whether its store has been compared with the ledger, and what that comparison needs.
//!
//! A store may come back with less than it had: empty, or as it was a while ago. Leases given from such a state run
//! finished jobs again. So every shard has a gate that belongs to one *process* of the store and one *generation*,
//! which the ledger counts. While the process that serves a call is not the gate's, the shard gives out no lease and
//! reaps none ([`ClaimState::Unverified`](super::ClaimState)); everything else goes on. A wiped shard has no gate at
//! all. The leader of the schedulers compares the shard with the ledger and opens the gate
//! (`lifecycle::verify`, which describes the steps).

use std::fmt;
use std::time::Duration;

use super::{Outcome, Push, ShardSettings};
use crate::model::id::{Fence, JobId, LeaseId, LedgerId, WorkerId};
use crate::model::time::Timestamp;

/// One run of the process that keeps a shard, as a primary. Redis: its `master_replid`, 40 hexadecimal digits, which it
/// draws when it starts and when it is made a primary. (Its `run_id` stays when a primary becomes a replica and a primary
/// again, and may have gone back in time with that.)
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId([u8; 40]);

impl ProcessId {
    /// From 40 hexadecimal digits; `None` if it is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 40] = text.as_bytes().try_into().ok()?;
        bytes.iter().all(u8::is_ascii_hexdigit).then_some(Self(bytes))
    }

    /// For a process that starts now.
    pub fn generate() -> Self {
        let text = format!("{:032x}{:08x}", rand::random::<u128>(), rand::random::<u32>());
        Self::parse(&text).expect("forty digits")
    }

    /// The digits.
    pub fn as_bytes(&self) -> &[u8; 40] {
        &self.0
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits")
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a shard keeps of its last opening or shutting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// Of which ledger.
    pub ledger: LedgerId,
    /// As the ledger counts the verifications of the shard.
    pub generation: u64,
    /// The process that was compared; `None` while the gate is shut.
    pub process: Option<ProcessId>,
    /// The time in which holders adopt freely is over ([`Engine::seal`](super::Engine::seal)), or the gate was opened.
    pub sealed: bool,
}

/// Answer to [`Engine::gate`](super::Engine::gate).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateView {
    /// The process that serves the shard now.
    pub process: ProcessId,
    /// None of a shard that is new or was wiped.
    pub gate: Option<Gate>,
    /// Workers that have adopted and replayed since the gate was shut.
    pub reported: Vec<WorkerId>,
    /// Workers that have heard of it and are at it, those in `reported` perhaps among them.
    pub present: Vec<WorkerId>,
}

impl GateView {
    /// Whether the shard gives out leases, as far as the gate is concerned.
    pub fn is_open(&self) -> bool {
        self.gate.is_some_and(|gate| gate.process == Some(self.process))
    }
}

/// Where pushed jobs come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushOrigin {
    /// A change that was committed a moment ago. Of a [`Group`](super::flow::Group) that was refused room none are let in:
    /// they would pass those of it that wait in the ledger.
    Fresh,
    /// A walk over the ledger.
    Ledger,
}

/// Up to when a push is good, and for which state of a shard ([`Engine::push`](super::Engine::push)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Whose jobs they are. A shard of another ledger refuses.
    pub ledger: LedgerId,
    /// Of the shard's gate as the caller knew it when it looked at the ledger, 0 if it did not: a shard that was
    /// compared since has no tombstones of what ended before that, and refuses. 0 and 1 are taken for the same: of a
    /// shard that was never opened nothing has ended.
    pub generation: u64,
    /// Engine time fixed *before* the statement that proved the jobs unfinished was sent, plus
    /// [`crate::limits::PUSH_WINDOW`]: a push that arrives later could restart a finished job.
    pub not_after: Timestamp,
    /// Where they come from.
    pub origin: PushOrigin,
}

/// What a worker says of itself while a gate is shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// It has heard of it. From here on it is waited for longer than one that says nothing.
    Present,
    /// It has adopted all it holds and replayed all it has settled.
    Done,
}

/// Answer to [`Engine::shut`](super::Engine::shut).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shut {
    /// Shut. The process that serves the shard: the one to compare, and to open the gate for.
    Shut {
        /// Which.
        process: ProcessId,
        /// The shard belonged to another ledger and was emptied.
        wiped: bool,
    },
    /// The shard has a higher generation of the same ledger, or is open with this one: somebody else verifies
    /// it, or has.
    Newer,
    /// Engine time is past `not_after`: the generation may be an old one by now.
    Late,
}

/// A lease whose outcome is about to be recorded past the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withdrawal {
    /// The job.
    pub id: JobId,
    /// The lease's number.
    pub fence: Fence,
    /// The lease's token, where it is known.
    pub lease_id: Option<LeaseId>,
    /// Attempts that counted before this one.
    pub attempt: u32,
    /// Leases lost before this one.
    pub crashes: u32,
    /// What the outcome makes of the job.
    pub then: Then,
}

/// What an outcome makes of its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It has ended.
    Over,
    /// It runs again; the attempt counts.
    Retry,
    /// It runs again as if it had not begun.
    Again,
}

impl Withdrawal {
    /// What stays behind: nothing as old as the outcome comes back. A job that is to run again is pushed with this very
    /// fence, as one that waits.
    pub fn tombstone(&self) -> Tombstone {
        Tombstone { fence: self.fence, whole: self.then == Then::Over }
    }
}

/// What keeps pushes of a job out. Of two the greater keeps out more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tombstone {
    /// Lower ones stay out.
    pub fence: Fence,
    /// This one too, in every form; else only the form whose attempt is under way ([`Push::under_way`]).
    pub whole: bool,
}

impl Tombstone {
    /// Of a job that has ended, or was taken out for good.
    pub const fn whole(fence: Fence) -> Self {
        Self { fence, whole: true }
    }

    /// Whether it keeps this one out.
    pub fn bars(&self, push: &Push) -> bool {
        let is_barred_form = self.whole || push.under_way;
        self.fence > push.fence || (self.fence == push.fence && is_barred_form)
    }
}

/// What became of one [`Withdrawal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawn {
    /// The job is not in the engine any more, and cannot come back with this fence: the outcome may be recorded.
    Out,
    /// The engine knows this outcome: it was settled here, or a later lease was given after the attempt had counted.
    /// Nothing was changed; it may be recorded, since whatever has it in an outbox may go back in time.
    Known,
    /// Another outcome of this job waits to be recorded, that it was taken back perhaps; nothing was changed. Record what
    /// waits, then ask again from the start.
    Waits,
    /// The outbox was not looked through to its end; nothing was changed. Ask again with [`WithdrawReply::looked`].
    Behind,
    /// This lease was taken back, or somebody holds, or has held, a later one: the outcome must not be recorded.
    Stolen,
}

/// Answer to [`Engine::withdraw`](super::Engine::withdraw).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithdrawReply {
    /// One per lease, in order.
    pub leases: Vec<Withdrawn>,
    /// How far the outbox was looked through.
    pub looked: Looked,
}

/// Up to where an outbox was looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked {
    /// Of the open gate; `None` while it is shut. In another one it counts for nothing.
    pub generation: Option<u64>,
    /// The last number that was looked at, or had been recorded.
    pub seq: u64,
}

/// Opens a gate.
#[derive(Debug, Clone, PartialEq)]
pub struct Opening {
    /// The operator's settings; an older version than the shard's is not taken over.
    pub settings: ShardSettings,
    /// Of which ledger.
    pub ledger: LedgerId,
    /// As the ledger counts the verifications.
    pub generation: u64,
    /// The process that was compared.
    pub process: ProcessId,
    /// For so long nothing is reaped: holders that could not reach the store get time to extend. Kept, and given
    /// again whenever engine time jumps forward ([`crate::limits::CLOCK_STEP_MIN`]).
    pub grace: Duration,
    /// Slots of the fleet: the bound of leases rises from a tenth of them to all while `ramp` passes, then ends.
    pub slots: u32,
    /// Zero: no bound from the beginning.
    pub ramp: Duration,
}

/// Answer to [`Engine::open_gate`](super::Engine::open_gate).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// It is open. Also when it was already, by this generation: then nothing was changed.
    Open,
    /// Another process serves the shard by now: compare again.
    Moved,
    /// The shard has a higher generation, or belongs to another ledger.
    Newer,
}

/// A lease that its holder still works on, with all that the engine knew of the job.
#[derive(Debug, Clone, PartialEq)]
pub struct Adoption {
    /// The job as it was when it was claimed, `fence` being the lease's. `run_at` orders it should it become ready
    /// again; `expires_at` is of no use any more.
    pub job: Push,
    /// The lease's token.
    pub lease_id: LeaseId,
    /// Start of the attempt.
    pub claimed_at: Timestamp,
}

/// What became of one [`Adoption`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopted {
    /// It holds the lease (again), until then.
    Held {
        /// The end of the lease.
        expires_at: Timestamp,
    },
    /// The job has ended, or this lease has.
    Over,
    /// Somebody else holds, or has held, a later lease; or the job was given a later fence by the ledger.
    Stolen,
}

/// How far a shard's outcomes are recorded; comes with replies, at no cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// Of the open gate; `None` while it is shut.
    pub generation: Option<u64>,
    /// The last number given to an outcome; 0 before the first.
    pub last_seq: u64,
    /// All outcomes up to this number are in the ledger.
    pub recorded_seq: u64,
}

/// Names one outcome beyond doubt: a store that went back in time may give its number to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Its place in the outbox.
    pub seq: u64,
    /// The job.
    pub id: JobId,
    /// The lease that ended.
    pub fence: Fence,
    /// When.
    pub at: Timestamp,
}

impl Outcome {
    /// Names this outcome.
    pub const fn mark(&self) -> Mark {
        Mark { seq: self.seq, id: self.id, fence: self.fence, at: self.at }
    }
}

/// A job that was seen in a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveEntry {
    /// Which.
    pub id: JobId,
    /// Its fence there.
    pub fence: Fence,
    /// Attempts that counted.
    pub attempt: u32,
    /// Leases lost.
    pub crashes: u32,
    /// Not before.
    pub run_at: Timestamp,
    /// It has ended there, and its outcome waits to be recorded.
    pub finishing: bool,
    /// Somebody holds it.
    pub leased: bool,
}

/// Answer to [`Engine::scan`](super::Engine::scan).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// What was seen.
    pub entries: Vec<LiveEntry>,
    /// Where the walk goes on; 0: it is over.
    pub next: u64,
    /// The shard's position at this moment.
    pub position: Position,
}
