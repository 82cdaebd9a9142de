//! One of the three, with its processes.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::Peer;
use super::fleet::{NodeFleet, NodeOptions};
use super::install::Drivers;
use super::trial::Variant;
use crate::experiments::Setup;
use crate::fleet::Fleet;
use crate::fleet::postgres::Postgres;
use crate::fleet::process::Process;
use crate::fleet::redis::Redis;

/// A queue that is paused until a trial says otherwise.
pub const WAITING: &str = "rig-wait";
/// Served by the first worker only.
pub const SPIN: &str = "rig-spin";

/// A running subject. Its processes end with it.
#[derive(Debug)]
pub enum Subject {
    /// This product.
    Windlass(Box<Fleet>),
    /// A peer.
    Node(Box<NodeFleet>),
}

impl Subject {
    /// Starts it in `folder`, with as many workers and slots as `setup` says.
    ///
    /// # Errors
    /// It does not get ready.
    pub async fn start(
        folder: &Path,
        peer: Peer,
        variant: Variant,
        setup: &Setup,
        drivers: Option<&Drivers>,
    ) -> anyhow::Result<Self> {
        if peer == Peer::Windlass {
            let mut options = setup.fleet.clone();
            options.queues.push(WAITING.into());
            options.queues_of_first = vec![SPIN.into()];
            return Ok(Self::Windlass(Box::new(Fleet::start(folder, options).await?)));
        }
        let drivers = drivers.context("the drivers are installed before")?.clone();
        let (workers, slots) = (setup.fleet.workers, setup.fleet.slots);
        let options = NodeOptions { peer, variant, drivers, workers, slots };
        Ok(Self::Node(Box::new(NodeFleet::start(folder, options).await?)))
    }

    /// Where submissions go, in turn, and with which key.
    pub fn address(&self) -> (Vec<String>, String) {
        match self {
            Self::Windlass(fleet) => (fleet.urls.clone(), fleet.key.clone()),
            Self::Node(fleet) => (vec![fleet.url.clone()], String::new()),
        }
    }

    /// Its workers.
    pub fn workers(&mut self) -> &mut Vec<Process> {
        match self {
            Self::Windlass(fleet) => &mut fleet.workers,
            Self::Node(fleet) => &mut fleet.workers,
        }
    }

    /// Slots of one worker.
    pub fn slots_each(&self) -> usize {
        match self {
            Self::Windlass(fleet) => fleet.slots_each(),
            Self::Node(fleet) => fleet.slots as usize,
        }
    }

    /// Handlers that block all of a worker: the threads of our executor, and the one of Node.
    pub fn threads(&self) -> usize {
        match self {
            Self::Windlass(_) => {
                std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
            }
            Self::Node(_) => 1,
        }
    }

    /// Starts a worker in the place of one that was killed; its new name.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn replace_worker(&mut self, n: usize) -> anyhow::Result<String> {
        match self {
            Self::Windlass(fleet) => fleet.replace_worker(n),
            Self::Node(fleet) => fleet.replace_worker(n),
        }
    }

    /// Its Redis.
    ///
    /// # Errors
    /// It has none.
    pub fn redis(&mut self) -> anyhow::Result<&mut Redis> {
        match self {
            Self::Windlass(fleet) => Ok(&mut fleet.redis),
            Self::Node(fleet) => fleet.redis.as_mut().context("it has no Redis"),
        }
    }

    /// Its PostgreSQL.
    ///
    /// # Errors
    /// It has none.
    pub fn postgres(&mut self) -> anyhow::Result<&mut Postgres> {
        match self {
            Self::Windlass(fleet) => Ok(&mut fleet.postgres),
            Self::Node(fleet) => fleet.postgres.as_mut().context("it has no PostgreSQL"),
        }
    }

    /// Names of processes that have ended by themselves since the last call. A peer's are started again, as a supervisor
    /// would; ours never are.
    ///
    /// # Errors
    /// One cannot be started again.
    pub fn tend(&mut self) -> anyhow::Result<Vec<String>> {
        match self {
            Self::Windlass(fleet) => {
                let dead = fleet.dead();
                anyhow::ensure!(dead.is_empty(), "ended by itself: {dead:?}");
                Ok(dead)
            }
            Self::Node(fleet) => fleet.tend(),
        }
    }

    /// The effect log of a fleet in this folder.
    pub fn effects(folder: &Path) -> PathBuf {
        folder.join("effects.jsonl")
    }
}
