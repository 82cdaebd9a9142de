//! The parts of the protocol that can be removed, and what of the world is in scope.

/// One measure of the protocol. The page `docs/protocol.md` says what each is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// The sweep pushes what the ledger has and the engine has not.
    Sweep,
    /// The ledger compares fences.
    LedgerFence,
    /// The ledger lets nothing happen to a job that has ended.
    LedgerEnd,
    /// A push that comes after its time is refused.
    NotAfter,
    /// Ended jobs leave a tombstone.
    Tombstone,
    /// No claim and no reap while the store process was not compared.
    Gate,
    /// Kept settles are replayed by the direct path.
    Replay,
    /// Running jobs are adopted.
    Adopt,
    /// The ledger commits before the engine is told to confirm.
    CommitFirst,
    /// The child is released in the transaction that records its parent.
    ReleaseInside,
    /// A release that is done apart is done only by whoever recorded the end.
    ReleaseOnce,
    /// A release that is done apart comes after the commit.
    ReleaseAfter,
    /// Settles are compared by lease token, not by fence alone.
    Token,
    /// A confirm names the outcome, not only its number.
    ConfirmByHead,
    /// A worker forgets a settle only while the gate is verified, and in the settle's own generation.
    ForgetInGeneration,
    /// A shard refuses to be opened for another generation than the one that shut it.
    OpenComparesGeneration,
    /// A shard is opened only out of the shut gate: one that lost it in between stays as it is.
    OpenNeedsShut,
    /// The process of the gate is the one that was shut, not the one that serves when it is opened.
    OpenNamesProcess,
    /// After a silence nothing is reaped for one lease.
    Amnesty,
    /// After an opening nothing is reaped for one lease.
    Grace,
    /// A verification drops what the ledger calls ended.
    ReverseCompare,
    /// A verification replaces a lease whose end is on record: its push has the same fence, so the lease goes first.
    ReplaceEnded,
    /// It also replaces a waiting form of the same fence in which the attempt has not counted.
    ReplaceUncounted,
    /// Only who counted the generation up from 0 opens a queue that was never open.
    FirstOpening,
    /// A push names the generation that its sender knew before it read the ledger; a shard refuses lower ones.
    PushNamesGeneration,
    /// The direct path takes the job out of the engine before it commits.
    DirectWithdraws,
    /// The direct path commits only in the generation in which it took the job out.
    DirectInGeneration,
    /// What it took out before the end of a verification's window, it commits before that end.
    DirectInWindow,
    /// The direct path waits until the outcomes that the engine has of this job are recorded.
    DirectAfterOutbox,
    /// What the engine shows as settled by this very lease, the direct path records: to refuse it is to say that it is on
    /// record, and the outbox may go back in time.
    DirectKnown,
    /// The direct path records a retry that a later lease has counted, and leaves that lease alone.
    DirectCounted,
    /// The tombstone of a retry keeps out forms of the same fence in which its attempt has not counted.
    RetryTombstone,
    /// Adopting takes the place of a settle with a lower fence: the settle may be one that the ledger refuses.
    AdoptOverOlder,
    /// Once the gate is open again, adopting does not bring back an entry that is not there.
    LateAdopt,
}

/// The protocol, or the protocol without some of its rules.
#[derive(Clone, Copy)]
pub struct Rules(u64);

impl Rules {
    pub const FULL: Self = Self(0);

    pub fn without(removed: &[Rule]) -> Self {
        Self(removed.iter().fold(0, |bits, rule| bits | 1 << *rule as u32))
    }

    pub fn keep(self, rule: Rule) -> bool {
        self.0 & (1 << rule as u32) == 0
    }
}

/// How the store can lose its data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// A new process starts from the image: power cut, failover.
    Rollback,
    /// A new process starts empty.
    Wipe,
    /// The same process is emptied: FLUSHALL.
    Flush,
    /// The same process goes back to the image, gate and all.
    RollbackInPlace,
}

/// What a search looks at.
#[derive(Clone, Copy)]
pub struct Scope {
    pub name: &'static str,
    pub losses: &'static [Loss],
    pub left: crate::state::Budget,
    /// The clock of the next store process is far behind.
    pub clock_back: bool,
    /// The queue was never open at the start.
    pub fresh: bool,
    /// The recorder also notes leases as running.
    pub notes: bool,
    /// The first attempt may fail, and the job is tried again; the second does not fail.
    pub fails: bool,
    /// The story begins later: a lease has run out and its worker does not know, another runs the job.
    pub second_lease: bool,
}
