//! The direct path: tells the ledger outcomes that the engine has lost, or may have, past the engine.
//!
//! Everything here may be repeated: the ledger's guarded update lets no outcome count twice. So what is not answered
//! is sent again, with growing pauses, until it is; an API that is away holds up nothing but the replays.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use windlass_shared::engine::{Engine, Held, Settle};
use windlass_shared::limits::{ENGINE_BATCH_MAX, LEASE_MIN};
use windlass_shared::model::id::{Fence, JobId, LeaseId, WorkerId};

use crate::attempt::Crew;
use crate::pause::Pause;
use crate::reporter::pump::chain;
use crate::reporter::{DirectOutcome, DirectReply, ReportError, SharedReporter};
use crate::ring::{Replay, Rings, ShardRing, Then};

/// Most outcomes in one call, and about how many bytes of them.
pub(crate) const CALL_MAX: usize = 500;
/// The fewest that a call is cut down to when no answer comes: an API that is behind after an outage must get through
/// one call in the time that it has for it.
const CALL_MIN: usize = 20;
/// See [`CALL_MAX`].
const CALL_BYTES_MAX: usize = 4 << 20;
/// Tries to settle replayed outcomes at the engine once more.
const SETTLE_TRIES: u32 = 3;
/// At the end of a worker, its last settles have this long to be recorded in the usual way.
const USUAL_WAY_MAX: Duration = Duration::from_millis(300);
/// How often the shards are asked for it.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// What is kept only for the case that the engine is lost right now is worth this much time at the end.
const KEPT_TIME_MAX: Duration = Duration::from_secs(3);

/// The task that replays.
pub(crate) struct Direct {
    pub(crate) rings: Arc<Rings>,
    pub(crate) engine: Engine,
    pub(crate) reporter: SharedReporter,
    pub(crate) crew: Arc<Crew>,
    pub(crate) worker: WorkerId,
    /// Outcomes of the next call: halved when none answers, doubled when one does.
    pub(crate) most: usize,
    /// An operator gave the worker nobody to report to; that has been said.
    pub(crate) alone: bool,
    /// Outcomes that were given up although the engine never answered, and the ledger did not take.
    pub(crate) lost: usize,
}

/// What became of one call.
enum Sent {
    Over,
    /// Nobody answered: again, after a pause.
    Away,
}

impl Direct {
    /// Replays until `stop`; how many settles neither the engine nor the ledger has taken. Never ends otherwise.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> usize {
        tokio::select! {
            biased;
            // A call under way may be dropped: whether it was carried out does not matter any more.
            () = stop.cancelled() => {}
            () = self.replay_for_ever() => {}
        }
        self.lost + self.rings.iter().map(|ring| ring.abandoned()).sum::<usize>()
    }

    async fn replay_for_ever(&mut self) {
        let mut pause = Pause::default();
        loop {
            match self.round().await {
                Some(Sent::Over) => pause.reset(),
                Some(Sent::Away) => tokio::time::sleep(pause.next()).await,
                None => self.rings.replays().await,
            }
        }
    }

    /// One call for each shard that has something to replay; `None`: none has.
    async fn round(&mut self) -> Option<Sent> {
        let rings = Arc::clone(&self.rings);
        let mut result = None;
        // In turn, so that none waits for all of another's.
        for ring in rings.iter() {
            let batch = ring.take(self.most, CALL_BYTES_MAX);
            if batch.is_empty() {
                continue;
            }
            match self.send(ring, batch).await {
                Sent::Away => result = Some(Sent::Away),
                Sent::Over => result = result.or(Some(Sent::Over)),
            }
        }
        result
    }

    async fn send(&mut self, ring: &ShardRing, batch: Vec<Replay>) -> Sent {
        match self.record(&batch).await {
            Ok(replies) => {
                count(&replies);
                self.most = (self.most * 2).min(CALL_MAX);
                self.over(ring, &batch, true).await;
                Sent::Over
            }
            Err(ReportError::Unconfigured) => {
                self.drop_all(ring, &batch);
                Sent::Over
            }
            Err(ReportError::WrongLedger) => self.send_home(ring, batch),
            // One of them may be what the API cannot take: it must not hold up the others.
            Err(error) if is_about_content(&error) => self.send_singly(ring, batch).await,
            Err(error) => {
                let outcomes = batch.len();
                tracing::warn!(queue = %ring.shard.queue, outcomes, error = %chain(&error), "cannot record outcomes by the direct path; trying again");
                ring.put_back(batch);
                self.most = (self.most / 2).max(CALL_MIN);
                Sent::Away
            }
        }
    }

    async fn send_singly(&mut self, ring: &ShardRing, batch: Vec<Replay>) -> Sent {
        let mut left = batch.into_iter();
        while let Some(replay) = left.next() {
            let one = std::slice::from_ref(&replay);
            match self.record(one).await {
                Ok(replies) => {
                    count(&replies);
                    self.over(ring, one, true).await;
                }
                Err(error) if is_about_content(&error) => {
                    metrics::counter!("windlass_direct_outcomes_total", "reply" => "refused")
                        .increment(1);
                    tracing::error!(job.id = %replay.done.settle.held.id, %error, "the API refuses an outcome; its job may run again");
                    self.lost += usize::from(replay.then == Then::Abandoned);
                    self.over(ring, one, false).await;
                }
                Err(_) => {
                    ring.put_back(std::iter::once(replay).chain(left).collect());
                    return Sent::Away;
                }
            }
        }
        Sent::Over
    }

    async fn record(&self, batch: &[Replay]) -> Result<Vec<DirectReply>, ReportError> {
        let outcomes = batch
            .iter()
            .map(|Replay { done, .. }| DirectOutcome {
                job_id: done.settle.held.id,
                fence: done.settle.held.fence,
                lease_id: done.settle.held.lease_id,
                verdict: done.settle.verdict,
                at: done.at,
                claimed_at: done.claimed_at,
                attempt: done.attempt,
                crashes: done.crashes,
                worker: self.worker,
                detail: done.settle.detail.clone(),
            })
            .collect();
        // All of a batch are of one ledger.
        let ledger = batch.first().and_then(|first| first.done.ledger);
        self.reporter.record(ledger, outcomes).await
    }

    /// The API has another ledger than the one that these are of. If it is not just one replica of it, that holds their
    /// jobs as of before, or not at all.
    fn send_home(&mut self, ring: &ShardRing, batch: Vec<Replay>) -> Sent {
        self.crew.home.ask();
        let ledger = batch.first().and_then(|first| first.done.ledger);
        if !ledger.is_some_and(|ledger| self.crew.home.disowns(ledger, ring.holds())) {
            ring.put_back(batch);
            return Sent::Away;
        }
        let outcomes = batch.len();
        tracing::error!(queue = %ring.shard.queue, outcomes, "wrong_ledger: the API has another ledger than the one that these outcomes are of; they are dropped");
        metrics::counter!("windlass_direct_outcomes_total", "reply" => "foreign")
            .increment(outcomes as u64);
        self.lost += batch.iter().filter(|replay| replay.then == Then::Abandoned).count();
        ring.replayed(&batch, false);
        Sent::Over
    }

    /// Settles at the engine once more what asks for it, and notes that all are over.
    async fn over(&self, ring: &ShardRing, batch: &[Replay], recorded: bool) {
        let again: Vec<Settle> = batch
            .iter()
            .filter(|replay| replay.then == Then::SettleAgain)
            .map(|replay| replay.done.settle.clone())
            .collect();
        for settles in again.chunks(ENGINE_BATCH_MAX) {
            let mut pause = Pause::default();
            // If it never works, the lease runs out, and its end is older than what the ledger has.
            for _ in 0..SETTLE_TRIES {
                match self.engine.settle(&ring.shard, settles).await {
                    Ok(_) => break,
                    Err(error) => {
                        tracing::debug!(%error, "cannot settle again what was replayed");
                        tokio::time::sleep(pause.next()).await;
                    }
                }
            }
        }
        ring.replayed(batch, recorded);
    }

    /// A worker without an API has no direct path: what the engine loses runs again.
    fn drop_all(&mut self, ring: &ShardRing, batch: &[Replay]) {
        if !self.alone {
            self.alone = true;
            tracing::warn!(
                "the engine has lost, or may have lost, outcomes; without an API address they cannot be recorded, and their jobs run again"
            );
        }
        metrics::counter!("windlass_direct_outcomes_total", "reply" => "unconfigured")
            .increment(batch.len() as u64);
        self.lost += batch.iter().filter(|replay| replay.then == Then::Abandoned).count();
        ring.replayed(batch, false);
    }
}

