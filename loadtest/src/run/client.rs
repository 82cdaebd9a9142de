//! The calls of a load, over HTTP.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

/// Whoever waits longer for an answer counts as without one.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Codes of refusals are no longer.
const CODE_BYTES_MAX: usize = 64;

/// The API of a fleet. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
    namespace: Option<String>,
}

/// What a call came to.
#[derive(Debug)]
pub(super) enum Answer {
    /// As it should be.
    Good(Bytes),
    /// 429 or 503.
    Refused(String),
    /// Anything else that was answered.
    Bad(String),
    /// No answer: what was asked for may have been done.
    None(String),
}

#[derive(Deserialize)]
struct Problem {
    code: String,
}

#[derive(Deserialize)]
struct Created {
    id: Uuid,
}

#[derive(Deserialize)]
struct Batch {
    results: Vec<BatchResult>,
}

#[derive(Deserialize)]
struct BatchResult {
    id: Option<Uuid>,
}

impl Client {
    pub(super) fn new(base: &str, key: Option<&str>, namespace: Option<&str>) -> Result<Self> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(usize::MAX)
            .connect_timeout(Duration::from_secs(5))
            .timeout(ANSWER_MAX);
        // A proxy for what is on this machine would be measured, too.
        let http = if crate::is_loopback(base) { http.no_proxy() } else { http };
        Ok(Self {
            http: http.build()?,
            base: base.trim_end_matches('/').to_owned(),
            key: key.map(str::to_owned),
            namespace: namespace.map(str::to_owned),
        })
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.call(self.request(Method::GET, path), 200).await
    }

    pub(super) async fn post(&self, path: &str, body: Bytes, expected: u16) -> Answer {
        let request = self.request(Method::POST, path).header("content-type", "application/json");
        self.call(request.body(body), expected).await
    }

    pub(super) async fn patch(&self, path: &str, body: Bytes) -> Answer {
        let request = self.request(Method::PATCH, path).header("content-type", "application/json");
        self.call(request.body(body), 200).await
    }

    /// An answer that must be there: not part of the load.
    ///
    /// # Errors
    /// The call fails, however often it is tried.
    pub(super) async fn read(&self, path: &str) -> Result<Value> {
        self.read_as(path).await
    }

    /// The same as a given type.
    pub(super) async fn read_as<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        const TRIES: u32 = 60;
        let mut last = String::new();
        for _ in 0..TRIES {
            match self.get(path).await {
                Answer::Good(bytes) => {
                    return serde_json::from_slice(&bytes)
                        .with_context(|| format!("GET {path} was answered with something else"));
                }
                Answer::Bad(why) => anyhow::bail!("GET {path}: {why}"),
                Answer::Refused(why) | Answer::None(why) => last = why,
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        anyhow::bail!("GET {path}: {last}, {TRIES} times")
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        if let Some(namespace) = &self.namespace {
            request = request.header("windlass-namespace", namespace);
        }
        request
    }

    async fn call(&self, request: RequestBuilder, expected: u16) -> Answer {
        let answered = async {
            let response = request.send().await?;
            let status = response.status().as_u16();
            Ok::<_, reqwest::Error>((status, response.bytes().await?))
        };
        match answered.await {
            Ok((status, bytes)) if status == expected => Answer::Good(bytes),
            Ok((status, bytes)) => {
                let code = serde_json::from_slice::<Problem>(&bytes).map(|problem| problem.code);
                let code = code.ok().filter(|code| code.len() <= CODE_BYTES_MAX);
                let what =
                    code.map_or_else(|| status.to_string(), |code| format!("{status} {code}"));
                match status {
                    429 | 503 => Answer::Refused(what),
                    _ => Answer::Bad(what),
                }
            }
            // Without the address, so that those of a kind count together.
            Err(error) if error.is_timeout() => Answer::None("no answer in time".into()),
            Err(error) if error.is_connect() => Answer::None("no connection".into()),
            Err(_) => Answer::None("the connection broke".into()),
        }
    }
}

/// The id that an answer to a submission has.
///
/// # Errors
/// It has none.
pub(super) fn created(answer: &Bytes) -> Result<Uuid> {
    let created: Created = serde_json::from_slice(answer).context("an answer without an id")?;
    Ok(created.id)
}

/// The ids that an answer to a batch has, one for each of its jobs; `None` for one that was rejected.
///
/// # Errors
/// There are more or fewer.
pub(super) fn created_all(answer: &Bytes, jobs: usize) -> Result<Vec<Option<Uuid>>> {
    let batch: Batch = serde_json::from_slice(answer).context("an answer without results")?;
    ensure!(batch.results.len() == jobs, "{} results for {jobs} jobs", batch.results.len());
    Ok(batch.results.into_iter().map(|result| result.id).collect())
}
