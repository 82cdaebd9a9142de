//! What the ledger keeps of load checks.
//!
//! A check is carried out by a job, whose id it has. Each attempt of that job has a fence, and the check notes which one
//! it belongs to: an attempt that finds an earlier one's check still running, and not given back, judges it as failed. So
//! a check that dies counts, and is not repeated until one passes.

use crate::model::id::{Fence, JobId};
use crate::model::load_check::{CheckState, Plan, Report};
use crate::model::name::Namespace;
use crate::model::time::Timestamp;

/// A check on record.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadCheck {
    /// The id of its job.
    pub id: JobId,
    /// Fence of the attempt that has it, or had it last.
    pub run: Fence,
    /// How it stands.
    pub state: CheckState,
    /// What it does.
    pub plan: Plan,
    /// Where its load runs; another one for each start.
    pub shadow: Namespace,
    /// How often it was given back by a process that stopped, and began anew.
    pub restarts: u32,
    /// Given back, and not begun anew yet.
    pub given_back: bool,
    /// Why it did not pass.
    pub reasons: Vec<String>,
    /// What it found; `None` until it has ended, and of one that was stopped.
    pub report: Option<Report>,
    /// Begun, or begun anew, at.
    pub started_at: Timestamp,
    /// Ended at.
    pub ended_at: Option<Timestamp>,
    /// Whether everything that it left behind is gone.
    pub is_clean: bool,
}

/// A check about to begin.
#[derive(Debug, Clone, PartialEq)]
pub struct NewCheck {
    /// The id of its job.
    pub id: JobId,
    /// Fence of this attempt.
    pub run: Fence,
    /// What it does.
    pub plan: Plan,
    /// A fresh shadow.
    pub shadow: Namespace,
    /// Milliseconds since 1970, by the clock of this host, between which the ids of its jobs will be drawn.
    pub ids: (u64, u64),
}

/// What became of a beginning.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckBegun {
    /// It may run.
    Started(LoadCheck),
    /// It has its verdict: from before, or just now, because an earlier attempt left it running.
    Ended(LoadCheck),
    /// This other one runs.
    Busy(JobId),
    /// A later attempt has it.
    Stale,
}

/// The end of a check.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckEnd {
    /// Which.
    pub id: JobId,
    /// By the attempt that has it; that of another is refused.
    pub run: Fence,
    /// Not [`CheckState::Running`].
    pub state: CheckState,
    /// Why it did not pass.
    pub reasons: Vec<String>,
    /// What it found.
    pub report: Option<Report>,
}

/// What a cleaning did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleaned {
    /// Jobs forgotten.
    pub jobs: u64,
    /// Nothing is left.
    pub is_done: bool,
}

/// Most checks of one answer.
pub(super) const PAGE_MAX: u32 = 500;

/// Why a check failed that an earlier attempt left running.
pub(super) const INTERRUPTED: &str =
    "interrupted: the process that ran it died, or lost its lease, before it had a verdict";
/// Why a check failed whose job is gone.
pub(super) const ABANDONED: &str =
    "interrupted: its job ended, or is gone, before it had a verdict";
