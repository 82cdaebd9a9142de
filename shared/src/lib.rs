//! The domain, the engine, the ledger and the life of a job.
//!
//! Read in this order: [`model`] (plain types), [`engine`] (what may run now), [`ledger`] (what is
//! promised), [`lifecycle`] (the verbs of a job's life, in order).

pub mod model;

pub mod backoff;
pub mod clock;
pub mod expr;
pub mod fail;
pub mod gate;
pub mod limits;

pub mod engine;
pub mod ledger;

pub mod lifecycle;

pub mod config;
pub mod shutdown;
pub mod tap;
pub mod telemetry;

#[cfg(feature = "testkit")]
pub mod testkit;
