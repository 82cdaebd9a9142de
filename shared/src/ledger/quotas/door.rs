//! The door of one namespace: whether a submission is let in, and what is reckoned. Pure.

use std::time::Duration;

use super::{Charge, Exceeded, Quota, Quotas, Used};
use crate::ledger::RateLimit;
use crate::model::time::Timestamp;

/// While much of a quota is used, its jobs are counted this often: what has ended makes room.
const COUNT_TIGHT: Duration = Duration::from_millis(100);
/// Else this often: what came in past the door is found.
const COUNT_LOOSE: Duration = Duration::from_secs(5);
/// Counting takes at most one part in so many of the time.
const COUNT_SHARE: u32 = 20;
/// Who was refused for what is unfinished comes back after this.
const WAIT: Duration = Duration::from_secs(1);
/// A burst is worth at most this: 100 years, which leaves room to reckon.
const TOLERANCE_MAX_NS: i128 = 3_155_760_000_000_000_000;

/// A row of `quotas`.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::ledger) struct Door {
    pub(in crate::ledger) quotas: Quotas,
    pub(in crate::ledger) tat_ns: i64,
    pub(in crate::ledger) jobs: u64,
    pub(in crate::ledger) bytes: u64,
    pub(in crate::ledger) jobs_in: u64,
    pub(in crate::ledger) bytes_in: u64,
    pub(in crate::ledger) counted_at: Option<Timestamp>,
    pub(in crate::ledger) count_time: Duration,
}

impl Door {
    /// Lets a submission in as a whole, which pays, or refuses it, which leaves everything as it was.
    ///
    /// # Errors
    /// The first quota that has no room for it.
    pub(in crate::ledger) fn admit(
        &mut self,
        now: Timestamp,
        charge: Charge,
    ) -> Result<(), Exceeded> {
        let used = self.used(now);
        for (quota, limit, used, asked) in [
            (Quota::Jobs, self.quotas.max_jobs, used.jobs, charge.jobs),
            (Quota::Bytes, self.quotas.max_bytes, used.bytes, charge.bytes),
        ] {
            let Some(limit) = limit else { continue };
            if used.saturating_add(asked) > limit {
                let wait = (asked <= limit).then_some(WAIT);
                return Err(Exceeded { quota, limit, used, asked, per: None, wait });
            }
        }
        if let Some(rate) = &self.quotas.rate {
            let rate = Rate::of(rate);
            let (start, end) = rate.span(self.tat_ns, now, charge.jobs);
            if end > nanos(now) + rate.tolerance {
                let wait = end - rate.tolerance - nanos(now);
                let wait = Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX));
                return Err(Exceeded {
                    quota: Quota::Rate,
                    limit: rate.burst,
                    used: rate.units(start - nanos(now)).min(rate.burst),
                    asked: charge.jobs,
                    per: Some(Duration::from_nanos(
                        u64::try_from(rate.cost(rate.burst)).unwrap_or(u64::MAX),
                    )),
                    wait: (rate.cost(charge.jobs) <= rate.tolerance).then_some(wait),
                });
            }
        }
        self.pay(now, charge);
        Ok(())
    }

    /// Pays for what was let in.
    pub(in crate::ledger) fn pay(&mut self, now: Timestamp, charge: Charge) {
        self.jobs_in = self.jobs_in.saturating_add(charge.jobs);
        self.bytes_in = self.bytes_in.saturating_add(charge.bytes);
        if let Some(rate) = &self.quotas.rate {
            let (_, end) = Rate::of(rate).span(self.tat_ns, now, charge.jobs);
            self.tat_ns = i64::try_from(end).unwrap_or(i64::MAX);
        }
    }

    /// What is used, where there is a quota on it.
    pub(in crate::ledger) fn used(&self, now: Timestamp) -> Used {
        let of_rate = |rate: &RateLimit| {
            let rate = Rate::of(rate);
            rate.units(rate.span(self.tat_ns, now, 0).0 - nanos(now)).min(rate.burst)
        };
        let of = |limit: Option<u64>, counted: u64, since: u64| {
            limit.map_or(0, |_| counted.saturating_add(since))
        };
        Used {
            rate: self.quotas.rate.as_ref().map_or(0, of_rate),
            jobs: of(self.quotas.max_jobs, self.jobs, self.jobs_in),
            bytes: of(self.quotas.max_bytes, self.bytes, self.bytes_in),
        }
    }

    /// What is used of the rate, as time of another one.
    pub(in crate::ledger) fn tat_under(&self, now: Timestamp, quotas: &Quotas) -> i64 {
        let Some(rate) = &quotas.rate else { return 0 };
        let rate = Rate::of(rate);
        let (_, end) = rate.span(0, now, self.used(now).rate);
        i64::try_from(end.min(nanos(now) + rate.tolerance)).unwrap_or(i64::MAX)
    }

    /// Whether the unfinished jobs should be counted anew.
    pub(in crate::ledger) fn wants_count(&self, now: Timestamp) -> bool {
        if !self.quotas.count_jobs() {
            return false;
        }
        let Quotas { max_jobs, max_bytes, .. } = self.quotas;
        let used = self.used(now);
        let half = |limit: Option<u64>, used: u64| limit.is_some_and(|limit| used >= limit / 2);
        let is_tight = half(max_jobs, used.jobs) || half(max_bytes, used.bytes);
        let rest = if is_tight { COUNT_TIGHT } else { COUNT_LOOSE };
        let rest = rest.max(self.count_time.saturating_mul(COUNT_SHARE));
        // A count of the future is one of a clock that was set back since.
        self.counted_at.is_none_or(|at| at > now || now.since(at) >= rest)
    }
}

