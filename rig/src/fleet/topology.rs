//! What Redis is made of: one server, a pair, a pair that Sentinels watch, or a Cluster.

use std::path::Path;

use anyhow::Context as _;

use super::cluster::Cluster;
use super::redis::{Fsync, Place, Redis};
use super::replica::Replica;
use super::sentinel::Sentinels;

/// For servers with replicas: by default a primary waits for further ones before it begins to send.
pub(super) const PRIMARY: [&str; 2] = ["--repl-diskless-sync-delay", "0"];

/// What Redis is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Topology {
    /// One server.
    #[default]
    Single,
    /// A primary and a replica; whoever runs them promotes it and moves the address that the roles know.
    Replica,
    /// A primary and a replica, and three Sentinels that promote it.
    Sentinel,
    /// Three primaries, each with a replica.
    Cluster,
}

/// What stands beside the first server of a fleet.
#[derive(Debug)]
pub enum Beside {
    /// Nothing: it is the only one.
    Nothing,
    /// See [`Topology::Replica`].
    Replica(Replica),
    /// See [`Topology::Sentinel`].
    Sentinels(Sentinels),
    /// See [`Topology::Cluster`].
    Cluster(Cluster),
}

/// Starts all servers in the fleet's folder, the first one in a place of its own, and waits until they are acquainted: the
/// first one, and the others. A Cluster has all its nodes in the folder.
///
/// # Errors
/// `redis-server` is not on the path, or they do not get ready in time; their logs are in the folder.
pub async fn start(
    topology: Topology,
    fleet: &Path,
    place: Place,
    fsync: Fsync,
) -> anyhow::Result<(Redis, Beside)> {
    let first = async |more: &[&str]| Redis::start_at(place, fsync, more).await;
    match topology {
        Topology::Single => Ok((first(&[]).await?, Beside::Nothing)),
        Topology::Replica => {
            let first = first(&PRIMARY).await?;
            let replica = Replica::start(fleet, &first, fsync).await.context("the replica")?;
            Ok((first, Beside::Replica(replica)))
        }
        Topology::Sentinel => {
            let first = first(&PRIMARY).await?;
            let sentinels = Sentinels::start(fleet, &first, fsync).await;
            Ok((first, Beside::Sentinels(sentinels.context("the Sentinels")?)))
        }
        Topology::Cluster => {
            let (first, cluster) = Cluster::start(fleet, fsync).await.context("the Cluster")?;
            Ok((first, Beside::Cluster(cluster)))
        }
    }
}

impl Beside {
    /// The address that the roles are given (`engine.url`).
    pub fn url(&self, first: &Redis) -> String {
        match self {
            Self::Nothing => first.url(),
            Self::Replica(replica) => replica.url(),
            Self::Sentinels(sentinels) => sentinels.url(),
            Self::Cluster(cluster) => cluster.url(first),
        }
    }

    /// The replica.
    ///
    /// # Errors
    /// The fleet is of another topology.
    pub fn replica(&self) -> anyhow::Result<&Replica> {
        match self {
            Self::Replica(replica) => Ok(replica),
            _ => anyhow::bail!("the fleet has no replica"),
        }
    }

    /// The second server and the Sentinels.
    ///
    /// # Errors
    /// The fleet is of another topology.
    pub fn sentinels(&self) -> anyhow::Result<&Sentinels> {
        match self {
            Self::Sentinels(sentinels) => Ok(sentinels),
            _ => anyhow::bail!("the fleet has no Sentinels"),
        }
    }

    /// The other nodes of the Cluster.
    ///
    /// # Errors
    /// The fleet is of another topology.
    pub fn cluster(&self) -> anyhow::Result<&Cluster> {
        match self {
            Self::Cluster(cluster) => Ok(cluster),
            _ => anyhow::bail!("the fleet has no Cluster"),
        }
    }

    /// The servers beside the first one.
    pub fn servers(&self) -> &[Redis] {
        match self {
            Self::Nothing => &[],
            Self::Replica(replica) => std::slice::from_ref(&replica.server),
            Self::Sentinels(sentinels) => std::slice::from_ref(&sentinels.second),
            Self::Cluster(cluster) => &cluster.others,
        }
    }

    /// The same, to be hurt.
    pub fn servers_mut(&mut self) -> &mut [Redis] {
        match self {
            Self::Nothing => &mut [],
            Self::Replica(replica) => std::slice::from_mut(&mut replica.server),
            Self::Sentinels(sentinels) => std::slice::from_mut(&mut sentinels.second),
            Self::Cluster(cluster) => &mut cluster.others,
        }
    }
}
