//! How submissions were answered in a part of an experiment.

use std::collections::HashMap;

use super::measure::mark;
use crate::history::{Call, Phase};
use crate::runner::Seen;

/// Tries of submissions that were sent in a time.
#[derive(Debug, Default)]
pub(super) struct Submissions {
    /// How long those took that were answered with 2xx, in seconds, the shortest first.
    pub(super) seconds: Vec<f64>,
    /// Those that were not.
    pub(super) refused: usize,
}

impl Submissions {
    /// Sent from one mark on and before the other.
    pub(super) fn between(seen: &Seen<'_>, from: &str, to: &str) -> Self {
        let mut found = Self::default();
        let (Some(from), Some(to)) = (mark(seen, from), mark(seen, to)) else { return found };
        let mut sent = HashMap::new();
        for event in &seen.evidence.history {
            if !matches!(event.call, Call::Submit { .. }) {
                continue;
            }
            match event.phase {
                Phase::Invoke if from <= event.at && event.at < to => {
                    sent.insert(event.op, event.at);
                }
                Phase::Invoke => {}
                phase => match sent.remove(&event.op) {
                    Some(at) if phase == Phase::Ok => {
                        found.seconds.push(event.at.seconds_since(at));
                    }
                    Some(_) => found.refused += 1,
                    None => {}
                },
            }
        }
        // Those that were never answered.
        found.refused += sent.len();
        found.seconds.sort_by(f64::total_cmp);
        found
    }

    /// The shortest time that this share of them did not exceed; `None`: there were fewer than a hundred, of which no
    /// such share can be told.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let place = (self.seconds.len() as f64 * share).ceil() as usize;
        (self.seconds.len() >= 100).then(|| self.seconds[place.max(1) - 1])
    }
}
