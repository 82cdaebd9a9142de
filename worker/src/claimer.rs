//! Claims jobs for free slots, from several queues by weight.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use windlass_shared::engine::envelope::Envelope;
use windlass_shared::engine::{
    ClaimReply, ClaimRequest, ClaimState, Claimed, Engine, EngineError, ShardId, Signal, Signals,
    Topic, Verdict,
};
use windlass_shared::limits::ENGINE_BATCH_MAX;
use windlass_shared::model::id::LeaseId;

use crate::acker::{Ack, Acks};
use crate::attempt::{Attempt, Claim, Crew};
use crate::boot_time::boot_ms;
use crate::executor::{Executor, Start};
use crate::leases::Leases;
use crate::local_rates::LocalRates;
use crate::metrics::OutcomeLabel;
use crate::outcome::{self, Conclusion};
use crate::pause::Pause;
use crate::rotation::Rotation;
use crate::runtime::released;

/// While fewer than half of the slots are free, a claim waits this long for more: fuller batches cost the
/// engine less, and two milliseconds are nothing to a job that is long enough to keep slots busy.
const REFILL_WAIT: Duration = Duration::from_millis(2);
/// Longest wait of what one claim gave for the slots that its heavy jobs need; the rest goes back then.
pub(crate) const WEIGHT_WAIT: Duration = Duration::from_secs(10);
/// A job too heavy for now comes back after this long, so that lighter ones pass it meanwhile.
const TOO_HEAVY_DELAY: Duration = Duration::from_secs(1);
/// Longest wait of a job that must run alone for the jobs beside it to end. What does not run within it comes back
/// after once to twice that time, so that a fleet of long jobs is kept waiting for half of its time at most.
pub(crate) const ALONE_WAIT: Duration = Duration::from_secs(600);
/// Of several jobs that must run alone one is kept; the others go back for once to twice this time.
const NOT_TOGETHER_DELAY: Duration = Duration::from_secs(1);
/// A job written by a newer build waits this long for a worker that can read it.
const NEWER_BUILD_DELAY: Duration = Duration::from_secs(30);
/// Most signals taken at one time.
const SIGNALS_MAX: usize = 4_096;

/// The task that claims.
pub(crate) struct Claimer {
    pub(crate) engine: Engine,
    pub(crate) crew: Arc<Crew>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) executor: Arc<Executor>,
    pub(crate) acks: Acks,
    pub(crate) starts: mpsc::Sender<Start>,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) concurrency: u32,
    /// Worker and lease of every claim; the rest is filled in for each.
    pub(crate) request: ClaimRequest,
    /// The turns of every queue, one for each part of [`Self::rates`].
    pub(crate) queues: Rotation,
    pub(crate) rates: LocalRates,
    /// [`WEIGHT_WAIT`], but for tests.
    pub(crate) weight_wait: Duration,
    /// [`ALONE_WAIT`], but for tests.
    pub(crate) alone_wait: Duration,
    /// Shows no gauges.
    pub(crate) is_aside: bool,
    pub(crate) stop: CancellationToken,
}

/// Where wake-ups come from.
#[derive(Default)]
struct Ear {
    signals: Option<Signals>,
    pause: Pause,
    retry_at: Option<Instant>,
}

