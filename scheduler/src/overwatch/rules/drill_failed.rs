//! The latest restore drill failed: what would be restored from is not proven.

use windlass_shared::ledger::upkeep::Upkeep;
use windlass_shared::model::alert::Severity;

use super::{Finding, Judged, Judgement, whole};
use crate::overwatch::look::Seen;

pub(super) fn judge(seen: &Seen) -> Judged {
    if seen.backups.is_none() {
        return Ok(Judgement::of_all([]));
    }
    let upkeep = seen.upkeep.as_ref().map_err(Clone::clone)?;
    let failed = upkeep.get(&Upkeep::DrillFailed);
    let finding = failed.filter(|failed| upkeep.get(&Upkeep::Drill) <= Some(*failed)).map(|at| {
        let message = format!("the latest restore drill failed, at {at}");
        Finding::new(whole(), Severity::Critical, message).with("failed_at", at)
    });
    Ok(Judgement::of_all(finding))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use windlass_shared::config::BackupAges;

    use super::*;

    #[test]
    fn holds_until_one_passes() {
        let mut seen = Seen { backups: Some(BackupAges::default()), ..Seen::nothing() };
        let now = seen.now;
        let mut held = |what, at| {
            seen.upkeep.as_mut().unwrap().insert(what, at);
            judge(&seen).unwrap().held.len()
        };
        let second = Duration::from_secs(1);
        assert_eq!(held(Upkeep::Drill, now.minus(3 * second)), 0);
        assert_eq!(held(Upkeep::DrillFailed, now.minus(2 * second)), 1);
        assert_eq!(held(Upkeep::Drill, now.minus(second)), 0);
    }
}
