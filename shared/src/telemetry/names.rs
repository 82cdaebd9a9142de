//! Every metric: its name, sort and help text. A test of the command line crate reads the sources and fails
//! for a name that is used and not here.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// What a metric measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Samples in buckets.
    Histogram,
}

use Sort::{Counter, Gauge, Histogram};

/// Name, sort, help text.
pub const NAMES: &[(&str, Sort, &str)] = &[
    ("windlass_build_info", Gauge, "1, labelled with the version of this process"),
    // The engine
    ("windlass_engine_call_seconds", Histogram, "Time of a call to the engine, by call"),
    ("windlass_engine_errors_total", Counter, "Calls to the engine that failed, by call"),
    ("windlass_engine_dropped_total", Counter, "Jobs that the engine had and should not have had"),
    (
        "windlass_engine_fit",
        Gauge,
        "Whether the queue store may be trusted with jobs: version, eviction",
    ),
    ("windlass_leader", Gauge, "Whether this scheduler leads"),
    ("windlass_verifications_total", Counter, "Shards compared with the ledger, by result"),
    ("windlass_verification_seconds", Histogram, "Time from a shut shard to its opening"),
    ("windlass_adoptions_total", Counter, "Running jobs put back into the engine, by reply"),
    ("windlass_direct_outcomes_total", Counter, "Outcomes sent past the engine, by reply"),
    ("windlass_worker_ring_settles", Gauge, "Settles that a worker keeps until they are recorded"),
    ("windlass_log_events_dropped_total", Counter, "Log events dropped because their place floods"),
    // Serving
    ("windlass_http_connections", Gauge, "Open connections"),
    ("windlass_http_connections_refused_total", Counter, "Connections refused, by bound"),
    ("windlass_http_requests_total", Counter, "Requests answered, by route, method and status"),
    ("windlass_http_request_seconds", Histogram, "Time from a request's head to its answer's head"),
    ("windlass_http_in_flight", Gauge, "Requests that are being answered"),
    ("windlass_http_panics_total", Counter, "Requests whose handler panicked"),
    ("windlass_http_bodies_refused_total", Counter, "Request bodies refused, by reason"),
    ("windlass_http_unauthenticated_total", Counter, "Requests without a valid key, by reason"),
    ("windlass_http_malformed_total", Counter, "Connections closed for malformed framing"),
    (
        "windlass_http_stuck_readers_total",
        Counter,
        "Connections closed because the peer took nothing of its answer",
    ),
    // The ledger
    ("windlass_ledger_commit_rows", Histogram, "Jobs committed by one statement of a writer"),
    (
        "windlass_ledger_group_splits_total",
        Counter,
        "Groups that were split because a row was refused, or locked by others",
    ),
    ("windlass_ledger_bad_rows_total", Counter, "Rows that the database refused"),
    (
        "windlass_ledger_unreadable_rows_total",
        Counter,
        "Rows of the ledger that this build cannot read and passes over",
    ),
    ("windlass_ledger_bytes", Gauge, "Size of the ledger's database, as the leader saw it last"),
    (
        "windlass_ledger_free_bytes",
        Gauge,
        "Free space of a SQLite ledger's volume, as the leader saw it last",
    ),
    (
        "windlass_submission_wait_seconds",
        Histogram,
        "How long a submission waited for its turn to be written",
    ),
    (
        "windlass_submissions_shedding",
        Gauge,
        "Whether submissions are shed because they wait too long",
    ),
    (
        "windlass_submissions_shed_total",
        Counter,
        "Submissions refused because they would have waited too long, or had",
    ),
    ("windlass_quota_refusals_total", Counter, "Submissions refused for a quota, by quota"),
    ("windlass_ledger_call_seconds", Histogram, "Time of a call to the ledger, by call"),
    ("windlass_ledger_errors_total", Counter, "Calls to the ledger that failed, by call"),
    (
        "windlass_engine_garbage_total",
        Counter,
        "Entries in the engine that this build did not write",
    ),
    // From ledger to engine and back
    (
        "windlass_push_dropped_total",
        Counter,
        "Jobs that were not pushed when they were accepted because the pusher was behind: it comes back to them",
    ),
    ("windlass_push_failed_total", Counter, "Jobs whose push failed: it is repeated"),
    (
        "windlass_push_full_total",
        Counter,
        "Jobs that wait in the ledger because their shard is full",
    ),
    (
        "windlass_push_repeated_total",
        Counter,
        "Jobs brought to the engine by the process that could not push them when they were accepted",
    ),
    (
        "windlass_sweep_pushed_total",
        Counter,
        "Jobs that the sweep found missing in the engine and pushed",
    ),
    ("windlass_outcomes_recorded_total", Counter, "Outcomes recorded in the ledger"),
    ("windlass_outcomes_stale_total", Counter, "Outcomes that the ledger's guard refused as old"),
    ("windlass_recorder_lag_seconds", Histogram, "From the end of an attempt to its record"),
    ("windlass_recorder_failures_total", Counter, "Passes of the recorder that failed"),
    // Workflows
    ("windlass_workflow_advances_total", Counter, "Decisions over runs that were carried out"),
    ("windlass_workflows_ended_total", Counter, "Runs that ended, by state"),
    // Schedules
    ("windlass_schedule_fires_total", Counter, "Due times of schedules decided over, by outcome"),
    ("windlass_schedule_late_seconds", Histogram, "From the planned time of a fire to its commit"),
    // The scheduler's duties and what they see
    ("windlass_duty_seconds", Histogram, "Time of one pass of a duty, by duty"),
    ("windlass_duty_done_total", Counter, "What a duty has done, by duty"),
    ("windlass_duty_failures_total", Counter, "Passes of a duty that failed, by duty"),
    ("windlass_duty_given_up_total", Counter, "Passes of a duty that took too long, by duty"),
    (
        "windlass_retention_deleted_total",
        Counter,
        "Jobs and runs deleted because they are past their time",
    ),
    (
        "windlass_retention_behind_seconds",
        Gauge,
        "How long the oldest job or run has been past its time that retention has not looked at",
    ),
    (
        "windlass_prune_behind_seconds",
        Gauge,
        "How long ago prune had nothing left to delete last; 0 where its last pass came to that",
    ),
    (
        "windlass_alerts_active",
        Gauge,
        "Active alerts, by severity; 0 where this scheduler does not lead",
    ),
    ("windlass_notifications_total", Counter, "Notifications sent, by receiver and result"),
    ("windlass_queue_jobs", Gauge, "Jobs of a queue in the engine, by state"),
    ("windlass_queue_outbox_jobs", Gauge, "Outcomes of a queue that wait to be recorded"),
    ("windlass_queue_bytes", Gauge, "Bytes of a queue in the engine"),
    ("windlass_queue_circuits", Gauge, "Circuits of a queue that are not closed, by state"),
    ("windlass_queue_oldest_ready_seconds", Gauge, "Age of the first ready job of a queue"),
    // Load checks
    ("windlass_load_check_passed", Gauge, "Whether the latest load check passed"),
    ("windlass_load_check_age_seconds", Gauge, "Time since the latest load check had its verdict"),
    (
        "windlass_load_check_start_p99_seconds",
        Gauge,
        "What 99 of 100 jobs of the latest load check took to start",
    ),
    // Backups
    ("windlass_drills_total", Counter, "Backups that were restored for proof, by result"),
    ("windlass_backup_age_seconds", Gauge, "Age of the newest backup"),
    ("windlass_drill_age_seconds", Gauge, "Time since a drill has passed"),
    ("windlass_drill_rto_seconds", Gauge, "Time of the latest drill of this process"),
    // The worker
    ("windlass_worker_slots", Gauge, "Slots of this worker, free and busy"),
    ("windlass_worker_claims_total", Counter, "Claim calls, by result"),
    ("windlass_claim_seconds", Histogram, "Time of a claim call"),
    ("windlass_attempts_total", Counter, "Attempts ended, by queue, kind and outcome"),
    ("windlass_attempt_seconds", Histogram, "Run time of an attempt, by queue and kind"),
    ("windlass_settles_total", Counter, "Settles, by the engine's reply"),
    (
        "windlass_worker_rate_holds_total",
        Counter,
        "Times that a worker left a kind alone because its own rate of it was used up",
    ),
    ("windlass_lease_lost_total", Counter, "Leases that had passed on or were unknown"),
    ("windlass_circuit_calls_total", Counter, "Attempts that tell of their dependency, by result"),
    (
        "windlass_worker_circuit_returns_total",
        Counter,
        "Jobs handed back because this worker saw their dependency fail",
    ),
    ("windlass_worker_alone_total", Counter, "Jobs that must run alone: started, or put off"),
    ("windlass_worker_log_lines_dropped_total", Counter, "Log lines of jobs that were dropped"),
];

/// Tells the recorder of this process the help texts.
pub(super) fn describe() {
    for (name, sort, help) in NAMES {
        match sort {
            Counter => describe_counter!(*name, *help),
            Gauge => describe_gauge!(*name, *help),
            Histogram => describe_histogram!(*name, *help),
        }
    }
}
