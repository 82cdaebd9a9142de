//! Moves slots from node to node while clients use them, by the steps that `redis-cli --cluster reshard` takes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use windlass_shared::testkit::redis_server::resp::{Connection, Reply};

use super::super::redis::Redis;
use super::view::{self, Node};

/// Keys that are moved by one command.
const BATCH: &str = "100";
/// Batches of one slot: far more than any experiment has keys.
const BATCHES_MAX: usize = 10_000;
/// Longest silence of the target while keys are moved, as `MIGRATE` takes it.
const MIGRATE_MAX_MS: &str = "5000";

/// What was moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Slots, empty ones included.
    pub slots: usize,
    /// Keys in them.
    pub keys: usize,
}

/// Moves these slots, one after the other, from whichever primary has them to the one at port `to`; slots that it has
/// already stay. A slot with keys stays half moved for `dwell`, as one with many large keys does: until it is moved whole,
/// clients get at neither half of a shard. Blocks for all that time: not for an async task.
///
/// # Errors
/// A node does not answer, or refuses a step; the slot may then be half moved.
pub fn move_slots(
    seen_by: &Redis,
    slots: &[u16],
    to: u16,
    dwell: Duration,
) -> anyhow::Result<Moved> {
    let primaries: Vec<Node> = view::nodes(seen_by)?.into_iter().filter(Node::is_primary).collect();
    let mut links = Links(BTreeMap::new());
    for node in &primaries {
        links.0.insert(node.port, Connection::open(node.port)?);
    }
    let target =
        primaries.iter().find(|node| node.port == to).context("the target is a primary")?;
    let mut moved = Moved::default();
    for slot in slots {
        let source = primaries.iter().find(|node| node.serves(*slot));
        let source = source.with_context(|| format!("nobody serves slot {slot}"))?;
        if source.id == target.id {
            continue;
        }
        let keys = move_slot(&mut links, *slot, source, target, dwell);
        moved.keys += keys.with_context(|| format!("slot {slot}"))?;
        moved.slots += 1;
    }
    Ok(moved)
}

/// One connection to each primary, by port.
struct Links(BTreeMap<u16, Connection>);

impl Links {
    fn call(&mut self, port: u16, words: &[&str]) -> anyhow::Result<Reply> {
        let link = self.0.get_mut(&port).context("a connection to each primary")?;
        let reply = link.call(words)?;
        if let Reply::Refused(why) = &reply {
            anyhow::bail!("{port} refuses {words:?}: {why}");
        }
        Ok(reply)
    }
}

/// How many keys it had.
fn move_slot(
    links: &mut Links,
    slot: u16,
    from: &Node,
    to: &Node,
    dwell: Duration,
) -> anyhow::Result<usize> {
    let name = slot.to_string();
    // The target first, so that whoever is sent there from now on is let in.
    links.call(to.port, &["CLUSTER", "SETSLOT", &name, "IMPORTING", &from.id])?;
    links.call(from.port, &["CLUSTER", "SETSLOT", &name, "MIGRATING", &to.id])?;
    let (port, mut moved) = (to.port.to_string(), 0);
    for _ in 0..BATCHES_MAX {
        // One at first, so that the others are still there meanwhile.
        let batch = if moved == 0 { "1" } else { BATCH };
        let found = links.call(from.port, &["CLUSTER", "GETKEYSINSLOT", &name, batch])?.text();
        let keys: Vec<&str> = found.lines().collect();
        if keys.is_empty() {
            return settle(links, &name, from, to).map(|()| moved);
        }
        let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", MIGRATE_MAX_MS, "KEYS"];
        words.extend(&keys);
        links.call(from.port, &words)?;
        if moved == 0 {
            std::thread::sleep(dwell);
        }
        moved += keys.len();
    }
    anyhow::bail!("more than {BATCHES_MAX} batches of keys")
}

/// Tells all primaries who has the slot now: the target first, or nobody would serve it for a moment.
fn settle(links: &mut Links, slot: &str, from: &Node, to: &Node) -> anyhow::Result<()> {
    let ports: Vec<u16> = links.0.keys().copied().collect();
    let others = ports.into_iter().filter(|port| *port != to.port && *port != from.port);
    for port in [to.port, from.port].into_iter().chain(others) {
        links.call(port, &["CLUSTER", "SETSLOT", slot, "NODE", &to.id])?;
    }
    Ok(())
}
