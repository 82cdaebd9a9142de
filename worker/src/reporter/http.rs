//! Reports over the HTTP API.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use reqwest::{RequestBuilder, Response};
use secrecy::{ExposeSecret, SecretString};
use windlass_shared::limits::VALUE_BYTES_MAX;
use windlass_shared::model::id::BlobId;

use crate::reporter::{Report, ReportError, ReportReply, Reporter};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(15);
/// A reply to a report is a line; more is not read.
const REPLY_BYTES_MAX: usize = 64 << 10;

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
