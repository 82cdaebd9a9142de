//! What a shard of the store holds in the model: the job's entry, outcomes that wait, the gate.

/// Outcomes that wait for the ledger at once; a fourth waits for room.
pub const OUTBOX_MAX: usize = 3;
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
    /// Attempts that counted; of a tombstone, those of a form with this very fence that it lets in, 0 for none.
    pub attempts: u8,
    /// The lease (1..) whose token the entry has, also after its retry; 0 is none.
    pub token: u8,
    /// The lease ran out while nobody could extend it, through no fault of its holder.
    pub overdue: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Ended {
    #[default]
    Nothing,
    Succeeded,
    /// The attempt failed; the job waits for the next one.
    Retry,
    /// The lease ran out.
    Lost,
    /// The outcome of some other job of the shard.
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Outcome {
    pub ended: Ended,
    pub fence: u8,
    /// Attempts that counted, this one included if it did.
    pub attempts: u8,
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
