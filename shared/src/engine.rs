//! The engine: what may run *now*. A fast, disposable arrangement of ready, delayed and leased jobs,
//! and of outcomes that the ledger has not recorded yet.
//!
//! The engine promises nothing that must be remembered: it can be wiped at any moment and is filled
//! again from the ledger. What it does promise, while it stands, is that one job has one holder at a
//! time and that only the holder settles it (fence and lease token, compared in the store).
//!
//! One contract, two implementations ([`embedded`], [`redis`]), one executable suite
//! (`testkit::engine_suite`) and one pure [`model`]: the embedded engine *is* the model behind a
//! mutex, and the Lua scripts are checked against it step by step.
//!
//! All state of a shard lives together, so that every call is one atomic step in one Cluster slot.
//! Every call is safe to repeat and safe to drop: what a dropped call did is found out by repeating it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::model::id::{Fence, JobId, LeaseId, LedgerId, WorkerId};
use crate::model::job::{JobSpec, Priority};
use crate::model::name::{Kind, Namespace, QueueName};
use crate::model::time::Timestamp;

pub mod embedded;
pub mod envelope;
pub mod feed;
pub mod flow;
pub mod gate;
pub mod model;
pub mod redis;

pub use gate::{
    Adopted, Adoption, Gate, GateView, LiveEntry, Looked, Mark, Opened, Opening, Position,
    ProcessId, PushOrigin, Report, ScanPage, Shut, Then, Tombstone, Validity, WithdrawReply,
    Withdrawal, Withdrawn,
};

/// One slice of one queue; all its state sits in one Cluster slot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId {
    /// Whose.
    pub namespace: Namespace,
    /// Which queue.
    pub queue: QueueName,
    /// 0 until the queue is given more shards.
    pub index: u16,
}

impl ShardId {
    /// The first shard of a queue.
    pub fn first(namespace: Namespace, queue: QueueName) -> Self {
        Self { namespace, queue, index: 0 }
    }
}

impl std::fmt::Display for ShardId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.queue, self.index)
    }
}

/// A job on its way into a shard.
#[derive(Debug, Clone, PartialEq)]
pub struct Push {
    /// The job.
    pub id: JobId,
    /// The ledger's fence. Higher than the entry's or tombstone's: this view replaces it.
    pub fence: Fence,
    /// The ledger has noted a lease of this fence, and not its end: the engine has lost it. Else the job waits.
    pub under_way: bool,
    /// Attempts that counted so far.
    pub attempt: u32,
    /// Leases lost so far.
    pub crashes: u32,
    /// Quarantined when a lease is lost and `crashes` has reached this.
    pub max_crashes: u32,
    /// Its place among the ready.
    pub priority: Priority,
    /// Not before; at or before engine time: ready at once. Also orders the ready.
    pub run_at: Timestamp,
    /// Not claimed by then: ends as expired.
    pub expires_at: Option<Timestamp>,
    /// For claims with a kind filter.
    pub kind: Kind,
    /// What its start is held to beside the limits of its queue and kind.
    pub flow: Option<flow::Flow>,
    /// What the worker needs to run it ([`envelope`]); opaque to the engine.
    pub envelope: Bytes,
}

impl Push {
    /// A job with a fresh id, that has not been tried and does not expire; with the default priority and number of
    /// crashes.
    pub fn new(fence: Fence, kind: Kind, run_at: Timestamp, envelope: Bytes) -> Self {
        Self {
            id: JobId::generate(),
            fence,
            under_way: false,
            attempt: 0,
            crashes: 0,
            max_crashes: JobSpec::default().max_crashes,
            priority: Priority::default(),
            run_at,
            expires_at: None,
            kind,
            flow: None,
            envelope,
        }
    }
}

/// What became of one [`Push`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// Claimable, or delayed until its time. Also when it replaced an entry with a lower fence.
    Added,
    /// Already there, leased, settled and unrecorded, or tombstoned, with the same or a higher fence (of
    /// tombstones see [`Tombstone`]).
    Present,
    /// Engine time is past `not_after`, or the shard was compared with the ledger since the caller looked at it: the
    /// caller must look again.
    Late,
    /// The shard's budget of bytes is used up, or that of jobs that are ahead of their time, or the store has no memory.
    /// Waits in the ledger.
    Full,
    /// Its [`Group`](flow::Group) has as many waiting here as are left to it: four for every job that there is room for
    /// yet; or others of it wait in the ledger, and it comes from nowhere else ([`gate::PushOrigin::Fresh`]). Others may have room.
    /// Waits in the ledger.
    Crowded,
}

/// A group that was refused room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub group: flow::Group,
    /// Whether there is room for more of it by now, so that it is worth looking for them.
    pub has_room: bool,
}

