//! The experiments of 3B: what is done to the fleet, and what is measured.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::figure::Figure;
use crate::fleet::links::Ways;
use crate::fleet::redis::Fsync;
use crate::fleet::topology::Topology;
use crate::fleet::{Fleet, FleetOptions};
use crate::load::plan::{Mix, QUEUES};
use crate::runner::{Scene, Seen};
use crate::schedules::Plan;
use crate::target::Target;

pub(crate) mod api;
mod api_clocks;
pub(crate) mod clocks;
mod cluster;
mod cron;
mod ends;
mod engine;
pub(crate) mod engine_clock;
mod full;
pub(crate) mod full_disk;
mod gaps;
pub(crate) mod herd;
mod hole;
mod keys;
mod leases;
pub(crate) mod ledger;
mod limits;
mod long;
pub(crate) mod measure;
mod overload;
mod poison;
pub(crate) mod power;
mod promotion;
mod replies;
mod sentinels;
mod slow;
mod stalls;
mod submissions;
pub(crate) mod tenants;
pub(crate) mod tree;
mod worker_clocks;
mod workers;

pub(crate) use keys::damage as damage_shard;
pub(crate) use power::Cut;

/// How long and how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// About 20 s, 60 jobs/s, 2 workers of 8 slots: for every change.
    Short,
    /// The figures of 3A: 300 jobs/s, 4 workers of 16 slots.
    Long,
}

impl Form {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
        }
    }

    /// One or the other.
    pub fn pick<T>(self, short: T, long: T) -> T {
        match self {
            Self::Short => short,
            Self::Long => long,
        }
    }
}

/// The target and the load of an experiment.
#[derive(Debug, Clone)]
pub struct Setup<O = FleetOptions> {
    /// The processes; the binaries are filled in later.
    pub fleet: O,
    /// What is submitted.
    pub mix: Mix,
    /// Whether a queue is paused half of the time.
    pub pauses: bool,
    /// The schedules that run beside the load.
    pub schedules: Plan,
    /// Load before the fault.
    pub warm: Duration,
    /// Load after heal.
    pub after: Duration,
}

impl Setup {
    /// 3A, and a small version of it.
    pub fn standard(form: Form) -> Self {
        let mut mix = Mix::standard(form.pick(60.0, 300.0));
        if form == Form::Short {
            // Nothing that is longer than the experiment.
            (mix.long_ms, mix.delay_ms) = (2_000, (500, 3_000));
        }
        let fleet = FleetOptions {
            windlass: PathBuf::new(),
            rig: PathBuf::new(),
            apis: 2,
            workers: form.pick(2, 4),
            slots: form.pick(8, 16),
            schedulers: 2,
            queues: QUEUES.map(str::to_owned).to_vec(),
            queues_of_first: Vec::new(),
            topology: Topology::Single,
            fsync: Fsync::EverySecond,
            postgres: Vec::new(),
            env: BTreeMap::new(),
            synced_effects: false,
            ways: Ways::Direct,
            seed: 0,
            initdb: Vec::new(),
            own_env: BTreeMap::new(),
            disk: None,
        };
        let seconds = |short, long| Duration::from_secs(form.pick(short, long));
        let schedules = Plan::BESIDE;
        Self { fleet, mix, pauses: true, schedules, warm: seconds(5, 20), after: seconds(5, 30) }
    }
}

/// One experiment.
pub trait Experiment<T: Target = Fleet>: Sync {
    /// As in 3B: `E1`.
    fn id(&self) -> &'static str;

    /// One line.
    fn title(&self) -> &'static str;

    /// Target and load.
    fn setup(&self, form: Form) -> Setup<T::Options> {
        T::standard(form)
    }

    /// Files that the target needs, and settings that name them.
    ///
    /// # Errors
    /// They cannot be written.
    fn files(&self, _folder: &Path, _options: &mut T::Options) -> anyhow::Result<()> {
        Ok(())
    }

    /// Hurts it and heals it. The load goes on meanwhile.
    ///
    /// # Errors
    /// The rig failed.
    fn fault<'a>(&'a self, scene: &'a mut Scene<T>) -> BoxFuture<'a, anyhow::Result<()>>;

    /// What can only be done once everything has ended.
    ///
    /// # Errors
    /// The rig failed.
    fn after_drain<'a>(&'a self, _scene: &'a mut Scene<T>) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// What is measured beside what always is.
    fn figures(&self, scene: &Scene<T>, seen: &Seen<'_>) -> Vec<Figure>;
}

/// All of a fleet, in the order of 3B. Those of `dev` are in [`crate::dev::experiments`].
pub fn all() -> Vec<&'static dyn Experiment> {
    vec![
        &workers::KillOne,
        &workers::KillAll,
        &api::KillInWindow,
        &engine::KillRedis,
        &engine::Wipe,
        &engine::WipeAndKill,
        &keys::LoseKeys,
        &stalls::Freeze,
        &stalls::Spin,
        &promotion::Promote,
        &sentinels::FailOver,
        &cluster::LoseNode,
        &full::Full,
        &slow::Slow,
        &hole::Hole,
        &replies::LostReplies,
        &ledger::Restart,
        &ledger::Stall,
        &full_disk::FullDisk,
        &api_clocks::ApiClocks,
        &worker_clocks::WorkerClocks,
        &engine_clock::EngineClock,
        &cron::LeaderAtEdges,
        &poison::PoisonJobs,
        &api::SameKeys,
        &overload::Overload,
        &herd::Herd,
        &tree::Escape,
        &limits::Limits,
        &tenants::Tenants,
        &power::PowerCutOfBoth,
    ]
}

/// The one with this id, in any case.
pub fn find<T: Target>(
    among: &[&'static dyn Experiment<T>],
    id: &str,
) -> Option<&'static dyn Experiment<T>> {
    among.iter().copied().find(|experiment| experiment.id().eq_ignore_ascii_case(id))
}
