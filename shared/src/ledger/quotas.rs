//! Quotas of namespaces: how fast jobs may come in, how many may be unfinished, and how large their payloads may be
//! together. The door, a row of the ledger, is asked and paid in the very transaction that brings jobs in. So it is one
//! for the whole fleet, what is refused leaves nothing behind, and a repeat of what was let in pays nothing.
//!
//! | quota | how it is reckoned | how far it may be off |
//! |---|---|---|
//! | rate | GCRA over ledger time, in nanoseconds | not at all: in any span `w` at most `w × limit / per + burst` jobs come in |
//! | jobs, bytes | those counted last, and all that was let in since | never below, but for what comes in past the door; above by what has ended since the count |
//!
//! Nobody counts down when a job ends: what is unfinished is counted anew when it matters ([`Door::wants_count`]), so an
//! error of the reckoning lasts until the next count and no longer. Steps of runs that are released, what schedules fire,
//! and jobs that are made ready again come in past the door: they are promised already. They are found by the count. What
//! is shaped (`shaping.rs`) pays as it comes in, whatever it comes to: the count finds one job where many were collected.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{Ledger, RateLimit, Result, dispatch};
use crate::model::id::BlobId;
use crate::model::job::{NewJob, Value};
use crate::model::name::Namespace;
use crate::model::time::Timestamp;

mod door;

pub(super) use door::Door;

/// Most quotas of one page.
pub const PAGE_MAX: u32 = 500;

/// What a namespace may bring in; `None` is no limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Quotas {
    /// Jobs submitted per time.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "super::settings_text::rate"
    )]
    pub rate: Option<RateLimit>,
    /// Unfinished jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_jobs: Option<u64>,
    /// Bytes of the payloads of unfinished jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
}

impl Quotas {
    /// Whether unfinished jobs have to be counted.
    pub fn count_jobs(&self) -> bool {
        self.max_jobs.is_some() || self.max_bytes.is_some()
    }
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quota {
    /// [`Quotas::rate`].
    Rate,
    /// [`Quotas::max_jobs`].
    Jobs,
    /// [`Quotas::max_bytes`].
    Bytes,
}

impl Quota {
    /// Its wire word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Jobs => "jobs",
            Self::Bytes => "bytes",
        }
    }
}

/// Why something was not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    /// What is used up.
    pub quota: Quota,
    /// How much there is of it: the burst of a rate, jobs, or bytes.
    pub limit: u64,
    /// How much of that is used.
    pub used: u64,
    /// How much more was asked for.
    pub asked: u64,
    /// Of a rate: the time in which `limit` is there anew.
    pub per: Option<Duration>,
    /// When it may be worth another try; `None`: never, it is more than there is at all.
    pub wait: Option<Duration>,
}

/// What is used, as far as reckoned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Of the burst of the rate.
    pub rate: u64,
    /// Unfinished jobs; 0 where they need not be counted.
    pub jobs: u64,
    /// Bytes of their payloads; 0 where they need not be counted.
    pub bytes: u64,
}

/// The quotas of a namespace on record.
#[derive(Debug, Clone, PartialEq)]
pub struct QuotaRecord {
    /// Whose.
    pub namespace: Namespace,
    /// What it may.
    pub quotas: Quotas,
    /// What of that is used.
    pub used: Used,
    /// When the unfinished were counted last; `None`: never.
    pub counted_at: Option<Timestamp>,
    /// When they were set.
    pub changed_at: Timestamp,
    /// By whom.
    pub changed_by: String,
}

/// What a submission costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Charge {
    pub(super) jobs: u64,
    pub(super) bytes: u64,
}

impl Charge {
    /// Of these jobs; `sizes` are those of large payloads.
    pub(super) fn of<'a>(
        jobs: impl Iterator<Item = &'a NewJob>,
        sizes: &HashMap<BlobId, u64>,
    ) -> Self {
        jobs.fold(Self::default(), |sum, job| {
            let bytes = match &job.payload {
                Value::Inline(bytes) => bytes.len() as u64,
                Value::Blob(id) => sizes.get(id).copied().unwrap_or_default(),
            };
            Self { jobs: sum.jobs + 1, bytes: sum.bytes + bytes }
        })
    }
}