/// Answer to [`Engine::push`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushReply {
    /// One per job, in order.
    pub pushed: Vec<Pushed>,
    /// `false`: the shard's [`gate`] is shut (it is new, or was wiped), so it gives out no leases yet. `true` does not
    /// mean that it does: whether the gate is open for the process that serves is left out here, as that costs.
    pub open: bool,
    /// Of the shard's gate, open or shut; 0 without a gate.
    pub generation: u64,
    /// Engine time.
    pub now: Timestamp,
}

/// A worker asks for work.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimRequest {
    /// Who asks.
    pub worker: WorkerId,
    /// The token of all leases given by this call; fresh for each call.
    pub lease_id: LeaseId,
    /// At most this many, and at most [`crate::limits::ENGINE_BATCH_MAX`].
    pub max: u32,
    /// How long the leases last.
    pub lease: Duration,
    /// Only these kinds; empty is any.
    pub kinds: Vec<Kind>,
    /// With a kind filter: how many of the ready to skip, as [`ClaimReply::next_offset`] said.
    pub offset: u32,
    /// Only jobs of this ledger ([`ClaimState::Foreign`]); `None`: of whichever, for a worker that doesn't know its own.
    pub ledger: Option<LedgerId>,
}

/// Why a claim gave nothing although jobs may be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimState {
    /// Nothing holds the shard back.
    Open,
    /// The shard's [`gate`] is shut: nobody has compared this store process with the ledger yet.
    Unverified,
    /// Paused by an operator.
    Paused,
    /// Too many outcomes wait to be recorded (outbox brake).
    Braked,
    /// The gate was opened a moment ago: leases are bounded until the fleet is at work again. Ask again soon.
    Warming,
    /// The shard holds jobs of another ledger than the one asked for.
    Foreign,
    /// The queue's own concurrency or rate is used up.
    Limited,
}

/// Answer to [`Engine::claim`].
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimReply {
    /// Whether the shard gives out leases.
    pub state: ClaimState,
    /// The leases given, in ready order.
    pub jobs: Vec<Claimed>,
    /// The earliest `run_at` of the delayed, or when a rate allows the next start: when asking again is worth it.
    pub next_due: Option<Timestamp>,
    /// With a kind filter: non-zero when the scan stopped at its bound before the end of the ready.
    pub next_offset: u32,
    /// Engine time; the start of every attempt claimed by this call.
    pub now: Timestamp,
    /// What is recorded by now.
    pub position: Position,
}

/// One lease.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// The job.
    pub id: JobId,
    /// This lease's number: `max(engine time in µs, last fence + 1)`.
    pub fence: Fence,
    /// Attempts that counted before this one.
    pub attempt: u32,
    /// Leases lost before this one.
    pub crashes: u32,
    /// Unless extended.
    pub expires_at: Timestamp,
    /// It is the probe of a circuit that is open: the only job of it that runs.
    pub probe: bool,
    /// What was pushed.
    pub envelope: Bytes,
}

/// Proof of holding a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Held {
    /// The job.
    pub id: JobId,
    /// The lease's number.
    pub fence: Fence,
    /// The lease's token.
    pub lease_id: LeaseId,
}

/// What became of one lease in [`Engine::extend`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extended {
    /// Still held; the lease never moves back.
    Held {
        /// The new end.
        expires_at: Timestamp,
        /// Somebody asked to stop the job: stop the handler and settle as cancelled.
        cancel: bool,
    },
    /// The job is not leased, or not here, or under an older lease: the shard has lost this one.
    Gone,
    /// Somebody else holds it.
    Stolen,
}

/// Answer to [`Engine::extend`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtendReply {
    /// One per lease, in order.
    pub leases: Vec<Extended>,
    /// What is recorded by now.
    pub position: Position,
}

/// What happens to a job whose attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Ends as succeeded.
    Succeeded,
    /// The attempt counts; runs again after the delay.
    Retry {
        /// From engine time of the settle.
        delay: Duration,
    },
    /// The attempt counts; ends as dead.
    Dead,
    /// The attempt does not count; runs again after the delay.
    Snooze {
        /// From engine time of the settle.
        delay: Duration,
    },
    /// The attempt does not count; ready at once, in its old place.
    Release,
    /// Ends as cancelled.
    Cancelled,
}

/// The end of one attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Settle {
    /// Proof of the lease. Never skipped for being late: the fence and the token decide.
    pub held: Held,
    /// What happens next. A `Retry`, `Snooze` or `Release` of a job whose cancellation was asked for ends as
    /// cancelled.
    pub verdict: Verdict,
    /// How the job's dependency was, for its circuit; `None`: the attempt does not tell.
    pub dependency: Option<flow::Dependency>,
    /// Output, error, usage ([`envelope::Detail`]); opaque to the engine.
    pub detail: Bytes,
}

