//! The life of a run: what is read, decided, carried out, and done outside of the ledger after.

pub mod build;
pub mod decide;
mod release;
pub mod waits;
