//! What the engine has, held against the ledger: jobs that have ended, or that no ledger knows of, leave the engine;
//! those that are there in an older form are pushed again.
//!
//! An engine that went back in time has such jobs, and so has one whose keys somebody deleted in part. Reads go to
//! the ledger's primary only; a job is taken out only if it is still exactly what was seen.

use std::collections::HashMap;

use super::delivery::PushError;
use super::ended::waits;
use super::push::{belongs_in_engine, push_of};
use super::sweep::{Crowded, SeenFences, SeenForms, end, fill_page, form};
use super::{Lifecycle, record};
use crate::engine::{LiveEntry, ShardId};
use crate::ledger::Queue;
use crate::limits;
use crate::model::id::{Fence, JobId};
use crate::model::job::Job;
use crate::model::time::Timestamp;

/// Jobs of one request to the ledger.
const BATCH: usize = 500;
/// Pages of the engine that one pass of the audit looks at.
const AUDIT_PAGES_MAX: usize = 20;
/// Pages one after the other with nothing to push after which a comparison stops filling, where there are groups that have
/// their part.
const BARREN_MAX: usize = 50;
/// Jobs past their end that one comparison ends itself; the sweep does the others.
const OVER_MAX: usize = 10_000;
/// Passes of the recorder over one shard's outbox within a comparison: more than the outbox brake lets gather.
const FLUSH_PASSES_MAX: usize = 2_000;

/// What a comparison found and mended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compared {
    /// Jobs of the engine that were looked at.
    pub checked: u64,
    /// Jobs that the engine did not have, or had in an older form.
    pub pushed: u64,
    /// Jobs that the engine had and should not.
    pub dropped: u64,
    /// Jobs that ended here: expired, or cancelled while the engine was away.
    pub ended: u64,
}

/// A whole comparison of a shard whose gate is shut, in two halves: [`Self::fill`] while its holders may still be
/// adopting, [`Self::finish`] when they have.
pub(super) struct Comparison<'a> {
    life: &'a Lifecycle,
    shard: &'a ShardId,
    queue: &'a Queue,
    /// In the engine at first, and not met in the ledger so far.
    seen: SeenFences,
    /// Met in the ledger, in this form.
    met: SeenForms,
    over: Vec<Job>,
    found: Compared,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(life: &'a Lifecycle, shard: &'a ShardId, queue: &'a Queue) -> Self {
        let (seen, met) = (SeenFences::new(), SeenForms::new());
        Self { life, shard, queue, seen, met, over: Vec::new(), found: Compared::default() }
    }

    /// Pushes what the engine misses. Safe to repeat.
    pub(super) async fn fill(&mut self) -> Result<(), PushError> {
        let engine = &self.life.inner.engine;
        engine.configure(self.shard, &self.queue.shard_settings()).await?;
        let live = scan(self.life, self.shard).await?;
        self.seen = live.into_iter().map(|entry| (entry.id, entry.fence)).collect();
        self.found.checked = self.seen.len() as u64;
        let (mut after, mut crowded, mut barren) = (None, Crowded::default(), 0);
        loop {
            let (seen, over) = ((&mut self.seen, &mut self.met), &mut self.over);
            let from = (after, crowded.others());
            let page = fill_page(self.life, self.shard, from, seen, over).await?;
            self.found.pushed += page.pushed;
            after = page.last;
            crowded.add(&page);
            barren = if page.pushed == 0 { barren + 1 } else { 0 };
            // What waits behind a long queue does not keep the gate shut: the sweep gets there.
            if after.is_none() || (barren >= BARREN_MAX && !crowded.is_empty()) {
                return Ok(());
            }
        }
    }

    /// Records what the outbox holds, then takes out what has ended, also of what was adopted meanwhile. Safe to
    /// repeat.
    pub(super) async fn finish(mut self) -> Result<Compared, PushError> {
        for _ in 0..FLUSH_PASSES_MAX {
            if record::record_outcomes(self.life, self.shard).await? == 0 {
                break;
            }
        }
        self.over.truncate(OVER_MAX);
        let now = self.life.inner.engine.now().await?;
        self.found.ended += end(self.life, self.shard, &self.over, now).await?;
        let mut left = scan(self.life, self.shard).await?;
        // What holders have put back meanwhile is looked at once more: it may be older than what the ledger has.
        left.retain(|entry| entry.leased || self.met.get(&entry.id) != Some(&form_of_entry(entry)));
        for left in left.chunks(BATCH) {
            let mended = mend(self.life, self.shard, left).await?;
            self.found.pushed += mended.pushed;
            self.found.dropped += mended.dropped;
        }
        Ok(self.found)
    }
}

