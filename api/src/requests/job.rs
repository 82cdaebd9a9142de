//! A job as submitted.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use windlass_shared::engine::flow::UNITS_MAX;
use windlass_shared::ledger::QueueSettings;
use windlass_shared::limits;
use windlass_shared::model::dependency::default_circuit;
use windlass_shared::model::id::JobId;
use windlass_shared::model::job::{
    Expect, JobSpec, NewJob, OnConflict, OrderOnFailure, Priority, Unique, Value,
};
use windlass_shared::model::name::{CircuitName, Kind, Namespace, QueueName};
use windlass_shared::model::retry::RetryPolicy;
use windlass_shared::model::shaping::Shaping;
use windlass_shared::model::time::{Span, Timestamp};

use super::docs::{DurationText, Tag, TimeoutText};
use super::retry::RetryDocs;
use super::shaping::{Beside, CollectRequest, DebounceRequest, Shapings, ThrottleRequest};
use super::{Change, Faults, Text, evaluate, retry, shaping};
use crate::error::{ApiError, Code};
use crate::json::{ValueFault, check_value};

/// A job to run. Everything but `kind` has a default.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = JobRequest)]
pub struct JobRequest<'a> {
    /// Selects the handler.
    #[serde(borrow, default)]
    #[schema(value_type = String, required = true, pattern = "^[A-Za-z0-9._:-]{1,128}$", example = "email.send")]
    pub kind: Option<Text<'a>>,
    /// Any JSON, at most 1 MiB and 64 levels deep; handed to the handler as it is.
    #[serde(borrow, default)]
    #[schema(value_type = Option<serde_json::Value>, example = json!({"to": "ada@example.org"}))]
    pub payload: Option<&'a RawValue>,
    /// Where it waits. Default `default`.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    pub queue: Option<Text<'a>>,
    /// 9 runs first. Default 5; a level is worth a minute of waiting.
    #[serde(default)]
    #[schema(value_type = Option<u8>, minimum = 0, maximum = 9)]
    pub priority: Option<Priority>,
    /// Not before. Not together with `delay`.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub run_at: Option<Timestamp>,
    /// Not before this time from now.
    #[serde(default)]
    #[schema(value_type = Option<DurationText>)]
    pub delay: Option<Span>,
    /// Handler failures and time-outs allowed, the first attempt included. Default 5.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1000)]
    pub max_attempts: Option<u32>,
    /// Lost workers allowed; one more and the job is quarantined. Default 3.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1000)]
    pub max_crashes: Option<u32>,
    /// Limit of one attempt. Default 60 s, at most 7 days.
    #[serde(default)]
    #[schema(value_type = Option<TimeoutText>)]
    pub timeout: Option<Span>,
    /// When a failed attempt is followed by another.
    #[serde(default)]
    #[schema(value_type = Option<RetryDocs>)]
    pub retry: Option<RetryPolicy>,
    /// Not started by then: `expired`. Not together with `ttl`.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Not started within this time: `expired`.
    #[serde(default)]
    #[schema(value_type = Option<DurationText>)]
    pub ttl: Option<Span>,
    /// At most one job holds the key in its queue.
    #[serde(borrow, default)]
    #[schema(value_type = Option<UniqueRequest<'static>>)]
    pub unique: Option<UniqueRequest<'a>>,
    /// The last submission of a key wins, once nobody has submitted with it for a while. At most one of `unique`,
    /// `debounce`, `throttle` and `collect`.
    #[serde(borrow, default)]
    #[schema(value_type = Option<DebounceRequest<'static>>)]
    pub debounce: Option<DebounceRequest<'a>>,
    /// Submissions of a key over a rate are refused.
    #[serde(borrow, default)]
    #[schema(value_type = Option<ThrottleRequest<'static>>)]
    pub throttle: Option<ThrottleRequest<'a>>,
    /// Many submissions of a key become one job. Answered with 202.
    #[serde(borrow, default)]
    #[schema(value_type = Option<CollectRequest<'static>>)]
    pub collect: Option<CollectRequest<'a>>,
    /// Jobs of one key share the queue's `per_key_concurrency`.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$")]
    pub concurrency_key: Option<Text<'a>>,
    /// Jobs of one key share the queue's `per_key_rate_limit`.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$")]
    pub rate_limit_key: Option<Text<'a>>,
    /// What its start costs of rates. Default 1, at most 1,000,000; what is more than a rate's burst counts as the burst.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub rate_limit_units: Option<u32>,
    /// Jobs of one key together get one share of the queue, by the time that they run. Default: `concurrency_key`, or else
    /// `rate_limit_key`. Jobs without any are one share together.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$")]
    pub fairness_key: Option<Text<'a>>,
    /// Jobs of one key in a queue run one after the other, in accepted order. Not together with `debounce` or `collect`.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$")]
    pub order_key: Option<Text<'a>>,
    /// What becomes of those behind it in its order if it does not succeed. With `order_key` only. Default `skip`.
    #[serde(default)]
    #[schema(value_type = Option<OrderOnFailureDocs>)]
    pub order_on_failure: Option<OrderOnFailure>,
    /// Slots that the job takes on its worker. Default 1.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1000)]
    pub weight: Option<u32>,
    /// The worker stops the handler before its lease can pass to another. Default false.
    #[serde(default)]
    pub exclusive: Option<bool>,
    /// The named dependency whose circuit holds the job. Default: of `http.request` the host of its URL, with the port
    /// unless it is the scheme's; else none. `null`: none.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    pub circuit: Change<Text<'a>>,
    /// A result gate: an output that fails it fails the attempt with `result_rejected`.
    #[serde(borrow, default)]
    #[schema(value_type = Option<ExpectRequest<'static>>)]
    pub expect: Option<ExpectRequest<'a>>,
    /// Words to find the job by.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Vec<Tag>>, max_items = 20)]
    pub tags: Option<Vec<Text<'a>>>,
    /// An object of your own, at most 16 KiB; not handed to the handler.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Object>)]
    pub meta: Option<&'a RawValue>,
}

