//! Random histories of one shard, for property tests: what the model does must hold its promises
//! ([`watch`]), and what another engine does must equal what the model does ([`compare`]).
//!
//! A history is a list of [`Step`]s drawn from a seed. Steps name leases and fences by how they relate to
//! what happened ("the last lease", "one above the highest fence seen"), so that a history keeps its
//! sense when steps are left out of it to find a shorter one that fails ([`shrink`]). A [`Player`] turns
//! each step into a [`Call`] with concrete arguments.

use std::time::Duration;

use crate::engine::model::{Bounds, Shard, ShardDump};
use crate::engine::{
    CancelReply, ClaimReply, ClaimRequest, Engine, EngineError, ExtendReply, Held, Live, Mark,
    Outcome, Push, PushReply, Running, Settle, SettleReply, ShardId, ShardSettings, ShardStats,
    Withdraw,
};
use crate::model::id::{Fence, JobId};
use crate::model::time::Timestamp;

pub mod compare;
mod draw;
mod player;
pub mod shrink;
pub mod watch;

pub use draw::{FencePick, HeldPick, JobPick, Step, Tamper, draw};
pub use player::Player;

/// Bounds that a short history reaches. The engine under test must run with them.
pub const BOUNDS: Bounds =
    Bounds { move_max: 3, scan_max: 3, outbox_entries_max: 6, outbox_bytes_max: 700 };

/// One verb with its arguments.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the verbs of the engine's contract, documented there")]
pub enum Call {
    Push { jobs: Vec<Push>, not_after: Timestamp },
    Claim(ClaimRequest),
    Extend { held: Vec<Held>, lease: Duration },
    Settle(Vec<Settle>),
    Promote(u32),
    Reap(u32),
    Configure(ShardSettings),
    Cancel { jobs: Vec<(JobId, Fence)>, how: Withdraw },
    Outcomes(u32),
    Confirm(Mark),
    Exists(Vec<JobId>),
    Peek(JobId),
    Leased { after: Option<(Timestamp, JobId)>, claimed_by: Timestamp, max: u32 },
    Stats,
}

/// What a verb answered.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the replies of the engine's contract, documented there")]
pub enum Reply {
    Push(PushReply),
    Claim(ClaimReply),
    Extend(ExtendReply),
    Settle(SettleReply),
    Promote(u32),
    Reap(u32),
    Configure(bool),
    Cancel(Vec<CancelReply>),
    Outcomes(Vec<Outcome>),
    Confirm,
    Exists(Vec<bool>),
    Peek(Option<Live>),
    Leased(Vec<Running>),
    Stats(ShardStats),
}

/// Carries out a call on the model at an instant.
pub fn apply(shard: &mut Shard, now: Timestamp, call: &Call) -> Reply {
    match call {
        Call::Push { jobs, not_after } => Reply::Push(shard.push(now, jobs, *not_after)),
        Call::Claim(request) => Reply::Claim(shard.claim(now, request)),
        Call::Extend { held, lease } => Reply::Extend(shard.extend(now, held, *lease)),
        Call::Settle(settles) => Reply::Settle(shard.settle(now, settles)),
        Call::Promote(max) => Reply::Promote(shard.promote(now, *max)),
        Call::Reap(max) => Reply::Reap(shard.reap(now, *max)),
        Call::Configure(settings) => Reply::Configure(shard.configure(settings)),
        Call::Cancel { jobs, how } => Reply::Cancel(shard.cancel(now, jobs, *how)),
        Call::Outcomes(max) => Reply::Outcomes(shard.outcomes(*max)),
        Call::Confirm(last) => {
            shard.confirm(now, last);
            Reply::Confirm
        }
        Call::Exists(ids) => Reply::Exists(shard.exists(now, ids)),
        Call::Peek(id) => Reply::Peek(shard.peek(*id)),
        Call::Leased { after, claimed_by, max } => {
            Reply::Leased(shard.leased(*after, *claimed_by, *max))
        }
        Call::Stats => Reply::Stats(shard.stats(now)),
    }
}

/// Carries out a call on an engine.
pub async fn call(engine: &Engine, shard: &ShardId, call: &Call) -> Result<Reply, EngineError> {
    Ok(match call {
        Call::Push { jobs, not_after } => Reply::Push(engine.push(shard, jobs, *not_after).await?),
        Call::Claim(request) => Reply::Claim(engine.claim(shard, request).await?),
        Call::Extend { held, lease } => Reply::Extend(engine.extend(shard, held, *lease).await?),
        Call::Settle(settles) => Reply::Settle(engine.settle(shard, settles).await?),
        Call::Promote(max) => Reply::Promote(engine.promote(shard, *max).await?),
        Call::Reap(max) => Reply::Reap(engine.reap(shard, *max).await?),
        Call::Configure(settings) => Reply::Configure(engine.configure(shard, settings).await?),
        Call::Cancel { jobs, how } => Reply::Cancel(engine.cancel(shard, jobs, *how).await?),
        Call::Outcomes(max) => Reply::Outcomes(engine.outcomes(shard, *max).await?),
        Call::Confirm(last) => {
            engine.confirm(shard, last).await?;
            Reply::Confirm
        }
        Call::Exists(ids) => Reply::Exists(engine.exists(shard, ids).await?),
        Call::Peek(id) => Reply::Peek(engine.peek(shard, *id).await?),
        Call::Leased { after, claimed_by, max } => {
            Reply::Leased(engine.leased(shard, *after, *claimed_by, *max).await?)
        }
        Call::Stats => Reply::Stats(engine.stats(shard).await?),
    })
}

/// An engine that a history can be played on: one fresh shard, made with [`BOUNDS`].
#[allow(async_fn_in_trait, reason = "only tests implement and call it, on one task")]
pub trait Replay {
    /// Engine time.
    async fn now(&mut self) -> Timestamp;
    /// Moves engine time forward.
    async fn advance(&mut self, by: Duration);
    /// Carries out a call; the reply, and engine time as the engine used it.
    async fn call(&mut self, call: &Call) -> (Reply, Timestamp);
    /// The shard's whole state.
    async fn dump(&mut self) -> ShardDump;
}
