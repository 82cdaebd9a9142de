//! Carries a profile out against a running fleet, over HTTP: the load, then the audit of what became of it.
//!
//! Read in this order: `drive` (makes the calls), `shape` (what they submit), `book` (what was accepted), `audit` (what became of
//! it), `watch` (processes and the queue), `figures` (the names of what is measured).

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use windlass_shared::clock::Clock;

use crate::cpu::Watched;
use crate::profile::Profile;
use crate::result::{LoadResult, Second, StageTimes};

mod audit;
mod book;
mod drive;
pub mod figures;
mod keep;
mod offset;
mod pace;
mod shape;
mod tally;
#[cfg(test)]
mod tests;
pub mod watch;

pub use keep::keep;
pub use shape::trace;

use crate::http::{Answer, Client};
pub(crate) use audit::Ends;
use audit::{Audit, Found};
use drive::{Common, Stage};
use figures::{Figures, per_second, percent};
use tally::{Counts, Lap, Tally};
use watch::Sample;

/// What the process that makes the load is called among those that are watched.
pub const CLIENT: &str = "client";
/// Jobs of one call when a backlog is made.
const BACKLOG_BATCH: u32 = 1_000;
/// And calls at once.
const BACKLOG_CALLS: usize = 4;
/// For so long a queue is tried to be given back as it was.
const RESTORE_MAX: Duration = Duration::from_secs(60);

/// Where a load goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// The API.
    pub url: String,
    /// A key for it, where it wants one.
    pub api_key: Option<String>,
    /// Where the key is bound to none.
    pub namespace: Option<String>,
    /// Processes whose memory and processor time are watched, on this machine.
    pub watched: Vec<Watched>,
}

/// How a profile is carried out.
#[derive(Debug, Clone)]
pub struct Options {
    /// Of what is drawn: lengths, calls, pauses. The same one makes the same load.
    pub seed: u64,
    /// Workflow documents to submit instead of the profile's graph.
    pub traces: Vec<Value>,
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress<'a> {
    /// The stage, or what is done after the last one.
    pub doing: &'a str,
    /// From 0 to 1, of `doing`.
    pub part: f64,
    /// The last second.
    pub second: Option<&'a Second>,
    /// Accepted jobs so far.
    pub accepted: u64,
}

