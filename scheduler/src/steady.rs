//! Whether the ledger's clock may be believed by those who delete by it.
//!
//! A host that boots with a wrong date, or somebody who sets it, makes everything look old until that is mended, and what
//! is deleted meanwhile is gone. So nothing is deleted before the ledger's clock and this process's own, which nobody
//! sets, have run alike for a while, and after a jump it takes as long again. A clock that was wrong before this process
//! looked first, and stays wrong for that long, is believed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use windlass_shared::ledger::{Ledger, LedgerError};
use windlass_shared::model::time::Timestamp;

/// Two clocks that differ by more than this after having agreed have not run alike: one has jumped, or the host slept.
const APART_MAX: Duration = Duration::from_secs(60);

/// The ledger's clock, and when this process read it by its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) ledger: Timestamp,
    pub(crate) own: Instant,
}

impl Reading {
    /// As it is now.
    pub(crate) async fn of(ledger: &Ledger) -> Result<Self, LedgerError> {
        Ok(Self { ledger: ledger.now().await?, own: Instant::now() })
    }

    /// How far the clocks have come apart since `before`.
    fn apart(self, before: Self) -> Duration {
        let own = i64::try_from((self.own - before.own).as_micros()).unwrap_or(i64::MAX);
        let ran = self.ledger.micros().saturating_sub(before.ledger.micros());
        Duration::from_micros(ran.abs_diff(own))
    }
}

/// What the clocks have done so far. One for all that delete; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Steady {
    wait: Duration,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// At most `wait` old, as long as somebody reads.
    base: Option<Reading>,
    is_trusted: bool,
}

impl Steady {
    /// Trusts a clock that has run evenly for `wait`; zero: any.
    pub(crate) fn after(wait: Duration) -> Self {
        Self { wait, seen: Arc::default() }
    }

    /// Whether what this reading says is old may be deleted. Readings that come late, or seldom, do no harm.
    pub(crate) fn trusts(&self, now: Reading) -> bool {
        if self.wait.is_zero() {
            return true;
        }
        let mut seen = self.seen.lock().expect("no holder of this lock panics");
        let Some(base) = seen.base else {
            seen.base = Some(now);
            return false;
        };
        // Of two that read at once the slower may come with the earlier reading.
        if now.own < base.own {
            return seen.is_trusted && now.apart(base) <= APART_MAX;
        }
        let apart = now.apart(base);
        if apart > APART_MAX {
            tracing::warn!(
                apart_s = apart.as_secs(),
                wait_s = self.wait.as_secs(),
                "the ledger's clock has jumped; nothing is deleted until it has run evenly for a while"
            );
            *seen = Seen { base: Some(now), is_trusted: false };
        } else if now.own - base.own >= self.wait {
            *seen = Seen { base: Some(now), is_trusted: true };
        }
        seen.is_trusted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(600);

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Readings of a ledger's clock that is `ahead` of an even one, `own` seconds after the first.
    struct Clocks(Instant);

    impl Clocks {
        fn at(&self, own: u64, ahead: i64) -> Reading {
            let ledger = Timestamp::from_millis(1_800_000_000_000).plus(secs(own));
            let ledger = Timestamp::from_micros(ledger.micros() + ahead * 1_000_000);
            Reading { ledger, own: self.0 + secs(own) }
        }
    }

    #[test]
    fn an_even_clock_is_trusted_after_a_while_and_stays_so() {
        let (steady, clocks) = (Steady::after(WAIT), Clocks(Instant::now()));
        for n in (0..600).step_by(10) {
            assert!(!steady.trusts(clocks.at(n, 0)), "{n}");
        }
        // Not even: it gains a second in a minute, as one that is being set right slowly.
        for n in (600..100_000).step_by(10) {
            assert!(steady.trusts(clocks.at(n, i64::try_from(n / 60 - 10).unwrap())), "{n}");
        }
        assert!(Steady::after(Duration::ZERO).trusts(clocks.at(0, 1_000_000)));
    }

    /// Goal: no reading of a clock that has jumped deletes anything, in whichever direction, nor do those after it was
    /// set right, until it has run evenly for the whole time again.
    #[test]
    fn a_jump_takes_the_whole_time_again() {
        for jump in [30 * 86_400, 61, -61, -86_400] {
            let (steady, clocks) = (Steady::after(WAIT), Clocks(Instant::now()));
            assert!(!steady.trusts(clocks.at(0, 0)) && steady.trusts(clocks.at(600, 0)));
            assert!(!steady.trusts(clocks.at(610, jump)), "{jump}");
            assert!(!steady.trusts(clocks.at(1_200, jump)), "{jump}");
            assert!(!steady.trusts(clocks.at(1_205, 0)), "set right: {jump}");
            for n in (1_210..1_805).step_by(10) {
                assert!(!steady.trusts(clocks.at(n, 0)), "{jump} {n}");
            }
            assert!(steady.trusts(clocks.at(1_805, 0)), "{jump}");
            // What stays as it was set is believed in the end.
            assert!(!steady.trusts(clocks.at(1_810, jump)), "{jump}");
            assert!(steady.trusts(clocks.at(2_410, jump)), "{jump}");
        }
    }

    /// Goal: a first reading of a clock that is wrong is not believed when it has been set right by the next.
    #[test]
    fn two_readings_alone_are_not_enough_where_they_differ() {
        let (steady, clocks) = (Steady::after(WAIT), Clocks(Instant::now()));
        assert!(!steady.trusts(clocks.at(0, 86_400)));
        assert!(!steady.trusts(clocks.at(5_000, 0)));
        assert!(steady.trusts(clocks.at(5_600, 0)));
        // A late one of before.
        assert!(steady.trusts(clocks.at(5_599, 0)));
        assert!(!steady.trusts(clocks.at(5_599, 86_400)));
    }
}
