//! Jobs that a process has committed and could not bring to the engine, by their ids: it comes back to them when the
//! engine is in time again. What it forgets, the sweep finds.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::delivery::{Delivery, PushError};
use crate::engine::ShardId;
use crate::limits;
use crate::model::id::JobId;

/// Most ids that are kept, 16 bytes each. More are left to the sweep.
const IDS_MAX: usize = 500_000;
/// How long a shard that could not be pushed to is left alone, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// The ids, by shard, in the order in which they were missed.
#[derive(Default)]
pub(super) struct Missed {
    shards: Mutex<Shards>,
    noted: Notify,
}

#[derive(Default)]
struct Shards {
    count: usize,
    by_id: HashMap<ShardId, Shard>,
}

struct Shard {
    ids: VecDeque<JobId>,
    /// Not to be tried before.
    from: Instant,
    /// After the next failure.
    pause: Duration,
}

impl Missed {
    /// Notes jobs of a shard, as many as there is room for.
    pub(super) fn note(&self, shard: &ShardId, ids: impl ExactSizeIterator<Item = JobId>) {
        let mut shards = self.lock();
        // Those that are being tried and come back are beyond it.
        let taken = ids.len().min(IDS_MAX.saturating_sub(shards.count));
        if taken == 0 {
            return;
        }
        shards.count += taken;
        let new = || Shard { ids: VecDeque::new(), from: Instant::now(), pause: PAUSE.0 };
        shards.by_id.entry(shard.clone()).or_insert_with(new).ids.extend(ids.take(taken));
        drop(shards);
        self.noted.notify_one();
    }

    /// Waits until some jobs are to be tried. May be dropped; for one waiter at a time.
    pub(super) async fn due(&self) {
        loop {
            match self.next() {
                Some((_, from)) if from <= Instant::now() => return,
                Some((_, from)) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(from) => return,
                        () = self.noted.notified() => {}
                    }
                }
                None => self.noted.notified().await,
            }
        }
    }

    /// Brings some jobs to the engine as they are on record now, if any are to be tried. Safe to drop: those under way are
    /// left to the sweep then.
    pub(super) async fn push_some(&self, delivery: &Delivery) {
        let Some((shard, from)) = self.next() else { return };
        if from > Instant::now() {
            return;
        }
        let ids = self.take(&shard);
        match push(delivery, &shard, &ids).await {
            Ok(true) => self.succeeded(&shard),
            Ok(false) => self.put_back(&shard, ids),
            Err(error) => {
                tracing::debug!(%shard, %error, "jobs that were missed cannot be pushed yet");
                self.put_back(&shard, ids);
            }
        }
    }

    /// The shard whose turn is next, and when.
    fn next(&self) -> Option<(ShardId, Instant)> {
        let shards = self.lock();
        let next = shards.by_id.iter().min_by_key(|(_, shard)| shard.from)?;
        Some((next.0.clone(), next.1.from))
    }

    /// Takes the first of a shard. The others of it have their turn after those of other shards.
    fn take(&self, id: &ShardId) -> Vec<JobId> {
        let mut shards = self.lock();
        let Some(shard) = shards.by_id.get_mut(id) else { return Vec::new() };
        let count = shard.ids.len().min(limits::ENGINE_BATCH_MAX);
        let ids: Vec<JobId> = shard.ids.drain(..count).collect();
        shard.from = Instant::now();
        shards.count -= count;
        ids
    }

    fn succeeded(&self, id: &ShardId) {
        let mut shards = self.lock();
        let Some(shard) = shards.by_id.get_mut(id) else { return };
        shard.pause = PAUSE.0;
        if shard.ids.is_empty() {
            shards.by_id.remove(id);
        }
    }

    /// Puts ids back to where they were taken from, for later.
    fn put_back(&self, id: &ShardId, ids: Vec<JobId>) {
        let mut shards = self.lock();
        let Some(shard) = shards.by_id.get_mut(id) else { return };
        let count = ids.len();
        for id in ids.into_iter().rev() {
            shard.ids.push_front(id);
        }
        shard.from = Instant::now() + shard.pause;
        shard.pause = (shard.pause * 2).min(PAUSE.1);
        shards.count += count;
    }

    fn lock(&self) -> MutexGuard<'_, Shards> {
        self.shards.lock().expect("nothing panics while holding it")
    }
}

/// Whether the engine was told of all that are still to be there. What it has no room for is left to the pump.
async fn push(delivery: &Delivery, shard: &ShardId, ids: &[JobId]) -> Result<bool, PushError> {
    let Some(ticket) = delivery.ticket().await else { return Ok(false) };
    let pushes = delivery.still_due(shard, ids, ticket).await?;
    if pushes.is_empty() {
        return Ok(true);
    }
    let count = delivery.push_fresh(shard, &pushes, ticket).await?;
    metrics::counter!("windlass_push_repeated_total").increment(count.added);
    Ok(count.late == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::{Namespace, QueueName};

    fn shard(queue: &str) -> ShardId {
        ShardId::first(Namespace::default(), queue.parse::<QueueName>().unwrap())
    }

    fn ids(count: usize) -> Vec<JobId> {
        (0..count).map(|_| JobId::generate()).collect()
    }

    /// Goal: a shard that cannot be pushed to holds nobody else up, keeps its order, and is tried at ever longer intervals.
    #[tokio::test]
    async fn a_shard_that_fails_waits_alone() {
        let (missed, bad, good) = (Missed::default(), shard("bad"), shard("good"));
        let jobs = ids(limits::ENGINE_BATCH_MAX + 1);
        missed.note(&bad, jobs.iter().copied());
        for pause in [250, 500, 1_000, 2_000, 4_000, 5_000, 5_000] {
            let taken = missed.take(&bad);
            assert_eq!(taken, jobs[..limits::ENGINE_BATCH_MAX]);
            let before = Instant::now();
            missed.put_back(&bad, taken);
            let (next, from) = missed.next().unwrap();
            assert_eq!(next, bad);
            let (pause, after) = (Duration::from_millis(pause), Instant::now());
            assert!((before + pause..=after + pause).contains(&from));
        }
        missed.note(&good, ids(1).into_iter());
        missed.due().await;
        assert_eq!(missed.next().unwrap().0, good);
        assert_eq!(missed.take(&good).len(), 1);
        missed.succeeded(&good);
        assert_eq!(missed.next().unwrap().0, bad);
    }

    /// Goal: memory is bounded, whatever becomes of the engine; what was brought makes room.
    #[test]
    fn no_more_ids_are_kept_than_there_is_room_for() {
        let (missed, shard) = (Missed::default(), shard("full"));
        let id = JobId::generate();
        missed.note(&shard, vec![id; IDS_MAX - 1].into_iter());
        missed.note(&shard, vec![id; 2].into_iter());
        missed.note(&shard, vec![id; 2].into_iter());
        assert_eq!(missed.lock().count, IDS_MAX);
        let count = missed.take(&shard).len();
        missed.succeeded(&shard);
        missed.note(&shard, vec![id; count + 1].into_iter());
        assert_eq!(missed.lock().count, IDS_MAX);
        assert_eq!(missed.lock().by_id[&shard].ids.len(), IDS_MAX);
        let tried = missed.take(&shard);
        missed.note(&shard, vec![id; tried.len()].into_iter());
        missed.put_back(&shard, tried);
        missed.note(&shard, vec![id; 2].into_iter());
        assert_eq!(missed.lock().count, IDS_MAX + count);
        assert_eq!(missed.lock().by_id[&shard].ids.len(), IDS_MAX + count);
    }
}