/// Everything that the engine has of a shard and that has not ended there.
async fn scan(life: &Lifecycle, shard: &ShardId) -> Result<Vec<LiveEntry>, PushError> {
    let (mut seen, mut cursor) = (HashMap::new(), 0);
    loop {
        let page = life.inner.engine.scan(shard, cursor).await?;
        let waiting = page.entries.into_iter().filter(|entry| !entry.finishing);
        // One may be seen twice.
        seen.extend(waiting.map(|entry| (entry.id, entry)));
        cursor = page.next;
        if cursor == 0 {
            return Ok(seen.into_values().collect());
        }
    }
}

/// Compares some entries of the engine with the ledger.
async fn mend(
    life: &Lifecycle,
    shard: &ShardId,
    entries: &[LiveEntry],
) -> Result<Compared, PushError> {
    let Some(ticket) = life.inner.delivery.ticket().await else {
        return Ok(Compared::default());
    };
    let now = ticket.now();
    let ids: Vec<JobId> = entries.iter().map(|entry| entry.id).collect();
    let jobs = life.inner.ledger.jobs(&ids).await?;
    // A row that this build cannot read is no reason to drop its job.
    let on_record = life.inner.ledger.on_record(&shard.namespace, &ids).await?;
    let jobs: HashMap<JobId, Job> = jobs.into_iter().map(|job| (job.id, job)).collect();
    let (mut over, mut elsewhere, mut older) = (Vec::new(), Vec::new(), Vec::new());
    for entry @ LiveEntry { id, fence, .. } in entries {
        match jobs.get(id) {
            None if on_record.contains(id) => {}
            None => over.push((*id, *fence)),
            Some(job) if job.state.is_terminal() => over.push((*id, *fence)),
            Some(job) if job.queue != shard.queue || job.namespace != shard.namespace => {
                elsewhere.push((*id, *fence));
            }
            Some(job) if job.fence > *fence => {
                if belongs_in_engine(job, now) {
                    older.push(push_of(job));
                } else {
                    elsewhere.push((*id, *fence));
                }
            }
            // The end of this very lease is on record, and the store has gone back to before it. Its push has the
            // lease's fence, so what is there goes first.
            Some(job) if is_before_the_end(entry, job, now) => {
                elsewhere.push((*id, *fence));
                if belongs_in_engine(job, now) {
                    older.push(push_of(job));
                }
            }
            Some(_) => {}
        }
    }
    let mut found = Compared { checked: entries.len() as u64, ..Compared::default() };
    // A tombstone of a job that lives elsewhere, or later, would keep it out for a while.
    for (jobs, bury) in [(over, true), (elsewhere, false)] {
        for jobs in jobs.chunks(limits::ENGINE_BATCH_MAX) {
            let gone = life.inner.engine.drop_jobs(shard, jobs, bury).await?;
            found.dropped += gone.into_iter().filter(|gone| *gone).count() as u64;
        }
    }
    for pushes in older.chunks(limits::ENGINE_BATCH_MAX) {
        found.pushed += life.inner.delivery.push(shard, pushes, ticket).await?.added;
    }
    if found.dropped > 0 {
        metrics::counter!("windlass_engine_dropped_total").increment(found.dropped);
    }
    Ok(found)
}

