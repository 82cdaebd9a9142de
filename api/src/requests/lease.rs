//! What remote workers send.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use windlass_shared::limits;
use windlass_shared::model::id::{JobId, KeyId, WorkerId};
use windlass_shared::model::job::JobError;
use windlass_shared::model::name::{Kind, Namespace, QueueName};
use windlass_shared::model::time::Span;

use super::docs::{DurationText, KindText, LeaseText, PollText, QueueNameText};
use super::{Faults, Text};
use crate::error::ApiError;

/// Longest `wait` of a long poll.
pub const WAIT_MAX: Duration = Duration::from_secs(50);
/// Lease of a remote worker that does not say.
const LEASE_DEFAULT: Duration = Duration::from_secs(30);
const QUEUES_MAX: usize = 50;
const KINDS_MAX: usize = 100;
const WORKER_BYTES_MAX: usize = 128;
/// Leases in one heartbeat, or settles in one call.
pub const ITEMS_MAX: usize = 1_000;

/// A remote worker asks for jobs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest<'a> {
    /// The worker's own label. Leases belong to the key and this label.
    #[serde(borrow, default)]
    #[schema(value_type = String, required = true, min_length = 1, max_length = 128, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$")]
    pub worker: Option<Text<'a>>,
    /// In order of preference. Default: `default` alone.
    #[serde(default)]
    #[schema(value_type = Option<Vec<QueueNameText>>, min_items = 1, max_items = 50)]
    pub queues: Option<Vec<QueueName>>,
    /// Only these kinds. Default: any.
    #[serde(default)]
    #[schema(value_type = Option<Vec<KindText>>, max_items = 100)]
    pub kinds: Option<Vec<Kind>>,
    /// At most this many jobs. Default 1.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 200)]
    pub max: Option<u32>,
    /// How long the leases last unless extended: 3 s to 1 h. Default 30 s.
    #[serde(default)]
    #[schema(value_type = Option<LeaseText>)]
    pub lease: Option<Span>,
    /// How long to wait for the first job; at most 50 s. Default 0.
    #[serde(default)]
    #[schema(value_type = Option<PollText>)]
    pub wait: Option<Span>,
}

/// A checked [`LeaseRequest`].
pub struct LeaseCall {
    /// Label.
    pub worker: String,
    /// Queues, at least one.
    pub queues: Vec<QueueName>,
    /// Kinds; empty is any.
    pub kinds: Vec<Kind>,
    /// 1 to [`limits::ENGINE_BATCH_MAX`].
    pub max: u32,
    /// Lease.
    pub lease: Duration,
    /// Wait.
    pub wait: Duration,
}

impl LeaseRequest<'_> {
    /// # Errors
    /// 422 or 400.
    pub fn check(self) -> Result<LeaseCall, ApiError> {
        let mut faults = Faults::default();
        let worker = check_worker(self.worker, &mut faults);
        let queues = self.queues.unwrap_or_else(|| vec![QueueName::default()]);
        if queues.is_empty() || queues.len() > QUEUES_MAX {
            faults.wrong("/queues", format!("must be 1 to {QUEUES_MAX} queues"));
        }
        let kinds = self.kinds.unwrap_or_default();
        if kinds.len() > KINDS_MAX {
            faults.wrong("/kinds", format!("must be at most {KINDS_MAX} kinds"));
        }
        let max = self.max.unwrap_or(1);
        if max < 1 || max as usize > limits::ENGINE_BATCH_MAX {
            faults.wrong("/max", format!("must be from 1 to {}", limits::ENGINE_BATCH_MAX));
        }
        let lease = check_lease(self.lease, &mut faults);
        let wait = self.wait.map_or(Duration::ZERO, |span| span.0);
        if wait > WAIT_MAX {
            faults.wrong("/wait", "must be at most 50s");
        }
        faults.finish()?;
        Ok(LeaseCall { worker, queues, kinds, max, lease, wait })
    }
}

/// The label, checked.
pub fn check_worker(worker: Option<Text<'_>>, faults: &mut Faults) -> String {
    match worker {
        Some(text) => {
            faults.indexed("/worker", text.as_str(), WORKER_BYTES_MAX);
            text.0.into_owned()
        }
        None => {
            faults.wrong("/worker", "is required");
            String::new()
        }
    }
}

/// The lease, checked.
pub fn check_lease(lease: Option<Span>, faults: &mut Faults) -> Duration {
    let lease = lease.map_or(LEASE_DEFAULT, |span| span.0);
    if !(limits::LEASE_MIN..=limits::LEASE_MAX).contains(&lease) {
        faults.wrong("/lease", "must be from 3s to 1h");
    }
    lease
}

/// The id of a remote worker: the same for one key and label, and no other key can have it.
pub fn worker_id(namespace: &Namespace, key: Option<KeyId>, label: &str) -> WorkerId {
    let mut hash = Sha256::new();
    for part in [
        namespace.as_str().as_bytes(),
        key.as_ref().map_or(&[][..], |key| key.as_bytes()),
        label.as_bytes(),
    ] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut id: [u8; 16] = digest[..16].try_into().expect("a SHA-256 is longer than a UUID");
    // Version 8 (made from a hash of our own), RFC variant.
    id[6] = (id[6] & 0x0f) | 0x80;
    id[8] = (id[8] & 0x3f) | 0x80;
    WorkerId::from_bytes(id)
}

