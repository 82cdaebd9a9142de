//! The lease verbs of remote workers: take, extend, settle, over several queues of one namespace.
//!
//! Workers in process, and workers that speak to the engine, claim there. These verbs are for workers that
//! have nothing but the API: they look up what such a worker cannot (the job's rules, its attempt), and
//! decide the verdict of a failure for it. The engine still compares fence and token of every lease.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::delivery::PushError;
use super::{Lifecycle, lost};
use crate::backoff;
use crate::engine::envelope::{Detail, DetailHead};
use crate::engine::flow::Dependency;
use crate::engine::{
    ClaimRequest, ClaimState, Claimed, EngineError, Extended, Held, LiveState, Settle, Settled,
    ShardId, Signal, Signals, Topic, Verdict,
};
use crate::gate::Refusal;
use crate::ledger::LedgerError;
use crate::limits;
use crate::model::id::{JobId, LeaseId, WorkerId};
use crate::model::job::{Job, JobError, JobState, Value};
use crate::model::name::{Kind, Namespace, QueueName};
use crate::model::time::Timestamp;

/// Without a signal the queues are looked at this often.
const POLL: Duration = Duration::from_secs(1);
/// Longest wait for a subscription; without it the queues are polled.
const LISTEN_MAX: Duration = Duration::from_secs(1);
/// The error code by which a worker says that its attempt went over its time limit.
const TIMEOUT_CODE: &str = "timeout";
/// A job whose record this build cannot read is put off by this.
const UNREADABLE_DELAY: Duration = Duration::from_secs(30);
/// Jobs that the engine is asked about at once.
const PEEKS_MAX: usize = 50;
/// Claims of one shard in one pass; more only matter when a kind filter hides the ready jobs.
const SCANS_MAX: usize = 10;

/// A remote worker asks for work.
#[derive(Debug, Clone)]
pub struct Take {
    /// Whose queues.
    pub namespace: Namespace,
    /// Who asks.
    pub worker: WorkerId,
    /// In order of preference.
    pub queues: Vec<QueueName>,
    /// Only these; empty is any.
    pub kinds: Vec<Kind>,
    /// At most this many, and at most [`limits::ENGINE_BATCH_MAX`].
    pub max: u32,
    /// How long the leases last.
    pub lease: Duration,
    /// How long to wait for the first job.
    pub wait: Duration,
}

/// A job in a remote worker's hands.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// As recorded.
    pub job: Job,
    /// Its lease.
    pub held: Held,
    /// End of the lease, unless extended.
    pub expires_at: Timestamp,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// Start of the attempt (engine time).
    pub claimed_at: Timestamp,
}

/// Jobs on their way to a remote worker. Dropped before they are kept, their leases are handed back: run
/// out, they would count as crashes of the jobs.
#[must_use = "dropping it hands the leases back"]
pub struct Handout {
    life: Lifecycle,
    take: Take,
    jobs: Vec<Taken>,
    unheard: Vec<(QueueName, Held)>,
}

impl Handout {
    fn of(life: Lifecycle, take: Take, jobs: Vec<Taken>) -> Self {
        let unheard = jobs.iter().map(|taken| (taken.job.queue.clone(), taken.held)).collect();
        Self { life, take, jobs, unheard }
    }

    /// Moves the jobs out; nothing the second time. Their leases stay guarded.
    pub fn jobs(&mut self) -> Vec<Taken> {
        std::mem::take(&mut self.jobs)
    }

    /// The worker is being told: the leases are its own.
    pub fn keep(mut self) {
        self.unheard.clear();
    }
}

impl Drop for Handout {
    fn drop(&mut self) {
        let unheard = std::mem::take(&mut self.unheard);
        if unheard.is_empty() {
            return;
        }
        // Without a runtime the process is being torn down, and the leases run out.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (life, take) = (self.life.clone(), self.take.clone());
            let tasks = self.life.inner.tasks.clone();
            tasks.spawn_on(
                async move { hand_back(&life, unheard.into_iter(), &take).await },
                &runtime,
            );
        }
    }
}

/// A lease as a remote worker shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Where the job is leased.
    pub queue: QueueName,
    /// The proof.
    pub held: Held,
    /// What the worker says of the job's dependency.
    pub told: Told,
}

/// What a remote worker says of its job's dependency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Told {
    /// Nothing: the end of the attempt tells.
    #[default]
    Nothing,
    /// That it cannot tell.
    Unknown,
    /// This.
    Was(Dependency),
}

