//! Reports over the HTTP API.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use reqwest::{RequestBuilder, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::value::RawValue;
use windlass_shared::limits::VALUE_BYTES_MAX;
use windlass_shared::model::evaluate::Previous;
use windlass_shared::model::id::{BlobId, Fence, JobId, LedgerId};

use crate::reporter::{
    DirectOutcome, DirectReply, Left, Report, ReportError, ReportReply, Reporter, direct,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(15);
/// A reply to a report is a line; more is not read.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// Room in an answer beside a value.
const ROOM_BYTES: usize = 64 << 10;

/// What became of checkpoints.
#[derive(Deserialize)]
struct Stored {
    checkpoints: Vec<String>,
}

/// What became of outcomes.
#[derive(Deserialize)]
struct Recorded {
    outcomes: Vec<DirectReply>,
}

/// What earlier attempts left, of each job that was asked for.
#[derive(Deserialize)]
struct Resumed {
    resume: Vec<ResumedItem>,
}

#[derive(Deserialize)]
struct ResumedItem {
    checkpoint: Option<Box<RawValue>>,
    previous: Option<Previous>,
}

/// Reports to `{api_url}/v1/worker/reports` and keeps large values at `{api_url}/v1/blobs/{id}`.
pub struct HttpReporter {
    client: reqwest::Client,
    base: String,
    key: Option<SecretString>,
}

impl HttpReporter {
    /// For the API at this address, with this key.
    ///
    /// # Errors
    /// When the address is not an HTTP address.
    pub fn new(api_url: &str, key: Option<SecretString>) -> Result<Self, String> {
        let url: reqwest::Url = api_url.parse().map_err(|_| "not an address".to_owned())?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err("not an http:// or https:// address".into());
        }
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            // The API never redirects; following one could carry the key elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self { client, base: api_url.trim_end_matches('/').to_owned(), key })
    }

    fn authorised(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key.expose_secret()),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ReportError> {
        let response = self.authorised(request).send().await.map_err(unavailable)?;
        let status = response.status();
        if status.is_success() || status == 404 {
            return Ok(response);
        }
        if status.is_server_error() || status == 429 || status == 408 {
            return Err(ReportError::Unavailable(format!("status {}", status.as_u16()).into()));
        }
        Err(ReportError::Refused(status.as_u16()))
    }

    /// Posts a report that is JSON already, and reads its answer.
    async fn ask<T: serde::de::DeserializeOwned>(&self, report: Vec<u8>) -> Result<T, ReportError> {
        let url = format!("{}/v1/worker/reports", self.base);
        let request = self.client.post(url).header("content-type", "application/json");
        let response = self.send(request.body(report)).await?;
        if response.status() == 404 {
            return Err(ReportError::Refused(404));
        }
        let body = body_of(response, VALUE_BYTES_MAX + ROOM_BYTES).await?;
        serde_json::from_slice(&body).map_err(|error| ReportError::Unavailable(Box::new(error)))
    }

    fn blob_url(&self, id: BlobId) -> String {
        format!("{}/v1/blobs/{id}", self.base)
    }
}

impl Reporter for HttpReporter {
    fn report(&self, report: Report) -> BoxFuture<'_, Result<ReportReply, ReportError>> {
        Box::pin(async move {
            let url = format!("{}/v1/worker/reports", self.base);
            let response = self.send(self.client.post(url).json(&report)).await?;
            if response.status() == 404 {
                return Err(ReportError::Refused(404));
            }
            let body = body_of(response, REPLY_BYTES_MAX).await?;
            // A reply that cannot be read changes nothing: the report has arrived.
            Ok(serde_json::from_slice(&body).unwrap_or_default())
        })
    }

    fn put_checkpoint(
        &self,
        job_id: JobId,
        fence: Fence,
        data: Bytes,
    ) -> BoxFuture<'_, Result<bool, ReportError>> {
        Box::pin(async move {
            // The value is JSON already and is not read again.
            let head =
                format!(r#"{{"checkpoints":[{{"job_id":"{job_id}","fence":{},"data":"#, fence.0);
            let report = [head.as_bytes(), &data, b"}]}"].concat();
            let stored: Stored = self.ask(report).await?;
            Ok(stored.checkpoints.first().is_some_and(|word| word == "stored"))
        })
    }

    fn left(
        &self,
        job_id: JobId,
        fence: Fence,
        attempt: u32,
    ) -> BoxFuture<'_, Result<Left, ReportError>> {
        Box::pin(async move {
            let item = serde_json::json!({"job_id": job_id, "fence": fence, "attempt": attempt});
            let report = serde_json::json!({"resume": [item]}).to_string();
            let mut resumed: Resumed = self.ask(report.into_bytes()).await?;
            let found = resumed.resume.pop().map(|found| Left {
                checkpoint: found
                    .checkpoint
                    .map(|data| Bytes::copy_from_slice(data.get().as_bytes())),
                previous: found.previous,
            });
            Ok(found.unwrap_or_default())
        })
    }

    fn record(
        &self,
        ledger: Option<LedgerId>,
        outcomes: Vec<DirectOutcome>,
    ) -> BoxFuture<'_, Result<Vec<DirectReply>, ReportError>> {
        Box::pin(async move {
            let recorded = self.ask(direct::body(ledger, &outcomes)).await;
            let recorded: Recorded = recorded.map_err(|error| match error {
                // Of a call that carries nothing but outcomes it can mean nothing else.
                ReportError::Refused(409) => ReportError::WrongLedger,
                error => error,
            })?;
            if recorded.outcomes.len() == outcomes.len() {
                Ok(recorded.outcomes)
            } else {
                Err(ReportError::Unavailable("the answer is about other outcomes".into()))
            }
        })
    }

    fn put_blob(&self, id: BlobId, bytes: Bytes) -> BoxFuture<'_, Result<(), ReportError>> {
        Box::pin(async move {
            let request = self.client.put(self.blob_url(id));
            let response =
                self.send(request.header("content-type", "application/json").body(bytes)).await?;
            if response.status() == 404 { Err(ReportError::Refused(404)) } else { Ok(()) }
        })
    }

    fn blob(&self, id: BlobId) -> BoxFuture<'_, Result<Option<Bytes>, ReportError>> {
        Box::pin(async move {
            let response = self.send(self.client.get(self.blob_url(id))).await?;
            if response.status() == 404 {
                return Ok(None);
            }
            body_of(response, VALUE_BYTES_MAX).await.map(Some)
        })
    }
}

async fn body_of(mut response: Response, max: usize) -> Result<Bytes, ReportError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(unavailable)? {
        if body.len() + chunk.len() > max {
            return Err(ReportError::Unavailable("the answer is too long".into()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The address is a setting and may hold a password: it does not belong into an error.
fn unavailable(error: reqwest::Error) -> ReportError {
    ReportError::Unavailable(Box::new(error.without_url()))
}
