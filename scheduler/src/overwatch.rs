//! Overwatch: the leader's eye over the installation.
//!
//! A look sees ([`look`]), the rules judge what was seen ([`rules`]), a pure function turns that into changes of alerts
//! ([`decide`]), and one statement under the leader's epoch writes them. Nothing between two looks is kept in this
//! process: `since`, what pends and what was told are rows, so a change of leader forgets nothing. Receivers are told
//! from these rows alone ([`notify`]).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::time::timeout;
use windlass_shared::config::OverwatchSettings;
use windlass_shared::ledger::alerts::LookNote;
use windlass_shared::ledger::duties::Who;
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::alert::AlertState;
use windlass_shared::model::time::Timestamp;

use crate::board::Duty;
use crate::steady::{Reading, Steady};
use crate::ticker::{Ticks, leading};

mod decide;
mod look;
pub mod notify;
mod rules;
mod summary;

/// Longest tick.
const LONGEST: Duration = Duration::from_secs(60);
/// Longest look of it: what earlier looks found is told within the tick as well.
const LOOK_LONGEST: Duration = Duration::from_secs(50);
/// Ended alerts are kept for so long.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// An alert that ended so short a time ago has come back when its rule holds again.
const CAME_BACK: Duration = Duration::from_secs(3600);

/// Looks at the installation while this process leads, until `shutdown`.
pub(crate) async fn run(
    life: Lifecycle,
    settings: OverwatchSettings,
    steady: Steady,
    ticks: Ticks,
) {
    work(life, settings, steady, ticks, LOOK_LONGEST).await;
}

async fn work(
    life: Lifecycle,
    settings: OverwatchSettings,
    steady: Steady,
    ticks: Ticks,
    look_longest: Duration,
) {
    let watch = tokio::sync::Mutex::new(Watch::new(&settings, steady));
    // Once in a process, whose settings stay.
    let duty: &'static Duty = Box::leak(Box::new(Duty {
        name: "overwatch",
        what: "judges the installation, keeps alerts, and tells receivers of them",
        interval: settings.interval,
        batch: look::QUEUES_MAX,
        longest: LONGEST,
        who: Who::Leader,
    }));
    let looking = leading(duty, &ticks, |epoch| {
        let (life, settings, watch, lead) = (&life, &settings, &watch, &ticks.lead);
        async move {
            let mut watch = watch.lock().await;
            let looked = timeout(look_longest, watch.look(life, epoch, settings)).await;
            // What an earlier look found is told, however this one went.
            watch.notifier.start(life, lead, epoch).await;
            looked.with_context(|| format!("the look took longer than {look_longest:?}"))?
        }
    });
    let mut lead = ticks.lead.clone();
    let forgetting = async {
        loop {
            lead.changed().await;
            if lead.epoch().is_none() {
                gauges(&HashMap::new());
            }
        }
    };
    tokio::select! {
        () = looking => {}
        () = forgetting => {}
    }
    watch.into_inner().notifier.stop().await;
}

/// What one process keeps between looks: nothing that counts.
struct Watch {
    summary: summary::Sums,
    looker: look::Looker,
    notifier: notify::Notifier,
    steady: Steady,
}

impl Watch {
    fn new(settings: &OverwatchSettings, steady: Steady) -> Self {
        Self {
            summary: summary::Sums::default(),
            looker: look::Looker::new(settings),
            notifier: notify::Notifier::new(settings.clone()),
            steady,
        }
    }

    /// One look; how many alerts it changed.
    async fn look(
        &mut self,
        life: &Lifecycle,
        epoch: windlass_shared::ledger::Epoch,
        settings: &OverwatchSettings,
    ) -> anyhow::Result<u64> {
        let started = Instant::now();
        let seen = self.looker.look(life).await?;
        let known = life.ledger().alerts(seen.now.minus(CAME_BACK)).await?;
        let judged = rules::RULES.iter().map(|rule| (rule.code, (rule.judge)(&seen))).collect();
        let decision = decide::decide(&known, judged, seen.now);
        let is_steady = self.steady.trusts(Reading::of(life.ledger()).await?);
        self.summary.refresh(life, seen.now).await?;
        let summary = self.summary.of(&seen, settings.interval, started.elapsed());
        let changed = decision.changed;
        let mut active: HashMap<&str, u64> = HashMap::new();
        for alert in decision.live.iter().filter(|alert| alert.state == AlertState::Active) {
            *active.entry(alert.severity.as_str()).or_default() += 1;
        }
        gauges(&active);
        let note = LookNote {
            alerts: decision.write,
            dropped: decision.dropped,
            summary: serde_json::to_string(&summary)?,
            receivers: settings.receivers.iter().map(|receiver| receiver.name.clone()).collect(),
            forget_before: if is_steady { seen.now.minus(KEPT) } else { Timestamp::default() },
        };
        if !life.ledger().note_look(epoch, note).await? {
            tracing::info!("another scheduler leads: what this look found is left to it");
            return Ok(0);
        }
        Ok(changed)
    }
}

fn gauges(active: &HashMap<&str, u64>) {
    for severity in ["info", "warning", "critical"] {
        let count = active.get(severity).copied().unwrap_or_default();
        metrics::gauge!("windlass_alerts_active", "severity" => severity).set(count as f64);
    }
}

#[cfg(test)]
mod tests;
