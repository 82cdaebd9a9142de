//! The worker: claims jobs, runs handlers, settles.
//!
//! Read in this order: [`worker`] (the process), `claimer` (slots first, then jobs), `runtime` (all that
//! knows apalis), `executor` (one attempt, top to bottom), `outcome` (what becomes of the job), `acker`
//! (settles in batches), `keeper` (leases, from a thread of its own); and for an engine that forgets: `ring` (settles
//! until they are recorded), `direct` (to the ledger past the engine), `adoption` (leases put back), `home` (whose jobs).
//!
//! A worker with a handler of its own:
//!
//! ```no_run
//! use tokio_util::sync::CancellationToken;
//! use windlass_shared::config::{EngineSettings, WorkerSettings};
//! use windlass_worker::context::Context;
//! use windlass_worker::error::HandlerError;
//! use windlass_worker::worker::Worker;
//!
//! # async fn example() -> anyhow::Result<()> {
//! Worker::builder(WorkerSettings::default())
//!     .engine(EngineSettings::new("redis://127.0.0.1/"))
//!     .handle("greet", |_ctx: Context, name: String| async move {
//!         Ok::<_, HandlerError>(format!("hello, {name}"))
//!     })
//!     .build()?
//!     .run(CancellationToken::new())
//!     .await?;
//! # Ok(())
//! # }
//! ```

pub mod builder;
pub mod checkpoint;
pub mod context;
pub mod error;
pub mod handler;
pub mod worker;

mod acker;
mod adoption;
mod attempt;
mod boot_time;
mod breaker;
mod claimer;
mod direct;
mod executor;
mod gating;
mod home;
mod keeper;
mod leases;
mod local_rates;
mod metrics;
mod outcome;
mod pause;
mod persist;
mod registry;
mod ring;
mod rotation;
mod runtime;
#[cfg(test)]
mod sample;

pub mod handlers;
pub mod reporter;