impl Claimer {
    /// Claims until it is stopped. Never ends because of the engine: it waits and asks again.
    pub(crate) async fn run(mut self) {
        self.crew.home.tried().await;
        let mut ear = Ear::default();
        let mut pause = Pause::default();
        while !self.stop.is_cancelled() {
            self.subscribe(&mut ear).await;
            let now = Instant::now();
            self.queues.hold(now, |turn| self.rates.held_until(turn, now));
            let Some(queue) = self.queues.next(now) else {
                self.wait(&mut ear).await;
                continue;
            };
            if self.acks.is_behind(self.queues.shard(queue)) {
                // Its jobs would hold slots that others can use. Claims bring the news of what is recorded: without
                // them it is asked for, or a full ring would never empty.
                let shard = Arc::clone(self.queues.shard(queue));
                if let Ok(reply) = self.engine.extend(&shard, &[], self.request.lease).await {
                    self.acks.note(&shard, &reply.position);
                }
                self.queues.rest(queue, Instant::now());
                continue;
            }
            let stop = self.stop.clone();
            let slots = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                slots = self.free_slots() => slots,
            };
            match self.claim(queue, slots).await {
                Ok(()) => pause.reset(),
                Err(error) => {
                    tracing::warn!(%error, "cannot claim");
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(pause.next()) => {}
                    }
                }
            }
        }
    }

    /// Takes free slots before there are jobs for them: at least one, at most a batch.
    async fn free_slots(&self) -> OwnedSemaphorePermit {
        const OPEN: &str = "the semaphore is never closed";
        let batch = (self.concurrency as usize).min(ENGINE_BATCH_MAX);
        let half = batch.div_ceil(2);
        let mut slots = Arc::clone(&self.slots).acquire_owned().await.expect(OPEN);
        if self.slots.available_permits() + 1 < half {
            let more = u32::try_from(half - 1).expect("a batch is small");
            let more = Arc::clone(&self.slots).acquire_many_owned(more);
            if let Ok(more) = tokio::time::timeout(REFILL_WAIT, more).await {
                slots.merge(more.expect(OPEN));
            }
        }
        let free = self.slots.available_permits().min(batch - slots.num_permits());
        let free = u32::try_from(free).expect("a batch is small");
        if let Ok(more) = Arc::clone(&self.slots).try_acquire_many_owned(free) {
            slots.merge(more);
        }
        self.show_slots(slots.num_permits());
        slots
    }

    /// `taken` slots are taken for jobs that are not claimed yet.
    fn show_slots(&self, taken: usize) {
        if self.is_aside {
            return;
        }
        metrics::gauge!("windlass_worker_ring_settles").set(self.acks.kept() as f64);
        let free = self.slots.available_permits() + taken;
        let free = u32::try_from(free).unwrap_or(self.concurrency);
        let busy = self.concurrency.saturating_sub(free);
        metrics::gauge!("windlass_worker_slots", "state" => "free").set(f64::from(free));
        metrics::gauge!("windlass_worker_slots", "state" => "busy").set(f64::from(busy));
    }

    /// One claim call, and the start of what it gave.
    async fn claim(
        &mut self,
        queue: usize,
        mut slots: OwnedSemaphorePermit,
    ) -> Result<(), EngineError> {
        let shard = Arc::clone(self.queues.shard(queue));
        let most = self.rates.permits(queue, Instant::now()).min(slots.num_permits());
        // Not kept for later: heavy jobs of this claim may need them.
        drop(slots.split(slots.num_permits() - most));
        if self.request.kinds != self.rates.kinds(queue) {
            self.request.kinds = self.rates.kinds(queue).to_vec();
        }
        let max = u32::try_from(slots.num_permits()).expect("a batch is small");
        self.request.lease_id = LeaseId::random();
        self.request.max = max;
        self.request.ledger = self.crew.home.ledger();
        self.request.offset = self.queues.offset(queue);
        let (sent_ms, started) = (boot_ms(), Instant::now());
        let reply = self.engine.claim(&shard, &self.request).await;
        metrics::histogram!("windlass_claim_seconds").record(started.elapsed());
        let result = reply.as_ref().map_or("error", claim_label);
        metrics::counter!("windlass_worker_claims_total", "result" => result).increment(1);
        let reply = reply?;
        self.acks.note(&shard, &reply.position);
        self.queues.note(queue, max, &reply, Instant::now());
        if reply.state == ClaimState::Foreign && self.crew.home.ask() {
            tracing::error!(queue = %shard.queue, "wrong_ledger: the queue store holds jobs of another ledger here than the API's; none is taken");
        }
        if !reply.jobs.is_empty() {
            let started = reply.jobs.len();
            let Self { request: ClaimRequest { lease_id, ledger, .. }, .. } = self;
            let claim = Claim { lease_id: *lease_id, sent_ms, at: reply.now, ledger: *ledger };
            self.start(&shard, claim, reply.jobs, slots).await;
            // Only now: those that waited for slots have just been started.
            self.rates.take(queue, started, Instant::now());
        }
        Ok(())
    }

    /// Starts claimed jobs: the light ones at once, the heavy ones as their slots become free, and last one of those
    /// that must run alone.
    async fn start(
        &self,
        shard: &Arc<ShardId>,
        claim: Claim,
        jobs: Vec<Claimed>,
        mut slots: OwnedSemaphorePermit,
    ) {
        let mut attempts = Vec::with_capacity(jobs.len());
        let mut refused = Vec::new();
        for job in &jobs {
            match Envelope::decode(&job.envelope) {
                Ok(envelope) => {
                    let job = (job, envelope);
                    attempts.push(Arc::new(Attempt::new(&self.crew, shard, claim, job)));
                }
                Err(error) => {
                    let newer = error.is_unknown_version();
                    refused.push((job, newer, error.to_string()));
                }
            }
        }
        // Before anything is waited for: from here on they are extended.
        self.leases.add(attempts.iter().map(Arc::clone));
        for (job, newer, why) in refused {
            self.refuse(shard, claim, job, (newer, &why)).await;
        }
        let (mut suspects, attempts): (Vec<_>, Vec<_>) =
            attempts.into_iter().partition(|attempt| attempt.is_suspect());
        let suspect = suspects.pop();
        // They must not be on a lease here when that one takes the worker down.
        for attempt in suspects {
            self.put_off(&attempt, jittered(NOT_TOGETHER_DELAY)).await;
        }
        let (light, heavy): (Vec<_>, Vec<_>) =
            attempts.into_iter().partition(|attempt| attempt.head.spec.weight <= 1);
        for attempt in light {
            let slots = slots.split(1).expect("no more jobs are claimed than slots are taken");
            self.send(Start { attempt, slots }).await;
        }
        let deadline = Instant::now() + self.weight_wait;
        for attempt in heavy {
            self.start_heavy(attempt, &mut slots, deadline).await;
        }
        if let Some(attempt) = suspect {
            self.start_alone(attempt, slots).await;
        }
    }

    /// Starts a job that was on two workers that died when nothing else runs here, nor is settled yet, and claims
    /// nothing until it has ended. If it is what kills workers, it harms no other job; if it is not, none harms it.
    async fn start_alone(&self, attempt: Arc<Attempt>, mut slots: OwnedSemaphorePermit) {
        tracing::warn!(job.id = %attempt.held.id, crashes = attempt.crashes, "a job that lost its workers waits to run alone");
        let missing = (self.concurrency as usize).saturating_sub(slots.num_permits());
        let missing = u32::try_from(missing).expect("slots are counted in 32 bits");
        let alone = async {
            let more = Arc::clone(&self.slots).acquire_many_owned(missing).await;
            // An attempt that has ended but is not settled would lose its lease as well.
            self.leases.all_but(&attempt.held).await;
            more.expect("the semaphore is never closed")
        };
        let count = |result| {
            metrics::counter!("windlass_worker_alone_total", "result" => result).increment(1);
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => self.executor.hand_in(&attempt, released()).await,
            () = attempt.stop.stopped() => self.executor.hand_in(&attempt, released()).await,
            more = tokio::time::timeout(self.alone_wait, alone) => match more {
                Ok(more) => {
                    count("started");
                    slots.merge(more);
                    self.send(Start { attempt, slots }).await;
                }
                Err(_) => {
                    count("put_off");
                    self.put_off(&attempt, jittered(self.alone_wait)).await;
                }
            },
        }
    }

    /// Hands a job back that is to come again after this long. Spends no attempt.
    async fn put_off(&self, attempt: &Attempt, delay: Duration) {
        let conclusion = Conclusion { verdict: Verdict::Snooze { delay }, ..released() };
        self.executor.hand_in(attempt, conclusion).await;
    }

    /// `pot` holds slots that were taken for this claim and are not used yet. What needs more than are free
    /// by the deadline, which is the same for all of a claim, goes back.
    async fn start_heavy(
        &self,
        attempt: Arc<Attempt>,
        pot: &mut OwnedSemaphorePermit,
        deadline: Instant,
    ) {
        let weight = attempt.head.spec.weight.min(self.concurrency);
        let missing = (weight as usize).saturating_sub(pot.num_permits());
        let missing = u32::try_from(missing).expect("slots are counted in 32 bits");
        let more = Arc::clone(&self.slots).acquire_many_owned(missing);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return self.executor.hand_in(&attempt, released()).await,
            more = tokio::time::timeout_at(deadline, more) => match more {
                Ok(more) => pot.merge(more.expect("the semaphore is never closed")),
                Err(_) => return self.put_off(&attempt, TOO_HEAVY_DELAY).await,
            },
        }
        let slots = pot.split(weight as usize).expect("the missing slots were just added");
        self.send(Start { attempt, slots }).await;
    }

    async fn send(&self, start: Start) {
        if let Err(mpsc::error::SendError(start)) = self.starts.send(start).await {
            // The runtime is gone: somebody else can have the job.
            self.executor.hand_in(&start.attempt, released()).await;
        }
    }

    /// Settles a job whose envelope cannot be read: one that a newer build wrote waits for a newer worker,
    /// a damaged one is dead.
    async fn refuse(
        &self,
        shard: &Arc<ShardId>,
        claim: Claim,
        job: &Claimed,
        (newer, message): (bool, &str),
    ) {
        tracing::error!(job.id = %job.id, message, "cannot read a job's envelope");
        let error = outcome::error("bad_envelope", message, newer);
        let verdict =
            if newer { Verdict::Snooze { delay: NEWER_BUILD_DELAY } } else { Verdict::Dead };
        let mut detail = outcome::with_error(verdict, OutcomeLabel::Failed, error).detail;
        detail.head.worker = Some(self.crew.worker_name.clone());
        let done = claim.done(job, verdict, detail.encode());
        // The acker lives until every sender is dropped.
        let _ = self.acks.send(Ack { shard: Arc::clone(shard), done }).await;
    }

    /// Listens again after a loss. What was missed meanwhile is found by looking everywhere.
    async fn subscribe(&mut self, ear: &mut Ear) {
        if ear.signals.is_some() || ear.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let mut shards: Vec<ShardId> =
            self.queues.shards().map(|shard| (**shard).clone()).collect();
        // Each has as many turns as there are parts.
        shards.dedup();
        match self.engine.subscribe_to(&shards, &[Topic::Ready]).await {
            Ok(signals) => {
                ear.signals = Some(signals);
                // Else every wait from now on would end at once.
                ear.retry_at = None;
                self.queues.look_everywhere();
            }
            Err(error) => {
                tracing::debug!(%error, "cannot listen for jobs; polling");
                ear.retry_at = Some(Instant::now() + ear.pause.next());
            }
        }
    }

    async fn wait(&mut self, ear: &mut Ear) {
        let until = self.queues.next_look();
        let until = ear.retry_at.map_or(until, |at| until.min(at));
        let Some(signals) = &mut ear.signals else {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep_until(until) => {}
            }
            return;
        };
        let mut signal = tokio::select! {
            biased;
            () = self.stop.cancelled() => return,
            signal = signals.next() => signal,
            () = tokio::time::sleep_until(until) => return,
        };
        for _ in 0..SIGNALS_MAX {
            match signal {
                Some(Signal::Ready(shard)) => self.queues.wake(&shard),
                Some(_) => {}
                // Some were missed, or the connection is gone.
                None => {
                    ear.signals = None;
                    ear.retry_at = Some(Instant::now() + ear.pause.next());
                    return self.queues.look_everywhere();
                }
            }
            match signals.next().now_or_never() {
                Some(next) => signal = next,
                None => break,
            }
        }
        ear.pause.reset();
    }
}

