//! What travels through the engine as opaque bytes: the [`Envelope`] to the worker, and the [`Detail`]
//! of an outcome back to the ledger.
//!
//! Layout of a detail: a version byte, the length of the head as a little-endian u32, the head as JSON, then the output
//! as it came. That of an envelope of version 1 is the same, with the payload. Version 2 is short, since it lies in
//! memory for every job that waits:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | the version, 2 |
//! | 1 | 1: there is a request id, 2: there is a rest |
//! | 8 | `created_at`, i64, µs |
//! | 1 + n | the kind and its length |
//! | 16 | the request id, where it is a UUID |
//! | 4 + n | the rest and its length, u32: a JSON object of what is not usual |
//! | | the payload |
//!
//! All numbers are little-endian. Payload and output bytes are copied, never parsed.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::id::BlobId;
use crate::model::job::{JobError, JobSpec, Priority, StepRef, Value};
use crate::model::name::Kind;
use crate::model::time::Timestamp;

const ENVELOPE_VERSION: u8 = 2;
/// Also of envelopes of version 1.
const DETAIL_VERSION: u8 = 1;

/// Bytes that this build cannot read: written by a newer one, or damaged.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the job's envelope: {0}")]
pub struct EnvelopeError(&'static str);

const UNKNOWN_VERSION: &str = "unknown version";
const UNPARSED: &str = "its head does not parse";

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
#[derive(Debug, Clone, PartialEq)]
pub struct EnvelopeHead {
    /// Selects the handler.
    pub kind: Kind,
    /// Its rules.
    pub spec: JobSpec,
    /// Accepted at.
    pub created_at: Timestamp,
    /// Its place among the ready, should its lease be put back into an engine that has lost it.
    pub priority: Priority,
    /// W3C trace context of the submission.
    pub traceparent: Option<String>,
    /// The request that made it.
    pub request_id: Option<String>,
    /// The step that it is.
    pub workflow: Option<StepRef>,
    /// Where the payload is, if not inline.
    pub payload_blob: Option<BlobId>,
}

/// What most heads leave out.
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Rest {
    #[serde(skip_serializing_if = "is_default")]
    spec: JobSpec,
    #[serde(skip_serializing_if = "is_default")]
    priority: Priority,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    /// One that is not a UUID.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow: Option<StepRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_blob: Option<BlobId>,
}

/// The head of version 1.
#[derive(Deserialize)]
struct HeadOfOne {
    kind: Kind,
    created_at: Timestamp,
    #[serde(flatten)]
    rest: Rest,
}

const HAS_REQUEST_ID: u8 = 1;
const HAS_REST: u8 = 2;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Rest {
    fn into_head(self, kind: Kind, created_at: Timestamp) -> EnvelopeHead {
        let Self { spec, priority, traceparent, request_id, workflow, payload_blob } = self;
        EnvelopeHead {
            kind,
            spec,
            created_at,
            priority,
            traceparent,
            request_id,
            workflow,
            payload_blob,
        }
    }
}

/// A request id that is a UUID as we write them.
fn as_uuid(request_id: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(request_id).ok()?;
    let mut text = Uuid::encode_buffer();
    (*id.hyphenated().encode_lower(&mut text) == *request_id).then_some(id)
}

impl Envelope {
    /// The wire form.
    pub fn encode(&self) -> Bytes {
        let head = &self.head;
        let request_id = head.request_id.as_deref().and_then(as_uuid);
        let mut rest = Rest {
            spec: head.spec.clone(),
            priority: head.priority,
            traceparent: head.traceparent.clone(),
            request_id: request_id.is_none().then(|| head.request_id.clone()).flatten(),
            workflow: head.workflow.clone(),
            payload_blob: None,
        };
        let tail = split(&self.payload, &mut rest.payload_blob);
        let rest = (rest != Rest::default()).then(|| json(&rest));
        let kind = head.kind.as_str().as_bytes();
        let rest_length = rest.as_ref().map_or(0, Vec::len);
        let mut out = BytesMut::with_capacity(31 + kind.len() + rest_length + tail.len());
        out.put_u8(ENVELOPE_VERSION);
        let has_request_id = if request_id.is_some() { HAS_REQUEST_ID } else { 0 };
        out.put_u8(has_request_id | if rest.is_some() { HAS_REST } else { 0 });
        out.put_i64_le(head.created_at.micros());
        out.put_u8(u8::try_from(kind.len()).expect("kinds are at most 128 bytes"));
        out.put_slice(kind);
        if let Some(id) = request_id {
            out.put_slice(id.as_bytes());
        }
        if let Some(rest) = rest {
            put_sized(&mut out, &rest);
        }
        out.put_slice(tail);
        out.freeze()
    }

    /// Back from the wire form of this version or an earlier one; the payload shares its memory.
    ///
    /// # Errors
    /// When the bytes are of a later version or are damaged.
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let (head, tail) = match bytes.first() {
            None => return Err(EnvelopeError("too short")),
            Some(&1) => {
                let (head, tail): (HeadOfOne, Bytes) = part(bytes)?;
                (head.rest.into_head(head.kind, head.created_at), tail)
            }
            Some(&ENVELOPE_VERSION) => head_of(bytes.slice(1..))?,
            Some(_) => return Err(EnvelopeError(UNKNOWN_VERSION)),
        };
        let payload = head.payload_blob.map_or(Value::Inline(tail), Value::Blob);
        Ok(Self { head, payload })
    }
}

