//! Jobs that the ledger changed without the engine being asked first: replaced holders of a unique key, and outcomes
//! that came by the direct path. The engine may still hold what has ended ready, or under a lease that will run out,
//! and would start it again; or hold what is to run again in an older form, with a lower fence.

use std::collections::HashMap;
use std::time::Duration;

use super::Lifecycle;
use super::push::push_of;
use crate::engine::{Push, ShardId, Withdraw};
use crate::ledger::shard_of;
use crate::limits::ENGINE_BATCH_MAX;
use crate::model::id::{Fence, JobId};
use crate::model::job::{Job, JobState};

/// How long a caller waits for it; after that it goes on by itself.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Tries, and the time between them. An engine that is away for longer comes back empty, or is met by what the
/// ledger has on record when its outcome is.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);

/// What the engine is told of the jobs of one shard.
#[derive(Default)]
struct Orders {
    /// Must not start, or are to stop.
    out: Vec<(JobId, Fence)>,
    /// To run again, in this form.
    again: Vec<Push>,
}

/// Makes the engine have these jobs as they are on record: takes those out that have ended, and stops them where they
/// run; replaces older forms of those that run again. Returns when that is done or after a second, whichever is
/// first; dropping it drops only the waiting.
pub(super) async fn align(life: &Lifecycle, ids: Vec<JobId>) {
    if ids.is_empty() {
        return;
    }
    let task_life = life.clone();
    let task = life.inner.tasks.spawn(async move {
        for left in (0..TRIES).rev() {
            if try_once(&task_life, &ids).await {
                return;
            }
            if left == 0 || task_life.inner.tasks.is_closed() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        tracing::warn!(jobs = ids.len(), "the engine may start jobs again that have ended");
    });
    // It goes on; whether it panicked is in the log.
    let _ = tokio::time::timeout(WAIT_MAX, task).await;
}

/// One try; whether both stores answered.
async fn try_once(life: &Lifecycle, ids: &[JobId]) -> bool {
    // Fixed before the ledger is read: what is pushed was to run again then.
    let Some(ticket) = life.inner.delivery.ticket().await else { return false };
    let mut shards: HashMap<ShardId, Orders> = HashMap::new();
    for ids in ids.chunks(ENGINE_BATCH_MAX) {
        let Ok(jobs) = life.inner.ledger.jobs(ids).await else { return false };
        for job in &jobs {
            let orders = shards.entry(shard_of(job)).or_default();
            if job.state.is_terminal() || job.cancel_requested {
                orders.out.push((job.id, job.fence));
            } else if waits(job) {
                orders.again.push(push_of(job));
            }
        }
    }
    for (shard, orders) in &shards {
        for out in orders.out.chunks(ENGINE_BATCH_MAX) {
            if life.inner.engine.cancel(shard, out, Withdraw::StopRunning).await.is_err() {
                return false;
            }
        }
        // Also those that are not due for long: an older form may be there, and due. One that does not get in for
        // want of room, or is late, is found by the sweep or by the comparison.
        for again in orders.again.chunks(ENGINE_BATCH_MAX) {
            // A form of the same fence would stand against it: that of before the outcome, which a comparison pushed
            // while the job was on record as running, or which came back with an older engine.
            let before: Vec<_> = again.iter().map(|push| (push.id, push.fence)).collect();
            if life.inner.engine.drop_jobs(shard, &before, false).await.is_err() {
                return false;
            }
            if life.inner.delivery.push(shard, again, ticket).await.is_err() {
                return false;
            }
        }
    }
    true
}

/// Whether a job waits for its next attempt. What runs by now has a later lease than the outcome that led here.
pub(super) fn waits(job: &Job) -> bool {
    matches!(job.state, JobState::Ready | JobState::Scheduled | JobState::Retrying)
}
