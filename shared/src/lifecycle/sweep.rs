//! Jobs in the ledger that the engine lost, or never got, are pushed again.
//!
//! The same code fills an empty engine at the start of `windlass dev` and repairs a running one: an engine
//! that starts is an engine that was wiped. Of reconciliation (reliability 2.8) this is the slow path
//! from ledger to engine; the gate on an unknown Redis process, adoption, the replay of settles and the
//! sweep from engine to ledger belong beside it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::Lifecycle;
use super::push::{PushError, open_shard, push, push_of};
use crate::engine::{CancelReply, Ended, ShardId, Withdraw};
use crate::ledger::{Changed, Guard, JobPage, Queue, Record};
use crate::limits;
use crate::model::id::{Fence, JobId};
use crate::model::job::{Job, JobError};
use crate::model::time::Timestamp;

/// Rows of one page.
const PAGE: u32 = 1_000;
/// Pages of one queue in one pass.
const PAGES_MAX: usize = 20;
/// A job that changed within this time may still be on its way to the engine by the common path.
const SETTLED_AFTER: Duration = Duration::from_secs(10);

/// What one pass over a queue found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Jobs looked at.
    pub checked: u64,
    /// Jobs that the engine did not have and has now.
    pub pushed: u64,
    /// Jobs that ended here: expired, or cancelled while the engine was away.
    pub ended: u64,
    /// The end of the queue was reached, or the engine is full.
    pub complete: bool,
}

/// Where each queue's next pass starts.
#[derive(Default)]
pub struct Sweeper {
    cursors: HashMap<ShardId, JobId>,
}

impl Sweeper {
    /// One bounded pass over a queue, from where the last one stopped.
    ///
    /// Safe to drop and to run twice at once.
    ///
    /// # Errors
    /// The engine or the ledger did not answer; the next pass starts from the same place.
    pub async fn pass(&mut self, life: &Lifecycle, queue: &Queue) -> Result<Swept, PushError> {
        let now = life.inner.ledger.now().await?;
        self.pages(life, queue, now.minus(SETTLED_AFTER), PAGES_MAX).await
    }

    async fn pages(
        &mut self,
        life: &Lifecycle,
        queue: &Queue,
        changed_before: Timestamp,
        pages_max: usize,
    ) -> Result<Swept, PushError> {
        let shard = ShardId::first(queue.namespace.clone(), queue.name.clone());
        settle_settings(life, queue, &shard).await?;
        let mut swept = Swept::default();
        for _ in 0..pages_max {
            let after = self.cursors.get(&shard).copied();
            let page = page(life, &shard, changed_before, after).await?;
            swept.checked += page.checked;
            swept.pushed += page.pushed;
            swept.ended += page.ended;
            match page.last {
                Some(last) => self.cursors.insert(shard.clone(), last),
                None => self.cursors.remove(&shard),
            };
            if page.last.is_none() {
                swept.complete = true;
                break;
            }
        }
        Ok(swept)
    }
}

/// Pushes everything that belongs in the engine: its start is a wipe.
///
/// # Errors
/// The engine or the ledger did not answer. Repeat it.
pub async fn fill(life: &Lifecycle) -> Result<Swept, PushError> {
    let mut total = Swept { complete: true, ..Swept::default() };
    let mut walk = life.inner.ledger.walk_queues(None);
    while let Some(queues) = walk.next().await? {
        for queue in queues {
            let now = life.inner.ledger.now().await?;
            let mut sweeper = Sweeper::default();
            let swept = sweeper.pages(life, &queue, now.plus(SETTLED_AFTER), usize::MAX).await?;
            total.checked += swept.checked;
            total.pushed += swept.pushed;
            total.ended += swept.ended;
        }
    }
    Ok(total)
}

