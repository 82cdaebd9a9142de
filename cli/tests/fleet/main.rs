//! The three roles as separate processes of the real binary, on a private Redis and a private PostgreSQL:
//! what a user's installation does, faults included.

mod harness;
mod leads;

mod crash;
mod examples;
mod load_checks;
mod probes;
mod restored;
mod shaping;
mod submit;
mod workflows;
