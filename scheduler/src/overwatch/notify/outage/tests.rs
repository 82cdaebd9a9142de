use tokio_util::task::TaskTracker;
use windlass_shared::clock::Clock;
use windlass_shared::config::{Channel, EngineSettings, LedgerSettings};
use windlass_shared::engine::Engine;
use windlass_shared::ledger::Epoch;
use windlass_shared::ledger::alerts::LookNote;
use windlass_shared::model::alert::Severity;
use windlass_shared::model::id::WorkerId;

use super::super::hook::hook;
use super::*;

struct Rig {
    life: Lifecycle,
    epoch: Epoch,
    _folder: tempfile::TempDir,
}

impl Rig {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
        let settings = LedgerSettings::new(url);
        Ledger::migrate(&settings).await.unwrap();
        let ledger = Ledger::open(&settings).await.unwrap();
        let term = Duration::from_secs(600);
        let epoch = ledger.lead(WorkerId::generate(), "test", term).await.unwrap().unwrap();
        let engine = Engine::open(&EngineSettings::new("embedded")).await.unwrap();
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let life = Lifecycle::start(ledger, engine, Clock::System, shutdown, tasks);
        let rig = Self { life, epoch, _folder: folder };
        rig.looks().await;
        rig
    }

    /// Somebody looks.
    async fn looks(&self) {
        let note = LookNote {
            alerts: Vec::new(),
            dropped: Vec::new(),
            summary: "{}".into(),
            receivers: Vec::new(),
            forget_before: Timestamp::default(),
        };
        assert!(self.life.ledger().note_look(self.epoch, note).await.unwrap());
    }

    /// A scheduler that watches at a fast pace, and tells one webhook.
    fn scheduler(&self, port: u16) -> tokio::task::JoinSet<()> {
        let url = format!("http://127.0.0.1:{port}/").into();
        let receiver = ReceiverSettings {
            name: "hook".into(),
            min_severity: Severity::Warning,
            channel: Channel::Webhook { url, secret: None },
        };
        let settings = OverwatchSettings {
            interval: Duration::from_millis(10),
            receivers: vec![receiver],
            ..OverwatchSettings::default()
        };
        let (soon, again) = (Duration::from_millis(50), Duration::from_millis(20));
        let bounds = Bounds { hold: soon, clear: soon, again };
        let mut set = tokio::task::JoinSet::new();
        set.spawn(watch(self.life.clone(), settings, "scheduler-1".into(), bounds));
        set
    }

    async fn tamper(&self, sql: &str) {
        self.life.ledger().tamper(sql.to_owned()).await.unwrap();
    }
}

/// Goal: a ledger that does not answer, and a look that stays out, are told once each, and so are their ends; a receiver
/// that refused the message gets it later.
#[tokio::test]
async fn outages_are_told_without_a_leader() {
    let rig = Rig::start().await;
    let (port, mut taken) = hook(1).await;
    let mut first = rig.scheduler(port);
    // What a database that is away looks like: no answer to what is asked.
    rig.tamper("ALTER TABLE overwatch RENAME TO away").await;
    let (first_id, event) = taken.next().await;
    assert_eq!(event, "opened ledger_away");
    rig.tamper("ALTER TABLE away RENAME TO overwatch").await;
    assert_eq!(taken.next().await.1, "ended ledger_away");
    rig.tamper("UPDATE overwatch SET judged_at = judged_at - 3600000000").await;
    let (second_id, event) = taken.next().await;
    assert_eq!(event, "opened leader_absent");
    assert_ne!(first_id, second_id);
    // A scheduler that starts meanwhile tells the same, under the same id.
    first.shutdown().await;
    let _second = rig.scheduler(port);
    assert_eq!(taken.next().await, (second_id.clone(), event));
    rig.looks().await;
    assert_eq!(taken.next().await.1, "ended leader_absent");
    // Nothing was told twice: the next is of another outage, as is the clock that was set back.
    rig.tamper("UPDATE overwatch SET judged_at = judged_at + 3600000000").await;
    let (third_id, event) = taken.next().await;
    assert_eq!(event, "opened leader_absent");
    assert!(third_id != second_id && third_id != first_id);
}
