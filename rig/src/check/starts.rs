//! When jobs were started: not after their end, not before their time, not while their queue was paused.
//!
//! The start of an attempt is its claim's instant in engine time, which is its fence. A clock that goes back makes fences
//! later than their instants, never earlier. By true time a delay is waited out from acceptance on, whatever clocks of
//! other hosts than the engine's show.

use super::index::{Execution, Index, Key};
use super::{Kind, Verdict, is_terminal};
use crate::stamp::Stamp;

pub(super) fn check(index: &Index<'_>, verdict: &mut Verdict) {
    for execution in &index.executions {
        after_end(index, execution, verdict);
        early(index, execution, verdict);
        paused(index, execution, verdict);
    }
}

/// Between two clocks of a host that go at slightly different rates, over the longest delay.
const SLEW_US: u64 = 10_000;

/// The claim's instant in engine time.
fn engine_us(execution: &Execution) -> i64 {
    i64::try_from(execution.fence).unwrap_or(i64::MAX)
}

fn after_end(index: &Index<'_>, execution: &Execution, verdict: &mut Verdict) {
    let Some(job) = index.evidence.ledger.jobs.get(&execution.job) else { return };
    if !is_terminal(&job.state) {
        return;
    }
    // The attempt that ended the job is the last one that did not come to nothing.
    let last = job.attempts.iter().filter(|a| a.outcome.as_deref() != Some("released"));
    let Some(last) = last.map(|attempt| attempt.fence).max() else { return };
    // The API shows whole milliseconds, cut off.
    let later = job.finished_at_us.is_some_and(|at| engine_us(execution) > at + 999);
    // The end may have an earlier time than an attempt before it where that went back.
    let later = later && !index.engine_went_back();
    if execution.fence > last || (later && execution.fence != last) {
        let fence = execution.fence;
        let detail = format!("claimed with fence {fence}; it ended with fence {last}");
        verdict.add(Kind::StartAfterEnd, &execution.job, detail);
    }
}

fn early(index: &Index<'_>, execution: &Execution, verdict: &mut Verdict) {
    let Some(key) = index.key_of.get(execution.job.as_str()).and_then(|key| index.keys.get(key))
    else {
        return;
    };
    delayed(index, execution, key, verdict);
    // A key that is repeated later is answered with the job as it is by then: perhaps with the time of a retry.
    let first = index.of_job(&execution.job).find_map(|execution| execution.end);
    let before_retry = |at: Stamp| first.is_none_or(|(ended, _)| at < ended);
    let promises = key.oks().filter(|t| before_retry(t.at));
    let promised = promises.filter_map(|t| t.reply.and_then(|reply| reply.run_at_us)).min();
    if let Some(run_at) = promised.filter(|run_at| index.shown_us(execution) < *run_at) {
        let by = run_at - index.shown_us(execution);
        verdict.add(Kind::Early, &execution.job, format!("started {by} µs before its time"));
    }
}

/// The delay, from the first question on: it was accepted later than that.
fn delayed(index: &Index<'_>, execution: &Execution, key: &Key<'_>, verdict: &mut Verdict) {
    // The engine's own clock decides when a delay is over.
    if key.delay_ms == 0 || !index.engine_moves.is_empty() {
        return;
    }
    let Some(asked) = key.asked else { return };
    let waited_us = execution.started.boot_us.saturating_sub(asked.boot_us);
    if waited_us + SLEW_US < key.delay_ms * 1_000 {
        let detail = format!("started after {waited_us} µs, with a delay of {} ms", key.delay_ms);
        verdict.add(Kind::Early, &execution.job, detail);
    }
}

fn paused(index: &Index<'_>, execution: &Execution, verdict: &mut Verdict) {
    let Some(at) = index.claimed_us(execution) else { return };
    for span in index.paused.get(execution.queue.as_str()).into_iter().flatten() {
        let resumed = span.to.map_or(i64::MAX, |to| to.wall_us);
        if span.from.wall_us < at && at < resumed {
            let since = at - span.from.wall_us;
            let detail = format!("claimed {since} µs after {} was paused", execution.queue);
            verdict.add(Kind::StartedWhilePaused, &execution.job, detail);
        }
    }
}
