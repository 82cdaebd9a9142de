//! Sends what waits in the buffer, and the beat.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use windlass_shared::model::id::LedgerId;

use crate::attempt::Crew;
use crate::leases::Leases;
use crate::pause::Pause;
use crate::reporter::buffer::Parcel;
use crate::reporter::{Beat, Report, ReportError, SharedReporter};
use crate::ring::Rings;

/// A worker says this often that it is alive.
const BEAT_EVERY: Duration = Duration::from_secs(10);
/// Log lines and progress wait this long for company.
const GATHER: Duration = Duration::from_millis(250);
/// Reports sent after the last job has ended; what is left then is lost.
const FLUSH_REPORTS_MAX: u32 = 40;
/// Longest time for them.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(5);

/// The task that reports.
pub(crate) struct Pump {
    pub(crate) reporter: SharedReporter,
    pub(crate) crew: Arc<Crew>,
    /// The beat but for the number of running jobs.
    pub(crate) beat: Beat,
    /// Of the jobs running now.
    pub(crate) leases: Arc<Leases>,
    pub(crate) rings: Arc<Rings>,
    /// Fired when an operator wants the worker to take nothing new.
    pub(crate) drain: CancellationToken,
}

impl Pump {
    /// Reports until `stop`, then sends what is left, within bounds. Never ends otherwise: what cannot be
    /// delivered waits.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut pause = Pause::default();
        while !stop.is_cancelled() {
            match self.send().await {
                Ok(()) => {
                    pause.reset();
                    self.wait_for_work(Instant::now() + BEAT_EVERY, &stop).await;
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "cannot report to the API");
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(pause.next()) => {}
                    }
                }
            }
        }
        // Whether it was in time shows in what is left.
        let _ = tokio::time::timeout(FLUSH_TIME_MAX, self.flush()).await;
        if !self.crew.reports.is_empty() {
            tracing::warn!("the last log lines could not be reported");
        }
    }

    async fn wait_for_work(&self, next_beat: Instant, stop: &CancellationToken) {
        if self.crew.reports.is_empty() {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(next_beat) => return,
                () = self.crew.home.asked() => return,
                () = self.crew.reports.arrived() => {}
            }
        }
        if self.crew.reports.fills_a_report() {
            return;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = tokio::time::sleep(GATHER) => {}
        }
    }

    /// Sends what is left, trying again while the API is away.
    async fn flush(&self) {
        let mut pause = Pause::default();
        for _ in 0..FLUSH_REPORTS_MAX {
            if self.crew.reports.is_empty() {
                return;
            }
            if let Err(error) = self.send().await {
                tracing::debug!(error = %chain(&error), "cannot report the last log lines yet");
                tokio::time::sleep(pause.next()).await;
            }
        }
    }

    /// Sends one report. A report that is refused for what it says is dropped: it would be refused again.
    async fn send(&self) -> Result<(), ReportError> {
        let Parcel { logs, progress } = self.crew.reports.take();
        let running = u32::try_from(self.leases.len()).unwrap_or(u32::MAX);
        let worker = Beat { running, ..self.beat.clone() };
        let report = Report { worker, logs: logs.clone(), progress: progress.clone() };
        self.count_dropped();
        let answer = self.reporter.report(report).await;
        self.note_home(answer.as_ref().ok().and_then(|reply| reply.ledger));
        match answer {
            Ok(reply) => {
                if reply.drain && !self.drain.is_cancelled() {
                    tracing::info!("an operator asked this worker to take no more jobs");
                    self.drain.cancel();
                }
                Ok(())
            }
            Err(ReportError::Refused(status)) if status != 401 && status != 403 => {
                tracing::warn!(
                    status,
                    lines = logs.len(),
                    "the API refused a report; it is dropped"
                );
                Ok(())
            }
            Err(error) => {
                self.crew.reports.put_back(Parcel { logs, progress });
                Err(error)
            }
        }
    }

    /// What is under way of a ledger that is not the API's any more is stopped: its end would be taken by nobody.
    fn note_home(&self, ledger: Option<LedgerId>) {
        let before = self.crew.home.note(ledger);
        if let (Some(before), Some(ledger)) = (before, ledger) {
            tracing::error!(%before, now = %ledger, "wrong_ledger: the API has another ledger than before; its jobs are taken from now on");
        }
        // Each time: a claim that was under way brings some later.
        let stopped = self.leases.stop_disowned(&self.crew.home, &self.rings);
        if stopped > 0 {
            metrics::counter!("windlass_lease_lost_total").increment(stopped as u64);
            tracing::error!(
                stopped,
                "wrong_ledger: jobs of a ledger that is not the API's any more are stopped"
            );
        }
    }

    fn count_dropped(&self) {
        let dropped = self.crew.reports.take_dropped();
        if dropped > 0 {
            metrics::counter!("windlass_worker_log_lines_dropped_total").increment(dropped);
            tracing::warn!(dropped, "log lines of jobs came faster than they could be reported");
        }
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
