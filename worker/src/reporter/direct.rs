//! How an outcome of the direct path looks on the wire.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use windlass_shared::engine::Verdict;
use windlass_shared::engine::envelope::Detail;
use windlass_shared::model::id::{BlobId, Fence, JobId, LeaseId, LedgerId};
use windlass_shared::model::job::{JobError, Value};
use windlass_shared::model::time::{Span, Timestamp};

use crate::reporter::DirectOutcome;

/// Longest code of an error, name of a worker, and usage that the API takes.
const CODE_BYTES_MAX: usize = 128;
/// See [`CODE_BYTES_MAX`].
const WORKER_BYTES_MAX: usize = 255;
/// See [`CODE_BYTES_MAX`].
const USAGE_BYTES_MAX: usize = 16 << 10;

/// The body of a report that holds outcomes only.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    ledger: Option<LedgerId>,
    outcomes: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Item<'a> {
    job_id: JobId,
    fence: Fence,
    lease_id: LeaseId,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<Span>,
    at: Timestamp,
    claimed_at: Timestamp,
    attempt: u32,
    crashes: u32,
    worker: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_blob: Option<BlobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorItem<'a>>,
    timed_out: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<&'a serde_json::Value>,
}

#[derive(Serialize)]
struct ErrorItem<'a> {
    code: Cow<'a, str>,
    message: &'a str,
    retryable: bool,
}

/// The body of `POST /v1/worker/reports` for these outcomes.
pub(super) fn body(ledger: Option<LedgerId>, outcomes: &[DirectOutcome]) -> Vec<u8> {
    let details: Vec<Detail> = outcomes.iter().map(|outcome| detail(&outcome.detail)).collect();
    let items = outcomes.iter().zip(&details).map(|(outcome, detail)| item(outcome, detail));
    let body = Body { ledger, outcomes: items.collect() };
    serde_json::to_vec(&body).expect("its maps have texts as keys")
}

/// What the worker itself has encoded. If it cannot be read all the same, the end is known and its story is lost.
pub(super) fn detail(bytes: &Bytes) -> Detail {
    Detail::decode(bytes).unwrap_or_else(|error| {
        tracing::error!(%error, "an outcome's detail cannot be read");
        Detail::default()
    })
}

fn item<'a>(outcome: &DirectOutcome, detail: &'a Detail) -> Item<'a> {
    let (word, delay) = word(outcome.verdict);
    let (output, output_blob) = match &detail.output {
        // A handler that passed on what is not JSON gets `null` on record: the end itself is known.
        Some(Value::Inline(bytes)) => {
            (Some(serde_json::from_slice(bytes).unwrap_or(RawValue::NULL)), None)
        }
        Some(Value::Blob(id)) => (None, Some(*id)),
        None => (None, None),
    };
    Item {
        job_id: outcome.job_id,
        fence: outcome.fence,
        lease_id: outcome.lease_id,
        outcome: word,
        delay,
        at: outcome.at,
        claimed_at: outcome.claimed_at,
        attempt: outcome.attempt,
        crashes: outcome.crashes,
        worker: checked_worker(outcome, detail),
        output,
        output_blob,
        error: detail.head.error.as_ref().map(error_item),
        timed_out: detail.head.timed_out,
        usage: detail.head.usage.as_ref().filter(|usage| is_fit(usage)),
    }
}

fn is_fit(usage: &serde_json::Value) -> bool {
    usage.is_object() && usage.to_string().len() <= USAGE_BYTES_MAX
}

/// As the ledger names the worker of an attempt.
pub(super) fn worker(outcome: &DirectOutcome, detail: &Detail) -> String {
    match &detail.head.worker {
        Some(name) => format!("{name} ({})", outcome.worker),
        None => outcome.worker.to_string(),
    }
}

/// The same, as far as the API takes names: an outcome must not be refused for its worker's.
fn checked_worker(outcome: &DirectOutcome, detail: &Detail) -> String {
    let full = worker(outcome, detail);
    let seen = |c: char| {
        !c.is_control()
            && !matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let fits = full.len() <= WORKER_BYTES_MAX && full.chars().all(seen);
    if fits { full } else { outcome.worker.to_string() }
}

fn word(verdict: Verdict) -> (&'static str, Option<Span>) {
    match verdict {
        Verdict::Succeeded => ("succeeded", None),
        Verdict::Retry { delay } => ("retry", Some(Span(delay))),
        Verdict::Dead => ("dead", None),
        Verdict::Snooze { delay } => ("snoozed", Some(Span(delay))),
        Verdict::Release => ("released", None),
        Verdict::Cancelled => ("cancelled", None),
    }
}

/// The API is stricter with codes than handlers are: an outcome must not be refused for its code.
fn error_item(error: &JobError) -> ErrorItem<'_> {
    let fits = (1..=CODE_BYTES_MAX).contains(&error.code.len())
        && error.code.bytes().all(|byte| byte.is_ascii_graphic());
    let code = if fits {
        Cow::Borrowed(error.code.as_str())
    } else {
        let kept: String =
            error.code.chars().filter(char::is_ascii_graphic).take(CODE_BYTES_MAX).collect();
        Cow::Owned(if kept.is_empty() { "error".into() } else { kept })
    };
    ErrorItem { code, message: &error.message, retryable: error.retryable }
}