/// At most one job holds a key in its queue.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Unique)]
pub struct UniqueRequest<'a> {
    /// The key.
    #[serde(borrow, default)]
    #[schema(value_type = String, required = true, min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$")]
    key: Option<Text<'a>>,
    /// `active` (default): held until the job has ended. `window`: held for `window`.
    #[serde(default)]
    #[schema(value_type = Option<UniqueScope>)]
    scope: Option<UniqueScope>,
    /// How long `window` holds the key.
    #[serde(default)]
    #[schema(value_type = Option<DurationText>)]
    window: Option<Span>,
    /// What a second submission gets. Default `reject`.
    #[serde(default)]
    #[schema(value_type = Option<OnConflictDocs>)]
    on_conflict: Option<OnConflict>,
}

/// How long a unique key is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UniqueScope {
    /// Until the job has ended.
    Active,
    /// For a while.
    Window,
}

/// What a second submission with a held key gets.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = OnConflict)]
pub enum OnConflictDocs {
    Reject,
    ReturnExisting,
    Replace,
}

/// What the end of a job that did not succeed means for those behind it in its order.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = OrderOnFailure)]
pub enum OrderOnFailureDocs {
    /// The next one runs.
    Skip,
    /// They wait until it has been retried and has succeeded, or is forgotten.
    Block,
}

/// A result gate.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Expect)]
pub struct ExpectRequest<'a> {
    /// JSON Schema (draft 2020-12) that the output must satisfy.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Object>)]
    schema: Option<&'a RawValue>,
    /// CEL over `output` that must be true; at most 4 KiB.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 4096, pattern = "^[^\\u0000]*$")]
    expr: Option<Text<'a>>,
    /// What the output is scored by; below the threshold it is refused, with recommendations for the next attempt.
    #[serde(borrow, default)]
    #[schema(value_type = Option<super::evaluate::EvaluateDocs>)]
    evaluate: Option<&'a RawValue>,
}

/// Longest `expect.expr`, and largest `expect.schema`.
const EXPR_BYTES_MAX: usize = 4 << 10;
const SCHEMA_BYTES_MAX: usize = 64 << 10;
const TAG_BYTES_MAX: usize = 128;
const SMALL_COUNT_MAX: u32 = 1_000;

/// What all jobs of one request have in common.
pub struct Origin<'a> {
    /// Where they go.
    pub namespace: &'a Namespace,
    /// Now.
    pub now: Timestamp,
    /// The request's id.
    pub request_id: &'a str,
    /// W3C trace context of the request.
    pub traceparent: Option<&'a str>,
}

/// Names already checked, so that a batch makes one allocation per name and not one per job.
#[derive(Default)]
pub struct Names {
    queue: Option<QueueName>,
    kind: Option<Kind>,
}

