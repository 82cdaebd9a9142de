//! A duty of a scheduler fails again and again, or nobody has carried it out for long.

use std::collections::BTreeMap;

use windlass_shared::ledger::duties::{GONE_AFTER, is_late};
use windlass_shared::model::alert::Severity;

use super::{Finding, Judged, Judgement};
use crate::overwatch::look::Seen;

/// So many passes in a row.
const FAILURES: u64 = 3;

pub(super) fn judge(seen: &Seen) -> Judged {
    let rows = seen.duties.as_ref().map_err(Clone::clone)?;
    let mut by_duty: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for row in rows {
        by_duty.entry(row.declared.duty.as_str()).or_default().push(row);
    }
    Ok(Judgement::of_all(by_duty.into_iter().filter_map(|(duty, rows)| {
        let subject = (None, duty.to_owned());
        let living = rows.iter().filter(|row| seen.now.since(row.seen_at) < GONE_AFTER);
        let failing = living.filter(|row| row.failures >= FAILURES);
        if let Some(row) = failing.max_by_key(|row| row.seen_at) {
            let why = row.error.as_deref().unwrap_or("no reason is known");
            let message = format!("duty {duty} has failed {} times in a row: {why}", row.failures);
            let finding = Finding::new(subject, Severity::Warning, message);
            return Some(finding.with("scheduler", &row.name).with("failures", row.failures));
        }
        is_late(rows.iter().copied(), seen.now).then(|| {
            let message = format!("duty {duty} is late: no scheduler has ended a pass in time");
            Finding::new(subject, Severity::Warning, message)
        })
    })))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use windlass_shared::ledger::duties::{Declared, DutyRow, Ended, Who};
    use windlass_shared::model::id::WorkerId;

    use super::*;

    fn row(seen: &Seen, failures: u64, ended_s: u64, seen_s: u64) -> DutyRow {
        let second = Duration::from_secs(1);
        let ended = seen.now.minus(Duration::from_secs(ended_s));
        DutyRow {
            replica: WorkerId::generate(),
            name: "s".into(),
            declared: Declared {
                duty: "sweep".into(),
                what: "sweeps".into(),
                interval: second,
                batch: 1,
                longest: second,
                who: Who::Every,
            },
            started_at: Some(ended),
            ended_at: Some(ended),
            outcome: Ended::Failed,
            took: second,
            done: 0,
            ticks: 9,
            failures,
            error: Some("no luck".into()),
            epoch: None,
            seen_at: seen.now.minus(Duration::from_secs(seen_s)),
        }
    }

    #[test]
    fn holds_for_failures_in_a_row_of_living_processes_and_for_lateness() {
        let held = |failures, ended_s, seen_s| {
            let mut seen = Seen::nothing();
            let rows = vec![row(&seen, failures, ended_s, seen_s), row(&seen, 0, 0, 0)];
            seen.duties = Ok(rows);
            let held = judge(&seen).unwrap().held;
            held.first().map(|finding| finding.evidence.contains_key("failures"))
        };
        assert_eq!(held(FAILURES - 1, 0, 0), None);
        assert_eq!(held(FAILURES, 0, 0), Some(true));
        assert_eq!(held(FAILURES, 0, 30), None, "that process is gone");
        assert_eq!(held(0, 60, 0), Some(false), "late");
    }
}
