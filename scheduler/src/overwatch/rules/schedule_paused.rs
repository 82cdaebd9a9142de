//! A schedule was paused because its work kept failing. Pauses by people are theirs to end.

use windlass_shared::model::alert::Severity;

use super::{Finding, Judged};
use crate::overwatch::look::Seen;

pub(super) fn judge(seen: &Seen) -> Judged {
    seen.judge_schedules(
        |troubles| &troubles.paused,
        |(namespace, name, since, failures)| {
            let subject = (Some(namespace.clone()), name.to_string());
            let message = format!("schedule {name} is paused: {failures} fires in a row failed");
            Some(
                Finding::new(subject, Severity::Warning, message)
                    .with("failures", failures)
                    .with("paused_since", since),
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overwatch::look::SCHEDULES_MAX;
    use crate::overwatch::rules::Coverage;

    #[test]
    fn holds_for_each_and_a_full_list_says_nothing_of_others() {
        let judge = |n: u32| {
            let mut seen = Seen::nothing();
            let rows = (0..n).map(|n| {
                let name = format!("nightly-{n}").parse().unwrap();
                ("default".parse().unwrap(), name, seen.now, 3)
            });
            let rows = rows.collect();
            seen.troubles.as_mut().unwrap().paused = rows;
            judge(&seen).unwrap()
        };
        let few = judge(2);
        assert_eq!((few.held.len(), few.judged), (2, Coverage::All));
        let full = judge(SCHEDULES_MAX);
        assert_eq!(full.held.len(), SCHEDULES_MAX as usize);
        assert_ne!(full.judged, Coverage::All);
    }
}
