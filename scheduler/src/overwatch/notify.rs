//! Tells receivers of alerts, from what is on record alone: the alerts, and what each receiver was told last.
//!
//! Each receiver has a task of its own, so a slow one holds up no other. A message goes out, and then what it told is
//! written under the leader's epoch: a crash in between sends it again, under the same id where nothing else is to be
//! told meanwhile. While a receiver cannot be reached, nothing is written as told, so that it hears of what opened and
//! ended meanwhile, in one item.

use std::collections::HashMap;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::task::JoinHandle;
use windlass_shared::config::{OverwatchSettings, ReceiverSettings};
use windlass_shared::ledger::alerts::{TellNote, ToldRow};
use windlass_shared::ledger::{Epoch, LedgerError};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::alert::{Receiver, Stage};
use windlass_shared::model::time::Timestamp;

use crate::leader::Lead;

mod email;
#[cfg(test)]
pub(super) mod hook;
mod message;
pub(crate) mod outage;
mod plan;
mod send;

pub use send::try_all;

use message::Message;
use plan::What;
use send::Sender;

/// Pause after a send that failed; each time twice as long.
const AGAIN_MIN: Duration = Duration::from_secs(10);
const AGAIN_MAX: Duration = Duration::from_secs(600);
/// Messages to one receiver after one look; what is left goes with the next.
const MESSAGES_MAX: usize = 10;
/// Tries to write down what was told, before the lead is over.
const NOTE_TRIES: u32 = 3;
const NOTE_PAUSE: Duration = Duration::from_millis(300);
/// Longest wait for sends under way when the process stops.
const STOP_MAX: Duration = Duration::from_secs(5);
/// What ended longer ago is not told any more.
const TOLD_WITHIN: Duration = Duration::from_secs(6 * 24 * 3600);

/// Who is told, and what is under way to them.
pub(crate) struct Notifier {
    settings: OverwatchSettings,
    tasks: HashMap<String, JoinHandle<()>>,
}

impl Notifier {
    pub(super) fn new(settings: OverwatchSettings) -> Self {
        Self { settings, tasks: HashMap::new() }
    }

    /// Begins to tell each receiver that is not being told yet.
    pub(super) async fn start(&mut self, life: &Lifecycle, lead: &Lead, epoch: Epoch) {
        for settings in &self.settings.receivers {
            if let Some(task) = self.tasks.get_mut(&settings.name) {
                match task.now_or_never() {
                    None => continue,
                    Some(Ok(())) => {}
                    Some(Err(error)) => tracing::error!(%error, "a task that notifies panicked"),
                }
            }
            let telling = Telling {
                life: life.clone(),
                lead: lead.clone(),
                epoch,
                settings: settings.clone(),
                remind_every: self.settings.remind_every,
            };
            let task = tokio::spawn(async move {
                if let Err(error) = telling.tell().await {
                    tracing::warn!(%error, "a receiver cannot be told now: the ledger does not answer");
                }
            });
            self.tasks.insert(settings.name.clone(), task);
        }
    }

    /// Waits for what is under way; for a while.
    pub(super) async fn stop(self) {
        let ending = futures::future::join_all(self.tasks.into_values());
        // What was not written down is sent again.
        let _ = tokio::time::timeout(STOP_MAX, ending).await;
    }
}

/// One receiver's turn.
struct Telling {
    life: Lifecycle,
    lead: Lead,
    epoch: Epoch,
    settings: ReceiverSettings,
    remind_every: Duration,
}

impl Telling {
    async fn tell(self) -> Result<(), LedgerError> {
        let ledger = self.life.ledger();
        let now = ledger.now().await?;
        let known = ledger.receivers().await?;
        let Some(mut receiver) = known.into_iter().find(|r| r.name == self.settings.name) else {
            // From now on it is known: what ends later is told.
            let receiver = Receiver::new(&self.settings.name, now);
            ledger.note_told(self.epoch, TellNote { receiver, told: Vec::new() }).await?;
            return Ok(());
        };
        if receiver.next_try.is_some_and(|at| at > now) {
            return Ok(());
        }
        let alerts = ledger.alerts(now.minus(TOLD_WITHIN)).await?;
        let told: HashMap<_, _> =
            ledger.told(&receiver.name).await?.into_iter().map(|row| (row.alert, row)).collect();
        let reading = plan::Reading {
            receiver: &receiver,
            min_severity: self.settings.min_severity,
            remind_every: self.remind_every,
            now,
        };
        let items = plan::plan(&alerts, &told, &reading);
        if items.is_empty() {
            return Ok(());
        }
        let sender = match Sender::new(&self.settings.channel) {
            Ok(sender) => sender,
            Err(why) => return self.failed(&mut receiver, now, &why).await,
        };
        for items in items.chunks(message::ITEMS_MAX).take(MESSAGES_MAX) {
            if self.lead.epoch() != Some(self.epoch) {
                return Ok(());
            }
            let message = Message::of(ledger.id(), &receiver.name, items, &told, now);
            if let Err(why) = sender.send(&message).await {
                return self.failed(&mut receiver, now, &why).await;
            }
            count(&receiver.name, "sent");
            receiver = Receiver {
                failures: 0,
                failing_since: None,
                next_try: None,
                last_error: None,
                last_sent: Some(now),
                ..receiver
            };
            let rows = items.iter().map(|item| ToldRow {
                alert: item.alert.id,
                stage: stage_of(item.what),
                severity: item.alert.severity,
                at: now,
            });
            let note = TellNote { receiver: receiver.clone(), told: rows.collect() };
            if !self.note(note).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn failed(
        &self,
        receiver: &mut Receiver,
        now: Timestamp,
        why: &str,
    ) -> Result<(), LedgerError> {
        count(&receiver.name, "failed");
        // Once per outage, not once per try.
        if receiver.failures == 0 {
            tracing::warn!(
                receiver = receiver.name,
                why,
                "a receiver was not notified; will repeat"
            );
        }
        receiver.failures = receiver.failures.saturating_add(1);
        receiver.failing_since.get_or_insert(now);
        receiver.last_error = Some(why.to_owned());
        let pause = AGAIN_MIN.saturating_mul(2u32.saturating_pow(receiver.failures.min(10) - 1));
        receiver.next_try = Some(now.plus(pause.min(AGAIN_MAX)));
        self.note(TellNote { receiver: receiver.clone(), told: Vec::new() }).await?;
        Ok(())
    }

    /// Writes down what was told; more than one try, since otherwise it is told again.
    async fn note(&self, note: TellNote) -> Result<bool, LedgerError> {
        let mut tries = 1;
        loop {
            match self.life.ledger().note_told(self.epoch, note.clone()).await {
                Err(_) if tries < NOTE_TRIES => tokio::time::sleep(NOTE_PAUSE).await,
                done => return done,
            }
            tries += 1;
        }
    }
}

fn stage_of(what: What) -> Stage {
    match what {
        What::Opened | What::Escalated | What::Reminder => Stage::Opened,
        What::Ended | What::Passed => Stage::Ended,
    }
}

fn count(receiver: &str, result: &'static str) {
    let labels = [("receiver", receiver.to_owned()), ("result", result.to_owned())];
    metrics::counter!("windlass_notifications_total", &labels).increment(1);
}
