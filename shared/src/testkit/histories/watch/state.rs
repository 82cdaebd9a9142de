//! What must hold in every state.

use std::collections::HashSet;

use crate::engine::Outcome;
use crate::engine::model::{Entry, OUTCOME_BYTES, ShardDump, Status};
use crate::model::id::JobId;
use crate::model::time::Timestamp;

/// What is wrong with a state; empty when all is well. Outcomes of the excused may contradict them.
pub fn faults(state: &ShardDump, excused: &HashSet<JobId>) -> Vec<String> {
    let mut wrong = Vec::new();
    orders(state, &mut wrong);
    for (id, entry) in &state.entries {
        one(state, *id, entry, excused.contains(id), &mut wrong);
    }
    outbox(state, &mut wrong);
    super::flow::check(state, &mut wrong);
    for (_, id, _) in &state.tombstones {
        if state.entries.contains_key(id) {
            wrong.push(format!("{id} is an entry and tombstoned"));
        }
    }
    wrong
}

/// Every order holds exactly the entries of its status, each once, in its place.
fn orders(state: &ShardDump, wrong: &mut Vec<String>) {
    fn check<K: Ord>(
        state: &ShardDump,
        name: &str,
        order: &[(K, JobId)],
        key: impl Fn(&Entry) -> Option<K>,
        wrong: &mut Vec<String>,
    ) {
        if !order.is_sorted_by(|a, b| a < b) {
            wrong.push(format!("{name} is not in strict order"));
        }
        for (place, id) in order {
            if state.entries.get(id).and_then(&key).as_ref() != Some(place) {
                wrong.push(format!("{id} is wrongly in {name}"));
            }
        }
        if state.entries.values().filter(|entry| key(entry).is_some()).count() != order.len() {
            wrong.push(format!("{name} lacks an entry"));
        }
    }
    let until_ms = |entry: &Entry| match entry.status {
        Status::Leased { until_ms } => Some(until_ms),
        Status::Ready | Status::Delayed | Status::Finishing => None,
    };
    let is = |status: Status, entry: &Entry| entry.status == status;
    let is_ready = |entry: &Entry| is(Status::Ready, entry) && entry.flow.is_none();
    let ready = |entry: &Entry| is_ready(entry).then_some(entry.score);
    let behind = |entry: &Entry| if entry.is_behind { 1 << 50 } else { 0 };
    let delayed =
        |entry: &Entry| is(Status::Delayed, entry).then(|| due_ms(entry.run_at) + behind(entry));
    let claims = |entry: &Entry| until_ms(entry).and(entry.claimed_at);
    check(state, "ready", &state.ready, ready, wrong);
    check(state, "delayed", &state.delayed, delayed, wrong);
    check(state, "leases", &state.leases, until_ms, wrong);
    check(state, "claims", &state.claims, claims, wrong);
}

fn due_ms(run_at: Timestamp) -> i64 {
    (run_at.micros() + 999).div_euclid(1000)
}

fn one(state: &ShardDump, id: JobId, entry: &Entry, excused: bool, wrong: &mut Vec<String>) {
    let leased = matches!(entry.status, Status::Leased { .. });
    if leased && (entry.lease_id.is_none() || entry.worker.is_none()) {
        wrong.push(format!("{id} is leased by nobody"));
    }
    if entry.cancel && matches!(entry.status, Status::Ready | Status::Delayed) {
        wrong.push(format!("{id} is to be stopped and may start"));
    }
    if entry.crashes >= entry.max_crashes && entry.claimed_at.is_some() && entry.lease_id.is_none()
    {
        let quarantined = entry.status == Status::Finishing;
        if !quarantined {
            wrong.push(format!("{id} crashed {} times and may start", entry.crashes));
        }
    }
    let ends = |outcome: &&Outcome| {
        outcome.id == id && outcome.fence == entry.fence && outcome.ended.is_terminal()
    };
    let mut ends = state.outbox.iter().filter(ends);
    if entry.status == Status::Finishing {
        if ends.next().is_none() {
            wrong.push(format!("{id} is finishing without a terminal outcome"));
        }
    } else if !excused && ends.any(|outcome| outcome.claimed_at.is_some()) {
        // Without a lease it may be: expired, pushed anew, cancelled, its tombstone gone, and pushed
        // with its first fence, all before anybody recorded the expiry.
        wrong.push(format!("{id} goes on although its lease ended it"));
    }
}

fn outbox(state: &ShardDump, wrong: &mut Vec<String>) {
    if !state.outbox.is_sorted_by(|a, b| a.seq + 1 == b.seq) {
        wrong.push("outbox has gaps".into());
    }
    if state.outbox.last().is_some_and(|outcome| outcome.seq != state.last_seq) {
        wrong.push("outbox does not end at last_seq".into());
    }
    let outbox_bytes: u64 =
        state.outbox.iter().map(|outcome| outcome.detail.len() as u64 + OUTCOME_BYTES).sum();
    let envelopes: u64 = state.entries.values().map(|entry| entry.envelope.len() as u64).sum();
    if (state.outbox_bytes, state.bytes) != (outbox_bytes, outbox_bytes + envelopes) {
        wrong.push(format!("counted {} and {} bytes", state.outbox_bytes, state.bytes));
    }
}
