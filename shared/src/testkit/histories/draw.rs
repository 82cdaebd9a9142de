//! Steps, and how they are drawn from a seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::theme;
use crate::engine::flow::{CircuitMode, CircuitSetting, Dependency};
use crate::engine::{Report, Then, Verdict, Withdraw};
use crate::limits::TOMBSTONE_TTL;

/// Ids that a history uses: few, so that steps meet.
pub(super) const IDS: u8 = 6;
/// Kinds that a history uses.
pub(super) const KINDS: u8 = 2;
/// Workers that a history uses.
pub(super) const WORKERS: u8 = 3;

/// A fence, by its relation to the highest one seen for the job so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FencePick {
    /// One lower.
    Below,
    /// The same.
    Same,
    /// One higher: a redrive or a change in the ledger.
    Above,
    /// The smallest: a view from before everything.
    Oldest,
}

/// A job to push.
#[derive(Debug, Clone, PartialEq)]
pub struct JobPick {
    /// Which of the ids.
    pub id: u8,
    /// Its fence.
    pub fence: FencePick,
    /// Whether the ledger has it running.
    pub under_way: bool,
    /// Attempts so far.
    pub attempt: u32,
    /// Crashes so far.
    pub crashes: u32,
    /// Crashes allowed.
    pub max_crashes: u32,
    /// 0 to 9.
    pub priority: u8,
    /// `run_at` − now, in µs.
    pub run_in_us: i64,
    /// `expires_at` − now, in µs.
    pub expires_in_us: Option<i64>,
    /// Which of the kinds.
    pub kind: u8,
    /// Its keys.
    pub flow: Option<FlowPick>,
    /// Length of the envelope.
    pub bytes: usize,
}

/// Keys of a job; 0: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of a flow, documented there")]
pub struct FlowPick {
    pub share: u8,
    pub concurrency: u8,
    pub rate: u8,
    pub circuit: u8,
    pub units: u32,
    pub weight: u32,
}

/// Concurrency; interval in µs and burst.
pub type LimitsPick = (Option<u32>, Option<(u64, u32)>);

/// Limits and weights to give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowSettingsPick {
    /// Of the queue.
    pub queue: LimitsPick,
    /// Of each key.
    pub keys: LimitsPick,
    /// Of retries: for each hundred, µs for one, at once.
    pub retries: Option<(u32, u64, u32)>,
    /// Of kinds.
    pub kinds: Vec<(u8, LimitsPick)>,
    /// Of shares.
    pub weights: Vec<(u8, u32)>,
    /// Of circuits.
    pub circuits: Vec<(u8, CircuitSetting)>,
}

/// Settings to give.
#[derive(Debug, Clone, PartialEq)]
pub struct SettingsPick {
    /// So much above the last; may be negative.
    pub version: i64,
    /// Whether leases are given.
    pub paused: bool,
    /// Budget.
    pub jobs_max: u64,
    /// Budget.
    pub bytes_max: u64,
    /// Of priority.
    pub unit_ms: u64,
    /// Limits.
    pub flow: FlowSettingsPick,
}

/// How a proof of a lease is made wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tamper {
    /// It is as the claim gave it.
    No,
    /// Another token.
    Token,
    /// A lower fence.
    Lower,
    /// A higher fence.
    Higher,
}

/// A lease: the `back`-th last one given in this history, stale or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldPick {
    /// 0 is the last one.
    pub back: u8,
    /// Whether and how it is wrong.
    pub tamper: Tamper,
}

/// A lease to withdraw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WithdrawalPick {
    /// Which.
    pub held: HeldPick,
    /// Whether its token is known.
    pub with_token: bool,
    /// One attempt more than when it was claimed.
    pub counted: bool,
    /// What the outcome makes of the job.
    pub then: Then,
}

