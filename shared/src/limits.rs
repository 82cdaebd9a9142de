//! Every bound that has a name and is not a setting.

use std::num::NonZeroU32;
use std::time::Duration;

/// Largest payload or output, in bytes of JSON.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Larger values live in the ledger by reference, not in the engine.
pub const INLINE_BYTES_MAX: usize = 16 << 10;
/// Deepest nesting of a payload.
pub const JSON_DEPTH_MAX: usize = 64;
/// Most jobs in one batch submission.
pub const BATCH_JOBS_MAX: usize = 10_000;
/// Largest request body, in bytes.
pub const BODY_BYTES_MAX: usize = 32 << 20;
/// Most rows that a ledger writer takes into one statement.
pub const WRITE_ROWS_MAX: usize = 500;
/// Submissions waiting for a ledger writer; beyond it the answer is 503.
pub const WRITE_QUEUE_MAX: usize = 20_000;
/// Most jobs pushed, claimed or settled by one engine call.
pub const ENGINE_BATCH_MAX: usize = 200;
/// Members looked at by one claim with a kind filter.
pub const CLAIM_SCAN_MAX: usize = 1_000;
/// Most due or expired jobs moved by one engine call.
pub const MOVE_MAX: usize = 200;
/// Unrecorded outcomes of a shard above which it gives out no leases (reliability: outbox brake).
pub const OUTBOX_ENTRIES_MAX: u64 = 500_000;
/// The same in bytes.
pub const OUTBOX_BYTES_MAX: u64 = 256 << 20;
/// A push may arrive this long after the reply that it was based on (decisions: `not_after`).
pub const PUSH_WINDOW: Duration = Duration::from_secs(5);
/// How long a removed or confirmed job is remembered in the engine. Longer than [`PUSH_WINDOW`].
pub const TOMBSTONE_TTL: Duration = Duration::from_secs(15);
/// Engine time that is further than this past a shard's last sign of life has jumped, or the shard was out of reach.
pub const CLOCK_STEP_MIN: Duration = Duration::from_secs(2);
/// Scheduled jobs enter the engine this long before their time.
pub const SCHEDULE_AHEAD: Duration = Duration::from_secs(60);
/// Longest error message kept, in bytes.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 8 << 10;
/// Most tags of a job, and their length in bytes.
pub const TAGS_MAX: usize = 20;
/// Longest tag, unique key, concurrency key or idempotency key, in bytes.
pub const KEY_BYTES_MAX: usize = 255;
/// Shortest and longest quiet time of a debounced key, and wait of a collection.
pub const SERIES_WAIT_MIN: Duration = Duration::from_millis(10);
/// Longest one.
pub const SERIES_WAIT_MAX: Duration = Duration::from_secs(24 * 3600);
/// Longest time from the first submission of a debounced series to its job.
pub const DEBOUNCE_MAX_WAIT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most items of a collection.
pub const COLLECT_ITEMS_MAX: u32 = 10_000;
/// Items of a collection unless the caller says otherwise.
pub const COLLECT_ITEMS_DEFAULT: u32 = 100;
/// Series that are shut in one transaction because their time has come.
pub const SERIES_BATCH_MAX: u32 = 100;
/// Largest `meta`, in bytes of JSON.
pub const META_BYTES_MAX: usize = 16 << 10;
/// Longest time-out of an attempt.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Farthest `run_at` or `expires_at` from now.
pub const HORIZON_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// Most attempts of a job.
pub const ATTEMPTS_MAX: u32 = 1_000;
/// A lease unless settings say otherwise.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(15);
/// Shortest and longest lease.
pub const LEASE_MIN: Duration = Duration::from_secs(3);
/// Longest lease.
pub const LEASE_MAX: Duration = Duration::from_secs(3600);
/// Shortest objective of how long a ready job may wait.
pub const LATENCY_OBJECTIVE_MIN: Duration = Duration::from_secs(1);
/// Longest one.
pub const LATENCY_OBJECTIVE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Most log lines kept per job.
pub const LOG_LINES_MAX: u64 = 10_000;
/// Longest log line, in bytes; longer ones are cut.
pub const LOG_LINE_BYTES_MAX: usize = 16 << 10;
/// Idempotency keys are kept this long.
pub const IDEMPOTENCY_TTL: Duration = Duration::from_secs(24 * 3600);
/// Most queues of a namespace that submissions and settings may make. Kept softly: processes that make queues at
/// the same instant may go over it by as many.
pub const QUEUES_PER_NAMESPACE_MAX: u64 = 10_000;
/// Most attempts of one job in an answer; the newest ones.
pub const ATTEMPTS_SHOWN_MAX: u32 = 10_000;
/// A bulk operation that has not reported progress for this long has failed.
pub const OPERATION_SILENCE_MAX: Duration = Duration::from_secs(600);
/// Jobs that a bulk retry starts per second, unless its caller says otherwise: what failed has just recovered.
pub const RETRY_RATE: NonZeroU32 = NonZeroU32::new(100).expect("it is not zero");
/// Most jobs per second of a bulk action that is metered.
pub const ACTION_RATE_MAX: u32 = 10_000;
/// Clocks of hosts that report to us are trusted to be this near to ours.
pub const CLOCK_MARGIN: Duration = Duration::from_secs(3600);
/// Most items of one page of a list.
pub const PAGE_MAX: u32 = 500;
