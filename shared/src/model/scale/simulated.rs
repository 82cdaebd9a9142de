//! Queues in simulated time, whose slots are set to what [`need`] asks for: 95 % of jobs start within the objective, with
//! not many more slots than the fewest that would do all the time. From a seed, so that the figures are always the same;
//! docs/scaling.md has them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::*;

/// How often the slots are set, in seconds: as often as autoscalers look.
const LOOK_EVERY: f64 = 15.0;
/// Of a run, in seconds; the first part, before anything is known, does not count.
const RUN: f64 = 4.0 * 3600.0;
const WARM_UP: f64 = 3600.0;
const OBJECTIVE: f64 = 10.0;

/// A small generator (Marsaglia's xorshift64*), so that no crate decides over the figures.
struct Draw(u64);

impl Draw {
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11;
        (bits as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -self.uniform().ln() * mean
    }
}

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// Jobs per second.
    rate: f64,
    /// How many jobs come at once.
    burst: Burst,
    /// Mean run time in seconds.
    service: f64,
    /// All run equally long, or exponentially distributed.
    constant: bool,
}

#[derive(Clone, Copy)]
enum Burst {
    /// Each by itself.
    One,
    /// Geometric with this mean.
    Of(f64),
    /// Always so many.
    Always(usize),
}

impl Burst {
    fn mean(self) -> f64 {
        match self {
            Self::One => 1.0,
            Self::Of(mean) => mean,
            Self::Always(many) => many as f64,
        }
    }

    fn draw(self, draw: &mut Draw) -> usize {
        match self {
            Self::One | Self::Always(_) => self.mean() as usize,
            Self::Of(mean) => {
                let mut many = 1;
                while draw.uniform() > 1.0 / mean {
                    many += 1;
                }
                many
            }
        }
    }
}

const fn case(
    name: &'static str,
    (rate, burst): (f64, Burst),
    (service, constant): (f64, bool),
) -> Case {
    Case { name, rate, burst, service, constant }
}

const TENS: Burst = Burst::Of(10.0);

const CASES: [Case; 9] = [
    case("Poisson, exponential, 2 s", (20.0, Burst::One), (2.0, false)),
    case("Poisson, constant, 2 s", (20.0, Burst::One), (2.0, true)),
    case("Poisson, exponential, 60 s", (1.0, Burst::One), (60.0, false)),
    case("Poisson, constant, 60 s", (1.0, Burst::One), (60.0, true)),
    case("bursts of 10, exponential, 2 s", (20.0, TENS), (2.0, false)),
    case("bursts of 10, constant, 2 s", (20.0, TENS), (2.0, true)),
    case("bursts of 10, exponential, 60 s", (1.0, TENS), (60.0, false)),
    case("bursts of 10, constant, 60 s", (1.0, TENS), (60.0, true)),
    // Two minutes of three have no job.
    case("20 at once, each 150 s or so, 2 s", (20.0 / 150.0, Burst::Always(20)), (2.0, true)),
];

/// Time in whole microseconds, so that it has an order.
fn key(time: f64) -> u64 {
    (time * 1e6) as u64
}

struct Run {
    /// Part of the jobs that started within the objective.
    in_time: f64,
    slots_mean: f64,
}

/// With the slots that are asked for at each look, or with so many all the time.
fn run(case: Case, fixed: Option<usize>) -> Run {
    let mut draw = Draw(0x9E37_79B9_7F4A_7C15);
    let (mut waiting, mut running) =
        (VecDeque::<f64>::new(), BinaryHeap::<Reverse<(u64, u64)>>::new());
    let (mut minutes, mut slots) = (vec![(0_u64, 0_u64); (RUN / 60.0) as usize + 2], 1_usize);
    let (mut arrives, mut looks) = (0.0, 0.0);
    let (mut started, mut in_time, mut looked, mut sum) = (0_u64, 0_u64, 0_u64, 0_u64);
    loop {
        let ends = running.peek().map_or(f64::INFINITY, |Reverse((at, _))| *at as f64 / 1e6);
        let now = f64::min(ends, f64::min(arrives, looks));
        if now > RUN {
            let in_time = in_time as f64 / started as f64;
            return Run { in_time, slots_mean: sum as f64 / looked as f64 };
        }
        if now == ends {
            let Reverse((_, took)) = running.pop().expect("it was looked at");
            let minute = &mut minutes[(now / 60.0) as usize];
            *minute = (minute.0 + 1, minute.1 + took);
        } else if now == arrives {
            let many = case.burst.draw(&mut draw);
            waiting.extend(std::iter::repeat_n(now, many));
            arrives += draw.exponential(case.burst.mean() / case.rate);
        } else {
            looks += LOOK_EVERY;
            let asked = need(&seen(&minutes, now, waiting.len(), running.len()), OBJECTIVES).slots;
            slots = fixed.unwrap_or((asked as usize).max(1));
            if now >= WARM_UP {
                (looked, sum) = (looked + 1, sum + slots as u64);
            }
        }
        while running.len() < slots
            && let Some(came) = waiting.pop_front()
        {
            let took = if case.constant { case.service } else { draw.exponential(case.service) };
            running.push(Reverse((key(now + took), (took * 1e3) as u64)));
            if now >= WARM_UP {
                started += 1;
                in_time += u64::from(now - came <= OBJECTIVE);
            }
        }
    }
}

const OBJECTIVES: Objective =
    Objective { start_within: Duration::from_secs(OBJECTIVE as u64), service: SERVICE_DEFAULT };

fn seen(minutes: &[(u64, u64)], now: f64, waiting: usize, running: usize) -> Seen {
    let present = (now / 60.0) as usize;
    let first = present.saturating_sub(60);
    let minute =
        |n: usize| Minute { ago: (present - n) as u32, count: minutes[n].0, run_ms: minutes[n].1 };
    Seen {
        // As ledgers do: of a minute without ends nothing is said.
        minutes: (first..=present).map(minute).filter(|minute| minute.count > 0).collect(),
        into_minute: Duration::from_secs_f64(now % 60.0),
        waiting: waiting as u64,
        running: running as u64,
        paused: false,
    }
}

/// The fewest slots that would do if there were always as many.
fn fewest(case: Case) -> usize {
    let does = |slots| run(case, Some(slots)).in_time >= 0.95;
    // So few that what comes never ends, and so many that it must.
    let (mut low, mut high) = (0, (case.rate * case.service * 4.0) as usize + 64);
    assert!(does(high), "{}: {high} slots are not enough", case.name);
    while high - low > 1 {
        let middle = usize::midpoint(low, high);
        if does(middle) { high = middle } else { low = middle }
    }
    high
}

#[test]
fn what_is_asked_for_starts_95_percent_in_time() {
    for case in CASES {
        let (asked, fewest) = (run(case, None), fewest(case));
        eprintln!(
            "| {} | {:.1} | {fewest} | {:.1} | {:.1} % |",
            case.name,
            case.rate * case.service,
            asked.slots_mean,
            asked.in_time * 100.0,
        );
        assert!(asked.in_time >= 0.95, "{}: {}", case.name, asked.in_time);
        // Not by asking for the moon: a quarter more, and something for what comes at once.
        let most = fewest as f64 * 1.25 + 2.0 * case.burst.mean().sqrt();
        assert!(asked.slots_mean <= most, "{}: {} slots", case.name, asked.slots_mean);
    }
}
