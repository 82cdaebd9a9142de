//! The figures of a trial: a pure function of the history and the effect log, the same for every subject.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::check::{Evidence, Execution, Index};
use crate::effects::End;
use crate::history::{Call, Event, Fault, Phase};
use crate::rates;
use crate::stamp::Stamp;

/// The mark of the instant from which on the subject is hurt, where that is not the one at which the fault begins.
pub const HURT: &str = "hurt";
/// The mark of the last instant at which it is.
pub const MENDING: &str = "mending";

/// What was seen of one subject in one trial. Times in seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Keys whose submission was acknowledged.
    pub accepted: usize,
    /// Keys whose outcome was never learnt, or that were refused.
    pub not_accepted: usize,
    /// Acknowledged jobs of which no execution came to a good end, by id.
    pub undone: Vec<String>,
    /// Executions beyond one, and one more for each that failed as planned.
    pub extra: usize,
    /// Jobs of which two executions were under way at one time.
    pub at_once: usize,
    /// Executions that ended with their worker.
    pub cut_short: usize,
    /// Longest time from a worker's end to the next start of a job that it ran.
    pub rerun_s: Option<f64>,
    /// Jobs cut short that were not started again.
    pub never_rerun: usize,
    /// Longest time without a job done, from the fault to the end of the load.
    pub gap_done_s: f64,
    /// Longest time without a submission acknowledged, likewise.
    pub gap_accepted_s: f64,
    /// From heal to the next start.
    pub first_start_s: Option<f64>,
    /// From heal until 90 % of the rate before was reached.
    pub recovered_s: Option<f64>,
    /// Submissions acknowledged while the subject was hurt.
    pub accepted_meanwhile: usize,
    /// Jobs done while it was.
    pub done_meanwhile: usize,
    /// Acknowledged submissions whose key had been acknowledged with another body.
    pub other_bodies: usize,
    /// Submissions that were refused for good (4xx).
    pub refused: usize,
    /// Processes that ended by themselves.
    pub ended: usize,
}

/// Measures. `evidence.ledger` is not looked at; marks `fault`, `heal` and `loaded` bound the times.
pub fn measure(evidence: &Evidence) -> Measured {
    let index = Index::new(evidence);
    let keys = keys(&evidence.history);
    let mut measured = Measured {
        accepted: keys.values().filter(|key| key.is_accepted()).count(),
        not_accepted: keys.values().filter(|key| !key.is_accepted()).count(),
        other_bodies: keys.values().map(|key| key.other_bodies).sum(),
        ended: marks(&evidence.history, "ended").len(),
        ..Measured::default()
    };
    for key in keys.values() {
        let of_key = |execution: &&Execution| key.ids.contains(execution.job.as_str());
        let jobs = key.ids.iter().flat_map(|id| index.of_job(id)).filter(of_key);
        let executions: Vec<&Execution> = jobs.collect();
        let ended = |how| move |e: &&&Execution| e.end.is_some_and(|(_, end)| end == how);
        let (good, planned) = (ended(End::Ok), ended(End::Planned));
        if key.is_accepted() && !executions.iter().any(|e| good(&e)) {
            measured.undone.extend(key.ids.first().map(|id| (*id).to_owned()));
        }
        measured.extra +=
            executions.len().saturating_sub(1 + executions.iter().filter(planned).count());
        measured.at_once += usize::from(overlap(&index, &executions));
    }
    reruns(&index, &mut measured);
    times(evidence, &index, &mut measured);
    let refused =
        |event: &&Event| event.phase == Phase::Fail && matches!(event.call, Call::Submit { .. });
    measured.refused = evidence.history.iter().filter(refused).count();
    measured
}

/// What became of a key.
#[derive(Debug, Default)]
struct Key<'a> {
    ids: BTreeSet<&'a str>,
    body: Option<&'a str>,
    other_bodies: usize,
}

impl Key<'_> {
    fn is_accepted(&self) -> bool {
        self.body.is_some()
    }
}

fn keys(history: &[Event]) -> BTreeMap<&str, Key<'_>> {
    let mut keys: BTreeMap<&str, Key<'_>> = BTreeMap::new();
    for event in history {
        let Call::Submit { key, body, .. } = &event.call else { continue };
        let entry = keys.entry(key).or_default();
        let Some(id) = event.reply.as_ref().and_then(|reply| reply.id.as_deref()) else { continue };
        if event.phase == Phase::Ok {
            entry.ids.insert(id);
            entry.other_bodies += usize::from(*entry.body.get_or_insert(body) != body.as_str());
        }
    }
    keys
}

