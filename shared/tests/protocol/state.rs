//! What a state of the model holds. Every part is a small copyable value, so that a state is hashed and compared in one go.

use crate::shard::{Door, Outcome, Shard};

/// Leases that a history can have.
pub const LEASES_MAX: usize = 4;

/// The rows of the ledger: the job, its child, the shard's generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ledger {
    pub fence: u8,
    /// Of that fence only the start is on record.
    pub started: bool,
    /// Attempts that counted.
    pub attempts: u8,
    pub succeeded: bool,
    pub generation: u8,
    /// The window of that generation's verification is not over.
    pub window: bool,
    /// How often the child was released.
    pub child: u8,
}

impl Ledger {
    /// The job waits for a lease: that of the recorded fence, if there was one, has its end on record.
    pub fn waits(&self) -> bool {
        !self.succeeded && !self.started
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Hand {
    /// Not given out yet, or over and done with.
    #[default]
    None,
    /// Over and done with, or its worker died.
    Gone,
    Running,
    /// The handler has ended; the engine has not accepted that yet.
    Done,
    /// The engine accepted it; the worker keeps it until it is recorded.
    Kept,
    /// On its way to the ledger by the direct path.
    Direct,
    /// The direct path took the job out of the engine and is about to commit.
    Withdrawn,
}

/// A lease as its worker knows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Lease {
    pub hand: Hand,
    pub worker: u8,
    pub fence: u8,
    /// Attempts that counted before this one.
    pub attempts: u8,
    /// The handler failed: the job is to be tried again.
    pub fails: bool,
    /// The generation that it was claimed, adopted or settled in.
    pub generation: u8,
    /// The number of its outcome.
    pub seq: u8,
    /// The engine took it back in this generation.
    pub reaped: bool,
    /// The direct path took the job out of the engine for it before: the tombstone is all that holds the job now.
    pub withdrew: bool,
    /// It did so before the window was over.
    pub in_window: bool,
}

impl Lease {
    /// A worker still answers for it.
    pub fn is_alive(&self) -> bool {
        !matches!(self.hand, Hand::None | Hand::Gone)
    }
}

/// A push on its way: what its sender read in the ledger before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Push {
    pub pending: bool,
    pub fence: u8,
    pub attempts: u8,
    pub generation: u8,
    /// It was fixed before the last tombstone was written.
    pub old: bool,
}

/// The recorder between its two steps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Recorder {
    pub busy: bool,
    pub seq: u8,
    pub outcome: Outcome,
    /// A success of this pass whose child is released apart (only where the rule for that is removed).
    pub owes_child: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Stage {
    #[default]
    Idle,
    /// The ledger has counted the generation.
    Counted,
    /// The shut gate is written; workers adopt and replay.
    Window,
    /// Every worker has reported and the outbox is empty; the shard knows that the window is over.
    Closed,
    /// The ledger knows it too.
    Flushed,
    /// The ledger was read; what follows from it is not written yet.
    Read,
    Compared,
}

/// A leader that verifies the shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Verifier {
    pub stage: Stage,
    pub generation: u8,
    pub process: u8,
    /// What it read of the job, for its push or its drop.
    pub fence: u8,
    pub attempts: u8,
    pub ended: bool,
    /// It saw the job in an older form that has the recorded fence.
    pub replaces: bool,
    /// What it read, it read before the last tombstone was written.
    pub old: bool,
}

/// Where the first opener of a queue is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum FirstOpening {
    #[default]
    None,
    /// It has read that the ledger's generation is 0.
    Read,
    /// It has shut the gate of the shard that had none.
    Marked,
    /// It has counted the ledger's generation from 0 to 1.
    Won,
}

/// Whoever opens a queue that was never open.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Opener {
    pub stage: FirstOpening,
    pub process: u8,
}

/// What may still go wrong in this history.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Budget {
    pub losses: u8,
    pub outages: u8,
    pub expiries: u8,
    pub crashes: u8,
    /// Workers that miss the window of a verification.
    pub misses: u8,
    /// Verifications without a reason.
    pub doubts: u8,
    /// Leaders that are deposed in the middle of a verification.
    pub takeovers: u8,
    /// Outcomes of other jobs.
    pub others: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct State {
    pub live: Shard,
    /// The image that a rollback restores; nothing where no rollback can come any more.
    pub image: Shard,
    /// The store process that serves.
    pub process: u8,
    /// Engine time, as far as fences go: no claim of this process may give out less.
    pub clock: u8,
    pub ledger: Ledger,
    pub leases: [Lease; LEASES_MAX],
    /// Leases that were given out.
    pub given: u8,
    pub api: Push,
    pub sweeper: Push,
    pub opener: Opener,
    pub recorder: Recorder,
    pub leader: Verifier,
    /// A deposed leader that does not know it.
    pub deposed: Verifier,
    /// Starts that are still within the promise: one, one for the retry once it is planned, and one for each lost lease.
    pub starts_left: u8,
    /// The first attempt has failed, so that a second one is planned.
    pub retry_planned: bool,
    /// The store lost data.
    pub lost_data: bool,
    pub left: Budget,
}

impl State {
    /// Workers may still bring running jobs back: this process is not being compared, nor was it.
    pub fn may_adopt(&self) -> bool {
        match self.live.gate.door {
            Door::Missing | Door::Shut => true,
            Door::Comparing | Door::Open => self.live.gate.process != self.process,
        }
    }

    /// The process that was compared is the one that serves, and the gate is open.
    pub fn verified(&self) -> bool {
        self.live.gate.door == Door::Open && self.live.gate.process == self.process
    }
}
