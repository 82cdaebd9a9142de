//! What earlier attempts left: partial results, and why the last one failed.

use std::time::Duration;

use tokio::time::Instant;
use windlass_shared::lifecycle::lease::Taken;
use windlass_shared::lifecycle::resume::previous;
use windlass_shared::model::evaluate::Previous;
use windlass_shared::model::id::{Fence, JobId};
use windlass_shared::model::name::Namespace;

use crate::app::App;
use crate::error::ApiError;
use crate::views::Raw;
use crate::views::job::JobView;

/// On record of a job that has had no lease on record, nor a redrive.
const NEVER: Fence = Fence(0);

/// Left for a later attempt.
#[derive(Default)]
pub struct Left {
    /// The latest partial result.
    pub checkpoint: Option<Raw>,
    /// Why the attempt before failed.
    pub previous: Option<Previous>,
}

/// What a worker gets with a job. One that cannot have run before costs no look-up. An outcome that is on its way into
/// the ledger is waited for until `deadline`.
///
/// # Errors
/// The ledger does not answer.
pub async fn of_taken(
    app: &App,
    namespace: &Namespace,
    taken: &Taken,
    deadline: Instant,
) -> Result<Left, ApiError> {
    let job = &taken.job;
    if taken.attempt < 2 && job.crashes == 0 && job.fence == NEVER {
        return Ok(Left::default());
    }
    of_attempt(app, namespace, (job.id, taken.attempt, taken.held.fence), deadline).await
}

/// What is left for the given attempt of a job.
///
/// # Errors
/// The ledger does not answer.
pub async fn of_attempt(
    app: &App,
    namespace: &Namespace,
    lease: (JobId, u32, Fence),
    deadline: Instant,
) -> Result<Left, ApiError> {
    let ledger = app.life.ledger();
    let checkpoint = ledger.checkpoint(namespace, lease.0).await?.map(|found| Raw(found.data));
    let wait: Duration = deadline.saturating_duration_since(Instant::now());
    let previous = previous(ledger, namespace, lease, wait).await?;
    Ok(Left { checkpoint, previous })
}

/// Shows the partial result of a job that has not succeeded, where attempts may have left one. `recorded` is its fence on
/// record.
///
/// # Errors
/// The ledger does not answer.
pub async fn show(
    app: &App,
    namespace: &Namespace,
    (id, recorded): (JobId, Fence),
    view: &mut JobView,
) -> Result<(), ApiError> {
    if view.may_have_partial_output(recorded > NEVER)
        && let Some(found) = app.life.ledger().checkpoint(namespace, id).await?
    {
        view.set_partial_output(found.data);
    }
    Ok(())
}
