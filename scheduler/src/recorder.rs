//! Moves outcomes of every shard from the engine into the ledger, as they come.
//!
//! One pass per shard is under way at a time: what gathers meanwhile is the next pass's batch, so that
//! batches grow with the load by themselves.

use std::collections::HashSet;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use windlass_shared::engine::{ShardId, Signal, Signals, Topic};
use windlass_shared::ledger::NewQueues;
use windlass_shared::ledger::duties::{Ended, Who};
use windlass_shared::lifecycle::PushError;
use windlass_shared::lifecycle::{Lifecycle, record};
use windlass_shared::model::name::{Namespace, QueueName};

use crate::board::{Board, Duty};
use crate::due::Due;
use crate::ticks;

mod failing;

use failing::Failing;

/// How often every shard is looked at although no signal came, and after a failure.
const FALLBACK: Duration = Duration::from_millis(500);
/// Each how many fallbacks the shards of others are looked at.
const OTHERS_EVERY: u32 = 4;
static DUTY: Duty = Duty {
    name: "recorder",
    what: "moves outcomes from the engine into the ledger, as they come",
    interval: FALLBACK,
    batch: record::PASS_MAX,
    longest: Duration::from_secs(60),
    who: Who::ByShard,
};
/// Passes under way at once.
const PASSES_MAX: usize = 8;
/// How long the outbox is emptied at shutdown.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Of a shard: how long it took, how many outcomes were recorded, and whether there are probably more.
type Pass = (ShardId, Duration, Result<(usize, bool), PushError>);

struct Recorder {
    life: Lifecycle,
    board: Board,
    /// Fallbacks so far.
    looks: u32,
    shards: HashSet<ShardId>,
    due: Due,
    busy: HashSet<ShardId>,
    passes: JoinSet<Pass>,
    failing: Failing,
    /// Outcomes since the latest fallback.
    recorded: u64,
    /// The longest pass since then.
    longest: Duration,
}

/// Records until `shutdown`, then until the outboxes are empty or [`FLUSH_MAX`] has passed.
pub(crate) async fn run(life: Lifecycle, board: Board, shutdown: CancellationToken) {
    run_with(life, board, FALLBACK, shutdown).await;
}

async fn run_with(life: Lifecycle, board: Board, fallback: Duration, shutdown: CancellationToken) {
    let mut news = life.ledger().new_queues();
    let mut recorder = Recorder {
        life,
        board,
        looks: 0,
        shards: HashSet::new(),
        due: Due::default(),
        busy: HashSet::new(),
        passes: JoinSet::new(),
        failing: Failing::default(),
        recorded: 0,
        longest: Duration::ZERO,
    };
    let mut signals = None;
    let mut fallback = tokio::time::interval(fallback);
    fallback.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stop_at = None;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled(), if stop_at.is_none() => {
                stop_at = Some(Instant::now() + FLUSH_MAX);
                recorder.all_are_due();
            }
            Some(pass) = recorder.passes.join_next() => recorder.ended(pass),
            // Without this the first outcome of a new queue would wait for the fallback.
            new = news.next() => recorder.learn(new, &mut news, &mut signals).await,
            signal = next(&mut signals) => match signal {
                Some(signal) => recorder.signalled(signal),
                // Some were missed, or the engine is gone: the fallback looks at everything and
                // subscribes anew.
                None => signals = None,
            },
            _ = fallback.tick() => {
                if recorder.refresh().await || signals.is_none() {
                    signals = recorder.subscribe().await;
                }
                recorder.look();
            }
        }
        recorder.start_due();
        if let Some(at) = stop_at
            && (Instant::now() >= at || recorder.passes.is_empty())
        {
            return;
        }
    }
}

