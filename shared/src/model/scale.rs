//! How many slots a queue needs, so that 95 % of its jobs start within an objective.
//!
//! Two answers, of which the larger counts:
//! * For work that comes steadily: the fewest slots of Erlang's C formula (A. K. Erlang, 1917) with
//!   `P(wait > objective) = C(c, a) · e^(-(c - a) · objective / service) ≤ 5 %`, where `a` is arrival rate times service
//!   time. Arrivals that come in bursts are reckoned by Hayward's approximation: `a / z` and `c / z` for `a` and `c`,
//!   where `z` is their peakedness (A. A. Fredericks, "Congestion in blocking systems", Bell System Technical Journal 59,
//!   1980). Above [`EXACT_MAX`] slots by square-root staffing, `a + β √(a z)` (S. Halfin and W. Whitt, "Heavy-traffic limits
//!   for queues with many exponential servers", Operations Research 29, 1981).
//! * For what waits and runs now: `c` slots, of which `running` are busy, start `c - running` jobs at once and, as these
//!   end, `c · objective / service` more. What waits, and what comes meanwhile, is to have started by then. A job that
//!   starts moves from one term to the other, so the need does not drop as work starts, only as it ends.
//!
//! Nothing here smooths over time: that is the business of whoever scales.

use std::time::Duration;

/// The part of jobs that may start later than the objective.
pub const LATE_PART: f64 = 0.05;
/// A mean of fewer ends says little: the given service time counts instead.
pub const SAMPLES_MIN: u64 = 10;
/// A service time where nothing is known.
pub const SERVICE_DEFAULT: Duration = Duration::from_secs(1);
/// Up to here the formula is exact, beyond by square roots.
const EXACT_MAX: f64 = 2_000.0;
/// Most slots of an answer.
pub const SLOTS_MAX: u64 = 1_000_000;
/// 95 % of a normal distribution lies below so many deviations.
const BETA: f64 = 1.645;
/// Bounds of the peakedness: smoother than chance is not relied on, and a measured one is noisy.
const PEAK_MAX: f64 = 20.0;
/// Minutes without which peakedness says nothing.
const PEAK_MINUTES_MIN: u32 = 10;

/// Attempts that ended in one minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Minute {
    /// How many minutes before the present one.
    pub ago: u32,
    /// Ends.
    pub count: u64,
    /// Sum of their run times.
    pub run_ms: u64,
}

/// What is known of a queue.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Of the last hour, at most one for each minute; those without ends may be left out.
    pub minutes: Vec<Minute>,
    /// How much of the present minute has passed.
    pub into_minute: Duration,
    /// Jobs that may start and wait.
    pub waiting: u64,
    /// Jobs that run.
    pub running: u64,
    /// It starts nothing.
    pub paused: bool,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Objective {
    /// 95 % of jobs start within it.
    pub start_within: Duration,
    /// Counts where too few have ended to know.
    pub service: Duration,
}

/// What a service time rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// On at least [`SAMPLES_MIN`] ends of the last hour.
    Measured,
    /// On what was given.
    Default,
}

impl Basis {
    /// The wire word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Default => "default",
        }
    }
}

/// What a queue needs, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Need {
    /// Slots over all workers; at most [`SLOTS_MAX`].
    pub slots: u64,
    /// Attempts per second: the larger of the last five minutes' and the last one's.
    pub arrival_rate: f64,
    /// Mean run time of an attempt.
    pub service: Duration,
    /// On what it rests.
    pub basis: Basis,
    /// How much burstier than chance: 1 is as chance is.
    pub peakedness: f64,
}

/// Reckons what a queue needs.
pub fn need(seen: &Seen, objective: Objective) -> Need {
    let (service, basis) = service(seen, objective.service);
    let (rate, peak) = (rate(seen), peakedness(seen));
    let within = objective.start_within.as_secs_f64().max(0.001);
    let mean = service.as_secs_f64().max(0.001);
    let (waiting, running) = (seen.waiting as f64, seen.running as f64);
    let slots = if seen.paused {
        running
    } else {
        let backlog = waiting + running;
        // Without anything there, what comes is provided for by the formula alone.
        let now =
            if waiting > 0.0 { (backlog + rate * within) / (1.0 + within / mean) } else { 0.0 };
        steady(rate * mean, within / mean, peak).max(now).max(running)
    };
    // Of a number that is all but whole by its rounding alone, the whole is meant.
    let slots = (slots - 1e-9).ceil().clamp(0.0, SLOTS_MAX as f64) as u64;
    Need { slots, arrival_rate: rate, service, basis, peakedness: peak }
}

