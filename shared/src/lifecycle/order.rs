//! Jobs in order. The ledger decides which may run, in the transaction that ends the one before it; here is what follows
//! outside of it: the released one is brought to the engine, and what only time finds is looked for.

use serde_json::json;

use super::explain::Reason;
use super::sweep::expiry;
use super::{Lifecycle, record, workflow};
use crate::ledger::orders::{BEFORE_MAX, OrderName};
use crate::ledger::{Changed, JobPatch, LedgerError};
use crate::model::id::JobId;
use crate::model::job::Job;
use crate::model::name::Namespace;

/// Jobs, and orders, looked at in one step.
const PAGE: u32 = 500;
/// Steps of one pass.
const STEPS_MAX: usize = 20;

/// Brings the first job of an order to the engine after this one has left it. Safe to drop: the sweep does it too.
pub(super) async fn follow(life: &Lifecycle, left: &Job) {
    let Some(key) = &left.spec.order_key else { return };
    let ticket = life.inner.delivery.ticket().await;
    match life.inner.ledger.order_head(&left.namespace, &left.queue, key).await {
        Ok(head) => workflow::drive::push(life, head.into_iter().collect(), ticket),
        Err(error) => tracing::debug!(%error, "an order was not followed; the sweep does it"),
    }
}

/// Forgets a finished job, and lets those run that it kept waiting.
pub(super) async fn delete(
    life: &Lifecycle,
    namespace: &Namespace,
    id: JobId,
) -> Result<Changed<()>, LedgerError> {
    let job = life.inner.ledger.job(namespace, id).await?;
    let changed = life.inner.ledger.delete(namespace, id).await?;
    if let (Changed::Done(()), Some(job)) = (&changed, job) {
        follow(life, &job).await;
    }
    Ok(changed)
}

/// Whether a change is refused because the job has its place among those of its queue.
pub fn stays_in_order(job: &Job, patch: &JobPatch) -> bool {
    job.spec.order_key.is_some() && patch.queue.as_ref().is_some_and(|queue| *queue != job.queue)
}

/// What holds back a job that is not the first of its order; `None`: it has no place in one.
pub(super) async fn blocked_by(life: &Lifecycle, job: &Job) -> Result<Option<Reason>, LedgerError> {
    let Some(key) = &job.spec.order_key else { return Ok(None) };
    let Some(place) = life.inner.ledger.order_place(&job.namespace, job.id).await? else {
        return Ok(None);
    };
    let (head, state) = (place.head, place.head_state);
    let many = match place.before {
        1 => "1 job".to_owned(),
        BEFORE_MAX => format!("{BEFORE_MAX} jobs or more"),
        n => format!("{n} jobs"),
    };
    let detail = if state.is_terminal() {
        format!(
            "{many} of its order_key {key:?} before it: the first, {head}, is {state} and holds up those behind it \
             until it is retried and succeeds, or is deleted"
        )
    } else {
        format!("{many} of its order_key {key:?} before it: the first, {head}, is {state}")
    };
    let evidence = json!({
        "order_key": key,
        "before": place.before,
        "head": { "id": head, "state": state },
    });
    Ok(Some(Reason::new("blocked_by", detail, evidence)))
}

/// Looks for what no end of a job brings about: blocked jobs that are past their `expires_at`, and orders whose first job
/// is blocked or gone, as an older build or a repair by hand may leave them.
#[derive(Default)]
pub struct Tender {
    /// Where the walk over the orders goes on.
    at: Option<OrderName>,
}

impl Tender {
    /// One bounded pass; how many jobs it ended or released. Safe to drop and to run twice at once.
    ///
    /// # Errors
    /// The ledger did not answer; the next pass starts from the same place.
    pub async fn pass(&mut self, life: &Lifecycle) -> Result<u64, LedgerError> {
        let ledger = &life.inner.ledger;
        let mut done = 0;
        for _ in 0..STEPS_MAX {
            let now = ledger.now().await?;
            let overdue = ledger.overdue_in_order(now, PAGE).await?;
            let is_full = overdue.len() == PAGE as usize;
            if !overdue.is_empty() {
                done += overdue.len() as u64;
                let ids: Vec<JobId> = overdue.iter().map(|job| job.id).collect();
                let ticket = life.inner.delivery.ticket().await;
                let ends = overdue.iter().map(|job| expiry(job, now)).collect();
                record::follow(life, ledger.record(ends).await?, ticket);
                life.inner.waiters.notify(&ids);
            }
            if !is_full {
                break;
            }
        }
        for _ in 0..STEPS_MAX {
            let ticket = life.inner.delivery.ticket().await;
            let mended = ledger.mend_orders(self.at.clone(), PAGE).await?;
            if !mended.released.is_empty() {
                tracing::warn!(jobs = mended.released.len(), "orders were stuck and go on");
            }
            done += mended.released.len() as u64;
            workflow::drive::push(life, mended.released, ticket);
            self.at = mended.next;
            if self.at.is_none() {
                break;
            }
        }
        Ok(done)
    }
}
