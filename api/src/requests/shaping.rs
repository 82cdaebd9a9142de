//! How a submission is shaped before it is a job: debounce, throttle, collect.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use utoipa::ToSchema;
use windlass_shared::ledger::RateLimit;
use windlass_shared::ledger::shaping::item_bytes_max;
use windlass_shared::limits;
use windlass_shared::model::shaping::{Collect, Debounce, Shaping, Throttle};
use windlass_shared::model::time::Span;

use super::docs::{DayText, WeekText};
use super::{Faults, Text, queue};

/// Smallest `max_bytes`.
const BYTES_MIN: u32 = 1 << 10;
const WAIT_DEFAULT: Duration = Duration::from_secs(5);
/// `max_wait` is so many times the delay unless the caller says otherwise.
const MAX_WAIT_DELAYS: u32 = 10;

/// The last submission of a key wins: each one replaces the one before it, which never runs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Debounce)]
pub struct DebounceRequest<'a> {
    /// Of the queue and kind.
    #[serde(borrow, default)]
    #[schema(value_type = String, required = true, min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$")]
    key: Option<Text<'a>>,
    /// The job may run this long after the last submission; 10 ms to 1 day.
    #[serde(default)]
    #[schema(value_type = DayText, required = true)]
    delay: Option<Span>,
    /// But no later than this after the first one of the series; `delay` to 7 days. Default 10 × `delay`, at most 7 days.
    #[serde(default)]
    #[schema(value_type = Option<WeekText>)]
    max_wait: Option<Span>,
}

/// Submissions per time of a key; the others are refused with 429 `throttled`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Throttle)]
pub struct ThrottleRequest<'a> {
    /// Of the queue.
    #[serde(borrow, default)]
    #[schema(value_type = String, required = true, min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$")]
    key: Option<Text<'a>>,
    /// Submissions.
    #[serde(default)]
    #[schema(value_type = u32, required = true, minimum = 1, maximum = 1_000_000)]
    limit: Option<u32>,
    /// Per this time; 1 ms to 1 day.
    #[serde(default)]
    #[schema(value_type = DayText, required = true)]
    per: Option<Span>,
    /// At once. Default `limit`.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1_000_000)]
    burst: Option<u32>,
}

/// Many submissions of a key become one job: each adds its payload to the `items` of the first one's.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Collect)]
pub struct CollectRequest<'a> {
    /// Of the queue and kind.
    #[serde(borrow, default)]
    #[schema(value_type = String, required = true, min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$")]
    key: Option<Text<'a>>,
    /// With so many items the job runs at once. Default 100.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 10_000)]
    max: Option<u32>,
    /// The job runs this long after its first item, however many there are; 10 ms to 1 day. Default 5 s.
    #[serde(default)]
    #[schema(value_type = Option<DayText>)]
    wait: Option<Span>,
    /// Largest payload of the job, in bytes: an item that would go over it begins the next job. Default 1 MiB.
    #[serde(default)]
    #[schema(minimum = 1024, maximum = 1_048_576)]
    max_bytes: Option<u32>,
}

/// The three of them, as of a request.
pub(super) struct Shapings<'r, 'a> {
    pub(super) debounce: Option<&'r DebounceRequest<'a>>,
    pub(super) throttle: Option<&'r ThrottleRequest<'a>>,
    pub(super) collect: Option<&'r CollectRequest<'a>>,
}

impl Shapings<'_, '_> {
    /// The names of those that are given.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            ("debounce", self.debounce.is_some()),
            ("throttle", self.throttle.is_some()),
            ("collect", self.collect.is_some()),
        ];
        all.into_iter().filter_map(|(name, given)| given.then_some(name))
    }

    /// Says of each that it is not for this sort of work.
    pub(super) fn refuse(&self, why: &str, faults: &mut Faults) {
        for name in self.given() {
            faults.wrong(&format!("/{name}"), why.to_owned());
        }
    }

    /// The one that is given, checked. `beside`: other fields that are given, which may not go with it.
    pub(super) fn check(&self, beside: &Beside, faults: &mut Faults) -> Option<Shaping> {
        let mut given = beside.unique.then_some("unique").into_iter().chain(self.given());
        let first = given.next();
        for other in given {
            let text = format!("cannot be given together with {}", first.unwrap_or_default());
            faults.wrong(&format!("/{other}"), text);
        }
        if self.debounce.is_some() || self.collect.is_some() {
            const WHEN: &str = "cannot be given: debounce and collect say when the job runs";
            const PLACE: &str =
                "cannot be given: what debounce and collect hold back has no place in an order";
            for (name, is_given, text) in [
                ("run_at", beside.run_at, WHEN),
                ("delay", beside.delay, WHEN),
                ("order_key", beside.order_key, PLACE),
            ] {
                if is_given {
                    faults.wrong(&format!("/{name}"), text);
                }
            }
        }
        let debounce = self.debounce.and_then(|rule| rule.check(faults)).map(Shaping::Debounce);
        let throttle = self.throttle.and_then(|rule| rule.check(faults)).map(Shaping::Throttle);
        let collect = self.collect.and_then(|rule| rule.check(faults)).map(Shaping::Collect);
        debounce.or(throttle).or(collect)
    }
}

