//! Which queues exist, as far as this process has seen. Queues are never deleted, so what was seen stays
//! true.
//!
//! Anybody may ask for work of queues by any name, again and again: only names that were not seen are looked
//! up, and one that does not exist is looked up once in a while, however many ask for it.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;

use crate::engine::ShardId;
use crate::ledger::Ledger;
use crate::model::name::{Namespace, QueueName};

/// Queues remembered; beyond it the one that was seen first makes room.
const SEEN_MAX: usize = 10_000;
/// Names remembered that were looked up of late; beyond it the oldest makes room.
const ASKED_MAX: usize = 10_000;
/// A name is not looked up again within this time.
const ASKED_TTL: Duration = Duration::from_secs(1);
/// Names looked up at once for one caller.
const LOOKUPS_MAX: usize = 4;

type Name = (Namespace, QueueName);

/// Queues that were seen in the ledger.
#[derive(Default)]
pub(super) struct KnownQueues {
    memo: Mutex<Memo>,
}

impl KnownQueues {
    /// Those of the shards whose queue exists. Asks the ledger for each name that was neither seen before nor
    /// looked up within the last second. A ledger that does not answer leaves it at what was seen. May be
    /// dropped: what it was about to look up counts as looked up.
    pub(super) async fn among(&self, ledger: &Ledger, shards: &[ShardId]) -> Vec<ShardId> {
        self.among_at(ledger, shards, Instant::now()).await
    }

