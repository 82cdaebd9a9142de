//! The ledger as the API shows it, after an experiment.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_shared::model::time::Timestamp;

use crate::load::client::Client;

const PAGE: usize = 500;
/// Pages of one list; far beyond any experiment.
const PAGES_MAX: usize = 10_000;
/// Jobs whose attempts are asked for at once.
const AT_ONCE: usize = 16;

/// What the ledger holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Dump {
    /// Every job, by id.
    pub jobs: BTreeMap<String, JobRow>,
    /// Every run, by id.
    pub runs: BTreeMap<String, RunRow>,
    /// Depths of the queues in the engine.
    pub depths: BTreeMap<String, Depth>,
}

/// A job.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JobRow {
    /// As recorded.
    pub state: String,
    /// Where it waited.
    pub queue: String,
    /// The handler.
    pub kind: String,
    /// Attempts that count.
    pub attempt: u32,
    /// Workers lost.
    pub crashes: u32,
    /// In whole milliseconds, as all times here, in µs since 1970.
    pub run_at_us: i64,
    /// Engine time.
    pub finished_at_us: Option<i64>,
    /// The run and the step.
    pub step: Option<(String, String)>,
    /// The first is the key that it was submitted with.
    pub tags: Vec<String>,
    /// Oldest first.
    pub attempts: Vec<AttemptRow>,
}

/// An attempt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AttemptRow {
    /// The lease's number.
    pub fence: u64,
    /// As the handler was told.
    pub number: u32,
    /// The worker's name, and perhaps its id behind it.
    pub worker: Option<String>,
    /// The claim's instant, engine time.
    pub started_at_us: Option<i64>,
    /// Engine time.
    pub finished_at_us: Option<i64>,
    /// `None`: on record as running.
    pub outcome: Option<String>,
}

/// A run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunRow {
    /// As recorded.
    pub state: String,
    /// The first is the key that it was submitted with.
    pub tags: Vec<String>,
}

/// A queue in the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Depth {
    /// Claimable.
    pub ready: u64,
    /// Waiting for their time.
    pub delayed: u64,
    /// Leased.
    pub running: u64,
    /// Outcomes not recorded.
    pub finishing: u64,
}

impl Depth {
    /// Whether nothing is left to do.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl Dump {
    /// Reads a dump that [`Self::write`] wrote.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::write(path, serde_json::to_vec(self)?).with_context(|| path.display().to_string())
    }

    /// Reads everything over the API. Jobs that change meanwhile may be seen before or after.
    ///
    /// # Errors
    /// The API does not answer.
    pub async fn take(client: &Client) -> anyhow::Result<Self> {
        let mut jobs = BTreeMap::new();
        for item in list(client, "/v1/jobs").await? {
            let (id, row) = job_row(&item)?;
            jobs.insert(id, row);
        }
        // Of a job that was never claimed there is none to ask for.
        let waited = |row: &JobRow| matches!(row.state.as_str(), "cancelled" | "expired");
        let claimed = |row: &JobRow| row.attempt + row.crashes > 0 || !waited(row);
        let ids = jobs.iter().filter(|(_, row)| claimed(row)).map(|(id, _)| id.clone());
        let ids: Vec<String> = ids.collect();
        let mut attempts = futures::stream::iter(ids)
            .map(|id| async move {
                let attempts = attempts(client, &id).await;
                (id, attempts)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((id, found)) = attempts.next().await {
            jobs.get_mut(&id).context("asked for")?.attempts = found?;
        }
        let mut runs = BTreeMap::new();
        for item in list(client, "/v1/workflows").await? {
            runs.insert(
                text(&item, "id")?,
                RunRow { state: text(&item, "state")?, tags: tags(&item) },
            );
        }
        Ok(Self { jobs, runs, depths: depths(client).await? })
    }
}

/// Depths of all queues in the engine.
///
/// # Errors
/// The API or the engine does not answer.
pub async fn depths(client: &Client) -> anyhow::Result<BTreeMap<String, Depth>> {
    let mut depths = BTreeMap::new();
    for item in list(client, "/v1/queues").await? {
        let depth = &item["depth"];
        anyhow::ensure!(depth.is_object(), "the engine does not answer");
        depths.insert(text(&item, "name")?, serde_json::from_value(depth.clone())?);
    }
    Ok(depths)
}

/// All items of a list.
async fn list(client: &Client, path: &str) -> anyhow::Result<Vec<Value>> {
    let (mut items, mut cursor) = (Vec::new(), None::<String>);
    for _ in 0..PAGES_MAX {
        let after = cursor.map(|c| format!("&cursor={c}")).unwrap_or_default();
        let answer = client.get(&format!("{path}?limit={PAGE}{after}")).await;
        let answer = answer.with_context(|| format!("GET {path} has no answer"))?;
        items.extend(answer["items"].as_array().cloned().unwrap_or_default());
        match answer["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return Ok(items),
        }
    }
    anyhow::bail!("{path} has more than {PAGES_MAX} pages")
}

async fn attempts(client: &Client, id: &str) -> anyhow::Result<Vec<AttemptRow>> {
    let answer = client.get(&format!("/v1/jobs/{id}/attempts")).await;
    let answer = answer.with_context(|| format!("the attempts of {id} have no answer"))?;
    let rows = answer["items"].as_array().cloned().unwrap_or_default();
    let row = |item: &Value| {
        Ok(AttemptRow {
            fence: item["fence"].as_u64().context("a fence")?,
            number: u32::try_from(item["number"].as_u64().context("a number")?)?,
            worker: item["worker"].as_str().map(str::to_owned),
            started_at_us: time(item, "started_at"),
            finished_at_us: time(item, "finished_at"),
            outcome: item["outcome"].as_str().map(str::to_owned),
        })
    };
    rows.iter().map(row).collect()
}

fn job_row(item: &Value) -> anyhow::Result<(String, JobRow)> {
    let number = |field: &str| u32::try_from(item[field].as_u64().unwrap_or_default());
    let workflow = &item["workflow"];
    let step = workflow.is_object().then(|| {
        let part = |field: &str| workflow[field].as_str().unwrap_or_default().to_owned();
        (part("id"), part("step"))
    });
    let row = JobRow {
        state: text(item, "state")?,
        queue: text(item, "queue")?,
        kind: text(item, "kind")?,
        attempt: number("attempt")?,
        crashes: number("crashes")?,
        run_at_us: time(item, "run_at").context("run_at")?,
        finished_at_us: time(item, "finished_at"),
        step,
        tags: tags(item),
        attempts: Vec::new(),
    };
    Ok((text(item, "id")?, row))
}

fn tags(item: &Value) -> Vec<String> {
    let tags = item["tags"].as_array().map(Vec::as_slice).unwrap_or_default();
    tags.iter().filter_map(|tag| tag.as_str().map(str::to_owned)).collect()
}

fn text(item: &Value, field: &str) -> anyhow::Result<String> {
    Ok(item[field].as_str().with_context(|| format!("no {field} in {item}"))?.to_owned())
}

fn time(item: &Value, field: &str) -> Option<i64> {
    item[field].as_str()?.parse::<Timestamp>().ok().map(Timestamp::micros)
}
