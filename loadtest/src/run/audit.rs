//! Holds what was submitted against what the fleet says of it: every accepted job ends once, as planned, not early.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use uuid::Uuid;
use windlass_shared::model::time::Timestamp;

use super::book::{Entry, Pages};
use super::offset::Offset;
use super::shape::Document;
use crate::http::Client;
use crate::report::Times;

/// Jobs of one page.
const PAGE: usize = 500;
/// Between two looks whether all have ended.
const LOOK: Duration = Duration::from_millis(200);
/// Examples of jobs that broke a promise.
const EXAMPLES_MAX: usize = 10;
/// The clocks of hosts of one fleet may differ by this.
const CLOCKS_APART: Duration = Duration::from_secs(3_600);
const LIVE: &str = "state=blocked&state=scheduled&state=ready&state=running&state=retrying";

/// Of one stage, or of all.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ends {
    /// Jobs: submitted ones, and steps of workflows.
    pub(crate) accepted: u64,
    pub(crate) ended: u64,
    pub(crate) lost: u64,
    pub(crate) wrong: u64,
    pub(crate) repeated: u64,
    pub(crate) early: u64,
    /// From when a job was intended and due to the start of its last attempt.
    pub(crate) starts: Times,
    /// To its end; of workflows, that of the run.
    pub(crate) ends: Times,
    /// When the last one ended, in µs from the beginning of the load.
    pub(crate) last_end: Option<i64>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) stages: Vec<Ends>,
    /// Jobs of this load that nobody was told of, beyond those whose answer was lost.
    pub(super) ghosts: u64,
    pub(super) examples: Vec<String>,
    pub(super) offset: Offset,
    /// When each job ended, in ms from the beginning, and how long after it was due.
    pub(super) timeline: Vec<(u32, u32)>,
}

/// Where to look.
pub(super) struct Audit<'a> {
    pub(super) client: &'a Client,
    pub(super) queue: &'a str,
    pub(super) tag: &'a str,
    /// When the load began, by this host's clock.
    pub(super) began: Timestamp,
    pub(super) documents: &'a [Document],
}

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
    next_cursor: Option<String>,
}

/// A job, what of it matters.
#[derive(Debug, Clone, Deserialize)]
struct Job {
    id: Uuid,
    state: String,
    attempt: u32,
    crashes: u32,
    run_at: Timestamp,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    workflow: Option<Step>,
}

#[derive(Debug, Clone, Deserialize)]
struct Step {
    step: String,
}

#[derive(Deserialize)]
struct Named {
    id: Uuid,
}

#[derive(Deserialize)]
struct Run {
    state: String,
    created_at: Timestamp,
    finished_at: Option<Timestamp>,
}

/// A job that was found, with its entry.
struct Pair {
    entry: Entry,
    /// By the fleet's clock.
    created: Timestamp,
    started: Option<Timestamp>,
    finished: Option<Timestamp>,
}