impl Names {
    pub(super) fn queue(&mut self, text: &str, faults: &mut Faults) -> Option<QueueName> {
        if self.queue.as_ref().is_none_or(|last| last.as_str() != text) {
            self.queue = Some(faults.parse("/queue", text)?);
        }
        self.queue.clone()
    }
    pub(super) fn kind(&mut self, text: &str, faults: &mut Faults) -> Option<Kind> {
        if self.kind.as_ref().is_none_or(|last| last.as_str() != text) {
            self.kind = Some(faults.parse("/kind", text)?);
        }
        self.kind.clone()
    }
}

/// A checked job; a payload that is too large to travel is still beside it.
pub struct Checked {
    /// Its payload is [`Value::null`] where `large` is set.
    pub job: NewJob,
    /// To be stored as a blob first.
    pub large: Option<Bytes>,
}

impl JobRequest<'_> {
    /// The queue's name, checked.
    ///
    /// # Errors
    /// 422.
    pub fn queue_name(&self, base: &str, names: &mut Names) -> Result<QueueName, ApiError> {
        let mut faults = Faults::below(base);
        let text = self.queue.as_ref().map_or("default", Text::as_str);
        let name = names.queue(text, &mut faults);
        faults.finish()?;
        Ok(name.expect("no fault was noted, so the name parsed"))
    }

    /// Checks every field and fills in the queue's defaults.
    ///
    /// # Errors
    /// Everything that is wrong with it, by pointer below `base`.
    pub fn check(
        self,
        base: &str,
        origin: &Origin<'_>,
        queue: QueueName,
        settings: &QueueSettings,
        names: &mut Names,
    ) -> Result<Checked, ApiError> {
        let mut faults = Faults::below(base);
        let kind = match &self.kind {
            Some(kind) => names.kind(kind.as_str(), &mut faults),
            None => {
                faults.wrong("/kind", "is required");
                None
            }
        };
        let (run_at, delay) = self.start(origin.now, &mut faults);
        let (expires_at, ttl) = self.expiry(origin.now, &mut faults);
        let shaping = self.shapings().check(&self.beside(), &mut faults);
        let (mut payload, mut large) = payload(self.payload, &mut faults);
        if let Some(Shaping::Collect(rule)) = &shaping {
            // An item travels whole: it becomes part of a payload.
            if let Some(bytes) = large.take() {
                payload = Value::Inline(bytes);
            }
            if let Value::Inline(bytes) = &payload {
                shaping::check_item(rule, bytes, &mut faults);
            }
        }
        let meta = self.meta.and_then(|meta| check_meta(meta, &mut faults));
        let tags = check_tags(self.tags.as_deref(), &mut faults);
        let unique = self.unique.as_ref().and_then(|unique| unique.check(&mut faults));
        let priority = self.priority.or(settings.default_priority).unwrap_or_default();
        let spec = self.spec(settings, &mut faults);
        faults.finish()?;
        let job = NewJob {
            id: JobId::generate(),
            namespace: origin.namespace.clone(),
            queue,
            kind: kind.expect("no fault was noted, so the kind parsed"),
            priority,
            payload,
            run_at,
            delay,
            expires_at,
            ttl,
            spec,
            unique,
            shaping: shaping.map(Box::new),
            tags,
            meta,
            request_id: Some(origin.request_id.to_owned()),
            traceparent: origin.traceparent.map(str::to_owned),
        };
        Ok(Checked { job, large })
    }

    pub(super) fn shapings(&self) -> Shapings<'_, '_> {
        Shapings {
            debounce: self.debounce.as_ref(),
            throttle: self.throttle.as_ref(),
            collect: self.collect.as_ref(),
        }
    }

    fn beside(&self) -> Beside {
        Beside {
            unique: self.unique.is_some(),
            run_at: self.run_at.is_some(),
            delay: self.delay.is_some(),
            order_key: self.order_key.is_some(),
        }
    }

    /// `run_at` and `delay`, of which one may be given. A delay stays one: the ledger knows when it begins.
    fn start(&self, now: Timestamp, faults: &mut Faults) -> (Option<Timestamp>, Option<Duration>) {
        if self.run_at.is_some() && self.delay.is_some() {
            faults.wrong("/delay", "cannot be given together with run_at");
        }
        let run_at = check_instant(self.run_at, now, "/run_at", faults);
        (run_at, self.delay.and_then(|delay| check_length(delay, "/delay", faults)))
    }

    /// The same of `expires_at` and `ttl`.
    fn expiry(&self, now: Timestamp, faults: &mut Faults) -> (Option<Timestamp>, Option<Duration>) {
        if self.expires_at.is_some() && self.ttl.is_some() {
            faults.wrong("/ttl", "cannot be given together with expires_at");
        }
        let expires_at = check_instant(self.expires_at, now, "/expires_at", faults);
        (expires_at, self.ttl.and_then(|ttl| check_length(ttl, "/ttl", faults)))
    }

    pub(super) fn spec(self, settings: &QueueSettings, faults: &mut Faults) -> JobSpec {
        let defaults = JobSpec::default();
        let max_attempts =
            self.max_attempts.or(settings.default_max_attempts).unwrap_or(defaults.max_attempts);
        check_max_attempts(max_attempts, faults);
        let max_crashes = self.max_crashes.unwrap_or(defaults.max_crashes);
        if max_crashes > SMALL_COUNT_MAX {
            faults.wrong("/max_crashes", "must be from 0 to 1000");
        }
        let weight = self.weight.unwrap_or(1);
        if !(1..=SMALL_COUNT_MAX).contains(&weight) {
            faults.wrong("/weight", "must be from 1 to 1000");
        }
        let timeout = self.timeout.or(settings.default_timeout).unwrap_or(defaults.timeout);
        if timeout.0.is_zero() || timeout.0 > limits::TIMEOUT_MAX {
            faults.wrong("/timeout", "must be longer than 0 and at most 7 days");
        }
        if let Some(policy) = &self.retry {
            retry::check(policy, "/retry", faults);
        }
        let retry = self.retry.or_else(|| settings.default_retry.clone()).unwrap_or_default();
        let circuit = match self.circuit {
            Change::Set(text) => faults.parse("/circuit", text.as_str()),
            Change::Clear => None,
            Change::Keep => self.payload.and_then(|payload| {
                let kind = self.kind.as_ref()?.as_str().parse().ok()?;
                default_circuit(&kind, payload.get())
            }),
        };
        let circuit = circuit.map(|name: CircuitName| name.to_string());
        if self.order_on_failure.is_some() && self.order_key.is_none() {
            faults.wrong("/order_on_failure", "can be given together with order_key only");
        }
        JobSpec {
            max_attempts,
            max_crashes,
            timeout,
            retry,
            expect: self.expect.and_then(|expect| expect.check(faults)),
            weight,
            exclusive: self.exclusive.unwrap_or(false),
            order_key: check_key(self.order_key, "/order_key", faults),
            order_on_failure: self.order_on_failure.unwrap_or_default(),
            concurrency_key: check_key(self.concurrency_key, "/concurrency_key", faults),
            rate_limit_key: check_key(self.rate_limit_key, "/rate_limit_key", faults),
            rate_limit_units: check_units(self.rate_limit_units, faults),
            fairness_key: check_key(self.fairness_key, "/fairness_key", faults),
            circuit,
        }
    }
}

