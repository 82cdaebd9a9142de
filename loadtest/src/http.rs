//! The HTTP side of a load: bounded, on loopback, without surprises.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::is_loopback;

/// How often a refusal for overload is tried again.
const TRIES_MAX: u32 = 200;
const PAUSE: Duration = Duration::from_millis(25);

/// One client with one connection.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
}

/// A batch's answer, what of it matters.
#[derive(Deserialize)]
struct BatchAnswer {
    results: Vec<BatchResult>,
}

#[derive(Deserialize)]
struct BatchResult {
    id: Option<Uuid>,
}

impl Api {
    /// To the API at `base`.
    ///
    /// # Errors
    /// An address that is not on loopback.
    pub fn new(base: &str, key: Option<&str>, connections: usize) -> Result<Self> {
        ensure!(is_loopback(base), "the benchmark only loads APIs on loopback");
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(connections)
            .timeout(Duration::from_secs(60))
            .build()?;
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self { http, base, key: key.map(str::to_owned) })
    }

    /// Submits a batch (JSON); the jobs' ids in order. Waits and tries again while the API is overloaded;
    /// adds the refusals to `refused`. Under an idempotency key, so that no job is made twice.
    pub async fn submit_batch(&self, body: bytes::Bytes, refused: &mut u64) -> Result<Vec<Uuid>> {
        let key = Uuid::now_v7().to_string();
        for _ in 0..TRIES_MAX {
            let request = self
                .http
                .post(format!("{}/v1/jobs/batch", self.base))
                .header("content-type", "application/json")
                .header("idempotency-key", &key)
                .body(body.clone());
            let response = self.authorised(request).send().await.context("cannot submit")?;
            let status = response.status().as_u16();
            if matches!(status, 429 | 503) {
                *refused += 1;
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let bytes = response.bytes().await.context("the answer broke off")?;
            if status != 200 {
                bail!(
                    "a batch was answered with HTTP {status}: {}",
                    String::from_utf8_lossy(&bytes)
                );
            }
            let answer: BatchAnswer =
                serde_json::from_slice(&bytes).context("not a batch's answer")?;
            let ids: Option<Vec<Uuid>> = answer.results.iter().map(|result| result.id).collect();
            return ids.context("a job of a batch was rejected");
        }
        bail!("the API stayed overloaded")
    }

    /// Submits one job; its id.
    pub async fn submit(&self, body: bytes::Bytes) -> Result<Uuid> {
        self.create("/v1/jobs", body).await
    }

    /// Submits a workflow; its id.
    pub async fn submit_workflow(&self, body: bytes::Bytes) -> Result<Uuid> {
        self.create("/v1/workflows", body).await
    }

    async fn create(&self, path: &str, body: bytes::Bytes) -> Result<Uuid> {
        let request = self
            .http
            .post(format!("{}{path}", self.base))
            .header("content-type", "application/json")
            .body(body);
        let response = self.authorised(request).send().await.context("cannot submit")?;
        let status = response.status().as_u16();
        let bytes = response.bytes().await.context("the answer broke off")?;
        ensure!(
            status == 201,
            "POST {path} was answered with HTTP {status}: {}",
            String::from_utf8_lossy(&bytes)
        );
        let answer: BatchResult =
            serde_json::from_slice(&bytes).context("an answer without an id")?;
        answer.id.context("an answer without an id")
    }

    /// A finished job; waits for it.
    pub async fn finished(&self, id: Uuid) -> Result<Value> {
        let request = self.http.get(format!("{}/v1/jobs/{id}/wait?timeout=30s", self.base));
        let response = self.authorised(request).send().await.context("cannot wait")?;
        let status = response.status().as_u16();
        let bytes = response.bytes().await.context("the answer broke off")?;
        ensure!(status == 200, "job {id} was not finished in time (HTTP {status})");
        serde_json::from_slice(&bytes).context("not a job")
    }

    fn authorised(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }
}
