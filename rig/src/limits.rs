//! Whether limits held, from what ran and what started: promises I21 and I22. Pure; times are µs of one clock.

/// A limit of starts per time, as a queue has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Units per [`Self::per_us`].
    pub(crate) limit: u64,
    /// The time.
    pub(crate) per_us: u64,
    /// Units at once.
    pub(crate) burst: u64,
}

/// Something that started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Start {
    /// When.
    pub(crate) at_us: u64,
    /// What it cost.
    pub(crate) units: u64,
}

/// Something that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// From this instant on.
    pub(crate) from_us: u64,
    /// It did not run any more at this one.
    pub(crate) to_us: u64,
}

/// A time that is looked at, from one instant to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Its beginning.
    pub(crate) from_us: u64,
    /// Its end.
    pub(crate) to_us: u64,
}

impl Span {
    pub(crate) fn length_us(self) -> u64 {
        self.to_us.saturating_sub(self.from_us)
    }

    /// How long something ran within it.
    pub(crate) fn of_run_us(self, run: Run) -> u64 {
        run.to_us.min(self.to_us).saturating_sub(run.from_us.max(self.from_us))
    }
}

/// The most that ran at one instant.
pub(crate) fn most_at_once(runs: &[Run]) -> usize {
    let begins = runs.iter().map(|run| (run.from_us, 1));
    let ends = runs.iter().map(|run| (run.to_us, -1));
    // At one instant ends come before beginnings.
    let mut edges: Vec<(u64, i64)> = begins.chain(ends).collect();
    edges.sort_unstable();
    let counts = edges.iter().scan(0, |running, (_, edge)| {
        *running += edge;
        Some(*running)
    });
    usize::try_from(counts.max().unwrap_or(0)).unwrap_or(0)
}

/// Which share of what a limit allows was used in a time: 1 if as much as allowed ran all the time.
pub(crate) fn used_at_once(runs: &[Run], limit: usize, span: Span) -> Option<f64> {
    let ran_us: u64 = runs.iter().map(|run| span.of_run_us(*run)).sum();
    (span.length_us() > 0).then(|| ran_us as f64 / (span.length_us() * limit as u64) as f64)
}

impl Rate {
    /// So many per second.
    pub(crate) const fn per_second(limit: u64, burst: u64) -> Self {
        Self { limit, per_us: 1_000_000, burst }
    }

    /// The most units that started within the rate's time, both of its ends included. Allowed are its limit and its burst.
    pub(crate) fn most_in_its_time(self, starts: &[Start]) -> u64 {
        let starts = sorted(starts);
        let (mut most, mut within, mut first) = (0, 0, 0);
        for start in &starts {
            within += start.units;
            while starts[first].at_us + self.per_us < start.at_us {
                within -= starts[first].units;
                first += 1;
            }
            most = most.max(within);
        }
        most
    }

    /// Of all spans of time, however long or short, the most units that started in one beyond what the rate brings in as
    /// long a time. Allowed is the burst.
    pub(crate) fn most_ahead(self, starts: &[Start]) -> f64 {
        // In units × the rate's time, which are whole numbers: what started up to and with a start, less what the rate has
        // brought, against the least that it was right before a start.
        let brought = |at_us: u64| i128::from(at_us) * i128::from(self.limit);
        let (mut spent, mut least, mut most) = (0_i128, i128::MAX, 0_i128);
        for start in sorted(starts) {
            let before = spent - brought(start.at_us);
            least = least.min(before);
            let cost = i128::from(start.units) * i128::from(self.per_us);
            spent += cost;
            most = most.max(before + cost - least);
        }
        most as f64 / self.per_us as f64
    }

    /// Which share of what the rate brings in a time was used in it.
    pub(crate) fn used(self, starts: &[Start], span: Span) -> Option<f64> {
        let within = |start: &&Start| span.from_us <= start.at_us && start.at_us < span.to_us;
        let units: u64 = starts.iter().filter(within).map(|start| start.units).sum();
        let brought = span.length_us() as f64 * self.limit as f64 / self.per_us as f64;
        (brought > 0.0).then(|| units as f64 / brought)
    }
}

