//! Jobs that the ledger ended without the engine being asked first: replaced holders of a unique key, and outcomes
//! that came by the direct path. The engine may still hold them ready, or under a lease that will run out, and
//! would start them again.

use std::collections::HashMap;
use std::time::Duration;

use super::Lifecycle;
use crate::engine::{ShardId, Withdraw};
use crate::ledger::shard_of;
use crate::limits::ENGINE_BATCH_MAX;
use crate::model::id::{Fence, JobId};

/// How long a caller waits for it; after that it goes on by itself.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Tries, and the time between them. An engine that is away for longer comes back empty, or is met by what the
/// ledger has on record when its outcome is.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);

/// Takes jobs out of the engine that are terminal on record, and stops them where they run. Returns when that is
/// done or after a second, whichever is first; dropping it drops only the waiting.
pub(super) async fn take_out(life: &Lifecycle, ids: Vec<JobId>) {
    if ids.is_empty() {
        return;
    }
    let task_life = life.clone();
    let task = life.inner.tasks.spawn(async move {
        for left in (0..TRIES).rev() {
            if try_out(&task_life, &ids).await {
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
async fn try_out(life: &Lifecycle, ids: &[JobId]) -> bool {
    let mut shards: HashMap<ShardId, Vec<(JobId, Fence)>> = HashMap::new();
    for ids in ids.chunks(ENGINE_BATCH_MAX) {
        let Ok(jobs) = life.inner.ledger.jobs(ids).await else { return false };
        for job in jobs.iter().filter(|job| job.state.is_terminal()) {
            shards.entry(shard_of(job)).or_default().push((job.id, job.fence));
        }
    }
    for (shard, jobs) in &shards {
        for jobs in jobs.chunks(ENGINE_BATCH_MAX) {
            if life.inner.engine.cancel(shard, jobs, Withdraw::StopRunning).await.is_err() {
                return false;
            }
        }
    }
    true
}