/// What became of one [`Settle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Done; the outcome waits to be recorded.
    Settled,
    /// The same lease has settled before: nothing was changed.
    Repeated,
    /// No such lease, and no trace of it. It may have landed and been recorded, or been lost: ask the ledger.
    Gone,
    /// Somebody else holds, or has settled, a later lease.
    Stolen,
}

/// Answer to [`Engine::settle`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettleReply {
    /// One per settle, in order.
    pub settles: Vec<Settled>,
    /// Their outcomes are recorded once [`Position::recorded_seq`] of the same generation has reached this
    /// [`Position::last_seq`].
    pub position: Position,
}

/// How an attempt, or a job that never started, ended in the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// [`Verdict::Succeeded`].
    Succeeded,
    /// [`Verdict::Retry`]; ready again at this instant.
    Retry(Timestamp),
    /// [`Verdict::Dead`].
    Dead,
    /// [`Verdict::Snooze`]; ready again at this instant.
    Snoozed(Timestamp),
    /// [`Verdict::Release`].
    Released,
    /// [`Verdict::Cancelled`], or reaped after its cancellation was asked for.
    Cancelled,
    /// Not claimed before its `expires_at`.
    Expired,
    /// The lease ran out; the job is ready again.
    Lost,
    /// The lease ran out once too often.
    Quarantined,
}

impl Ended {
    /// Whether the job leaves the engine once this is recorded.
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Dead | Self::Cancelled | Self::Expired | Self::Quarantined
        )
    }
}

/// An outcome that the ledger has not confirmed yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Its place in the shard's outbox, without gaps. The first of a shard's life is engine time in µs, not
    /// 1, so that numbers of a wiped engine and of the new one differ.
    pub seq: u64,
    /// The job.
    pub id: JobId,
    /// The lease that ended; of an expired job the fence it was pushed with, plus one.
    pub fence: Fence,
    /// How.
    pub ended: Ended,
    /// When (engine time).
    pub at: Timestamp,
    /// The claim's instant; `None` of a job that was not claimed.
    pub claimed_at: Option<Timestamp>,
    /// Who held the lease.
    pub worker: Option<WorkerId>,
    /// Attempts that counted, this one included where it counts.
    pub attempt: u32,
    /// Leases lost, this one included.
    pub crashes: u32,
    /// From the settle; empty otherwise.
    pub detail: Bytes,
}

/// How far a cancellation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdraw {
    /// A leased job is told to stop.
    StopRunning,
    /// A leased job is left alone: only what waits is taken out.
    WaitingOnly,
}

/// What became of one cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReply {
    /// It was waiting; it is gone and cannot start: a tombstone keeps late pushes out.
    Removed,
    /// It was not here; a tombstone keeps late pushes out.
    Absent,
    /// It is leased. With [`Withdraw::StopRunning`] its worker is told at the next extend, and by
    /// [`Signal::Cancel`].
    Running,
    /// Its outcome waits to be recorded and decides.
    Finishing,
}

/// A job's state in the engine; a hint that may vanish, never a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveState {
    /// Claimable.
    Ready {
        /// Jobs before it in ready order.
        ahead: u64,
    },
    /// Waits for its time.
    Delayed,
    /// Somebody runs it.
    Leased {
        /// Who.
        worker: WorkerId,
        /// Since when.
        claimed_at: Timestamp,
        /// Until when, unless extended.
        expires_at: Timestamp,
        /// Somebody asked to stop it.
        cancel: bool,
    },
    /// Ended; the outcome waits to be recorded.
    Finishing,
}

/// Answer to [`Engine::peek`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// What it is doing.
    pub state: LiveState,
    /// Its fence here.
    pub fence: Fence,
    /// Attempts that counted.
    pub attempt: u32,
    /// Leases lost.
    pub crashes: u32,
    /// Not before.
    pub run_at: Timestamp,
}

/// What a limit is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Jobs of the queue at once.
    QueueConcurrency,
    /// Starts of the queue.
    QueueRate,
    /// Jobs of the kind at once.
    KindConcurrency,
    /// Starts of the kind.
    KindRate,
    /// Jobs of the concurrency key at once.
    KeyConcurrency,
    /// Starts of the rate limit key.
    KeyRate,
    /// The circuit of its dependency.
    Circuit,
}

/// Most leases that a [`Hold`] names.
pub const HOLDERS_MAX: usize = 10;