/// Once to twice this time, so that what was together does not come back together.
fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(1.0 + rand::random::<f64>())
}

fn claim_label(reply: &ClaimReply) -> &'static str {
    match reply.state {
        _ if !reply.jobs.is_empty() => "jobs",
        ClaimState::Open => "empty",
        ClaimState::Unverified => "unverified",
        ClaimState::Paused => "paused",
        ClaimState::Braked => "braked",
        ClaimState::Warming => "warming",
        ClaimState::Foreign => "foreign",
        ClaimState::Limited => "limited",
    }
}

#[cfg(test)]
mod tests {
    use windlass_shared::clock::Clock;
    use windlass_shared::engine::embedded::Embedded;
    use windlass_shared::gate::Gate;
    use windlass_shared::model::id::{LeaseId, WorkerId};
    use windlass_shared::model::name::Namespace;
    use windlass_shared::model::time::Timestamp;

    use super::*;
    use crate::acker::Acker;
    use crate::metrics::MetricsByKind;
    use crate::registry::Registry;
    use crate::reporter::Nowhere;
    use crate::ring::Rings;
    use crate::sample;

    const WAIT: Duration = Duration::from_secs(1);

    fn claimed(weight: u32) -> Claimed {
        sample::claimed(&sample::envelope("heavy", weight))
    }

