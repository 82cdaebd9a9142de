//! Looks as the tests of rules need them.

use windlass_shared::ledger::QueueSettings;
use windlass_shared::model::id::WorkerId;

use super::*;

impl Seen {
    /// An installation in which nothing is wrong, and nothing is.
    pub(crate) fn nothing() -> Self {
        Self {
            now: Timestamp::from_millis(1_700_000_000_000),
            ledger: Duration::from_millis(1),
            engine: Ok(Duration::from_millis(1)),
            unfit: None,
            queues: Vec::new(),
            listed_all: true,
            workers: Ok(Vec::new()),
            recent: Ok(HashMap::new()),
            troubles: Ok(ScheduleTroubles::default()),
            receivers: Ok(Vec::new()),
            duties: Ok(Vec::new()),
            upkeep: Ok(LastUpkeep::new()),
            backups: None,
            space: Ok(Space { used: 1 << 20, free: None }),
            free_min: 1 << 30,
            size_max: None,
            objective: Duration::from_secs(60),
        }
    }

    /// With a queue of namespace `default`.
    pub(crate) fn with_queue(name: &str, change: impl FnOnce(&mut ShardStats)) -> Self {
        let nothing = Self::nothing();
        let mut stats = ShardStats {
            ready: 0,
            delayed: 0,
            leased: 0,
            outbox: 0,
            bytes: 0,
            refused: 0,
            oldest_ready: None,
            settings: None,
            open: true,
            now: nothing.now,
        };
        change(&mut stats);
        let queue = Queue {
            namespace: Namespace::default(),
            name: name.parse().unwrap(),
            settings: QueueSettings::default(),
            version: 1,
            circuits: Default::default(),
            paused: None,
            created_at: nothing.now,
        };
        let seen = QueueSeen {
            queue,
            stats: Some(stats),
            circuits: Some(Vec::new()),
            waiting: None,
            was_opened: Some(true),
        };
        Self { queues: vec![seen], ..nothing }
    }

    /// With these sums of a queue of namespace `default`.
    pub(crate) fn with_recent(name: &str, sums: Sums) -> Self {
        let key = (Namespace::default(), name.parse().unwrap());
        Self { recent: Ok(HashMap::from([(key, sums)])), ..Self::nothing() }
    }

    /// A worker of namespace `default` that serves nothing.
    pub(crate) fn worker(name: &str, seen_at: Timestamp) -> WorkerBeat {
        WorkerBeat {
            id: WorkerId::generate(),
            name: name.to_owned(),
            namespace: Namespace::default(),
            host: "h".to_owned(),
            version: "1".to_owned(),
            queues: Vec::new(),
            kinds: Vec::new(),
            concurrency: 1,
            running: 0,
            draining: false,
            started_at: seen_at,
            seen_at,
        }
    }
}

/// Goal: queues that the engine did not speak of are not among those that were judged.
#[test]
fn what_was_not_seen_was_not_judged() {
    let mut seen = Seen::with_queue("a", |_| {});
    let mut other = Seen::with_queue("b", |_| {});
    other.queues[0].stats = None;
    seen.queues.append(&mut other.queues);
    let judged = seen.judge_queues(|_, _| None).unwrap().judged;
    let a = (Some(Namespace::default()), "a".to_owned());
    assert_eq!(judged, Coverage::Only(HashSet::from([a])));
    seen.queues.pop();
    assert_eq!(seen.judge_queues(|_, _| None).unwrap().judged, Coverage::All);
    seen.queues[0].stats = None;
    assert!(seen.judge_queues(|_, _| None).is_err());
}