/// The large payloads of these jobs.
pub(super) fn large<'a>(jobs: impl Iterator<Item = &'a NewJob>) -> Vec<BlobId> {
    let blob = |job: &NewJob| match job.payload {
        Value::Blob(id) => Some(id),
        Value::Inline(_) => None,
    };
    jobs.filter_map(blob).collect()
}

/// Namespaces whose unfinished jobs are to be counted anew, as this process's submissions have found.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// Somebody wishes: looked at with each submission, so without the lock.
    any: AtomicBool,
    state: Mutex<Wished>,
}

#[derive(Debug, Default)]
struct Wished {
    open: BTreeSet<Namespace>,
    under_way: BTreeSet<Namespace>,
}

impl Wishes {
    fn state(&self) -> MutexGuard<'_, Wished> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Wishes for the counts that doors want.
    pub(super) fn note<'a>(
        &self,
        doors: impl Iterator<Item = (&'a Namespace, &'a Door)>,
        now: Timestamp,
    ) {
        for (namespace, _) in doors.filter(|(_, door)| door.wants_count(now)) {
            let mut state = self.state();
            if !state.under_way.contains(namespace) && state.open.insert(namespace.clone()) {
                self.any.store(true, Ordering::Release);
            }
        }
    }

    /// Takes what is wished for; [`Self::done`] is called for each.
    pub(super) fn take(&self) -> Vec<Namespace> {
        if !self.any.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let mut state = self.state();
        let open: Vec<Namespace> = std::mem::take(&mut state.open).into_iter().collect();
        state.under_way.extend(open.iter().cloned());
        open
    }

    /// The count is over, whatever came of it.
    pub(super) fn done(&self, namespace: &Namespace) {
        self.state().under_way.remove(namespace);
    }
}

impl Ledger {
    /// Sets the quotas of a namespace, and counts its unfinished jobs; `None` takes the quotas away. What was set, if
    /// anything was. Submissions through this process are held to it at once, those through others within a second. Safe
    /// to repeat.
    pub fn set_quotas<'a>(
        &'a self,
        namespace: &'a Namespace,
        quotas: Option<&'a Quotas>,
        by: &'a str,
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let changed = dispatch!(self, set_quotas(namespace, quotas, by))?;
            if quotas.is_some_and(Quotas::count_jobs) {
                self.count_quotas(namespace).await?;
            }
            Ok(changed)
        })
    }

    /// The quotas of a namespace; `None`: it has none.
    pub fn quotas<'a>(
        &'a self,
        namespace: &'a Namespace,
    ) -> BoxFuture<'a, Result<Option<QuotaRecord>>> {
        Box::pin(async move { dispatch!(self, quotas(namespace)) })
    }

    /// All quotas by namespace, after one of them (exclusive); at most [`PAGE_MAX`].
    pub fn all_quotas<'a>(
        &'a self,
        after: Option<&'a Namespace>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<QuotaRecord>>> {
        Box::pin(async move { dispatch!(self, all_quotas(after, limit)) })
    }

    /// Counts the unfinished jobs of a namespace with quotas on them. Of two counts at once one holds. Takes as long as
    /// it takes to read them; holds up no submission. Safe to repeat and to drop.
    pub fn count_quotas<'a>(&'a self, namespace: &'a Namespace) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let result = dispatch!(self, count_quotas(namespace));
            self.wishes().done(namespace);
            result
        })
    }

    /// Namespaces that [`Self::count_quotas`] should be called for, as submissions of this process have found; each is
    /// told once.
    pub fn uncounted(&self) -> Vec<Namespace> {
        self.wishes().take()
    }

    fn wishes(&self) -> &Wishes {
        match self {
            Self::Postgres(ledger) => ledger.wishes(),
            Self::Sqlite(ledger) => ledger.wishes(),
            #[cfg(feature = "testkit")]
            Self::Tapped(tap) => tap.ledger().wishes(),
        }
    }
}
