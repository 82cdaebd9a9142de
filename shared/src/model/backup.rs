//! What whoever asks for the jobs of backups, and whoever carries them out, agree on.

use std::time::Duration;

/// The kind of the job that makes a backup.
pub const CREATE: &str = "backup.create";
/// The kind of the job that proves one.
pub const DRILL: &str = "backup.drill";
/// The kind of the job that restores one into the database of `backup.restore_url`.
pub const RESTORE: &str = "backup.restore";
/// Longest an attempt of such a job may take.
pub const TIMEOUT: Duration = Duration::from_secs(12 * 3600);
/// Attempts of such a job.
pub const ATTEMPTS: u32 = 3;
