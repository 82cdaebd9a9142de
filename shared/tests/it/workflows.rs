//! Runs on a real ledger (SQLite) and a real engine (embedded), with a worker that is played by hand: its jobs do what
//! their payload says.

mod failures;
mod items;
mod moves;
mod rig;
mod shapes;
mod waits;
