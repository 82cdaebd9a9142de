//! Which of the schedulers leads: a row of the ledger with a holder, an epoch and an end (reliability 2.11).
//!
//! The leader exists for economy: what it does is safe to do twice, and where it would not be, the ledger compares the
//! epoch in the same statement. A leader that was frozen and wakes finds its epoch refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, RwLock, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use windlass_shared::ledger::duties::{Ended, Who};
use windlass_shared::ledger::{Epoch, Ledger};
use windlass_shared::model::id::WorkerId;

use crate::board::{Board, Duty};

/// A term, unless it is prolonged.
const TERM: Duration = Duration::from_secs(10);
/// The lead is not trusted for the last part of a term: clocks run unevenly, and calls take time.
const MARGIN: Duration = Duration::from_secs(2);
/// How often a leader prolongs its term.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How often the others look whether the lead is free.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// What it is among the duties.
static DUTY: Duty = Duty {
    name: "leader",
    what: "stands for the lead, and prolongs its term",
    interval: RENEW_EVERY,
    batch: 1,
    longest: TERM,
    who: Who::Every,
};
/// Longest wait for the ledger when the lead is given up.
const RESIGN_MAX: Duration = Duration::from_secs(2);

/// Longest wait for ticks under way before that. What they write later is refused.
const TICKS_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy)]
struct Term {
    epoch: Epoch,
    /// Counted from the sending of the call that was answered.
    until: Instant,
}

/// What the duties of a scheduler know of its lead. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Lead {
    term: watch::Receiver<Option<Term>>,
    /// Held by every tick of a leader: the lead is not given up in the midst of one.
    ticking: Arc<RwLock<()>>,
}

impl Lead {
    /// The epoch, if this process may take it that it leads.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.term.borrow().filter(|term| Instant::now() < term.until).map(|term| term.epoch)
    }

    /// The epoch, if this process may take it that it leads; it does not give up the lead of itself while the guard is
    /// held. Short of that, a term may run out at any time.
    pub(crate) async fn tick(&self) -> Option<(Epoch, OwnedRwLockReadGuard<()>)> {
        let ticking = Arc::clone(&self.ticking).read_owned().await;
        Some((self.epoch()?, ticking))
    }

    /// That of a process that never leads.
    #[cfg(test)]
    pub(crate) fn nobody() -> Self {
        Self { term: watch::channel(None).1, ticking: Arc::default() }
    }

    /// Waits until the lead may have been won or lost. May be dropped.
    pub(crate) async fn changed(&mut self) {
        if self.term.changed().await.is_err() {
            // The candidate is gone: so is the process, soon.
            std::future::pending::<()>().await;
        }
    }
}

/// Stands for the lead.
pub(crate) struct Candidate {
    ledger: Ledger,
    holder: WorkerId,
    name: String,
    term: watch::Sender<Option<Term>>,
    ticking: Arc<RwLock<()>>,
    board: Board,
}

impl Candidate {
    /// `holder` is drawn at the start of the process; `name` is for people.
    pub(crate) fn new(
        ledger: Ledger,
        holder: WorkerId,
        name: String,
        board: Board,
    ) -> (Self, Lead) {
        let (sender, term) = watch::channel(None);
        let ticking = Arc::default();
        let lead = Lead { term, ticking: Arc::clone(&ticking) };
        (Self { ledger, holder, name, term: sender, ticking, board }, lead)
    }

    /// Takes and keeps the lead while it can; gives it up at `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut held: Option<Epoch> = None;
        loop {
            let sent = Instant::now();
            self.board.begun(&DUTY, held);
            let answer = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                answer = self.ledger.lead(self.holder, &self.name, TERM) => answer,
            };
            let failed = answer.as_ref().err().map(ToString::to_string);
            held = self.note(held, sent, answer);
            let result =
                failed.map_or(Ok(u64::from(held.is_some())), |why| Err((Ended::Failed, why)));
            self.board.ended(&DUTY, result);
            let pause = if held.is_some() { RENEW_EVERY } else { TRY_EVERY };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.term.send_replace(None);
        if let Some(epoch) = held {
            // What ticks still ends in this turn; nothing begins any more.
            let _ = tokio::time::timeout(TICKS_MAX, self.ticking.write()).await;
            // Without it the others wait for the end of the term.
            let _ = tokio::time::timeout(RESIGN_MAX, self.ledger.resign(epoch)).await;
        }
    }

    fn note(
        &self,
        before: Option<Epoch>,
        sent: Instant,
        answer: Result<Option<Epoch>, windlass_shared::ledger::LedgerError>,
    ) -> Option<Epoch> {
        // An unknown outcome is no lead.
        let epoch = answer.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot stand for the lead now");
            None
        });
        let term = epoch.map(|epoch| Term { epoch, until: sent + TERM - MARGIN });
        self.term.send_if_modified(|present| {
            let changed = present.map(|term| term.epoch) != epoch;
            *present = term;
            changed
        });
        match (before, epoch) {
            (None, Some(epoch)) => tracing::info!(epoch = epoch.0, "this scheduler leads now"),
            (Some(epoch), None) => tracing::warn!(epoch = epoch.0, "this scheduler leads no more"),
            _ => {}
        }
        metrics::gauge!("windlass_leader").set(if epoch.is_some() { 1.0 } else { 0.0 });
        epoch
    }
}