/// How an attempt ended, in a remote worker's words.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// With this output.
    Succeed(Option<Value>),
    /// With this error; the job's rules decide what follows. The duration is a lower bound on the delay.
    Fail(JobError, Option<Duration>),
    /// With an output that the job's gate refused; the job's rules decide what follows.
    Refused(Box<Refusal>),
    /// The attempt does not count; again after this delay.
    Snooze(Duration),
    /// The attempt does not count; again at once.
    Release,
}

impl End {
    /// Why it is a failure, if it is one, and the lower bound on the delay.
    pub(super) fn failure(&self) -> Option<(&JobError, Option<Duration>)> {
        match self {
            Self::Fail(error, retry_after) => Some((error, *retry_after)),
            Self::Refused(refusal) => Some((&refusal.error, None)),
            Self::Succeed(_) | Self::Snooze(_) | Self::Release => None,
        }
    }

    /// How the job's dependency was, if it has one. Where the worker does not say, an error that is not worth another try
    /// is an answer; an output that a gate refused says nothing.
    fn dependency(&self, told: Told) -> Option<Dependency> {
        match told {
            Told::Unknown => return None,
            Told::Was(dependency) => return Some(dependency),
            Told::Nothing => {}
        }
        match self {
            Self::Fail(error, _) if error.retryable => Some(Dependency::Failed),
            Self::Succeed(_) | Self::Fail(..) => Some(Dependency::Answered),
            Self::Refused(_) | Self::Snooze(_) | Self::Release => None,
        }
    }
}

/// What became of one settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landed {
    /// It counts; also when it had landed before.
    Yes,
    /// The lease has passed to somebody else, or is gone.
    Stale,
}

/// A store did not answer. Every verb here is safe to repeat.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The process is stopping.
    #[error("the process is stopping")]
    Stopping,
}

impl From<PushError> for LeaseError {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Engine(error) => Self::Engine(error),
            PushError::Ledger(error) => Self::Ledger(error),
        }
    }
}

impl Lifecycle {
    /// Leases ready jobs to a remote worker, waiting for the first one up to `take.wait`.
    ///
    /// May be dropped: leases that were taken by then are handed back, so that a caller who hangs up does
    /// not count as a crash of the job. The same holds for the answer, until [`Handout::keep`].
    ///
    /// # Errors
    /// A store did not answer; leases taken by then are handed back or run out.
    pub async fn hand_out(&self, take: Take) -> Result<Handout, LeaseError> {
        let (reply, answer) = oneshot::channel();
        let life = self.clone();
        self.inner.tasks.spawn(async move {
            let mut reply = reply;
            let result = until_some(&life, &take, &mut reply).await;
            // Where nobody hears of it, here or on the way, its drop hands the leases back.
            let _ = reply.send(result.map(|taken| Handout::of(life, take, taken)));
        });
        answer.await.map_err(|_| LeaseError::Stopping)?
    }

    /// As [`Self::hand_out`], for callers who keep what they get at once.
    ///
    /// # Errors
    /// As [`Self::hand_out`].
    pub async fn take(&self, take: Take) -> Result<Vec<Taken>, LeaseError> {
        let mut handout = self.hand_out(take).await?;
        let taken = handout.jobs();
        handout.keep();
        Ok(taken)
    }

    /// Moves the end of leases. One reply per lease, in order; `None` is a stale one.
    ///
    /// # Errors
    /// The engine did not answer for at least one queue. Safe to repeat.
    pub async fn extend_taken(
        &self,
        namespace: &Namespace,
        shown: &[Shown],
        lease: Duration,
    ) -> Result<Vec<Option<(Timestamp, bool)>>, LeaseError> {
        let mut replies = vec![None; shown.len()];
        for (shard, places) in by_shard(namespace, shown.iter().map(|s| &s.queue)) {
            for places in places.chunks(limits::ENGINE_BATCH_MAX) {
                let held: Vec<Held> = places.iter().map(|i| shown[*i].held).collect();
                let extended = self.inner.engine.extend(&shard, &held, lease).await?.leases;
                let gone: Vec<Held> = held
                    .iter()
                    .zip(&extended)
                    .filter(|(_, extended)| **extended == Extended::Gone)
                    .map(|(held, _)| *held)
                    .collect();
                let again = lost::adopt(self, &shard, lease, &gone).await?;
                for (place, extended) in places.iter().zip(extended) {
                    replies[*place] = match extended {
                        Extended::Held { expires_at, cancel } => Some((expires_at, cancel)),
                        Extended::Gone => again.get(&shown[*place].held.id).map(|at| (*at, false)),
                        Extended::Stolen => None,
                    };
                }
            }
        }
        Ok(replies)
    }

