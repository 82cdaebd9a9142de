//! The queue store must not be trusted with jobs: it evicts, or is too old.

use std::collections::HashSet;

use windlass_shared::model::alert::Severity;

use super::{Coverage, Finding, Judged, Judgement, whole};
use crate::overwatch::look::Seen;

pub(super) fn judge(seen: &Seen) -> Judged {
    if seen.engine.is_err() {
        // Nobody knows; that it is away is another rule's.
        return Ok(Judgement { held: Vec::new(), judged: Coverage::Only(HashSet::new()) });
    }
    let held = seen.unfit.as_ref().map(|why| {
        let message = format!("the queue store is not fit: {why}");
        Finding::new(whole(), Severity::Critical, message)
    });
    Ok(Judgement::of_all(held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_when_the_store_says_so_and_is_silent_when_it_says_nothing() {
        assert_eq!(judge(&Seen::nothing()).unwrap().held, []);
        let unfit = Seen { unfit: Some("it evicts".into()), ..Seen::nothing() };
        assert_eq!(judge(&unfit).unwrap().held.len(), 1);
        let away = judge(&Seen { engine: Err("away".into()), ..unfit }).unwrap();
        assert_eq!((away.held.len(), away.judged), (0, Coverage::Only(HashSet::new())));
    }
}
