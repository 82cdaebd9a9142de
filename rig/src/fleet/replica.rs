//! A primary with a replica behind it, and one address for both: as behind a virtual address or a load balancer that an
//! operator moves.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use super::redis::{Fsync, Redis};
use super::topology::PRIMARY;
use crate::tools::proxy::{Faults, Proxy, ProxyOptions};
use crate::until::until;

/// Longest wait for the replica to have what the primary has.
const IN_STEP_MAX: Duration = Duration::from_secs(30);

/// The replica of the fleet's first server.
#[derive(Debug)]
pub struct Replica {
    /// The replica itself.
    pub server: Redis,
    /// Its way to the primary.
    link: Proxy,
    /// The roles' way to whichever server is the primary.
    front: Proxy,
}

impl Replica {
    pub(super) async fn start(fleet: &Path, primary: &Redis, fsync: Fsync) -> anyhow::Result<Self> {
        let front = Proxy::start(ProxyOptions::to(address(primary))).await?;
        let link = Proxy::start(ProxyOptions::to(address(primary))).await?;
        let port = link.address().port().to_string();
        let [delay, none] = PRIMARY;
        let more = [delay, none, "--replicaof", "127.0.0.1", &port];
        let server = Redis::start("redis-replica", fleet, fsync, &more).await?;
        let replica = Self { server, link, front };
        replica.in_step(primary).await?;
        Ok(replica)
    }

    /// The address that the roles know; it leads to the first server until [`Self::promote`].
    pub fn url(&self) -> String {
        format!("redis://{}", self.front.address())
    }

    /// Waits until the replica has what the primary has now.
    ///
    /// # Errors
    /// It does not follow in time.
    pub async fn in_step(&self, primary: &Redis) -> anyhow::Result<()> {
        let wanted = primary.offset()?;
        let follows = until(IN_STEP_MAX, || async {
            let is_linked = self.server.replication("master_link_status").ok()? == "up";
            (is_linked && self.server.offset().ok()? >= wanted).then_some(())
        });
        follows.await.context("the replica does not follow")
    }

    /// Cuts the way between the two; both live on, and the roles go on with the primary.
    ///
    /// # Errors
    /// The rig failed.
    pub async fn part(&self) -> anyhow::Result<()> {
        self.link.set(Faults { refuse: true, ..Faults::default() }).await?;
        self.link.cut();
        Ok(())
    }

    /// Bytes of commands that the primary has carried out and the replica does not have.
    ///
    /// # Errors
    /// One of them does not answer.
    pub fn lacks_bytes(&self, primary: &Redis) -> anyhow::Result<u64> {
        Ok(primary.offset()?.saturating_sub(self.server.offset()?))
    }

    /// Makes it the primary, and leads the roles to it. The old one must be gone: its connections are cut.
    ///
    /// # Errors
    /// It does not answer.
    pub fn promote(&self) -> anyhow::Result<()> {
        self.server.command(&["REPLICAOF", "NO", "ONE"])?;
        self.front.lead_to(address(&self.server));
        self.front.cut();
        Ok(())
    }
}

fn address(server: &Redis) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], server.port()))
}
