//! `Idempotency-Key` for calls that do not submit jobs (those have their keys committed with the jobs).
//!
//! A key is claimed by keeping a small value in the ledger, under an id that is derived from the namespace
//! and the key. The first value of an id stays, so of any number of callers at any replica one wins, and the
//! others read what it is about to make. Claims live as long as values that no job names: at least 24 h.

use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use windlass_shared::model::id::BlobId;
use windlass_shared::model::name::Namespace;
use windlass_shared::model::time::Timestamp;

use crate::app::App;
use crate::error::{ApiError, Code};
use crate::routes::jobs::{REPLAYED, idempotency, key_reused};

/// For this long a claim without its result is taken for a request that is still under way; later, for one
/// that died. Longer than any call that claims. By the ledger's clock, which all replicas share.
const UNDER_WAY: Duration = Duration::from_secs(15);

/// What a claimed key stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Hash of method, target and body, in hex.
    request: String,
    /// What the first request makes, or changes.
    pub subject: Uuid,
    /// State of the subject before, as the call sees fit.
    pub mark: i64,
    /// When, in microseconds of the ledger's clock.
    at: i64,
    /// Tells two equal requests at one time apart.
    by: Uuid,
}

impl Claim {
    /// # Errors
    /// 409 while the first request may still be under way; the ledger does not answer.
    pub async fn ensure_abandoned(&self, app: &App) -> Result<(), ApiError> {
        let age = app.life.ledger().now().await?.since(Timestamp::from_micros(self.at));
        if age >= UNDER_WAY {
            return Ok(());
        }
        let error = ApiError::new(Code::InProgress, "the first request has not answered yet");
        Err(error.retry_after(Duration::from_secs(1)))
    }
}

/// Whether an id is of the sort that claims are kept under (UUID version 8). No client may store a value
/// there: it could make a claim up.
pub fn is_reserved(id: BlobId) -> bool {
    id.uuid().get_version_num() == 8
}

/// The idempotency key of one request.
pub struct Key {
    id: BlobId,
    request: String,
}

impl Key {
    /// The request's key; `None` where it has none.
    ///
    /// # Errors
    /// 400 for a key that is not one.
    pub fn of(
        namespace: &Namespace,
        headers: &HeaderMap,
        method: &Method,
        uri: &Uri,
        body: &Bytes,
    ) -> Result<Option<Self>, ApiError> {
        let given = idempotency(headers, method, uri, body)?;
        Ok(given.map(|given| {
            let mut hash = Sha256::new_with_prefix(b"windlass idempotency claim v1\0");
            hash.update((namespace.as_str().len() as u64).to_le_bytes());
            hash.update(namespace.as_str());
            hash.update(given.key.as_bytes());
            let digest: [u8; 32] = hash.finalize().into();
            let id = digest[..16].try_into().expect("a SHA-256 is longer than a UUID");
            let id = BlobId::from_uuid(uuid::Builder::from_custom_bytes(id).into_uuid());
            let request = given.body_hash.iter().map(|byte| format!("{byte:02x}")).collect();
            Self { id, request }
        }))
    }

    /// What the key stands for already.
    ///
    /// # Errors
    /// 422 where that is another request; the ledger does not answer.
    pub async fn claimed(
        &self,
        app: &App,
        namespace: &Namespace,
    ) -> Result<Option<Claim>, ApiError> {
        let Some(bytes) = app.life.ledger().blob(namespace, self.id).await? else {
            return Ok(None);
        };
        match serde_json::from_slice::<Claim>(&bytes) {
            Ok(claim) if claim.request == self.request => Ok(Some(claim)),
            Ok(_) | Err(_) => Err(key_reused()),
        }
    }

    /// Claims the key for a subject; `Some`: another request was first, with this.
    ///
    /// # Errors
    /// As [`Self::claimed`].
    pub async fn claim(
        &self,
        app: &App,
        namespace: &Namespace,
        subject: Uuid,
        mark: i64,
    ) -> Result<Option<Claim>, ApiError> {
        if let Some(claim) = self.claimed(app, namespace).await? {
            return Ok(Some(claim));
        }
        let claim = Claim {
            request: self.request.clone(),
            subject,
            mark,
            at: app.life.ledger().now().await?.micros(),
            by: Uuid::new_v4(),
        };
        let bytes = serde_json::to_vec(&claim)
            .map_err(|_| ApiError::new(Code::Internal, "a claim cannot be written"))?;
        app.life.ledger().put_blob(namespace, self.id, bytes.into()).await?;
        match self.claimed(app, namespace).await? {
            Some(first) if first == claim => Ok(None),
            Some(first) => Ok(Some(first)),
            None => Err(ApiError::new(Code::Unavailable, "the idempotency key was not kept")),
        }
    }
}

impl Key {
    /// Where it is kept that the request has done its work, for requests that make nothing to look for.
    fn done_id(&self) -> BlobId {
        let digest: [u8; 32] = Sha256::new_with_prefix(b"windlass idempotency done v1\0")
            .chain_update(self.id.uuid().as_bytes())
            .finalize()
            .into();
        let id = digest[..16].try_into().expect("a SHA-256 is longer than a UUID");
        BlobId::from_uuid(uuid::Builder::from_custom_bytes(id).into_uuid())
    }

    /// Whether a request with this key has done its work, as [`Self::note_done`] notes it.
    ///
    /// # Errors
    /// The ledger does not answer.
    pub async fn is_done(&self, app: &App, namespace: &Namespace) -> Result<bool, ApiError> {
        Ok(app.life.ledger().blob(namespace, self.done_id()).await?.is_some())
    }

    /// Notes that the work is done. What cannot be noted may be done again by a repeat.
    pub async fn note_done(&self, app: &App, namespace: &Namespace) {
        let done = Bytes::from_static(b"true");
        if let Err(error) = app.life.ledger().put_blob(namespace, self.done_id(), done).await {
            tracing::warn!(%error, "a repeat of this request may be carried out again");
        }
    }
}

/// Marks an answer that was given before.
pub fn replayed(mut response: Response) -> Response {
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}
