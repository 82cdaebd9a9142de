//! Requests per key, and failed log-ins per address.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use axum::response::Response;
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use http::{HeaderMap, HeaderName, HeaderValue};
use windlass_shared::ledger::quotas::Exceeded;
use windlass_shared::model::id::KeyId;

use crate::error::{ApiError, Code};

mod log_ins;

use log_ins::LogIns;

type ByKey = RateLimiter<
    Option<KeyId>,
    DefaultKeyedStateStore<Option<KeyId>>,
    DefaultClock,
    StateInformationMiddleware,
>;

/// The limiters of one process.
pub struct Throttle {
    by_key: Option<(ByKey, u32)>,
    log_ins: LogIns,
}

/// How much of its rate a key has left.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    limit: u32,
    remaining: u32,
    /// Until a request is let through again; zero while some remain.
    wait: Duration,
}

impl Throttle {
    /// `per_second` requests of each key are let through, and as many at once; 0 is no limit.
    pub fn new(per_second: u32) -> Self {
        let by_key = NonZeroU32::new(per_second).map(|limit| {
            let quota = Quota::per_second(limit).allow_burst(limit);
            (RateLimiter::keyed(quota).with_middleware(), per_second)
        });
        Self { by_key, log_ins: LogIns::default() }
    }

    /// Takes one request from a key's rate. Keys without a limit get `None`.
    ///
    /// # Errors
    /// 429 `rate_limited`.
    pub fn check(&self, key: Option<KeyId>) -> Result<Option<Rate>, (ApiError, Rate)> {
        let Some((limiter, limit)) = &self.by_key else {
            return Ok(None);
        };
        match limiter.check_key(&key) {
            Ok(state) => Ok(Some(Rate {
                limit: *limit,
                remaining: state.remaining_burst_capacity(),
                wait: Duration::ZERO,
            })),
            Err(until) => {
                let wait = until.wait_time_from(DefaultClock::default().now());
                let error = ApiError::new(Code::RateLimited, "the key's rate is used up")
                    .retry_after(wait.max(Duration::from_secs(1)));
                Err((error, Rate { limit: *limit, remaining: 0, wait }))
            }
        }
    }

    /// Whether an address may try to log in with a key that is not known (yet). Counts nothing.
    ///
    /// # Errors
    /// 429 where the address has tried too often. It is not locked out: keys that were good before still work.
    pub fn may_log_in(&self, address: IpAddr) -> Result<(), ApiError> {
        self.log_ins.may(address, Instant::now()).map_err(too_often)
    }

    /// Counts a log-in with a key that is not known (yet), before anything is looked up for it.
    ///
    /// # Errors
    /// As [`Self::may_log_in`].
    pub fn log_in(&self, address: IpAddr) -> Result<(), ApiError> {
        self.log_ins.spend(address, Instant::now()).map_err(too_often)
    }

    /// Takes the count of one log-in back: the key was a known one.
    pub fn refund(&self, address: IpAddr) {
        self.log_ins.refund(address);
    }
}

fn too_often(wait: Duration) -> ApiError {
    ApiError::new(Code::RateLimited, "too many failed log-ins from this address")
        .retry_after(wait.max(Duration::from_secs(1)))
}

/// Adds `RateLimit` and `RateLimit-Policy` (IETF draft) for a key's rate, beside what is there of a quota.
pub fn decorate(response: &mut Response, rate: Rate) {
    let policy = format!("\"key\";q={};w=1", rate.limit);
    let state = format!("\"key\";r={};t={}", rate.remaining, seconds(rate.wait));
    add(response.headers_mut(), policy, state);
}

/// The same for a quota of the namespace that has no room.
pub fn show_quota(headers: &mut HeaderMap, exceeded: &Exceeded) {
    let (name, limit) = (exceeded.quota.as_str(), exceeded.limit);
    let window = exceeded.per.map_or_else(String::new, |per| format!(";w={}", seconds(per)));
    let reset = exceeded.wait.map_or_else(String::new, |wait| format!(";t={}", seconds(wait)));
    let left = limit.saturating_sub(exceeded.used);
    add(headers, format!("\"{name}\";q={limit}{window}"), format!("\"{name}\";r={left}{reset}"));
}

fn add(headers: &mut HeaderMap, policy: String, state: String) {
    for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
        let value = HeaderValue::try_from(value).expect("digits and ASCII punctuation");
        headers.append(HeaderName::from_static(name), value);
    }
}

/// Whole seconds, at least one.
fn seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_does_not_use_up_anothers_rate() {
        let throttle = Throttle::new(2);
        let (a, b) = (Some(KeyId::generate()), Some(KeyId::generate()));
        assert_eq!(throttle.check(a).unwrap().unwrap().remaining, 1);
        assert!(throttle.check(a).is_ok());
        let (error, rate) = throttle.check(a).unwrap_err();
        assert_eq!((error.code(), rate.remaining), (Code::RateLimited, 0));
        assert!(rate.wait > Duration::ZERO);
        assert!(throttle.check(b).is_ok());
        assert!(Throttle::new(0).check(a).unwrap().is_none());
    }

    #[test]
    fn log_ins_are_counted_by_network() {
        let throttle = Throttle::new(0);
        let log_in = |address: &str| throttle.log_in(address.parse().unwrap());
        let refused = (0..200).filter(|_| log_in("10.0.0.1").is_err()).count();
        assert!(refused >= 80, "{refused}");
        assert!(log_in("::ffff:10.0.0.1").is_err());
        assert!(log_in("10.0.0.2").is_ok());
        let refused = (0..200).filter(|i| log_in(&format!("2001:db8::{i:x}")).is_err()).count();
        assert!(refused >= 80, "{refused}");
        assert!(log_in("2001:db8:0:1::1").is_ok());
    }
}
