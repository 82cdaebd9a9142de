//! Requests per key, and failed log-ins per address.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use axum::response::Response;
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::{HeaderName, HeaderValue};
use windlass_shared::model::id::KeyId;

use crate::error::{ApiError, Code};

type ByKey = RateLimiter<
    Option<KeyId>,
    DefaultKeyedStateStore<Option<KeyId>>,
    DefaultClock,
    StateInformationMiddleware,
>;

/// Log-ins per second and address that are looked at where the key is not a known one.
const LOG_INS_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
const LOG_INS_BURST: NonZeroU32 = NonZeroU32::new(100).expect("not zero");
/// Addresses remembered before the quiet ones are dropped.
const ADDRESSES_MAX: usize = 10_000;

/// The limiters of one process.
pub struct Throttle {
    by_key: Option<(ByKey, u32)>,
    log_ins: DefaultKeyedRateLimiter<IpAddr>,
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
        let quota = Quota::per_second(LOG_INS_PER_SECOND).allow_burst(LOG_INS_BURST);
        Self { by_key, log_ins: RateLimiter::keyed(quota) }
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

    /// Counts a log-in with a key that is not known (yet), before anything is looked up for it.
    ///
    /// # Errors
    /// 429 where the address has tried too often. It is not locked out: keys that were good before still work.
    pub fn log_in(&self, address: IpAddr) -> Result<(), ApiError> {
        let address = network(address);
        if self.log_ins.len() > ADDRESSES_MAX {
            self.log_ins.retain_recent();
        }
        self.log_ins.check_key(&address).map_err(|until| {
            let wait = until.wait_time_from(DefaultClock::default().now());
            ApiError::new(Code::RateLimited, "too many failed log-ins from this address")
                .retry_after(wait.max(Duration::from_secs(1)))
        })
    }
}

/// Whom an address belongs to: with IPv6 one caller has at least a /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6([a, b, c, d, 0, 0, 0, 0].into())
        }
        v4 => v4,
    }
}

/// Adds `RateLimit` and `RateLimit-Policy` (IETF draft).
pub fn decorate(response: &mut Response, rate: Rate) {
    let seconds = rate.wait.as_secs() + u64::from(rate.wait.subsec_nanos() > 0);
    let policy = format!("\"key\";q={};w=1", rate.limit);
    let state = format!("\"key\";r={};t={}", rate.remaining, seconds.max(1));
    for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
        let value = HeaderValue::try_from(value).expect("digits and ASCII punctuation");
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
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
