//! What every scheduler tells by itself: that it has no answer from the ledger, and that nobody looks at the
//! installation. Of these no leader can write an alert down, or there is none.
//!
//! Nothing of it is on record. Each process tells each receiver once when an outage has begun and once when it is over,
//! under ids that all processes reckon alike from what they have read of the latest look: so a receiver that keeps ids
//! can drop what another process has told it. When every scheduler is gone, nobody tells.

use std::collections::HashMap;
use std::time::Duration;

use rand::Rng as _;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use windlass_shared::config::{OverwatchSettings, ReceiverSettings};
use windlass_shared::ledger::Ledger;
use windlass_shared::ledger::alerts::ToldRow;
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::alert::{Alert, AlertState, Receiver, Stage};
use windlass_shared::model::health::Summary;
use windlass_shared::model::id::AlertId;
use windlass_shared::model::time::Timestamp;

use super::message::Message;
use super::send::Sender;
use super::{AGAIN_MAX, count, plan, stage_of};

mod watch;

use watch::{Bounds, Sight, Watch};

/// The ledger has to answer within this.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// What is over is tried to be told for so long.
const TOLD_WITHIN: Duration = Duration::from_secs(6 * 3600);

/// Watches, and tells, until `shutdown`. `name` is the scheduler's.
pub(crate) async fn run(
    life: Lifecycle,
    settings: OverwatchSettings,
    name: String,
    shutdown: CancellationToken,
) {
    if settings.receivers.is_empty() {
        return;
    }
    // Dropped in the midst of a message: it may have been sent, and is not sent again.
    let _ = shutdown.run_until_cancelled(watch(life, settings, name, Bounds::default())).await;
}

async fn watch(life: Lifecycle, settings: OverwatchSettings, name: String, bounds: Bounds) {
    let mut watch = Watch::new(life.ledger().id(), name, bounds);
    let receivers = settings.receivers.iter().map(|receiver| Telling::new(receiver, bounds.again));
    let mut receivers: Vec<Telling> = receivers.collect();
    loop {
        let spread = rand::rng().random_range(0.9..1.1);
        tokio::time::sleep(settings.interval.mul_f64(spread)).await;
        let sight = look(life.ledger()).await;
        let now = life.clock().now();
        watch.see(sight, Instant::now(), now);
        watch.forget(now.minus(TOLD_WITHIN));
        let telling =
            receivers.iter_mut().map(|receiver| receiver.tell(&life, watch.alerts(), now));
        futures::future::join_all(telling).await;
    }
}

async fn look(ledger: &Ledger) -> Sight {
    let reading = async { tokio::try_join!(ledger.now(), ledger.judged()) };
    let Ok(Ok((now, judged))) = timeout(ANSWER_MAX, reading).await else {
        return Sight::Away;
    };
    match judged {
        None => Sight::Unlooked,
        Some(judged) => {
            // One that looked later than now did so by a clock that was set back since.
            let age = now.since(judged.at).max(judged.at.since(now));
            let is_fresh = age <= Summary::read(&judged.summary).fresh_for();
            Sight::Looked { epoch: judged.epoch, at: judged.at, is_fresh }
        }
    }
}

/// One receiver, and what it was told by this process.
struct Telling {
    settings: ReceiverSettings,
    again: Duration,
    told: HashMap<AlertId, ToldRow>,
    failures: u32,
    next_try: Option<Instant>,
}

impl Telling {
    fn new(settings: &ReceiverSettings, again: Duration) -> Self {
        let (settings, told) = (settings.clone(), HashMap::new());
        Self { settings, again, told, failures: 0, next_try: None }
    }

    /// Tells what it was not told yet, unless it failed to take something a short time ago.
    async fn tell(&mut self, life: &Lifecycle, alerts: &[Alert], now: Timestamp) {
        self.told.retain(|id, row| {
            let known = alerts.iter().find(|alert| alert.id == *id);
            // One that has come back before anybody looked has its id again, and is told again.
            known.is_some_and(|a| a.state == AlertState::Ended || row.stage == Stage::Opened)
        });
        let receiver = Receiver::new(&self.settings.name, Timestamp::default());
        let reading = plan::Reading {
            receiver: &receiver,
            min_severity: self.settings.min_severity,
            // Every process would remind.
            remind_every: Duration::MAX,
            now,
        };
        let items = plan::plan(alerts, &self.told, &reading);
        if items.is_empty() || self.next_try.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let name = &self.settings.name;
        let message = Message::of(life.ledger().id(), name, &items, &HashMap::new(), now);
        let sent = match Sender::new(&self.settings.channel) {
            Ok(sender) => sender.send(&message).await,
            Err(why) => Err(why),
        };
        if let Err(why) = sent {
            count(name, "failed");
            if self.failures == 0 {
                tracing::warn!(receiver = name, why, "a receiver was not notified of an outage");
            }
            let pause = self.again.saturating_mul(2u32.saturating_pow(self.failures.min(10)));
            self.failures = self.failures.saturating_add(1);
            self.next_try = Some(Instant::now() + pause.min(AGAIN_MAX));
            return;
        }
        count(name, "sent");
        (self.failures, self.next_try) = (0, None);
        for item in items {
            let stage = stage_of(item.what);
            let row =
                ToldRow { alert: item.alert.id, stage, severity: item.alert.severity, at: now };
            self.told.insert(row.alert, row);
        }
    }
}

#[cfg(test)]
mod tests;
