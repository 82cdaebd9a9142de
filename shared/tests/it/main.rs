//! Integration tests of the shared crate, one module per subject.

mod cron_oracle;
mod engine_compare;
mod engine_embedded;
mod engine_histories;
mod lifecycle;
mod lifecycle_faults;
mod postgres;
mod postgres_faults;
mod postgres_rights;
mod redis_damage;
mod redis_faults;
mod redis_gates;
mod redis_histories;
mod redis_outages;
mod redis_rig;
mod redis_rights;
mod redis_silence;
mod redis_strangers;
mod redis_suite;
mod replaced_ledger;
mod schedules;
mod sqlite;
mod sqlite_faults;
mod sqlite_scene;
mod verify;
mod workflows;
