//! What this process knows of the installation: what the ledger says, or said last.
//!
//! It asks both stores itself, so it can tell when they are away; all else is what the leading scheduler wrote down.

use std::sync::Mutex;
use std::time::Duration;

use windlass_shared::ledger::alerts::Judged;
use windlass_shared::model::alert::catalogue::{LEADER_ABSENT, LEDGER_AWAY, entry_of};
use windlass_shared::model::alert::{Alert, AlertState};
use windlass_shared::model::health::Summary;
use windlass_shared::model::name::Namespace;
use windlass_shared::model::time::Timestamp;

use crate::app::App;
use crate::health;
use crate::views::system_health::{
    AlertView, QueueFigures, SystemComponent, SystemHealthView, WindowView,
};

/// The ledger has to answer within this.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Most alerts of an answer, the worst first.
const ALERTS_MAX: usize = 500;
const COMPONENTS: [&str; 9] = [
    "ledger",
    "engine",
    "recorder",
    "scheduler",
    "backups",
    "workers",
    "jobs",
    "schedules",
    "notifier",
];

/// What this process remembers.
#[derive(Default)]
pub struct Memory {
    inner: Mutex<Remembered>,
}

#[derive(Default, Clone)]
struct Remembered {
    record: Record,
    ledger_away_since: Option<Timestamp>,
    engine_away_since: Option<Timestamp>,
}

/// What the ledger said.
#[derive(Default, Clone)]
struct Record {
    alerts: Vec<Alert>,
    judged: Option<Judged>,
}

/// How the installation does, for a caller who is bound to a namespace or to none.
pub async fn look(app: &App, bound_to: Option<&Namespace>) -> SystemHealthView {
    let probes = health::check(app).await;
    let probe = |name: &str| probes.components.iter().find(|component| component.name == name);
    let is_ok = |name: &str| probe(name).is_some_and(|component| component.status == "ok");
    let (ledger_ok, engine_ok) = (is_ok("ledger"), is_ok("engine"));
    let read = match ledger_ok {
        true => tokio::time::timeout(ANSWER_MAX, read(app)).await.ok().flatten(),
        false => None,
    };
    let from_memory = read.is_none();
    // The ledger's time, or, while it is away, the nearest there is.
    let now = read.as_ref().map_or_else(|| app.life.clock().now(), |(now, _)| *now);
    let known = app.system.note(read.map(|(_, record)| record), engine_ok, now);

    let latency = |name: &str| probe(name).map(|component| component.latency_ms);
    let judged = known.record.judged.as_ref();
    let summary = judged.map(|judged| Summary::read(&judged.summary)).unwrap_or_default();
    let judged_at = judged.map(|judged| judged.at);
    let stale = judged_at.is_none_or(|at| now.since(at) > summary.fresh_for());

    let active = known.record.alerts.iter().filter(|alert| alert.state == AlertState::Active);
    let mut alerts: Vec<AlertView> =
        active.filter_map(|alert| AlertView::seen_by(alert, bound_to)).collect();
    alerts.extend(own_alerts(&known, &alerts, stale, judged_at, now));
    let rank = |severity: &str| match severity {
        "critical" => 0,
        "warning" => 1,
        _ => 2,
    };
    alerts.sort_by(|a, b| {
        let order = |alert: &AlertView| (rank(alert.severity), alert.since);
        order(a)
            .cmp(&order(b))
            .then_with(|| a.code.cmp(&b.code))
            .then_with(|| a.subject.cmp(&b.subject))
    });
    let components = COMPONENTS.map(|name| component(name, &alerts, latency(name)));
    let worst = components.iter().map(|component| component.status);
    let status =
        ["critical", "degraded"].into_iter().find(|word| worst.clone().any(|s| s == *word));
    let mut recommendations: Vec<String> = Vec::new();
    for advice in alerts.iter().filter_map(|alert| entry_of(&alert.code)).map(|entry| entry.advice)
    {
        if !recommendations.iter().any(|known| known == advice) {
            recommendations.push(advice.to_owned());
        }
    }
    alerts.truncate(ALERTS_MAX);
    SystemHealthView {
        status: status.unwrap_or("healthy"),
        judged_at,
        stale,
        from_memory,
        components: components.into(),
        alerts,
        recommendations,
        windows: windows(&summary, bound_to),
    }
}

