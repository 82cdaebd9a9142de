//! One thin file per subcommand.

pub mod api;
pub mod backup;
pub mod circuit;
pub mod config;
pub mod dev;
pub mod doctor;
pub mod job;
pub mod key;
pub mod load_check;
pub mod loadtest;
pub mod migrate;
pub mod queue;
pub mod quota;
pub mod role;
pub mod schedule;
pub mod scheduler;
pub mod system;
pub mod worker;
pub mod workflow;
