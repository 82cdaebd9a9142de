//! One thin file per subcommand.

pub mod api;
pub mod config;
pub mod dev;
pub mod doctor;
pub mod job;
pub mod key;
pub mod loadtest;
pub mod migrate;
pub mod queue;
pub mod role;
pub mod schedule;
pub mod scheduler;
pub mod system;
pub mod worker;
pub mod workflow;