/// `None`: the ledger does not answer.
async fn read(app: &App) -> Option<(Timestamp, Record)> {
    let ledger = app.life.ledger();
    // Of those that ended, none: nobody has seen an end that is still to come.
    let never = Timestamp::from_micros(i64::MAX);
    let (now, alerts, judged) =
        tokio::try_join!(ledger.now(), ledger.alerts(never), ledger.judged()).ok()?;
    Some((now, Record { alerts, judged }))
}

impl Memory {
    /// Takes over what was found out; what is known now.
    fn note(&self, record: Option<Record>, engine_ok: bool, now: Timestamp) -> Remembered {
        let mut known = self.inner.lock().expect("nothing panics while holding it");
        match record {
            Some(record) => {
                known.record = record;
                known.ledger_away_since = None;
            }
            None => {
                known.ledger_away_since.get_or_insert(now);
            }
        }
        if engine_ok {
            known.engine_away_since = None;
        } else {
            known.engine_away_since.get_or_insert(now);
        }
        known.clone()
    }
}

/// What this process sees for itself, and nobody has on record.
fn own_alerts(
    known: &Remembered,
    recorded: &[AlertView],
    stale: bool,
    judged_at: Option<Timestamp>,
    now: Timestamp,
) -> Vec<AlertView> {
    let mut own = Vec::new();
    if let Some(since) = known.ledger_away_since {
        let message = "the ledger does not answer: submissions are refused".to_owned();
        own.push(AlertView::own(LEDGER_AWAY, "critical", message, since, now));
    }
    if let Some(since) = known.engine_away_since
        && !recorded.iter().any(|alert| alert.code == "engine_away")
    {
        let message =
            "the queue store does not answer: nothing is started until it does".to_owned();
        own.push(AlertView::own("engine_away", "critical", message, since, now));
    }
    if stale {
        let since = judged_at.unwrap_or(now);
        let message = "no scheduler has looked at the installation for too long".to_owned();
        own.push(AlertView::own(LEADER_ABSENT, "warning", message, since, now));
    }
    own
}

fn component(name: &'static str, alerts: &[AlertView], latency_ms: Option<f64>) -> SystemComponent {
    let of_it: Vec<&AlertView> = alerts
        .iter()
        .filter(|alert| alert.component() == name && alert.severity != "info")
        .collect();
    // The worst comes first.
    let status = match of_it.first().map(|alert| alert.severity) {
        Some("critical") => "critical",
        Some(_) => "degraded",
        None => "healthy",
    };
    let detail = match &of_it[..] {
        [] => String::new(),
        [one] => one.message.clone(),
        [first, rest @ ..] => format!("{}; and {} more", first.message, rest.len()),
    };
    let since = of_it.iter().map(|alert| alert.since).min();
    SystemComponent { name, status, detail, since, latency_ms }
}

fn windows(summary: &Summary, bound_to: Option<&Namespace>) -> Vec<WindowView> {
    let is_seen = |namespace: &Namespace| bound_to.is_none_or(|bound| bound == namespace);
    let windows = summary.windows.iter().map(|window| {
        let overall = match bound_to {
            None => window.overall,
            Some(bound) => {
                let found = window.namespaces.iter().find(|(namespace, _)| namespace == bound);
                found.map(|(_, sums)| *sums).unwrap_or_default()
            }
        };
        let queues = window.queues.iter().filter(|(namespace, ..)| is_seen(namespace));
        let queues = queues.map(|(namespace, queue, sums)| QueueFigures {
            namespace: namespace.to_string(),
            queue: queue.to_string(),
            figures: sums.into(),
        });
        WindowView { hours: window.hours, overall: (&overall).into(), queues: queues.collect() }
    });
    windows.collect()
}

#[cfg(test)]
mod tests {
    use windlass_shared::model::alert::catalogue::ENTRIES;

    use super::*;

    #[test]
    fn every_alert_is_about_a_component() {
        for entry in ENTRIES {
            assert!(COMPONENTS.contains(&entry.component), "{}", entry.code);
        }
    }
}
