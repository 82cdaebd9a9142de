//! How often jobs were executed, and whether at one time.

use super::index::{Execution, Index};
use super::{Cause, Kind, Verdict};
use crate::fleet::LEASE;
use crate::stamp::Stamp;

/// An outcome is sent well within this time after its execution; a worker that is killed within it may not have sent it.
const UNSENT_US: u64 = 2_000_000;
/// After the longest outage a worker may keep its lease for a heartbeat.
const BEAT_US: u64 = 1_500_000;

pub(super) fn check(index: &Index<'_>, verdict: &mut Verdict) {
    let mut jobs: Vec<&str> = index.by_job.keys().copied().collect();
    jobs.sort_unstable();
    for job in jobs {
        extra(index, job, verdict);
        overlaps(index, job, verdict);
    }
}

/// Executions whose result does not count: neither a success nor a failure of theirs is on record.
fn extra(index: &Index<'_>, job: &str, verdict: &mut Verdict) {
    let Some(row) = index.evidence.ledger.jobs.get(job) else { return };
    let outcome_of = |fence: u64| {
        let attempt = row.attempts.iter().find(|attempt| attempt.fence == fence);
        attempt.and_then(|attempt| attempt.outcome.as_deref())
    };
    let mut seen = Vec::new();
    for execution in index.of_job(job) {
        let outcome = outcome_of(execution.fence);
        let again = seen.contains(&execution.fence);
        seen.push(execution.fence);
        // A probe that found its dependency down is on record as snoozed.
        let counts = ["succeeded", "failed", "timed_out", "cancelled", "snoozed"];
        if !again && outcome.is_some_and(|outcome| counts.contains(&outcome)) {
            continue;
        }
        let cause =
            if outcome == Some("released") { Cause::Released } else { cause(index, execution) };
        *verdict.extra.entry(cause).or_insert(0) += 1;
        if cause == Cause::Unexplained {
            let (fence, worker) = (execution.fence, &execution.worker);
            let detail = format!("fence {fence} on {worker}, on record as {outcome:?}");
            verdict.add(Kind::Duplicate, job, detail);
        }
    }
}

/// What explains that the result of an execution did not count.
fn cause(index: &Index<'_>, execution: &Execution) -> Cause {
    let worker = execution.worker.as_str();
    let ended = execution.end.map(|(at, _)| at);
    if let Some(killed) = index.killed.get(worker) {
        let unsent =
            |end: Stamp| end <= *killed && killed.boot_us.saturating_sub(end.boot_us) <= UNSENT_US;
        if execution.started <= *killed && ended.is_none_or(unsent) {
            return Cause::Killed;
        }
    }
    if stood_still(index, execution) {
        return Cause::Frozen;
    }
    let from = execution.started.boot_us;
    let to = ended.map_or(u64::MAX, |at| at.boot_us + UNSENT_US);
    let during = |at: &Stamp| at.boot_us <= to && at.boot_us + reach_us() >= from;
    let cuts = ["*", worker].into_iter().filter_map(|name| index.cut_off.get(name)).flatten();
    if cuts.into_iter().any(during) {
        return Cause::CutOff;
    }
    if index.engine_lost.iter().any(during) {
        return Cause::EngineLost;
    }
    Cause::Unexplained
}

fn reach_us() -> u64 {
    u64::try_from(LEASE.as_micros()).unwrap_or(u64::MAX) + BEAT_US
}

/// Whether the worker stood still during the execution for so long that its lease may have run out.
fn stood_still(index: &Index<'_>, execution: &Execution) -> bool {
    let spans = index.frozen.get(execution.worker.as_str());
    spans.into_iter().flatten().any(|span| {
        let until = span.to.map_or(u64::MAX, |to| to.boot_us);
        let ended = execution.end.map_or(u64::MAX, |(at, _)| at.boot_us + UNSENT_US);
        // A heartbeat may have been missed just before.
        let long = until.saturating_sub(span.from.boot_us) + 2 * BEAT_US >= reach_us();
        long && execution.started.boot_us <= until && ended >= span.from.boot_us
    })
}

/// Of two executions the earlier ends first, unless its worker stood still or was cut off.
fn overlaps(index: &Index<'_>, job: &str, verdict: &mut Verdict) {
    let mut executions: Vec<&Execution> = index.of_job(job).collect();
    executions.sort_by_key(|execution| execution.started);
    for (place, earlier) in executions.iter().enumerate() {
        let killed = index.killed.get(earlier.worker.as_str()).copied();
        let ended = earlier.end.map(|(at, _)| at).or(killed);
        for later in &executions[place + 1..] {
            let together = ended.is_none_or(|ended| later.started < ended);
            let backwards = later.fence <= earlier.fence;
            if !together && !backwards {
                continue;
            }
            let excused = matches!(
                cause(index, if backwards { later } else { earlier }),
                Cause::Frozen | Cause::CutOff | Cause::EngineLost
            );
            if !excused {
                let (a, b) = (name(earlier), name(later));
                let what = if together { "at one time" } else { "in the wrong order" };
                verdict.add(Kind::Overlap, job, format!("{what}: {a} and {b}"));
            }
        }
    }
}

fn name(execution: &Execution) -> String {
    format!("fence {} on {}", execution.fence, execution.worker)
}
