//! What whoever asks for the jobs of backups, and whoever carries them out, agree on.

use std::time::Duration;

use super::job::JobSpec;
use super::retry::RetryPolicy;
use super::time::Span;

/// The kind of the job that makes a backup.
pub const CREATE: &str = "backup.create";
/// The kind of the job that proves one.
pub const DRILL: &str = "backup.drill";
/// The kind of the job that restores one into the database of `backup.restore_url`.
pub const RESTORE: &str = "backup.restore";

/// How such a job is carried out: within half a day, and again through an outage of an hour or so.
pub fn job_spec() -> JobSpec {
    let minute = Duration::from_secs(60);
    let retry =
        RetryPolicy { initial: Span(minute), max: Span(15 * minute), ..RetryPolicy::default() };
    JobSpec { timeout: Span(12 * 60 * minute), max_attempts: 8, retry, ..JobSpec::default() }
}