/// Gives the last settles of a worker time to be recorded: in the usual way, or else by the direct path, which
/// `Direct` goes on with meanwhile. Returns by `deadline`, or soon after; what is left is counted and logged.
pub(crate) async fn flush(rings: &Rings, engine: &Engine, deadline: Instant) {
    let usual_way = Instant::now() + USUAL_WAY_MAX;
    while Instant::now() < usual_way && rings.iter().any(|ring| ring.counts().0 > 0) {
        for ring in rings.iter().filter(|ring| ring.counts().0 > 0) {
            // Nobody holds this lease: it tells the position and changes nothing.
            let nobody =
                Held { id: JobId::generate(), fence: Fence(0), lease_id: LeaseId::random() };
            match engine.extend(&ring.shard, &[nobody], LEASE_MIN).await {
                Ok(reply) => ring.note(&reply.position),
                Err(error) => tracing::debug!(%error, "cannot ask what is recorded"),
            }
        }
        if rings.iter().any(|ring| ring.counts().0 > 0) {
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
    for ring in rings.iter() {
        ring.until_replayed(deadline.saturating_duration_since(Instant::now())).await;
    }
    let deadline = deadline.max(Instant::now()).min(Instant::now() + KEPT_TIME_MAX);
    for ring in rings.iter() {
        ring.replay_all();
    }
    for ring in rings.iter() {
        ring.until_replayed(deadline.saturating_duration_since(Instant::now())).await;
        let (kept, replays) = ring.counts();
        if kept + replays > 0 {
            metrics::counter!("windlass_direct_outcomes_total", "reply" => "left")
                .increment((kept + replays) as u64);
            tracing::warn!(queue = %ring.shard.queue, outcomes = kept + replays, "the worker ends before these outcomes are known to be recorded; they are unless the engine is lost now");
        }
    }
}

/// Whether the same would be refused again. A key or an address may be put right.
fn is_about_content(error: &ReportError) -> bool {
    matches!(error, ReportError::Refused(400 | 413 | 422))
}

fn count(replies: &[DirectReply]) {
    for (reply, label) in [
        (DirectReply::Applied, "applied"),
        (DirectReply::Stale, "stale"),
        (DirectReply::Unknown, "unknown"),
    ] {
        let count = replies.iter().filter(|found| **found == reply).count() as u64;
        if count > 0 {
            metrics::counter!("windlass_direct_outcomes_total", "reply" => label).increment(count);
        }
    }
}
