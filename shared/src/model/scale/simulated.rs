//! Queues in simulated time, whose slots are set to what [`need`] asks for: 95 % of jobs start within the objective, and
//! with 70 % of the mean of these slots clearly fewer do. From a seed, so that the figures are always the same; docs/scaling.md
//! has them.

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
    /// Mean number of jobs that come at once (geometric); 1: each by itself.
    burst: f64,
    /// Mean run time in seconds.
    service: f64,
    /// All run equally long, or exponentially distributed.
    constant: bool,
}

const CASES: [Case; 8] = [
    Case {
        name: "Poisson, exponential, 2 s",
        rate: 20.0,
        burst: 1.0,
        service: 2.0,
        constant: false,
    },
    Case { name: "Poisson, constant, 2 s", rate: 20.0, burst: 1.0, service: 2.0, constant: true },
    Case {
        name: "Poisson, exponential, 60 s",
        rate: 1.0,
        burst: 1.0,
        service: 60.0,
        constant: false,
    },
    Case { name: "Poisson, constant, 60 s", rate: 1.0, burst: 1.0, service: 60.0, constant: true },
    Case {
        name: "bursts of 10, exponential, 2 s",
        rate: 20.0,
        burst: 10.0,
        service: 2.0,
        constant: false,
    },
    Case {
        name: "bursts of 10, constant, 2 s",
        rate: 20.0,
        burst: 10.0,
        service: 2.0,
        constant: true,
    },
    Case {
        name: "bursts of 10, exponential, 60 s",
        rate: 1.0,
        burst: 10.0,
        service: 60.0,
        constant: false,
    },
    Case {
        name: "bursts of 10, constant, 60 s",
        rate: 1.0,
        burst: 10.0,
        service: 60.0,
        constant: true,
    },
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
            // Geometric with this mean.
            let mut more = 1;
            while draw.uniform() > 1.0 / case.burst {
                more += 1;
            }
            waiting.extend(std::iter::repeat_n(now, more));
            arrives += draw.exponential(case.burst / case.rate);
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
        minutes: (first..=present).map(minute).collect(),
        into_minute: Duration::from_secs_f64(now % 60.0),
        waiting: waiting as u64,
        running: running as u64,
        paused: false,
    }
}

#[test]
fn what_is_asked_for_starts_95_percent_in_time() {
    for case in CASES {
        let asked = run(case, None);
        let fewer = run(case, Some((asked.slots_mean * 0.7) as usize));
        eprintln!(
            "| {} | {:.0} | {:.1} | {:.1} % | {:.1} % |",
            case.name,
            case.rate * case.service,
            asked.slots_mean,
            asked.in_time * 100.0,
            fewer.in_time * 100.0
        );
        assert!(asked.in_time >= 0.95, "{}: {}", case.name, asked.in_time);
        assert!(fewer.in_time < 0.90, "{}: {} with fewer", case.name, fewer.in_time);
        // Not by asking for the moon.
        let most =
            case.rate * case.service * 1.5 + 4.0 * (case.rate * case.service * case.burst).sqrt();
        assert!(asked.slots_mean <= most, "{}: {} slots", case.name, asked.slots_mean);
    }
}
