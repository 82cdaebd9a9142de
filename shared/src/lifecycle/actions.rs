//! Bulk actions by filter, as tracked operations.

use std::num::NonZeroU32;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use futures::{StreamExt, stream};
use tokio::time::sleep_until;

use super::pace::Pace;
use super::{Cancelled, Lifecycle};
use crate::ledger::{Changed, JobFilter, LedgerError, Operation};
use crate::model::id::{JobId, OperationId};
use crate::model::job::JobState;
use crate::model::name::Namespace;

/// Jobs changed at once; what the ledger's pool can carry beside other callers.
const CONCURRENCY: usize = 4;
const PAGE: u32 = 500;
/// Between tries to note an operation's end; together about a minute.
const END_PAUSE_MIN: Duration = Duration::from_millis(200);
const END_PAUSE_MAX: Duration = Duration::from_secs(10);
const END_TRIES_MAX: usize = 10;

/// What a bulk action does to every job that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Redrive the terminal ones that did not succeed.
    Retry {
        /// At most so many per second, evenly; `None`: as fast as the ledger takes them.
        rate: Option<NonZeroU32>,
    },
    /// Cancel those that are not terminal.
    Cancel,
    /// Forget the terminal ones.
    Delete,
}

impl Action {
    /// The wire word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry { .. } => "retry",
            Self::Cancel => "cancel",
            Self::Delete => "delete",
        }
    }

    fn rate(self) -> Option<NonZeroU32> {
        match self {
            Self::Retry { rate } => rate,
            // They start nothing.
            Self::Cancel | Self::Delete => None,
        }
    }

    fn applies_to(self, state: JobState) -> bool {
        match self {
            Self::Retry { .. } => state.can_redrive(),
            Self::Cancel => !state.is_terminal(),
            Self::Delete => state.is_terminal(),
        }
    }

    /// The filter, narrowed to the states that the action is about; `None`: it can match nothing.
    fn narrow(self, filter: &JobFilter) -> Option<JobFilter> {
        let states: Vec<JobState> = JobState::ALL
            .into_iter()
            .filter(|state| self.applies_to(*state))
            .filter(|state| filter.states.is_empty() || filter.states.contains(state))
            .collect();
        (!states.is_empty()).then(|| JobFilter { states, ..filter.clone() })
    }
}

/// Why an operation ended before it had seen every job.
#[derive(Debug, thiserror::Error)]
enum CutShort {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("its process was stopped; what was changed stays, start it again for the rest")]
    Stopped,
}

pub(super) async fn count(
    life: &Lifecycle,
    namespace: &Namespace,
    action: Action,
    filter: &JobFilter,
) -> Result<u64, LedgerError> {
    let Some(filter) = action.narrow(filter) else {
        return Ok(0);
    };
    let (mut count, mut before) = (0, None);
    loop {
        let page = life.inner.ledger.list(namespace, &filter, before, PAGE).await?;
        count += page.jobs.len() as u64;
        match page.next {
            Some(next) => before = Some(next),
            None => return Ok(count),
        }
    }
}

pub(super) async fn start(
    life: &Lifecycle,
    id: OperationId,
    namespace: &Namespace,
    action: Action,
    filter: JobFilter,
    by: &str,
) -> Result<Operation, LedgerError> {
    let operation = Operation {
        id,
        namespace: namespace.clone(),
        action: action.as_str().into(),
        state: "running".into(),
        matched: 0,
        changed: 0,
        error: None,
        created_at: life.inner.clock.now(),
        finished_at: None,
    };
    life.inner.ledger.put_operation(&operation).await?;
    tracing::info!(operation.id = %operation.id, action = action.as_str(), by, "bulk action started");
    let (life, started, by) = (life.clone(), operation.clone(), by.to_owned());
    life.clone().inner.tasks.spawn(async move {
        run(&life, started, action, &filter, &by).await;
    });
    Ok(operation)
}

async fn run(
    life: &Lifecycle,
    mut operation: Operation,
    action: Action,
    filter: &JobFilter,
    by: &str,
) {
    let result = match action.narrow(filter) {
        Some(filter) => pages(life, &mut operation, action, &filter, by).await,
        None => Ok(()),
    };
    operation.finished_at = Some(life.inner.clock.now());
    operation.state = if result.is_ok() { "succeeded" } else { "failed" }.into();
    operation.error = result.err().map(|error| error.to_string());
    note_end(life, &operation).await;
}

/// Puts the operation's end, again while the ledger does not take it. What stays `running` after all is ended
/// by [`crate::ledger::Ledger::fail_silent_operations`].
async fn note_end(life: &Lifecycle, operation: &Operation) {
    let put = || life.inner.ledger.put_operation(operation);
    let pauses = ExponentialBuilder::default()
        .with_min_delay(END_PAUSE_MIN)
        .with_max_delay(END_PAUSE_MAX)
        .with_max_times(END_TRIES_MAX)
        .with_jitter();
    if let Err(error) = put.retry(pauses).await {
        tracing::warn!(operation.id = %operation.id, %error, "a bulk action's end could not be noted");
    }
}

/// Stops between jobs when the process is told to: metered, it may have hours to go.
async fn pages(
    life: &Lifecycle,
    operation: &mut Operation,
    action: Action,
    filter: &JobFilter,
    by: &str,
) -> Result<(), CutShort> {
    let (rate, stop) = (action.rate(), &life.inner.stop);
    // Progress is told after each page: of a metered action, about once a second.
    let size = rate.map_or(PAGE, |rate| rate.get().min(PAGE));
    let mut pace = Pace::new(rate);
    // New jobs sort before the first page, so the walk ends.
    let mut before: Option<JobId> = None;
    loop {
        let page = life.inner.ledger.list(&operation.namespace, filter, before, size).await?;
        operation.matched += page.jobs.len() as u64;
        let namespace = &operation.namespace;
        let changed: Vec<Result<bool, LedgerError>> = stream::iter(page.jobs)
            .map(|job| {
                let at = pace.turn();
                async move {
                    match stop.run_until_cancelled(sleep_until(at)).await {
                        Some(()) => one(life, namespace, action, job.id, by).await,
                        None => Ok(false),
                    }
                }
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        for result in changed {
            operation.changed += u64::from(result?);
        }
        if stop.is_cancelled() {
            return Err(CutShort::Stopped);
        }
        life.inner.ledger.put_operation(operation).await?;
        match page.next {
            Some(next) => before = Some(next),
            None => return Ok(()),
        }
    }
}

async fn one(
    life: &Lifecycle,
    namespace: &Namespace,
    action: Action,
    id: JobId,
    by: &str,
) -> Result<bool, LedgerError> {
    Ok(match action {
        Action::Retry { .. } => matches!(life.redrive(namespace, id).await?, Changed::Done(_)),
        Action::Cancel => matches!(
            life.cancel(namespace, id, by).await?,
            Changed::Done(Cancelled::Now(_) | Cancelled::Requested(_))
        ),
        Action::Delete => matches!(life.delete(namespace, id).await?, Changed::Done(())),
    })
}