fn check_units(units: Option<u32>, faults: &mut Faults) -> u32 {
    let units = units.unwrap_or(1);
    if !(1..=UNITS_MAX).contains(&units) {
        faults.wrong("/rate_limit_units", "must be from 1 to 1000000");
    }
    units
}

/// Also for changes of a job that exists.
pub fn check_max_attempts(n: u32, faults: &mut Faults) {
    if !(1..=limits::ATTEMPTS_MAX).contains(&n) {
        faults.wrong("/max_attempts", "must be from 1 to 1000");
    }
}

fn check_length(span: Span, pointer: &str, faults: &mut Faults) -> Option<Duration> {
    if span.0 > limits::HORIZON_MAX {
        faults.wrong(pointer, "must be at most 10 years");
    }
    // No delay at all is no time at all: the job is ready at once.
    (!span.0.is_zero()).then_some(span.0)
}

/// An instant between 1970 and the horizon. Also for changes of a job that exists.
pub fn check_instant(
    at: Option<Timestamp>,
    now: Timestamp,
    pointer: &str,
    faults: &mut Faults,
) -> Option<Timestamp> {
    if let Some(at) = at
        && (at < Timestamp::default() || at > now.plus(limits::HORIZON_MAX))
    {
        faults.wrong(pointer, "must be after 1970 and at most 10 years from now");
    }
    at
}

fn check_key(text: Option<Text<'_>>, pointer: &str, faults: &mut Faults) -> Option<String> {
    let text = text?;
    faults.indexed(pointer, text.as_str(), limits::KEY_BYTES_MAX);
    Some(text.0.into_owned())
}

