//! The worker against the embedded engine.

mod command;
mod fixture;
mod gates;
mod http;
mod leases;
mod life;
mod reports;
mod stopping;
