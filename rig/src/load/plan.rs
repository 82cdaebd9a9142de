//! What is submitted: drawn from a seed, so that a run can be repeated.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::worker::{EFFECT, FENCED, Work};

/// The queue that is never touched, the one that is paused half of the time, and another plain one. Of 3A's three queues
/// two have rules (a rate limit, order keys): they are plain here, and limits have an experiment of their own.
pub const QUEUES: [&str; 3] = ["rig-a", "rig-paused", "rig-c"];
/// The one that is paused half of the time.
pub const PAUSED: &str = QUEUES[1];
/// Steps of a diamond: one, four beside each other, one.
pub const DIAMOND: u32 = 6;
/// Between attempts that fail as planned.
const RETRY_MS: u64 = 300;

/// Of [`Submission::fails`]: nobody knows beforehand.
pub const ANY: u32 = u32::MAX;
/// Of [`Submission::ends`]: of one that does not wait for ever.
pub const EXPIRING: &str = "succeeded|expired";

/// The mix of 3A.
#[derive(Debug, Clone)]
pub struct Mix {
    /// Jobs a second, steps of runs included.
    pub rate: f64,
    /// Share of jobs that take [`Self::long_ms`].
    pub long: f64,
    /// How long those take.
    pub long_ms: u64,
    /// Share of jobs that are steps of diamonds.
    pub steps: f64,
    /// Share of jobs that are delayed.
    pub delayed: f64,
    /// Shortest and longest delay in ms.
    pub delay_ms: (u64, u64),
    /// Share of jobs whose first attempt fails.
    pub failing: f64,
    /// Share of jobs that write to the store with fences.
    pub fenced: f64,
}

impl Mix {
    /// 3A's: 5 to 200 ms (evenly over the logarithm), 2 % of 5 s, 10 % in diamonds, 5 % delayed by 1 to 10 s. Beyond
    /// it: 3 % fail once, and a fifth writes to the store with fences.
    pub const fn standard(rate: f64) -> Self {
        Self {
            rate,
            long: 0.02,
            long_ms: 5_000,
            steps: 0.10,
            delayed: 0.05,
            delay_ms: (1_000, 10_000),
            failing: 0.03,
            fenced: 0.2,
        }
    }

    /// Submissions a second that make so many jobs: a diamond is one submission.
    pub fn submissions(&self) -> f64 {
        self.rate * (1.0 - self.steps + self.steps / f64::from(DIAMOND))
    }
}

/// One submission.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Its idempotency key and tag.
    pub key: String,
    /// Where it goes.
    pub path: &'static str,
    /// What is sent.
    pub body: Value,
    /// Where it waits.
    pub queue: String,
    /// The handler.
    pub kind: &'static str,
    /// Attempts that are to fail, or [`ANY`].
    pub fails: u32,
    /// The state that it is to end in; of several, with `|` between them, one.
    pub ends: &'static str,
    /// How long it waits before it may start.
    pub delay_ms: u64,
    /// Steps, of a run.
    pub steps: u32,
}

/// Draws submissions. The same seed draws the same ones, keys aside.
#[derive(Debug)]
pub struct Draw {
    rng: StdRng,
    mix: Mix,
    prefix: String,
    drawn: u64,
}

