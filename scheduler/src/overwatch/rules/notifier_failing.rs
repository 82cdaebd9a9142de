//! A receiver of notifications cannot be reached, or refuses them.

use windlass_shared::model::alert::Severity;

use super::{Finding, Judged, Judgement};
use crate::overwatch::look::Seen;

/// Sends in a row that failed.
const FAILURES_MIN: u32 = 3;

pub(super) fn judge(seen: &Seen) -> Judged {
    let receivers = seen.receivers.as_ref().map_err(Clone::clone)?;
    let failing = receivers.iter().filter(|receiver| receiver.failures >= FAILURES_MIN);
    Ok(Judgement::of_all(failing.map(|receiver| {
        let why = receiver.last_error.as_deref().unwrap_or("unknown");
        let message = format!(
            "receiver {} was not notified {} times: {why}",
            receiver.name, receiver.failures
        );
        Finding::new((None, receiver.name.clone()), Severity::Warning, message)
            .with("failures", receiver.failures)
    })))
}

#[cfg(test)]
mod tests {
    use windlass_shared::model::alert::Receiver;

    use super::*;

    #[test]
    fn holds_from_the_bound_on() {
        let held = |failures| {
            let mut seen = Seen::nothing();
            let receiver = Receiver { failures, ..Receiver::new("ops", seen.now) };
            seen.receivers = Ok(vec![receiver]);
            judge(&seen).unwrap().held.len()
        };
        assert_eq!((held(FAILURES_MIN - 1), held(FAILURES_MIN)), (0, 1));
    }
}
