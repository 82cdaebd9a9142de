//! Workflows: runs, their steps, and what belongs to them.
//!
//! The writer is alone, so each write looks first, decides in memory, and then writes with a few wide statements.

mod add;
pub(super) mod advance;
pub(super) mod checkpoints;
pub(super) mod create;
pub(super) mod definitions;
mod jobs;
pub(super) mod list;
pub(super) mod lower;
mod moves;
pub(super) mod note;
pub(super) mod prune;
pub(super) mod read;
pub(super) mod retry;
mod row;
pub(super) mod signals;
mod steps;
mod stop;
#[cfg(test)]
mod tests;
