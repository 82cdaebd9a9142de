//! The rules: pure functions over what a look has seen. One small file each; this is their table.

use std::collections::{BTreeMap, HashSet};

use windlass_shared::model::alert::Severity;
use windlass_shared::model::name::Namespace;

use super::look::Seen;

mod backup_old;
mod circuit_open;
mod dead_growing;
mod depth_reached;
mod drill_failed;
mod drill_old;
mod duty_failing;
mod engine_away;
mod engine_unfit;
mod lease_lost_rate;
mod ledger_full;
mod ledger_slow;
mod no_worker;
mod notifier_failing;
mod queue_full;
mod queue_latency;
mod recorder_lag;
mod schedule_late;
mod schedule_missed;
mod schedule_paused;
mod shards_unverified;
mod success_rate;
mod version_skew;
mod worker_silent;

/// A subject of a rule, as in `AlertKey`.
pub(crate) type Subject = (Option<Namespace>, String);

/// A subject of which a rule holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Finding {
    pub(crate) subject: Subject,
    pub(crate) severity: Severity,
    pub(crate) message: String,
    pub(crate) evidence: BTreeMap<String, String>,
}

/// Which subjects a rule has judged. Nothing is said of any other.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Coverage {
    /// Every one that there is: one that was not found is well, or is no more.
    All,
    /// These.
    Only(HashSet<Subject>),
}

/// What a rule says of a look.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Judgement {
    pub(crate) held: Vec<Finding>,
    pub(crate) judged: Coverage,
}

/// A judgement, or why none can be made.
pub(crate) type Judged = Result<Judgement, String>;

/// One rule, by the code of its entry in the catalogue.
pub(crate) struct Rule {
    pub(crate) code: &'static str,
    pub(crate) judge: fn(&Seen) -> Judged,
}

/// Every rule that the leader judges by.
pub(crate) const RULES: &[Rule] = &[
    Rule { code: "ledger_slow", judge: ledger_slow::judge },
    Rule { code: "ledger_full", judge: ledger_full::judge },
    Rule { code: "engine_away", judge: engine_away::judge },
    Rule { code: "engine_unfit", judge: engine_unfit::judge },
    Rule { code: "shards_unverified", judge: shards_unverified::judge },
    Rule { code: "queue_full", judge: queue_full::judge },
    Rule { code: "recorder_lag", judge: recorder_lag::judge },
    Rule { code: "duty_failing", judge: duty_failing::judge },
    Rule { code: "backup_old", judge: backup_old::judge },
    Rule { code: "drill_old", judge: drill_old::judge },
    Rule { code: "drill_failed", judge: drill_failed::judge },
    Rule { code: "no_worker", judge: no_worker::judge },
    Rule { code: "queue_latency", judge: queue_latency::judge },
    Rule { code: "lease_lost_rate", judge: lease_lost_rate::judge },
    Rule { code: "worker_silent", judge: worker_silent::judge },
    Rule { code: "version_skew", judge: version_skew::judge },
    Rule { code: "dead_growing", judge: dead_growing::judge },
    Rule { code: "success_rate", judge: success_rate::judge },
    Rule { code: "depth_reached", judge: depth_reached::judge },
    Rule { code: "circuit_open", judge: circuit_open::judge },
    Rule { code: "schedule_late", judge: schedule_late::judge },
    Rule { code: "schedule_missed", judge: schedule_missed::judge },
    Rule { code: "schedule_paused", judge: schedule_paused::judge },
    Rule { code: "notifier_failing", judge: notifier_failing::judge },
];

impl Finding {
    /// Of a subject; the evidence is added with [`Self::with`].
    pub(crate) fn new(subject: Subject, severity: Severity, message: String) -> Self {
        Self { subject, severity, message, evidence: BTreeMap::new() }
    }

    /// With one more figure.
    pub(crate) fn with(mut self, name: &str, figure: impl ToString) -> Self {
        self.evidence.insert(name.to_owned(), figure.to_string());
        self
    }
}

impl Judgement {
    /// Over everything there is.
    pub(crate) fn of_all(held: impl IntoIterator<Item = Finding>) -> Self {
        Self { held: held.into_iter().collect(), judged: Coverage::All }
    }
}

/// Of the installation, as a subject.
pub(crate) fn whole() -> Subject {
    (None, String::new())
}

#[cfg(test)]
mod tests {
    use windlass_shared::model::alert::catalogue::{
        ENTRIES, LEADER_ABSENT, LEDGER_AWAY, RULE_FAILING,
    };

    use super::*;

    #[test]
    fn rules_and_catalogue_know_the_same_codes() {
        let elsewhere = [LEDGER_AWAY, LEADER_ABSENT, RULE_FAILING];
        let known: Vec<&str> =
            ENTRIES.iter().map(|e| e.code).filter(|code| !elsewhere.contains(code)).collect();
        assert_eq!(RULES.iter().map(|rule| rule.code).collect::<Vec<_>>(), known);
    }
}
