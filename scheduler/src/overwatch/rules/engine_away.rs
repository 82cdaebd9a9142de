//! The queue store does not answer.

use windlass_shared::model::alert::Severity;

use super::{Finding, Judged, Judgement, whole};
use crate::overwatch::look::Seen;

pub(super) fn judge(seen: &Seen) -> Judged {
    let held = seen.engine.as_ref().err().map(|why| {
        let message =
            "the queue store does not answer: nothing is started until it does".to_owned();
        Finding::new(whole(), Severity::Critical, message).with("error", why)
    });
    Ok(Judgement::of_all(held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_while_there_is_no_answer() {
        assert_eq!(judge(&Seen::nothing()).unwrap().held, []);
        let away = Seen { engine: Err("refused".into()), ..Seen::nothing() };
        assert_eq!(judge(&away).unwrap().held[0].severity, Severity::Critical);
    }
}
