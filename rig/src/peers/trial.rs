//! Which faults, to whom, and why not the others.

use super::Peer;

/// An experiment of `docs/rig.md` that makes sense for at least one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// kill -9 of one busy worker, again and again.
    E1,
    /// kill -9 of all workers at once, then restart.
    E2,
    /// kill -9 of Redis.
    E4,
    /// `FLUSHALL` with jobs waiting.
    E5,
    /// 5 % of what Redis holds of a queue deleted.
    E7,
    /// A worker stopped past its lease.
    E8,
    /// A handler that blocks its worker's executor.
    E9,
    /// Redis full.
    E13,
    /// PostgreSQL stopped with `-m immediate`.
    E17,
    /// PostgreSQL stands still.
    E18,
    /// Many clients, the same keys.
    E25,
}

/// How a subject is set for a trial; empty: as the settings page says.
pub type Variant = &'static str;

const NO_REDIS: &str = "has no Redis";
const NO_POSTGRES: &str = "runs on Redis here, its default";

/// Experiments of `docs/rig.md` that are run for Windlass alone, and why.
pub const NOT_RUN: [(&str, &str); 7] = [
    ("E3", "peers have no API process: a client library writes to the store itself"),
    ("E6", "E5 and E1 in one; what E5 loses needs no second fault"),
    ("E10, E11, E12", "stores of several nodes"),
    ("E14, E15, E16", "faults of links between a process and its store"),
    ("E19 to E24", "disks, clocks, schedules and poison jobs: not in the drivers"),
    ("E26 to E29", "overload and hostile requests: a library has no front door of its own"),
    ("E30", "peers run functions, not commands"),
];

impl Trial {
    /// All, in the order of 3B.
    pub const ALL: [Self; 11] = [
        Self::E1,
        Self::E2,
        Self::E4,
        Self::E5,
        Self::E7,
        Self::E8,
        Self::E9,
        Self::E13,
        Self::E17,
        Self::E18,
        Self::E25,
    ];

    /// As in `docs/rig.md`: `E1`.
    pub const fn id(self) -> &'static str {
        match self {
            Self::E1 => "E1",
            Self::E2 => "E2",
            Self::E4 => "E4",
            Self::E5 => "E5",
            Self::E7 => "E7",
            Self::E8 => "E8",
            Self::E9 => "E9",
            Self::E13 => "E13",
            Self::E17 => "E17",
            Self::E18 => "E18",
            Self::E25 => "E25",
        }
    }

    /// One line.
    pub const fn title(self) -> &'static str {
        match self {
            Self::E1 => "kill -9 of one busy worker, again and again",
            Self::E2 => "kill -9 of all workers at once, then restart",
            Self::E4 => "kill -9 of Redis (AOF everysec), started again after 2 s",
            Self::E5 => "FLUSHALL with many jobs waiting in a paused queue",
            Self::E7 => "5 % of the entries of a queue deleted from Redis",
            Self::E8 => "a worker stopped past its lease (SIGSTOP) and continued",
            Self::E9 => "handlers that block every thread of a worker's executor",
            Self::E13 => "Redis full (maxmemory, taken by a foreign key)",
            Self::E17 => "PostgreSQL stopped with -m immediate and started again",
            Self::E18 => "PostgreSQL stands still (SIGSTOP)",
            Self::E25 => "many clients submit the same keys, some with other bodies",
        }
    }

    /// The one with this id, in any case.
    pub fn find(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|trial| trial.id().eq_ignore_ascii_case(id))
    }

    /// How the subject is set, once for every run of it.
    ///
    /// # Errors
    /// Why the fault cannot be put to it.
    pub fn variants(self, peer: Peer) -> Result<&'static [Variant], &'static str> {
        let of_redis = matches!(self, Self::E4 | Self::E5 | Self::E7 | Self::E13);
        let of_postgres = matches!(self, Self::E17 | Self::E18);
        match (self, peer) {
            _ if of_redis && !peer.has_redis() => Err(NO_REDIS),
            _ if of_postgres && !peer.has_postgres() => Err(NO_POSTGRES),
            // With its own lock of 30 s jobs come back later, and a thread may be blocked for longer.
            (Self::E1, Peer::Bullmq) => Ok(&["", "defaults"]),
            // Sandboxes are what its documentation advises for handlers that block.
            (Self::E9, Peer::Bullmq) => Ok(&["", "defaults", "sandboxed"]),
            // The mode that keeps a key's first job; its documentation calls it very dangerous.
            (Self::E25, Peer::GraphileWorker) => Ok(&["", "unsafe_dedupe"]),
            _ => Ok(&[""]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trial_is_found_and_has_a_peer() {
        for trial in Trial::ALL {
            assert_eq!(Trial::find(&trial.id().to_lowercase()), Some(trial));
            assert!(trial.variants(Peer::Windlass).is_ok());
            let peers = [Peer::Bullmq, Peer::GraphileWorker];
            assert!(peers.into_iter().any(|peer| trial.variants(peer).is_ok()));
        }
        assert!(Trial::E4.variants(Peer::GraphileWorker).is_err());
        assert!(Trial::E17.variants(Peer::Bullmq).is_err());
    }
}