/// A rate in nanoseconds (GCRA, the virtual scheduling algorithm of ITU-T I.371).
struct Rate {
    limit: i128,
    per: i128,
    burst: u64,
    tolerance: i128,
}

impl Rate {
    fn of(rate: &RateLimit) -> Self {
        let limit = i128::from(rate.limit.max(1));
        let per = i128::try_from(rate.per.0.as_nanos()).unwrap_or(TOLERANCE_MAX_NS).max(1);
        let burst = u64::from(rate.burst.unwrap_or(rate.limit).max(1));
        let mut rate = Self { limit, per, burst, tolerance: 0 };
        rate.tolerance = rate.cost(burst).min(TOLERANCE_MAX_NS);
        rate
    }

    /// The time that so many units take.
    fn cost(&self, units: u64) -> i128 {
        let (whole, rest) = self.parts(i128::from(units), self.per, self.limit);
        whole + i128::from(rest > 0)
    }

    /// The units that were let in and have not been worked off, begun ones included.
    fn units(&self, time: i128) -> u64 {
        let (whole, rest) = self.parts(time.max(0), self.limit, self.per);
        u64::try_from(whole + i128::from(rest > 0)).unwrap_or(u64::MAX)
    }

    /// `n × by / of`, and what is left over.
    fn parts(&self, n: i128, by: i128, of: i128) -> (i128, i128) {
        let product = n.saturating_mul(by);
        (product / of, product % of)
    }

    /// From when to when so many units take their turn. A row that is further ahead than a burst is of a clock that was set
    /// back since: what it says is not known.
    fn span(&self, tat_ns: i64, now: Timestamp, units: u64) -> (i128, i128) {
        let (tat, now) = (i128::from(tat_ns), nanos(now));
        let start = if tat > now + self.tolerance { now } else { tat.max(now) };
        (start, start + self.cost(units))
    }
}

