//! The same faults for peers: BullMQ and graphile-worker, beside Windlass, measured by the same code.
//!
//! Each subject runs the same jobs from the same seed in as many worker processes and slots, and its handlers leave the
//! same effect log. Peers are driven by small Node programs (`rig/peers/`), which are part of this binary and are
//! installed with npm on first use. What a subject is asked for is what all three can do: no workflows, no pauses of the
//! load, no store with fences.
//!
//! Read in this order: [`trial`] (what is done to whom), [`run`] (one trial from start to figures), [`subject`] and
//! [`fleet`] (the processes), [`fault`] (the faults), [`measure`] (the figures), [`sheet`] (the table).

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub mod command;
pub mod fault;
pub mod fleet;
pub mod install;
pub mod measure;
pub mod run;
pub mod sheet;
pub mod subject;
pub mod trial;

/// Who is put to the test.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// This product: Redis and PostgreSQL.
    Windlass,
    /// BullMQ: Redis.
    Bullmq,
    /// graphile-worker: PostgreSQL.
    GraphileWorker,
}

impl Peer {
    /// All, in the order of the table's columns.
    pub const ALL: [Self; 3] = [Self::Windlass, Self::Bullmq, Self::GraphileWorker];

    /// Its name, as its authors write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Windlass => "Windlass",
            Self::Bullmq => "BullMQ",
            Self::GraphileWorker => "graphile-worker",
        }
    }

    /// The folder of its driver; `None`: it needs none.
    pub const fn driver(self) -> Option<&'static str> {
        match self {
            Self::Windlass => None,
            Self::Bullmq => Some("bullmq"),
            Self::GraphileWorker => Some("graphile-worker"),
        }
    }

    /// Whether it keeps its jobs, or hands them out, in Redis.
    pub const fn has_redis(self) -> bool {
        matches!(self, Self::Windlass | Self::Bullmq)
    }

    /// Whether it keeps its jobs in PostgreSQL.
    pub const fn has_postgres(self) -> bool {
        matches!(self, Self::Windlass | Self::GraphileWorker)
    }
}