/// A shard that missed a change of settings, a pause perhaps, gets it before anything else.
async fn settle_settings(
    life: &Lifecycle,
    queue: &Queue,
    shard: &ShardId,
) -> Result<(), PushError> {
    let stats = life.inner.engine.stats(shard).await?;
    if stats.settings.is_none_or(|settings| settings.version < queue.version) {
        open_shard(&life.inner.ledger, &life.inner.engine, shard).await?;
    }
    Ok(())
}

/// Fills the head of a queue again as it drains, while more of the queue waits in the ledger than the engine
/// has room for. The sweep would get there too, but at its own slow pace.
#[derive(Default)]
pub struct Pump {
    /// The queues whose rest is in the ledger, each with the id up to which all are in the engine.
    behind: HashMap<ShardId, Option<JobId>>,
    /// Shards that were nearly full of jobs ahead of their time, and may have refused some.
    held_back: HashSet<ShardId>,
}

impl Pump {
    /// One bounded pass over a queue; how many jobs it pushed. Asks the engine only, unless its shard was
    /// seen nearly full since its rest was last found empty.
    ///
    /// Safe to drop and to run twice at once.
    ///
    /// # Errors
    /// The engine or the ledger did not answer; the next pass starts from the same place.
    pub async fn pass(&mut self, life: &Lifecycle, queue: &Queue) -> Result<u64, PushError> {
        let shard = ShardId::first(queue.namespace.clone(), queue.name.clone());
        let stats = life.inner.engine.stats(&shard).await?;
        let Some(settings) = stats.settings else { return Ok(0) };
        // Those that wait for their time have room of their own; see `ShardSettings::jobs_max`.
        let is_full_ahead = stats.delayed >= settings.jobs_max / 5 * 4;
        if is_full_ahead {
            self.held_back.insert(shard.clone());
        }
        let head = stats.ready + stats.leased + stats.outbox;
        let is_full =
            head >= settings.jobs_max / 5 * 4 || stats.bytes >= settings.bytes_max / 5 * 4;
        if is_full {
            self.behind.entry(shard).or_insert(None);
            return Ok(0);
        }
        // A walk that is under way comes to its end first.
        if !is_full_ahead && !self.behind.contains_key(&shard) && self.held_back.remove(&shard) {
            self.behind.insert(shard.clone(), None);
        }
        let Some(cursor) = self.behind.get_mut(&shard) else { return Ok(0) };
        let mut pushed = 0;
        for _ in 0..PAGES_MAX {
            // No matter when they changed: what is on its way by the common path as well is pushed once.
            let changed_before = life.inner.ledger.now().await?.plus(SETTLED_AFTER);
            let page = page(life, &shard, changed_before, *cursor).await?;
            pushed += page.pushed;
            *cursor = page.filled_to;
            if page.is_full {
                break;
            }
            if page.last.is_none() {
                self.behind.remove(&shard);
                break;
            }
        }
        Ok(pushed)
    }
}

struct Page {
    checked: u64,
    pushed: u64,
    ended: u64,
    /// `None`: nothing more to do in this queue.
    last: Option<JobId>,
    /// Up to here all that belongs in the engine is there, but for those refused ahead of their time.
    filled_to: Option<JobId>,
    /// The engine had no room for the rest.
    is_full: bool,
}

