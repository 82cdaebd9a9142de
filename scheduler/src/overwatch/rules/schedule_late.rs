//! Due times of a schedule are not decided over.

use windlass_shared::model::alert::Severity;

use super::{Finding, Judged};
use crate::overwatch::look::Seen;

pub(super) fn judge(seen: &Seen) -> Judged {
    seen.judge_schedules(
        |troubles| &troubles.late,
        |(namespace, name, look_at)| {
            let late = seen.now.since(*look_at).as_secs();
            let message = format!("schedule {name} should have been looked at {late} s ago");
            let subject = (Some(namespace.clone()), name.to_string());
            Some(Finding::new(subject, Severity::Critical, message).with("late_s", late))
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
        let late = ("default".parse().unwrap(), "nightly".parse().unwrap(), seen.now);
        seen.troubles.as_mut().unwrap().late.push(late);
        assert_eq!(judge(&seen).unwrap().held[0].subject.1, "nightly");
    }
}