fn service(seen: &Seen, given: Duration) -> (Duration, Basis) {
    let count: u64 = seen.minutes.iter().map(|minute| minute.count).sum();
    let run_ms: u64 = seen.minutes.iter().map(|minute| minute.run_ms).sum();
    if count < SAMPLES_MIN {
        return (given, Basis::Default);
    }
    (Duration::from_secs_f64(run_ms as f64 / count as f64 / 1_000.0), Basis::Measured)
}

/// Ends per second. What has come and has not ended waits or runs, and is counted as that.
fn rate(seen: &Seen) -> f64 {
    let over = |minutes: u32| {
        let ended: u64 = seen.minutes.iter().filter(|m| m.ago <= minutes).map(|m| m.count).sum();
        let time = f64::from(minutes) * 60.0 + seen.into_minute.as_secs_f64().min(60.0);
        ended as f64 / time
    };
    over(5).max(over(1))
}

/// Variance over mean of the counts of whole minutes, from the oldest with an end on, and of that what slots with exponential service times feel
/// (Fredericks): half of what is above chance.
fn peakedness(seen: &Seen) -> f64 {
    let whole = || seen.minutes.iter().filter(|m| m.ago >= 1);
    let oldest = whole().map(|m| m.ago).max().unwrap_or(0);
    if oldest < PEAK_MINUTES_MIN {
        return 1.0;
    }
    let n = f64::from(oldest);
    let mean = whole().map(|m| m.count as f64).sum::<f64>() / n;
    let off = |count: f64| (count - mean).powi(2);
    let empty = (n - whole().count() as f64).max(0.0);
    let sum = whole().map(|m| off(m.count as f64)).sum::<f64>() + empty * off(0.0);
    let variance = sum / (n - 1.0);
    if mean <= 0.0 {
        return 1.0;
    }
    f64::midpoint(1.0, variance / mean).clamp(1.0, PEAK_MAX)
}

/// The fewest slots for an offered load, where the objective is `turns` service times.
fn steady(offered: f64, turns: f64, peak: f64) -> f64 {
    if offered <= 0.0 {
        return 0.0;
    }
    let load = offered / peak;
    if load > EXACT_MAX {
        return offered + BETA * (offered * peak).sqrt();
    }
    // Erlang's B by its recursion, up to the first number of slots that keeps the objective.
    let (mut slots, mut blocked) = (0.0, 1.0);
    loop {
        slots += 1.0;
        blocked = load * blocked / (slots + load * blocked);
        if slots <= load {
            continue;
        }
        let waits = slots * blocked / (slots - load * (1.0 - blocked));
        if waits * (-(slots - load) * turns).exp() <= LATE_PART {
            return slots * peak;
        }
    }
}

#[cfg(test)]
mod simulated;

#[cfg(test)]
mod tests {
    use super::*;

    fn objective(secs: u64) -> Objective {
        Objective { start_within: Duration::from_secs(secs), service: SERVICE_DEFAULT }
    }

    fn steadily(per_minute: u64, run_ms: u64) -> Seen {
        let minute = |ago| Minute { ago, count: per_minute, run_ms: per_minute * run_ms };
        Seen { minutes: (1..=10).map(minute).collect(), ..Seen::default() }
    }

    /// Known values, of tables of Erlang's C: C(16, 10) = 5.7 %, C(17, 10) = 3.1 %; C(3, 1) = 9.1 %, C(4, 1) = 2.0 %.
    #[test]
    fn the_formula_has_the_values_of_the_tables() {
        assert_eq!(steady(10.0, 0.0, 1.0), 17.0);
        assert_eq!(steady(1.0, 0.0, 1.0), 4.0);
        assert_eq!(steady(0.0, 1.0, 1.0), 0.0);
        let (below, above) = (steady(EXACT_MAX, 0.0, 1.0), steady(EXACT_MAX + 1.0, 0.0, 1.0));
        assert!((above - below).abs() < 20.0, "{below} and then {above}");
    }

