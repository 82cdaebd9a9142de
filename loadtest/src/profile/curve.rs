//! When calls come.

use std::time::Duration;

/// Times at which calls come, whether or not earlier ones were answered: a rate that goes evenly from one value to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Curve {
    /// Calls per second at the beginning.
    from: f64,
    /// And in the end.
    to: f64,
    /// In seconds; 0: all at once.
    length: f64,
    calls: u64,
}

impl Curve {
    /// From one rate to another, calls per second.
    pub fn ramp(from: f64, to: f64, length: Duration) -> Self {
        let length = length.as_secs_f64();
        // The area under the line.
        let calls = ((from + to) / 2.0 * length).round() as u64;
        Self { from, to, length, calls }
    }

    /// So many at the same moment.
    pub const fn burst(calls: u32) -> Self {
        Self { from: 0.0, to: 0.0, length: 0.0, calls: calls as u64 }
    }

    /// How many calls.
    pub const fn calls(&self) -> u64 {
        self.calls
    }

    /// How long, from its beginning.
    pub fn length(&self) -> Duration {
        Duration::from_secs_f64(self.length)
    }

    /// When call `n` (from 0) comes: when the area under the line is `n`, that is, where `from·t + (to - from)·t²/(2·length)` is
    /// `n`. Solved in the form that does not cancel.
    pub fn at(&self, n: u64) -> Duration {
        if self.length == 0.0 {
            return Duration::ZERO;
        }
        let slope = (self.to - self.from) / self.length;
        let area = n as f64;
        let root = (self.from * self.from + 2.0 * slope * area).max(0.0).sqrt();
        let below = self.from + root;
        let at = if below > 0.0 { 2.0 * area / below } else { 0.0 };
        Duration::from_secs_f64(at.min(self.length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_spread_evenly() {
        let curve = Curve::ramp(100.0, 100.0, Duration::from_secs(10));
        assert_eq!(curve.calls(), 1_000);
        assert_eq!(curve.at(0), Duration::ZERO);
        assert_eq!(curve.at(500), Duration::from_secs(5));
        assert_eq!(Curve::burst(7).calls(), 7);
        assert_eq!(Curve::burst(7).at(6), Duration::ZERO);
    }

    #[test]
    fn a_ramp_has_at_each_moment_the_rate_of_the_line() {
        for (from, to) in [(0.0, 200.0), (200.0, 0.0), (50.0, 250.0)] {
            let curve = Curve::ramp(from, to, Duration::from_secs(10));
            assert_eq!(curve.calls(), ((from + to) * 5.0) as u64);
            let mut last = Duration::ZERO;
            let mut seconds = [0u32; 10];
            for n in 0..curve.calls() {
                let at = curve.at(n);
                assert!(at >= last && at <= curve.length());
                last = at;
                seconds[(at.as_secs() as usize).min(9)] += 1;
            }
            for (second, calls) in seconds.into_iter().enumerate() {
                let planned = from + (to - from) * (second as f64 + 0.5) / 10.0;
                assert!((f64::from(calls) - planned).abs() <= 2.0, "{from}..{to}: {seconds:?}");
            }
        }
    }
}
