//! The ledger's calls for leadership and for the gates of shards. The ledger counts both: leaders by epoch, and
//! verifications of a shard by generation.

use std::time::Duration;

use futures::future::BoxFuture;

use super::{Ledger, Result, dispatch};
use crate::engine::{ProcessId, ShardId};
use crate::model::id::{LedgerId, WorkerId};
use crate::model::time::Timestamp;

/// Longest term. One on record that ends later than this from now was given by a clock that has been set back since,
/// and is not believed.
pub const TERM_MAX: Duration = Duration::from_secs(60);

/// A duration as the stores count it, in microseconds; at most [`TERM_MAX`].
pub(super) fn term_micros(term: Duration) -> i64 {
    i64::try_from(term.min(TERM_MAX).as_micros()).expect("the bound fits")
}

/// One turn of a leader; rises with every turn of anybody. What carries a lower one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The process, by an id drawn at its start.
    pub holder: WorkerId,
    /// Its label, for people.
    pub name: String,
    /// Its turn.
    pub epoch: Epoch,
    /// Ledger time; past it, anybody may take over.
    pub expires_at: Timestamp,
}

/// What the ledger has of a shard's gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardRecord {
    /// Verifications begun so far, the first opening included; 0 of a shard that was never opened: nothing of it was
    /// ever leased.
    pub generation: u64,
    /// The process that this generation was opened for; `None` while it is being verified.
    pub process: Option<ProcessId>,
    /// Ledger time of the latest change; the beginning of 1970 of a shard that was never opened.
    pub changed_at: Timestamp,
}

impl ShardRecord {
    /// What is said of a shard that is not on record.
    pub(super) const NEVER_OPENED: Self =
        Self { generation: 0, process: None, changed_at: Timestamp::from_micros(0) };
}

impl Ledger {
    /// What this ledger is, as it was read when the ledger was opened. A restored or copied ledger has another id.
    pub fn id(&self) -> LedgerId {
        match self {
            Self::Postgres(ledger) => ledger.id(),
            Self::Sqlite(ledger) => ledger.id(),
            #[cfg(feature = "testkit")]
            Self::Tapped(tap) => tap.ledger().id(),
        }
    }

    /// Takes the lead if nobody has it or its term is over, or prolongs the caller's own term to ledger time +
    /// `term` (at most [`TERM_MAX`]). `None`: somebody else leads. The epoch rises whenever the lead is taken, by whomever,
    /// and stays when it is prolonged; a holder whose term is over and was not taken by others takes it anew. So does
    /// anybody where the clock was set back, so that the term on record ends later than any can. A process that opens a
    /// ledger on SQLite ends the term on record: nobody else has the file.
    ///
    /// The caller may trust its lead until `term` after the *sending* of the call, less a margin.
    ///
    /// # Errors
    /// Unknown outcomes too: then the caller has to take it that it does not lead.
    pub fn lead<'a>(
        &'a self,
        holder: WorkerId,
        name: &'a str,
        term: Duration,
    ) -> BoxFuture<'a, Result<Option<Epoch>>> {
        Box::pin(async move { dispatch!(self, lead(holder, name, term)) })
    }

    /// Gives up the lead, so that another need not wait for the end of the term. Nothing happens if the epoch is past.
    pub fn resign<'a>(&'a self, epoch: Epoch) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { dispatch!(self, resign(epoch)) })
    }

    /// The latest leader, whether its term is over or not; `None` before the first.
    pub fn leader<'a>(&'a self) -> BoxFuture<'a, Result<Option<Leader>>> {
        Box::pin(async move { dispatch!(self, leader()) })
    }

    /// What is on record of a shard.
    pub fn shard<'a>(&'a self, shard: &'a ShardId) -> BoxFuture<'a, Result<ShardRecord>> {
        Box::pin(async move { dispatch!(self, shard(shard)) })
    }

    /// Counts a shard from generation 0 to 1. `true` for exactly one caller in the life of the shard: that one may
    /// open it without comparing, since nothing of it was ever leased.
    pub fn first_generation<'a>(&'a self, shard: &'a ShardId) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move { dispatch!(self, first_generation(shard)) })
    }

    /// Begins a verification: the new generation, with the shard on record as being verified. `None`: the epoch is
    /// not that of the leader any more, or its term is over.
    pub fn next_generation<'a>(
        &'a self,
        shard: &'a ShardId,
        epoch: Epoch,
    ) -> BoxFuture<'a, Result<Option<u64>>> {
        Box::pin(async move { dispatch!(self, next_generation(shard, epoch)) })
    }

    /// Notes that a generation was opened for a process. `false`: the shard has another generation by now.
    pub fn note_opened<'a>(
        &'a self,
        shard: &'a ShardId,
        generation: u64,
        process: ProcessId,
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move { dispatch!(self, note_opened(shard, generation, process)) })
    }
}
