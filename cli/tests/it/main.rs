//! The command line, from outside: the real binary as a child process.

mod binary;

mod bench;
mod client;
mod config;
mod dev;
mod documents;
mod metrics;
mod usage;