/// Also for changes of a job that exists.
pub fn check_tags(tags: Option<&[Text<'_>]>, faults: &mut Faults) -> Vec<String> {
    let tags = tags.unwrap_or_default();
    if tags.len() > limits::TAGS_MAX {
        faults.wrong("/tags", format!("must be at most {} tags", limits::TAGS_MAX));
        return Vec::new();
    }
    for (i, tag) in tags.iter().enumerate() {
        faults.indexed(&format!("/tags/{i}"), tag.as_str(), TAG_BYTES_MAX);
    }
    tags.iter().map(|tag| tag.as_str().to_owned()).collect()
}

fn payload(raw: Option<&RawValue>, faults: &mut Faults) -> (Value, Option<Bytes>) {
    let Some(raw) = raw else {
        return (Value::null(), None);
    };
    match checked_value(raw.get(), "/payload", faults) {
        Some(bytes) if bytes.len() > limits::INLINE_BYTES_MAX => (Value::null(), Some(bytes)),
        Some(bytes) => (Value::Inline(bytes), None),
        None => (Value::null(), None),
    }
}

/// A payload or output: well-formed JSON of bounded size and depth. The bytes as they came.
pub fn checked_value(text: &str, pointer: &str, faults: &mut Faults) -> Option<Bytes> {
    if text.len() > limits::VALUE_BYTES_MAX {
        faults.refused(Code::TooLarge, pointer, "is larger than 1 MiB");
        return None;
    }
    if let Err(fault) = check_value(text, limits::JSON_DEPTH_MAX) {
        let code = match fault {
            ValueFault::Depth => Code::TooDeep,
            ValueFault::Surrogate | ValueFault::Number => Code::InvalidJson,
        };
        faults.refused(code, pointer, fault.to_string());
        return None;
    }
    Some(Bytes::copy_from_slice(text.as_bytes()))
}

pub(super) fn check_meta(raw: &RawValue, faults: &mut Faults) -> Option<Bytes> {
    let text = raw.get();
    if !text.starts_with('{') {
        faults.wrong("/meta", "must be an object");
        return None;
    }
    if text.len() > limits::META_BYTES_MAX {
        faults.wrong("/meta", "must be at most 16 KiB");
        return None;
    }
    checked_value(text, "/meta", faults)
}

impl UniqueRequest<'_> {
    fn check(&self, faults: &mut Faults) -> Option<Unique> {
        let key = match &self.key {
            Some(key) => {
                faults.indexed("/unique/key", key.as_str(), limits::KEY_BYTES_MAX);
                key.as_str().to_owned()
            }
            None => {
                faults.wrong("/unique/key", "is required");
                return None;
            }
        };
        let scope = self.scope.unwrap_or(UniqueScope::Active);
        let window = match (scope, self.window) {
            (UniqueScope::Active, None) => None,
            (UniqueScope::Active, Some(_)) => {
                faults.wrong("/unique/window", "is only for the scope \"window\"");
                None
            }
            (UniqueScope::Window, None) => {
                faults.wrong("/unique/window", "is required for the scope \"window\"");
                None
            }
            (UniqueScope::Window, Some(Span(window))) => {
                if window < Duration::from_millis(1) || window > limits::HORIZON_MAX {
                    faults.wrong("/unique/window", "must be longer than 0 and at most 10 years");
                }
                Some(window)
            }
        };
        Some(Unique { key, window, on_conflict: self.on_conflict.unwrap_or_default() })
    }
}

impl ExpectRequest<'_> {
    fn check(self, faults: &mut Faults) -> Option<Expect> {
        if self.schema.is_none() && self.expr.is_none() && self.evaluate.is_none() {
            faults.wrong("/expect", "needs a schema, an expr or evaluate");
        }
        let schema = self.schema.and_then(|raw| {
            let text = raw.get();
            if !text.starts_with('{') || text.len() > SCHEMA_BYTES_MAX {
                faults.wrong("/expect/schema", "must be an object of at most 64 KiB");
                return None;
            }
            checked_value(text, "/expect/schema", faults)?;
            serde_json::from_str(text)
                .map_err(|_| faults.wrong("/expect/schema", "cannot be read"))
                .ok()
        });
        let expr = self.expr.map(|text| {
            if text.as_str().is_empty() || text.as_str().len() > EXPR_BYTES_MAX {
                faults.wrong("/expect/expr", "must be 1 to 4096 bytes long");
            }
            if text.as_str().contains('\0') {
                faults.refused(Code::NulCharacter, "/expect/expr", "must not hold U+0000");
            }
            text.0.into_owned()
        });
        let evaluate =
            self.evaluate.and_then(|raw| evaluate::check(raw, "/expect/evaluate", faults));
        Some(Expect { schema, expr, evaluate })
    }
}