fn sorted(starts: &[Start]) -> Vec<Start> {
    let mut starts = starts.to_vec();
    starts.sort_unstable();
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(from_us: u64, to_us: u64) -> Run {
        Run { from_us, to_us }
    }

    fn at(at_us: u64) -> Start {
        Start { at_us, units: 1 }
    }

    /// 10 a second, and 3 at once.
    const RATE: Rate = Rate::per_second(10, 3);
    const STEP: u64 = 100_000;

    /// As fast as the rate allows: the burst, and one whenever there is one.
    fn fastest(count: u64) -> Vec<Start> {
        let burst = (0..RATE.burst).map(|_| at(7));
        burst.chain((1..=count).map(|n| at(7 + n * STEP))).collect()
    }

    #[test]
    fn what_follows_at_the_same_instant_does_not_overlap() {
        assert_eq!(most_at_once(&[run(0, 10), run(10, 20), run(5, 15)]), 2);
        assert_eq!(most_at_once(&[]), 0);
    }

    #[test]
    fn one_that_begins_a_microsecond_early_is_seen() {
        let runs = [run(0, 10), run(10, 20), run(5, 15)];
        assert_eq!(most_at_once(&[runs.as_slice(), &[run(14, 30)]].concat()), 3);
        // One that never ended runs on.
        assert_eq!(most_at_once(&[runs.as_slice(), &[run(3, u64::MAX)]].concat()), 3);
    }

    #[test]
    fn the_fastest_that_a_rate_allows_is_allowed() {
        let starts = fastest(50);
        assert_eq!(RATE.most_in_its_time(&starts), RATE.limit + RATE.burst);
        assert_eq!(RATE.most_ahead(&starts), RATE.burst as f64);
        // In whatever order they come, and after a time without starts.
        let mut starts: Vec<Start> = starts.into_iter().rev().collect();
        starts.extend(fastest(5).iter().map(|start| at(start.at_us + 60 * STEP)));
        assert_eq!(RATE.most_ahead(&starts), RATE.burst as f64);
    }

    #[test]
    fn one_more_is_seen_wherever_it_is() {
        for place in [0, 7, 1_234_567, 50 * STEP] {
            let mut starts = fastest(50);
            starts.push(at(place));
            assert!(RATE.most_ahead(&starts) > RATE.burst as f64, "at {place}");
        }
        let mut starts = fastest(50);
        starts.push(at(5 * STEP));
        assert_eq!(RATE.most_in_its_time(&starts), RATE.limit + RATE.burst + 1);
    }

    #[test]
    fn one_that_starts_a_microsecond_early_is_seen() {
        let mut starts = fastest(50);
        starts[20].at_us -= 1;
        assert!(RATE.most_ahead(&starts) > RATE.burst as f64);
    }

    #[test]
    fn a_burst_that_is_full_again_after_a_loss_is_seen() {
        // Used up at 0; lost, and full again, half a second later.
        let twice = [vec![at(0); 3], vec![at(500_000); 3]].concat();
        assert_eq!(RATE.most_ahead(&twice), 3.0, "half of the time brings 5 and needs only 3");
        let twice = [vec![at(0); 3], vec![at(200_000); 3]].concat();
        assert_eq!(RATE.most_ahead(&twice), 4.0);
    }

    #[test]
    fn a_start_counts_as_many_units_as_it_costs() {
        let starts = [at(0), Start { at_us: 0, units: 3 }];
        assert_eq!(RATE.most_ahead(&starts), 4.0);
        assert_eq!(RATE.most_in_its_time(&starts), 4);
    }

    #[test]
    fn what_was_used_is_told_of_the_time_alone() {
        let span = Span { from_us: 10, to_us: 30 };
        assert_eq!(used_at_once(&[run(0, 20), run(20, 40)], 2, span), Some(0.5));
        assert_eq!(used_at_once(&[], 2, Span { from_us: 5, to_us: 5 }), None);
        let starts = fastest(50);
        let span = Span { from_us: STEP, to_us: 11 * STEP };
        assert_eq!(RATE.used(&starts, span), Some(1.0));
        assert_eq!(RATE.used(&[], span), Some(0.0));
    }
}