/// Leases to extend.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatRequest<'a> {
    /// The label that took the leases.
    #[serde(borrow, default)]
    #[schema(value_type = String, required = true, min_length = 1, max_length = 128, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$")]
    pub worker: Option<Text<'a>>,
    /// Which leases.
    #[serde(borrow, deserialize_with = "super::bounded::<_, _, ITEMS_MAX>")]
    #[schema(required = true, max_items = 1000)]
    pub items: Vec<LeaseItem<'a>>,
    /// How long they last from now: 3 s to 1 h. Default 30 s.
    #[serde(default)]
    #[schema(value_type = Option<LeaseText>)]
    pub lease: Option<Span>,
}

/// One lease.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaseItem<'a> {
    /// The job.
    #[schema(value_type = String, format = Uuid)]
    pub id: JobId,
    /// Its lease token.
    #[serde(borrow)]
    #[schema(value_type = String)]
    pub token: Text<'a>,
}

/// Attempts that ended.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SettleRequest<'a> {
    /// The label that took the leases.
    #[serde(borrow, default)]
    #[schema(value_type = String, required = true, min_length = 1, max_length = 128, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$")]
    pub worker: Option<Text<'a>>,
    /// Which, and how.
    #[serde(borrow, deserialize_with = "super::bounded::<_, _, ITEMS_MAX>")]
    #[schema(required = true, max_items = 1000)]
    pub items: Vec<SettleItem<'a>>,
}

/// The end of one attempt.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SettleItem<'a> {
    /// The job.
    #[schema(value_type = String, format = Uuid)]
    pub id: JobId,
    /// Its lease token.
    #[serde(borrow)]
    #[schema(value_type = String)]
    pub token: Text<'a>,
    /// How it ended.
    pub outcome: SettleOutcome,
    /// With `succeed`: any JSON, at most 1 MiB.
    #[serde(borrow, default)]
    #[schema(value_type = Option<serde_json::Value>)]
    pub output: Option<&'a RawValue>,
    /// With `fail`.
    #[serde(borrow, default)]
    #[schema(value_type = Option<ErrorRequest<'static>>)]
    pub error: Option<ErrorRequest<'a>>,
    /// With `snooze`: when to run again. With `fail`: not before.
    #[serde(default)]
    #[schema(value_type = Option<DurationText>)]
    pub delay: Option<Span>,
    /// How the job's dependency was, for its circuit. Default: `answered` with `succeed`, and with an error that is not
    /// retryable; `failed` with any other error; else nothing.
    #[serde(default)]
    pub dependency: Option<DependencyTold>,
}

/// How a dependency was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DependencyTold {
    /// It answered, with success or with an error that is not its own.
    Answered,
    /// It failed, or did not answer in time.
    Failed,
    /// The attempt does not tell.
    Unknown,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SettleOutcome {
    /// With an output.
    Succeed,
    /// With an error; the job's rules decide whether it is tried again.
    Fail,
    /// Not an attempt; again after `delay`.
    Snooze,
    /// Not an attempt; again at once.
    Release,
}

/// Why an attempt failed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = JobErrorRequest)]
pub struct ErrorRequest<'a> {
    /// Stable, snake_case; retry rules match on it. `timeout` means the attempt's time limit.
    #[serde(borrow)]
    #[schema(value_type = String, min_length = 1, max_length = 128, pattern = "^[!-~]+$")]
    pub code: Text<'a>,
    /// For people; cut at 8 KiB.
    #[serde(borrow)]
    #[schema(value_type = String)]
    pub message: Text<'a>,
    /// Whether another attempt may succeed. Default true.
    #[serde(default)]
    pub retryable: Option<bool>,
}

impl ErrorRequest<'_> {
    /// Notes a wrong code; cuts a long message.
    pub fn check(&self, pointer: &str, faults: &mut Faults) -> JobError {
        let code = self.code.as_str();
        let fine = (1..=128).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_graphic());
        if !fine {
            faults.wrong(
                &format!("{pointer}/code"),
                "must be 1 to 128 printable ASCII characters without spaces",
            );
        }
        JobError {
            code: code.to_owned(),
            message: cut(self.message.as_str(), limits::ERROR_MESSAGE_BYTES_MAX),
            retryable: self.retryable.unwrap_or(true),
        }
    }
}

/// The beginning of a text, at most `max` bytes, without NUL (which PostgreSQL does not take).
pub fn cut(text: &str, max: usize) -> String {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_its_key_and_label() {
        let namespace = Namespace::default();
        let key = Some(KeyId::generate());
        let id = worker_id(&namespace, key, "w1");
        assert_eq!(id, worker_id(&namespace, key, "w1"));
        assert_ne!(id, worker_id(&namespace, key, "w2"));
        assert_ne!(id, worker_id(&namespace, Some(KeyId::generate()), "w1"));
        assert_ne!(id, worker_id(&"other".parse().unwrap(), key, "w1"));
        assert_eq!(id.uuid().get_version_num(), 8);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("aéb", 2), "a");
        assert_eq!(cut("aéb", 3), "aé");
        assert_eq!(cut("a\0b", 10), "a\u{fffd}b");
    }
}
