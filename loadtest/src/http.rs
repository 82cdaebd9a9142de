//! Calls of the API over HTTP, by loads and benchmarks.

mod wire;

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::Full;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

pub(crate) use wire::CONNECTIONS_MAX;
use wire::{Lost, Wire};

/// The code of a 503 that says nothing of whether the write was made.
const OUTCOME_UNKNOWN: &str = "outcome_unknown";
/// Codes of refusals are no longer.
const CODE_BYTES_MAX: usize = 64;

/// The API of a fleet. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    wire: Wire,
    base: String,
    /// Who calls, and where.
    headers: http::HeaderMap,
}

/// What a call came to.
#[derive(Debug)]
pub(crate) enum Answer {
    /// As it should be.
    Good(Bytes),
    /// 429 or 503: nothing was done.
    Refused(String),
    /// Anything else that was answered, with its status; 0: what was answered says nothing.
    Bad(u16, String),
    /// What was asked for may have been done: no answer, or one that says so.
    Unknown(String),
    /// It did not reach the API.
    Unsent(String),
}

impl Answer {
    /// Whether what was asked for may have been done without anybody being told.
    pub(crate) const fn may_be_done(&self) -> bool {
        match self {
            Self::Good(_) | Self::Refused(_) | Self::Unsent(_) => false,
            // What breaks down in the middle may have written before that; what is wrong was not done.
            Self::Bad(status, _) => *status < 400 || *status >= 500,
            Self::Unknown(_) => true,
        }
    }

    /// What was said, of one that is not good.
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Good(_) => "",
            Self::Refused(why) | Self::Bad(_, why) | Self::Unknown(why) | Self::Unsent(why) => why,
        }
    }
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
    /// # Errors
    /// The address, the key or the namespace cannot be one.
    pub(crate) fn new(base: &str, key: Option<&str>, namespace: Option<&str>) -> Result<Self> {
        let base = base.trim_end_matches('/');
        let wire = Wire::to(base)?;
        let mut headers = http::HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::try_from(wire.authority())?);
        if let Some(key) = key {
            let value = HeaderValue::try_from(format!("Bearer {key}")).context("not a key")?;
            headers.insert(header::AUTHORIZATION, value);
        }
        if let Some(namespace) = namespace {
            headers.insert("windlass-namespace", HeaderValue::try_from(namespace)?);
        }
        Ok(Self { wire, base: base.to_owned(), headers })
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, Bytes::new(), 200).await
    }

    pub(crate) async fn post(&self, path: &str, body: Bytes, expected: u16) -> Answer {
        self.call(Method::POST, path, body, expected).await
    }

    pub(crate) async fn put(&self, path: &str, body: Bytes) -> Answer {
        self.call(Method::PUT, path, body, 200).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Bytes) -> Answer {
        self.call(Method::PATCH, path, body, 200).await
    }

    /// An answer that must be there: not part of the load. `None`: 404.
    ///
    /// # Errors
    /// The call fails, however often it is tried; any other 4xx at once.
    pub(crate) async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        const TRIES: u32 = 60;
        const PAUSE: Duration = Duration::from_millis(500);
        let mut last = String::new();
        for _ in 0..TRIES {
            match self.get(path).await {
                Answer::Good(bytes) => {
                    return serde_json::from_slice(&bytes)
                        .map(Some)
                        .with_context(|| format!("GET {path} was answered with something else"));
                }
                Answer::Bad(404, _) => return Ok(None),
                Answer::Bad(status, why) if (400..500).contains(&status) => {
                    bail!("GET {path}: {why}");
                }
                other => other.why().clone_into(&mut last),
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("GET {path}: {last}, {TRIES} times")
    }

    /// The same where it must not be a 404.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub(crate) async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.find(path).await?.with_context(|| format!("GET {path}: 404"))
    }

    async fn call(&self, method: Method, path: &str, body: Bytes, expected: u16) -> Answer {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        let uri = self.wire.is_secure().then(|| format!("{}{path}", self.base));
        *request.uri_mut() = match uri.as_deref().unwrap_or(path).parse() {
            Ok(uri) => uri,
            Err(_) => return Answer::Unsent("not an address".into()),
        };
        *request.headers_mut() = self.headers.clone();
        if *request.method() != Method::GET {
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(header::CONTENT_TYPE, json);
        }
        match self.wire.send(request).await {
            Ok((status, bytes)) if status == expected => Answer::Good(bytes),
            Ok((status, bytes)) => {
                let code = serde_json::from_slice::<Problem>(&bytes).map(|problem| problem.code);
                let code = code.ok().filter(|code| code.len() <= CODE_BYTES_MAX);
                let what =
                    code.map_or_else(|| status.to_string(), |code| format!("{status} {code}"));
                match status {
                    503 if what.ends_with(OUTCOME_UNKNOWN) => Answer::Unknown(what),
                    429 | 503 => Answer::Refused(what),
                    _ => Answer::Bad(status, what),
                }
            }
            Err(Lost { why, was_sent: true }) => Answer::Unknown(why.to_owned()),
            Err(Lost { why, was_sent: false }) => Answer::Unsent(why.to_owned()),
        }
    }
}

/// The id that an answer to a submission has.
///
/// # Errors
/// It has none.
pub(crate) fn created(answer: &Bytes) -> Result<Uuid> {
    let created: Created = serde_json::from_slice(answer).context("an answer without an id")?;
    Ok(created.id)
}

/// The ids that an answer to a batch has, one for each of its jobs; `None` for one that was rejected.
///
/// # Errors
/// There are more or fewer.
pub(crate) fn created_all(answer: &Bytes, jobs: usize) -> Result<Vec<Option<Uuid>>> {
    let batch: Batch = serde_json::from_slice(answer).context("an answer without results")?;
    ensure!(batch.results.len() == jobs, "{} results for {jobs} jobs", batch.results.len());
    Ok(batch.results.into_iter().map(|result| result.id).collect())
}
