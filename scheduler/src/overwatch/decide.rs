//! What becomes of alerts, given what rules judged. Pure.
//!
//! * An alert opens when its rule has held for the rule's time, and ends when its very subject was judged well for
//!   [`CLEAR_AFTER`]. A look that has not judged a subject says nothing of it: of many, each has its turn.
//! * A subject that could not be judged for [`UNJUDGED_MAX`] ends as unknown.
//! * A rule that fails ends nothing, and is a subject itself.
//! * A subject that comes back soon after its end must stay well for twice as long each time.
//! * Above [`SUBJECTS_MAX`] subjects a rule has one alert over all of them, until they are half as many. It goes on
//!   where theirs end: there is no look at which the rule has none.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use windlass_shared::model::alert::catalogue::{
    CLEAR_AFTER, RULE_FAILING, UNJUDGED_MAX, UNWATCHED_MAX, entry_of,
};
use windlass_shared::model::alert::{
    Alert, AlertKey, AlertState, EVIDENCE_MAX, EndReason, MESSAGE_CHARS_MAX, Severity,
};
use windlass_shared::model::id::AlertId;
use windlass_shared::model::name::Namespace;
use windlass_shared::model::time::Timestamp;

use super::rules::{Coverage, Finding, Judged, Judgement, Subject, whole};

/// Most alerts of one rule.
pub(super) const SUBJECTS_MAX: usize = 50;
/// Most doublings of the time that a subject must stay well.
const FLAPS_MAX: u32 = 5;
/// Most subjects that the alert over all of them names, and most namespaces that it counts.
const NAMED_MAX: usize = 5;
const NAMESPACES_MAX: usize = 100;
/// The figure that the alert over all of them has, and no other.
const SUBJECTS: &str = "subjects";

/// What a look changes.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// Alerts to be written as they are now.
    pub(super) write: Vec<Alert>,
    /// Pending ones that came to nothing.
    pub(super) dropped: Vec<AlertId>,
    /// Those that have not ended.
    pub(super) live: Vec<Alert>,
    /// How many opened or ended.
    pub(super) changed: u64,
}

/// Decides over every rule. `known`: alerts that have not ended, and those that ended lately.
pub(super) fn decide(
    known: &[Alert],
    mut judged: Vec<(&'static str, Judged)>,
    now: Timestamp,
) -> Decision {
    let failing = judged.iter().filter_map(|(code, result)| {
        let why = result.as_ref().err()?;
        let message = format!("the rule {code} cannot judge: {why}");
        Some(Finding::new((None, (*code).to_owned()), Severity::Warning, message))
    });
    let failing = Judgement::of_all(failing.collect::<Vec<_>>());
    judged.push((RULE_FAILING, Ok(failing)));

    let mut live: HashMap<&AlertKey, &Alert> = HashMap::new();
    let mut flaps: HashMap<&AlertKey, u32> = HashMap::new();
    for alert in known {
        match alert.state {
            AlertState::Ended if alert.end_reason == Some(EndReason::Cleared) => {
                let before = flaps.entry(&alert.key).or_default();
                *before = (*before).max(alert.flaps + 1);
            }
            AlertState::Ended => {}
            AlertState::Pending | AlertState::Active => {
                live.insert(&alert.key, alert);
            }
        }
    }
    let mut decision = Decision::default();
    let mut codes = Vec::new();
    for (code, result) in judged {
        codes.push(code);
        let of_rule: Vec<&Alert> = live.values().copied().filter(|a| a.key.code == code).collect();
        decide_rule(code, result.ok(), of_rule, &flaps, now, &mut decision);
    }
    // Rules that this build does not know: nobody judges what they found.
    for alert in live.values().filter(|alert| !codes.contains(&alert.key.code.as_str())) {
        unjudged(alert, now, &mut decision);
    }
    decision
}

fn decide_rule(
    code: &'static str,
    judgement: Option<Judgement>,
    of_rule: Vec<&Alert>,
    flaps: &HashMap<&AlertKey, u32>,
    now: Timestamp,
    decision: &mut Decision,
) {
    let Some(judgement) = judgement else {
        return of_rule.into_iter().for_each(|alert| unjudged(alert, now, decision));
    };
    let group = AlertKey { code: code.to_owned(), namespace: None, subject: String::new() };
    let grouped_before =
        of_rule.iter().any(|a| a.key == group && a.evidence.contains_key(SUBJECTS));
    let is_whole = judgement.judged == Coverage::All;
    let bad: HashSet<Subject> = judgement.held.iter().map(|f| f.subject.clone()).collect();
    let was_judged = |subject: &Subject| match &judgement.judged {
        Coverage::All => true,
        Coverage::Only(subjects) => subjects.contains(subject),
    };
    // Those of single subjects of which the rule holds, as far as anybody knows.
    let holds_on = |alert: &Alert| {
        let subject = subject_of(alert);
        alert.key != group && (bad.contains(&subject) || !was_judged(&subject))
    };
    let hold_on: Vec<&Alert> = of_rule.iter().copied().filter(|alert| holds_on(alert)).collect();
    let unseen = hold_on.iter().filter(|alert| !bad.contains(&subject_of(alert))).count();
    let many = judgement.held.len() + unseen;
    // With some subjects unjudged nobody knows whether there are few again.
    let grouped = !judgement.held.is_empty()
        && (many > SUBJECTS_MAX || grouped_before && (!is_whole || many > SUBJECTS_MAX / 2));

    let mut held: HashMap<AlertKey, (Finding, BTreeMap<Namespace, u64>)> = HashMap::new();
    let mut since = now;
    if grouped {
        let (mut finding, counts) = over_all(code, &judgement.held, is_whole);
        for alert in &hold_on {
            since = since.min(alert.since);
            finding.severity = finding.severity.max(alert.severity);
        }
        held.insert(group.clone(), (finding, counts));
    } else {
        for finding in &judgement.held {
            let (namespace, subject) = finding.subject.clone();
            let key = AlertKey { code: code.to_owned(), namespace, subject };
            held.insert(key, (finding.clone(), BTreeMap::new()));
        }
    }
    for alert in of_rule {
        if let Some((finding, counts)) = held.remove(&alert.key) {
            holds(alert, finding, counts, now, decision);
        } else if grouped && holds_on(alert) {
            end(alert, EndReason::Grouped, now, decision);
        } else if was_judged(&subject_of(alert)) {
            is_well(alert, now, decision);
        } else {
            unjudged(alert, now, decision);
        }
    }
    for (key, (finding, counts)) in held {
        let flaps = flaps.get(&key).copied().unwrap_or_default();
        let alert = fresh(key, &finding, flaps, since, now);
        holds(&alert, finding, counts, now, decision);
    }
}

fn subject_of(alert: &Alert) -> Subject {
    (alert.key.namespace.clone(), alert.key.subject.clone())
}

/// One finding over many.
fn over_all(code: &str, held: &[Finding], is_whole: bool) -> (Finding, BTreeMap<Namespace, u64>) {
    let mut counts: BTreeMap<Namespace, u64> = BTreeMap::new();
    for namespace in held.iter().filter_map(|finding| finding.subject.0.as_ref()) {
        *counts.entry(namespace.clone()).or_default() += 1;
    }
    let named: Vec<&str> =
        held.iter().take(NAMED_MAX).map(|finding| finding.subject.1.as_str()).collect();
    let severity = held.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Warning);
    let at_least = if is_whole { "" } else { "at least " };
    let message = format!(
        "{code} holds for {at_least}{} subjects, among them {}",
        held.len(),
        named.join(", ")
    );
    let finding = Finding::new(whole(), severity, message)
        .with(SUBJECTS, held.len())
        .with("namespaces", counts.len());
    let mut most: Vec<(Namespace, u64)> = counts.into_iter().collect();
    most.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    most.truncate(NAMESPACES_MAX);
    (finding, most.into_iter().collect())
}