/// The head of version 2, and what is behind it.
fn head_of(mut bytes: Bytes) -> Result<(EnvelopeHead, Bytes), EnvelopeError> {
    const CUT_OFF: EnvelopeError = EnvelopeError("its head is cut off");
    let mut take = |length: usize| {
        if bytes.len() < length { Err(CUT_OFF) } else { Ok(bytes.split_to(length)) }
    };
    let flags = take(1)?[0];
    if flags & !(HAS_REQUEST_ID | HAS_REST) != 0 {
        return Err(EnvelopeError(UNKNOWN_VERSION));
    }
    let created_at = Timestamp::from_micros(take(8)?.get_i64_le());
    let kind_length = usize::from(take(1)?[0]);
    let kind = take(kind_length)?;
    let kind = std::str::from_utf8(&kind).ok().and_then(|kind| kind.parse().ok());
    let kind = kind.ok_or(EnvelopeError("its kind is none"))?;
    let mut request_id = None;
    if flags & HAS_REQUEST_ID != 0 {
        let id = Uuid::from_slice(&take(16)?).map_err(|_| CUT_OFF)?;
        request_id = Some(id.to_string());
    }
    let mut rest = Rest::default();
    if flags & HAS_REST != 0 {
        let length = take(4)?.get_u32_le() as usize;
        rest = serde_json::from_slice(&take(length)?).map_err(|_| EnvelopeError(UNPARSED))?;
    }
    rest.request_id = request_id.or(rest.request_id);
    Ok((rest.into_head(kind, created_at), bytes))
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
    /// When the bytes are of a later version or are damaged.
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

fn json(head: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(head).expect("heads are plain data and always serialise")
}

fn put_sized(out: &mut BytesMut, head: &[u8]) {
    out.put_u32_le(u32::try_from(head.len()).expect("heads are bounded by the request body"));
    out.put_slice(head);
}

fn join(head: &impl Serialize, tail: &[u8]) -> Bytes {
    let head = json(head);
    let mut out = BytesMut::with_capacity(5 + head.len() + tail.len());
    out.put_u8(DETAIL_VERSION);
    put_sized(&mut out, &head);
    out.put_slice(tail);
    out.freeze()
}

fn part<T: serde::de::DeserializeOwned>(bytes: &Bytes) -> Result<(T, Bytes), EnvelopeError> {
    if bytes.len() < 5 {
        return Err(EnvelopeError("too short"));
    }
    if bytes[0] != DETAIL_VERSION {
        return Err(EnvelopeError(UNKNOWN_VERSION));
    }
    let len = u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
    let Some(end) = len.checked_add(5).filter(|end| *end <= bytes.len()) else {
        return Err(EnvelopeError("its head is cut off"));
    };
    let head = serde_json::from_slice(&bytes[5..end]).map_err(|_| EnvelopeError(UNPARSED))?;
    Ok((head, bytes.slice(end..)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::WorkflowId;

    fn plain() -> EnvelopeHead {
        EnvelopeHead {
            kind: "send-mail".parse().unwrap(),
            spec: JobSpec::default(),
            created_at: Timestamp::from_micros(1_795_479_224_371_042),
            priority: Priority::default(),
            traceparent: None,
            request_id: None,
            workflow: None,
            payload_blob: None,
        }
    }

    fn heads() -> Vec<EnvelopeHead> {
        let uuid = "01a20ae6-c02d-7743-a7a6-32769653a962";
        let spec = JobSpec { max_attempts: 9, circuit: Some("mail".into()), ..JobSpec::default() };
        let workflow = StepRef { id: WorkflowId::generate(), step: "first".into() };
        vec![
            plain(),
            EnvelopeHead { request_id: Some(uuid.into()), ..plain() },
            // A UUID, but not as we write it: it must come back as it was.
            EnvelopeHead { request_id: Some(uuid.to_uppercase()), ..plain() },
            EnvelopeHead { request_id: Some("mine".into()), ..plain() },
            EnvelopeHead { request_id: Some(uuid.into()), spec, ..plain() },
            EnvelopeHead { workflow: Some(workflow), priority: Priority::MAX, ..plain() },
            EnvelopeHead { traceparent: Some("00-ab-cd-01".into()), ..plain() },
        ]
    }

    #[test]
    fn an_envelope_comes_back_as_it_was() {
        let payload = Value::Inline(Bytes::from_static(br#"{"a":1}"#));
        for head in heads() {
            let envelope = Envelope { head, payload: payload.clone() };
            assert_eq!(Envelope::decode(&envelope.encode()).unwrap(), envelope);
            let blob = BlobId::generate();
            let head = EnvelopeHead { payload_blob: Some(blob), ..envelope.head };
            let envelope = Envelope { head, payload: Value::Blob(blob) };
            assert_eq!(Envelope::decode(&envelope.encode()).unwrap(), envelope);
        }
    }

    #[test]
    fn what_is_usual_takes_little() {
        let head = heads().swap_remove(1);
        let head = EnvelopeHead { kind: "append".parse().unwrap(), ..head };
        let bytes = Envelope { head, payload: Value::Inline(Bytes::new()) }.encode();
        assert_eq!(bytes.len(), 33);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        for head in heads() {
            let bytes = Envelope { head, payload: Value::Inline(Bytes::new()) }.encode();
            for length in 0..bytes.len() {
                assert!(Envelope::decode(&bytes.slice(..length)).is_err(), "{length} of {bytes:?}");
            }
        }
    }

    #[test]
    fn an_envelope_of_version_1_is_read_and_a_later_one_is_told_apart() {
        let head = r#"{"kind":"send-mail","spec":{"max_attempts":9,"max_crashes":3,"timeout":"60s",
            "retry":{"backoff":"fixed","initial":"1s","max":"1h","multiplier":2.0,"jitter":"full"}},
            "created_at":"2026-11-24T00:13:44.371042Z","priority":9,"request_id":"mine"}"#;
        let mut bytes = vec![1];
        bytes.extend(u32::try_from(head.len()).unwrap().to_le_bytes());
        bytes.extend(head.bytes());
        bytes.extend(b"[1]");
        let Envelope { head, payload } = Envelope::decode(&bytes.clone().into()).unwrap();
        assert_eq!(payload, Value::Inline(Bytes::from_static(b"[1]")));
        assert_eq!((head.spec.max_attempts, head.spec.max_crashes), (9, 3));
        assert_eq!((head.priority, head.created_at), (Priority::MAX, plain().created_at));
        assert_eq!(head.request_id.as_deref(), Some("mine"));
        bytes[0] = 3;
        assert!(Envelope::decode(&bytes.into()).unwrap_err().is_unknown_version());
    }
}
