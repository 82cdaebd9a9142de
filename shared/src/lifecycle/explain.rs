//! "Why is this job not running?": the ordered list of what holds it back, each with evidence.

use serde::Serialize;

use crate::ledger::LedgerError;
use crate::lifecycle::Lifecycle;
use crate::model::id::JobId;
use crate::model::job::JobState;
use crate::model::name::Namespace;
use crate::model::time::Timestamp;

/// Answer to [`Lifecycle::explain`].
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The job.
    pub id: JobId,
    /// Its state, the engine's word included.
    pub state: JobState,
    /// Nothing but its turn holds it back.
    pub runnable: bool,
    /// What holds it back, the most telling first.
    pub reasons: Vec<Reason>,
}

/// One thing that holds a job back.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reason {
    /// Stable, snake_case.
    pub code: &'static str,
    /// For people.
    pub detail: String,
    /// Since when, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Until when, where known or estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The facts behind it.
    pub evidence: serde_json::Value,
}

pub(super) async fn explain(
    life: &Lifecycle,
    namespace: &Namespace,
    id: JobId,
) -> Result<Option<Explanation>, LedgerError> {
    let _ = (life, namespace, id);
    todo!()
}