    /// Ends attempts. One reply per item, in order. `worker` is its name, for people.
    ///
    /// # Errors
    /// A store did not answer; some may have landed. Safe to repeat: what has landed answers [`Landed::Yes`].
    pub async fn settle_taken(
        &self,
        namespace: &Namespace,
        worker: &str,
        ends: &[(Shown, End)],
    ) -> Result<Vec<Landed>, LeaseError> {
        let failed: Vec<JobId> = ends
            .iter()
            .filter(|(_, end)| end.failure().is_some())
            .map(|(shown, _)| shown.held.id)
            .collect();
        let rules = jobs_by_id(self, &failed).await?;
        let mut replies = vec![Landed::Stale; ends.len()];
        for (shard, places) in by_shard(namespace, ends.iter().map(|(shown, _)| &shown.queue)) {
            for places in places.chunks(limits::ENGINE_BATCH_MAX) {
                let mut settles = Vec::with_capacity(places.len());
                for places in places.chunks(PEEKS_MAX) {
                    let verdicts = places.iter().map(|place| {
                        let (shown, end) = &ends[*place];
                        verdict(self, &shard, shown, end, &rules)
                    });
                    let verdicts = futures::future::try_join_all(verdicts).await?;
                    settles.extend(places.iter().zip(verdicts).map(|(place, verdict)| {
                        let (shown, end) = &ends[*place];
                        Settle {
                            dependency: dependency(shown, end, verdict, &rules),
                            held: shown.held,
                            verdict,
                            detail: detail(worker, end),
                        }
                    }));
                }
                let settled = self.inner.engine.settle(&shard, &settles).await?;
                let landed = landed(self, namespace, &settles, &settled.settles).await?;
                for ((place, settle), landed) in places.iter().zip(&settles).zip(landed) {
                    replies[*place] = match landed {
                        Some(landed) => landed,
                        None if lost::record(self, &shard, settle, &ends[*place].1).await? => {
                            Landed::Yes
                        }
                        None => Landed::Stale,
                    };
                }
            }
        }
        Ok(replies)
    }
}

fn shards(take: &Take) -> Vec<ShardId> {
    take.queues.iter().map(|q| ShardId::first(take.namespace.clone(), q.clone())).collect()
}

/// Positions by shard, so that each shard is asked once.
fn by_shard<'a>(
    namespace: &Namespace,
    queues: impl Iterator<Item = &'a QueueName>,
) -> HashMap<ShardId, Vec<usize>> {
    let mut places: HashMap<ShardId, Vec<usize>> = HashMap::new();
    for (place, queue) in queues.enumerate() {
        let shard = ShardId::first(namespace.clone(), queue.clone());
        places.entry(shard).or_default().push(place);
    }
    places
}

async fn jobs_by_id(life: &Lifecycle, ids: &[JobId]) -> Result<HashMap<JobId, Job>, LedgerError> {
    let mut jobs = HashMap::with_capacity(ids.len());
    for ids in ids.chunks(1_000) {
        jobs.extend(life.inner.ledger.jobs(ids).await?.into_iter().map(|job| (job.id, job)));
    }
    Ok(jobs)
}