/// The next signal; never, without a subscription. May be dropped.
async fn next(signals: &mut Option<Signals>) -> Option<Signal> {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

impl Recorder {
    /// Learns of new queues; whether there are any.
    async fn refresh(&mut self) -> bool {
        match ticks::shards(&self.life).await {
            Ok(shards) => {
                let shards: HashSet<ShardId> = shards.into_iter().collect();
                let changed = shards != self.shards;
                self.shards = shards;
                self.failing.list(Ok(()));
                self.failing.keep(&self.shards);
                changed
            }
            Err(error) => {
                self.failing.list(Err(&error));
                false
            }
        }
    }

    /// Learns of new queues as they are made; of all that have come by now at once.
    async fn learn(
        &mut self,
        first: Option<(Namespace, QueueName)>,
        news: &mut NewQueues,
        signals: &mut Option<Signals>,
    ) {
        let mut next = Some(first);
        let (mut fresh, mut missed) = (Vec::new(), false);
        while let Some(new) = next {
            match new {
                Some((namespace, name)) => fresh.push(ShardId::first(namespace, name)),
                None => missed = true,
            }
            next = news.next().now_or_never();
        }
        let mut is_more = false;
        for shard in &fresh {
            is_more |= self.shards.insert(shard.clone());
        }
        if missed {
            // All that are there, now rather than at the fallback.
            is_more |= self.refresh().await;
            self.all_are_due();
        }
        if !is_more {
            return;
        }
        let anew = self.subscribe().await;
        // What the old subscription has heard is not lost with it.
        if let Some(mut old) = std::mem::replace(signals, anew) {
            while let Some(Some(signal)) = old.next().now_or_never() {
                self.signalled(signal);
            }
        }
        // Outcomes may have come before the subscription.
        fresh.iter().for_each(|shard| self.due.add(shard));
    }

    /// Every shard of this process is due, and now and then those of the others: their owners may be gone.
    fn look(&mut self) {
        let all = self.looks.is_multiple_of(OTHERS_EVERY);
        self.looks = self.looks.wrapping_add(1);
        let (shards, board) = (&self.shards, &self.board);
        shards
            .iter()
            .filter(|shard| all || board.owns(shard))
            .for_each(|shard| self.due.add(shard));
        board.begun(&DUTY, None);
        let recorded = std::mem::take(&mut self.recorded);
        let result = self.failing.told().map_or(Ok(recorded), |why| Err((Ended::Failed, why)));
        board.ended_after(&DUTY, std::mem::take(&mut self.longest), result);
    }

    fn all_are_due(&mut self) {
        self.shards.iter().for_each(|shard| self.due.add(shard));
    }

    async fn subscribe(&self) -> Option<Signals> {
        let shards: Vec<ShardId> = self.shards.iter().cloned().collect();
        // Without signals the fallback carries on, slower.
        self.life.engine().subscribe_to(&shards, &[Topic::Outcomes]).await.ok()
    }

    fn signalled(&mut self, signal: Signal) {
        match signal {
            // Of two that read one outbox, one finds nothing.
            Signal::Outcomes(shard) if self.board.owns(&shard) => {
                self.due.add(&shard);
            }
            Signal::Outcomes(_) => {}
            Signal::Ready(_) | Signal::Cancel(..) | Signal::Shut(_) | Signal::Unverified(_) => {}
        }
    }

    fn ended(&mut self, pass: Result<Pass, tokio::task::JoinError>) {
        match pass {
            Ok((shard, took, result)) => {
                self.busy.remove(&shard);
                self.longest = self.longest.max(took);
                match result {
                    Ok((count, is_more)) => {
                        self.recorded += count as u64;
                        self.failing.works(&shard);
                        // Every growth is signalled, also while a pass runs: only what did not fit is left.
                        if is_more {
                            self.due.add(&shard);
                        }
                    }
                    Err(error) => self.failing.shard(shard, &error),
                }
            }
            Err(error) => {
                // Its shard stays busy, so it would never be recorded again: begin anew with all of them.
                tracing::error!(%error, "a recorder pass panicked");
                self.busy.clear();
            }
        }
    }

    fn start_due(&mut self) {
        while self.passes.len() < PASSES_MAX
            && let Some(shard) = self.due.take(|shard| self.busy.contains(shard))
        {
            self.busy.insert(shard.clone());
            let life = self.life.clone();
            self.passes.spawn(async move {
                let began = Instant::now();
                let result = record::record_stream(&life, &shard).await;
                (shard, began.elapsed(), result)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;
    use windlass_shared::clock::Clock;
    use windlass_shared::config::{EngineSettings, LedgerSettings};
    use windlass_shared::engine::{ClaimRequest, Engine, Held, Settle, Verdict};
    use windlass_shared::ledger::{Ledger, Submission};
    use windlass_shared::model::id::{JobId, LeaseId, WorkerId};
    use windlass_shared::model::job::{NewJob, Value};
    use windlass_shared::model::name::QueueName;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    async fn life() -> (Lifecycle, CancellationToken, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
        let settings = LedgerSettings::new(url);
        Ledger::migrate(&settings).await.unwrap();
        let ledger = Ledger::open(&settings).await.unwrap();
        let engine = Engine::open(&EngineSettings::new("embedded")).await.unwrap();
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let life = Lifecycle::start(ledger, engine, Clock::System, shutdown.clone(), tasks);
        (life, shutdown, folder)
    }

    /// Submits a job to a queue and plays its worker, to the end.
    async fn run_one(life: &Lifecycle, queue: &QueueName) -> JobId {
        let job = NewJob::new(
            Namespace::default(),
            queue.clone(),
            "noop".parse().unwrap(),
            Value::null(),
        );
        let shard = ShardId::first(Namespace::default(), queue.clone());
        let shards = std::slice::from_ref(&shard);
        // Not of gates: claims of a queue that is not open yet signal themselves.
        let ready = life.engine().subscribe_to(shards, &[Topic::Ready]);
        let mut ready = ready.await.unwrap();
        let submission = Submission { jobs: vec![job], atomic: false, idempotency: None };
        life.submit(submission).await.unwrap();
        let lease_id = LeaseId::random();
        let request = ClaimRequest {
            worker: WorkerId::generate(),
            lease_id,
            max: 1,
            lease: SOON,
            kinds: Vec::new(),
            offset: 0,
            ledger: None,
        };
        let claimed = loop {
            if let Some(claimed) = life.engine().claim(&shard, &request).await.unwrap().jobs.pop() {
                break claimed;
            }
            // A push that is on its way is told.
            let _ = tokio::time::timeout(Duration::from_millis(20), ready.next()).await;
        };
        let held = Held { id: claimed.id, fence: claimed.fence, lease_id };
        let settle = Settle {
            dependency: None,
            held,
            verdict: Verdict::Succeeded,
            detail: Default::default(),
        };
        life.engine().settle(&shard, &[settle]).await.unwrap();
        claimed.id
    }

    /// Goal: a shard whose outcomes cannot be recorded is told of, by name, for as long as that lasts, whatever else is
    /// recorded meanwhile; and no longer.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_shard_that_fails_is_not_hidden_by_the_others() {
        let rig = crate::ticks::rig::Rig::start(&["a-broken", "b-sound"]).await;
        let board = Board::new(WorkerId::generate());
        let shutdown = CancellationToken::new();
        rig.damage("a-broken", "outbox");
        let fallback = Duration::from_millis(20);
        let recorder = run_with(rig.life.clone(), board.clone(), fallback, shutdown.clone());
        let recorder = tokio::spawn(recorder);
        let sound = "b-sound".parse().unwrap();
        let mut going = rig
            .until("it fails again and again", async || {
                let id = run_one(&rig.life, &sound).await;
                rig.life.wait(&Namespace::default(), id, SOON).await.unwrap();
                board.one("recorder").filter(|going| going.failures >= 20)
            })
            .await;
        let told = going.error.take().unwrap();
        assert!(told.contains("default/a-broken") && !told.contains("b-sound"), "{told}");
        rig.mend("a-broken", "outbox");
        let works = async || board.one("recorder").filter(|going| going.outcome == Ended::Ok);
        rig.until("it works again", works).await;
        shutdown.cancel();
        recorder.await.unwrap();
    }

    /// Goal: the first outcome of a queue that is made while the recorder runs does not wait for the fallback,
    /// which never comes here; neither do outcomes of older queues that were told meanwhile.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_first_outcome_of_a_new_queue_is_recorded_at_once() {
        let (life, shutdown, _folder) = life().await;
        let never = Duration::from_secs(3_600);
        let recorder = tokio::spawn(run_with(
            life.clone(),
            Board::new(WorkerId::generate()),
            never,
            shutdown.clone(),
        ));
        for n in 0..5 {
            let queue = format!("new-{n}").parse().unwrap();
            for _ in 0..2 {
                let started = Instant::now();
                let id = run_one(&life, &queue).await;
                let ended = life.wait(&Namespace::default(), id, SOON).await.unwrap();
                assert!(ended.flatten().is_some(), "the outcome in {queue} is not recorded");
                eprintln!("{queue}: recorded {:?} after its submission", started.elapsed());
            }
        }
        shutdown.cancel();
        recorder.await.unwrap();
    }
}
