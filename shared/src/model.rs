//! Plain types of the domain: no I/O, no clock, no randomness.

pub mod alert;
pub mod backup;
pub mod dependency;
pub mod evaluate;
pub mod health;
pub mod id;
pub mod job;
pub mod load_check;
pub mod name;
pub mod retry;
pub mod scale;
pub mod schedule;
pub mod shaping;
pub mod time;
pub mod workflow;
