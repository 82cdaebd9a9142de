//! Workflows: runs, steps, and how they move. The words are those of [`crate::ledger::runs`].

mod advance;
mod create;
mod lower;
mod read;
mod row;

pub(super) use advance::advance;
pub(super) use create::create;
pub(super) use lower::{lowered_ctes, noted_cte};
pub(super) use read::{due, run, snapshot, step_jobs, steps};