/// One step of a history.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the verbs of the engine's contract, documented there")]
pub enum Step {
    /// Engine time moves on by so many µs.
    Advance(u64),
    /// `not_after` is `late_us` µs before now (negative: after); the generation `below` the gate's.
    Push {
        jobs: Vec<JobPick>,
        late_us: i64,
        below: u64,
        foreign: bool,
        fresh: bool,
    },
    /// `go_on`: with the offset that the last claim gave.
    Claim {
        worker: u8,
        max: u32,
        lease_us: u64,
        kinds: Vec<u8>,
        go_on: bool,
    },
    Extend {
        held: Vec<HeldPick>,
        lease_us: u64,
    },
    Settle(Vec<(HeldPick, Verdict, usize, Option<Dependency>)>),
    Promote(u32),
    Reap(u32),
    Configure(SettingsPick),
    Cancel {
        jobs: Vec<(u8, FencePick)>,
        how: Withdraw,
    },
    Outcomes(u32),
    /// The one so far behind the first that waits, or the last; 8: with another instant; 9: the last recorded.
    Confirm(u8),
    Exists(Vec<u8>),
    Peek(u8),
    Holds(u8),
    Circuits,
    ResetCircuit(u8),
    Refused(u32),
    /// So many of those that were told last.
    Refilled(u8),
    /// `after`: go on after the last reply's end. Claimed up to `before_us` before now.
    Leased {
        after: bool,
        before_us: u64,
        max: u32,
    },
    Stats,
    /// A generation `above` the present one, of another ledger if `foreign`; `not_after` as in push.
    Shut {
        above: i64,
        foreign: bool,
        late_us: i64,
    },
    /// For another process if `moved`.
    OpenGate {
        above: i64,
        foreign: bool,
        moved: bool,
        grace_us: u64,
        slots: u32,
        ramp_us: u64,
        settings: SettingsPick,
    },
    Adopt {
        worker: u8,
        leases: Vec<HeldPick>,
        lease_us: u64,
    },
    Report {
        worker: u8,
        report: Report,
        above: i64,
        foreign: bool,
    },
    Seal {
        above: i64,
        foreign: bool,
    },
    /// `looked`: as the answer so many back said; none if there was none.
    Withdraw {
        leases: Vec<WithdrawalPick>,
        looked: Option<u8>,
    },
    Gate,
    Scan,
    Drop {
        jobs: Vec<(u8, FencePick)>,
        bury: bool,
    },
    /// The store loses all it has.
    Wipe,
    /// The store starts anew with all it has, where a test can do that.
    Restart,
}

/// A history of `len` steps. Equal seeds give equal histories.
pub fn draw(seed: u64, len: usize) -> Vec<Step> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut steps = Vec::with_capacity(len);
    if rng.random_ratio(9, 10) {
        let late_us = 0;
        steps.push(Step::Shut { above: 1, foreign: false, late_us });
        let settings = SettingsPick {
            version: 0,
            paused: false,
            jobs_max: 50,
            bytes_max: 10_000,
            unit_ms: 1_000,
            flow: FlowSettingsPick::default(),
        };
        steps.push(opening(&mut rng, settings));
    }
    while steps.len() < len {
        let step = step(&mut rng);
        let next = follow_up(&mut rng, &step);
        steps.push(step);
        steps.extend(next);
    }
    steps.truncate(len);
    theme::apply(&mut rng, steps)
}

/// What meets a step too rarely by chance: pushes of what was withdrawn, adoptions of what was settled.
fn follow_up(rng: &mut StdRng, step: &Step) -> Option<Step> {
    match step {
        Step::Withdraw { .. } if rng.random_ratio(1, 3) => {
            let job = |id| JobPick { id, fence: FencePick::Same, ..job(rng) };
            let jobs = (0..IDS).map(job).collect();
            Some(Step::Push { jobs, late_us: 0, below: 0, foreign: false, fresh: false })
        }
        Step::Settle(settles) if rng.random_ratio(1, 10) => {
            let leases = settles.iter().map(|(held, ..)| *held).collect();
            Some(Step::Adopt { worker: 0, leases, lease_us: 3_000_000 })
        }
        _ => None,
    }
}