    #[test]
    fn running_work_counts_and_the_need_does_not_drop_as_work_starts() {
        for service in [1, 10, 300] {
            let objective = Objective { service: Duration::from_secs(service), ..objective(10) };
            let needs: Vec<u64> = (0..=100)
                .map(|started| {
                    let seen = Seen { waiting: 100 - started, running: started, ..Seen::default() };
                    need(&seen, objective).slots
                })
                .collect();
            let first = needs[0];
            assert!(first > 0 && needs.iter().all(|slots| *slots >= first), "{service}: {needs:?}");
            assert_eq!(needs[100], 100, "each that runs has its slot");
        }
    }

    #[test]
    fn nothing_needs_nothing_and_anything_needs_something() {
        assert_eq!(need(&Seen::default(), objective(10)).slots, 0);
        for (waiting, running) in [(1, 0), (0, 1)] {
            let seen = Seen { waiting, running, ..Seen::default() };
            let hour = Objective { start_within: Duration::from_secs(3600), ..objective(1) };
            assert_eq!(need(&seen, hour).slots, 1);
        }
        let all = Seen { waiting: u64::MAX, running: u64::MAX, ..steadily(u64::MAX / 100_000, 1) };
        assert_eq!(need(&all, objective(1)).slots, SLOTS_MAX);
    }

    #[test]
    fn a_paused_queue_needs_no_more_than_what_runs() {
        let seen = Seen { waiting: 1_000, running: 3, paused: true, ..steadily(600, 1_000) };
        assert_eq!(need(&seen, objective(10)).slots, 3);
    }

    /// Goal: minutes without ends, which nobody names, count as such.
    #[test]
    fn idle_minutes_are_minutes_too() {
        let seen = |every: u32| {
            let minute = |n| Minute { ago: 1 + n * every, count: 600, run_ms: 600_000 };
            Seen {
                minutes: (0..12).map(minute).take_while(|m| m.ago <= 60).collect(),
                ..Seen::default()
            }
        };
        assert_eq!(peakedness(&seen(1)), 1.0, "the same each minute");
        // Of 56 minutes 12 with 600 each: mean 128.6, variance 61,714.
        assert_eq!(peakedness(&seen(5)), PEAK_MAX);
        let few = |count| Minute { count, ..seen(5).minutes[0] };
        let minutes = (0..12).map(|n| Minute { ago: 1 + n * 5, ..few(6) }).collect();
        let found = peakedness(&Seen { minutes, ..Seen::default() });
        assert!((found - 2.9).abs() < 0.05, "{found}");
        let lone = Seen {
            minutes: vec![Minute { ago: PEAK_MINUTES_MIN - 1, ..few(600) }],
            ..Seen::default()
        };
        assert_eq!(peakedness(&lone), 1.0, "too short a time");
    }

    #[test]
    fn few_samples_are_not_relied_on() {
        let few = Minute { ago: 1, count: SAMPLES_MIN - 1, run_ms: 1 };
        let seen = Seen { minutes: vec![few], waiting: 100, ..Seen::default() };
        let found = need(&seen, objective(10));
        assert_eq!((found.basis, found.service), (Basis::Default, SERVICE_DEFAULT));
        let enough = Minute { count: SAMPLES_MIN, run_ms: 20_000, ..few };
        let found = need(&Seen { minutes: vec![enough], ..seen }, objective(10));
        assert_eq!((found.basis, found.service), (Basis::Measured, Duration::from_secs(2)));
    }

    /// Goal: however odd the figures are, what comes out is a number of slots.
    #[test]
    fn odd_figures_make_no_odd_answers() {
        let minute = Minute { ago: 0, count: 5, run_ms: 0 };
        for into in [0, 1, 59, 600] {
            let into_minute = Duration::from_secs(into);
            let seen = Seen { minutes: vec![minute], into_minute, ..Seen::default() };
            let found =
                need(&seen, Objective { start_within: Duration::ZERO, service: Duration::ZERO });
            assert!(found.arrival_rate.is_finite() && found.arrival_rate >= 0.0, "{found:?}");
            assert!((1..100).contains(&found.slots), "{found:?}");
        }
    }
}
