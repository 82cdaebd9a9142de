//! Schedules that run beside the load, in a namespace of their own, and the account of their due times: promise I19.
//!
//! Their jobs wait for nobody: what is looked at is that there is one for each due time, and no other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use windlass_shared::clock::Clock;
use windlass_shared::model::schedule::times::{Gap, Timing, Zone};
use windlass_shared::model::time::Timestamp;

use crate::figure::{Figure, count};
use crate::load::client::Client;
use crate::until::until_seldom;

/// Where they are.
const NAMESPACE: &str = "cron";
/// Longest wait for the fires of due times that have passed, once the fleet is whole.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// Tries of making one: the fleet may be young.
const TRIES: usize = 10;
/// From one try to the next.
const PAUSE: Duration = Duration::from_millis(500);
/// Pages of one list; far beyond any experiment.
const PAGES_MAX: usize = 1_000;

/// How many schedules, and how often each is due.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// So many.
    pub schedules: usize,
    /// Their patterns, in turn.
    pub patterns: &'static [&'static str],
}

impl Plan {
    /// Beside every experiment.
    pub const BESIDE: Self =
        Self { schedules: 10, patterns: &["*/2 * * * * *", "*/3 * * * * *", "*/5 * * * * *"] };
}

/// The schedules of one run.
#[derive(Debug)]
pub struct Schedules {
    client: Client,
    made: Vec<Made>,
}

#[derive(Debug)]
struct Made {
    name: String,
    timing: Timing,
    first: Timestamp,
}

/// A due time, as the fleet accounts for it.
struct Fire {
    outcome: String,
    job: Option<String>,
    late: Duration,
}

impl Schedules {
    /// Makes them.
    ///
    /// # Errors
    /// The fleet does not take them.
    pub async fn make(client: &Client, plan: Plan) -> anyhow::Result<Self> {
        let client = client.in_namespace(NAMESPACE);
        let mut made = Vec::with_capacity(plan.schedules);
        for n in 0..plan.schedules {
            let name = format!("s{n}");
            let pattern = plan.patterns[n % plan.patterns.len()];
            let body = json!({"name": name, "cron": pattern, "overlap": "allow",
                "catch_up": {"policy": "all", "max": 1000}, "job": {"kind": "noop", "queue": "cron"}});
            let answer = make_one(&client, &body, &name).await?;
            let first = serde_json::from_value(answer["next_at"].clone())
                .with_context(|| format!("{answer} has a next due time"))?;
            let pattern = pattern.parse().context("a legal pattern")?;
            let timing = Timing::Cron { pattern, gap: Gap::default(), repeat: None };
            made.push(Made { name, timing, first });
        }
        Ok(Self { client, made })
    }

    /// What became of every due time up to now.
    ///
    /// # Errors
    /// The fleet does not answer.
    pub async fn figures(&self) -> anyhow::Result<Vec<Figure>> {
        let until = Clock::System.now();
        let (mut due, mut missing, mut unfired, mut strange) = (0, 0, 0, 0);
        let (mut latest, mut named) = (Duration::ZERO, BTreeSet::new());
        for made in &self.made {
            let fires = self.settled(made, until).await?;
            let expected = made.due_until(until);
            due += expected.len();
            missing += expected.iter().filter(|due| !fires.contains_key(*due)).count();
            for (at, fire) in &fires {
                latest = latest.max(fire.late);
                unfired += usize::from(fire.outcome != "fired");
                strange += usize::from(*at <= until && !expected.contains(at));
                let is_new = fire.job.clone().is_none_or(|job| named.insert(job));
                strange += usize::from(!is_new);
            }
        }
        let jobs = self.jobs().await?;
        let without_job = named.difference(&jobs).count();
        let without_row = self.unnamed(&jobs, &named).await?;
        Ok(vec![
            Figure::at_least("due times of schedules", count(due), "", 1.0),
            Figure::at_most("due times without a row", count(missing), "", 0.0),
            Figure::at_most("due times not fired", count(unfired), "", 0.0),
            Figure::at_most(
                "rows without a due time, or with another's job",
                count(strange),
                "",
                0.0,
            ),
            Figure::at_most("fires without their job", count(without_job), "", 0.0),
            Figure::at_most("jobs of schedules without a fire", count(without_row), "", 0.0),
            Figure::told("latest fire after", latest.as_secs_f64(), "s"),
        ])
    }

