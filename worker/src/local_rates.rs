//! The worker's own rates: how many jobs of a kind it starts per time, whatever the queues allow.
//!
//! A kind with a rate is claimed apart from the others, as if by a worker of its own that serves nothing else: never more
//! than there are permits for, so that nothing has to be handed back, and not at all while there is none. The permits of a
//! kind are those of the whole worker, and its queues take turns for them ([`Rotation::hold`](crate::rotation::Rotation)).

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::Counter;
use tokio::time::Instant;
use windlass_shared::ledger::RateLimit;
use windlass_shared::model::name::Kind;

/// A kind without a permit is left alone for at least this long, if its burst is long enough not to be lost meanwhile, so
/// that claims for a fast kind are for several jobs.
const HOLD_MIN: Duration = Duration::from_millis(10);

/// What a worker claims apart. Every queue of it has a turn for each part: those of the first queue come first.
pub(crate) struct LocalRates {
    parts: Vec<Part>,
}

/// Kinds that are claimed together; never none, which would mean any.
struct Part {
    kinds: Vec<Kind>,
    bucket: Option<Bucket>,
}

/// The permits of one kind: GCRA.
struct Bucket {
    interval: Duration,
    burst: u32,
    /// When the burst will be whole again.
    whole_at: Instant,
    holds: Counter,
}

impl LocalRates {
    /// Of a worker that serves these kinds. Bursts are used up: a worker that starts anew is no way around a rate.
    pub(crate) fn new(kinds: Vec<Kind>, rates: &BTreeMap<Kind, RateLimit>, now: Instant) -> Self {
        let (limited, free): (Vec<Kind>, Vec<Kind>) =
            kinds.into_iter().partition(|kind| rates.contains_key(kind));
        let free = (!free.is_empty()).then_some(Part { kinds: free, bucket: None });
        let limited = limited.into_iter().map(|kind| {
            let bucket = Bucket::new(&kind, &rates[&kind], now);
            Part { kinds: vec![kind], bucket: Some(bucket) }
        });
        Self { parts: free.into_iter().chain(limited).collect() }
    }

    /// Turns of each queue.
    pub(crate) fn turns(&self) -> usize {
        self.parts.len()
    }

    /// What to claim in this turn.
    pub(crate) fn kinds(&self, turn: usize) -> &[Kind] {
        &self.parts[turn % self.parts.len()].kinds
    }

    /// How many jobs may start in this turn now.
    pub(crate) fn permits(&self, turn: usize, now: Instant) -> usize {
        let bucket = self.parts[turn % self.parts.len()].bucket.as_ref();
        bucket.map_or(usize::MAX, |bucket| bucket.permits(now))
    }

    /// When this turn is worth asking for again; `None`: now.
    pub(crate) fn held_until(&self, turn: usize, now: Instant) -> Option<Instant> {
        self.parts[turn % self.parts.len()].bucket.as_ref()?.held_until(now)
    }

    /// So many jobs were started, the last of them just now.
    pub(crate) fn take(&mut self, turn: usize, jobs: usize, now: Instant) {
        let part = turn % self.parts.len();
        if let Some(bucket) = &mut self.parts[part].bucket {
            bucket.take(jobs, now);
        }
    }
}

impl Bucket {
    fn new(kind: &Kind, limit: &RateLimit, now: Instant) -> Self {
        let rate = limit.rate();
        let (interval, burst) = (Duration::from_micros(rate.interval_us), rate.burst);
        let kind = kind.to_string();
        let holds = metrics::counter!("windlass_worker_rate_holds_total", "kind" => kind);
        Self { interval, burst, whole_at: now + interval * burst, holds }
    }

    fn permits(&self, now: Instant) -> usize {
        let used = self.whole_at.saturating_duration_since(now);
        let free = (self.interval * self.burst).saturating_sub(used);
        usize::try_from(free.as_nanos() / self.interval.as_nanos()).expect("a burst has 32 bits")
    }

    fn held_until(&self, now: Instant) -> Option<Instant> {
        if self.permits(now) > 0 {
            return None;
        }
        self.holds.increment(1);
        let used = self.whole_at.saturating_duration_since(now);
        let next = used.saturating_sub(self.interval * (self.burst - 1));
        Some(now + next.max(HOLD_MIN.min(self.interval * self.burst / 2)))
    }

    fn take(&mut self, jobs: usize, now: Instant) {
        let jobs = u32::try_from(jobs).expect("a claim is small");
        self.whole_at = self.whole_at.max(now) + self.interval * jobs;
    }
}

