//! No restore drill has passed for longer than it may be. Only where a store for backups is set.

use windlass_shared::ledger::upkeep::Upkeep;
use windlass_shared::model::alert::Severity;

use super::{Finding, Judged, Judgement, whole};
use crate::overwatch::look::Seen;

pub(super) fn judge(seen: &Seen) -> Judged {
    let Some(limits) = seen.backups else { return Ok(Judgement::of_all([])) };
    let upkeep = seen.upkeep.as_ref().map_err(Clone::clone)?;
    let since = upkeep.get(&Upkeep::Drill).or(upkeep.get(&Upkeep::BackupsWanted));
    let finding = since.filter(|since| seen.now.since(**since) > limits.drill_max).map(|since| {
        let message = format!("no restore drill has passed since {since}");
        Finding::new(whole(), Severity::Warning, message).with("since", since)
    });
    Ok(Judgement::of_all(finding))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use windlass_shared::config::BackupAges;

    use super::*;

    #[test]
    fn holds_beyond_the_age_where_backups_are_wanted() {
        let ages = BackupAges::default();
        let held = |backups, what, age| {
            let mut seen = Seen { backups, ..Seen::nothing() };
            let at = seen.now.minus(age);
            seen.upkeep.as_mut().unwrap().insert(what, at);
            judge(&seen).unwrap().held.len()
        };
        let over = ages.drill_max + Duration::from_secs(1);
        assert_eq!(held(Some(ages), Upkeep::Drill, ages.drill_max), 0);
        assert_eq!(held(Some(ages), Upkeep::Drill, over), 1);
        assert_eq!(held(Some(ages), Upkeep::BackupsWanted, over), 1);
        assert_eq!(held(None, Upkeep::Drill, over), 0);
    }
}