impl Draw {
    /// `prefix` starts every key.
    pub fn new(seed: u64, mix: Mix, prefix: &str) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), mix, prefix: prefix.to_owned(), drawn: 0 }
    }

    /// The next one.
    pub fn draw(&mut self) -> Submission {
        self.drawn += 1;
        let key = format!("{}-{}", self.prefix, self.drawn);
        let queue = QUEUES[self.rng.random_range(0..QUEUES.len())];
        let share = self.mix.steps / f64::from(DIAMOND);
        let of_runs = share / (1.0 - self.mix.steps + share);
        if self.rng.random_bool(of_runs) {
            return self.diamond(key, queue);
        }
        let work = self.work();
        let kind = if self.rng.random_bool(self.mix.fenced) { FENCED } else { EFFECT };
        let delayed = self.rng.random_bool(self.mix.delayed);
        let (shortest, longest) = self.mix.delay_ms;
        let delay_ms = if delayed { self.rng.random_range(shortest..=longest) } else { 0 };
        job(key, queue, kind, &work, delay_ms)
    }

    fn work(&mut self) -> Work {
        let ms = if self.rng.random_bool(self.mix.long) {
            self.mix.long_ms
        } else {
            // Evenly over the logarithm of 5 to 200 ms: 53 ms in the mean.
            self.rng.random_range(5f64.ln()..200f64.ln()).exp().round() as u64
        };
        Work { ms, fails: u32::from(self.rng.random_bool(self.mix.failing)), ..Work::default() }
    }

    fn diamond(&mut self, key: String, queue: &str) -> Submission {
        let mut steps = vec![self.step("first", queue, &[])];
        let middle = ["left", "inner-left", "inner-right", "right"];
        steps.extend(middle.map(|id| self.step(id, queue, &["first"])));
        steps.push(self.step("last", queue, &middle));
        Submission {
            body: json!({ "name": "diamond", "steps": steps, "tags": [&key] }),
            key,
            path: "/v1/workflows",
            queue: queue.to_owned(),
            kind: EFFECT,
            fails: 0,
            ends: "succeeded",
            delay_ms: 0,
            steps: DIAMOND,
        }
    }

    fn step(&mut self, id: &str, queue: &str, needs: &[&str]) -> Value {
        // None fails: the history knows of a run only as a whole.
        let work = Work { fails: 0, ..self.work() };
        json!({
            "id": id, "kind": EFFECT, "queue": queue, "needs": needs, "payload": work,
            "retry": retry(),
        })
    }
}

/// The steps that a step of a diamond needs.
pub fn needs(step: &str) -> &'static [&'static str] {
    match step {
        "first" => &[],
        "last" => &["left", "inner-left", "inner-right", "right"],
        _ => &["first"],
    }
}

/// One job.
pub fn job(key: String, queue: &str, kind: &'static str, work: &Work, delay_ms: u64) -> Submission {
    let mut body = json!({
        "kind": kind, "queue": queue, "payload": work, "tags": [&key], "retry": retry(),
    });
    if delay_ms > 0 {
        body["delay"] = json!(format!("{delay_ms}ms"));
    }
    Submission {
        key,
        path: "/v1/jobs",
        body,
        queue: queue.to_owned(),
        kind,
        fails: work.fails,
        ends: "succeeded",
        delay_ms,
        steps: 0,
    }
}

fn retry() -> Value {
    json!({ "backoff": "fixed", "initial": format!("{RETRY_MS}ms"), "jitter": "none" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_and_the_shares_are_those_of_the_mix() {
        let draw = |seed| {
            let mut draw = Draw::new(seed, Mix::standard(300.0), "k");
            (0..20_000).map(|_| draw.draw()).collect::<Vec<_>>()
        };
        let (one, again, other) = (draw(1), draw(1), draw(2));
        let bodies =
            |drawn: &[Submission]| drawn.iter().map(|s| s.body.clone()).collect::<Vec<_>>();
        assert_eq!(bodies(&one), bodies(&again));
        assert_ne!(bodies(&one), bodies(&other));
        let jobs: u32 = one.iter().map(|s| s.steps.max(1)).sum();
        let share = |of: u32| f64::from(of) / f64::from(jobs);
        let steps = share(one.iter().map(|s| s.steps).sum());
        assert!((0.08..0.12).contains(&steps), "{steps} of the jobs are steps");
        let delayed = share(one.iter().map(|s| u32::from(s.delay_ms > 0)).sum());
        assert!((0.035..0.055).contains(&delayed), "{delayed} of the jobs are delayed");
    }
}