    /// The fires of a schedule, once those that are due have their rows, or would have them.
    async fn settled(
        &self,
        made: &Made,
        until: Timestamp,
    ) -> anyhow::Result<BTreeMap<Timestamp, Fire>> {
        let wanted = made.due_until(until).last().copied();
        let done = until_seldom(SETTLE_MAX, || async {
            let fires = self.fires(&made.name).await.ok()?;
            let is_whole = wanted.is_none_or(|last| fires.contains_key(&last));
            is_whole.then_some(fires)
        });
        match done.await {
            Ok(fires) => Ok(fires),
            Err(_) => self.fires(&made.name).await,
        }
    }

    async fn fires(&self, name: &str) -> anyhow::Result<BTreeMap<Timestamp, Fire>> {
        let mut fires = BTreeMap::new();
        for item in self.list(&format!("/v1/schedules/{name}/runs?limit=500")).await? {
            let at: Timestamp = serde_json::from_value(item["scheduled_at"].clone())?;
            let late: windlass_shared::model::time::Span =
                serde_json::from_value(item["late"].clone())?;
            let fire = Fire {
                outcome: item["outcome"].as_str().unwrap_or_default().to_owned(),
                job: item["job_id"].as_str().map(str::to_owned),
                late: late.0,
            };
            anyhow::ensure!(fires.insert(at, fire).is_none(), "two rows for {name} at {at}");
        }
        Ok(fires)
    }

    async fn jobs(&self) -> anyhow::Result<BTreeSet<String>> {
        let jobs = self.list("/v1/jobs?limit=500").await?;
        Ok(jobs.iter().filter_map(|job| job["id"].as_str().map(str::to_owned)).collect())
    }

    /// Jobs that no row names. Rows are read anew: the schedules go on.
    async fn unnamed(
        &self,
        jobs: &BTreeSet<String>,
        named: &BTreeSet<String>,
    ) -> anyhow::Result<usize> {
        let mut left: BTreeSet<&String> = jobs.difference(named).collect();
        for made in &self.made {
            if left.is_empty() {
                break;
            }
            for fire in self.fires(&made.name).await?.into_values() {
                left.retain(|job| Some(*job) != fire.job.as_ref());
            }
        }
        Ok(left.len())
    }

    async fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let (mut items, mut after) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let page = self.client.get(&format!("{path}{after}")).await.context(path.to_owned())?;
            items.extend(page["items"].as_array().into_iter().flatten().cloned());
            let Some(next) = page["next_cursor"].as_str() else { return Ok(items) };
            after = format!("&cursor={next}");
        }
        anyhow::bail!("{path} does not end")
    }
}

impl Made {
    /// Its due times, from the one that it was told first.
    fn due_until(&self, until: Timestamp) -> BTreeSet<Timestamp> {
        let (mut due, zone) = (BTreeSet::new(), Zone::default());
        let mut at = Some(self.first);
        while let Some(next) = at.filter(|at| *at <= until) {
            due.insert(next);
            at = self.timing.next_after(&zone, next);
        }
        due
    }
}

async fn make_one(client: &Client, body: &Value, key: &str) -> anyhow::Result<Value> {
    let mut tries = 1;
    loop {
        match client.send("/v1/schedules", body, key).await {
            Ok(made) => return Ok(made),
            Err(error) if tries == TRIES => return Err(error),
            Err(_) => tries += 1,
        }
        tokio::time::sleep(PAUSE).await;
    }
}
