//! What a state of the model holds. Every part is a small copyable value, so that a state is hashed and compared in one go.

/// Outcomes that wait for the ledger at once; a fourth waits for room.
pub const OUTBOX_MAX: usize = 3;
/// Leases that a history can have.
pub const LEASES_MAX: usize = 4;
/// A wiped store goes on counting its outcomes far above the old numbers, because it starts from its clock.
pub const SEQ_AFTER_WIPE: u8 = 16;

/// Where the job is in the engine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Place {
    #[default]
    Absent,
    Ready,
    Leased,
    /// Settled; its outcome waits in the outbox.
    Finishing,
    Tombstone,
}

/// The job as the engine has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Entry {
    pub place: Place,
    pub fence: u8,
    /// The lease (1..) whose token the entry has; 0 is none.
    pub token: u8,
    /// The lease ran out while nobody could extend it, through no fault of its holder.
    pub overdue: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Ended {
    #[default]
    Nothing,
    Succeeded,
    /// The lease ran out.
    Lost,
    /// The outcome of some other job of the shard.
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Outcome {
    pub ended: Ended,
    pub fence: u8,
}

/// Outcomes in order; their numbers end at `last` and have no gaps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Outbox {
    pub waiting: [Outcome; OUTBOX_MAX],
    pub len: u8,
    pub last: u8,
    /// Up to here outcomes are recorded, as far as this store knows.
    pub recorded: u8,
}

impl Outbox {
    pub fn has_room(&self) -> bool {
        usize::from(self.len) < OUTBOX_MAX
    }

    /// Appends an outcome and returns its number.
    pub fn push(&mut self, outcome: Outcome) -> u8 {
        self.waiting[usize::from(self.len)] = outcome;
        self.len += 1;
        self.last += 1;
        self.last
    }

    /// The oldest outcome and its number.
    pub fn head(&self) -> Option<(u8, Outcome)> {
        (self.len > 0).then(|| (self.last + 1 - self.len, self.waiting[0]))
    }

    pub fn pop(&mut self) {
        self.waiting.rotate_left(1);
        self.waiting[OUTBOX_MAX - 1] = Outcome::default();
        self.len -= 1;
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Door {
    /// The shard has no gate: it is new, or was wiped.
    #[default]
    Missing,
    /// Workers may adopt.
    Shut,
    /// The window for adopting is over; the job is compared.
    Comparing,
    Open,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Gate {
    pub door: Door,
    pub generation: u8,
    /// The store process that was compared with the ledger.
    pub process: u8,
}

/// All that a store loses when it loses its data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Shard {
    pub entry: Entry,
    pub outbox: Outbox,
    pub gate: Gate,
    /// Nothing is reaped for the length of one lease.
    pub grace: bool,
}

/// The rows of the ledger: the job, its child, the shard's generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ledger {
    pub fence: u8,
    /// Of that fence only the start is on record.
    pub started: bool,
    pub succeeded: bool,
    pub generation: u8,
    /// The window of that generation's verification is not over.
    pub window: bool,
    /// How often the child was released.
    pub child: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Hand {
    /// Not given out yet, or over and done with.
    #[default]
    None,
    /// Over and done with, or its worker died.
    Gone,
    Running,
    /// The handler succeeded; the engine has not accepted that yet.
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
    pub ended: bool,
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
    /// Starts that are still within the promise: one, and one for each lost lease.
    pub starts_left: u8,
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