/// Carries it out. Can be stopped: then what was submitted so far is audited. Dropped, it leaves its jobs behind.
///
/// # Errors
/// The API cannot be reached at all, does not answer for long after the load, or a watched process is gone.
pub async fn run(
    name: &str,
    profile: &Profile,
    target: &Target,
    options: Options,
    tell: &(dyn Fn(&Progress<'_>) + Sync),
    stop: CancellationToken,
) -> Result<LoadResult> {
    let client = Client::new(&target.url, target.api_key.as_deref(), target.namespace.as_deref())?;
    let described: Value = client.read("/openapi.json").await.context("the API does not answer")?;
    let id = uuid::Uuid::now_v7();
    let tag = format!("loadtest-{id}");
    watch::check(&target.watched)?;
    let mut watched = target.watched.clone();
    watched.push(Watched { name: CLIENT.to_owned(), pid: std::process::id() });
    let (began, began_at) = (Instant::now(), Clock::System.now());
    let common = Arc::new(Common {
        shape: shape::Shape::new(&profile.jobs, &tag, options.traces),
        book: book::Book::default(),
        tag: tag.clone(),
        began,
        seed: options.seed,
        made: AtomicU64::new(0),
        stop,
        client,
    });
    let running = Running { profile, watched: &watched, common: &common, tell };
    let loaded = running.load().await?;

    let queue = profile.jobs.queue.as_str();
    let audit = Audit {
        client: &common.client,
        queue,
        tag: &tag,
        began: began_at,
        documents: common.shape.documents(),
    };
    let doing = |doing: &str, part: f64| {
        tell(&Progress { doing, part, second: None, accepted: common.book.accepted() });
    };
    let settle = profile.settle.0;
    let settled = audit
        .settle(settle, |seconds| {
            doing("waiting for the last jobs", seconds / settle.as_secs_f64())
        })
        .await?;
    let over = watch::look(began, &watched, loaded.samples.last()).await;
    let pages = common.book.take();
    let all = pages.jobs.len().max(1) as f64;
    // And those that were made wait.
    let stages = profile.stages.len() + 1;
    let found = audit
        .audit(stages, pages, |read| doing("checking every job", (read as f64 / all).min(1.0)))
        .await?;

    let mut figures = Figures::default();
    let (codes, stages) = running.note(&mut figures, &loaded, &found, &over);
    watch::note_memory(&mut figures, &watched, &loaded.samples);
    let held: Vec<_> =
        profile.thresholds.iter().map(|(name, threshold)| threshold.hold(name, &figures)).collect();
    let mut notes = Vec::new();
    match found.offset {
        offset::Offset { micros: 0, .. } => {}
        offset::Offset { micros, within_micros: Some(within) } => notes.push(format!(
            "the fleet's clock is {:.1} ms ahead of this host's, give or take {:.1} ms: times are corrected for it",
            micros as f64 / 1e3,
            within as f64 / 1e3
        )),
        offset::Offset { .. } => {
            notes.push("clocks were set during the load: times of starts and ends may be wrong".into());
        }
    }
    let is_counted: Vec<bool> = profile.stages.iter().map(|stage| !stage.warm_up).collect();
    let mut samples = loaded.samples;
    samples.push(over);
    let mut result = LoadResult {
        id,
        profile: name.to_owned(),
        about: profile.about.clone(),
        began_at,
        seconds: samples.last().map_or(0.0, |sample| sample.at),
        url: target.url.clone(),
        fleet_version: described["info"]["version"].as_str().unwrap_or_default().to_owned(),
        machine: crate::result::Machine::this(),
        seed: options.seed,
        was_stopped: common.stop.is_cancelled(),
        has_settled: settled,
        passed: false,
        thresholds: held,
        figures,
        stages,
        codes,
        processes: watched.iter().map(|process| process.name.clone()).collect(),
        samples,
        series: series(loaded.series, &found.timeline),
        ends: StageTimes::curve(&found.all_times(&is_counted)),
        examples: found.examples,
        notes,
        tag,
        compared: None,
    };
    result.passed = result.reasons().is_empty();
    Ok(result)
}

/// Adds to each second what the audit knows of it.
fn series(mut series: Vec<Second>, timeline: &[(u32, u32)]) -> Vec<Second> {
    let mut timeline = timeline.to_vec();
    timeline.sort_unstable();
    for ended in timeline.chunk_by(|a, b| a.0 / 1_000 == b.0 / 1_000) {
        let mut took: Vec<u32> = ended.iter().map(|(_, took_ms)| *took_ms).collect();
        took.sort_unstable();
        let at = f64::from(ended[0].0 / 1_000 + 1);
        let place = series.iter().position(|known| (known.at - at).abs() < 0.5);
        let place = place.unwrap_or_else(|| {
            series.push(Second { at, ..Second::default() });
            series.len() - 1
        });
        // By rank.
        let rank = |part: f64| f64::from(took[((took.len() - 1) as f64 * part).round() as usize]);
        series[place].ended = took.len() as u64;
        series[place].end_p50_ms = rank(0.5);
        series[place].end_p99_ms = rank(0.99);
    }
    series.sort_by(|a, b| a.at.total_cmp(&b.at));
    series
}

/// What is known when the load is over.
#[derive(Default)]
struct Loaded {
    stages: Vec<Ran>,
    samples: Vec<Sample>,
    series: Vec<Second>,
    /// Since the last second.
    lap: Lap,
}

/// A stage that ran.
struct Ran {
    counts: Counts,
    /// Its first intended call and its last answer.
    began: Duration,
    ended: Duration,
    before: Sample,
    after: Sample,
}

struct Running<'a> {
    profile: &'a Profile,
    watched: &'a [Watched],
    common: &'a Arc<Common>,
    tell: &'a (dyn Fn(&Progress<'_>) + Sync),
}

