//! What an attempt leaves for the next one: its partial result, and why it failed.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Lifecycle;
use crate::engine::{LiveState, ShardId};
use crate::ledger::{Ledger, LedgerError};
use crate::model::evaluate::Previous;
use crate::model::id::{Fence, JobId};
use crate::model::name::Namespace;

/// An outcome that is not on record yet is looked for this often at first.
const LOOK_FIRST: Duration = Duration::from_millis(20);
/// And this often at last.
const LOOK_LAST: Duration = Duration::from_millis(320);

impl Lifecycle {
    /// Stores the partial result of a job for the holder of its lease `fence`. `false`: the lease is not the job's
    /// any more, or there is no such job that has not ended.
    ///
    /// Durable on `true`. Safe to repeat; may be dropped, and then may or may not have happened. Where the engine does
    /// not answer, or knows nothing of the job, what is on record decides alone.
    ///
    /// # Errors
    /// The ledger does not answer.
    pub async fn put_checkpoint(
        &self,
        namespace: &Namespace,
        id: JobId,
        fence: Fence,
        data: Bytes,
    ) -> Result<bool, LedgerError> {
        let ledger = &self.inner.ledger;
        let Some(job) = ledger.job(namespace, id).await? else { return Ok(false) };
        if job.state.is_terminal() || job.fence > fence {
            return Ok(false);
        }
        let shard = ShardId::first(namespace.clone(), job.queue);
        // A later lease may not be on record yet; the engine has given it out.
        if let Ok(Some(live)) = self.inner.engine.peek(&shard, id).await
            && !(live.fence == fence && matches!(live.state, LiveState::Leased { .. }))
        {
            return Ok(false);
        }
        ledger.put_checkpoint(namespace, id, fence, data).await
    }
}

/// Why the attempt before this one, the `number`th that counts, under the lease `fence`, failed. Its outcome may still
/// be on its way into the ledger: it is waited for, up to `wait`. `None`: this is the first one, there is no such job,
/// or the outcome did not come in time. May be dropped and repeated.
///
/// # Errors
/// The ledger does not answer.
pub async fn previous(
    ledger: &Ledger,
    namespace: &Namespace,
    (id, number, fence): (JobId, u32, Fence),
    wait: Duration,
) -> Result<Option<Previous>, LedgerError> {
    if number < 2 {
        return Ok(None);
    }
    let deadline = Instant::now() + wait;
    let mut pause = LOOK_FIRST;
    loop {
        let Some(attempts) = ledger.attempts(namespace, id).await? else { return Ok(None) };
        let found = Previous::of(&attempts, number, fence);
        if found.is_some() || Instant::now() + pause > deadline {
            return Ok(found);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_LAST);
    }
}