/// A limit that has no permit for a job now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Which.
    pub limit: Limit,
    /// Most at once; `None` of a rate.
    pub most: Option<u32>,
    /// How many run; 0 of a rate.
    pub running: u64,
    /// Some of them, at most [`HOLDERS_MAX`].
    pub by: Vec<JobId>,
    /// When a rate allows the start, if nobody is before it.
    pub until: Option<Timestamp>,
}

/// A lease that has lasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// The job.
    pub id: JobId,
    /// The lease's number.
    pub fence: Fence,
    /// Attempts that counted before this one.
    pub attempt: u32,
    /// Who.
    pub worker: WorkerId,
    /// Since when.
    pub claimed_at: Timestamp,
}

/// Operator's settings of a queue, as its shards know them. The ledger owns them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardSettings {
    /// Rises with every change in the ledger; a shard refuses an older one.
    pub version: u64,
    /// Give out no leases.
    pub paused: bool,
    /// Most jobs that a push lets into the shard (ready, leased and finishing), four fifths of them of one group; see
    /// [`Pushed::Crowded`]. Delayed ones don't count, so that retries that wait cannot keep fresh jobs out. As many again
    /// may be delayed before a push ahead of its time is refused; retries are always taken, and use `bytes_max`.
    pub jobs_max: u64,
    /// Most bytes of envelopes and unrecorded outcomes.
    pub bytes_max: u64,
    /// What one level of priority is worth in waiting.
    pub priority_unit: Duration,
    /// Limits and shares.
    pub flow: flow::FlowSettings,
}

impl Default for ShardSettings {
    /// Version 0, not paused, 50,000 jobs, 256 MiB, a minute a level.
    fn default() -> Self {
        Self {
            version: 0,
            paused: false,
            jobs_max: 50_000,
            bytes_max: 256 << 20,
            priority_unit: Duration::from_secs(60),
            flow: flow::FlowSettings::default(),
        }
    }
}

/// Counts of a shard, in constant time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// Claimable.
    pub ready: u64,
    /// Waiting for their time.
    pub delayed: u64,
    /// Held.
    pub leased: u64,
    /// Outcomes not yet recorded.
    pub outbox: u64,
    /// Bytes of envelopes and of unrecorded outcomes.
    pub bytes: u64,
    /// Groups that were refused room, and may have more in the ledger.
    pub refused: u64,
    /// Ready since when, of the first in ready order.
    pub oldest_ready: Option<Timestamp>,
    /// `None`: nobody has given it any. Without limits of kinds, and weights.
    pub settings: Option<ShardSettings>,
    /// Whether its [`gate`] is open.
    pub open: bool,
    /// Engine time.
    pub now: Timestamp,
}

/// Something that happened in the engine and is worth waking for. A hint: signals may be lost, so
/// every listener also polls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// A shard got claimable jobs, or was resumed.
    Ready(ShardId),
    /// A leased job is to be stopped.
    Cancel(ShardId, JobId),
    /// Outcomes wait to be recorded.
    Outcomes(ShardId),
    /// The shard's [`gate`] has been shut for a verification: its holders are to adopt.
    Shut(ShardId),
    /// A claim found the shard's gate shut: it is to be verified. For the leader alone: in a large fleet many claim.
    Unverified(ShardId),
}

impl Signal {
    /// Whose it is.
    pub const fn shard(&self) -> &ShardId {
        match self {
            Self::Ready(shard)
            | Self::Cancel(shard, _)
            | Self::Outcomes(shard)
            | Self::Shut(shard)
            | Self::Unverified(shard) => shard,
        }
    }

    /// Of which sort.
    pub const fn topic(&self) -> Topic {
        match self {
            Self::Ready(_) => Topic::Ready,
            Self::Cancel(..) => Topic::Cancels,
            Self::Outcomes(_) => Topic::Outcomes,
            Self::Shut(_) => Topic::Gates,
            Self::Unverified(_) => Topic::Unverified,
        }
    }
}

/// A sort of [`Signal`]s. A process is not even woken for those that none of its listeners asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// [`Signal::Ready`].
    Ready,
    /// [`Signal::Cancel`].
    Cancels,
    /// [`Signal::Outcomes`].
    Outcomes,
    /// [`Signal::Shut`].
    Gates,
    /// [`Signal::Unverified`].
    Unverified,
}

impl Topic {
    /// Every sort.
    pub const ALL: [Self; 5] =
        [Self::Ready, Self::Cancels, Self::Outcomes, Self::Gates, Self::Unverified];
}

/// A stream of [`Signal`]s; see [`Engine::subscribe`].
pub struct Signals {
    rx: tokio::sync::broadcast::Receiver<Signal>,
    shards: HashSet<ShardId>,
    topics: Vec<Topic>,
    /// Keeps the store's subscriptions up; the last one that is dropped ends them.
    _interest: Option<redis::Interest>,
}

