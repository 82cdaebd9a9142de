//! Log-ins with keys that are not known (yet), counted by address. Unlike the requests of keys they can be
//! taken back.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Log-ins per second and address that are looked at where the key is not a known one.
const PER_SECOND: f64 = 10.0;
/// As many at once.
const BURST: f64 = 100.0;
/// Addresses remembered before the quiet ones are dropped, and if there are none, all.
const ADDRESSES_MAX: usize = 10_000;

/// What an address has left.
#[derive(Clone, Copy)]
struct Left {
    tries: f64,
    at: Instant,
}

impl Left {
    fn now(self, now: Instant) -> f64 {
        let grown = now.saturating_duration_since(self.at).as_secs_f64() * PER_SECOND;
        (self.tries + grown).min(BURST)
    }
}

/// The counts of one process. Bounded; an address that is not in it has all its tries.
#[derive(Default)]
pub(super) struct LogIns {
    by_address: Mutex<HashMap<IpAddr, Left>>,
}

impl LogIns {
    /// Whether one is left; otherwise after which time.
    pub(super) fn may(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let left = self.by_address().get(&network(address)).map_or(BURST, |left| left.now(now));
        enough(left)
    }

    /// Takes one, if it is left; otherwise after which time.
    pub(super) fn spend(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut by_address = self.by_address();
        if by_address.len() >= ADDRESSES_MAX {
            by_address.retain(|_, left| left.now(now) < BURST);
            if by_address.len() >= ADDRESSES_MAX {
                by_address.clear();
            }
        }
        let left = by_address.entry(network(address)).or_insert(Left { tries: BURST, at: now });
        let tries = left.now(now);
        enough(tries)?;
        *left = Left { tries: tries - 1.0, at: now };
        Ok(())
    }

    /// Gives one back.
    pub(super) fn refund(&self, address: IpAddr) {
        if let Some(left) = self.by_address().get_mut(&network(address)) {
            left.tries = (left.tries + 1.0).min(BURST);
        }
    }

    fn by_address(&self) -> MutexGuard<'_, HashMap<IpAddr, Left>> {
        self.by_address.lock().expect("nothing panics while holding it")
    }
}

fn enough(tries: f64) -> Result<(), Duration> {
    if tries >= 1.0 { Ok(()) } else { Err(Duration::from_secs_f64((1.0 - tries) / PER_SECOND)) }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn address(i: u32) -> IpAddr {
        std::net::Ipv4Addr::from(i).into()
    }

    #[test]
    fn tries_are_used_up_come_back_with_time_and_are_given_back() {
        let (log_ins, now, me) = (LogIns::default(), Instant::now(), address(1));
        assert_eq!((0..150).filter(|_| log_ins.spend(me, now).is_ok()).count(), 100);
        let wait = log_ins.may(me, now).unwrap_err();
        assert!(wait <= Duration::from_millis(100) && wait > Duration::from_millis(90), "{wait:?}");
        log_ins.refund(me);
        assert!(log_ins.may(me, now).is_ok() && log_ins.spend(me, now).is_ok());
        assert!(log_ins.spend(me, now).is_err());
        let later = now + Duration::from_secs(2);
        assert_eq!((0..150).filter(|_| log_ins.spend(me, later).is_ok()).count(), 20);
        (0..500).for_each(|_| log_ins.refund(me));
        assert_eq!((0..150).filter(|_| log_ins.spend(me, later).is_ok()).count(), 100);
    }

    #[test]
    fn addresses_are_remembered_in_bounds() {
        let (log_ins, now) = (LogIns::default(), Instant::now());
        for i in 0..u32::try_from(2 * ADDRESSES_MAX).unwrap() {
            log_ins.spend(address(i), now).unwrap();
        }
        assert!(log_ins.by_address().len() <= ADDRESSES_MAX);
    }
}
