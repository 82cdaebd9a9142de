use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_shared::clock::Clock;
use windlass_shared::config::{Channel, LedgerSettings, ReceiverSettings};
use windlass_shared::engine::embedded::Embedded;
use windlass_shared::engine::{Engine, EngineError};
use windlass_shared::ledger::Ledger;
use windlass_shared::ledger::alerts::TellNote;
use windlass_shared::model::alert::{Alert, AlertKey, Receiver, Severity};
use windlass_shared::model::id::{AlertId, WorkerId};
use windlass_shared::tap::EngineTap;

use super::notify::hook::hook;
use super::*;
use crate::board::Board;
use crate::leader::Candidate;

/// An engine that never answers, and never says so.
struct Silent;

impl EngineTap for Silent {
    fn before(&self, _: &'static str) -> BoxFuture<'_, Result<Arc<Embedded>, EngineError>> {
        Box::pin(std::future::pending())
    }

    fn saw(&self, _: &'static str, _: &dyn Any) {}

    fn after(&self, _: &'static str) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Goal: what an earlier look found is told although no look comes to its end any more.
#[tokio::test]
async fn a_look_that_does_not_end_keeps_nobody_from_being_told() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
    let settings = LedgerSettings::new(url);
    Ledger::migrate(&settings).await.unwrap();
    let ledger = Ledger::open(&settings).await.unwrap();
    let epoch = ledger.lead(WorkerId::generate(), "past", LONGEST).await.unwrap().unwrap();
    let now = ledger.now().await.unwrap();
    let receiver = Receiver::new("hook", now);
    let key = AlertKey { code: "queue_latency".into(), namespace: None, subject: "q".into() };
    let alert = Alert {
        severity: Severity::Critical,
        evidence: BTreeMap::new(),
        ..Alert::in_outline(AlertId::generate(), key, AlertState::Active, None)
    };
    let look = LookNote {
        alerts: vec![alert],
        dropped: Vec::new(),
        summary: "{}".into(),
        receivers: Vec::new(),
        forget_before: now.minus(KEPT),
    };
    assert!(ledger.note_look(epoch, look).await.unwrap());
    assert!(ledger.note_told(epoch, TellNote { receiver, told: Vec::new() }).await.unwrap());
    ledger.resign(epoch).await.unwrap();

    let (port, mut taken) = hook(0).await;
    let url = format!("http://127.0.0.1:{port}/").into();
    let receiver = ReceiverSettings {
        name: "hook".into(),
        min_severity: Severity::Warning,
        channel: Channel::Webhook { url, secret: None },
    };
    let settings = OverwatchSettings {
        interval: Duration::from_millis(50),
        receivers: vec![receiver],
        ..OverwatchSettings::default()
    };
    let (holder, shutdown) = (WorkerId::generate(), CancellationToken::new());
    let (board, tasks) = (Board::new(holder), TaskTracker::new());
    let (candidate, lead) = Candidate::new(ledger.clone(), holder, "present".into(), board.clone());
    let engine = Engine::Tapped(Arc::new(Silent));
    let life = Lifecycle::start(ledger, engine, Clock::System, shutdown.clone(), tasks);
    let ticks = Ticks { lead, board, shutdown: shutdown.clone() };
    let mut set = tokio::task::JoinSet::new();
    set.spawn(candidate.run(shutdown.clone()));
    set.spawn(work(
        life,
        settings,
        Steady::after(Duration::ZERO),
        ticks.clone(),
        Duration::from_millis(50),
    ));
    assert_eq!(taken.next().await.1, "opened queue_latency");
    let failed = async {
        while ticks.board.one("overwatch").is_none_or(|note| note.failures == 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONGEST, failed).await.expect("each such look is a failure");
    shutdown.cancel();
    set.join_all().await;
}