impl Running<'_> {
    async fn load(&self) -> Result<Loaded> {
        let mut loaded = Loaded::default();
        let first = tokio::time::Instant::now() + watch::EVERY;
        let mut ticks = tokio::time::interval_at(first, watch::EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut peak = f64::NAN;
        for (n, stage) in self.profile.stages.iter().enumerate() {
            if self.common.stop.is_cancelled() {
                break;
            }
            let ran = match stage.hold {
                Some(rate) => {
                    let before = self.rate_limit().await?;
                    // Also where the answer to the first call was lost.
                    let set = self.limit(&json!({ "limit": rate, "per": "1s" })).await;
                    let ran = match set {
                        Ok(()) => {
                            self.stage(u16::try_from(n)?, stage, peak, &mut ticks, &mut loaded)
                                .await
                        }
                        Err(error) => Err(error),
                    };
                    self.persistently(|| self.limit(&before)).await.with_context(|| {
                        format!(
                            "its rate limit was {before}: set it again with `windlass queue set`"
                        )
                    })?;
                    ran
                }
                None => self.stage(u16::try_from(n)?, stage, peak, &mut ticks, &mut loaded).await,
            };
            let ran = ran?;
            if stage.in_flight.is_some() {
                let good = ran.counts.calls - ran.counts.errors();
                peak = per_second(good, ran.ended.saturating_sub(ran.began));
            }
            loaded.stages.push(ran);
        }
        self.second(&Tally::default(), &mut loaded).await;
        Ok(loaded)
    }

    async fn stage(
        &self,
        number: u16,
        stage: &crate::profile::Stage,
        peak: f64,
        ticks: &mut Interval,
        loaded: &mut Loaded,
    ) -> Result<Ran> {
        if let Some(jobs) = stage.backlog {
            self.backlog(jobs).await?;
        }
        let load = stage.load().map_err(anyhow::Error::msg)?;
        let tally = Arc::new(Tally::default());
        let (common, mix) = (Arc::clone(self.common), self.profile.mix_of(stage));
        let running = Arc::new(Stage::new(common, number, mix, Arc::clone(&tally))?);
        let began = self.common.began.elapsed();
        let before = self.look(loaded).await;
        let length = stage.length.map_or(watch::EVERY, |length| length.0);
        let task = tokio::spawn(async move { running.run(&load, peak).await });
        let mut task = AbortOnDropHandle::new(task);
        loop {
            tokio::select! {
                biased;
                ended = &mut task => {
                    ended.context("a stage of the load panicked")?;
                    break;
                }
                _ = ticks.tick() => {
                    let second = self.second(&tally, loaded).await;
                    let spent = self.common.began.elapsed().saturating_sub(began);
                    let part = (spent.as_secs_f64() / length.as_secs_f64()).min(1.0);
                    let (doing, accepted) = (stage.name.as_str(), self.common.book.accepted());
                    (self.tell)(&Progress { doing, part, second: Some(&second), accepted });
                }
            }
        }
        let ended = self.common.began.elapsed();
        // What is left of its last second counts with the next one.
        loaded.lap.add(&tally.lap());
        let after = self.look(loaded).await;
        Ok(Ran { counts: tally.counts(), began, ended, before, after })
    }

    /// Looks at the processes; of one that is gone the last values stay.
    async fn look(&self, loaded: &mut Loaded) -> Sample {
        let last = loaded.samples.last();
        let sample = watch::look(self.common.began, self.watched, last).await;
        loaded.samples.push(sample.clone());
        sample
    }

    /// One look at everything.
    async fn second(&self, tally: &Tally, loaded: &mut Loaded) -> Second {
        let last = loaded.samples.last();
        let mut sample = watch::look(self.common.began, self.watched, last).await;
        let depth = watch::depth(&self.common.client, self.profile.jobs.queue.as_str());
        // Who does not answer soon is busy with the load.
        sample.depth = tokio::time::timeout(watch::EVERY / 2, depth).await.ok().flatten();
        let mut lap = std::mem::take(&mut loaded.lap);
        lap.add(&tally.lap());
        let second = Second {
            at: sample.at,
            answered: lap.answered,
            errors: lap.errors,
            accepted: lap.accepted,
            answer_p50_ms: lap.times.at(0.5).as_secs_f64() * 1e3,
            answer_p99_ms: lap.times.at(0.99).as_secs_f64() * 1e3,
            depth: sample.depth,
            ..Second::default()
        };
        loaded.samples.push(sample);
        loaded.series.push(second.clone());
        second
    }

    /// Makes jobs wait: the queue is paused while they are submitted.
    async fn backlog(&self, jobs: u32) -> Result<()> {
        let queue = self.profile.jobs.queue.as_str();
        if self.queue().await?.is_some_and(|queue| queue["paused"] == true) {
            bail!(
                "the queue {queue:?} is paused; resume it first: `windlass queue resume {queue}`"
            );
        }
        let filled = match self.queue_is("pause").await {
            Ok(()) => self.fill(jobs).await,
            Err(error) => Err(error),
        };
        self.persistently(|| self.queue_is("resume")).await.with_context(|| {
            format!("the queue is left paused: `windlass queue resume {queue}`")
        })?;
        filled
    }

    async fn queue(&self) -> Result<Option<Value>> {
        let path = format!("/v1/queues/{}", self.profile.jobs.queue);
        self.common.client.find(&path).await
    }

    async fn queue_is(&self, what: &str) -> Result<()> {
        let queue = self.profile.jobs.queue.as_str();
        let path = format!("/v1/queues/{queue}/{what}");
        match self.common.client.post(&path, "{}".into(), 200).await {
            Answer::Good(_) => Ok(()),
            answer => bail!("cannot {what} the queue {queue:?}: {}", answer.why()),
        }
    }

    /// The rate limit of the queue; null where there is none.
    async fn rate_limit(&self) -> Result<Value> {
        let queue = self.queue().await?;
        Ok(queue.map_or(Value::Null, |mut queue| queue["settings"]["rate_limit"].take()))
    }

    async fn limit(&self, rate: &Value) -> Result<()> {
        let queue = self.profile.jobs.queue.as_str();
        let body = json!({ "rate_limit": rate }).to_string();
        match self.common.client.patch(&format!("/v1/queues/{queue}"), body.into()).await {
            Answer::Good(_) => Ok(()),
            answer => bail!("cannot set the rate limit of the queue {queue:?}: {}", answer.why()),
        }
    }

    /// Tries for a minute: what was changed for the load is not to stay.
    async fn persistently<F: Future<Output = Result<()>>>(
        &self,
        change: impl Fn() -> F,
    ) -> Result<()> {
        let until = Instant::now() + RESTORE_MAX;
        loop {
            match change().await {
                Err(_) if Instant::now() < until => tokio::time::sleep(watch::EVERY).await,
                done => return done,
            }
        }
    }

    async fn fill(&self, jobs: u32) -> Result<()> {
        // After those of the load.
        let stage = u16::try_from(self.profile.stages.len())?;
        let left = Arc::new(AtomicU64::new(jobs.into()));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..BACKLOG_CALLS {
            let (common, left) = (Arc::clone(self.common), Arc::clone(&left));
            let batch = crate::profile::Jobs { batch: BACKLOG_BATCH, ..self.profile.jobs.clone() };
            tasks.spawn(async move { drive::fill(&common, stage, &batch, &left).await });
        }
        let mut ticks = tokio::time::interval(watch::EVERY);
        loop {
            tokio::select! {
                ended = tasks.join_next() => match ended {
                    Some(ended) => ended.context("a task panicked")??,
                    None => return Ok(()),
                },
                _ = ticks.tick() => {
                    let left = left.load(std::sync::atomic::Ordering::Relaxed);
                    let part = 1.0 - left as f64 / f64::from(jobs.max(1));
                    let accepted = self.common.book.accepted();
                    (self.tell)(&Progress { doing: "making jobs wait", part, second: None, accepted });
                }
            }
        }
    }

    /// Notes every figure of stages and of the whole; the errors by what was said, and percentiles of each stage.
    fn note(
        &self,
        figures: &mut Figures,
        loaded: &Loaded,
        found: &Found,
        over: &Sample,
    ) -> (std::collections::BTreeMap<String, u64>, Vec<StageTimes>) {
        let (mut all_counts, mut all_ends) = (Counts::default(), Ends::default());
        let mut seconds = Duration::ZERO;
        let mut stages = Vec::new();
        let mut span: Option<(Duration, Duration)> = None;
        let mut codes = std::collections::BTreeMap::new();
        for ((stage, ran), ends) in
            self.profile.stages.iter().zip(&loaded.stages).zip(&found.stages)
        {
            let (began, ended) = (ran.began, ran.ended);
            note_part(
                figures,
                Some(&stage.name),
                &ran.counts,
                ends,
                (began, ended, ended.saturating_sub(began)),
            );
            watch::note_cpu(
                figures,
                Some(&stage.name),
                self.watched,
                (&ran.before, &ran.after),
                ends.accepted,
            );
            for (code, count) in &ran.counts.codes {
                *codes.entry(code.clone()).or_default() += count;
            }
            let (from, to) = (began.as_secs_f64(), ended.as_secs_f64());
            stages.push(StageTimes::new(&stage.name, from, to, &ran.counts.all_times(), ends));
            if stage.warm_up {
                all_ends.add(&ends.broken_alone());
                continue;
            }
            all_counts.add(&ran.counts);
            all_ends.add(ends);
            seconds += ended.saturating_sub(began);
            span = Some((span.map_or(began, |(first, _)| first), ended));
        }
        if let Some(backlog) = found.stages.last() {
            all_ends.add(&backlog.broken_alone());
        }
        let (began, ended) = span.unwrap_or_default();
        note_part(figures, None, &all_counts, &all_ends, (began, ended, seconds));
        figures.note(None, "ghosts", found.ghosts as f64);
        if let Some(first) = loaded.stages.first() {
            // With what was warmed up, which cost as much.
            let jobs = found.stages.iter().map(|ends| ends.accepted).sum();
            watch::note_cpu(figures, None, self.watched, (&first.before, over), jobs);
        }
        (codes, stages)
    }
}

