//! What was submitted, and what became of each submission.

use std::sync::Mutex;

use uuid::Uuid;

/// A job or a workflow that was accepted. Times in µs from the beginning of the load, by this host's clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Entry {
    pub(super) id: Uuid,
    pub(super) stage: u16,
    /// When its call was due.
    pub(super) intended: u64,
    /// When the call was made.
    pub(super) sent: u64,
    /// When it was answered.
    pub(super) answered: u64,
    pub(super) plan: Plan,
}

/// What is to become of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// It is delayed by so many ms.
    pub(super) delay_ms: u32,
    /// So many attempts fail.
    pub(super) fails: u8,
}

/// Accepted ids of late, for calls that ask for a job.
const RECENT: usize = 1_024;

/// Of a whole load.
#[derive(Debug, Default)]
pub(super) struct Book(Mutex<Pages>);

/// What [`Book::take`] returns.
#[derive(Debug, Default)]
pub(super) struct Pages {
    pub(super) jobs: Vec<Entry>,
    pub(super) workflows: Vec<(Entry, usize)>,
    /// Steps of those workflows.
    pub(super) steps: u64,
    /// Jobs of submissions whose answer was lost: they may have been accepted.
    pub(super) unknown_jobs: u64,
    /// And workflows.
    pub(super) unknown_runs: u64,
}

impl Book {
    /// Jobs were accepted.
    pub(super) fn add(&self, entries: impl IntoIterator<Item = Entry>) {
        self.lock().jobs.extend(entries);
    }

    /// A workflow was accepted; `which` of the documents, which has so many steps.
    pub(super) fn add_workflow(&self, entry: Entry, which: usize, steps: u64) {
        let mut pages = self.lock();
        pages.workflows.push((entry, which));
        pages.steps += steps;
    }

    /// Nobody knows what became of so many jobs.
    pub(super) fn add_unknown_jobs(&self, jobs: u64) {
        self.lock().unknown_jobs += jobs;
    }

    /// Nobody knows what became of a workflow.
    pub(super) fn add_unknown_run(&self) {
        self.lock().unknown_runs += 1;
    }

    /// Accepted jobs so far, steps of workflows among them.
    pub(super) fn accepted(&self) -> u64 {
        let pages = self.lock();
        pages.jobs.len() as u64 + pages.steps
    }

    /// One of the jobs that were accepted last; `draw` is from 0 up to 1.
    pub(super) fn recent(&self, draw: f64) -> Option<Uuid> {
        let pages = self.lock();
        let back = pages.jobs.len().min(RECENT);
        let nth = (draw * back as f64) as usize;
        pages.jobs.get((pages.jobs.len() - back) + nth.min(back.saturating_sub(1))).map(|e| e.id)
    }

    /// Everything, once the load is over.
    pub(super) fn take(&self) -> Pages {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
