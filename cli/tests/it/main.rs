//! The command line, from outside: the real binary as a child process.

mod binary;
mod s3;

mod backup;
mod bench;
mod client;
mod config;
mod dev;
mod docs_page;
mod documents;
mod hostile;
mod load_check;
mod loadtest;
mod metrics;
mod object_store;
mod point_in_time;
mod schedule;
mod usage;
mod workflow;
mod workflow_examples;
mod workflow_runs;
