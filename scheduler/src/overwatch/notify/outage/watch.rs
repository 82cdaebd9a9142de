//! When an outage begins and ends, as one process sees it. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use windlass_shared::ledger::Epoch;
use windlass_shared::model::alert::catalogue::{LEADER_ABSENT, LEDGER_AWAY};
use windlass_shared::model::alert::{Alert, AlertKey, AlertState, EndReason, Severity};
use windlass_shared::model::id::{AlertId, LedgerId};
use windlass_shared::model::time::Timestamp;

use crate::overwatch::notify::AGAIN_MIN;

/// What a process has seen.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sight {
    /// The ledger did not answer.
    Away,
    /// It did, and nobody has ever looked at the installation.
    Unlooked,
    /// It did, and knows of a look.
    Looked { epoch: Epoch, at: Timestamp, is_fresh: bool },
}

/// How long something must be so until it counts, and the first pause after a send that failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Longer than a change of leader takes, and than a database's restart mostly does. By then a leader that has no
    /// answer has lost its lead: the next one has another epoch, so that the next outage has another id.
    pub(super) hold: Duration,
    pub(super) clear: Duration,
    pub(super) again: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        let (hold, clear) = (Duration::from_secs(60), Duration::from_secs(30));
        Self { hold, clear, again: AGAIN_MIN }
    }
}

/// What one process makes of what it sees.
pub(super) struct Watch {
    ledger: LedgerId,
    scheduler: String,
    bounds: Bounds,
    /// Of the latest look that is known.
    epoch: Epoch,
    looked_at: Timestamp,
    /// Times that the ledger was away since this epoch began: a leader that comes back in time keeps its epoch.
    aways: u64,
    away: Condition,
    absent: Condition,
    alerts: Vec<Alert>,
}

/// Since when something is so, and since when it is not.
#[derive(Debug, Default)]
struct Condition {
    bad: Option<(Instant, Timestamp)>,
    well: Option<Instant>,
    open: Option<AlertId>,
}

impl Watch {
    pub(super) fn new(ledger: LedgerId, scheduler: String, bounds: Bounds) -> Self {
        Self {
            ledger,
            scheduler,
            bounds,
            epoch: Epoch(0),
            looked_at: Timestamp::default(),
            aways: 0,
            away: Condition::default(),
            absent: Condition::default(),
            alerts: Vec::new(),
        }
    }

    /// Outages that go on, and those that are over.
    pub(super) fn alerts(&self) -> &[Alert] {
        &self.alerts
    }

    /// Forgets those that were over by then.
    pub(super) fn forget(&mut self, before: Timestamp) {
        self.alerts.retain(|alert| alert.ended_at.is_none_or(|at| at >= before));
    }

    /// Takes in what was seen at `at`, which is `now` by the process's clock.
    pub(super) fn see(&mut self, sight: Sight, at: Instant, now: Timestamp) {
        if let Sight::Looked { epoch, at, .. } = sight {
            if epoch != self.epoch {
                self.aways = 0;
            }
            (self.epoch, self.looked_at) = (epoch, at);
        }
        let is_away = matches!(sight, Sight::Away);
        let is_absent = match sight {
            // Nobody knows: it stays as it is.
            Sight::Away => self.absent.open.is_some(),
            Sight::Unlooked => true,
            Sight::Looked { is_fresh, .. } => !is_fresh,
        };
        match self.away.see(is_away, self.bounds, (at, now)) {
            Change::None => {}
            Change::Opened(since) => {
                let message = format!("scheduler {} has no answer from the ledger", self.scheduler);
                let key = (self.epoch.0, self.aways);
                let id = self.open(LEDGER_AWAY, Severity::Critical, message, key, since, now);
                self.aways += 1;
                self.away.open = Some(id);
            }
            Change::Ended(id) => self.end(id, now),
        }
        match self.absent.see(is_absent, self.bounds, (at, now)) {
            Change::None => {}
            Change::Opened(_) => {
                let (name, since) = (&self.scheduler, self.looked_at);
                let message =
                    format!("scheduler {name} sees that nobody looks at the installation");
                let key = (since.micros().unsigned_abs(), 0);
                let id = self.open(LEADER_ABSENT, Severity::Warning, message, key, since, now);
                self.absent.open = Some(id);
            }
            Change::Ended(id) => self.end(id, now),
        }
    }

    /// `key` is the same for all processes that see this outage, and another one for the next.
    fn open(
        &mut self,
        code: &str,
        severity: Severity,
        message: String,
        key: (u64, u64),
        since: Timestamp,
        now: Timestamp,
    ) -> AlertId {
        let mut hash = Sha256::new();
        hash.update(self.ledger.as_bytes());
        hash.update(code.as_bytes());
        hash.update(key.0.to_be_bytes());
        hash.update(key.1.to_be_bytes());
        let digest = hash.finalize();
        let bytes = digest.first_chunk().expect("a digest has 32 bytes");
        let id = AlertId::from_uuid(uuid::Builder::from_custom_bytes(*bytes).into_uuid());
        // One of this id that is over goes on.
        self.alerts.retain(|alert| alert.id != id);
        self.alerts.push(Alert {
            id,
            key: AlertKey { code: code.to_owned(), namespace: None, subject: String::new() },
            severity,
            state: AlertState::Active,
            message,
            evidence: BTreeMap::from([("scheduler".to_owned(), self.scheduler.clone())]),
            of_namespaces: BTreeMap::new(),
            since,
            opened_at: Some(now),
            last_seen: now,
            judged_at: now,
            clear_since: None,
            ended_at: None,
            end_reason: None,
            flaps: 0,
        });
        id
    }

