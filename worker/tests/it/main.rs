//! The worker against the embedded engine, and where it matters against a private Redis.

mod api;
mod circuits;
mod command;
mod fixture;
mod gates;
mod http;
mod leases;
mod life;
mod order;
mod rates;
mod recovery;
mod redis;
mod reports;
mod resume;
mod stopping;