fn step(rng: &mut StdRng) -> Step {
    match rng.random_range(0..100) {
        0..18 => push(rng),
        18..37 => claim(rng),
        37..54 => settle(rng),
        54..68 => Step::Advance(advance_us(rng)),
        68..72 => {
            Step::Extend { held: some(rng, 3, held), lease_us: pick(rng, &[0, 500, 3_000_000]) }
        }
        72..76 => Step::Confirm(rng.random_range(0..10)),
        76..80 => Step::Cancel {
            jobs: some(rng, 4, |rng| (id(rng), fence(rng))),
            how: pick(rng, &[Withdraw::StopRunning, Withdraw::StopRunning, Withdraw::WaitingOnly]),
        },
        80..82 => Step::Promote(rng.random_range(0..5)),
        82..84 => Step::Reap(rng.random_range(0..5)),
        84..87 => Step::Configure(settings(rng)),
        87..96 => gates(rng),
        96 if rng.random() => Step::Outcomes(rng.random_range(0..5)),
        96 => Step::Exists(some(rng, 3, id)),
        97 if rng.random() => Step::Peek(id(rng)),
        97 => match rng.random_range(0..4) {
            0 => Step::Circuits,
            1 => Step::ResetCircuit(rng.random_range(1..3)),
            _ => Step::Holds(id(rng)),
        },
        98 => Step::Leased {
            after: rng.random(),
            before_us: pick(rng, &[0, 1, 1_000_000]),
            max: rng.random_range(0..4),
        },
        _ => match rng.random_range(0..4) {
            0 => Step::Refused(pick(rng, &[0, 1, 9, 9])),
            1 => Step::Refilled(rng.random_range(0..3)),
            _ => Step::Stats,
        },
    }
}

pub(super) fn pick<T: Copy>(rng: &mut StdRng, from: &[T]) -> T {
    *from.choose(rng).expect("every list of choices has some")
}

pub(super) fn some<T>(
    rng: &mut StdRng,
    max: usize,
    mut one: impl FnMut(&mut StdRng) -> T,
) -> Vec<T> {
    (0..rng.random_range(1..=max)).map(|_| one(rng)).collect()
}

fn id(rng: &mut StdRng) -> u8 {
    rng.random_range(0..IDS)
}

fn fence(rng: &mut StdRng) -> FencePick {
    use FencePick::{Above, Below, Oldest, Same};
    pick(rng, &[Same, Same, Above, Above, Above, Below, Oldest])
}

/// Mostly the last leases, mostly untouched.
fn held(rng: &mut StdRng) -> HeldPick {
    use Tamper::{Higher, Lower, No, Token};
    let reach = pick(rng, &[0, 1, 3, 12]);
    let back = rng.random_range(0..=reach);
    HeldPick { back, tamper: pick(rng, &[No, No, No, No, No, No, No, Token, Lower, Higher]) }
}

/// Around the borders of milliseconds, leases, delays and tombstone windows.
fn advance_us(rng: &mut StdRng) -> u64 {
    let ttl_us = TOMBSTONE_TTL.as_micros() as u64;
    pick(rng, &[1, 499, 1_000, 1_500, 100_000, 1_000_000, 2_999_000, 3_001_000, ttl_us / 2, ttl_us])
}

fn push(rng: &mut StdRng) -> Step {
    Step::Push {
        jobs: some(rng, 4, job),
        late_us: pick(rng, &[-5_000_000, -5_000_000, -5_000_000, -1, 0, 0, 0, 0, 0, 1]),
        below: u64::from(rng.random_ratio(1, 20)),
        foreign: rng.random_ratio(1, 60),
        fresh: rng.random(),
    }
}