async fn page(
    life: &Lifecycle,
    shard: &ShardId,
    changed_before: Timestamp,
    after: Option<JobId>,
) -> Result<Page, PushError> {
    let (ledger, engine) = (&life.inner.ledger, &life.inner.engine);
    let nothing =
        Page { checked: 0, pushed: 0, ended: 0, last: None, filled_to: after, is_full: false };
    // Fixed before the select that proves the jobs unfinished is sent.
    let Some(not_after) = life.inner.pusher.time.deadline(engine).await else {
        return Ok(nothing);
    };
    let now = not_after.minus(limits::PUSH_WINDOW);
    let JobPage { jobs, next: last } = ledger
        .unfinished(
            &shard.namespace,
            &shard.queue,
            now.plus(limits::SCHEDULE_AHEAD),
            changed_before,
            after,
            PAGE,
        )
        .await?;
    let mut page = Page { checked: jobs.len() as u64, last, ..nothing };

    let (over, live): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| is_over(job, now));
    page.ended += end(life, shard, &over, now).await?;

    let ids: Vec<JobId> = live.iter().map(|job| job.id).collect();
    let mut missing = Vec::new();
    for (ids, jobs) in
        ids.chunks(limits::ENGINE_BATCH_MAX).zip(live.chunks(limits::ENGINE_BATCH_MAX))
    {
        let there = engine.exists(shard, ids).await?;
        missing.extend(
            jobs.iter().zip(there).filter(|(_, there)| !there).map(|(job, _)| push_of(job)),
        );
    }
    for chunk in missing.chunks(limits::ENGINE_BATCH_MAX) {
        let count = push(ledger, engine, &life.inner.pusher.time, shard, chunk, not_after).await?;
        page.pushed += count.added;
        if count.full > 0 {
            // The head of the queue is in the engine; the rest waits here for its turn.
            page.last = None;
            page.is_full = true;
            break;
        }
        // Those refused ahead of their time come with a later pass: they must not hold up what could run.
        page.filled_to = chunk.last().map(|push| push.id);
    }
    if page.last.is_some() {
        page.filled_to = page.last;
    }
    if page.pushed > 0 {
        metrics::counter!("windlass_sweep_pushed_total").increment(page.pushed);
    }
    Ok(page)
}

/// Whether a job must not start any more: past its `expires_at`, or asked to stop.
fn is_over(job: &Job, now: Timestamp) -> bool {
    job.cancel_requested || job.expires_at.is_some_and(|at| at <= now)
}

/// Ends jobs that nobody runs and that must not start. Those that somebody runs are left to their worker.
async fn end(
    life: &Lifecycle,
    shard: &ShardId,
    jobs: &[Job],
    now: Timestamp,
) -> Result<u64, PushError> {
    let mut ended = 0;
    for jobs in jobs.chunks(limits::ENGINE_BATCH_MAX) {
        let ids: Vec<(JobId, Fence)> = jobs.iter().map(|job| (job.id, job.fence)).collect();
        let mut expired = Vec::new();
        for job in jobs {
            // A job whose cancellation the engine did not hear of is told now, running or not.
            let how =
                if job.cancel_requested { Withdraw::StopRunning } else { Withdraw::WaitingOnly };
            let replies = life.inner.engine.cancel(shard, &[(job.id, job.fence)], how).await?;
            let Some(reply) = replies.first() else { continue };
            if !matches!(reply, CancelReply::Removed | CancelReply::Absent) {
                continue;
            }
            if job.cancel_requested {
                let guard = Some(Guard::of(job));
                let ledger = &life.inner.ledger;
                let done = ledger.cancel(&job.namespace, job.id, guard, false, "requested").await?;
                // One that was changed meanwhile is looked at by the next pass.
                ended += u64::from(matches!(done, Changed::Done(_)));
            } else {
                expired.push(expiry(job, now));
                ended += 1;
            }
        }
        if !expired.is_empty() {
            let reply = life.inner.ledger.record(expired).await?;
            super::record::follow(life, reply, None);
        }
        life.inner.waiters.notify(&ids.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    }
    Ok(ended)
}

fn expiry(job: &Job, now: Timestamp) -> Record {
    Record {
        namespace: job.namespace.clone(),
        id: job.id,
        fence: Fence(job.fence.0 + 1),
        ended: Ended::Expired,
        at: now,
        claimed_at: None,
        attempt: job.attempt,
        crashes: job.crashes,
        worker: None,
        output: None,
        error: Some(JobError {
            code: "expired".into(),
            message: "not started before its expires_at".into(),
            retryable: false,
        }),
        timed_out: false,
        usage: None,
    }
}
