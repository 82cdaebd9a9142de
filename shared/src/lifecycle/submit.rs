//! Submission.
use super::*;
pub(super) async fn submit(_l: &Lifecycle, _s: Submission) -> Result<SubmitOutcome, LedgerError> { todo!() }
