//! Fault tools: what hurts a fleet from outside its processes.
//!
//! Each is a library for the experiments and a subcommand of `windlass-rig` ([`command`]), and has a page in
//! `docs/rig`.

pub mod clock_shim;
pub mod command;
pub mod freeze;
pub mod power_cut;
pub mod processes;
pub mod proxy;
