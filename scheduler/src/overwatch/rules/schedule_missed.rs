//! Nobody was there for due times of a schedule.

use windlass_shared::model::alert::Severity;

use super::{Finding, Judged};
use crate::overwatch::look::Seen;

pub(super) fn judge(seen: &Seen) -> Judged {
    seen.judge_schedules(
        |troubles| &troubles.missed,
        |(namespace, name, missed)| {
            let message = format!("schedule {name} missed {missed} due times");
            let subject = (Some(namespace.clone()), name.to_string());
            Some(Finding::new(subject, Severity::Warning, message).with("missed", missed))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_for_those_that_the_ledger_names() {
        let mut seen = Seen::nothing();
        assert_eq!(judge(&seen).unwrap().held, []);
        let missed = ("default".parse().unwrap(), "nightly".parse().unwrap(), 3);
        seen.troubles.as_mut().unwrap().missed.push(missed);
        assert_eq!(judge(&seen).unwrap().held[0].evidence["missed"], "3");
    }
}
