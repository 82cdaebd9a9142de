//! Holds what was sent against what ran and what the ledger says.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::time::Instant;
use windlass_shared::model::id::JobId;
use windlass_shared::model::job::{Job, JobState};
use windlass_shared::model::load_check::{Plan, Report, Verdict};

use super::Check;
use super::effects::Effects;
use super::generator::{Answer, Sent};
use super::memory::Grown;

/// Jobs of one read.
const READ_MAX: usize = 1_000;
/// Examples in a report.
const EXAMPLES_MAX: usize = 10;
/// The ledger reckons when a job is due, the engine when it is: their clocks, on two hosts, may differ by this. A job that
/// starts earlier, by the clock of this process, than its delay after its submission was *sent* is early beyond doubt.
const CLOCKS_APART: Duration = Duration::from_millis(250);
/// Longest latency that is told apart from longer ones, in milliseconds.
const LONGEST_MS: u64 = 3_600_000;

/// What a load left to judge.
pub(super) struct Found<'a> {
    pub(super) sent: Vec<Sent>,
    /// From the first intended time to the last answer.
    pub(super) load: Duration,
    pub(super) effects: &'a Effects,
    /// When the ledger had the end of each.
    pub(super) ended: HashMap<JobId, Instant>,
    pub(super) grown: Grown,
}

/// What was counted.
struct Counts {
    accepted: u64,
    refused: u64,
    lost: u64,
    doubled: u64,
    early: u64,
    ghosts: u64,
    failed: u64,
    leases_lost: u64,
    starts: Histogram<u64>,
    ends: Histogram<u64>,
    examples: Vec<String>,
}

/// The verdicts.
///
/// # Errors
/// The ledger cannot be read.
pub(super) async fn audit(check: &Check, found: &Found<'_>) -> anyhow::Result<Report> {
    let times = || Histogram::new_with_bounds(1, LONGEST_MS * 1_000, 3).expect("constant bounds");
    let mut counts = Counts {
        accepted: 0,
        refused: 0,
        lost: 0,
        doubled: 0,
        early: 0,
        ghosts: 0,
        failed: 0,
        leases_lost: 0,
        starts: times(),
        ends: times(),
        examples: Vec::new(),
    };
    for chunk in found.sent.chunks(READ_MAX) {
        let ids: Vec<JobId> = chunk.iter().map(|sent| sent.id).collect();
        let jobs = check.life.ledger().jobs(&ids).await.context("the jobs cannot be read")?;
        let jobs: HashMap<JobId, Job> = jobs.into_iter().map(|job| (job.id, job)).collect();
        for sent in chunk {
            counts.add(found, sent, jobs.get(&sent.id));
        }
    }
    Ok(report(&check.plan, found, counts))
}

impl Counts {
    fn add(&mut self, found: &Found<'_>, sent: &Sent, job: Option<&Job>) {
        let effect = found.effects.of(sent.id);
        if sent.answer != Answer::Accepted {
            self.refused += 1;
            if job.is_some() || effect.is_some() {
                self.ghosts += 1;
                self.note(sent, "was refused, and is there");
            }
            return;
        }
        self.accepted += 1;
        let end = found.ended.get(&sent.id).filter(|_| job.is_some_and(|j| j.state.is_terminal()));
        if end.is_none() || effect.is_none() {
            self.lost += 1;
            self.note(sent, if end.is_none() { "did not end" } else { "ended and never ran" });
        }
        if let Some(effect) = effect {
            if effect.runs > 1 {
                self.doubled += 1;
                self.note(sent, "ran more than once");
            }
            if is_early(sent, effect.first, job) {
                self.early += 1;
                self.note(sent, "started before it was due");
            }
            record(&mut self.starts, effect.first, sent);
        }
        if let Some(end) = end {
            record(&mut self.ends, *end, sent);
        }
        if let Some(job) = job {
            self.leases_lost += u64::from(job.crashes);
            if job.state.is_terminal() && job.state != JobState::Succeeded {
                self.failed += 1;
                self.note(sent, "did not succeed");
            }
        }
    }

    fn note(&mut self, sent: &Sent, what: &str) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(format!("job {} {what}", sent.id));
        }
    }
}

/// By the engine's own word where the job was delayed, and by this process' clock.
fn is_early(sent: &Sent, first: Instant, job: Option<&Job>) -> bool {
    let due = sent.at + sent.delay;
    let by_engine = job.is_some_and(|job| {
        !sent.delay.is_zero() && job.started_at.is_some_and(|started| started < job.run_at)
    });
    by_engine || first + CLOCKS_APART < due
}

/// Counted from the intended time, and the delay.
fn record(times: &mut Histogram<u64>, at: Instant, sent: &Sent) {
    let time = at.saturating_duration_since(sent.intended + sent.delay);
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    times.saturating_record(micros.max(1));
}

fn report(plan: &Plan, found: &Found<'_>, counts: Counts) -> Report {
    let total = counts.accepted + counts.refused;
    let percent = |part: f64, whole: f64| if whole > 0.0 { part * 100.0 / whole } else { 0.0 };
    let errors = percent((counts.refused + counts.failed) as f64, total as f64);
    let seconds = found.load.as_secs_f64();
    let reached = counts.accepted as f64 * 60.0 / seconds.max(f64::MIN_POSITIVE);
    let mut verdicts = vec![
        Verdict::at_most("lost", 0.0, counts.lost as f64),
        Verdict::at_most("doubled", 0.0, counts.doubled as f64),
        Verdict::at_most("early", 0.0, counts.early as f64),
        Verdict::at_most("ran_though_refused", 0.0, counts.ghosts as f64),
        Verdict::at_most("leases_lost", 0.0, counts.leases_lost as f64),
        Verdict::at_most("interrupted", 0.0, 0.0),
        Verdict::at_most("errors_percent", 0.1, errors),
        Verdict::at_least("rate_percent", 99.0, percent(reached, f64::from(plan.rate_per_minute))),
        Verdict::at_most("memory_growth_percent", 50.0, found.grown.percent()),
    ];
    let latencies =
        [("start", &counts.starts, plan.start_p99_max), ("end", &counts.ends, plan.end_p99_max)];
    for (name, times, p99_max) in latencies {
        let max = p99_max.0.as_secs_f64() * 1_000.0;
        // The middle is held to a quarter of what the slowest may take, and 95 of 100 to a half.
        for (what, quantile, share) in [("p50", 0.5, 0.25), ("p95", 0.95, 0.5), ("p99", 0.99, 1.0)]
        {
            let ms = times.value_at_quantile(quantile) as f64 / 1_000.0;
            verdicts.push(Verdict::at_most(&format!("{name}_{what}_ms"), max * share, ms));
        }
    }
    Report {
        verdicts,
        accepted: counts.accepted,
        refused: counts.refused,
        load_seconds: seconds,
        examples: counts.examples,
    }
}
