//! The fault rig: starts a private fleet, loads it, hurts it, and checks what
//! the clients and the handlers saw against the promises of the product.
//!
//! Read in this order: [`runner`] (an experiment from start to verdict), [`experiments`] (what is done to the fleet and
//! what is measured), [`fleet`] and [`dev`] (the processes), [`load`] and [`history`] (the clients), [`worker`] and [`effects`] (the
//! handlers), [`check`] (the promises), [`tools`] (what hurts a fleet from outside its processes).

pub mod check;
pub mod dev;
pub mod dump;
pub mod effects;
mod execution;
pub mod experiments;
pub mod fenced;
pub mod figure;
pub mod fleet;
pub mod history;
mod limits;
pub mod load;
pub mod loadtest;
pub mod machine;
pub mod peers;
pub mod plot;
pub mod rates;
pub mod report;
pub mod runner;
pub mod schedules;
pub mod stamp;
pub mod table;
pub mod target;
pub mod tools;
pub mod until;
pub mod upkeep;
pub mod worker;
