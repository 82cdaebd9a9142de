//! Workers of more than one version run.

use std::collections::BTreeSet;

use windlass_shared::model::alert::Severity;

use super::{Finding, Judged, Judgement, whole};
use crate::overwatch::look::Seen;

/// Most versions that are named.
const NAMED_MAX: usize = 5;

pub(super) fn judge(seen: &Seen) -> Judged {
    let workers = seen.workers.as_ref().map_err(Clone::clone)?;
    let alive = workers.iter().filter(|worker| seen.is_alive(worker));
    let versions: BTreeSet<&str> = alive.map(|worker| worker.version.as_str()).collect();
    let held = (versions.len() > 1).then(|| {
        let named: Vec<&str> = versions.iter().copied().take(NAMED_MAX).collect();
        let message = format!("workers of {} versions run: {}", versions.len(), named.join(", "));
        Finding::new(whole(), Severity::Info, message)
    });
    Ok(Judgement::of_all(held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_from_two_versions_on() {
        let mut seen = Seen::nothing();
        seen.workers = Ok(vec![Seen::worker("a", seen.now), Seen::worker("b", seen.now)]);
        assert_eq!(judge(&seen).unwrap().held, []);
        seen.workers.as_mut().unwrap()[1].version = "2".into();
        assert_eq!(judge(&seen).unwrap().held.len(), 1);
    }
}