impl Signals {
    /// Those signals of `rx` that are about one of these shards and of one of these sorts.
    pub(crate) fn new(
        rx: tokio::sync::broadcast::Receiver<Signal>,
        shards: &[ShardId],
        topics: &[Topic],
    ) -> Self {
        let shards = shards.iter().cloned().collect();
        Self { rx, shards, topics: topics.to_vec(), _interest: None }
    }

    /// The same, for as long as they are listened to.
    pub(crate) fn with_interest(self, interest: redis::Interest) -> Self {
        Self { _interest: Some(interest), ..self }
    }

    /// The next signal. `None`: some were missed, so look at everything; or the engine is gone.
    /// May be dropped at any time.
    pub async fn next(&mut self) -> Option<Signal> {
        loop {
            let signal = self.rx.recv().await.ok()?;
            if self.topics.contains(&signal.topic()) && self.shards.contains(signal.shard()) {
                return Some(signal);
            }
        }
    }
}

/// Why an engine could not carry out a call.
///
/// What a caller must branch on (no job, a stolen lease) is a return value.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No answer in time, or a refusal that passes (failover, loading). Every call is safe to repeat.
    #[error("queue store is unavailable")]
    Unavailable(#[source] BoxError),
    /// A newer build wrote this, or someone edited the store by hand.
    #[error("script `{script}` replied what this build does not know: {reply}")]
    UnknownReply {
        /// Which script.
        script: &'static str,
        /// What it said, cut short.
        reply: String,
    },
    /// The address or its options are wrong, or the store is unfit (eviction policy, version).
    #[error("{0}")]
    Unfit(String),
}

/// A cause of any type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl EngineError {
    /// Whether the same call may succeed later with the same input.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// The one door to an engine: dispatches, and opens the spans and metrics that the implementations don't.
#[derive(Clone)]
pub enum Engine {
    /// The model behind a mutex, in this process.
    Embedded(Arc<embedded::Embedded>),
    /// Redis: single, Sentinel or Cluster.
    Redis(Arc<redis::Redis>),
    /// A simulated way to embedded engines that come and go.
    #[cfg(feature = "testkit")]
    Tapped(Arc<dyn crate::tap::EngineTap>),
}

macro_rules! dispatch {
    ($self:ident, $call:ident ( $($arg:expr),* )) => {{
        let started = std::time::Instant::now();
        let result = match $self {
            Engine::Embedded(engine) => engine.$call($($arg),*).await,
            Engine::Redis(engine) => engine.$call($($arg),*).await,
            #[cfg(feature = "testkit")]
            Engine::Tapped(tap) => match tap.before(stringify!($call)).await {
                Ok(engine) => {
                    let result = engine.$call($($arg),*).await;
                    tap.saw(stringify!($call), &result);
                    tap.after(stringify!($call)).await.and(result)
                }
                Err(error) => Err(error),
            },
        };
        crate::telemetry::engine_call(stringify!($call), started, result.is_err());
        result
    }};
}

