//! Integration tests of the shared crate, one module per subject.

mod engine_compare;
mod engine_histories;
mod sqlite;
mod sqlite_faults;
mod sqlite_scene;
