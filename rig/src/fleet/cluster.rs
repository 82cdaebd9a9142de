//! A Redis Cluster on one host: three primaries that share the slots, each with a replica.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use windlass_shared::testkit::redis_server::process::free_port;

use super::redis::{Fsync, Redis};
use super::topology::PRIMARY;
use crate::until::until;

pub mod reshard;
pub mod view;

use view::Node;

const PRIMARIES: usize = 3;
const NODES: usize = 2 * PRIMARIES;
/// Slots of any Cluster.
pub const SLOTS: u16 = 16_384;
/// A primary that is silent for this long is replaced.
const NODE_TIMEOUT_MS: &str = "2000";
/// Longest wait until all nodes find it whole.
const WHOLE_MAX: Duration = Duration::from_secs(60);

/// The nodes of a Cluster beside the first one.
#[derive(Debug)]
pub struct Cluster {
    /// Two primaries, and then the replicas of all three in their order, until a failover.
    pub others: Vec<Redis>,
}

impl Cluster {
    /// The first primary, and the others.
    pub(super) async fn start(fleet: &Path, fsync: Fsync) -> anyhow::Result<(Redis, Self)> {
        let first = node(fleet, "redis", fsync).await?;
        let mut others = Vec::new();
        for n in 1..NODES {
            others.push(node(fleet, &format!("redis-{n}"), fsync).await?);
        }
        let cluster = Self { others };
        let all: Vec<&Redis> = std::iter::once(&first).chain(&cluster.others).collect();
        share_slots(&all[..PRIMARIES])?;
        introduce(&all).await?;
        follow(&all).await?;
        cluster.whole(&first).await?;
        Ok((first, cluster))
    }

    /// The address that the roles are given: all nodes.
    pub fn url(&self, first: &Redis) -> String {
        let nodes = std::iter::once(first).chain(&self.others);
        let hosts: Vec<String> = nodes.map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// Waits until every node finds the Cluster whole: all slots served, no node down, and a replica that follows behind
    /// each primary.
    ///
    /// # Errors
    /// Not in time.
    pub async fn whole(&self, first: &Redis) -> anyhow::Result<()> {
        let whole = until(WHOLE_MAX, || async {
            let mut nodes = std::iter::once(first).chain(&self.others);
            nodes.all(|node| finds_whole(node).unwrap_or(false)).then_some(())
        });
        let view = || first.command(&["CLUSTER", "NODES"]).map(|reply| reply.text());
        whole.await.with_context(|| format!("the Cluster is not whole:\n{:?}", view()))
    }

    /// The primary of a slot as a living node sees it, unless that one is down.
    ///
    /// # Errors
    /// That node does not answer, or nobody serves the slot.
    pub fn owner(&self, seen_by: &Redis, slot: u16) -> anyhow::Result<Node> {
        let nodes = view::nodes(seen_by)?;
        let owner = nodes.into_iter().find(|node| node.is_primary() && node.serves(slot));
        owner.with_context(|| format!("nobody serves slot {slot}"))
    }
}

/// The slot of a key.
///
/// # Errors
/// The node does not answer.
pub fn slot_of(node: &Redis, key: &str) -> anyhow::Result<u16> {
    Ok(node.command(&["CLUSTER", "KEYSLOT", key])?.text().parse()?)
}

async fn node(fleet: &Path, name: &str, fsync: Fsync) -> anyhow::Result<Redis> {
    let bus = free_port().to_string();
    let [delay, none] = PRIMARY;
    let own = ["--cluster-enabled", "yes", "--cluster-node-timeout", NODE_TIMEOUT_MS];
    let more: Vec<&str> = own.into_iter().chain(["--cluster-port", &bus, delay, none]).collect();
    Redis::start(name, fleet, fsync, &more).await
}

/// Gives each primary its part of the slots.
fn share_slots(primaries: &[&Redis]) -> anyhow::Result<()> {
    let (count, slots) = (primaries.len(), usize::from(SLOTS));
    for (n, node) in primaries.iter().enumerate() {
        let (first, last) = (slots * n / count, slots * (n + 1) / count - 1);
        // Without epochs of their own the nodes would have to settle whose word counts.
        node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()])?;
        node.command(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()])?;
    }
    Ok(())
}