    async fn among_at(&self, ledger: &Ledger, shards: &[ShardId], now: Instant) -> Vec<ShardId> {
        let names: Vec<Name> =
            shards.iter().map(|shard| (shard.namespace.clone(), shard.queue.clone())).collect();
        let unseen = self.lock().take_unseen(&names, now);
        let lookups = unseen.into_iter().map(|name| async move {
            let queue = ledger.queue(&name.0, &name.1).await;
            queue.map(|queue| queue.map(|_| name))
        });
        let mut lookups = futures::stream::iter(lookups).buffer_unordered(LOOKUPS_MAX);
        // The first error ends it: the other lookups would wait for the same ledger.
        while let Some(Ok(found)) = lookups.next().await {
            if let Some(name) = found {
                self.lock().seen.insert(name);
            }
        }
        let memo = self.lock();
        let is_seen = |(_, name): &(&ShardId, &Name)| memo.seen.names.contains(*name);
        shards.iter().zip(&names).filter(is_seen).map(|(shard, _)| shard.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Memo> {
        self.memo.lock().expect("nothing panics while holding it")
    }
}

struct Memo {
    seen: Newest,
    asked: Newest,
    /// When each of `asked` was looked up, in its order.
    asked_at: VecDeque<Instant>,
}

impl Default for Memo {
    fn default() -> Self {
        Self {
            seen: Newest::new(SEEN_MAX),
            asked: Newest::new(ASKED_MAX),
            asked_at: VecDeque::new(),
        }
    }
}

impl Memo {
    /// Those of the names that are to be looked up now; from now on they count as looked up, so that nobody
    /// else does the same meanwhile.
    fn take_unseen(&mut self, names: &[Name], now: Instant) -> Vec<Name> {
        while self.asked_at.pop_front_if(|at| *at + ASKED_TTL <= now).is_some() {
            self.asked.remove_oldest();
        }
        let mut unseen = Vec::new();
        for name in names {
            if self.seen.names.contains(name) || !self.asked.insert(name.clone()) {
                continue;
            }
            self.asked_at.push_back(now);
            // The oldest has made room.
            if self.asked_at.len() > self.asked.order.len() {
                self.asked_at.pop_front();
            }
            unseen.push(name.clone());
        }
        unseen
    }
}

/// Names in the order in which they came; the oldest goes when there are too many.
struct Newest {
    names: HashSet<Name>,
    order: VecDeque<Name>,
    max: usize,
}

impl Newest {
    fn new(max: usize) -> Self {
        Self { names: HashSet::new(), order: VecDeque::new(), max }
    }

    /// Whether it was not there.
    fn insert(&mut self, name: Name) -> bool {
        if !self.names.insert(name.clone()) {
            return false;
        }
        self.order.push_back(name);
        if self.order.len() > self.max {
            self.remove_oldest();
        }
        true
    }

    fn remove_oldest(&mut self) {
        if let Some(oldest) = self.order.pop_front() {
            self.names.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LedgerSettings;
    use crate::ledger::QueueSettings;

    fn shard(queue: &str) -> ShardId {
        ShardId::first(Namespace::default(), queue.parse().unwrap())
    }

    fn name(n: usize) -> Name {
        (Namespace::default(), format!("q{n}").parse().unwrap())
    }

    async fn ledger_with(folder: &tempfile::TempDir, queues: &[&str]) -> Ledger {
        let url = format!("sqlite://{}/ledger.db", folder.path().display());
        let settings = LedgerSettings::new(url);
        Ledger::migrate(&settings).await.unwrap();
        let ledger = Ledger::open(&settings).await.unwrap();
        for queue in queues {
            create(&ledger, queue).await;
        }
        ledger
    }

    async fn create(ledger: &Ledger, queue: &str) {
        let (namespace, settings) = (Namespace::default(), QueueSettings::default());
        ledger.set_queue(&namespace, &queue.parse().unwrap(), None, &settings).await.unwrap();
    }

    /// Goal: a caller costs the ledger what it names, not the namespace's whole list.
    #[tokio::test]
    async fn only_what_is_named_is_looked_up() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = ledger_with(&folder, &["a", "b", "c"]).await;
        let known = KnownQueues::default();
        let asked = [shard("a"), shard("none"), shard("c"), shard("a")];
        let found = known.among(&ledger, &asked).await;
        assert_eq!(found, [shard("a"), shard("c"), shard("a")]);
        let seen: HashSet<_> = known.lock().seen.names.iter().map(|name| name.1.clone()).collect();
        assert_eq!(seen, HashSet::from(["a".parse().unwrap(), "c".parse().unwrap()]));
    }

    /// Goal: a name that does not exist is looked up once a second for all who ask for it, and found later on.
    #[tokio::test]
    async fn a_miss_is_shared_for_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = ledger_with(&folder, &[]).await;
        let (known, asked, now) = (KnownQueues::default(), [shard("new")], Instant::now());
        assert_eq!(known.among_at(&ledger, &asked, now).await, []);
        create(&ledger, "new").await;
        let just_before = now + ASKED_TTL - Duration::from_millis(1);
        assert_eq!(known.among_at(&ledger, &asked, just_before).await, [], "nobody asks again");
        assert_eq!(known.among_at(&ledger, &asked, now + ASKED_TTL).await, asked);
    }

    #[test]
    fn what_is_asked_for_at_the_same_time_is_looked_up_once() {
        let (mut memo, now) = (Memo::default(), Instant::now());
        assert_eq!(memo.take_unseen(&[name(1), name(1)], now), [name(1)]);
        assert_eq!(memo.take_unseen(&[name(1), name(2)], now), [name(2)]);
        memo.seen.insert(name(1));
        assert_eq!(memo.take_unseen(&[name(1), name(2)], now + ASKED_TTL), [name(2)]);
    }

    /// Goal: what is remembered is bounded, and one name too many costs one name.
    #[test]
    fn the_oldest_makes_room() {
        let (mut memo, now) = (Memo::default(), Instant::now());
        (0..=SEEN_MAX).for_each(|n| assert!(memo.seen.insert(name(n))));
        assert_eq!(memo.seen.names.len(), SEEN_MAX);
        assert_eq!(memo.take_unseen(&[name(0), name(1), name(SEEN_MAX)], now), [name(0)]);

        let others: Vec<Name> = (0..ASKED_MAX).map(|n| name(SEEN_MAX + 1 + n)).collect();
        assert_eq!(memo.take_unseen(&others, now).len(), ASKED_MAX);
        assert_eq!((memo.asked.names.len(), memo.asked_at.len()), (ASKED_MAX, ASKED_MAX));
        assert_eq!(memo.take_unseen(&[name(0)], now), [name(0)], "it was the oldest");
        assert_eq!(memo.take_unseen(&others[1..], now), []);
    }
}