    fn end(&mut self, id: AlertId, now: Timestamp) {
        if let Some(alert) = self.alerts.iter_mut().find(|alert| alert.id == id) {
            alert.state = AlertState::Ended;
            alert.ended_at = Some(now);
            alert.end_reason = Some(EndReason::Cleared);
        }
    }
}

enum Change {
    None,
    /// It has been so for long enough, since then.
    Opened(Timestamp),
    Ended(AlertId),
}

impl Condition {
    fn see(&mut self, is_bad: bool, bounds: Bounds, (at, now): (Instant, Timestamp)) -> Change {
        if is_bad {
            self.well = None;
            let (began, since) = *self.bad.get_or_insert((at, now));
            let opens = self.open.is_none() && at.duration_since(began) >= bounds.hold;
            return if opens { Change::Opened(since) } else { Change::None };
        }
        self.bad = None;
        let began = *self.well.get_or_insert(at);
        if at.duration_since(began) < bounds.clear {
            return Change::None;
        }
        self.open.take().map_or(Change::None, Change::Ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LEDGER: [u8; 16] = [7; 16];

    struct Story {
        watch: Watch,
        at: Instant,
        now: Timestamp,
    }

    impl Story {
        fn of(scheduler: &str) -> Self {
            let ledger = LedgerId::from_bytes(LEDGER);
            let watch = Watch::new(ledger, scheduler.to_owned(), Bounds::default());
            Self { watch, at: Instant::now(), now: Timestamp::from_millis(1_700_000_000_000) }
        }

        /// Sees this once a second for so many seconds.
        fn sees(&mut self, sight: Sight, seconds: u64) -> &mut Self {
            for _ in 0..seconds {
                (self.at, self.now) = (self.at + SECOND, self.now.plus(SECOND));
                self.watch.see(sight, self.at, self.now);
            }
            self
        }

        fn states(&self) -> Vec<(&str, AlertState)> {
            let alerts = self.watch.alerts().iter();
            alerts.map(|alert| (alert.key.code.as_str(), alert.state)).collect()
        }
    }

    fn looked(epoch: u64, is_fresh: bool) -> Sight {
        let at = Timestamp::from_millis(1_600_000_000_000 + i64::try_from(epoch).unwrap());
        Sight::Looked { epoch: Epoch(epoch), at, is_fresh }
    }

    #[test]
    fn a_ledger_that_stays_away_is_an_outage_until_it_answers_for_a_while() {
        let mut story = Story::of("a");
        story.sees(looked(1, true), 5).sees(Sight::Away, 60);
        assert_eq!(story.states(), []);
        let began = story.now.minus(59 * SECOND);
        story.sees(Sight::Away, 1);
        assert_eq!(story.states(), [(LEDGER_AWAY, AlertState::Active)]);
        assert_eq!(story.watch.alerts()[0].since, began);
        story.sees(looked(1, true), 30).sees(Sight::Away, 1).sees(looked(1, true), 30);
        assert_eq!(story.states(), [(LEDGER_AWAY, AlertState::Active)]);
        story.sees(looked(2, true), 1);
        assert_eq!(story.states(), [(LEDGER_AWAY, AlertState::Ended)]);
        story.watch.forget(story.now.plus(SECOND));
        assert_eq!(story.states(), []);
    }

    #[test]
    fn a_short_outage_is_none() {
        let mut story = Story::of("a");
        for _ in 0..5 {
            story.sees(Sight::Away, 40).sees(looked(1, false), 40).sees(looked(1, true), 1);
        }
        assert_eq!(story.states(), []);
    }

    #[test]
    fn a_look_that_stays_out_is_an_outage_until_somebody_looks() {
        let mut story = Story::of("a");
        story.sees(looked(1, false), 61);
        assert_eq!(story.states(), [(LEADER_ABSENT, AlertState::Active)]);
        // While the ledger is away, nobody knows whether somebody looks.
        story.sees(Sight::Away, 61);
        let both = [(LEADER_ABSENT, AlertState::Active), (LEDGER_AWAY, AlertState::Active)];
        assert_eq!(story.states(), both);
        story.sees(looked(2, true), 31);
        let both = [(LEADER_ABSENT, AlertState::Ended), (LEDGER_AWAY, AlertState::Ended)];
        assert_eq!(story.states(), both);
        let mut story = Story::of("a");
        story.sees(Sight::Unlooked, 61);
        assert_eq!(story.states(), [(LEADER_ABSENT, AlertState::Active)]);
    }

    /// Goal: processes that see the same outage give it one id, and the next outage has another.
    #[test]
    fn ids_are_those_of_every_process() {
        for sight in [Sight::Away, looked(1, false)] {
            let (mut first, mut second) = (Story::of("a"), Story::of("b"));
            first.sees(looked(1, true), 5).sees(sight, 61);
            second.sees(looked(1, true), 1).sees(sight, 99);
            let id = first.watch.alerts()[0].id;
            assert_eq!(second.watch.alerts()[0].id, id);
            first.sees(looked(2, true), 31);
            let next = if matches!(sight, Sight::Away) { sight } else { looked(2, false) };
            first.sees(next, 61);
            assert_ne!(first.watch.alerts()[1].id, id);
            if matches!(sight, Sight::Away) {
                // The leader has come back in time, and leads on.
                let id = first.watch.alerts()[1].id;
                first.sees(looked(2, true), 31).sees(sight, 61);
                assert_ne!(first.watch.alerts()[2].id, id);
            }
        }
    }
}