    /// A claimer of four slots, what it starts, and its acker.
    fn claimer(shard: &ShardId) -> (Claimer, mpsc::Receiver<Start>, Acker) {
        let engine = Engine::Embedded(Arc::new(Embedded::new(Clock::System)));
        let leases = Arc::new(Leases::default());
        let rings = Rings::new(std::iter::once(shard.clone()));
        let (acks, acker) = Acker::new(&engine, &leases, &rings, 10, &Arc::default());
        let executor = Arc::new(Executor {
            registry: Arc::new(Registry::default()),
            reporter: Arc::new(Nowhere),
            acks: acks.clone(),
            gate: Gate::new(),
            metrics: MetricsByKind::default(),
            breaker: Default::default(),
            lease: WAIT,
        });
        let (starts, started) = mpsc::channel(9);
        let claimer = Claimer {
            engine,
            crew: sample::crew(),
            leases,
            executor,
            acks,
            starts,
            slots: Arc::new(Semaphore::new(4)),
            concurrency: 4,
            request: ClaimRequest {
                worker: WorkerId::generate(),
                lease_id: LeaseId::random(),
                max: 0,
                lease: WAIT,
                kinds: Vec::new(),
                offset: 0,
                ledger: None,
            },
            queues: Rotation::new(std::iter::empty()),
            rates: LocalRates::new(Vec::new(), &Default::default(), Instant::now()),
            weight_wait: WAIT,
            alone_wait: WAIT,
            is_aside: false,
            stop: CancellationToken::new(),
        };
        (claimer, started, acker)
    }