fn nanos(at: Timestamp) -> i128 {
    i128::from(at.micros()) * 1_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Span;

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn door(quotas: Quotas) -> Door {
        Door {
            quotas,
            tat_ns: 0,
            jobs: 0,
            bytes: 0,
            jobs_in: 0,
            bytes_in: 0,
            counted_at: Some(START),
            count_time: Duration::ZERO,
        }
    }

    fn rated(limit: u32, per: Duration, burst: Option<u32>) -> Door {
        let rate = Some(RateLimit { limit, per: Span(per), burst });
        door(Quotas { rate, ..Quotas::default() })
    }

    fn jobs(jobs: u64) -> Charge {
        Charge { jobs, bytes: 0 }
    }

    /// Goal: whatever comes, in any span of time no more gets in than the bound says, and all of that does where enough
    /// is asked for. Method: submissions of random sizes at random times; every span between two of them is summed up.
    #[test]
    fn no_span_of_time_lets_in_more_than_its_bound() {
        for (limit, per_ms, burst) in [(100, 1_000, None), (7, 60_000, Some(3)), (3, 7, Some(50))] {
            let mut door = rated(limit, Duration::from_millis(per_ms), burst);
            let burst = u64::from(burst.unwrap_or(limit));
            let unit_us = per_ms * 1_000 / u64::from(limit);
            let mut now = START;
            let mut let_in: Vec<(Timestamp, u64)> = Vec::new();
            for _ in 0..600 {
                now = now.plus(Duration::from_micros(rand::random_range(0..=2 * unit_us)));
                let asked = rand::random_range(1..=burst.min(5));
                match door.admit(now, jobs(asked)) {
                    Ok(()) => let_in.push((now, asked)),
                    Err(refused) => {
                        // What it says is when the same is let in, and not before.
                        let at = now.plus(refused.wait.unwrap());
                        let earlier = at.minus(Duration::from_micros(2));
                        assert!(door.clone().admit(earlier, jobs(asked)).is_err() || earlier < now);
                        let later = at.plus(Duration::from_micros(1));
                        assert!(door.clone().admit(later, jobs(asked)).is_ok());
                    }
                }
            }
            for (n, (from, _)) in let_in.iter().enumerate() {
                let mut sum = 0;
                for (to, units) in &let_in[n..] {
                    sum += units;
                    let span = to.since(*from).as_micros();
                    let refilled = span * u128::from(limit) / u128::from(per_ms * 1_000);
                    assert!(u128::from(sum) <= refilled + u128::from(burst) + 1, "{limit} {span}");
                }
            }
            let sum: u64 = let_in.iter().map(|(_, units)| units).sum();
            let span = now.since(START).as_secs_f64() * 1_000.0 / per_ms as f64;
            assert!(sum as f64 >= span * f64::from(limit) * 0.6, "{sum} let in of {span} periods");
        }
    }

    #[test]
    fn a_refusal_says_what_is_used_and_changes_nothing() {
        let mut door = rated(10, Duration::from_secs(1), Some(20));
        door.admit(START, jobs(15)).unwrap();
        let before = door.clone();
        let refused = door.admit(START, jobs(6)).unwrap_err();
        assert_eq!(door, before);
        assert_eq!((refused.quota, refused.limit, refused.used), (Quota::Rate, 20, 15));
        assert_eq!(refused.per, Some(Duration::from_secs(2)), "a burst comes back in 2 s");
        assert_eq!(refused.wait, Some(Duration::from_millis(100)));
        assert_eq!(door.admit(START, jobs(21)).unwrap_err().wait, None, "more than there ever is");
        door.admit(START.plus(Duration::from_millis(100)), jobs(6)).unwrap();
        assert_eq!(door.used(START.plus(Duration::from_secs(60))).rate, 0);
    }

    #[test]
    fn what_is_unfinished_is_what_was_counted_and_what_came_since() {
        let quotas = Quotas { rate: None, max_jobs: Some(10), max_bytes: Some(100) };
        let mut door = Door { jobs: 4, bytes: 40, ..door(quotas) };
        door.admit(START, Charge { jobs: 5, bytes: 5 }).unwrap();
        let refused = door.admit(START, jobs(2)).unwrap_err();
        assert_eq!((refused.quota, refused.used, refused.asked), (Quota::Jobs, 9, 2));
        assert_eq!(refused.wait, Some(WAIT));
        let refused = door.admit(START, Charge { jobs: 1, bytes: 56 }).unwrap_err();
        assert_eq!((refused.quota, refused.limit, refused.used), (Quota::Bytes, 100, 45));
        assert_eq!(door.admit(START, jobs(11)).unwrap_err().wait, None);
        door.admit(START, Charge { jobs: 1, bytes: 55 }).unwrap();
    }

    #[test]
    fn jobs_are_counted_often_only_where_it_matters() {
        let quotas = Quotas { max_jobs: Some(10), ..Quotas::default() };
        let mut door = door(quotas);
        let after = |ms| START.plus(Duration::from_millis(ms));
        assert!(!door.wants_count(after(4_900)) && door.wants_count(after(5_000)));
        door.pay(START, jobs(5));
        assert!(!door.wants_count(after(90)) && door.wants_count(after(100)));
        door.count_time = Duration::from_millis(200);
        assert!(!door.wants_count(after(3_900)) && door.wants_count(after(4_000)));
        assert!(door.wants_count(START.minus(Duration::from_secs(1))), "the clock was set back");
        assert!(!rated(1, Duration::from_secs(1), None).wants_count(after(9_999)));
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_nobody_out() {
        let mut door = rated(10, Duration::from_secs(1), None);
        door.admit(START.plus(Duration::from_secs(86_400)), jobs(10)).unwrap();
        door.admit(START, jobs(10)).unwrap();
        assert_eq!(door.admit(START, jobs(1)).unwrap_err().wait, Some(Duration::from_millis(100)));
    }

    /// Goal: whoever changes a rate gives nothing back, and keeps nobody out for longer than the new one does.
    #[test]
    fn what_was_used_counts_under_another_rate() {
        let mut door = rated(10, Duration::from_secs(3_600), Some(8));
        door.admit(START, jobs(5)).unwrap();
        let change = |door: &mut Door, to: Door| {
            door.tat_ns = door.tat_under(START, &to.quotas);
            door.quotas = to.quotas;
        };
        change(&mut door, rated(10, WAIT, Some(6)));
        assert_eq!(door.used(START).rate, 5);
        assert_eq!(door.admit(START, jobs(2)).unwrap_err().wait, Some(Duration::from_millis(100)));
        change(&mut door, rated(1, WAIT, Some(3)));
        assert_eq!((door.used(START).rate, door.used(START.plus(WAIT)).rate), (3, 2));
        change(&mut door, super::tests::door(Quotas::default()));
        assert_eq!(door.used(START).rate, 0);
    }

    #[test]
    fn the_largest_and_smallest_rates_can_be_reckoned_with() {
        let mut slow = rated(1, Duration::from_secs(86_400), Some(1_000_000));
        slow.admit(START, jobs(30_000)).unwrap();
        assert_eq!(slow.used(START).rate, 30_000);
        let mut fast = rated(1_000_000, Duration::from_millis(1), None);
        fast.admit(START, jobs(1_000_000)).unwrap();
        assert!(fast.admit(START, jobs(1)).is_err());
    }
}
