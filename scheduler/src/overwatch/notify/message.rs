//! One message: the alerts of a look, as JSON and as text, of bounded size.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use windlass_shared::ledger::alerts::ToldRow;
use windlass_shared::model::alert::catalogue::{entry_of, runbook};
use windlass_shared::model::alert::{EndReason, Severity};
use windlass_shared::model::id::{AlertId, LedgerId};
use windlass_shared::model::time::Timestamp;

use super::plan::{Item, What};

/// Most alerts of one message.
pub(super) const ITEMS_MAX: usize = 50;
/// Most alerts of a text; the rest is counted.
const LINES_MAX: usize = 20;

/// What is sent.
#[derive(Debug, Serialize)]
pub(super) struct Message {
    /// The same whenever the same items are told together, so that a repeat can be told from news. Where others have come
    /// to them or gone since, it differs: then the items' own ids and events tell.
    pub(super) id: String,
    #[serde(rename = "type")]
    sort: &'static str,
    /// Which installation: its ledger.
    installation: String,
    sent_at: Timestamp,
    alerts: Vec<Entry>,
}

/// One alert of it.
#[derive(Debug, Serialize)]
struct Entry {
    event: &'static str,
    id: AlertId,
    code: String,
    severity: Severity,
    namespace: Option<String>,
    subject: String,
    message: String,
    advice: &'static str,
    runbook: String,
    since: Timestamp,
    ended_at: Option<Timestamp>,
    end_reason: Option<EndReason>,
    evidence: std::collections::BTreeMap<String, String>,
}

impl Message {
    /// Of these alerts; at most [`ITEMS_MAX`].
    pub(super) fn of(
        installation: LedgerId,
        receiver: &str,
        items: &[Item<'_>],
        told: &HashMap<AlertId, ToldRow>,
        now: Timestamp,
    ) -> Self {
        let mut hash = Sha256::new();
        hash.update(installation.as_bytes());
        hash.update(receiver.as_bytes());
        for item in items {
            hash.update([0]);
            hash.update(item.alert.id.as_bytes());
            hash.update(item.what.as_str().as_bytes());
            hash.update([item.alert.severity as u8]);
            // A reminder is told by the one before it.
            let last = told.get(&item.alert.id).map_or(0, |row| row.at.micros());
            hash.update(last.to_be_bytes());
        }
        let digest = hash.finalize();
        let id: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self {
            id: format!("msg_{id}"),
            sort: "windlass.alerts",
            installation: installation.to_string(),
            sent_at: now,
            alerts: items.iter().map(entry).collect(),
        }
    }

    /// One that tries a receiver out.
    pub(super) fn test(now: Timestamp) -> Self {
        Self {
            id: format!("msg_test_{}", now.millis()),
            sort: "windlass.test",
            installation: String::new(),
            sent_at: now,
            alerts: Vec::new(),
        }
    }

    /// As JSON.
    pub(super) fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts, numbers and times always serialise")
    }

    /// In a line.
    pub(super) fn subject(&self) -> String {
        match &self.alerts[..] {
            [] => "Windlass: a test of notifications".to_owned(),
            [one] => format!("Windlass: {} {} {}", word(one), one.code, one.subject),
            many => {
                let open = many.iter().filter(|entry| entry.ended_at.is_none()).count();
                format!("Windlass: {open} alerts open, {} ended", many.len() - open)
            }
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n", self.subject());
        for entry in self.alerts.iter().take(LINES_MAX) {
            let place = entry.namespace.as_deref().map_or(String::new(), |n| format!(" [{n}]"));
            // Writing to a text does not fail.
            let _ = writeln!(
                text,
                "- {}{place}: {} (since {})",
                word(entry),
                entry.message,
                entry.since
            );
            if entry.ended_at.is_none() {
                let _ = writeln!(text, "  {} See {}", entry.advice, entry.runbook);
            }
        }
        if self.alerts.len() > LINES_MAX {
            let _ = writeln!(text, "- and {} more", self.alerts.len() - LINES_MAX);
        }
        text
    }
}

fn word(entry: &Entry) -> String {
    match entry.end_reason {
        Some(reason) if entry.event == What::Ended.as_str() => {
            format!("ended ({})", reason.as_str())
        }
        Some(_) => "opened and ended".to_owned(),
        None => format!("{} {}", entry.severity.as_str(), entry.event),
    }
}

fn entry(item: &Item<'_>) -> Entry {
    let alert = item.alert;
    Entry {
        event: item.what.as_str(),
        id: alert.id,
        code: alert.key.code.clone(),
        severity: alert.severity,
        namespace: alert.key.namespace.as_ref().map(ToString::to_string),
        subject: alert.key.subject.clone(),
        message: alert.message.clone(),
        advice: entry_of(&alert.key.code).map_or("", |entry| entry.advice),
        runbook: runbook(&alert.key.code),
        since: alert.since,
        ended_at: alert.ended_at,
        end_reason: alert.end_reason,
        evidence: alert.evidence.clone(),
    }
}

#[cfg(test)]
mod tests {
    use windlass_shared::model::alert::AlertState;

    use super::super::plan::tests::alert;
    use super::*;

    #[test]
    fn the_id_is_of_what_is_told() {
        let (now, ledger) = (Timestamp::from_millis(1), LedgerId::from_bytes([1; 16]));
        let alert = alert(AlertState::Active, Severity::Warning);
        let id = |what, receiver: &str, now| {
            let items = [Item { what, alert: &alert }];
            Message::of(ledger, receiver, &items, &HashMap::new(), now).id
        };
        let first = id(What::Opened, "a", now);
        assert_eq!(first, id(What::Opened, "a", now.plus(std::time::Duration::from_secs(9))));
        assert_ne!(first, id(What::Ended, "a", now));
        assert_ne!(first, id(What::Opened, "b", now));
    }

    #[test]
    fn texts_are_bounded() {
        let alerts: Vec<_> =
            (0..ITEMS_MAX).map(|_| alert(AlertState::Active, Severity::Critical)).collect();
        let items: Vec<_> = alerts.iter().map(|alert| Item { what: What::Opened, alert }).collect();
        let ledger = LedgerId::from_bytes([1; 16]);
        let message = Message::of(ledger, "a", &items, &HashMap::new(), Timestamp::from_millis(1));
        let text = message.text();
        assert!(text.contains("and 30 more") && text.len() < 20_000, "{text}");
        assert!(message.json().len() < 100_000);
    }
}
