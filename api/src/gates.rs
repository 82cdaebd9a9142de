//! Result gates of jobs that remote workers settle: the same check as in Windlass's own workers.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use windlass_shared::gate::{Gate, GateError, Refusal};
use windlass_shared::lifecycle::lease::{End, Shown};
use windlass_shared::model::id::JobId;
use windlass_shared::model::job::{Expect, Job, JobError, Value};
use windlass_shared::model::name::Namespace;

use crate::app::App;
use crate::error::{ApiError, Code};

/// Longest time for the checks of one call together.
const CALL_TIME_MAX: Duration = Duration::from_secs(30);
/// Checks of one call at once; the gate has a bound for the process.
const AT_ONCE: usize = 4;
/// Jobs remembered to have no gate.
const UNGATED_MAX: usize = 100_000;
/// Jobs asked for at once.
const LOOKUP_MAX: usize = 1_000;

/// The gates of this process.
#[derive(Default)]
pub struct Gates {
    gate: Gate,
    /// Jobs that were taken here and have no gate, so that their settles need not ask the ledger. A gate
    /// never changes. Cleared when full: what is forgotten is looked up.
    ungated: Mutex<HashSet<JobId>>,
}

impl Gates {
    /// A job is on its way to a remote worker.
    pub fn note(&self, job: &Job) {
        if job.spec.expect.is_some() {
            return;
        }
        let mut ungated = self.ungated.lock().expect("nothing panics while holding it");
        if ungated.len() >= UNGATED_MAX {
            ungated.clear();
        }
        ungated.insert(job.id);
    }

    fn unsure(&self, ends: &[(Shown, End)]) -> Vec<JobId> {
        let ungated = self.ungated.lock().expect("nothing panics while holding it");
        ends.iter()
            .filter(|(_, end)| matches!(end, End::Succeed(_)))
            .map(|(shown, _)| shown.held.id)
            .filter(|id| !ungated.contains(id))
            .collect()
    }

    /// Turns successes whose output the job's gate refuses into failures; for each item the refusal, if
    /// any. Outputs must be inline still.
    ///
    /// # Errors
    /// The ledger does not answer, no place is free for a check, or the checks take more than 30 s
    /// together. Nothing was settled then, and nothing is held against the outputs.
    pub async fn pass(
        &self,
        app: &App,
        namespace: &Namespace,
        ends: &mut [(Shown, End)],
    ) -> Result<Vec<Option<JobError>>, ApiError> {
        let expects = expects(app, namespace, &self.unsure(ends)).await?;
        let mut refusals = vec![None; ends.len()];
        if expects.is_empty() {
            return Ok(refusals);
        }
        let checks: Vec<(usize, Expect, Bytes)> = ends
            .iter()
            .enumerate()
            .filter_map(|(place, (shown, end))| {
                Some((place, expects.get(&shown.held.id)?.clone(), output_of(end)?))
            })
            .collect();
        let verdicts = futures::stream::iter(checks)
            .map(|(place, expect, output)| async move {
                (place, self.gate.check_for(namespace, &expect, &output).await)
            })
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>();
        let verdicts = tokio::time::timeout(CALL_TIME_MAX, verdicts).await.map_err(|_| {
            ApiError::new(Code::Overloaded, "the result gates take too long; settle fewer at once")
        })?;
        let refused = refused(verdicts)?;
        for (place, refusal) in refused {
            refusals[place] = Some(refusal.error.clone());
            ends[place].1 = End::Refused(refusal);
        }
        Ok(refusals)
    }
}

/// The refusals among verdicts.
///
/// # Errors
/// 503 where one was not reached: that is the fault of no output.
fn refused(
    verdicts: Vec<(usize, Result<(), GateError>)>,
) -> Result<Vec<(usize, Box<Refusal>)>, ApiError> {
    let mut refused = Vec::new();
    for (place, verdict) in verdicts {
        match verdict {
            Ok(()) => {}
            Err(GateError::Refused(refusal)) => refused.push((place, refusal)),
            Err(GateError::Busy) => {
                let error = ApiError::new(Code::Overloaded, "too many results are being checked");
                return Err(error.retry_after(Duration::from_secs(1)));
            }
        }
    }
    Ok(refused)
}

/// What a gate looks at. A worker that names no output has the output `null`.
fn output_of(end: &End) -> Option<Bytes> {
    match end {
        End::Succeed(Some(Value::Inline(bytes))) => Some(bytes.clone()),
        End::Succeed(None) => Some(Bytes::from_static(b"null")),
        End::Succeed(Some(Value::Blob(_)))
        | End::Fail(..)
        | End::Refused(_)
        | End::Snooze(_)
        | End::Release => None,
    }
}

async fn expects(
    app: &App,
    namespace: &Namespace,
    ids: &[JobId],
) -> Result<HashMap<JobId, Expect>, ApiError> {
    let mut expects = HashMap::new();
    for ids in ids.chunks(LOOKUP_MAX) {
        let jobs = app.life.ledger().jobs(ids).await?;
        let own = jobs.into_iter().filter(|job| job.namespace == *namespace);
        expects.extend(own.filter_map(|job| Some((job.id, job.spec.expect?))));
    }
    Ok(expects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_without_a_place_refuses_the_call_and_no_output() {
        let error =
            JobError { code: "result_rejected".into(), message: "m".into(), retryable: true };
        let refusal = Box::new(Refusal::from(error));
        let no = || Err(GateError::Refused(refusal.clone()));
        assert_eq!(refused(vec![(0, Ok(())), (3, no())]).unwrap(), [(3, refusal.clone())]);
        let busy = refused(vec![(0, no()), (1, Err(GateError::Busy)), (2, Ok(()))]).unwrap_err();
        assert_eq!(busy.code(), Code::Overloaded);
    }
}
