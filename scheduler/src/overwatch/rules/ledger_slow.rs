//! The ledger takes long to answer the simplest question.

use std::time::Duration;

use windlass_shared::model::alert::Severity;

use super::{Finding, Judged, Judgement, whole};
use crate::overwatch::look::Seen;

const SLOW: Duration = Duration::from_millis(500);

pub(super) fn judge(seen: &Seen) -> Judged {
    let took = seen.ledger.as_millis();
    let held = (seen.ledger >= SLOW).then(|| {
        let message = format!("the ledger took {took} ms to answer");
        Finding::new(whole(), Severity::Warning, message).with("answer_ms", took)
    });
    Ok(Judgement::of_all(held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_from_the_threshold_on() {
        let with = |ledger| judge(&Seen { ledger, ..Seen::nothing() }).unwrap().held.len();
        assert_eq!((with(SLOW - Duration::from_millis(1)), with(SLOW)), (0, 1));
    }
}