fn fresh(key: AlertKey, finding: &Finding, flaps: u32, since: Timestamp, now: Timestamp) -> Alert {
    Alert {
        id: AlertId::generate(),
        key,
        severity: finding.severity,
        state: AlertState::Pending,
        message: String::new(),
        evidence: BTreeMap::new(),
        of_namespaces: BTreeMap::new(),
        since,
        opened_at: None,
        last_seen: now,
        judged_at: now,
        clear_since: None,
        ended_at: None,
        end_reason: None,
        flaps: flaps.min(FLAPS_MAX),
    }
}

/// The rule holds.
fn holds(
    alert: &Alert,
    finding: Finding,
    of_namespaces: BTreeMap<Namespace, u64>,
    now: Timestamp,
    decision: &mut Decision,
) {
    let mut alert = Alert {
        severity: alert.severity.max(finding.severity),
        message: finding.message.chars().take(MESSAGE_CHARS_MAX).collect(),
        evidence: finding.evidence.into_iter().take(EVIDENCE_MAX).map(fitted).collect(),
        of_namespaces,
        last_seen: now,
        judged_at: now,
        clear_since: None,
        ..alert.clone()
    };
    let hold = entry_of(&alert.key.code).map_or(Duration::ZERO, |entry| entry.hold);
    if alert.state == AlertState::Pending && now.since(alert.since) >= hold {
        alert.state = AlertState::Active;
        alert.opened_at = Some(now);
        decision.changed += 1;
    }
    decision.live.push(alert.clone());
    decision.write.push(alert);
}

fn fitted((name, figure): (String, String)) -> (String, String) {
    (name, figure.chars().take(MESSAGE_CHARS_MAX).collect())
}

/// The subject was judged, and the rule does not hold.
fn is_well(alert: &Alert, now: Timestamp, decision: &mut Decision) {
    let clear_since = alert.clear_since.unwrap_or(now);
    let clear_after = CLEAR_AFTER * 2u32.pow(alert.flaps.min(FLAPS_MAX));
    if alert.state == AlertState::Pending || now.since(clear_since) >= clear_after {
        return end(alert, EndReason::Cleared, now, decision);
    }
    let alert = Alert { judged_at: now, clear_since: Some(clear_since), ..alert.clone() };
    decision.live.push(alert.clone());
    decision.write.push(alert);
}

/// Nobody knows how the subject is.
fn unjudged(alert: &Alert, now: Timestamp, decision: &mut Decision) {
    if now.since(alert.judged_at) >= UNJUDGED_MAX {
        return end(alert, EndReason::Unknown, now, decision);
    }
    decision.live.push(alert.clone());
    // A stretch of well-being that was not watched does not count.
    if alert.clear_since.is_some() && now.since(alert.judged_at) >= UNWATCHED_MAX {
        decision.write.push(Alert { clear_since: None, ..alert.clone() });
    }
}

fn end(alert: &Alert, reason: EndReason, now: Timestamp, decision: &mut Decision) {
    if alert.state == AlertState::Pending {
        return decision.dropped.push(alert.id);
    }
    decision.changed += 1;
    decision.write.push(Alert {
        state: AlertState::Ended,
        ended_at: Some(now),
        end_reason: Some(reason),
        ..alert.clone()
    });
}

#[cfg(test)]
mod tests;