/// Figures of a stage, or of all; `times` are the first intended call, the last answer, and the seconds of load between.
fn note_part(
    figures: &mut Figures,
    stage: Option<&str>,
    counts: &Counts,
    ends: &Ends,
    (began, ended, load): (Duration, Duration, Duration),
) {
    let mut note = |name: &str, value: f64| figures.note(stage, name, value);
    note("seconds", load.as_secs_f64());
    note("calls", counts.calls as f64);
    note("calls_per_second", per_second(counts.calls - counts.errors(), load));
    note("refused_percent", percent(counts.refused, counts.calls));
    note("failed_percent", percent(counts.failed, counts.calls));
    let of_calls = percent(counts.errors(), counts.calls);
    note("errors_percent", of_calls.max(percent(ends.lost + ends.wrong, ends.accepted)));
    note("unsent", counts.unsent as f64);
    note("accepted", ends.accepted as f64);
    note("accepted_per_second", per_second(ends.accepted, load));
    if let Some(last) = ends.last_end {
        let last = Duration::from_micros(u64::try_from(last).unwrap_or(0));
        note("ended_per_second", per_second(ends.ended, last.saturating_sub(began)));
        note("drain_seconds", last.saturating_sub(ended).as_secs_f64());
    }
    note("lost", ends.lost as f64);
    note("wrong", ends.wrong as f64);
    note("repeated", ends.repeated as f64);
    note("early", ends.early as f64);
    figures.note_times(stage, "answer", &counts.all_times());
    for (kind, times) in &counts.times {
        figures.note_times(stage, kind.name(), times);
    }
    figures.note_times(stage, "start", &ends.starts);
    figures.note_times(stage, "end", &ends.ends);
}
