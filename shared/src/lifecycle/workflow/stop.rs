//! A run is cancelled.

use super::{decide, drive};
use crate::ledger::LedgerError;
use crate::ledger::runs::{Advanced, Run, RunChanged};
use crate::lifecycle::Lifecycle;
use crate::model::id::WorkflowId;
use crate::model::job::JobState;
use crate::model::name::Namespace;
use crate::model::workflow::{WorkflowState, permanent};

/// Looks at a run that others carry on at the same time.
const TRIES_MAX: usize = 50;

pub(super) async fn cancel(
    life: &Lifecycle,
    namespace: &Namespace,
    id: WorkflowId,
    reason: &str,
) -> Result<RunChanged<Run>, LedgerError> {
    let ledger = &life.inner.ledger;
    for _ in 0..TRIES_MAX {
        if ledger.run(namespace, id).await?.is_none() {
            return Ok(RunChanged::Unknown);
        }
        let Some(snapshot) = ledger.run_snapshot(id).await? else { return Ok(RunChanged::Unknown) };
        let run = &snapshot.run;
        match (run.state, run.ending) {
            (WorkflowState::Running, Some(_)) => {
                // Whatever it ends as, it is being stopped.
                drive::soon(life, id);
                return Ok(RunChanged::Done(snapshot.run));
            }
            (WorkflowState::Running, None) => {}
            (state, _) => return Ok(RunChanged::Refused(state)),
        }
        let error = permanent(JobState::Cancelled.as_str(), reason);
        let advance = decide::stop(&snapshot, WorkflowState::Cancelled, error);
        match ledger.advance(run, &advance).await? {
            Advanced::Conflict => {}
            Advanced::Done { .. } => {
                drive::stop_soon(life, snapshot);
                let run = ledger.run(namespace, id).await?;
                return Ok(run.map_or(RunChanged::Unknown, RunChanged::Done));
            }
        }
    }
    Err(LedgerError::Unavailable("the run keeps moving; try again".into()))
}
