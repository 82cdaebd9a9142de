//! Histories of many jobs in some lanes, which are leased many at a time.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::draw::{
    FencePick, FlowPick, FlowSettingsPick, HeldPick, JobPick, KINDS, LimitsPick, SettingsPick,
    Step, Tamper, job, pick, some,
};
use crate::engine::Verdict;
use crate::engine::flow::Dependency;
use crate::engine::model::Bounds;

/// Bounds that such a history seldom reaches. The engine under test must run with them.
pub const WIDE: Bounds =
    Bounds { move_max: 50, scan_max: 60, outbox_entries_max: 1_000, outbox_bytes_max: 1_000_000 };
/// Ids that such a history uses.
const IDS: u8 = 150;

/// A history of `len` steps. Equal seeds give equal histories.
pub fn draw(seed: u64, len: usize) -> Vec<Step> {
    let mut rng = StdRng::seed_from_u64(seed);
    let settings = settings(&mut rng);
    // Few sorts of lanes: then many jobs wait in each. Or some more: then the lanes of a share are leased together.
    let most = pick(&mut rng, &[4, 12, 40]);
    let shares = pick(&mut rng, &[3, 16]);
    let sorts: Vec<Option<FlowPick>> = some(&mut rng, most, |rng| flow(rng, shares));
    let mut steps = vec![
        Step::Shut { above: 1, foreign: false, late_us: 0 },
        Step::OpenGate {
            above: 0,
            foreign: false,
            moved: false,
            grace_us: 0,
            slots: 0,
            ramp_us: 0,
            settings,
        },
    ];
    while steps.len() < len {
        let step = match rng.random_range(0..20) {
            0..5 => push(&mut rng, &sorts),
            5..12 => claim(&mut rng),
            12..16 => settle(&mut rng),
            16..19 => Step::Advance(pick(&mut rng, &[1_000, 100_000, 1_000_000, 5_000_000])),
            _ => Step::Configure(self::settings(&mut rng)),
        };
        steps.push(step);
    }
    steps
}

fn flow(rng: &mut StdRng, shares: u8) -> Option<FlowPick> {
    let keys = FlowPick {
        share: rng.random_range(0..shares),
        concurrency: pick(rng, &[0, 0, 1, 2]),
        rate: pick(rng, &[0, 0, 1, 2]),
        circuit: pick(rng, &[0, 0, 0, 1]),
        units: 1,
        weight: 1,
    };
    rng.random_bool(0.75).then_some(keys)
}

fn push(rng: &mut StdRng, sorts: &[Option<FlowPick>]) -> Step {
    let priorities = pick(rng, &[&[5_u8][..], &[5], &[0, 5, 9]]);
    let jobs = some(rng, 60, |rng| {
        let mut flow = pick(rng, sorts);
        if let Some(flow) = &mut flow {
            (flow.units, flow.weight) = (pick(rng, &[1, 1, 1, 2]), pick(rng, &[1, 1, 1, 3]));
        }
        JobPick {
            id: rng.random_range(0..IDS),
            fence: pick(
                rng,
                &[FencePick::Same, FencePick::Same, FencePick::Same, FencePick::Above],
            ),
            under_way: false,
            attempt: 0,
            max_crashes: 3,
            priority: pick(rng, priorities),
            run_in_us: pick(rng, &[-10_000_000, -1_000, -1, 0, 0, 0]),
            expires_in_us: pick(rng, &[None, None, None, None, None, None, None, Some(1_000_000)]),
            flow,
            bytes: 10,
            ..job(rng)
        }
    });
    let mut jobs = jobs;
    jobs.sort_unstable_by_key(|job| job.id);
    jobs.dedup_by_key(|job| job.id);
    Step::Push { jobs, late_us: -5_000_000, below: 0, foreign: false, fresh: rng.random() }
}

fn claim(rng: &mut StdRng) -> Step {
    let kinds = pick(rng, &[&[] as &[u8], &[], &[], &[0], &[0, 1]]);
    let max = pick(rng, &[1, 5, 10, 30, 60, 100]);
    Step::Claim {
        worker: 0,
        max,
        lease_us: pick(rng, &[1_000_000, 20_000_000]),
        kinds: kinds.to_vec(),
        go_on: rng.random(),
    }
}

fn settle(rng: &mut StdRng) -> Step {
    let mut settles = some(rng, 40, |rng| {
        let delay = pick(rng, &[Duration::ZERO, Duration::from_millis(500)]);
        let verdict = pick(
            rng,
            &[
                Verdict::Succeeded,
                Verdict::Succeeded,
                Verdict::Release,
                Verdict::Retry { delay },
                Verdict::Dead,
            ],
        );
        let told = pick(rng, &[None, Some(Dependency::Answered), Some(Dependency::Failed)]);
        (HeldPick { back: rng.random_range(0..60), tamper: Tamper::No }, verdict, 10, told)
    });
    settles.sort_unstable_by_key(|(held, ..)| held.back);
    settles.dedup_by_key(|(held, ..)| held.back);
    Step::Settle(settles)
}

fn settings(rng: &mut StdRng) -> SettingsPick {
    let kinds = (0..KINDS).filter(|_| rng.random()).collect::<Vec<_>>();
    let kinds = kinds.into_iter().map(|kind| (kind, limits(rng))).collect();
    let weights = if rng.random_bool(0.3) { vec![(1, 2), (2, 5)] } else { Vec::new() };
    SettingsPick {
        version: 1,
        paused: false,
        jobs_max: 1_000,
        bytes_max: 1_000_000,
        unit_ms: pick(rng, &[0, 1_000]),
        flow: FlowSettingsPick {
            queue: if rng.random_bool(0.2) { limits(rng) } else { (None, None) },
            keys: limits(rng),
            retries: None,
            kinds,
            weights,
            circuits: Vec::new(),
        },
    }
}

/// Often such that they hold nothing.
fn limits(rng: &mut StdRng) -> LimitsPick {
    let rates = [None, None, Some((1, 1_000)), Some((1_000, 20)), Some((100_000, 5))];
    (pick(rng, &[None, Some(1_000), Some(1_000), Some(20), Some(3)]), pick(rng, &rates))
}
