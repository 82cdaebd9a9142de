//! Jobs in the ledger that the engine lost, or never got, are pushed again.
//!
//! The same code fills an engine that is being verified ([`super::verify`]), at the start of `windlass dev` too, and
//! repairs a running one. Of reconciliation (reliability 2.8) this is the slow path from ledger to engine; the one
//! from engine to ledger is [`super::compare`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::Lifecycle;
use super::delivery::{PushError, Ticket};
use super::push::{counted, push_of};
use crate::engine::flow::Group;
use crate::engine::{CancelReply, Ended, EngineError, ShardId, Withdraw};
use crate::ledger::{Changed, Groups, Guard, JobPage, LedgerError, Queue, Record, Unfinished};
use crate::limits;
use crate::model::id::{Fence, JobId};
use crate::model::job::{Job, JobError};
use crate::model::time::Timestamp;

/// Rows of one page.
const PAGE: u32 = 1_000;
/// Pages of one queue in one pass.
pub(super) const PAGES_MAX: usize = 20;
/// Most groups that a walk leaves out.
const CROWDED_MAX: usize = 200;
/// A job that changed within this time may still be on its way to the engine by the common path.
pub(super) const SETTLED_AFTER: Duration = Duration::from_secs(10);

/// What one pass over a queue found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Jobs looked at.
    pub checked: u64,
    /// Jobs that the engine did not have and has now.
    pub pushed: u64,
    /// Jobs that ended here: expired, or cancelled while the engine was away.
    pub ended: u64,
    /// The end of the queue was reached, or the engine has no room for any of it.
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
        if !settle_settings(life, queue, &shard).await? {
            // Its verification does all this. Here, what runs could be taken for what nobody runs.
            return Ok(Swept { complete: true, ..Swept::default() });
        }
        let mut swept = Swept::default();
        let mut crowded = Crowded::default();
        for _ in 0..pages_max {
            let after = self.cursors.get(&shard).copied();
            let look = read(life, &shard, changed_before, after, crowded.others()).await?;
            let page = bring(life, &shard, look).await?;
            crowded.add(&page);
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

/// A shard that missed a change of settings, a pause perhaps, gets it before anything else; whether its gate is open.
async fn settle_settings(
    life: &Lifecycle,
    queue: &Queue,
    shard: &ShardId,
) -> Result<bool, PushError> {
    let stats = life.inner.engine.stats(shard).await?;
    if stats.settings.is_none_or(|settings| settings.version < queue.shard_version()) {
        life.inner.engine.configure(shard, &queue.shard_settings()).await?;
    }
    if !stats.open {
        life.inner.delivery.open_first(shard).await?;
        return Ok(life.inner.engine.stats(shard).await?.open);
    }
    Ok(true)
}

/// Groups that a walk has found to have their part of the room: it looks for the others from there on.
#[derive(Default)]
pub(super) struct Crowded {
    left_out: Vec<Group>,
    all: BTreeSet<Group>,
}

impl Crowded {
    /// All but those that the walk leaves out.
    pub(super) fn others(&self) -> Groups<'_> {
        Groups::AllBut(&self.left_out)
    }

    /// Notes those of a page. Too many are not left out, but walked over.
    pub(super) fn add(&mut self, page: &Page) {
        for group in &page.crowded {
            if self.all.insert(*group) && self.left_out.len() < CROWDED_MAX {
                self.left_out.push(*group);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn contains(&self, group: Group) -> bool {
        self.all.contains(&group)
    }
}

/// What the engine was seen to have of some jobs: their fences.
pub(super) type SeenFences = HashMap<JobId, Fence>;

/// Jobs with what tells their [`form`].
pub(super) type SeenForms = HashMap<JobId, u64>;

/// Tells forms of a job apart in little memory: a hash of its fence, attempts and crashes, and when it is due.
pub(super) fn form(fence: Fence, tally: (u32, u32), run_at: Timestamp) -> u64 {
    let mut hasher = DefaultHasher::new();
    (fence, tally, run_at).hash(&mut hasher);
    hasher.finish()
}

fn form_of(job: &Job) -> u64 {
    form(job.fence, (counted(job), job.crashes), job.run_at)
}

/// Fills one page of a shard that is being verified: pushes what the engine does not have, or, as `seen` says, has in
/// an older form. Those met are moved from `seen` to `met`, in the ledger's form. Jobs that must not start are put into `over`: somebody may run
/// them still, which is not known before all holders have reported.
pub(super) async fn fill_page(
    life: &Lifecycle,
    shard: &ShardId,
    (after, groups): (Option<JobId>, Groups<'_>),
    (seen, met): (&mut SeenFences, &mut SeenForms),
    over: &mut Vec<Job>,
) -> Result<Page, PushError> {
    let changed_before = life.inner.ledger.now().await?.plus(SETTLED_AFTER);
    let Some(mut look) = look(life, shard, changed_before, (after, groups)).await? else {
        return Err(PushError::Engine(EngineError::Unavailable(
            "it does not tell its time".into(),
        )));
    };
    met.extend(look.live.iter().chain(&look.over).map(|job| (job.id, form_of(job))));
    over.append(&mut look.over);
    let older: HashSet<JobId> = look
        .live
        .iter()
        .filter(|job| seen.remove(&job.id).is_some_and(|fence| fence < job.fence))
        .map(|job| job.id)
        .collect();
    push_missing(life, shard, look, &older).await
}

pub(super) struct Page {
    checked: u64,
    pub(super) pushed: u64,
    ended: u64,
    /// `None`: nothing more to do in this queue.
    pub(super) last: Option<JobId>,
    /// Up to here all that belongs in the engine is there, but for those refused ahead of their time, or as of a crowded
    /// group.
    pub(super) filled_to: Option<JobId>,
    /// The engine had no room for the rest, or for more of the only group that was looked for.
    pub(super) is_full: bool,
    /// Groups that had their part of the room.
    pub(super) crowded: BTreeSet<Group>,
}

/// A page of the ledger, before anything is done about it.
pub(super) struct Look {
    /// Where it began.
    after: Option<JobId>,
    /// The only group that is looked for.
    only: Option<Group>,
    /// Where the next one begins.
    pub(super) last: Option<JobId>,
    ticket: Ticket,
    now: Timestamp,
    /// To be in the engine.
    live: Vec<Job>,
    /// Not to start any more.
    over: Vec<Job>,
}

/// `None`: the engine does not answer.
async fn look(
    life: &Lifecycle,
    shard: &ShardId,
    changed_before: Timestamp,
    (after, groups): (Option<JobId>, Groups<'_>),
) -> Result<Option<Look>, PushError> {
    // Fixed before the select that proves the jobs unfinished is sent.
    let Some(ticket) = life.inner.delivery.ticket().await else { return Ok(None) };
    let now = ticket.now();
    let times = (now.plus(limits::SCHEDULE_AHEAD), changed_before);
    let wanted = Unfinished::new(&shard.namespace, &shard.queue, times, PAGE);
    let page = life.inner.ledger.unfinished(Unfinished { after, groups, ..wanted });
    let JobPage { jobs, next: last } = page.await?;
    let (over, live): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| is_over(job, now));
    let only = if let Groups::Only(group) = groups { Some(group) } else { None };
    Ok(Some(Look { after, only, last, ticket, now, live, over }))
}

/// Reads one page of a queue from the ledger, for [`bring`].
pub(super) async fn read(
    life: &Lifecycle,
    shard: &ShardId,
    changed_before: Timestamp,
    after: Option<JobId>,
    groups: Groups<'_>,
) -> Result<Look, PushError> {
    // Without it the walk keeps its place.
    look(life, shard, changed_before, (after, groups)).await?.ok_or_else(|| {
        LedgerError::Unavailable("the queue store does not tell the time".into()).into()
    })
}

/// Ends what is over, and pushes what the engine does not have.
pub(super) async fn bring(
    life: &Lifecycle,
    shard: &ShardId,
    look: Look,
) -> Result<Page, PushError> {
    let ended = end(life, shard, &look.over, look.now).await?;
    let checked = look.over.len() as u64;
    let page = push_missing(life, shard, look, &HashSet::new()).await?;
    Ok(Page { checked: page.checked + checked, ended, ..page })
}

/// Pushes what the engine does not have, and those that it has in an older form.
async fn push_missing(
    life: &Lifecycle,
    shard: &ShardId,
    look: Look,
    older: &HashSet<JobId>,
) -> Result<Page, PushError> {
    let mut page = Page {
        checked: look.live.len() as u64,
        pushed: 0,
        ended: 0,
        last: look.last,
        filled_to: look.after,
        is_full: false,
        crowded: BTreeSet::new(),
    };
    let mut missing = Vec::new();
    // Asked for first, they need not be sent; but where the engine had none of the last ones, it has none of these.
    let mut ask = true;
    life.inner.circuit_names.meet(&look.live);
    let mut chunks = look.live.chunks(limits::ENGINE_BATCH_MAX).peekable();
    while let Some(jobs) = chunks.next() {
        let before = missing.len();
        if ask {
            let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
            let there = life.inner.engine.exists(shard, &ids).await?;
            let missed =
                jobs.iter().zip(there).filter(|(job, there)| !there || older.contains(&job.id));
            missing.extend(missed.map(|(job, _)| push_of(job)));
            ask = missing.len() - before < jobs.len();
        } else {
            missing.extend(jobs.iter().map(push_of));
        }
        let is_end = chunks.peek().is_none();
        while missing.len() >= limits::ENGINE_BATCH_MAX || is_end && !missing.is_empty() {
            let rest = missing.split_off(missing.len().min(limits::ENGINE_BATCH_MAX));
            let chunk = std::mem::replace(&mut missing, rest);
            let mut count = life.inner.delivery.push(shard, &chunk, look.ticket).await?;
            page.pushed += count.added;
            ask |= count.added < chunk.len() as u64;
            if count.late > 0 {
                // Not there, and not refused: the walk keeps its place.
                let why = "the ledger's answer was too old to be acted on";
                return Err(LedgerError::Unavailable(why.into()).into());
            }
            let is_done = look.only.is_some_and(|group| count.crowded.contains(&group));
            page.crowded.append(&mut count.crowded);
            if count.full > 0 || is_done {
                // The head of the queue is in the engine; the rest waits here for its turn.
                page.last = None;
                page.is_full = true;
                return Ok(pushed(page));
            }
            // Those refused ahead of their time come with a later pass: they must not hold up what could run.
            page.filled_to = chunk.last().map(|push| push.id);
        }
    }
    if page.last.is_some() {
        page.filled_to = page.last;
    }
    Ok(pushed(page))
}

/// Counts what a page has pushed.
fn pushed(page: Page) -> Page {
    if page.pushed > 0 {
        metrics::counter!("windlass_sweep_pushed_total").increment(page.pushed);
    }
    page
}

/// Whether a job must not start any more: past its `expires_at`, or asked to stop.
pub fn is_over(job: &Job, now: Timestamp) -> bool {
    job.cancel_requested || job.expires_at.is_some_and(|at| at <= now)
}

/// Ends jobs that nobody runs and that must not start. Those that somebody runs are left to their worker.
pub(super) async fn end(
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
                if let Changed::Done(job) = done {
                    ended += 1;
                    super::order::follow(life, &job).await;
                }
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

/// The end of a job that was not started in time.
pub(super) fn expiry(job: &Job, now: Timestamp) -> Record {
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
