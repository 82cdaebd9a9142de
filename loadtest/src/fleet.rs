//! What a benchmark loads: a running installation on this machine.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;
use windlass_shared::config::LedgerSettings;
use windlass_shared::ledger::Ledger;
use windlass_shared::model::name::{Kind, QueueName};

use crate::cpu::{self, Watched};
use crate::http::{Answer, Client, created, created_all};
use crate::is_loopback;
use crate::report::CpuPerJob;

/// How often a refusal for overload is tried again.
const TRIES_MAX: u32 = 200;
const PAUSE: Duration = Duration::from_millis(25);
/// A payload is no shorter: `{"at":1900000000000000,"fill":""}`.
const PAYLOAD_MIN: usize = 34;
const PAYLOAD_MAX: usize = 16 << 10;

/// An installation, and the jobs that it is given.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// Its API.
    pub url: String,
    /// A key for it, where it wants one.
    pub api_key: Option<String>,
    /// Into this queue.
    pub queue: String,
    /// Of this kind.
    pub kind: String,
    /// Size of a payload as JSON, in bytes.
    pub payload_bytes: usize,
    /// Whose CPU to show.
    pub watched: Vec<Watched>,
}

impl Fleet {
    /// The client of its API.
    ///
    /// # Errors
    /// What was given is out of bounds, or not on loopback.
    pub(crate) fn client(&self) -> Result<Client> {
        ensure!(is_loopback(&self.url), "the benchmark only loads APIs on loopback");
        ensure!(
            (PAYLOAD_MIN..=PAYLOAD_MAX).contains(&self.payload_bytes),
            "payloads must have {PAYLOAD_MIN} to {PAYLOAD_MAX} bytes"
        );
        self.queue.parse::<QueueName>().context("not a queue's name")?;
        self.kind.parse::<Kind>().context("not a kind")?;
        Client::new(&self.url, self.api_key.as_deref(), None)
    }

    /// A job as it is submitted; `at` (µs since 1970) tells its body when it was sent.
    pub(crate) fn job(&self, at: i64) -> Value {
        let bare = json!({"at": at, "fill": ""}).to_string().len();
        let fill = "x".repeat(self.payload_bytes.saturating_sub(bare));
        json!({"kind": self.kind, "queue": self.queue, "payload": {"at": at, "fill": fill}})
    }

    /// CPU so far of each watched process.
    ///
    /// # Errors
    /// One of them is not there.
    pub(crate) fn cpu(&self) -> Result<Vec<Duration>> {
        self.watched.iter().map(|watched| cpu::of_tree(watched.pid)).collect()
    }

    /// What each watched process took per job between two looks.
    pub(crate) fn cpu_between(
        &self,
        before: &[Duration],
        after: &[Duration],
        jobs: u64,
    ) -> Vec<CpuPerJob> {
        let pairs = before.iter().zip(after);
        let each = self.watched.iter().zip(pairs);
        each.map(|(watched, (before, after))| {
            CpuPerJob::between(&watched.name, *before, *after, jobs)
        })
        .collect()
    }
}

/// Opens a ledger that a benchmark looks at.
///
/// # Errors
/// It is not on loopback, or cannot be opened.
pub(crate) async fn open_ledger(settings: &LedgerSettings) -> Result<Ledger> {
    let url = secrecy::ExposeSecret::expose_secret(&settings.url);
    ensure!(is_loopback(url), "the benchmark only reads ledgers on loopback");
    Ledger::open(settings).await.context("cannot open the ledger")
}

/// Submits a job or workflow (JSON); its id. Waits and tries again while the API is overloaded; adds the refusals to `refused`.
///
/// # Errors
/// Any other answer, or none.
pub(crate) async fn submit(
    client: &Client,
    path: &str,
    body: Bytes,
    refused: &mut u64,
) -> Result<Uuid> {
    created(&patiently(client, path, body, 201, refused).await?)
}

/// The same of a batch of so many jobs; their ids in order.
///
/// # Errors
/// As [`submit`], or a job was rejected.
pub(crate) async fn submit_batch(
    client: &Client,
    body: Bytes,
    jobs: usize,
    refused: &mut u64,
) -> Result<Vec<Uuid>> {
    let answer = patiently(client, "/v1/jobs/batch", body, 200, refused).await?;
    let ids: Option<Vec<Uuid>> = created_all(&answer, jobs)?.into_iter().collect();
    ids.context("a job of a batch was rejected")
}

async fn patiently(
    client: &Client,
    path: &str,
    body: Bytes,
    expected: u16,
    refused: &mut u64,
) -> Result<Bytes> {
    for _ in 0..TRIES_MAX {
        match client.post(path, body.clone(), expected).await {
            Answer::Good(answer) => return Ok(answer),
            // Nothing was done, so that no job is made twice.
            Answer::Refused(_) => *refused += 1,
            other => bail!("POST {path}: {}", other.why()),
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!("the API stayed overloaded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_the_size_that_was_asked_for() {
        for (bytes, at) in [(200, 0), (200, 1_900_000_000_000_000), (PAYLOAD_MIN, 0)] {
            let fleet = Fleet {
                url: "http://127.0.0.1:1".into(),
                api_key: None,
                queue: "default".into(),
                kind: "noop".into(),
                payload_bytes: bytes,
                watched: Vec::new(),
            };
            assert_eq!(fleet.job(at)["payload"].to_string().len(), bytes);
            assert!(fleet.client().is_ok());
            let too_short = Fleet { payload_bytes: PAYLOAD_MIN - 1, ..fleet.clone() };
            assert!(too_short.client().is_err());
            let elsewhere = Fleet { url: "http://10.0.0.1".into(), ..fleet };
            assert!(elsewhere.client().is_err());
        }
    }
}
