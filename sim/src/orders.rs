//! What clients want in a world, drawn before it begins.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use windlass_shared::model::job::{JobSpec, NewJob, Priority, Value};
use windlass_shared::model::retry::{Backoff, RetryPolicy};
use windlass_shared::model::time::Span;

use crate::below;
use crate::world::{QUEUES, namespace, queue};

/// The kind of all jobs.
pub const KIND: &str = "sim";
/// What a handler is to do; travels as the payload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// So many attempts fail.
    pub fails: u32,
    /// How long each takes.
    pub ms: u64,
    /// It fails for good after that.
    pub dead: bool,
}

/// One job of an order.
#[derive(Debug, Clone)]
pub struct Piece {
    /// What its handler does.
    pub plan: Plan,
    /// Which of the world's queues.
    pub queue: usize,
    /// Not before, from its submission.
    pub delay: Option<Duration>,
    /// Its place among the ready.
    pub priority: u8,
    /// Stopped before its lease can pass.
    pub exclusive: bool,
}

/// What a client wants.
#[derive(Debug, Clone)]
pub enum Wish {
    /// These jobs.
    Jobs {
        /// At least one.
        pieces: Vec<Piece>,
        /// All or nothing.
        atomic: bool,
    },
    /// A run of steps; each with the places of those that it needs.
    Run(Vec<(Plan, Vec<usize>)>),
    /// That the first job of an earlier order does not run.
    Cancel(usize),
    /// That a queue stands still for so long.
    Pause(usize, Duration),
}

/// A wish with its time.
#[derive(Debug, Clone)]
pub struct Order {
    /// From the beginning of the world.
    pub at: Duration,
    /// Sent to both API processes at once, with the same key.
    pub twice: bool,
    /// What.
    pub wish: Wish,
}

/// The orders of a world; all of them come `within` its first time.
pub fn draw(dice: &mut StdRng, within: Duration) -> Vec<Order> {
    let count = dice.random_range(4..28);
    let mut orders: Vec<Order> = (0..count).map(|place| order(dice, place, within)).collect();
    for queue in 0..QUEUES.len() {
        if dice.random_bool(0.3) {
            let held = Duration::from_millis(dice.random_range(500..15_000));
            let wish = Wish::Pause(queue, held);
            orders.push(Order { at: moment(dice, within), twice: false, wish });
        }
    }
    orders
}

fn order(dice: &mut StdRng, place: usize, within: Duration) -> Order {
    let wish = match dice.random_range(0..10) {
        0 | 1 => Wish::Run(steps(dice)),
        2 if place > 0 => Wish::Cancel(dice.random_range(0..place)),
        _ => {
            let count = if dice.random_bool(0.7) { 1 } else { dice.random_range(2..6) };
            let pieces = (0..count).map(|_| piece(dice)).collect();
            Wish::Jobs { pieces, atomic: dice.random_bool(0.3) }
        }
    };
    let twice = matches!(wish, Wish::Jobs { .. } | Wish::Run(_)) && dice.random_bool(0.15);
    Order { at: moment(dice, within), twice, wish }
}

fn moment(dice: &mut StdRng, within: Duration) -> Duration {
    within.mul_f64(dice.random())
}

fn piece(dice: &mut StdRng) -> Piece {
    let delayed = dice.random_bool(0.25);
    Piece {
        plan: plan(dice),
        queue: usize::from(dice.random_bool(0.3)),
        delay: delayed.then(|| Duration::from_millis(dice.random_range(100..15_000))),
        priority: dice.random_range(0..10),
        exclusive: dice.random_bool(0.1),
    }
}

fn plan(dice: &mut StdRng) -> Plan {
    let fails = if dice.random_bool(0.25) { dice.random_range(1..4) } else { 0 };
    let ms = match dice.random_range(0..10) {
        0 => 0,
        1 => dice.random_range(2_000..9_000),
        _ => dice.random_range(1..400),
    };
    Plan { fails, ms, dead: dice.random_bool(0.05) }
}

/// A graph in which each step needs some of the two before it.
fn steps(dice: &mut StdRng) -> Vec<(Plan, Vec<usize>)> {
    let count = dice.random_range(2..6);
    let needs = |dice: &mut StdRng, place: usize| -> Vec<usize> {
        (place.saturating_sub(2)..place).filter(|_| dice.random_bool(0.7)).collect()
    };
    (0..count).map(|place| (plan(dice), needs(dice, place))).collect()
}

fn spec() -> JobSpec {
    JobSpec {
        max_attempts: 5,
        max_crashes: 8,
        timeout: Span(Duration::from_secs(30)),
        retry: RetryPolicy {
            backoff: Backoff::Exponential,
            initial: Span(Duration::from_millis(300)),
            max: Span(Duration::from_secs(4)),
            ..RetryPolicy::default()
        },
        ..JobSpec::default()
    }
}

/// The job of a piece, under a fresh id.
pub fn new_job(piece: &Piece) -> NewJob {
    let payload = serde_json::to_vec(&piece.plan).expect("a plan is JSON");
    let kind = KIND.parse().expect("a kind");
    let now = windlass_shared::model::time::Timestamp::from_micros(below::wall_us());
    NewJob {
        run_at: piece.delay.map(|delay| now.plus(delay)),
        priority: Priority::new(piece.priority).expect("drawn below ten"),
        spec: JobSpec { exclusive: piece.exclusive, ..spec() },
        ..NewJob::new(namespace(), queue(QUEUES[piece.queue]), kind, Value::Inline(payload.into()))
    }
}

/// The workflow of a run's steps.
pub fn workflow(steps: &[(Plan, Vec<usize>)]) -> Json {
    let step = |(place, (plan, needs)): (usize, &(Plan, Vec<usize>))| {
        json!({
            "id": format!("s{place}"),
            "needs": needs,
            "work": { "job": {
                "queue": QUEUES[0], "kind": KIND, "payload": plan, "is_template": false,
                "spec": spec(),
            } },
        })
    };
    json!({ "name": "sim", "steps": steps.iter().enumerate().map(step).collect::<Vec<_>>() })
}
