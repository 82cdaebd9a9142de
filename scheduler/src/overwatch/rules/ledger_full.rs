//! The volume of the ledger has little room left, or the database has outgrown its bound.
//!
//! PostgreSQL does not say what is free on its volumes: there the size alone is judged, where it has a bound.

use windlass_shared::model::alert::Severity;

use super::{Finding, Judged, Judgement, whole};
use crate::overwatch::look::Seen;

/// So little of the least is critical: submissions will soon be refused.
const CRITICAL_PART: u64 = 4;

pub(super) fn judge(seen: &Seen) -> Judged {
    let space = seen.space.as_ref().map_err(Clone::clone)?;
    let little = space.free.filter(|free| *free < seen.free_min).map(|free| {
        let critical = free < seen.free_min / CRITICAL_PART;
        let severity = if critical { Severity::Critical } else { Severity::Warning };
        (severity, format!("the volume of the ledger has {} left", size(free)))
    });
    let large = seen.size_max.filter(|most| space.used > *most).map(|most| {
        let text = format!("the ledger takes {}, more than {}", size(space.used), size(most));
        (Severity::Warning, text)
    });
    Ok(Judgement::of_all(little.or(large).map(|(severity, message)| {
        let finding = Finding::new(whole(), severity, message).with("used_bytes", space.used);
        match space.free {
            Some(free) => finding.with("free_bytes", free),
            None => finding,
        }
    })))
}

/// In the largest unit of which there is one.
fn size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(power, _)| bytes >> power > 0) {
        Some((power, unit)) => format!("{:.1} {unit}", bytes as f64 / (1u64 << power) as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use windlass_shared::ledger::alerts::Space;

    use super::*;

    fn held(used: u64, free: Option<u64>, size_max: Option<u64>) -> Option<(Severity, String)> {
        let seen =
            Seen { space: Ok(Space { used, free }), free_min: 4_096, size_max, ..Seen::nothing() };
        judge(&seen).unwrap().held.pop().map(|finding| (finding.severity, finding.message))
    }

    #[test]
    fn holds_below_the_least_that_is_to_be_free() {
        let severity = |free| held(1, Some(free), None).map(|(severity, _)| severity);
        assert_eq!(severity(4_096), None);
        assert_eq!(severity(4_095), Some(Severity::Warning));
        assert_eq!(severity(1_024), Some(Severity::Warning));
        assert_eq!(severity(1_023), Some(Severity::Critical));
    }

    #[test]
    fn holds_above_the_bound_where_there_is_one() {
        assert_eq!(held(5_000, None, None), None);
        assert_eq!(held(5_000, None, Some(5_000)), None);
        let (severity, message) = held(5_001, None, Some(5_000)).unwrap();
        assert_eq!(severity, Severity::Warning);
        assert_eq!(message, "the ledger takes 4.9 KiB, more than 4.9 KiB");
        // That the volume is nearly full is worse.
        assert!(held(5_001, Some(0), Some(5_000)).unwrap().1.contains("0 bytes left"));
    }

    #[test]
    fn a_ledger_that_does_not_say_is_not_judged() {
        assert!(judge(&Seen { space: Err("away".into()), ..Seen::nothing() }).is_err());
    }
}