pub(super) fn job(rng: &mut StdRng) -> JobPick {
    JobPick {
        id: id(rng),
        fence: fence(rng),
        under_way: rng.random_ratio(1, 3),
        attempt: rng.random_range(0..3),
        crashes: rng.random_range(0..2),
        max_crashes: rng.random_range(0..4),
        priority: pick(rng, &[0, 5, 5, 9]),
        run_in_us: pick(rng, &[-10_000_000, -1_000, -1, 0, 0, 0, 1, 999, 1_000, 3_000_000]),
        expires_in_us: pick(
            rng,
            &[None, None, None, None, None, None, None, Some(0), Some(1), Some(1_000_000)],
        ),
        kind: rng.random_range(0..KINDS),
        flow: rng.random_bool(0.5).then(|| flow(rng)),
        bytes: pick(rng, &[0, 10, 100]),
    }
}

fn claim(rng: &mut StdRng) -> Step {
    Step::Claim {
        worker: rng.random_range(0..WORKERS),
        max: pick(rng, &[0, 1, 1, 2, 5, 10]),
        lease_us: pick(rng, &[1, 1_000, 1_500, 3_000_000, 3_000_000, 20_000_000]),
        kinds: pick(rng, &[&[] as &[u8], &[], &[0], &[1], &[0, 1]]).to_vec(),
        go_on: rng.random(),
    }
}

fn settle(rng: &mut StdRng) -> Step {
    let delay = |rng: &mut StdRng| Duration::from_micros(pick(rng, &[0, 1, 500, 1_000, 2_000_000]));
    Step::Settle(some(rng, 3, |rng| {
        let verdict = match rng.random_range(0..9) {
            0..2 => Verdict::Succeeded,
            2..4 => Verdict::Retry { delay: delay(rng) },
            4 => Verdict::Dead,
            5 => Verdict::Snooze { delay: delay(rng) },
            6 | 7 => Verdict::Release,
            _ => Verdict::Cancelled,
        };
        let told = pick(
            rng,
            &[
                None,
                Some(Dependency::Answered),
                Some(Dependency::Failed),
                Some(Dependency::Failed),
                Some(Dependency::Exhausted),
            ],
        );
        (held(rng), verdict, pick(rng, &[0, 1, 300, 300]), told)
    }))
}

/// Shut, open, and what goes on meanwhile.
fn gates(rng: &mut StdRng) -> Step {
    match rng.random_range(0..32) {
        18..20 | 0..2 => Step::Shut {
            above: pick(rng, &[1, 1, 1, 1, 0, 0, -1]),
            foreign: rng.random_ratio(1, 8),
            late_us: pick(rng, &[-5_000_000, -5_000_000, -1, 0, 0, 0, 0, 0, 1]),
        },
        2..8 => {
            let settings = settings(rng);
            opening(rng, settings)
        }
        8..12 => Step::Adopt {
            worker: rng.random_range(0..WORKERS),
            leases: some(rng, 3, held),
            lease_us: pick(rng, &[1, 1_500, 3_000_000, 20_000_000]),
        },
        12 | 20 => Step::Report {
            worker: rng.random_range(0..WORKERS),
            report: pick(rng, &[Report::Present, Report::Done]),
            above: pick(rng, &[0, 0, 0, 0, 1, -1]),
            foreign: rng.random_ratio(1, 8),
        },
        21..23 => {
            Step::Seal { above: pick(rng, &[0, 0, 0, 0, 1, -1]), foreign: rng.random_ratio(1, 10) }
        }
        23..32 => Step::Withdraw {
            looked: pick(rng, &[None, Some(0), Some(0), Some(1)]),
            leases: some(rng, 3, |rng| WithdrawalPick {
                held: held(rng),
                with_token: rng.random(),
                counted: rng.random_ratio(1, 4),
                then: pick(rng, &[Then::Over, Then::Retry, Then::Retry, Then::Again]),
            }),
        },
        13 => Step::Gate,
        14 => Step::Scan,
        15 => Step::Drop { jobs: some(rng, 2, |rng| (id(rng), fence(rng))), bury: rng.random() },
        16 if rng.random_ratio(1, 2) => Step::Wipe,
        16 => Step::Restart,
        _ => Step::Advance(pick(rng, &[2_000_000, 2_000_001, 5_000_000, 30_000_000])),
    }
}

