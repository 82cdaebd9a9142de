//! Attempts on record: one end, rising fences, no finish without its start, and nothing that handlers did not do.

use std::collections::HashMap;

use super::index::{Execution, Index};
use super::{Kind, Verdict, is_terminal};
use crate::dev::calls::HTTP;
use crate::dump::{AttemptRow, JobRow};
use crate::effects::End;
use crate::load::plan::ANY;

pub(super) fn check(index: &Index<'_>, verdict: &mut Verdict) {
    for (id, job) in &index.evidence.ledger.jobs {
        rising(index, id, job, verdict);
        if is_terminal(&job.state) {
            one_end(id, job, verdict);
            charged(index, id, job, verdict);
        }
        if job.kind.starts_with("rig.") || job.kind == HTTP {
            done(index, id, job, verdict);
        }
    }
}

/// Fences are unique, and later leases started later, unless the engine's clock went back.
fn rising(index: &Index<'_>, id: &str, job: &JobRow, verdict: &mut Verdict) {
    for pair in job.attempts.windows(2) {
        let [one, next] = pair else { continue };
        if next.fence <= one.fence {
            let detail = format!("fence {} is followed by {}", one.fence, next.fence);
            verdict.add(Kind::Chain, id, detail);
        }
        let backwards = one.started_at_us.zip(next.started_at_us).is_some_and(|(a, b)| b < a);
        if backwards && !index.engine_went_back() {
            verdict.add(Kind::Chain, id, "a higher fence with an earlier start");
        }
        if next.number < one.number {
            verdict.add(Kind::Chain, id, format!("attempt {} after {}", next.number, one.number));
        }
    }
}

/// One attempt ended the job, and it is the last.
fn one_end(id: &str, job: &JobRow, verdict: &mut Verdict) {
    let outcome = |attempt: &AttemptRow| attempt.outcome.clone();
    let open = job.attempts.iter().filter(|a| a.outcome.is_none()).count();
    if open > 0 {
        verdict.add(Kind::Chain, id, format!("{} with {open} attempts running", job.state));
    }
    let successes = job.attempts.iter().filter(|a| a.outcome.as_deref() == Some("succeeded"));
    let successes = successes.count();
    let last = job.attempts.last().and_then(outcome);
    let fits = match job.state.as_str() {
        "succeeded" => successes == 1 && last.as_deref() == Some("succeeded"),
        _ => successes == 0,
    };
    if !fits {
        let outcomes: Vec<_> = job.attempts.iter().map(outcome).collect();
        verdict.add(Kind::Chain, id, format!("{} after {outcomes:?}", job.state));
    }
}

/// Failures on record are those that the payload asked for: a crash is not charged as one.
fn charged(index: &Index<'_>, id: &str, job: &JobRow, verdict: &mut Verdict) {
    let Some(key) = index.key_of.get(id).and_then(|key| index.keys.get(key)) else { return };
    if key.fails == ANY {
        return;
    }
    let failed = |a: &&AttemptRow| matches!(a.outcome.as_deref(), Some("failed" | "timed_out"));
    let failures = job.attempts.iter().filter(failed).count();
    if job.state == "succeeded" && failures != key.fails as usize {
        let detail = format!("{failures} failures on record, {} were planned", key.fails);
        verdict.add(Kind::Chain, id, detail);
    }
    if job.state == "succeeded" && job.attempt != key.fails + 1 {
        let detail = format!("attempt {} at its end, {} planned", job.attempt, key.fails + 1);
        verdict.add(Kind::Chain, id, detail);
    }
}

/// What is on record was done, and what was done is on record.
fn done(index: &Index<'_>, id: &str, job: &JobRow, verdict: &mut Verdict) {
    let executions: HashMap<u64, &Execution> =
        index.of_job(id).map(|execution| (execution.fence, execution)).collect();
    for attempt in &job.attempts {
        let execution = executions.get(&attempt.fence);
        let end = execution.and_then(|execution| execution.end).map(|(_, end)| end);
        let fits = match attempt.outcome.as_deref() {
            Some("succeeded") => end == Some(End::Ok),
            Some("failed") => matches!(end, Some(End::Planned | End::Down | End::Refused)),
            // A lease may be lost, or handed back, before its handler was called.
            _ => true,
        };
        if !fits {
            let outcome = attempt.outcome.as_deref().unwrap_or("running");
            let fence = attempt.fence;
            let detail = format!("{outcome} with fence {fence}, but the handler: {end:?}");
            verdict.add(Kind::Chain, id, detail);
        }
    }
    if !index.engine_lost.is_empty() {
        // Leases that Redis forgot cannot be on record.
        return;
    }
    let mut fences: Vec<u64> = executions.into_keys().collect();
    fences.sort_unstable();
    for fence in fences {
        if !job.attempts.iter().any(|attempt| attempt.fence == fence) {
            verdict.add(
                Kind::Chain,
                id,
                format!("fence {fence} was executed and is not on record"),
            );
        }
    }
}
