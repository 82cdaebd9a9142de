//! The ledger that the worker works for: that of the API it reports to.
//!
//! An engine may hold another ledger's jobs: of one that was replaced by a backup, or of an installation that shares the
//! store by mistake. A worker takes none of those ([`ClaimState::Foreign`](windlass_shared::engine::ClaimState)), and
//! gives up what it still has of a ledger that is not its API's any more: nothing that it says of that would be taken
//! (`wrong_ledger`). One answer is not enough for this: while a fleet is changed over, replicas of two ledgers may answer
//! at one address. Either the store has changed hands too, or nobody has named the ledger for a while.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use windlass_shared::model::id::LedgerId;

/// A worker that starts waits so long for its first report to be answered before it claims. An API that is away keeps
/// no worker from working.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(1);
/// The API is not asked more often for this reason.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// A ledger that no answer has named for so long, while answers named another, is not the API's any more: several reports.
const UNNAMED_MAX: Duration = Duration::from_secs(25);

/// What is known of it.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    ledger: Option<LedgerId>,
    /// The first report is over, answered or not.
    tried: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Home {
    known: watch::Sender<Known>,
    /// Ledgers of before, and since when answers name others only.
    former: Mutex<HashMap<LedgerId, Instant>>,
    asked: Notify,
    asked_at: Mutex<Option<Instant>>,
}

impl Home {
    /// Which one; `None`: no API has said.
    pub(crate) fn ledger(&self) -> Option<LedgerId> {
        self.known.borrow().ledger
    }

    /// Notes the end of a report, and the ledger that its answer named. The ledger of before, if it was another.
    pub(crate) fn note(&self, ledger: Option<LedgerId>) -> Option<LedgerId> {
        let mut before = None;
        self.known.send_modify(|known| {
            known.tried = true;
            if ledger.is_some() {
                before = std::mem::replace(&mut known.ledger, ledger);
            }
        });
        let before = before.filter(|before| Some(*before) != ledger);
        let mut former = self.former.lock().expect("nobody panics while holding it");
        if let Some(ledger) = ledger {
            former.remove(&ledger);
        }
        if let Some(before) = before {
            former.insert(before, Instant::now());
        }
        before
    }

    /// Whether what is under way of `ledger`, in a shard that now holds jobs of `holds`, is to be given up.
    pub(crate) fn disowns(&self, ledger: LedgerId, holds: Option<LedgerId>) -> bool {
        let Some(own) = self.ledger().filter(|own| *own != ledger) else { return false };
        let former = self.former.lock().expect("nobody panics while holding it");
        holds == Some(own) || former.get(&ledger).is_some_and(|at| at.elapsed() >= UNNAMED_MAX)
    }

    /// Waits for the first report to be over, a moment at most.
    pub(crate) async fn tried(&self) {
        let mut known = self.known.subscribe();
        let tried = known.wait_for(|known| known.tried);
        let _ = tokio::time::timeout(FIRST_ANSWER_MAX, tried).await;
    }

    /// Something is of another ledger: the API is to be asked whether it is one's own that has changed. Whether it was
    /// not asked a moment ago.
    pub(crate) fn ask(&self) -> bool {
        let mut asked_at = self.asked_at.lock().expect("nobody panics while holding it");
        if asked_at.is_some_and(|at| at.elapsed() < ASK_EVERY) {
            return false;
        }
        *asked_at = Some(Instant::now());
        self.asked.notify_one();
        true
    }

    /// Waits until it is to be asked. May be dropped at any time; one listener.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// As if so much time had passed since answers named others only.
    #[cfg(test)]
    pub(crate) fn age(&self, time: Duration) {
        let mut former = self.former.lock().unwrap();
        former.values_mut().for_each(|at| *at = at.checked_sub(time).unwrap());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: LedgerId = LedgerId::from_bytes([1; 16]);
    const TWO: LedgerId = LedgerId::from_bytes([2; 16]);

    #[tokio::test]
    async fn another_ledger_is_news_and_no_answer_is_none() {
        let home = Home::default();
        let moment = |ms| Duration::from_millis(ms);
        let tried = tokio::time::timeout(moment(20), home.tried());
        assert!(tried.await.is_err(), "the first report is waited for");
        assert_eq!((home.note(None), home.ledger()), (None, None));
        let tried = tokio::time::timeout(moment(500), home.tried());
        assert!(
            tried.await.is_ok(),
            "it is over, and an API that is away keeps nobody from working"
        );
        assert_eq!((home.note(Some(ONE)), home.ledger()), (None, Some(ONE)));
        assert_eq!((home.note(Some(ONE)), home.note(None)), (None, None));
        assert_eq!((home.note(Some(TWO)), home.ledger()), (Some(ONE), Some(TWO)));
    }

    #[test]
    fn a_ledger_is_disowned_when_the_store_is_anothers_too_or_nobody_names_it_for_long() {
        let home = Home::default();
        assert!(!home.disowns(ONE, Some(TWO)), "nobody has said whose jobs it takes");
        home.note(Some(ONE));
        assert!(!home.disowns(ONE, Some(TWO)), "the store alone does not say it");
        home.note(Some(TWO));
        assert!(!home.disowns(ONE, Some(ONE)) && !home.disowns(ONE, None));
        assert!(home.disowns(ONE, Some(TWO)), "the store says it too");
        assert!(!home.disowns(TWO, Some(ONE)));
        // Replicas of both answer.
        for _ in 0..3 {
            home.age(UNNAMED_MAX - Duration::from_secs(1));
            assert!(!home.disowns(ONE, None));
            home.note(Some(ONE));
            home.note(Some(TWO));
        }
        home.age(UNNAMED_MAX);
        assert!(home.disowns(ONE, None));
        // A report that fails says nothing.
        home.note(None);
        assert!(home.disowns(ONE, None));
        home.note(Some(ONE));
        assert!(!home.disowns(ONE, None));
    }

    #[tokio::test]
    async fn the_api_is_not_asked_all_the_time() {
        let home = Home::default();
        assert_eq!((home.ask(), home.ask()), (true, false));
        home.asked().await;
    }
}