#[cfg(test)]
mod tests {
    use windlass_shared::model::time::Span;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limit(limit: u32, burst: Option<u32>) -> RateLimit {
        RateLimit { limit, per: Span(SECOND), burst }
    }

    fn rates(kinds: &[&str], limits: &[(&str, RateLimit)], now: Instant) -> LocalRates {
        let kinds = kinds.iter().map(|kind| kind.parse().unwrap()).collect();
        let limits = limits.iter().map(|(kind, limit)| (kind.parse().unwrap(), limit.clone()));
        LocalRates::new(kinds, &limits.collect(), now)
    }

    /// Starts whatever may start whenever it may, as a claimer over a backlog does; the times of the starts.
    fn starts(
        rates: &mut LocalRates,
        from: Instant,
        within: Duration,
        most: usize,
    ) -> Vec<Duration> {
        let (mut now, mut starts) = (from, Vec::new());
        while now < from + within {
            match rates.held_until(0, now) {
                Some(until) => {
                    assert!(until > now);
                    now = until;
                }
                None => {
                    let jobs = rates.permits(0, now).min(most);
                    rates.take(0, jobs, now);
                    starts.extend(vec![now - from; jobs]);
                    assert!(starts.len() < 1_000_000, "without an end");
                }
            }
        }
        starts
    }

    /// Goal: in no span of time more start than the rate and its burst allow, and over a backlog no fewer than the rate.
    #[test]
    fn a_backlog_is_started_at_the_rate() {
        for (per_second, burst) in
            [(50, None), (50, Some(1)), (3, None), (2_000, None), (2_000, Some(1))]
        {
            let now = Instant::now();
            let mut rates = rates(&["a"], &[("a", limit(per_second, burst))], now);
            let starts = starts(&mut rates, now, 10 * SECOND, 16);
            let wanted = 10 * per_second as usize;
            assert!(starts.len() <= wanted, "{} at {per_second}/s", starts.len());
            assert!(starts.len() + 1 + wanted / 50 >= wanted, "{} at {per_second}/s", starts.len());
            // Nothing was idle, so that no burst was saved.
            let within = |(at, from): (usize, &Duration)| {
                starts.partition_point(|other| *other < *from + SECOND) - at
            };
            let most = starts.iter().enumerate().map(within).max().unwrap();
            assert!(
                most <= (per_second + 1 + per_second / 50) as usize,
                "{most} at {per_second}/s"
            );
        }
    }

    #[test]
    fn what_was_idle_has_a_burst_and_no_more() {
        let now = Instant::now();
        let mut rates = rates(&["a"], &[("a", limit(50, Some(5)))], now);
        assert_eq!(rates.permits(0, now), 0, "a start is no way around a rate");
        let later = now + 100 * SECOND;
        assert_eq!(rates.permits(0, later), 5);
        rates.take(0, 5, later);
        assert_eq!(rates.permits(0, later), 0);
        assert_eq!(rates.held_until(0, later), Some(later + SECOND / 50));
        // Started late: the time until then is not made up for.
        rates.take(0, 1, later + 10 * SECOND);
        assert_eq!(rates.permits(0, later + 10 * SECOND), 4);
    }

    /// Goal: kinds with a rate are apart, and no part is without kinds, which would claim any.
    #[test]
    fn every_kind_is_claimed_in_one_part() {
        let now = Instant::now();
        let limits = [("b", limit(1, None)), ("c", limit(1, None))];
        let shown = |rates: &LocalRates| -> Vec<String> {
            (0..rates.turns())
                .map(|turn| {
                    rates.kinds(turn).iter().map(Kind::as_str).collect::<Vec<_>>().join(" ")
                })
                .collect()
        };
        assert_eq!(shown(&rates(&["a", "b", "c", "d"], &limits, now)), ["a d", "b", "c"]);
        assert_eq!(shown(&rates(&["b", "c"], &limits, now)), ["b", "c"]);
        let free = rates(&["a", "d"], &[], now);
        assert_eq!(shown(&free), ["a d"]);
        assert_eq!((free.permits(7, now), free.held_until(7, now)), (usize::MAX, None));
    }

    #[test]
    fn the_queues_share_the_permits_of_a_kind() {
        let now = Instant::now();
        let mut rates = rates(&["a", "b"], &[("b", limit(10, None))], now);
        let later = now + SECOND;
        assert_eq!((rates.permits(1, later), rates.permits(3, later)), (10, 10));
        rates.take(1, 10, later);
        assert_eq!((rates.permits(3, later), rates.permits(2, later)), (0, usize::MAX));
    }
}