/// Whether an entry is what its job was before the lease with its fence ended, and that end is on record: still leased,
/// or waiting as it did while the lease was thought to run.
fn is_before_the_end(entry: &LiveEntry, job: &Job, now: Timestamp) -> bool {
    let has_other_tally = (entry.attempt, entry.crashes) != (job.attempt, job.crashes);
    let is_early = entry.run_at < job.run_at && job.run_at > now;
    entry.fence == job.fence && waits(job) && (entry.leased || has_other_tally || is_early)
}

fn form_of_entry(entry: &LiveEntry) -> u64 {
    form(entry.fence, (entry.attempt, entry.crashes), entry.run_at)
}

/// Walks over the shards of an engine that is in use, a few pages at a time.
#[derive(Default)]
pub struct Auditor {
    shards: HashMap<ShardId, Walk>,
}

/// Where the walk over one shard is.
#[derive(Default)]
struct Walk {
    cursor: u64,
    /// Seen ended, with the last outcome's number at that time.
    finishing: HashMap<JobId, (Fence, u64)>,
}

impl Auditor {
    /// One bounded pass over a shard, from where the last one stopped. Safe to drop and to run twice at once.
    ///
    /// # Errors
    /// The engine or the ledger did not answer; the next pass starts from the same place.
    pub async fn pass(&mut self, life: &Lifecycle, queue: &Queue) -> Result<Compared, PushError> {
        let shard = ShardId::first(queue.namespace.clone(), queue.name.clone());
        let walk = self.shards.entry(shard.clone()).or_default();
        let mut found = Compared::default();
        for _ in 0..AUDIT_PAGES_MAX {
            let page = life.inner.engine.scan(&shard, walk.cursor).await?;
            let (ended, live): (Vec<LiveEntry>, Vec<LiveEntry>) =
                page.entries.into_iter().partition(|entry| entry.finishing);
            for live in live.chunks(BATCH) {
                let mended = mend(life, &shard, live).await?;
                found.checked += mended.checked;
                found.pushed += mended.pushed;
                found.dropped += mended.dropped;
            }
            found.dropped += walk.orphans(life, &shard, &ended, page.position.recorded_seq).await?;
            for entry in ended {
                let first =
                    walk.finishing.get(&entry.id).filter(|(fence, _)| *fence == entry.fence);
                let since = first.map_or(page.position.last_seq, |(_, seq)| *seq);
                walk.finishing.insert(entry.id, (entry.fence, since));
            }
            walk.cursor = page.next;
            if walk.cursor == 0 {
                break;
            }
        }
        if walk.finishing.len() > OVER_MAX {
            walk.finishing.clear();
        }
        Ok(found)
    }
}

impl Walk {
    /// Takes out jobs that have ended and whose outcome is gone, so that nothing would ever confirm them; how many.
    /// The sweep brings them back as the ledger has them. All outcomes up to the last one at the time when it was
    /// first seen ended are recorded, or none waits at all: and still it is there.
    async fn orphans(
        &mut self,
        life: &Lifecycle,
        shard: &ShardId,
        ended: &[LiveEntry],
        recorded_seq: u64,
    ) -> Result<u64, PushError> {
        if ended.is_empty() {
            self.finishing.clear();
            return Ok(0);
        }
        // Asked after they were seen: a settle and its outcome, a confirm and what it takes out, are one step each.
        let is_empty = life.inner.engine.stats(shard).await?.outbox == 0;
        let is_orphan = |entry: &&LiveEntry| {
            let since = self.finishing.get(&entry.id).filter(|(fence, _)| *fence == entry.fence);
            is_empty || since.is_some_and(|(_, last_seq)| recorded_seq >= *last_seq)
        };
        let orphans: Vec<(JobId, Fence)> =
            ended.iter().filter(is_orphan).map(|entry| (entry.id, entry.fence)).collect();
        let mut dropped = 0;
        for orphans in orphans.chunks(limits::ENGINE_BATCH_MAX) {
            let gone = life.inner.engine.drop_jobs(shard, orphans, false).await?;
            dropped += gone.into_iter().filter(|gone| *gone).count() as u64;
        }
        Ok(dropped)
    }
}
