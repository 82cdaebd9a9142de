//! The words of orders: jobs with one `order_key` in a queue, which run one at a time as they were accepted.

use crate::model::id::JobId;
use crate::model::job::{Job, JobState};

/// Jobs before another are counted no further than this, which bounds the cost.
pub const BEFORE_MAX: u32 = 10_000;

/// Where a job stands in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderPlace {
    /// How many are before it; at most [`BEFORE_MAX`].
    pub before: u32,
    /// The first of all: the one that has to end.
    pub head: JobId,
    /// Its state.
    pub head_state: JobState,
}

/// The name of an order, as a place in a walk over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderName {
    /// Whose.
    pub namespace: String,
    /// In which queue.
    pub queue: String,
    /// The key.
    pub key: String,
}

/// What one step of a walk over orders found.
#[derive(Debug, Default)]
pub struct Mended {
    /// Jobs that were blocked though nothing is before them, and may run now.
    pub released: Vec<Job>,
    /// Where the next step goes on; `None`: this was the last.
    pub next: Option<OrderName>,
}
