//! Random histories of one shard, for property tests: what the model does must hold its promises
//! ([`watch`]), and what another engine does must equal what the model does ([`compare`]).
//!
//! A history is a list of [`Step`]s drawn from a seed. Steps name leases and fences by how they relate to
//! what happened ("the last lease", "one above the highest fence seen"), so that a history keeps its
//! sense when steps are left out of it to find a shorter one that fails ([`shrink`]). A [`Player`] turns
//! each step into a [`Call`] with concrete arguments.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::flow::{FlowKey, Group};
use crate::engine::model::{Bounds, Circuit, Shard, ShardDump};
use crate::engine::{
    Adopted, Adoption, CancelReply, ClaimReply, ClaimRequest, Engine, EngineError, ExtendReply,
    GateView, Held, Hold, Live, LiveEntry, Looked, Mark, Opened, Opening, Outcome, Position,
    ProcessId, Push, PushOrigin, PushReply, Refused, Report, Running, Settle, SettleReply, ShardId,
    ShardSettings, ShardStats, Shut, Tombstone, Validity, Withdraw, WithdrawReply, Withdrawal,
};
use crate::model::id::{Fence, JobId, LedgerId, WorkerId};
use crate::model::time::Timestamp;

pub mod compare;
mod draw;
pub mod long;
mod player;
pub mod shrink;
mod theme;
pub mod watch;

pub use draw::{
    FencePick, FlowPick, FlowSettingsPick, HeldPick, JobPick, LimitsPick, SettingsPick, Step,
    Tamper, WithdrawalPick, draw,
};
pub use player::Player;

/// Bounds that a short history reaches. The engine under test must run with them.
pub const BOUNDS: Bounds =
    Bounds { move_max: 3, scan_max: 3, outbox_entries_max: 6, outbox_bytes_max: 700 };

/// One verb with its arguments.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the verbs of the engine's contract, documented there")]
pub enum Call {
    Push {
        jobs: Vec<Push>,
        valid: Validity,
    },
    Claim(ClaimRequest),
    Extend {
        held: Vec<Held>,
        lease: Duration,
    },
    Settle(Vec<Settle>),
    Promote(u32),
    Reap(u32),
    Configure(ShardSettings),
    Cancel {
        jobs: Vec<(JobId, Fence)>,
        how: Withdraw,
    },
    Outcomes(u32),
    Confirm(Mark),
    Exists(Vec<JobId>),
    Peek(JobId),
    Holds(JobId),
    Circuits,
    ResetCircuit(FlowKey),
    Refused(u32),
    Refilled(Vec<Group>),
    Leased {
        after: Option<(Timestamp, JobId)>,
        claimed_by: Timestamp,
        max: u32,
    },
    Stats,
    Gate,
    Shut {
        ledger: LedgerId,
        generation: u64,
        not_after: Timestamp,
    },
    OpenGate(Opening),
    Adopt {
        worker: WorkerId,
        lease: Duration,
        leases: Vec<Adoption>,
    },
    Report {
        ledger: LedgerId,
        generation: u64,
        worker: WorkerId,
        report: Report,
    },
    Seal {
        ledger: LedgerId,
        generation: u64,
    },
    Withdraw {
        leases: Vec<Withdrawal>,
        looked: Option<Looked>,
    },
    /// A whole walk.
    Scan,
    Drop {
        jobs: Vec<(JobId, Fence)>,
        bury: bool,
    },
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
    Holds(Option<Vec<Hold>>),
    Circuits(Vec<(FlowKey, Circuit)>),
    ResetCircuit(bool),
    Refused(Vec<Refused>),
    Refilled,
    Leased(Vec<Running>),
    Stats(ShardStats),
    /// Those who have reported in order.
    Gate(GateView),
    Shut(Shut),
    OpenGate(Opened),
    Adopt(Vec<Adopted>),
    Report,
    Seal(bool),
    Withdraw(WithdrawReply),
    /// Everything seen, each once, in order; and the last page's position.
    Scan(Vec<LiveEntry>, Position),
    Drop(Vec<bool>),
}