    /// Goal: a worker that lost its subscription and has it again waits for signals, and does not spin.
    #[tokio::test]
    async fn a_try_to_listen_that_succeeded_is_not_waited_for_again() {
        let shard = ShardId::first(Namespace::default(), "q".parse().unwrap());
        let (mut claimer, _started, _acker) = claimer(&shard);
        let mut ear = Ear { retry_at: Some(Instant::now()), ..Ear::default() };
        claimer.subscribe(&mut ear).await;
        assert!(ear.signals.is_some(), "the embedded engine can always be listened to");
        let wait = tokio::time::timeout(Duration::from_millis(50), claimer.wait(&mut ear));
        assert!(wait.await.is_err(), "there is nothing to wake for");
    }

    /// Goal: what one claim gave is started or handed back within one wait, however many are too heavy.
    /// Method: one slot of four is taken for good; four jobs want all of them, one does not.
    #[tokio::test]
    async fn jobs_too_heavy_for_now_wait_once_and_not_each_in_turn() {
        let shard = ShardId::first(Namespace::default(), "q".parse().unwrap());
        let (claimer, mut started, acker) = claimer(&shard);
        let (acker, leases) = (tokio::spawn(acker.run()), Arc::clone(&claimer.leases));
        let _busy = Arc::clone(&claimer.slots).try_acquire_owned().unwrap();
        let pot = Arc::clone(&claimer.slots).try_acquire_many_owned(3).unwrap();
        let light = claimed(1);
        let jobs = vec![claimed(4), claimed(4), claimed(99), claimed(4), light.clone()];
        let began = Instant::now();
        let claim = Claim {
            lease_id: LeaseId::random(),
            sent_ms: 0,
            at: Timestamp::default(),
            ledger: None,
        };
        claimer.start(&Arc::new(shard), claim, jobs, pot).await;
        assert!(began.elapsed() >= WAIT, "the slots might have become free");
        assert!(began.elapsed() < 3 * WAIT, "{:?}", began.elapsed());
        assert_eq!(started.recv().await.unwrap().attempt.held.id, light.id);
        drop(claimer);
        assert!(started.recv().await.is_none(), "nothing else was started");
        assert_eq!(acker.await.unwrap(), 0);
        assert_eq!(leases.len(), 1, "the others were handed back");
    }

