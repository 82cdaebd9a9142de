//! A Cluster as one of its nodes sees it: `CLUSTER NODES`.

use std::ops::RangeInclusive;

use anyhow::Context as _;

use super::super::redis::Redis;

/// A node as another, or it itself, sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Forty hexadecimal digits.
    pub id: String,
    /// Where clients reach it.
    pub port: u16,
    /// Where other nodes reach it.
    pub bus_port: u16,
    /// `myself`, `master`, `slave`, `fail?`, `fail`, `handshake` …
    pub flags: Vec<String>,
    /// The primary whose replica it is.
    pub follows: Option<String>,
    linked: bool,
    ranges: Vec<RangeInclusive<u16>>,
}

impl Node {
    /// Whether it is a primary that is not down.
    pub fn is_primary(&self) -> bool {
        self.has("master") && !self.has("fail")
    }

    /// Whether it is known, linked and not even suspected.
    pub fn is_well(&self) -> bool {
        let settled = !self
            .flags
            .iter()
            .any(|flag| matches!(flag.as_str(), "fail" | "fail?" | "handshake" | "noaddr"));
        settled && self.linked
    }

    /// Whether a slot is its own.
    pub fn serves(&self, slot: u16) -> bool {
        self.ranges.iter().any(|range| range.contains(&slot))
    }

    /// How many slots are its own.
    pub fn slots(&self) -> usize {
        self.ranges.iter().map(|range| range.len()).sum()
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|own| own == flag)
    }
}

/// All nodes that this one knows. Blocks for as long as it takes.
///
/// # Errors
/// It does not answer, or not as expected.
pub fn nodes(node: &Redis) -> anyhow::Result<Vec<Node>> {
    let text = node.command(&["CLUSTER", "NODES"])?.text();
    text.lines().map(|line| read(line).with_context(|| format!("a node: {line}"))).collect()
}

/// What a node says of itself.
///
/// # Errors
/// As [`nodes`].
pub fn myself(node: &Redis) -> anyhow::Result<Node> {
    let own = nodes(node)?.into_iter().find(|node| node.has("myself"));
    own.context("a node knows itself")
}

/// `<id> <ip>:<port>@<bus port>[,<host>] <flags> <primary or -> <ping> <pong> <epoch> <link> <slots>…`
fn read(line: &str) -> Option<Node> {
    let mut words = line.split_whitespace();
    let (id, address, flags) = (words.next()?, words.next()?, words.next()?);
    let follows = words.next().filter(|primary| *primary != "-");
    let linked = words.nth(3)? == "connected";
    let (_, ports) = address.split(',').next()?.rsplit_once(':')?;
    let (port, bus_port) = ports.split_once('@')?;
    // In brackets: slots on their way.
    let ranges = words.filter(|word| !word.starts_with('[')).map(|word| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    Some(Node {
        id: id.to_owned(),
        port: port.parse().ok()?,
        bus_port: bus_port.parse().ok()?,
        flags: flags.split(',').map(str::to_owned).collect(),
        follows: follows.map(str::to_owned),
        linked,
        ranges: ranges.collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_all_sorts_are_read() {
        let own = read("a1 127.0.0.1:1@2 myself,master - 0 17 3 connected 0-5 9 [9->-b2] [7-<-c3]");
        let own = own.unwrap();
        assert_eq!((own.id.as_str(), own.port, own.bus_port, own.slots()), ("a1", 1, 2, 7));
        assert!(own.is_primary() && own.is_well() && own.serves(5) && own.serves(9));
        assert!(!own.serves(6) && !own.serves(7));

        let replica = read("b2 127.0.0.1:3@4,host slave a1 0 17 3 connected").unwrap();
        assert_eq!((replica.follows.as_deref(), replica.slots()), (Some("a1"), 0));
        assert!(replica.is_well() && !replica.is_primary());

        let gone = read("c3 127.0.0.1:5@6 master,fail - 5 17 2 disconnected 10-11").unwrap();
        assert!(!gone.is_well() && !gone.is_primary() && gone.serves(10));
        let suspected = read("c3 127.0.0.1:5@6 master,fail? - 5 17 2 connected 10-11").unwrap();
        assert!(!suspected.is_well() && suspected.is_primary());
        assert_eq!(read("c3 nowhere master - 5 17 2 connected"), None);
    }
}
