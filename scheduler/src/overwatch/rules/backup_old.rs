//! The newest backup is older than it may be; critical at twice that. Only where a store for backups is set.

use windlass_shared::ledger::upkeep::Upkeep;
use windlass_shared::model::alert::Severity;

use super::{Finding, Judged, Judgement, whole};
use crate::overwatch::look::Seen;

pub(super) fn judge(seen: &Seen) -> Judged {
    let Some(limits) = seen.backups else { return Ok(Judgement::of_all([])) };
    let upkeep = seen.upkeep.as_ref().map_err(Clone::clone)?;
    let made = upkeep.get(&Upkeep::Backup);
    // Of an installation without one yet, from when it was to have one.
    let Some(since) = made.or(upkeep.get(&Upkeep::BackupsWanted)) else {
        return Ok(Judgement::of_all([]));
    };
    let age = seen.now.since(*since);
    let finding = (age > limits.backup_max).then(|| {
        let severity =
            if age > limits.backup_max * 2 { Severity::Critical } else { Severity::Warning };
        let what = if made.is_some() {
            "the newest backup is old"
        } else {
            "there is no backup, although one was wanted"
        };
        let hours = age.as_secs() / 3600;
        Finding::new(whole(), severity, format!("{what} ({hours} h)")).with("since", since)
    });
    Ok(Judgement::of_all(finding))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use windlass_shared::config::BackupAges;

    use super::*;

    fn held(backups: Option<BackupAges>, what: Upkeep, age: Duration) -> Option<Severity> {
        let mut seen = Seen { backups, ..Seen::nothing() };
        let at = seen.now.minus(age);
        seen.upkeep.as_mut().unwrap().insert(what, at);
        judge(&seen).unwrap().held.first().map(|finding| finding.severity)
    }

    #[test]
    fn holds_beyond_the_age_where_backups_are_wanted() {
        let ages = BackupAges::default();
        let over = ages.backup_max + Duration::from_secs(1);
        assert_eq!(held(Some(ages), Upkeep::Backup, ages.backup_max), None);
        assert_eq!(held(Some(ages), Upkeep::Backup, over), Some(Severity::Warning));
        assert_eq!(held(Some(ages), Upkeep::BackupsWanted, over), Some(Severity::Warning));
        assert_eq!(held(Some(ages), Upkeep::Backup, over * 2), Some(Severity::Critical));
        assert_eq!(held(None, Upkeep::Backup, over * 2), None);
    }
}
