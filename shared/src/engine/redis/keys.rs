//! The names of a shard's keys.

use crate::engine::{ShardId, Topic};

/// In the order in which the scripts expect them; see `lua/shard.lua`.
const PARTS: [&str; 16] = [
    "meta", "jobs", "held", "ready", "delayed", "leases", "outbox", "tombs0", "tombs1", "flow",
    "timers", "idle", "rates", "facts", "refused", "reported",
];

/// Which keys a script reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// All but the last.
    Jobs,
    /// All.
    Gates,
}

/// `<prefix>:{<namespace>/<queue>/<index>}:`, what all names of a shard begin with. What is in braces
/// chooses the Cluster slot, so that one script reaches them all. Names hold no braces or slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys(String);

impl Keys {
    /// Of this shard.
    pub(super) fn new(prefix: &str, shard: &ShardId) -> Self {
        Self(format!("{prefix}:{{{shard}}}:"))
    }

    /// Puts the number of keys and the keys of a script's scope behind it.
    pub(super) fn fill(&self, cmd: &mut redis::Cmd, scope: Scope) {
        let parts = match scope {
            Scope::Jobs => &PARTS[..PARTS.len() - 1],
            Scope::Gates => &PARTS[..],
        };
        cmd.arg(parts.len());
        let mut name = self.0.clone();
        for part in parts {
            name.truncate(self.0.len());
            name.push_str(part);
            cmd.arg(&name);
        }
    }

    /// Every key of the shard.
    #[cfg(feature = "testkit")]
    pub(super) fn all(&self) -> Vec<String> {
        PARTS.iter().map(|part| format!("{}{part}", self.0)).collect()
    }

    /// The list of outcomes.
    pub(super) fn outbox(&self) -> String {
        format!("{}outbox", self.0)
    }

    /// How the names of the channels of the shard's signals begin.
    pub(super) fn signals(&self) -> String {
        format!("{}signals:", self.0)
    }

    /// The channel of one sort of the shard's signals, as `lua/shard.lua` names it.
    pub(super) fn channel(&self, topic: Topic) -> String {
        let letter = match topic {
            Topic::Ready => 'r',
            Topic::Outcomes => 'o',
            Topic::Cancels => 'c',
            Topic::Gates => 'g',
            Topic::Unverified => 'u',
        };
        format!("{}signals:{letter}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::{Namespace, QueueName};

    #[test]
    fn all_keys_of_a_shard_share_a_hash_tag() {
        let shard = ShardId::first(Namespace::default(), QueueName::default());
        let keys = Keys::new("w", &shard);
        assert_eq!(keys.outbox(), "w:{default/default/0}:outbox");
        let mut cmd = redis::Cmd::new();
        keys.fill(&mut cmd, Scope::Gates);
        let names = cmd.args_iter().skip(1).map(|arg| match arg {
            redis::Arg::Simple(name) => String::from_utf8(name.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        });
        let names: Vec<_> = names.collect();
        assert_eq!(names.len(), PARTS.len());
        assert!(names.iter().all(|name| name.starts_with("w:{default/default/0}:")), "{names:?}");
    }
}
