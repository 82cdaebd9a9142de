//! Histories about one thing: what a limit, a budget, a circuit or a full queue does needs many steps of a sort in a row,
//! which hardly come where everything is drawn.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::draw::{
    FencePick, FlowPick, FlowSettingsPick, HeldPick, JobPick, SettingsPick, Step, Tamper, job,
    pick, some,
};
use crate::engine::Verdict;
use crate::engine::flow::{CircuitMode, CircuitSetting, Dependency};

/// What a history is about.
#[derive(Clone, Copy)]
enum Theme {
    /// All jobs are of one key and one circuit that opens easily, whatever their shares: permits pass from one to the
    /// other.
    Key,
    /// Jobs without keys fail, and few may be tried again at once.
    Retries,
    /// All calls go through one circuit that opens easily, and comes back.
    Probes,
    /// A queue that is nearly full of one group.
    Crowd,
}

/// So many steps open the gate.
const OPENING: usize = 2;

/// Leaves most histories as they are, and gives the others a theme.
pub(super) fn apply(rng: &mut StdRng, steps: Vec<Step>) -> Vec<Step> {
    if rng.random_ratio(5, 8) {
        return steps;
    }
    let theme = pick(rng, &[Theme::Key, Theme::Retries, Theme::Probes, Theme::Crowd]);
    let keyed = rng.random();
    let steps = steps.into_iter().enumerate();
    steps.map(|(at, step)| narrowed(rng, (theme, keyed), at, step)).collect()
}

fn narrowed(rng: &mut StdRng, (theme, keyed): (Theme, bool), at: usize, step: Step) -> Step {
    let is_kept = at < OPENING || matches!(theme, Theme::Key) || rng.random_ratio(1, 4);
    let mut step = if is_kept { step } else { staple(rng, theme, at) };
    match &mut step {
        Step::Push { jobs, .. } => {
            for job in jobs {
                // A higher fence ends a lease, and with it what it is about.
                if !matches!(theme, Theme::Key) {
                    job.fence = fence(rng);
                }
                narrow(job, theme, keyed);
            }
        }
        Step::Configure(settings) | Step::OpenGate { settings, .. } => {
            *settings = SettingsPick {
                version: settings.version,
                paused: false,
                jobs_max: if matches!(theme, Theme::Crowd) { 5 } else { 50 },
                bytes_max: 10_000,
                unit_ms: settings.unit_ms,
                flow: settings_of(theme),
            };
        }
        Step::Claim { kinds, .. } if !matches!(theme, Theme::Retries) => kinds.clear(),
        Step::Settle(settles) if matches!(theme, Theme::Key) => {
            for (_, verdict, _, told) in settles {
                if *verdict == Verdict::Dead {
                    *told = Some(Dependency::Exhausted);
                }
            }
        }
        _ => {}
    }
    step
}

fn narrow(job: &mut JobPick, theme: Theme, keyed: bool) {
    let none = FlowPick { share: 0, concurrency: 0, rate: 0, circuit: 0, units: 1, weight: 1 };
    (job.expires_in_us, job.max_crashes) = (None, 3);
    job.flow = match theme {
        Theme::Key => Some(FlowPick { share: job.id % 3, concurrency: 1, circuit: 1, ..none }),
        Theme::Retries => None,
        Theme::Probes => Some(FlowPick { circuit: 1, ..none }),
        Theme::Crowd => keyed.then_some(FlowPick { share: 1, ..none }),
    };
    if !matches!(theme, Theme::Key) {
        (job.attempt, job.bytes) = (0, 10);
        job.run_in_us = job.run_in_us.min(0);
    }
}

fn settings_of(theme: Theme) -> FlowSettingsPick {
    let setting = CircuitSetting {
        mode: CircuitMode::Auto,
        failures: 1,
        window_ms: 1_000,
        percent: 0,
        calls_min: 1,
        probe_us: 1_000,
    };
    let none = FlowSettingsPick::default();
    match theme {
        Theme::Key => {
            FlowSettingsPick { keys: (Some(2), None), circuits: vec![(1, setting)], ..none }
        }
        Theme::Retries => FlowSettingsPick { retries: Some((50, 1_000_000, 1)), ..none },
        Theme::Probes => FlowSettingsPick { circuits: vec![(1, setting)], ..none },
        Theme::Crowd => none,
    }
}

fn fence(rng: &mut StdRng) -> FencePick {
    pick(rng, &[FencePick::Same, FencePick::Same, FencePick::Same, FencePick::Above])
}

/// What the theme lives on, in turn.
fn staple(rng: &mut StdRng, theme: Theme, at: usize) -> Step {
    match (theme, at % 6) {
        (Theme::Crowd, 2) => Step::Refused(9),
        (Theme::Crowd, 3) => Step::Refilled(2),
        (Theme::Crowd, 5) => claim(1),
        (Theme::Crowd, _) | (_, 2) => push(rng, 4),
        (_, 3) => claim(pick(rng, &[1, 5])),
        (Theme::Probes, 0) => claim(5),
        (_, 5) => Step::Advance(pick(rng, &[1_000, 1_500, 100_000, 1_000_000])),
        _ => settle(rng, theme),
    }
}

fn claim(max: u32) -> Step {
    Step::Claim { worker: 0, max, lease_us: 20_000_000, kinds: Vec::new(), go_on: false }
}

fn push(rng: &mut StdRng, max: usize) -> Step {
    let jobs = some(rng, max, |rng| JobPick { fence: fence(rng), ..job(rng) });
    Step::Push { jobs, late_us: -5_000_000, below: 0, foreign: false, fresh: true }
}

fn settle(rng: &mut StdRng, theme: Theme) -> Step {
    use Dependency::{Answered, Exhausted, Failed};
    Step::Settle(some(rng, 2, |rng| {
        let retry = Verdict::Retry { delay: Duration::ZERO };
        let verdict = pick(rng, &[retry, retry, Verdict::Dead, Verdict::Succeeded]);
        let told = match (theme, verdict) {
            (Theme::Probes, Verdict::Succeeded) => Some(Answered),
            (Theme::Probes, Verdict::Dead) => Some(pick(rng, &[Failed, Exhausted])),
            (Theme::Probes, _) => Some(Failed),
            _ => None,
        };
        (HeldPick { back: rng.random_range(0..4), tamper: Tamper::No }, verdict, 0, told)
    }))
}