/// Introduces all nodes to each other: each pair, so that nobody waits for the gossip, which may take long.
async fn introduce(nodes: &[&Redis]) -> anyhow::Result<()> {
    for (place, node) in nodes.iter().enumerate() {
        let (port, bus) = (node.port().to_string(), view::myself(node)?.bus_port.to_string());
        for earlier in &nodes[..place] {
            earlier.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])?;
        }
    }
    let acquainted = until(WHOLE_MAX, || async {
        let knows_all = |node: &&Redis| {
            view::nodes(node).is_ok_and(|known| {
                known.len() == nodes.len() && known.iter().all(|node| node.is_well())
            })
        };
        nodes.iter().all(knows_all).then_some(())
    });
    acquainted.await.context("the nodes do not get acquainted")
}

/// Makes the later half of the nodes replicas of the earlier half.
async fn follow(nodes: &[&Redis]) -> anyhow::Result<()> {
    let (primaries, replicas) = nodes.split_at(PRIMARIES);
    for (primary, replica) in primaries.iter().zip(replicas) {
        let id = view::myself(primary)?.id;
        replica.command(&["CLUSTER", "REPLICATE", &id])?;
    }
    Ok(())
}

fn finds_whole(node: &Redis) -> anyhow::Result<bool> {
    let state = node.command(&["CLUSTER", "INFO"])?.text();
    if !state.contains("cluster_state:ok") {
        return Ok(false);
    }
    if node.replication("role")? == "slave" && node.replication("master_link_status")? != "up" {
        return Ok(false);
    }
    let nodes = view::nodes(node)?;
    let well = nodes.len() == NODES && nodes.iter().all(Node::is_well);
    let slots: usize = nodes.iter().map(Node::slots).sum();
    let has_replica = |primary: &Node| {
        nodes.iter().any(|other| other.follows.as_deref() == Some(primary.id.as_str()))
    };
    let mut primaries = nodes.iter().filter(|node| node.is_primary() && node.slots() > 0);
    Ok(well && slots == usize::from(SLOTS) && primaries.all(has_replica))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reshard::move_slots;
    use windlass_shared::testkit::redis_server::resp::Connection;

    #[tokio::test]
    async fn slots_move_with_their_keys_and_a_replica_takes_over() {
        let folder = tempfile::tempdir().unwrap();
        let (mut first, cluster) = Cluster::start(folder.path(), Fsync::Off).await.unwrap();
        let slot = slot_of(&first, "{tag}").unwrap();
        let source = cluster.owner(&first, slot).unwrap();
        let mut old = Connection::open(source.port).unwrap();
        for n in 0..250 {
            old.call(&["SET", &format!("{{tag}}{n}"), "x"]).unwrap().expect_ok();
        }
        let nodes = view::nodes(&first).unwrap();
        let target = nodes.iter().find(|node| node.is_primary() && node.id != source.id).unwrap();
        let slots = [slot - 1, slot, slot + 1];
        let moved = move_slots(&first, &slots, target.port, Duration::ZERO).unwrap();
        assert_eq!((moved.slots, moved.keys), (3, 250));
        assert_eq!(cluster.owner(&first, slot).unwrap().id, target.id);
        let mut new = Connection::open(target.port).unwrap();
        assert_eq!(new.call(&["GET", "{tag}249"]).unwrap().text(), "x");
        assert!(old.call(&["GET", "{tag}0"]).unwrap().text().starts_with("MOVED"));
        let again = move_slots(&first, &slots, target.port, Duration::ZERO).unwrap();
        assert_eq!(again.slots, 0, "they are there already");

        let port = first.port();
        first.process().kill_9();
        let replaced = until(WHOLE_MAX, || async {
            let owner = cluster.owner(&cluster.others[0], 0).ok()?;
            (owner.port != port).then_some(())
        });
        replaced.await.unwrap();
        assert!(!finds_whole(&cluster.others[0]).unwrap(), "a node is down");
        first.restart().await.unwrap();
        cluster.whole(&first).await.unwrap();
    }
}