/// Carries out a call on the model at an instant.
pub fn apply(shard: &mut Shard, now: Timestamp, call: &Call) -> Reply {
    match call {
        Call::Push { jobs, valid } => Reply::Push(shard.push(now, jobs, valid)),
        Call::Claim(request) => Reply::Claim(shard.claim(now, request)),
        Call::Extend { held, lease } => Reply::Extend(shard.extend(now, held, *lease)),
        Call::Settle(settles) => Reply::Settle(shard.settle(now, settles)),
        Call::Promote(max) => Reply::Promote(shard.promote(now, *max)),
        Call::Reap(max) => Reply::Reap(shard.reap(now, *max)),
        Call::Configure(settings) => Reply::Configure(shard.configure(now, settings)),
        Call::Cancel { jobs, how } => Reply::Cancel(shard.cancel(now, jobs, *how)),
        Call::Outcomes(max) => Reply::Outcomes(shard.outcomes(0, *max)),
        Call::Confirm(last) => {
            shard.confirm(now, last);
            Reply::Confirm
        }
        Call::Exists(ids) => Reply::Exists(shard.exists(now, ids)),
        Call::Peek(id) => Reply::Peek(shard.peek(*id)),
        Call::Holds(id) => Reply::Holds(shard.holds(now, *id)),
        Call::Circuits => Reply::Circuits(shard.circuits()),
        Call::ResetCircuit(key) => Reply::ResetCircuit(shard.reset_circuit(now, *key)),
        Call::Refused(max) => Reply::Refused(shard.refused(*max)),
        Call::Refilled(groups) => {
            shard.refilled(groups);
            Reply::Refilled
        }
        Call::Leased { after, claimed_by, max } => {
            Reply::Leased(shard.leased(*after, *claimed_by, *max))
        }
        Call::Stats => Reply::Stats(shard.stats(now)),
        Call::Gate => Reply::Gate(shard.gate()),
        Call::Shut { ledger, generation, not_after } => {
            Reply::Shut(shard.shut(now, *ledger, *generation, *not_after))
        }
        Call::OpenGate(opening) => Reply::OpenGate(shard.open_gate(now, opening)),
        Call::Adopt { worker, lease, leases } => {
            Reply::Adopt(shard.adopt(now, *worker, *lease, leases))
        }
        Call::Report { ledger, generation, worker, report } => {
            shard.report_worker(*ledger, *generation, *worker, *report);
            Reply::Report
        }
        Call::Seal { ledger, generation } => Reply::Seal(shard.seal(*ledger, *generation)),
        Call::Withdraw { leases, looked } => Reply::Withdraw(shard.withdraw(now, leases, *looked)),
        Call::Scan => {
            let page = shard.scan();
            Reply::Scan(page.entries, page.position)
        }
        Call::Drop { jobs, bury } => Reply::Drop(shard.drop_jobs(now, jobs, *bury)),
    }
}

/// Carries out a call on an engine.
pub async fn call(engine: &Engine, shard: &ShardId, call: &Call) -> Result<Reply, EngineError> {
    Ok(match call {
        Call::Push { jobs, valid } => Reply::Push(engine.push(shard, jobs, valid).await?),
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
        Call::Holds(id) => Reply::Holds(engine.holds(shard, *id).await?),
        Call::Circuits => Reply::Circuits(engine.circuits(shard).await?),
        Call::ResetCircuit(key) => Reply::ResetCircuit(engine.reset_circuit(shard, *key).await?),
        Call::Refused(max) => Reply::Refused(engine.refused(shard, *max).await?),
        Call::Refilled(groups) => {
            engine.refilled(shard, groups).await?;
            Reply::Refilled
        }
        Call::Leased { after, claimed_by, max } => {
            Reply::Leased(engine.leased(shard, *after, *claimed_by, *max).await?)
        }
        Call::Stats => Reply::Stats(engine.stats(shard).await?),
        Call::Gate => {
            let mut view = engine.gate(shard).await?;
            view.reported.sort_unstable();
            view.present.sort_unstable();
            Reply::Gate(view)
        }
        Call::Shut { ledger, generation, not_after } => {
            Reply::Shut(engine.shut(shard, *ledger, *generation, *not_after).await?)
        }
        Call::OpenGate(opening) => Reply::OpenGate(engine.open_gate(shard, opening).await?),
        Call::Adopt { worker, lease, leases } => {
            Reply::Adopt(engine.adopt(shard, *worker, *lease, leases).await?)
        }
        Call::Report { ledger, generation, worker, report } => {
            engine.report(shard, *ledger, *generation, *worker, *report).await?;
            Reply::Report
        }
        Call::Seal { ledger, generation } => {
            Reply::Seal(engine.seal(shard, *ledger, *generation).await?)
        }
        Call::Withdraw { leases, looked } => {
            Reply::Withdraw(engine.withdraw(shard, leases, *looked).await?)
        }
        Call::Scan => walk(engine, shard).await?,
        Call::Drop { jobs, bury } => Reply::Drop(engine.drop_jobs(shard, jobs, *bury).await?),
    })
}

/// Walks through a whole shard that nobody else uses.
async fn walk(engine: &Engine, shard: &ShardId) -> Result<Reply, EngineError> {
    let mut seen = BTreeMap::new();
    let mut cursor = 0;
    loop {
        let page = engine.scan(shard, cursor).await?;
        seen.extend(page.entries.into_iter().map(|entry| (entry.id, entry)));
        if page.next == 0 {
            return Ok(Reply::Scan(seen.into_values().collect(), page.position));
        }
        cursor = page.next;
    }
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
    /// The process that serves the shard.
    async fn process(&mut self) -> ProcessId;
    /// All that the shard has is gone.
    async fn wipe(&mut self);
    /// The store starts anew with all that it has. `false`: not possible here, nothing was done.
    async fn restart(&mut self) -> bool;
}
