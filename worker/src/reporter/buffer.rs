//! What waits to be reported. Bounded: log lines beyond the bound push out the oldest, and are counted.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;
use windlass_shared::clock::Clock;
use windlass_shared::limits::LOG_LINE_BYTES_MAX;
use windlass_shared::model::id::{Fence, JobId};
use windlass_shared::model::job::Progress;

use crate::context::LogLevel;
use crate::reporter::{LogEntry, ProgressEntry, REPORT_LINES_MAX};

/// Most log lines that wait.
const LINES_MAX: usize = 10_000;
/// Most bytes of log text that wait.
const BYTES_MAX: usize = 8 << 20;
/// Most bytes of log text in one report.
const REPORT_BYTES_MAX: usize = 1 << 20;
/// Most jobs whose progress waits; beyond it a job that is not among them is left out.
const PROGRESS_MAX: usize = 10_000;

/// The buffer. Writers never wait.
#[derive(Default)]
pub(crate) struct Reports {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<LogEntry>,
    bytes: usize,
    progress: HashMap<JobId, (Fence, Progress)>,
    dropped: u64,
}

/// What one report carries away.
#[derive(Debug, Default)]
pub(crate) struct Parcel {
    pub(crate) logs: Vec<LogEntry>,
    pub(crate) progress: Vec<ProgressEntry>,
}

impl Reports {
    pub(crate) fn log(&self, job_id: JobId, attempt: u32, level: LogLevel, mut message: String) {
        if message.len() > LOG_LINE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(LOG_LINE_BYTES_MAX));
        }
        let (at, level) = (Clock::System.now(), level.as_str().to_owned());
        let mut waiting = self.lock();
        waiting.bytes += message.len();
        waiting.lines.push_back(LogEntry { job_id, attempt, at, level, message });
        waiting.trim();
        drop(waiting);
        self.arrived.notify_one();
    }

    pub(crate) fn progress(&self, job_id: JobId, fence: Fence, progress: Progress) {
        let mut waiting = self.lock();
        if waiting.progress.len() < PROGRESS_MAX || waiting.progress.contains_key(&job_id) {
            waiting.progress.insert(job_id, (fence, progress));
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Waits until something may be there. May be dropped at any time.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    pub(crate) fn is_empty(&self) -> bool {
        let waiting = self.lock();
        waiting.lines.is_empty() && waiting.progress.is_empty()
    }

    /// Whether waiting for more would not make the next report fuller.
    pub(crate) fn fills_a_report(&self) -> bool {
        self.lock().lines.len() >= REPORT_LINES_MAX
    }

    /// Takes as much as one report may hold.
    pub(crate) fn take(&self) -> Parcel {
        let mut waiting = self.lock();
        let mut parcel = Parcel::default();
        let mut bytes = 0;
        while let Some(line) = waiting.lines.front() {
            bytes += line.message.len();
            if parcel.logs.len() == REPORT_LINES_MAX || bytes > REPORT_BYTES_MAX {
                break;
            }
            waiting.bytes -= line.message.len();
            parcel.logs.extend(waiting.lines.pop_front());
        }
        let ids: Vec<JobId> = waiting.progress.keys().copied().take(REPORT_LINES_MAX).collect();
        for job_id in ids {
            let (fence, Progress { percent, message }) =
                waiting.progress.remove(&job_id).expect("the id was just read from the map");
            parcel.progress.push(ProgressEntry { job_id, fence, percent, message });
        }
        parcel
    }

    /// Gives back what could not be delivered; what has come since is newer and stays.
    pub(crate) fn put_back(&self, parcel: Parcel) {
        let mut waiting = self.lock();
        for line in parcel.logs.into_iter().rev() {
            waiting.bytes += line.message.len();
            waiting.lines.push_front(line);
        }
        for ProgressEntry { job_id, fence, percent, message } in parcel.progress {
            if waiting.progress.len() < PROGRESS_MAX {
                let older = (fence, Progress { percent, message });
                waiting.progress.entry(job_id).or_insert(older);
            }
        }
        waiting.trim();
    }

    /// Lines dropped since the last call.
    pub(crate) fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.lock().dropped)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("nobody panics while holding the buffer")
    }
}

impl Waiting {
    fn trim(&mut self) {
        while self.lines.len() > LINES_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.message.len();
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(n: u64) -> JobId {
        JobId::first_at(n)
    }

    fn progress(percent: f64) -> Progress {
        Progress { percent, message: None }
    }

    #[test]
    fn the_oldest_lines_make_room_and_are_counted() {
        let reports = Reports::default();
        for i in 0..LINES_MAX + 3 {
            reports.log(job(1), 1, LogLevel::Info, i.to_string());
        }
        assert_eq!(reports.take_dropped(), 3);
        assert_eq!(reports.take_dropped(), 0);
        let parcel = reports.take();
        assert_eq!(parcel.logs.len(), REPORT_LINES_MAX);
        assert_eq!(parcel.logs[0].message, "3");
    }

    #[test]
    fn long_text_is_bounded_in_the_buffer_and_in_a_report() {
        let reports = Reports::default();
        for _ in 0..2_000 {
            reports.log(job(1), 1, LogLevel::Info, "ü".repeat(LOG_LINE_BYTES_MAX));
        }
        assert!(reports.lock().bytes <= BYTES_MAX);
        let parcel = reports.take();
        assert!(reports.take_dropped() > 0);
        assert!(parcel.logs.iter().map(|l| l.message.len()).sum::<usize>() <= REPORT_BYTES_MAX);
    }

    #[test]
    fn what_is_put_back_keeps_its_order_and_gives_way_to_what_is_newer() {
        let reports = Reports::default();
        reports.log(job(1), 1, LogLevel::Info, "first".into());
        reports.progress(job(1), Fence(1), progress(10.0));
        let parcel = reports.take();
        assert!(reports.is_empty());
        reports.log(job(1), 1, LogLevel::Warn, "second".into());
        reports.progress(job(1), Fence(1), progress(20.0));
        reports.put_back(parcel);
        let parcel = reports.take();
        let messages: Vec<_> = parcel.logs.iter().map(|l| l.message.as_str()).collect();
        assert_eq!(messages, ["first", "second"]);
        assert_eq!(parcel.progress.len(), 1);
        assert!((parcel.progress[0].percent - 20.0).abs() < f64::EPSILON);
        assert!(reports.is_empty() && reports.lock().bytes == 0);
    }
}
