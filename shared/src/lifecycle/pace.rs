//! Turns at an even pace.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

/// What was lost while nobody asked for turns is made up for no longer than this, so that a commit that took long is not
/// followed by a burst.
const MADE_UP_MAX: Duration = Duration::from_millis(100);

/// Says when to begin: at most `rate × (w + 0.1 s) + 1` times in any span of time `w`, in order.
#[derive(Debug)]
pub(super) struct Pace {
    /// Between turns; none of a pace that nobody has set.
    interval: Duration,
    next: Instant,
}

impl Pace {
    /// So many turns per second; `None`: each at once. The first is at once.
    pub fn new(rate: Option<NonZeroU32>) -> Self {
        let interval = rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.get());
        Self { interval, next: Instant::now() }
    }

    /// When the next turn is, perhaps a moment ago. It is taken.
    pub fn turn(&mut self) -> Instant {
        let now = Instant::now();
        let turn = self.next.max(now.checked_sub(MADE_UP_MAX).unwrap_or(now));
        self.next = turn + self.interval;
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(rate: u32) -> Pace {
        Pace::new(NonZeroU32::new(rate))
    }

    /// Goal: turns are even, however often they are asked for.
    #[test]
    fn turns_are_even() {
        let (began, mut pace) = (Instant::now(), pace(500));
        let turns: Vec<Instant> = (0..=500).map(|_| pace.turn()).collect();
        assert!(turns[0] <= Instant::now() && turns[500] >= began + Duration::from_secs(1));
        for pair in turns.windows(2) {
            assert_eq!(pair[1] - pair[0], Duration::from_millis(2));
        }
    }

    /// Goal: what a slow caller lost is not made up by a burst.
    #[test]
    fn lost_time_is_not_made_up_by_a_burst() {
        let mut pace = pace(100);
        // As if the last turn had been five seconds ago.
        pace.next -= Duration::from_secs(5);
        let now = Instant::now();
        let turns: Vec<Instant> = (0..30).map(|_| pace.turn()).collect();
        let at_once = turns.iter().filter(|turn| **turn <= now).count();
        assert!((1..=11).contains(&at_once), "{at_once}");
        assert!(turns[29] >= now + Duration::from_millis(180));
    }

    #[test]
    fn without_a_rate_every_turn_is_at_once() {
        let mut pace = Pace::new(None);
        assert!((0..1_000).all(|_| pace.turn() <= Instant::now()));
    }
}
