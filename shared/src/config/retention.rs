//! How long what has ended is kept: by namespace and state.

use std::collections::BTreeMap;
use std::time::Duration;

use super::values;
use crate::ledger::retention::Whose;
use crate::model::job::JobState;
use crate::model::name::Namespace;
use crate::model::workflow::WorkflowState;

/// Shortest and longest time.
pub(super) const SHORTEST: Duration = Duration::from_secs(60);
/// See [`SHORTEST`].
pub(super) const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Most entries about namespaces.
const ENTRIES_MAX: usize = 100;

/// How long what has ended is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Unless something below says otherwise.
    pub default: Duration,
    /// Jobs that ended in that state.
    pub states: BTreeMap<JobState, Duration>,
    /// Jobs of that namespace: all, or those that ended in that state. Goes before [`Self::states`].
    pub namespaces: BTreeMap<(Namespace, Option<JobState>), Duration>,
    /// Nothing is deleted before the ledger's clock has run evenly for so long.
    pub clock_wait: Duration,
}

impl Default for RetentionSettings {
    /// Seven days, and ten minutes of an even clock.
    fn default() -> Self {
        let default = Duration::from_secs(7 * 24 * 3600);
        let clock_wait = Duration::from_secs(600);
        Self { default, states: BTreeMap::new(), namespaces: BTreeMap::new(), clock_wait }
    }
}

/// Jobs that are kept equally long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionRule {
    /// Whose.
    pub whose: Whose,
    /// That ended in one of these states.
    pub states: Vec<JobState>,
    /// For so long after their end was recorded.
    pub keep: Duration,
}

/// Runs that are kept equally long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRule {
    /// Whose.
    pub whose: Whose,
    /// That ended in one of these states.
    pub states: Vec<WorkflowState>,
    /// For so long after their end.
    pub keep: Duration,
    /// How long jobs of these namespaces are kept, by how they ended.
    pub jobs: Vec<(JobState, Duration)>,
}

/// A run is kept as long as a job that ended so.
const fn as_a_job(state: WorkflowState) -> Option<JobState> {
    match state {
        WorkflowState::Running | WorkflowState::Waiting | WorkflowState::Compensating => None,
        WorkflowState::Succeeded => Some(JobState::Succeeded),
        WorkflowState::Failed | WorkflowState::Compensated => Some(JobState::Dead),
        WorkflowState::Cancelled => Some(JobState::Cancelled),
    }
}

fn terminal_states() -> impl Iterator<Item = JobState> {
    JobState::ALL.into_iter().filter(|state| state.is_terminal())
}

impl RetentionSettings {
    /// How long a job is kept that ended in that state.
    pub fn of(&self, namespace: Option<&Namespace>, state: JobState) -> Duration {
        let own = namespace.and_then(|namespace| {
            let entry = |state| self.namespaces.get(&(namespace.clone(), state)).copied();
            entry(Some(state)).or_else(|| entry(None))
        });
        own.or_else(|| self.states.get(&state).copied()).unwrap_or(self.default)
    }

    /// Rules that together are about every job that has ended, each about one namespace or about those that no entry
    /// names, so that none has to wait for another's.
    pub fn rules(&self) -> Vec<RetentionRule> {
        let mut rules = Vec::new();
        for (namespace, whose) in self.groups() {
            let mut by_time: BTreeMap<Duration, Vec<JobState>> = BTreeMap::new();
            for state in terminal_states() {
                by_time.entry(self.of(namespace, state)).or_default().push(state);
            }
            let rule = |(keep, states)| RetentionRule { whose: whose.clone(), states, keep };
            rules.extend(by_time.into_iter().map(rule));
        }
        rules
    }

    /// As [`Self::rules`], about every run that has ended.
    pub fn run_rules(&self) -> Vec<RunRule> {
        let mut rules = Vec::new();
        for (namespace, whose) in self.groups() {
            let mut by_time: BTreeMap<Duration, Vec<WorkflowState>> = BTreeMap::new();
            for state in WorkflowState::ALL {
                if let Some(as_job) = as_a_job(state) {
                    by_time.entry(self.of(namespace, as_job)).or_default().push(state);
                }
            }
            let jobs: Vec<_> =
                terminal_states().map(|state| (state, self.of(namespace, state))).collect();
            let rule = |(keep, states)| {
                let (whose, jobs) = (whose.clone(), jobs.clone());
                RunRule { whose, states, keep, jobs }
            };
            rules.extend(by_time.into_iter().map(rule));
        }
        rules
    }

    /// Each namespace that an entry names, and all others together.
    fn groups(&self) -> Vec<(Option<&Namespace>, Whose)> {
        let mut named: Vec<&Namespace> = self.namespaces.keys().map(|(n, _)| n).collect();
        named.dedup();
        let others = Whose::AllBut(named.iter().map(|namespace| (*namespace).clone()).collect());
        let one = |namespace: &'_ Namespace| Whose::Only(namespace.clone());
        let only = named.into_iter().map(|namespace| (Some(namespace), one(namespace)));
        only.chain([(None, others)]).collect()
    }
}

