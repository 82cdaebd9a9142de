//! What a receiver is to be told, given what it was told. Pure.

use std::collections::HashMap;
use std::time::Duration;

use windlass_shared::ledger::alerts::ToldRow;
use windlass_shared::model::alert::{Alert, AlertState, Receiver, Severity, Stage};
use windlass_shared::model::id::AlertId;
use windlass_shared::model::time::Timestamp;

/// What is told of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// It is there.
    Opened,
    /// It is worse than was told.
    Escalated,
    /// It is critical still.
    Reminder,
    /// It is over.
    Ended,
    /// It opened and ended while the receiver was not told.
    Passed,
}

impl What {
    /// The wire word.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Escalated => "escalated",
            Self::Reminder => "reminder",
            Self::Ended => "ended",
            Self::Passed => "opened_and_ended",
        }
    }
}

/// One alert of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item<'a> {
    pub(super) what: What,
    pub(super) alert: &'a Alert,
}

/// For whom, and when.
pub(super) struct Reading<'a> {
    pub(super) receiver: &'a Receiver,
    pub(super) min_severity: Severity,
    pub(super) remind_every: Duration,
    pub(super) now: Timestamp,
}

/// What is to be told, in the order of the alerts.
pub(super) fn plan<'a>(
    alerts: &'a [Alert],
    told: &HashMap<AlertId, ToldRow>,
    reading: &Reading<'_>,
) -> Vec<Item<'a>> {
    let items = alerts.iter().filter_map(|alert| {
        let what = what(alert, told.get(&alert.id), reading)?;
        Some(Item { what, alert })
    });
    items.collect()
}

fn what(alert: &Alert, told: Option<&ToldRow>, reading: &Reading<'_>) -> Option<What> {
    match (alert.state, told) {
        (AlertState::Pending, _) => None,
        (AlertState::Active, None) => {
            (alert.severity >= reading.min_severity).then_some(What::Opened)
        }
        (AlertState::Active, Some(told)) if alert.severity > told.severity => Some(What::Escalated),
        (AlertState::Active, Some(told)) => {
            let is_due = reading.now.since(told.at) >= reading.remind_every;
            (alert.severity == Severity::Critical && is_due).then_some(What::Reminder)
        }
        (AlertState::Ended, None) => {
            let is_news = alert.ended_at.is_some_and(|at| at >= reading.receiver.since);
            (is_news && alert.severity >= reading.min_severity).then_some(What::Passed)
        }
        // Who was told of its beginning is told of its end.
        (AlertState::Ended, Some(told)) => (told.stage == Stage::Opened).then_some(What::Ended),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use windlass_shared::model::alert::AlertKey;

    use super::*;

    const REMIND: Duration = Duration::from_secs(3600);

    fn now() -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000)
    }

    pub(crate) fn alert(state: AlertState, severity: Severity) -> Alert {
        Alert {
            id: AlertId::generate(),
            key: AlertKey { code: "queue_latency".into(), namespace: None, subject: "q".into() },
            severity,
            state,
            message: "late".into(),
            evidence: BTreeMap::new(),
            of_namespaces: BTreeMap::new(),
            since: now(),
            opened_at: Some(now()),
            last_seen: now(),
            judged_at: now(),
            clear_since: None,
            ended_at: (state == AlertState::Ended).then(now),
            end_reason: None,
            flaps: 0,
        }
    }

    /// What is said of an alert, after this was told that long ago.
    fn said(alert: &Alert, told: Option<(Stage, Severity, Duration)>) -> Option<What> {
        let receiver = Receiver::new("ops", now().minus(REMIND));
        let rows = told.map(|(stage, severity, ago)| {
            (alert.id, ToldRow { alert: alert.id, stage, severity, at: now().minus(ago) })
        });
        let reading = Reading {
            receiver: &receiver,
            min_severity: Severity::Warning,
            remind_every: REMIND,
            now: now(),
        };
        let told: HashMap<_, _> = rows.into_iter().collect();
        plan(std::slice::from_ref(alert), &told, &reading).first().map(|item| item.what)
    }

    #[test]
    fn each_stage_is_told_once() {
        use AlertState::{Active, Ended, Pending};
        use Severity::{Critical, Info, Warning};
        let zero = Duration::ZERO;
        let warned = Some((Stage::Opened, Warning, zero));
        assert_eq!(said(&alert(Pending, Critical), None), None);
        assert_eq!(said(&alert(Active, Warning), None), Some(What::Opened));
        assert_eq!(said(&alert(Active, Info), None), None, "below the receiver's least");
        assert_eq!(said(&alert(Active, Warning), warned), None);
        assert_eq!(said(&alert(Active, Critical), warned), Some(What::Escalated));
        assert_eq!(said(&alert(Ended, Warning), warned), Some(What::Ended));
        assert_eq!(said(&alert(Ended, Warning), None), Some(What::Passed));
        assert_eq!(said(&alert(Ended, Info), None), None);
        assert_eq!(said(&alert(Ended, Warning), Some((Stage::Ended, Warning, zero))), None);
    }

    #[test]
    fn what_stays_critical_is_told_again() {
        let critical = alert(AlertState::Active, Severity::Critical);
        let told = |ago| Some((Stage::Opened, Severity::Critical, ago));
        assert_eq!(said(&critical, told(REMIND - Duration::from_micros(1))), None);
        assert_eq!(said(&critical, told(REMIND)), Some(What::Reminder));
        let warning = alert(AlertState::Active, Severity::Warning);
        assert_eq!(said(&warning, Some((Stage::Opened, Severity::Warning, REMIND))), None);
    }

    #[test]
    fn what_ended_before_a_receiver_was_known_is_not_told() {
        let mut ended = alert(AlertState::Ended, Severity::Critical);
        ended.ended_at = Some(now().minus(REMIND + Duration::from_micros(1)));
        assert_eq!(said(&ended, None), None);
    }
}
