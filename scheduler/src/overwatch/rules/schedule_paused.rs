//! A schedule was paused because its work kept failing. Pauses by people are theirs to end.

use windlass_shared::ledger::Paused;
use windlass_shared::lifecycle::schedule::PAUSED_BY;
use windlass_shared::model::alert::Severity;

use super::{Finding, Judged};
use crate::overwatch::look::Seen;

pub(super) fn judge(seen: &Seen) -> Judged {
    seen.judge_schedules(
        |troubles| &troubles.paused,
        |(namespace, name, paused, failures)| {
            let paused: Paused = serde_json::from_str(paused).ok()?;
            let subject = (Some(namespace.clone()), name.to_string());
            (paused.by == PAUSED_BY).then(|| {
                let message =
                    format!("schedule {name} is paused: {failures} fires in a row failed");
                Finding::new(subject, Severity::Warning, message)
                    .with("failures", failures)
                    .with("paused_since", paused.since)
            })
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_for_pauses_by_failures_alone() {
        let held = |by: &str| {
            let mut seen = Seen::nothing();
            let paused = Paused { since: seen.now, by: by.into(), reason: None };
            let text = serde_json::to_string(&paused).unwrap();
            let row = ("default".parse().unwrap(), "nightly".parse().unwrap(), text, 3);
            seen.troubles.as_mut().unwrap().paused.push(row);
            judge(&seen).unwrap().held.len()
        };
        assert_eq!((held(PAUSED_BY), held("somebody")), (1, 0));
    }
}
