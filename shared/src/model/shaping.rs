//! How a submission may be shaped before it is a job of its own: a series that stands for many submissions,
//! or a throttle.

use std::time::Duration;

use super::id::JobId;
use super::time::Timestamp;
use crate::engine::flow::Rate;

/// What the caller asked for. A job has at most one of these, and none beside a unique key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shaping {
    /// The last submission of a series wins.
    Debounce(Debounce),
    /// The submissions of a series become one job.
    Collect(Collect),
    /// Submissions over a rate are refused.
    Throttle(Throttle),
}

impl Shaping {
    /// By which submissions find each other.
    pub fn key(&self) -> &str {
        match self {
            Self::Debounce(Debounce { key, .. })
            | Self::Collect(Collect { key, .. })
            | Self::Throttle(Throttle { key, .. }) => key,
        }
    }
}

/// Each submission replaces the one before it, which never runs, until the key has been quiet for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debounce {
    /// Of the queue and kind.
    pub key: String,
    /// The job may run this long after the last submission.
    pub delay: Duration,
    /// But no later than this after the first one of the series.
    pub max_wait: Duration,
}

/// Each submission adds its payload as an item; the job of the first one runs with all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collect {
    /// Of the queue and kind.
    pub key: String,
    /// With so many items it runs at once.
    pub items_max: u32,
    /// It runs this long after the first item, however many there are.
    pub wait: Duration,
    /// Largest payload of the job, in bytes; what would go over it begins the next one.
    pub bytes_max: u32,
}

/// Submissions per time of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Throttle {
    /// Of the queue.
    pub key: String,
    /// How many.
    pub rate: Rate,
}

/// What a series does with its submissions. The ledger stores the number; never reorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i16)]
pub enum SeriesSort {
    /// See [`Debounce`].
    Debounce = 1,
    /// See [`Collect`].
    Collect = 2,
}

impl SeriesSort {
    /// From the ledger's number; `None` for a number that this build does not know.
    pub fn from_number(n: i16) -> Option<Self> {
        [Self::Debounce, Self::Collect].into_iter().find(|sort| *sort as i16 == n)
    }
}

/// A series that is open. The job that stands for it is blocked until the series is shut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// What it does.
    pub sort: SeriesSort,
    /// Its key.
    pub key: String,
    /// The job that stands for it now.
    pub job: JobId,
    /// The first submission.
    pub opened_at: Timestamp,
    /// Shut from then on, whoever comes first.
    pub shuts_at: Timestamp,
    /// No later submission moves it beyond this.
    pub latest_at: Timestamp,
    /// Items so far; 0 of a debounced one.
    pub items: u32,
    /// With so many it is shut.
    pub items_max: u32,
    /// Size of the payload that the items make.
    pub bytes: u64,
    /// Its bound.
    pub bytes_max: u64,
}

impl Series {
    /// Whether it takes in nothing more.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.shuts_at <= now
    }
}
