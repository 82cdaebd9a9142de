//! Growing pauses between tries against something that is away.

use std::time::Duration;

use windlass_shared::backoff;
use windlass_shared::model::retry::{Jitter, RetryPolicy};
use windlass_shared::model::time::Span;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// From 50 ms, doubling up to 5 s, half of it random, so that a fleet does not return in step.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    failures: u32,
}

impl Pause {
    /// The pause after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let policy = RetryPolicy {
            initial: Span(FIRST),
            max: Span(LONGEST),
            jitter: Jitter::Equal,
            ..RetryPolicy::default()
        };
        backoff::delay(&policy, self.failures, rand::random())
    }

    /// It worked.
    pub(crate) const fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_start_anew() {
        let mut pause = Pause::default();
        assert!((FIRST / 2..=FIRST).contains(&pause.next()));
        for _ in 0..50 {
            assert!(pause.next() <= LONGEST);
        }
        assert!(pause.next() >= LONGEST / 2);
        pause.reset();
        assert!(pause.next() <= FIRST);
    }
}
