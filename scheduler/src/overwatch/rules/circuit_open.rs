//! Circuits of a queue are open for long: their dependency fails. What operators keep open is theirs to end.

use std::time::Duration;

use windlass_shared::model::alert::Severity;

use super::{Finding, Judged};
use crate::overwatch::look::Seen;

/// Most dependencies are back sooner.
const LONG: Duration = Duration::from_secs(300);
/// Circuits that are named in one alert.
const NAMED_MAX: usize = 5;

pub(super) fn judge(seen: &Seen) -> Judged {
    seen.judge_circuits(|queue, circuits| {
        let long: Vec<_> = circuits.iter().filter(|c| seen.now.since(c.since) >= LONG).collect();
        let first = long.iter().map(|circuit| circuit.since).min()?;
        let names: Vec<&str> = long.iter().take(NAMED_MAX).map(|c| c.name.as_str()).collect();
        let message = match long.as_slice() {
            [one] => format!("the circuit {} of queue {} stays open", one.name, queue.name()),
            many => format!("{} circuits of queue {} stay open", many.len(), queue.name()),
        };
        let finding = Finding::new(queue.subject(), Severity::Warning, message);
        Some(finding.with("circuits", names.join(", ")).with("open_since", first))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overwatch::look::OpenCircuit;

    #[test]
    fn holds_of_circuits_that_are_open_for_long() {
        let held = |ages: &[Duration]| {
            let mut seen = Seen::with_queue("q", |_| {});
            let circuit = |(n, age): (usize, &Duration)| OpenCircuit {
                name: format!("c{n}"),
                since: seen.now.minus(*age),
            };
            let circuits = ages.iter().enumerate().map(circuit).collect();
            seen.queues[0].circuits = Some(circuits);
            judge(&seen).unwrap().held.pop().map(|finding| finding.evidence["circuits"].clone())
        };
        let less = LONG - Duration::from_micros(1);
        assert_eq!(held(&[]), None);
        assert_eq!(held(&[less]), None);
        assert_eq!(held(&[less, LONG]).as_deref(), Some("c1"));
        assert_eq!(held(&[LONG; 6]).as_deref(), Some("c0, c1, c2, c3, c4"));
    }
}