impl Audit<'_> {
    /// Waits until every job has ended, for so long at most, or until `stop`; whether they have. `tell` hears how many seconds
    /// it took so far.
    ///
    /// # Errors
    /// The API does not answer for long.
    pub(super) async fn settle(&self, most: Duration, tell: impl Fn(f64)) -> Result<bool> {
        let began = Instant::now();
        loop {
            let jobs = format!("/v1/jobs?{LIVE}&queue={}&tag={}", self.queue, self.tag);
            let runs = format!("/v1/workflows?state=running&state=waiting&tag={}", self.tag);
            let is_empty = !self.has_any(&jobs).await? && !self.has_any(&runs).await?;
            if is_empty || began.elapsed() >= most {
                return Ok(is_empty);
            }
            tell(began.elapsed().as_secs_f64());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether a list has an item. A page may hold none and still have a next one.
    async fn has_any(&self, path: &str) -> Result<bool> {
        let mut cursor = None;
        loop {
            let list: List<IgnoredAny> = self.page(path, 1, cursor.as_deref()).await?;
            if !list.items.is_empty() {
                return Ok(true);
            }
            cursor = list.next_cursor;
            if cursor.is_none() {
                return Ok(false);
            }
        }
    }

    /// Every item of a list.
    async fn each<T: DeserializeOwned>(&self, path: &str, mut take: impl FnMut(T)) -> Result<()> {
        let mut cursor = None;
        loop {
            let list: List<T> = self.page(path, PAGE, cursor.as_deref()).await?;
            list.items.into_iter().for_each(&mut take);
            cursor = list.next_cursor;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    async fn page<T: DeserializeOwned>(
        &self,
        path: &str,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<List<T>> {
        let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        self.client.read(&format!("{path}&limit={limit}{cursor}")).await
    }

    /// Reads every job of the load and holds it against its entry. `tell` hears how many were read.
    ///
    /// # Errors
    /// The API does not answer for long, or with something else.
    pub(super) async fn audit(
        &self,
        stages: usize,
        mut pages: Pages,
        tell: impl Fn(u64),
    ) -> Result<Found> {
        let mut found = Found { stages: vec![Ends::default(); stages], ..Found::default() };
        pages.jobs.sort_unstable_by_key(|entry| entry.id);
        let mut is_seen = vec![false; pages.jobs.len()];
        let mut pairs = Vec::with_capacity(pages.jobs.len());
        let (mut strangers, mut read) = (0, 0);
        let after = self.first_created(&pages);
        let path = format!("/v1/jobs?queue={}&tag={}&created_after={after}", self.queue, self.tag);
        self.each(&path, |job: Job| {
            match pages.jobs.binary_search_by_key(&job.id, |entry| entry.id) {
                // A list that changes while it is read may show one twice.
                Ok(at) if is_seen[at] => {}
                Ok(at) => {
                    is_seen[at] = true;
                    pairs.push(found.job(pages.jobs[at], &job));
                }
                Err(_) => strangers += u64::from(job.workflow.is_none()),
            }
            read += 1;
            if read % PAGE as u64 == 0 {
                tell(read);
            }
        })
        .await?;
        for (entry, _) in pages.jobs.iter().zip(&is_seen).filter(|(_, is_seen)| !**is_seen) {
            let ends = &mut found.stages[usize::from(entry.stage)];
            ends.accepted += 1;
            ends.lost += 1;
            found.example(entry.id, "is not there");
        }
        let known: HashSet<Uuid> = pages.workflows.iter().map(|(entry, _)| entry.id).collect();
        let mut strange_runs = 0;
        if !known.is_empty() || pages.unknown_runs > 0 {
            let path = format!("/v1/workflows?tag={}&created_after={after}", self.tag);
            self.each(&path, |run: Named| strange_runs += u64::from(!known.contains(&run.id)))
                .await?;
        }
        for (entry, which) in &pages.workflows {
            pairs.extend(self.workflow(&mut found, *entry, &self.documents[*which]).await?);
        }
        found.ghosts = u64::saturating_sub(strangers, pages.unknown_jobs)
            + u64::saturating_sub(strange_runs, pages.unknown_runs);
        let seen = pairs.iter().map(|pair| (pair.created, pair.entry.sent, pair.entry.answered));
        found.offset = Offset::between(self.began, seen);
        pairs.iter().for_each(|pair| found.times(self.began, pair));
        Ok(found)
    }

    /// Before the first job of the load was created, by the fleet's clock: that is in its id (UUIDv7).
    fn first_created(&self, pages: &Pages) -> Timestamp {
        let runs = pages.workflows.iter().map(|(entry, _)| entry.id);
        let first = pages.jobs.iter().map(|entry| entry.id).chain(runs).min();
        let ms = first.and_then(|id| i64::try_from(id.as_u128() >> 80).ok());
        ms.map_or(self.began, Timestamp::from_millis).minus(CLOCKS_APART)
    }

    /// `None`: the run is not there.
    async fn workflow(
        &self,
        found: &mut Found,
        entry: Entry,
        document: &Document,
    ) -> Result<Option<Pair>> {
        let stage = usize::from(entry.stage);
        found.stages[stage].accepted += document.steps.len() as u64;
        let run: Option<Run> = self.client.find(&format!("/v1/workflows/{}", entry.id)).await?;
        let Some(run) = run else {
            found.stages[stage].lost += document.steps.len() as u64;
            found.example(entry.id, "is not there");
            return Ok(None);
        };
        let (mut jobs, mut doubled) = (HashMap::new(), Vec::new());
        let path = format!("/v1/jobs?workflow_id={}", entry.id);
        self.each(&path, |job: Job| {
            let Some(step) = &job.workflow else { return };
            let id = job.id;
            if jobs.insert(step.step.clone(), job).is_some_and(|other| other.id != id) {
                doubled.push(id);
            }
        })
        .await?;
        for id in doubled {
            found.stages[stage].repeated += 1;
            found.example(id, "is a second job of its step");
        }
        if run.finished_at.is_none() {
            found.stages[stage].lost += 1;
            found.example(entry.id, "did not end");
        } else if run.state != "succeeded" {
            found.stages[stage].wrong += 1;
            found.example(entry.id, "did not succeed");
        }
        for (step, needs) in &document.steps {
            let Some(job) = jobs.get(step) else {
                found.stages[stage].lost += 1;
                found.example(entry.id, &format!("has no job of step {step}"));
                continue;
            };
            if let Some(what) = found.stages[stage].check(job, 0) {
                found.example(job.id, what);
            }
            let needed = needs.iter().filter_map(|need| jobs.get(need)?.finished_at).max();
            // Both in whole milliseconds of the fleet's clock.
            if needed > job.started_at && job.started_at.is_some() {
                found.stages[stage].early += 1;
                found.example(job.id, "started before what it needs had ended");
            }
        }
        let (created, finished) = (run.created_at, run.finished_at);
        Ok(Some(Pair { entry, created, started: None, finished }))
    }
}

impl Ends {
    /// Adds those of another stage.
    pub(super) fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.ended += other.ended;
        self.lost += other.lost;
        self.wrong += other.wrong;
        self.repeated += other.repeated;
        self.early += other.early;
        self.starts.add_all(&other.starts);
        self.ends.add_all(&other.ends);
        self.last_end = self.last_end.max(other.last_end);
    }

    /// What was broken, without what was measured.
    pub(super) fn broken_alone(&self) -> Self {
        let Self { lost, wrong, repeated, early, .. } = *self;
        Self { lost, wrong, repeated, early, ..Self::default() }
    }

    /// Counts a job of which so many attempts were to fail; what is wrong with it.
    fn check(&mut self, job: &Job, fails: u32) -> Option<&'static str> {
        if job.finished_at.is_none() {
            self.lost += 1;
            return Some("did not end");
        }
        self.ended += 1;
        self.repeated += u64::from((job.attempt + job.crashes).saturating_sub(fails + 1));
        if job.state != "succeeded" || job.attempt < fails + 1 {
            self.wrong += 1;
            return Some("did not end as planned");
        }
        None
    }
}

impl Found {
    /// From when jobs were due to their ends, of the stages that count.
    pub(super) fn all_times(&self, is_counted: &[bool]) -> Times {
        let mut all = Times::default();
        is_counted.iter().zip(&self.stages).filter(|(is_counted, _)| **is_counted).for_each(
            |(_, stage)| {
                all.add_all(&stage.ends);
            },
        );
        all
    }

    fn job(&mut self, entry: Entry, job: &Job) -> Pair {
        let ends = &mut self.stages[usize::from(entry.stage)];
        ends.accepted += 1;
        let mut what = ends.check(job, entry.plan.fails.into());
        // Of a job that is tried again `run_at` is the time of that; and both are in whole milliseconds.
        let due = job.created_at.plus(Duration::from_millis(entry.plan.delay_ms.into()));
        if entry.plan.delay_ms > 0
            && job.started_at.is_some_and(|started| started < due.max(job.run_at))
        {
            ends.early += 1;
            what = Some("started before it was due");
        }
        if let Some(what) = what {
            self.example(entry.id, what);
        }
        // The start of a job's last attempt says nothing of its first.
        let started = job.started_at.filter(|_| job.attempt == 1 && job.crashes == 0);
        Pair { entry, created: job.created_at, started, finished: job.finished_at }
    }

    fn times(&mut self, began: Timestamp, pair: &Pair) {
        let due = pair.entry.intended + u64::from(pair.entry.plan.delay_ms) * 1_000;
        let due = i64::try_from(due).unwrap_or(i64::MAX);
        let offset = self.offset.micros;
        // Whole milliseconds, rounded down: counted as the next one.
        let since = |at: Timestamp| at.micros() + 1_000 - offset - began.micros();
        let length =
            |at: Timestamp| Duration::from_micros(u64::try_from(since(at) - due).unwrap_or(0));
        let ends = &mut self.stages[usize::from(pair.entry.stage)];
        if let Some(started) = pair.started {
            ends.starts.add(length(started));
        }
        if let Some(finished) = pair.finished {
            ends.ends.add(length(finished));
            ends.last_end = ends.last_end.max(Some(since(finished)));
            let ms = |us: u128| u32::try_from(us / 1_000).unwrap_or(u32::MAX);
            let at = u128::try_from(since(finished)).unwrap_or(0);
            self.timeline.push((ms(at), ms(length(finished).as_micros())));
        }
    }

    fn example(&mut self, id: Uuid, what: &str) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(format!("{id} {what}"));
        }
    }
}