/// `noisy=1d,audit=365d,audit/dead=10y`-like lists: a namespace, perhaps a state, and how long.
pub(super) fn namespaces(
    text: &str,
) -> Result<BTreeMap<(Namespace, Option<JobState>), Duration>, String> {
    let mut found = BTreeMap::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let wrong = || "must be a list such as noisy=1d,audit=365d,audit/dead=730d".to_owned();
        let (what, keep) = item.split_once('=').ok_or_else(wrong)?;
        let (namespace, state) = match what.trim().split_once('/') {
            Some((namespace, state)) => (namespace, Some(terminal(state)?)),
            None => (what.trim(), None),
        };
        let namespace: Namespace =
            namespace.parse().map_err(|why| format!("a namespace {why}; {}", wrong()))?;
        let keep = values::duration(keep.trim(), SHORTEST..=LONGEST)?;
        if found.insert((namespace, state), keep).is_some() {
            return Err("names a namespace and state twice".into());
        }
    }
    if found.len() > ENTRIES_MAX {
        return Err(format!("has more than {ENTRIES_MAX} entries"));
    }
    Ok(found)
}

fn terminal(word: &str) -> Result<JobState, String> {
    terminal_states().find(|state| state.as_str() == word).ok_or_else(|| {
        "a state must be one of: succeeded, dead, cancelled, expired, quarantined".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(n: u64) -> Duration {
        Duration::from_secs(n * 24 * 3600)
    }

    /// Goal: every job is in exactly one rule, with the time of the nearest entry.
    #[test]
    fn rules_part_all_jobs_that_ended() {
        let settings = RetentionSettings {
            states: [(JobState::Dead, days(30))].into(),
            namespaces: namespaces("noisy=1d, audit=365d,audit/dead=730d,odd/dead=2d").unwrap(),
            ..RetentionSettings::default()
        };
        let rules = settings.rules();
        let expect = [
            ("noisy", JobState::Dead, 1),
            ("noisy", JobState::Succeeded, 1),
            ("audit", JobState::Dead, 730),
            ("audit", JobState::Expired, 365),
            ("odd", JobState::Dead, 2),
            ("odd", JobState::Cancelled, 7),
            ("other", JobState::Dead, 30),
            ("other", JobState::Quarantined, 7),
        ];
        for (namespace, state, expected) in expect {
            let namespace: Namespace = namespace.parse().unwrap();
            let mut about =
                rules.iter().filter(|r| r.whose.includes(&namespace) && r.states.contains(&state));
            assert_eq!(about.next().unwrap().keep, days(expected), "{namespace} {state:?}");
            assert_eq!(about.next(), None, "{namespace} {state:?}");
        }
        // noisy 1, audit 2, odd 2, others 2.
        assert_eq!(rules.len(), 7);
        assert_eq!(RetentionSettings::default().rules().len(), 1);
    }

    /// Goal: every run is in exactly one rule, with the time of a job that ended as it did; and the rule knows the times
    /// of all of its jobs.
    #[test]
    fn rules_part_all_runs_that_ended() {
        let settings = RetentionSettings {
            states: [(JobState::Dead, days(30))].into(),
            namespaces: namespaces("noisy=1d,audit=365d,audit/dead=730d").unwrap(),
            ..RetentionSettings::default()
        };
        let rules = settings.run_rules();
        for (namespace, state, kept, dead_jobs) in [
            ("noisy", WorkflowState::Failed, 1, 1),
            ("noisy", WorkflowState::Succeeded, 1, 1),
            ("audit", WorkflowState::Succeeded, 365, 730),
            ("audit", WorkflowState::Failed, 730, 730),
            ("audit", WorkflowState::Compensated, 730, 730),
            ("audit", WorkflowState::Cancelled, 365, 730),
            ("other", WorkflowState::Succeeded, 7, 30),
            ("other", WorkflowState::Failed, 30, 30),
        ] {
            let namespace: Namespace = namespace.parse().unwrap();
            let mut about =
                rules.iter().filter(|r| r.whose.includes(&namespace) && r.states.contains(&state));
            let rule = about.next().unwrap();
            assert_eq!(rule.keep, days(kept), "{namespace} {state:?}");
            assert!(
                rule.jobs.contains(&(JobState::Dead, days(dead_jobs))),
                "{namespace} {state:?}"
            );
            assert_eq!(rule.jobs.len(), 5);
            assert_eq!(about.next(), None, "{namespace} {state:?}");
        }
        assert!(rules.iter().all(|rule| rule.states.iter().all(|state| state.is_terminal())));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        assert_eq!(namespaces("").unwrap().len(), 0);
        for text in ["a", "a=", "=1d", "a=1s", "a/ready=1d", "a=1d,a=2d", "A B=1d", "a=never"] {
            assert!(namespaces(text).is_err(), "{text}");
        }
    }
}