/// Passes over the queues until one yields jobs, the time is over, or nobody listens any more.
async fn until_some(
    life: &Lifecycle,
    take: &Take,
    reply: &mut oneshot::Sender<Result<Handout, LeaseError>>,
) -> Result<Vec<Taken>, LeaseError> {
    let deadline = Instant::now() + take.wait;
    let shards = shards(take);
    let mut ear = Ear::default();
    loop {
        if !take.wait.is_zero() {
            tokio::select! {
                biased;
                () = reply.closed() => return Ok(Vec::new()),
                () = ear.listen(life, &shards) => {}
            }
        }
        let (claims, next_due) = pass(life, take, &shards).await?;
        if !claims.is_empty() {
            return with_jobs(life, take, claims).await;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Vec::new());
        }
        let pause = left.min(POLL).min(next_due.unwrap_or(POLL).max(Duration::from_millis(5)));
        tokio::select! {
            biased;
            () = reply.closed() => return Ok(Vec::new()),
            // Missed signals, or an engine that is gone: the timer is the fallback, and keeps the pace.
            Some(_) = ear.next() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What wakes a waiting [`Take`] before its timer.
#[derive(Default)]
struct Ear {
    signals: Option<Signals>,
    /// How many of the queues it listens to; those that nobody has submitted to are only polled.
    heard: usize,
    /// Not tried again before.
    next_try: Option<Instant>,
    /// Listening failed: it is not tried again for this take.
    deaf: bool,
}

impl Ear {
    /// Listens to those of the queues that exist, as far as it does not yet. Where that fails the timer has
    /// to do. May be dropped and repeated.
    async fn listen(&mut self, life: &Lifecycle, shards: &[ShardId]) {
        let now = Instant::now();
        let is_early = self.next_try.is_some_and(|at| now < at);
        if self.deaf || self.heard == shards.len() || is_early {
            return;
        }
        self.next_try = Some(now + POLL);
        // Anybody may ask for work of queues by any name; what does not exist must cost no subscription.
        let known = life.inner.known_queues.among(&life.inner.ledger, shards).await;
        if known.is_empty() || known.len() == self.heard {
            return;
        }
        let subscribing = life.inner.engine.subscribe_to(&known, &[Topic::Ready]);
        match tokio::time::timeout(LISTEN_MAX, subscribing).await {
            Ok(Ok(signals)) => {
                self.heard = known.len();
                self.signals = Some(signals);
            }
            Ok(Err(_)) | Err(_) => self.deaf = true,
        }
    }

    /// The next signal; never, without a subscription. May be dropped.
    async fn next(&mut self) -> Option<Signal> {
        match &mut self.signals {
            Some(signals) => signals.next().await,
            None => std::future::pending().await,
        }
    }
}

struct Claim {
    queue: QueueName,
    lease_id: LeaseId,
    claimed: Claimed,
    at: Timestamp,
}

/// Asks every shard once; also when the next delayed job is due.
async fn pass(
    life: &Lifecycle,
    take: &Take,
    shards: &[ShardId],
) -> Result<(Vec<Claim>, Option<Duration>), LeaseError> {
    let max = take.max.min(u32::try_from(limits::ENGINE_BATCH_MAX).unwrap_or(u32::MAX));
    let mut claims: Vec<Claim> = Vec::new();
    let mut next_due = None;
    for shard in shards {
        let mut offset = 0;
        for _ in 0..SCANS_MAX {
            let room = max.saturating_sub(u32::try_from(claims.len()).unwrap_or(u32::MAX));
            if room == 0 {
                return Ok((claims, next_due));
            }
            let request = ClaimRequest {
                worker: take.worker,
                lease_id: LeaseId::random(),
                max: room,
                lease: take.lease,
                kinds: take.kinds.clone(),
                offset,
                ledger: Some(life.inner.ledger.id()),
            };
            let reply = match life.inner.engine.claim(shard, &request).await {
                Ok(reply) => reply,
                // What is held already must not be lost with this error.
                Err(_) if !claims.is_empty() => return Ok((claims, next_due)),
                Err(error) => return Err(error.into()),
            };
            if reply.state == ClaimState::Unverified
                && let Err(error) = life.inner.delivery.open_first(shard).await
            {
                if claims.is_empty() {
                    return Err(error.into());
                }
                tracing::debug!(shard = %shard, %error, "cannot open a queue; others gave jobs");
                return Ok((claims, next_due));
            }
            if let Some(due) = reply.next_due {
                let wait = due.since(reply.now);
                next_due = Some(next_due.map_or(wait, |known: Duration| known.min(wait)));
            }
            claims.extend(reply.jobs.into_iter().map(|claimed| Claim {
                queue: shard.queue.clone(),
                lease_id: request.lease_id,
                claimed,
                at: reply.now,
            }));
            offset = reply.next_offset;
            if offset == 0 {
                break;
            }
        }
    }
    Ok((claims, next_due))
}

/// What the ledger has of claimed jobs: those that read, and those that this build cannot read.
async fn on_record(
    life: &Lifecycle,
    namespace: &Namespace,
    ids: &[JobId],
) -> Result<(HashMap<JobId, Job>, HashSet<JobId>), LedgerError> {
    let mut jobs = jobs_by_id(life, ids).await?;
    jobs.retain(|_, job| job.namespace == *namespace);
    let missing: Vec<JobId> = ids.iter().filter(|id| !jobs.contains_key(id)).copied().collect();
    if missing.is_empty() {
        return Ok((jobs, HashSet::new()));
    }
    let unreadable = life.inner.ledger.on_record(namespace, &missing).await?;
    Ok((jobs, unreadable.into_iter().collect()))
}

/// Adds what the ledger knows. Jobs that it does not know are ended: they belong to another ledger. Those that
/// this build cannot read are left for a newer one, later.
async fn with_jobs(
    life: &Lifecycle,
    take: &Take,
    claims: Vec<Claim>,
) -> Result<Vec<Taken>, LeaseError> {
    let ids: Vec<JobId> = claims.iter().map(|claim| claim.claimed.id).collect();
    let (mut jobs, unreadable) = match on_record(life, &take.namespace, &ids).await {
        Ok(found) => found,
        Err(error) => {
            hand_back(life, claims.iter().map(|c| (c.queue.clone(), held(c))), take).await;
            return Err(error.into());
        }
    };
    let mut taken = Vec::with_capacity(claims.len());
    let (mut strangers, mut put_off) = (Vec::new(), Vec::new());
    for claim in claims {
        let held = held(&claim);
        match jobs.remove(&claim.claimed.id) {
            Some(job) => taken.push(Taken {
                job,
                held,
                expires_at: claim.claimed.expires_at,
                attempt: claim.claimed.attempt.saturating_add(1),
                claimed_at: claim.at,
            }),
            None => {
                if unreadable.contains(&held.id) {
                    tracing::warn!(job.id = %held.id, "a claimed job is put off: its record cannot be read");
                    put_off.push((claim.queue, held));
                } else {
                    tracing::warn!(job.id = %held.id, "the engine holds a job that is not on record");
                    strangers.push((claim.queue, held));
                }
            }
        }
    }
    // Where this fails their leases run out, which harms nobody; the others must reach the caller.
    end_all(life, strangers.into_iter(), Verdict::Cancelled, take).await;
    end_all(life, put_off.into_iter(), Verdict::Snooze { delay: UNREADABLE_DELAY }, take).await;
    Ok(taken)
}

fn held(claim: &Claim) -> Held {
    Held { id: claim.claimed.id, fence: claim.claimed.fence, lease_id: claim.lease_id }
}

/// Gives leases back that nobody will use. Where that fails they run out.
async fn hand_back(life: &Lifecycle, leases: impl Iterator<Item = (QueueName, Held)>, take: &Take) {
    end_all(life, leases, Verdict::Release, take).await;
}

/// Settles leases with one verdict. Where that fails they run out.
async fn end_all(
    life: &Lifecycle,
    leases: impl Iterator<Item = (QueueName, Held)>,
    verdict: Verdict,
    take: &Take,
) {
    let mut by_queue: HashMap<QueueName, Vec<Settle>> = HashMap::new();
    for (queue, held) in leases {
        let settle = Settle { dependency: None, held, verdict, detail: Default::default() };
        by_queue.entry(queue).or_default().push(settle);
    }
    for (queue, settles) in by_queue {
        let shard = ShardId::first(take.namespace.clone(), queue);
        if let Err(error) = life.inner.engine.settle(&shard, &settles).await {
            tracing::warn!(shard = %shard, %error, "leases could not be settled; they run out");
        }
    }
}

/// What happens next with a job. A cancellation that was asked for wins over another attempt.
async fn verdict(
    life: &Lifecycle,
    shard: &ShardId,
    shown: &Shown,
    end: &End,
    rules: &HashMap<JobId, Job>,
) -> Result<Verdict, LeaseError> {
    let held = shown.held;
    match end {
        End::Succeed(_) => Ok(Verdict::Succeeded),
        End::Snooze(delay) => Ok(Verdict::Snooze { delay: *delay }),
        End::Release | End::Fail(..) | End::Refused(_) => {
            let live = life.inner.engine.peek(shard, held.id).await?;
            let asked_to_stop = live
                .is_some_and(|live| matches!(live.state, LiveState::Leased { cancel: true, .. }));
            if asked_to_stop {
                return Ok(Verdict::Cancelled);
            }
            let Some((error, retry_after)) = end.failure() else {
                return Ok(Verdict::Release);
            };
            Ok(match (rules.get(&held.id), live) {
                (Some(job), Some(live)) => {
                    let attempt = live.attempt.saturating_add(1);
                    backoff::decide(&job.spec, error, attempt, retry_after, rand::random())
                }
                // Its rules cannot be read, so what follows is not decided here: the next claim finds out.
                (None, Some(_)) => Verdict::Snooze { delay: UNREADABLE_DELAY },
                // Without a lease the engine refuses this settle whatever it says.
                (_, None) => Verdict::Dead,
            })
        }
    }
}

/// How the dependency was, for the job's circuit.
fn dependency(
    shown: &Shown,
    end: &End,
    verdict: Verdict,
    rules: &HashMap<JobId, Job>,
) -> Option<Dependency> {
    let told = end.dependency(shown.told)?;
    let job = rules.get(&shown.held.id);
    let is_wanted = job.zip(end.failure()).is_some_and(|(job, (error, _))| {
        // Were it not for their number, there would be another attempt.
        backoff::is_wanted(&job.spec, error)
    });
    let is_exhausted = told == Dependency::Failed && verdict == Verdict::Dead && is_wanted;
    Some(if is_exhausted { Dependency::Exhausted } else { told })
}

fn detail(worker: &str, end: &End) -> bytes::Bytes {
    let output = match end {
        End::Succeed(output) => output.clone(),
        End::Fail(..) | End::Refused(_) | End::Snooze(_) | End::Release => None,
    };
    let error = end.failure().map(|(error, _)| error.clone());
    let usage = match end {
        End::Refused(refusal) => refusal.evaluation.as_ref().map(|seen| seen.noted(None)),
        End::Succeed(_) | End::Fail(..) | End::Snooze(_) | End::Release => None,
    };
    let timed_out = error.as_ref().is_some_and(|error| error.code == TIMEOUT_CODE);
    let worker = Some(worker.to_owned());
    let head = DetailHead { error, timed_out, worker, usage, ..DetailHead::default() };
    Detail { head, output }.encode()
}

/// What the engine's replies mean. `Gone` may mean that it landed and was recorded: the ledger knows. `None`: it is not
/// recorded.
async fn landed(
    life: &Lifecycle,
    namespace: &Namespace,
    settles: &[Settle],
    settled: &[Settled],
) -> Result<Vec<Option<Landed>>, LeaseError> {
    let gone: Vec<JobId> = settles
        .iter()
        .zip(settled)
        .filter(|(_, settled)| **settled == Settled::Gone)
        .map(|(settle, _)| settle.held.id)
        .collect();
    let jobs = jobs_by_id(life, &gone).await?;
    Ok(settles
        .iter()
        .zip(settled)
        .map(|(settle, settled)| match settled {
            Settled::Settled | Settled::Repeated => Some(Landed::Yes),
            Settled::Stolen => Some(Landed::Stale),
            Settled::Gone => {
                let recorded = jobs.get(&settle.held.id).is_some_and(|job| {
                    job.namespace == *namespace
                        && job.fence == settle.held.fence
                        && agrees(settle.verdict, job.state)
                });
                recorded.then_some(Landed::Yes)
            }
        })
        .collect())
}

/// Whether a recorded state is what the verdict leads to.
fn agrees(verdict: Verdict, state: JobState) -> bool {
    match verdict {
        Verdict::Succeeded => state == JobState::Succeeded,
        Verdict::Dead => matches!(state, JobState::Dead | JobState::Retrying),
        Verdict::Cancelled => state == JobState::Cancelled,
        Verdict::Retry { .. } | Verdict::Snooze { .. } | Verdict::Release => {
            !matches!(state, JobState::Running | JobState::Succeeded | JobState::Quarantined)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_state_proves_only_the_verdict_that_leads_to_it() {
        let retry = Verdict::Retry { delay: Duration::ZERO };
        assert!(agrees(Verdict::Succeeded, JobState::Succeeded));
        assert!(!agrees(Verdict::Succeeded, JobState::Quarantined));
        assert!(!agrees(Verdict::Succeeded, JobState::Running));
        assert!(agrees(retry, JobState::Retrying));
        assert!(!agrees(retry, JobState::Running));
        assert!(!agrees(Verdict::Release, JobState::Quarantined));
    }
}