    /// Goal: a job that may be what kills workers runs alone: when all else has ended and is settled, and nothing but it
    /// is on a lease then. What cannot be alone in time comes back later.
    #[tokio::test]
    async fn a_job_that_lost_its_workers_runs_alone() {
        let shard = Arc::new(ShardId::first(Namespace::default(), "q".parse().unwrap()));
        let (claimer, mut started, acker) = claimer(&shard);
        let (acker, leases) = (tokio::spawn(acker.run()), Arc::clone(&claimer.leases));
        let suspect = |crashes| Claimed { crashes, ..claimed(1) };
        let claim = Claim {
            lease_id: LeaseId::random(),
            sent_ms: 0,
            at: Timestamp::default(),
            ledger: None,
        };
        let slots = || Arc::clone(&claimer.slots).try_acquire_many_owned(4).unwrap();
        let jobs = vec![suspect(2), suspect(1), suspect(3), claimed(2)];
        let mut start = Box::pin(claimer.start(&shard, claim, jobs, slots()));
        let mut others = Vec::new();
        while others.len() < 2 {
            tokio::select! {
                () = &mut start => panic!("it cannot be alone yet"),
                start = started.recv() => others.push(start.unwrap()),
            }
        }
        assert!(others.iter().all(|start| !start.attempt.is_suspect()));
        // Its slots are free, but one of the others is not settled.
        let last = others.pop().unwrap().attempt;
        let settled: Vec<_> = others.iter().map(|start| start.attempt.held).collect();
        leases.remove(settled.iter());
        drop(others);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut start).await;
        assert!(early.is_err() && started.try_recv().is_err(), "an end is not settled");
        leases.remove(std::iter::once(&last.held));
        start.await;
        let alone = started.try_recv().expect("nothing is beside it any more");
        assert!(alone.attempt.is_suspect());
        assert_eq!(alone.slots.num_permits(), 4, "nothing starts beside it");
        assert_eq!(leases.len(), 1, "the other suspect was handed back");
        drop(alone);

        // One that never gets the worker for itself goes back. The first is still on its lease.
        let began = Instant::now();
        claimer.start(&shard, claim, vec![suspect(9)], slots()).await;
        assert!(began.elapsed() >= WAIT);
        drop(claimer);
        assert!(started.recv().await.is_none());
        assert_eq!(acker.await.unwrap(), 0);
        assert_eq!(leases.len(), 1);
    }

    #[test]
    fn the_last_chance_of_a_job_is_its_own() {
        let shard = Arc::new(ShardId::first(Namespace::default(), "q".parse().unwrap()));
        let is_suspect = |crashes, max_crashes| {
            let mut envelope = sample::envelope("k", 1);
            envelope.head.spec.max_crashes = max_crashes;
            let claimed = Claimed { crashes, ..sample::claimed(&envelope) };
            let (lease_id, at) = (LeaseId::random(), Timestamp::default());
            let claim = Claim { lease_id, sent_ms: 0, at, ledger: None };
            Attempt::new(&sample::crew(), &shard, claim, (&claimed, envelope)).is_suspect()
        };
        let suspects = [(1, 2), (2, 3), (2, 9), (3, 9), (1, 1)];
        let others = [(0, 1), (0, 2), (0, 3), (1, 3), (1, 9)];
        assert!(suspects.iter().all(|(crashes, max)| is_suspect(*crashes, *max)));
        assert!(others.iter().all(|(crashes, max)| !is_suspect(*crashes, *max)));
    }
}
