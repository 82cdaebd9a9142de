//! What clients were told, against what is there: lost, unexpected, keys, and answers that were taken back.

use std::collections::{BTreeMap, BTreeSet};

use super::index::{Index, Key};
use super::{Kind, Verdict, is_run_terminal, is_terminal};
use crate::history::{Call, Event, Phase};

/// The product's default of `max_crashes`.
const CRASHES_MAX: usize = 3;

pub(super) fn check(index: &Index<'_>, verdict: &mut Verdict) {
    for (name, key) in &index.keys {
        idempotency(name, key, verdict);
        if key.is_accepted() {
            verdict.accepted += 1;
            kept(index, name, key, verdict);
        } else if key.is_open() {
            verdict.add(Kind::Unresolved, name, "it was never learnt whether it was accepted");
        } else {
            verdict.refused += 1;
        }
    }
    unexpected(index, verdict);
    taken_back(index, verdict);
}

fn idempotency(name: &str, key: &Key<'_>, verdict: &mut Verdict) {
    let ids: BTreeSet<&str> =
        key.oks().filter_map(|t| t.reply.and_then(|r| r.id.as_deref())).collect();
    if ids.len() > 1 {
        verdict.add(Kind::Idempotency, name, format!("one key, ids {ids:?}"));
    }
    let taken: BTreeSet<&str> = key.oks().map(|t| t.body).collect();
    if taken.len() > 1 {
        let detail = format!("{} different bodies were accepted", taken.len());
        verdict.add(Kind::Idempotency, name, detail);
    }
    for refused in key.tries.iter().filter(|t| t.phase == Phase::Fail) {
        let code = refused.reply.and_then(|r| r.code.as_deref());
        let reused = code == Some("idempotency_key_reused");
        if reused && taken.contains(refused.body) {
            verdict.add(Kind::Idempotency, name, "the body that was accepted was refused");
        }
        if reused && taken.is_empty() && !key.is_open() {
            verdict.add(Kind::Idempotency, name, "refused as used, and no body was accepted");
        }
    }
}

/// An accepted job or run is there, has ended, and as planned.
fn kept(index: &Index<'_>, name: &str, key: &Key<'_>, verdict: &mut Verdict) {
    let ids: BTreeSet<&str> =
        key.oks().filter_map(|t| t.reply.and_then(|r| r.id.as_deref())).collect();
    for id in ids {
        if key.steps > 0 {
            match index.evidence.ledger.runs.get(id) {
                None => verdict.add(Kind::Lost, id, format!("run {name} is not in the ledger")),
                Some(run) if !is_run_terminal(&run.state) => {
                    verdict.add(Kind::Lost, id, format!("run {name} is still {}", run.state));
                }
                Some(run) if run.state != "succeeded" && !has_quarantined(index, id) => {
                    verdict.add(Kind::WrongEnd, id, format!("run {name} is {}", run.state));
                }
                Some(_) => {}
            }
            continue;
        }
        match index.evidence.ledger.jobs.get(id) {
            None => verdict.add(Kind::Lost, id, format!("job {name} is not in the ledger")),
            Some(job) if !is_terminal(&job.state) => {
                verdict.add(Kind::Lost, id, format!("job {name} is still {}", job.state));
            }
            Some(job)
                if !key.ends.split('|').any(|end| end == job.state)
                    && !is_quarantined(index, id) =>
            {
                verdict.add(Kind::WrongEnd, id, format!("job {name} is {}", job.state));
            }
            Some(_) => {}
        }
    }
}

/// Quarantined as promised: once it has lost as many workers as it may.
fn is_quarantined(index: &Index<'_>, id: &str) -> bool {
    index.evidence.ledger.jobs.get(id).is_some_and(|job| {
        let lost = job.attempts.iter().filter(|a| a.outcome.as_deref() == Some("lease_lost"));
        job.state == "quarantined" && lost.count() >= CRASHES_MAX
    })
}

fn has_quarantined(index: &Index<'_>, run: &str) -> bool {
    let jobs = &index.evidence.ledger.jobs;
    jobs.iter().any(|(id, job)| {
        job.step.as_ref().is_some_and(|(of, _)| of == run) && is_quarantined(index, id)
    })
}

/// What is there was submitted, and was not refused.
fn unexpected(index: &Index<'_>, verdict: &mut Verdict) {
    let ledger = &index.evidence.ledger;
    for (id, job) in ledger.jobs.iter().filter(|(_, job)| job.step.is_none()) {
        if !index.key_of.contains_key(id.as_str()) {
            submitted(index, id, job.tags.first(), verdict);
        }
    }
    for (id, run) in &ledger.runs {
        if !index.key_of.contains_key(id.as_str()) {
            submitted(index, id, run.tags.first(), verdict);
        }
    }
    for (id, job) in &ledger.jobs {
        let run = job.step.as_ref().map(|(run, _)| run);
        if run.is_some_and(|run| !ledger.runs.contains_key(run)) {
            verdict.add(Kind::Unexpected, id, "a step of a run that is not there");
        }
    }
    let strangers: BTreeSet<&str> = index.by_job.keys().copied().collect();
    for id in strangers.into_iter().filter(|id| !ledger.jobs.contains_key(*id)) {
        verdict.add(Kind::Unexpected, id, "it was executed, and the ledger does not know it");
    }
}

/// A job without an answer that names it: fine only while its key's outcome is open, which is a finding of its own.
fn submitted(index: &Index<'_>, id: &str, tag: Option<&String>, verdict: &mut Verdict) {
    let key = tag.and_then(|tag| Some((tag, index.keys.get(tag.as_str())?)));
    match key {
        Some((_, key)) if key.is_open() => {}
        Some((tag, key)) if key.is_accepted() => {
            verdict.add(Kind::Unexpected, id, format!("a second job or run of key {tag}"));
        }
        Some((tag, _)) => verdict.add(Kind::Unexpected, id, format!("{tag} was refused")),
        None => verdict.add(Kind::Unexpected, id, "nobody submitted it"),
    }
}

/// What was shown as ended stays so.
fn taken_back(index: &Index<'_>, verdict: &mut Verdict) {
    let mut ended: BTreeMap<&str, (&Event, &str)> = BTreeMap::new();
    let mut asked: BTreeMap<u64, &Event> = BTreeMap::new();
    for event in &index.evidence.history {
        let Call::Poll { id } = &event.call else { continue };
        if event.phase == Phase::Invoke {
            asked.insert(event.op, event);
            continue;
        }
        let Some(reply) = &event.reply else { continue };
        let Some(question) = asked.remove(&event.op) else { continue };
        if reply.status == 404 && index.key_of.contains_key(id.as_str()) {
            verdict.add(Kind::TakenBack, id, "an accepted job is not found");
        }
        let Some(state) = reply.state.as_deref().filter(|_| event.phase == Phase::Ok) else {
            continue;
        };
        // Only a question that was asked after that answer had come contradicts it.
        let before = ended.get(id.as_str()).filter(|(end, _)| end.at <= question.at);
        if let Some((_, was)) = before.filter(|(_, was)| *was != state) {
            verdict.add(Kind::TakenBack, id, format!("shown as {was}, then as {state}"));
        }
        if is_terminal(state) {
            ended.entry(id).or_insert((event, state));
        }
    }
}
