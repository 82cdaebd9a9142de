//! Every rule of overwatch: its code, what it is part of, when it opens and ends, and what to do about it.
//!
//! `docs/overwatch.md` has a heading of each code.

use std::time::Duration;

/// A rule's entry.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its code: the alert's, and the anchor of the runbook.
    pub code: &'static str,
    /// The component of `GET /v1/system/health` that it speaks of.
    pub component: &'static str,
    /// It opens once it has held for this long.
    pub hold: Duration,
    /// What to do, in a sentence.
    pub advice: &'static str,
}

const fn entry(
    code: &'static str,
    component: &'static str,
    hold_s: u64,
    advice: &'static str,
) -> Entry {
    Entry { code, component, hold: Duration::from_secs(hold_s), advice }
}

/// An alert ends once its subject was judged well for this long; longer where it keeps coming back.
pub const CLEAR_AFTER: Duration = Duration::from_secs(120);
/// A subject that was not judged for this long was not well meanwhile, as far as anybody knows.
pub const UNWATCHED_MAX: Duration = Duration::from_secs(600);
/// One whose subject could not be judged for this long ends as unknown.
pub const UNJUDGED_MAX: Duration = Duration::from_secs(3600);

/// The API's own, while the ledger does not answer it. Not on record: it is the record that is away.
pub const LEDGER_AWAY: &str = "ledger_away";
/// The API's own, while nobody judges.
pub const LEADER_ABSENT: &str = "leader_absent";
/// A rule that cannot judge.
pub const RULE_FAILING: &str = "rule_failing";

/// In the order of the page.
pub const ENTRIES: &[Entry] = &[
    entry(
        LEDGER_AWAY,
        "ledger",
        0,
        "Bring PostgreSQL back; `windlass doctor` says what does not answer.",
    ),
    entry(
        "ledger_slow",
        "ledger",
        60,
        "Look for long transactions, a full disk or a starved server.",
    ),
    entry(
        "ledger_full",
        "ledger",
        60,
        "Give the ledger's volume more room, or keep jobs for a shorter time (`scheduler.retention`).",
    ),
    entry(
        "engine_away",
        "engine",
        10,
        "Bring Redis back; jobs wait in the ledger meanwhile, and nothing is lost.",
    ),
    entry(
        "engine_unfit",
        "engine",
        0,
        "Set `maxmemory-policy noeviction` on a Redis of 7.0 or later.",
    ),
    entry(
        "shards_unverified",
        "engine",
        60,
        "See the log of the leading scheduler: it cannot compare these queues with the ledger.",
    ),
    entry("queue_full", "engine", 60, "Add workers, or find out why these jobs do not end."),
    entry(
        "recorder_lag",
        "recorder",
        60,
        "See whether schedulers run and the ledger keeps up with writes.",
    ),
    entry(
        LEADER_ABSENT,
        "scheduler",
        0,
        "Start a scheduler: while none leads, nobody repairs, prunes or watches.",
    ),
    entry(
        RULE_FAILING,
        "scheduler",
        300,
        "See the log of the leading scheduler: a rule cannot judge.",
    ),
    entry(
        "duty_failing",
        "scheduler",
        60,
        "`windlass system duties` says what fails; see the log of that scheduler.",
    ),
    entry(
        "backup_old",
        "backups",
        0,
        "`windlass job list --namespace system --kind backup.create`, and `windlass schedule runs daily-backup --namespace system`.",
    ),
    entry(
        "drill_old",
        "backups",
        0,
        "See whether the schedule `weekly-drill` of the namespace `system` runs; `windlass backup verify` drills by hand.",
    ),
    entry(
        "drill_failed",
        "backups",
        0,
        "See the error of the latest job `backup.drill` of the namespace `system`; make a new backup, and drill that.",
    ),
    entry("no_worker", "workers", 60, "Start a worker for the queue, or resume one that drains."),
    entry("queue_latency", "workers", 60, "Add workers for the queue, or raise their concurrency."),
    entry(
        "lease_lost_rate",
        "workers",
        0,
        "Look for workers that are killed, out of memory, or starved of CPU.",
    ),
    entry(
        "worker_silent",
        "workers",
        0,
        "Look at the worker's host: it went silent while it held jobs.",
    ),
    entry(
        "version_skew",
        "workers",
        3600,
        "Finish the roll-out: processes of more than one version run.",
    ),
    entry(
        "dead_growing",
        "jobs",
        0,
        "`windlass job list --state dead --queue Q`; mend the cause, then redrive.",
    ),
    entry("success_rate", "jobs", 120, "Look at the errors of the queue's latest jobs."),
    entry(
        "depth_reached",
        "jobs",
        30,
        "Submissions to the queue are refused: add workers, or raise its `max_depth`.",
    ),
    entry(
        "circuit_open",
        "jobs",
        0,
        "`windlass circuit list`; mend the dependency: its jobs wait, and lose no attempts.",
    ),
    entry(
        "schedule_late",
        "schedules",
        30,
        "See the log of the schedulers: due times are not decided over.",
    ),
    entry(
        "schedule_missed",
        "schedules",
        0,
        "`windlass schedule runs NAME`, then backfill what is still wanted.",
    ),
    entry(
        "schedule_paused",
        "schedules",
        0,
        "Mend what its jobs fail of, then `windlass schedule resume NAME`.",
    ),
    entry(
        "notifier_failing",
        "notifier",
        120,
        "Try `windlass system notify-test`; mend the receiver or its settings.",
    ),
];

/// The entry of a code.
pub fn entry_of(code: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.code == code)
}

/// Where the runbook of a code stands.
pub fn runbook(code: &str) -> String {
    format!("docs/overwatch.md#{code}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Goal: the page tells of every rule and of no other.
    #[test]
    fn the_page_has_a_heading_for_every_rule() {
        let page = include_str!("../../../../docs/overwatch.md");
        let told: BTreeSet<&str> = page.lines().filter_map(|l| l.strip_prefix("### ")).collect();
        let known: BTreeSet<&str> = ENTRIES.iter().map(|entry| entry.code).collect();
        assert_eq!(told, known);
        for entry in ENTRIES {
            assert!(page.contains(entry.advice), "{}", entry.code);
        }
    }
}