impl Engine {
    /// Opens the engine that `settings` names and checks that it is fit.
    ///
    /// # Errors
    /// [`EngineError::Unfit`] for a wrong address or an unsafe store; [`EngineError::Unavailable`] when
    /// it does not answer within its connect time-out.
    pub fn open<'a>(
        settings: &'a crate::config::EngineSettings,
    ) -> BoxFuture<'a, Result<Self, EngineError>> {
        Box::pin(async move {
            if settings.url == "embedded" {
                return Ok(Self::Embedded(Arc::new(embedded::Embedded::new(
                    crate::clock::Clock::System,
                ))));
            }
            Ok(Self::Redis(Arc::new(redis::Redis::open(settings).await?)))
        })
    }

    /// Whether the store is (still) fit: its version, and that it does not evict jobs.
    ///
    /// # Errors
    /// [`EngineError::Unfit`] with what to change.
    pub fn check<'a>(&'a self) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move { dispatch!(self, check()) })
    }

    /// Makes jobs claimable. Up to [`crate::limits::ENGINE_BATCH_MAX`] of one shard.
    /// Refused as a whole ([`Pushed::Late`]) when `valid` does not hold any more.
    pub fn push<'a>(
        &'a self,
        shard: &'a ShardId,
        jobs: &'a [Push],
        valid: &'a Validity,
    ) -> BoxFuture<'a, Result<PushReply, EngineError>> {
        Box::pin(async move { dispatch!(self, push(shard, jobs, valid)) })
    }

    /// Leases ready jobs to a worker, if the shard's [`gate`] is open. Promotes what is due and reaps what expired
    /// first, both bounded by [`crate::limits::MOVE_MAX`], so that a queue moves while every scheduler is down.
    /// Jobs found past their `expires_at` end as expired.
    ///
    /// If the reply is lost, the leases run out.
    pub fn claim<'a>(
        &'a self,
        shard: &'a ShardId,
        request: &'a ClaimRequest,
    ) -> BoxFuture<'a, Result<ClaimReply, EngineError>> {
        Box::pin(async move { dispatch!(self, claim(shard, request)) })
    }

    /// Moves the end of leases to engine time + `lease`, never back. One reply per lease, in order.
    pub fn extend<'a>(
        &'a self,
        shard: &'a ShardId,
        held: &'a [Held],
        lease: Duration,
    ) -> BoxFuture<'a, Result<ExtendReply, EngineError>> {
        Box::pin(async move { dispatch!(self, extend(shard, held, lease)) })
    }

    /// Ends attempts, and appends their outcomes in the same step. One reply per settle, in order.
    /// A job stays in the engine until its terminal outcome is confirmed.
    pub fn settle<'a>(
        &'a self,
        shard: &'a ShardId,
        settles: &'a [Settle],
    ) -> BoxFuture<'a, Result<SettleReply, EngineError>> {
        Box::pin(async move { dispatch!(self, settle(shard, settles)) })
    }

    /// Makes due delayed jobs ready, up to `max`; how many.
    pub fn promote<'a>(
        &'a self,
        shard: &'a ShardId,
        max: u32,
    ) -> BoxFuture<'a, Result<u32, EngineError>> {
        Box::pin(async move { dispatch!(self, promote(shard, max)) })
    }

    /// Takes back jobs whose lease ran out, up to `max`; how many. Each counts as a crash. None while the gate is
    /// shut, nor for a while after it was opened or engine time has jumped ([`Opening::grace`]).
    pub fn reap<'a>(
        &'a self,
        shard: &'a ShardId,
        max: u32,
    ) -> BoxFuture<'a, Result<u32, EngineError>> {
        Box::pin(async move { dispatch!(self, reap(shard, max)) })
    }

    /// Gives a shard its settings. `false`: the shard has newer ones and kept them.
    pub fn configure<'a>(
        &'a self,
        shard: &'a ShardId,
        settings: &'a ShardSettings,
    ) -> BoxFuture<'a, Result<bool, EngineError>> {
        Box::pin(async move { dispatch!(self, configure(shard, settings)) })
    }

    /// Keeps jobs from starting. Each comes with the caller's view of its fence: the tombstone keeps out
    /// pushes up to that fence, and lets a later redrive in. One reply per job, in order.
    pub fn cancel<'a>(
        &'a self,
        shard: &'a ShardId,
        jobs: &'a [(JobId, Fence)],
        how: Withdraw,
    ) -> BoxFuture<'a, Result<Vec<CancelReply>, EngineError>> {
        Box::pin(async move { dispatch!(self, cancel(shard, jobs, how)) })
    }

    /// The oldest unconfirmed outcomes, in order, up to `max`.
    pub fn outcomes<'a>(
        &'a self,
        shard: &'a ShardId,
        max: u32,
    ) -> BoxFuture<'a, Result<Vec<Outcome>, EngineError>> {
        Box::pin(async move { dispatch!(self, outcomes(shard, 0, max)) })
    }

    /// Those behind the `skip` oldest. Whose caller counts on what it has skipped must look at [`Outcome::seq`]: another
    /// may have confirmed some of them since.
    pub fn outcomes_behind<'a>(
        &'a self,
        shard: &'a ShardId,
        skip: u32,
        max: u32,
    ) -> BoxFuture<'a, Result<Vec<Outcome>, EngineError>> {
        Box::pin(async move { dispatch!(self, outcomes(shard, skip, max)) })
    }

    /// Forgets the outcomes up to and including `last`, which the ledger has committed. Jobs whose
    /// terminal outcome this was leave the engine; a tombstone stays for [`crate::limits::TOMBSTONE_TTL`].
    /// Nothing happens when `last` is not in the outbox, although another outcome may have its number: it was
    /// confirmed before, or the store has lost it.
    pub fn confirm<'a>(
        &'a self,
        shard: &'a ShardId,
        last: &'a Mark,
    ) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move { dispatch!(self, confirm(shard, last)) })
    }

    /// A shard's gate, and who has reported to it since it was shut.
    pub fn gate<'a>(&'a self, shard: &'a ShardId) -> BoxFuture<'a, Result<GateView, EngineError>> {
        Box::pin(async move { dispatch!(self, gate(shard)) })
    }

    /// Shuts a shard's gate for a verification that the ledger counts as `generation`: from now on it gives out
    /// no lease, and its holders are told to adopt. What another ledger left in the shard is wiped.
    ///
    /// `not_after` is engine time fixed before the ledger counted the generation, plus
    /// [`crate::limits::PUSH_WINDOW`]: in a shard that was wiped since, nothing tells an old generation from a new one.
    pub fn shut<'a>(
        &'a self,
        shard: &'a ShardId,
        ledger: LedgerId,
        generation: u64,
        not_after: Timestamp,
    ) -> BoxFuture<'a, Result<Shut, EngineError>> {
        Box::pin(async move { dispatch!(self, shut(shard, ledger, generation, not_after)) })
    }

    /// Ends the time in which holders adopt freely: from here on adopt makes no job that is not there, and takes no
    /// lease from another holder, since what it put back would be compared with the ledger no more. `false`: the gate
    /// is not shut by this generation.
    pub fn seal<'a>(
        &'a self,
        shard: &'a ShardId,
        ledger: LedgerId,
        generation: u64,
    ) -> BoxFuture<'a, Result<bool, EngineError>> {
        Box::pin(async move { dispatch!(self, seal(shard, ledger, generation)) })
    }

    /// Takes jobs out whose outcomes are to be recorded past the engine, so that nobody starts them while, or after,
    /// they are: a tombstone stays ([`Withdrawal::tombstone`]). Up to [`crate::limits::ENGINE_BATCH_MAX`]; one answer per
    /// job, in order. The recording must be sent within [`crate::limits::PUSH_WINDOW`].
    ///
    /// Outcomes of these jobs that wait to be recorded go first ([`Withdrawn::Waits`]). One call looks through some of the
    /// outbox, from where the last one came to (`looked`); the one that comes to the end decides.
    pub fn withdraw<'a>(
        &'a self,
        shard: &'a ShardId,
        leases: &'a [Withdrawal],
        looked: Option<Looked>,
    ) -> BoxFuture<'a, Result<WithdrawReply, EngineError>> {
        Box::pin(async move { dispatch!(self, withdraw(shard, leases, looked)) })
    }

    /// Opens a shard's gate.
    pub fn open_gate<'a>(
        &'a self,
        shard: &'a ShardId,
        opening: &'a Opening,
    ) -> BoxFuture<'a, Result<Opened, EngineError>> {
        Box::pin(async move { dispatch!(self, open_gate(shard, opening)) })
    }

    /// Puts leases back that their holder still works on and the shard has lost, or holds older; freely until the gate
    /// is sealed. Up to [`crate::limits::ENGINE_BATCH_MAX`]; one answer per lease, in order.
    pub fn adopt<'a>(
        &'a self,
        shard: &'a ShardId,
        worker: WorkerId,
        lease: Duration,
        leases: &'a [Adoption],
    ) -> BoxFuture<'a, Result<Vec<Adopted>, EngineError>> {
        Box::pin(async move { dispatch!(self, adopt(shard, worker, lease, leases)) })
    }

    /// Tells a shard whose gate is shut by this generation how far this worker is. Of no effect otherwise: it has adopted
    /// into another state. Forgotten when the gate is shut again.
    pub fn report<'a>(
        &'a self,
        shard: &'a ShardId,
        ledger: LedgerId,
        generation: u64,
        worker: WorkerId,
        report: Report,
    ) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move { dispatch!(self, report(shard, ledger, generation, worker, report)) })
    }

    /// A part of what is in the shard, in no order; every job that stays throughout a walk is seen at least once.
    /// Start with cursor 0; the walk ends when the page's cursor is 0 again.
    pub fn scan<'a>(
        &'a self,
        shard: &'a ShardId,
        cursor: u64,
    ) -> BoxFuture<'a, Result<ScanPage, EngineError>> {
        Box::pin(async move { dispatch!(self, scan(shard, cursor)) })
    }

    /// Takes jobs out, whatever they are doing, that still have exactly this fence; a tombstone with it stays if
    /// `bury`. One answer per job, in order: whether it was taken out.
    pub fn drop_jobs<'a>(
        &'a self,
        shard: &'a ShardId,
        jobs: &'a [(JobId, Fence)],
        bury: bool,
    ) -> BoxFuture<'a, Result<Vec<bool>, EngineError>> {
        Box::pin(async move { dispatch!(self, drop_jobs(shard, jobs, bury)) })
    }

    /// Which of these jobs the shard knows: waiting, leased, settled and unconfirmed, or tombstoned. A job of which
    /// the store has lost a part, so that it could never move again, is not known; a push mends it.
    pub fn exists<'a>(
        &'a self,
        shard: &'a ShardId,
        ids: &'a [JobId],
    ) -> BoxFuture<'a, Result<Vec<bool>, EngineError>> {
        Box::pin(async move { dispatch!(self, exists(shard, ids)) })
    }

    /// One job's live state; `None` when it is not here.
    pub fn peek<'a>(
        &'a self,
        shard: &'a ShardId,
        id: JobId,
    ) -> BoxFuture<'a, Result<Option<Live>, EngineError>> {
        Box::pin(async move { dispatch!(self, peek(shard, id)) })
    }

    /// Which limits have no permit for a waiting job now; `None`: it does not wait here. Changes nothing.
    pub fn holds<'a>(
        &'a self,
        shard: &'a ShardId,
        id: JobId,
    ) -> BoxFuture<'a, Result<Option<Vec<Hold>>, EngineError>> {
        Box::pin(async move { dispatch!(self, holds(shard, id)) })
    }

    /// Groups that were refused room, those first that were refused longest ago; at most `max`.
    pub fn refused<'a>(
        &'a self,
        shard: &'a ShardId,
        max: u32,
    ) -> BoxFuture<'a, Result<Vec<Refused>, EngineError>> {
        Box::pin(async move { dispatch!(self, refused(shard, max)) })
    }

    /// Takes fresh jobs of these groups again. To be called when a walk over the ledger has found no more of them, and to be
    /// followed by another one, for those that were refused before this call. May be repeated, and dropped: then they are
    /// walked over once more.
    pub fn refilled<'a>(
        &'a self,
        shard: &'a ShardId,
        groups: &'a [flow::Group],
    ) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move { dispatch!(self, refilled(shard, groups)) })
    }

    /// What the shard knows of circuits: nothing of those that are closed and did not fail lately.
    pub fn circuits<'a>(
        &'a self,
        shard: &'a ShardId,
    ) -> BoxFuture<'a, Result<Vec<(flow::FlowKey, model::Circuit)>, EngineError>> {
        Box::pin(async move { dispatch!(self, circuits(shard)) })
    }

    /// Forgets what the shard knows of a circuit, which closes it unless an operator keeps it open; whether something was
    /// known.
    pub fn reset_circuit<'a>(
        &'a self,
        shard: &'a ShardId,
        circuit: flow::FlowKey,
    ) -> BoxFuture<'a, Result<bool, EngineError>> {
        Box::pin(async move { dispatch!(self, reset_circuit(shard, circuit)) })
    }

    /// Leases given at or before `claimed_by`, in order of (`claimed_at`, id), up to `max`; only those
    /// after `after`, which is the last one of an earlier call.
    pub fn leased<'a>(
        &'a self,
        shard: &'a ShardId,
        after: Option<(Timestamp, JobId)>,
        claimed_by: Timestamp,
        max: u32,
    ) -> BoxFuture<'a, Result<Vec<Running>, EngineError>> {
        Box::pin(async move { dispatch!(self, leased(shard, after, claimed_by, max)) })
    }

    /// Counts of a shard.
    pub fn stats<'a>(
        &'a self,
        shard: &'a ShardId,
    ) -> BoxFuture<'a, Result<ShardStats, EngineError>> {
        Box::pin(async move { dispatch!(self, stats(shard)) })
    }

    /// Engine time: of the store's host, not of this process.
    pub fn now<'a>(&'a self) -> BoxFuture<'a, Result<Timestamp, EngineError>> {
        Box::pin(async move { dispatch!(self, now()) })
    }

    /// Appends changes to a namespace's live feed, which keeps the latest [`feed::KEPT`]. Not repeated by
    /// callers: a repeat shows an event twice.
    pub fn publish<'a>(
        &'a self,
        namespace: &'a Namespace,
        events: &'a [feed::Event],
    ) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(async move { dispatch!(self, publish(namespace, events)) })
    }

    /// Events of a namespace after position `after`; `None` asks for the end of the feed.
    pub fn feed<'a>(
        &'a self,
        namespace: &'a Namespace,
        after: Option<u64>,
        max: u32,
    ) -> BoxFuture<'a, Result<feed::FeedPage, EngineError>> {
        Box::pin(async move { dispatch!(self, feed(namespace, after, max)) })
    }

    /// Signals of every sort of these shards from now on. Subscribe before looking for work.
    pub fn subscribe<'a>(
        &'a self,
        shards: &'a [ShardId],
    ) -> BoxFuture<'a, Result<Signals, EngineError>> {
        self.subscribe_to(shards, &Topic::ALL)
    }

    /// As [`Self::subscribe`], of these sorts only.
    pub fn subscribe_to<'a>(
        &'a self,
        shards: &'a [ShardId],
        topics: &'a [Topic],
    ) -> BoxFuture<'a, Result<Signals, EngineError>> {
        Box::pin(async move { dispatch!(self, subscribe_to(shards, topics)) })
    }
}
