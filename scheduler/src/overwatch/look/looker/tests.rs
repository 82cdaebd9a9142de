use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_shared::clock::Clock;
use windlass_shared::config::{Channel, LedgerSettings, ReceiverSettings};
use windlass_shared::engine::Engine;
use windlass_shared::engine::embedded::Embedded;
use windlass_shared::ledger::alerts::TellNote;
use windlass_shared::ledger::{Ledger, QueueSettings, Submission};
use windlass_shared::model::alert::{Receiver, Severity};
use windlass_shared::model::id::WorkerId;
use windlass_shared::model::job::{NewJob, Value};
use windlass_shared::tap::EngineTap;

use super::*;

/// An engine that takes its time to speak of a queue.
struct Slow {
    engine: Arc<Embedded>,
    takes: Duration,
}

impl EngineTap for Slow {
    fn before(&self, call: &'static str) -> BoxFuture<'_, Result<Arc<Embedded>, EngineError>> {
        Box::pin(async move {
            if call == "stats" {
                tokio::time::sleep(self.takes).await;
            }
            Ok(Arc::clone(&self.engine))
        })
    }

    fn saw(&self, _: &'static str, _: &dyn Any) {}

    fn after(&self, _: &'static str) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }
}

struct Rig {
    life: Lifecycle,
    looker: Looker,
    _folder: tempfile::TempDir,
}

impl Rig {
    /// With queues `q0`, `q1` and so on, and an engine whose answer about one takes so long.
    async fn start(queues: usize, settings: QueueSettings, takes: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
        let ledger_settings = LedgerSettings::new(url);
        Ledger::migrate(&ledger_settings).await.unwrap();
        let ledger = Ledger::open(&ledger_settings).await.unwrap();
        for n in 0..queues {
            ledger.set_queue(&namespace(), &queue(n), None, &settings).await.unwrap();
        }
        let engine = Arc::new(Embedded::new(Clock::System));
        let engine = Engine::Tapped(Arc::new(Slow { engine, takes }));
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let life = Lifecycle::start(ledger, engine, Clock::System, shutdown, tasks);
        let looker = Looker::new(&OverwatchSettings::default());
        Self { life, looker, _folder: folder }
    }

    /// One look; the queues of which it says this.
    async fn which(&mut self, says: impl Fn(&QueueSeen) -> bool) -> HashSet<String> {
        let seen = self.looker.look(&self.life).await.unwrap();
        let queues = seen.queues.iter().filter(|queue| says(queue));
        queues.map(|queue| queue.name().to_owned()).collect()
    }
}

fn namespace() -> Namespace {
    Namespace::default()
}

fn queue(n: usize) -> QueueName {
    format!("q{n}").parse().unwrap()
}

fn jobs(n: usize, queue: &QueueName) -> Submission {
    let payload = || Value::Inline(Bytes::from_static(b"null"));
    let job = || NewJob::new(namespace(), queue.clone(), "k".parse().unwrap(), payload());
    Submission { jobs: (0..n).map(|_| job()).collect(), atomic: false, idempotency: None }
}

/// Goal: on an engine too slow to speak of all queues within a look, each is judged in its turn.
#[tokio::test]
async fn queues_that_one_look_did_not_reach_are_reached_by_the_next() {
    const QUEUES: usize = 100;
    let mut rig = Rig::start(QUEUES, QueueSettings::default(), Duration::from_millis(20)).await;
    rig.looker.bounds.queues_time = Duration::from_millis(40);
    let mut judged = rig.which(|queue| queue.stats.is_some()).await;
    assert!(judged.len() < QUEUES / 2, "one look takes {}", judged.len());
    // Each look reaches as many as are asked about at once.
    for _ in 0..QUEUES / AT_ONCE {
        judged.extend(rig.which(|queue| queue.stats.is_some()).await);
    }
    assert_eq!(judged.len(), QUEUES);
}

#[tokio::test]
async fn of_more_queues_than_a_look_takes_each_has_its_turn() {
    let mut rig = Rig::start(7, QueueSettings::default(), Duration::ZERO).await;
    rig.looker.bounds.queues = 3;
    let mut judged = HashSet::new();
    for _ in 0..3 {
        let seen = rig.looker.look(&rig.life).await.unwrap();
        assert!((!seen.listed_all, seen.queues.len()) == (true, 3), "nobody may take it for all");
        judged.extend(seen.queues.iter().map(|queue| queue.name().to_owned()));
    }
    assert_eq!(judged.len(), 7);
}

/// Goal: waiting jobs are counted in every queue with a depth, some in each look, and only where the engine's figures
/// leave a question.
#[tokio::test]
async fn depths_are_counted_in_turn() {
    let settings = QueueSettings { max_depth: Some(2), ..QueueSettings::default() };
    let mut rig = Rig::start(5, settings, Duration::ZERO).await;
    for n in 0..5 {
        rig.life.ledger().submit(jobs(2, &queue(n))).await.unwrap();
    }
    rig.looker.bounds.counted = 2;
    let mut full = HashSet::new();
    for _ in 0..3 {
        let found = rig.which(|queue| queue.waiting == Some(2)).await;
        assert_eq!(found.len(), 2);
        full.extend(found);
    }
    assert_eq!(full.len(), 5);
    rig.looker.bounds.counted_time = Duration::ZERO;
    let unjudged = rig.which(|queue| queue.waiting.is_none()).await;
    assert_eq!(unjudged.len(), 5, "there is no time for any");
}

#[tokio::test]
async fn gates_are_looked_up_in_turn_and_remembered() {
    let mut rig = Rig::start(5, QueueSettings::default(), Duration::ZERO).await;
    rig.looker.bounds.counted = 2;
    let mut known = HashSet::new();
    for _ in 0..3 {
        let found = rig.which(|queue| queue.was_opened == Some(false)).await;
        assert_eq!(found.len(), 2, "nobody has opened one yet, so that each is asked about again");
        known.extend(found);
    }
    assert_eq!(known.len(), 5);
    let sql = "INSERT INTO shards (namespace, queue, shard, generation, changed_at) \
               SELECT namespace, name, 0, 1, 0 FROM queues";
    rig.life.ledger().tamper(sql.to_owned()).await.unwrap();
    for expected in [2, 4, 5] {
        let found = rig.which(|queue| queue.was_opened == Some(true)).await;
        assert_eq!(found.len(), expected, "what was open once is not asked about again");
    }
}

/// Goal: what became of sends to a receiver that is not in the settings is nobody's concern any more.
#[tokio::test]
async fn receivers_out_of_the_settings_are_not_seen() {
    let mut rig = Rig::start(0, QueueSettings::default(), Duration::ZERO).await;
    let ledger = rig.life.ledger();
    let term = Duration::from_secs(30);
    let epoch = ledger.lead(WorkerId::generate(), "test", term).await.unwrap().unwrap();
    let now = ledger.now().await.unwrap();
    for name in ["here", "gone"] {
        let receiver = Receiver { failures: 9, ..Receiver::new(name, now) };
        let note = TellNote { receiver, told: Vec::new() };
        assert!(ledger.note_told(epoch, note).await.unwrap());
    }
    let receiver = ReceiverSettings {
        name: "here".into(),
        min_severity: Severity::Info,
        channel: Channel::Slack { url: SecretString::from("http://127.0.0.1:9/") },
    };
    let settings = OverwatchSettings { receivers: vec![receiver], ..OverwatchSettings::default() };
    rig.looker = Looker::new(&settings);
    let seen = rig.looker.look(&rig.life).await.unwrap();
    let names: Vec<_> = seen.receivers.unwrap().into_iter().map(|r| r.name).collect();
    assert_eq!(names, ["here"]);
}

#[tokio::test]
async fn the_room_of_a_file_and_its_volume_is_seen() {
    let mut rig = Rig::start(0, QueueSettings::default(), Duration::ZERO).await;
    let seen = rig.looker.look(&rig.life).await.unwrap();
    let space = seen.space.unwrap();
    assert!(space.used > 4_096 && space.free.is_some_and(|free| free > 0), "{space:?}");
}