/// Whether two of these were under way at one time. One whose worker was killed ended then.
fn overlap(index: &Index<'_>, executions: &[&Execution]) -> bool {
    let mut ordered = executions.to_vec();
    ordered.sort_by_key(|execution| execution.started);
    ordered.iter().enumerate().any(|(place, earlier)| {
        let ended = earlier.end.map(|(at, _)| at).or(index.killed_at(&earlier.worker));
        ordered[place + 1..].iter().any(|later| ended.is_none_or(|ended| later.started < ended))
    })
}

fn reruns(index: &Index<'_>, measured: &mut Measured) {
    for execution in index.executions.iter().filter(|execution| execution.end.is_none()) {
        let killed = index.killed_at(&execution.worker);
        let Some(killed) = killed.filter(|killed| execution.started <= *killed) else { continue };
        measured.cut_short += 1;
        let later = index.of_job(&execution.job).filter(|other| other.started > execution.started);
        match later.map(|other| other.started).min() {
            Some(next) => {
                let delay = next.seconds_since(killed);
                measured.rerun_s = Some(measured.rerun_s.map_or(delay, |most| most.max(delay)));
            }
            None => measured.never_rerun += 1,
        }
    }
}

fn times(evidence: &Evidence, index: &Index<'_>, measured: &mut Measured) {
    let mark = |name: &str| marks(&evidence.history, name).first().copied();
    let (Some(fault), Some(heal), Some(loaded)) = (mark("fault"), mark("heal"), mark("loaded"))
    else {
        return;
    };
    let done = index.executions.iter().filter_map(|execution| execution.end);
    let done: Vec<Stamp> = done.filter(|(_, how)| *how == End::Ok).map(|(at, _)| at).collect();
    let ok = |event: &&Event| event.phase == Phase::Ok && matches!(event.call, Call::Submit { .. });
    let accepted: Vec<Stamp> = evidence.history.iter().filter(ok).map(|event| event.at).collect();
    let (from, to) = (mark(HURT).unwrap_or(fault), mark(MENDING).unwrap_or(heal));
    let meanwhile = |times: &[Stamp]| times.iter().filter(|at| from < **at && **at <= to).count();
    measured.done_meanwhile = meanwhile(&done);
    measured.accepted_meanwhile = meanwhile(&accepted);
    measured.gap_done_s = longest_gap(done, fault, loaded);
    measured.gap_accepted_s = longest_gap(accepted, fault, loaded);
    let starts = index.executions.iter().map(|execution| execution.started);
    let first = starts.filter(|at| *at > heal).min();
    measured.first_start_s = first.map(|at| at.seconds_since(heal));
    let after = Duration::from_secs_f64(loaded.seconds_since(heal));
    measured.recovered_s = rates::around(&index.executions, fault, heal, after).recovered_after_s;
}

/// The longest time without one of these, within these bounds.
fn longest_gap(mut at: Vec<Stamp>, from: Stamp, to: Stamp) -> f64 {
    at.retain(|at| from < *at && *at < to);
    at.extend([from, to]);
    at.sort_unstable();
    at.windows(2).map(|pair| pair[1].seconds_since(pair[0])).fold(0.0, f64::max)
}

/// The instants of a mark.
fn marks(history: &[Event], mark: &str) -> Vec<Stamp> {
    let is_it =
        |event: &&Event| matches!(&event.call, Call::Fault(Fault::Mark { name }) if name == mark);
    history.iter().filter(is_it).map(|event| event.at).collect()
}

/// Acknowledged keys that are not done yet: what a drain waits for.
pub fn left(evidence: &Evidence) -> usize {
    let done = evidence.effects.iter().filter(|effect| effect.end == Some(End::Ok));
    let done: HashSet<&str> = done.map(|effect| effect.job.as_str()).collect();
    let keys = keys(&evidence.history);
    let is_left = |key: &&Key<'_>| key.is_accepted() && !key.ids.iter().any(|id| done.contains(id));
    keys.values().filter(is_left).count()
}

#[cfg(test)]
#[path = "measure/tests.rs"]
mod tests;
