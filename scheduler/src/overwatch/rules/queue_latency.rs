//! Ready jobs of a queue wait longer than the objective: its own, or else the installation's.

use std::time::Duration;

use windlass_shared::model::alert::Severity;
use windlass_shared::model::time::Span;

use super::{Finding, Judged};
use crate::overwatch::look::Seen;

/// So many times the objective is critical.
const CRITICAL_TIMES: u32 = 10;

pub(super) fn judge(seen: &Seen) -> Judged {
    seen.judge_queues(|queue, stats| {
        let waits = stats.oldest_ready.map_or(Duration::ZERO, |at| stats.now.since(at));
        let own = queue.queue.settings.latency_objective;
        let objective = own.map_or(seen.objective, |span| span.0);
        let holds = waits > objective && queue.queue.paused.is_none();
        let critical = waits > objective * CRITICAL_TIMES;
        let severity = if critical { Severity::Critical } else { Severity::Warning };
        holds.then(|| {
            let whole = Duration::from_secs(waits.as_secs());
            let message =
                format!("the first job of queue {} waits for {}", queue.name(), Span(whole));
            Finding::new(queue.subject(), severity, message)
                .with("oldest_s", waits.as_secs())
                .with("objective_s", objective.as_secs_f64())
                .with("ready", stats.ready)
        })
    })
}

#[cfg(test)]
mod tests {
    use windlass_shared::ledger::Paused;

    use super::*;

    #[test]
    fn holds_past_the_objective_unless_paused() {
        let severity = |waits: Duration, paused: bool| {
            let mut seen =
                Seen::with_queue("q", |stats| stats.oldest_ready = Some(stats.now.minus(waits)));
            let pause = Paused { since: seen.now, by: "x".into(), reason: None };
            seen.queues[0].queue.paused = paused.then_some(pause);
            judge(&seen).unwrap().held.first().map(|f| f.severity)
        };
        let objective = Seen::nothing().objective;
        let more = Duration::from_micros(1);
        assert_eq!(severity(objective, false), None);
        assert_eq!(severity(objective + more, false), Some(Severity::Warning));
        assert_eq!(severity(objective * CRITICAL_TIMES + more, false), Some(Severity::Critical));
        assert_eq!(severity(objective + more, true), None);
    }
    #[test]
    fn a_queue_may_have_an_objective_of_its_own() {
        let holds = |waits: Duration, own: Option<Duration>| {
            let mut seen =
                Seen::with_queue("q", |stats| stats.oldest_ready = Some(stats.now.minus(waits)));
            seen.queues[0].queue.settings.latency_objective = own.map(Span);
            !judge(&seen).unwrap().held.is_empty()
        };
        let (shared, more) = (Seen::nothing().objective, Duration::from_micros(1));
        assert!(holds(shared / 2 + more, Some(shared / 2)));
        assert!(!holds(shared / 2, Some(shared / 2)));
        assert!(!holds(shared + more, Some(shared * 2)));
        assert!(holds(shared + more, None));
    }
}
