//! The experiments of 3B that make sense for `dev`. It has no server beside it and no link to one: E10 to E17 have
//! nothing to hurt. Its API, worker, scheduler and engine end together: E1 to E6 are one experiment, and E20 to E22 are
//! another. Nobody else can reach its engine (E7), and its handlers run elsewhere, so that none can block its executor
//! (E9).

use super::Dev;
use crate::experiments::{Experiment, api, tree};

mod clock;
mod disk;
mod freeze;
mod kill;
mod lock;
mod power;

/// All of them, in the order of 3B.
pub fn all() -> Vec<&'static dyn Experiment<Dev>> {
    vec![
        &kill::Kill,
        &freeze::Freeze,
        &lock::Lock,
        &disk::FullDisk,
        &clock::Clock,
        &api::SameKeys,
        &tree::Escape,
        &power::PowerCut,
    ]
}