/// What else is given.
pub(super) struct Beside {
    pub(super) unique: bool,
    pub(super) run_at: bool,
    pub(super) delay: bool,
    pub(super) order_key: bool,
}

fn check_key(key: Option<&Text<'_>>, field: &str, faults: &mut Faults) -> Option<String> {
    let pointer = format!("/{field}/key");
    let Some(key) = key else {
        faults.wrong(&pointer, "is required");
        return None;
    };
    faults.indexed(&pointer, key.as_str(), limits::KEY_BYTES_MAX);
    Some(key.as_str().to_owned())
}

fn check_wait(span: Span, pointer: &str, faults: &mut Faults) -> Duration {
    if !(limits::SERIES_WAIT_MIN..=limits::SERIES_WAIT_MAX).contains(&span.0) {
        faults.wrong(pointer, "must be from 10 ms to 1 day");
    }
    span.0
}

impl DebounceRequest<'_> {
    fn check(&self, faults: &mut Faults) -> Option<Debounce> {
        let key = check_key(self.key.as_ref(), "debounce", faults);
        let Some(delay) = self.delay else {
            faults.wrong("/debounce/delay", "is required");
            return None;
        };
        let delay = check_wait(delay, "/debounce/delay", faults);
        let longest = limits::DEBOUNCE_MAX_WAIT_MAX;
        let default = delay.saturating_mul(MAX_WAIT_DELAYS).min(longest);
        let max_wait = self.max_wait.map_or(default, |span| span.0);
        if max_wait < delay || max_wait > longest {
            faults.wrong("/debounce/max_wait", "must be from delay to 7 days");
        }
        Some(Debounce { key: key?, delay, max_wait })
    }
}

impl ThrottleRequest<'_> {
    fn check(&self, faults: &mut Faults) -> Option<Throttle> {
        let key = check_key(self.key.as_ref(), "throttle", faults);
        for (name, given) in [("limit", self.limit.is_some()), ("per", self.per.is_some())] {
            if !given {
                faults.wrong(&format!("/throttle/{name}"), "is required");
            }
        }
        let rate = RateLimit { limit: self.limit?, per: self.per?, burst: self.burst };
        queue::check_rate("/throttle", &rate, faults);
        Some(Throttle { key: key?, rate: rate.rate() })
    }
}

impl CollectRequest<'_> {
    fn check(&self, faults: &mut Faults) -> Option<Collect> {
        let key = check_key(self.key.as_ref(), "collect", faults);
        let items_max = self.max.unwrap_or(limits::COLLECT_ITEMS_DEFAULT);
        if !(1..=limits::COLLECT_ITEMS_MAX).contains(&items_max) {
            faults.wrong("/collect/max", "must be from 1 to 10000");
        }
        let wait = check_wait(self.wait.unwrap_or(Span(WAIT_DEFAULT)), "/collect/wait", faults);
        let most = u32::try_from(limits::VALUE_BYTES_MAX).unwrap_or(u32::MAX);
        let bytes_max = self.max_bytes.unwrap_or(most);
        if !(BYTES_MIN..=most).contains(&bytes_max) {
            faults.wrong("/collect/max_bytes", "must be from 1024 to 1048576");
        }
        Some(Collect { key: key?, items_max, wait, bytes_max })
    }
}

/// Whether an item fits into a payload of its collection at all.
pub(super) fn check_item(rule: &Collect, payload: &Bytes, faults: &mut Faults) {
    let most = item_bytes_max(rule.bytes_max);
    if payload.len() as u64 > most {
        faults
            .wrong("/payload", format!("must be at most {most} bytes, as an item of a collection"));
    }
}