/// Mostly one that is accepted if the gate is shut.
fn opening(rng: &mut StdRng, settings: SettingsPick) -> Step {
    Step::OpenGate {
        above: pick(rng, &[0, 0, 0, 0, 0, 0, 0, 0, 1, -1]),
        foreign: rng.random_ratio(1, 30),
        moved: rng.random_ratio(1, 30),
        grace_us: pick(rng, &[0, 0, 1_000, 3_000_000]),
        slots: pick(rng, &[0, 1, 20, 40]),
        ramp_us: pick(rng, &[0, 0, 0, 1_000_000, 10_000_000]),
        settings,
    }
}

fn settings(rng: &mut StdRng) -> SettingsPick {
    SettingsPick {
        version: pick(rng, &[-1, 0, 1, 1]),
        paused: rng.random_ratio(1, 4),
        jobs_max: pick(rng, &[0, 2, 3, 5, 50, 50, 50]),
        bytes_max: pick(rng, &[0, 500, 10_000, 10_000, 10_000]),
        unit_ms: pick(rng, &[0, 1, 1_000, 60_000]),
        flow: flow_settings(rng),
    }
}

fn flow(rng: &mut StdRng) -> FlowPick {
    FlowPick {
        share: rng.random_range(0..3),
        concurrency: rng.random_range(0..3),
        rate: rng.random_range(0..3),
        circuit: pick(rng, &[0, 0, 1, 2]),
        units: pick(rng, &[1, 1, 1, 2, 9]),
        weight: pick(rng, &[1, 1, 3]),
    }
}

/// Often none: limits hold up what else is to happen.
fn flow_settings(rng: &mut StdRng) -> FlowSettingsPick {
    if rng.random_ratio(1, 3) {
        return FlowSettingsPick::default();
    }
    let kind = |rng: &mut StdRng| (rng.random_range(0..KINDS), limits(rng));
    let mut kinds = if rng.random() { some(rng, 2, kind) } else { Vec::new() };
    kinds.sort_unstable_by_key(|(kind, _)| *kind);
    kinds.dedup_by_key(|(kind, _)| *kind);
    let queue = if rng.random_ratio(1, 3) { limits(rng) } else { (None, None) };
    let weight = |rng: &mut StdRng| (rng.random_range(1..3), pick(rng, &[2, 5]));
    let weights = if rng.random_ratio(1, 3) { some(rng, 2, weight) } else { Vec::new() };
    let circuits = if rng.random() { some(rng, 2, circuit) } else { Vec::new() };
    let budget =
        (pick(rng, &[0, 50, 100]), pick(rng, &[1_000, 1_000_000, 4_000_000]), pick(rng, &[1, 2]));
    let retries = rng.random_ratio(1, 3).then_some(budget);
    FlowSettingsPick { queue, keys: limits(rng), retries, kinds, weights, circuits }
}

/// Such that few calls matter.
fn circuit(rng: &mut StdRng) -> (u8, CircuitSetting) {
    let mode = pick(
        rng,
        &[
            CircuitMode::Auto,
            CircuitMode::Auto,
            CircuitMode::Auto,
            CircuitMode::Open,
            CircuitMode::Closed,
        ],
    );
    let setting = CircuitSetting {
        mode,
        failures: pick(rng, &[0, 1, 1, 2]),
        window_ms: pick(rng, &[1, 1_000, 60_000]),
        percent: pick(rng, &[0, 50, 100]),
        calls_min: pick(rng, &[1, 2]),
        probe_us: pick(rng, &[1, 1_000, 2_000_000]),
    };
    (rng.random_range(1..3), setting)
}

fn limits(rng: &mut StdRng) -> LimitsPick {
    let rates =
        [None, None, Some((1, 1)), Some((1_000, 2)), Some((700_000, 1)), Some((2_000_000, 3))];
    (pick(rng, &[None, Some(1), Some(1), Some(2)]), pick(rng, &rates))
}
