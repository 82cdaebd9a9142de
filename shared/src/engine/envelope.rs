//! What travels through the engine as opaque bytes: the [`Envelope`] to the worker, and the [`Detail`]
//! of an outcome back to the ledger.
//!
//! Layout of both: a version byte, the length of the head as a little-endian u32, the head as JSON, then
//! the payload or output as it came. Payload and output bytes are copied, never parsed.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::model::id::BlobId;
use crate::model::job::{JobError, JobSpec, Priority, StepRef, Value};
use crate::model::name::Kind;
use crate::model::time::Timestamp;

const VERSION: u8 = 1;

/// Bytes that this build cannot read: written by a newer one, or damaged.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the job's envelope: {0}")]
pub struct EnvelopeError(&'static str);

const UNKNOWN_VERSION: &str = "unknown version";

impl EnvelopeError {
    /// Whether a newer build wrote the bytes, so that another worker may be able to read them.
    pub fn is_unknown_version(&self) -> bool {
        self.0 == UNKNOWN_VERSION
    }
}

/// What a worker needs to run a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// Everything but the payload.
    pub head: EnvelopeHead,
    /// The caller's JSON.
    pub payload: Value,
}

/// The part of an [`Envelope`] that is parsed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnvelopeHead {
    /// Selects the handler.
    pub kind: Kind,
    /// Its rules.
    pub spec: JobSpec,
    /// Accepted at.
    pub created_at: Timestamp,
    /// Its place among the ready, should its lease be put back into an engine that has lost it.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub priority: Priority,
    /// W3C trace context of the submission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The request that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The step that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<StepRef>,
    /// Where the payload is, if not inline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_blob: Option<BlobId>,
}

fn is_usual(priority: &Priority) -> bool {
    *priority == Priority::default()
}

impl Envelope {
    /// The wire form.
    pub fn encode(&self) -> Bytes {
        let mut head = self.head.clone();
        let tail = split(&self.payload, &mut head.payload_blob);
        join(&head, tail)
    }

    /// Back from the wire form; the payload shares its memory.
    ///
    /// # Errors
    /// When the bytes are not of this version or are damaged.
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let (head, tail): (EnvelopeHead, Bytes) = part(bytes)?;
        let payload = head.payload_blob.map_or(Value::Inline(tail), Value::Blob);
        Ok(Self { head, payload })
    }
}

/// What the ledger learns of an attempt beside the engine's own columns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Detail {
    /// Everything but the output.
    pub head: DetailHead,
    /// What the handler returned.
    pub output: Option<Value>,
}

/// The part of a [`Detail`] that is parsed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DetailHead {
    /// Why the attempt did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
    /// Whether it was the time limit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
    /// The worker's name, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// What it used (`{"cpu_ms", "memory_peak_bytes"}`), where the handler can tell; see
    /// [`Attempt::usage`](crate::model::job::Attempt::usage).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<serde_json::Value>,
    /// Where the output is, if not inline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_blob: Option<BlobId>,
    /// Whether there is an output at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_output: bool,
}

impl Detail {
    /// The wire form; empty for the default.
    pub fn encode(&self) -> Bytes {
        let mut head = self.head.clone();
        let tail = match &self.output {
            Some(output) => {
                head.has_output = true;
                split(output, &mut head.output_blob)
            }
            None => &[],
        };
        join(&head, tail)
    }

    /// Back from the wire form.
    ///
    /// # Errors
    /// When the bytes are not of this version or are damaged.
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let (head, tail): (DetailHead, Bytes) = part(bytes)?;
        let output =
            head.has_output.then(|| head.output_blob.map_or(Value::Inline(tail), Value::Blob));
        Ok(Self { head, output })
    }
}

fn split<'a>(value: &'a Value, blob: &mut Option<BlobId>) -> &'a [u8] {
    match value {
        Value::Inline(bytes) => {
            *blob = None;
            bytes
        }
        Value::Blob(id) => {
            *blob = Some(*id);
            &[]
        }
    }
}

fn join(head: &impl Serialize, tail: &[u8]) -> Bytes {
    let head = serde_json::to_vec(head).expect("heads are plain data and always serialise");
    let mut out = BytesMut::with_capacity(5 + head.len() + tail.len());
    out.put_u8(VERSION);
    out.put_u32_le(u32::try_from(head.len()).expect("heads are bounded by the request body"));
    out.put_slice(&head);
    out.put_slice(tail);
    out.freeze()
}

fn part<T: serde::de::DeserializeOwned>(bytes: &Bytes) -> Result<(T, Bytes), EnvelopeError> {
    if bytes.len() < 5 {
        return Err(EnvelopeError("too short"));
    }
    if bytes[0] != VERSION {
        return Err(EnvelopeError(UNKNOWN_VERSION));
    }
    let len = u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
    let Some(end) = len.checked_add(5).filter(|end| *end <= bytes.len()) else {
        return Err(EnvelopeError("its head is cut off"));
    };
    let head = serde_json::from_slice(&bytes[5..end])
        .map_err(|_| EnvelopeError("its head does not parse"))?;
    Ok((head, bytes.slice(end..)))
}
