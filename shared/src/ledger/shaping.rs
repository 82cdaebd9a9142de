//! Submissions that are shaped before they are jobs: what both databases decide in the same way, and the calls about series.
//!
//! A series is a row, and a job that is blocked while the row is there. Who adds to it, replaces its job or shuts it holds
//! the row until the commit, so that a submission is in one series or in the next, and never in none. Nobody but the
//! ledger's clock says when a series is over, and the engine hears of its job only after that: a debounced job that was
//! superseded has never been anywhere where it could start.

use futures::future::BoxFuture;

use super::{Ledger, Result, dispatch};
use crate::engine::flow::Rate;
use crate::model::id::JobId;
use crate::model::job::{Job, JobState, NewJob, Value};
use crate::model::shaping::{Collect, Debounce, Series, SeriesSort, Shaping};
use crate::model::time::Timestamp;

/// What a debounced submission has come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Debounced {
    /// Blocked until its `run_at`, unless another one supersedes it before.
    pub job: Job,
    /// The one before it in the series, which was cancelled for it.
    pub superseded: Option<JobId>,
    /// Jobs of series that this submission found over: ready now.
    pub shut: Vec<Job>,
}

/// What a collected submission has come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Collected {
    /// The job that it is an item of.
    pub job: JobId,
    /// Its place in `items`, from 1.
    pub item: u32,
    /// Whether it began the job.
    pub opened: bool,
    /// The job is ready then at the latest.
    pub until: Timestamp,
    /// Whether the job takes no more items, and is ready.
    pub is_over: bool,
    /// Jobs of series that this submission found over or made full: ready now.
    pub shut: Vec<Job>,
}

impl Collected {
    /// The job's state after the submission.
    pub fn state(&self) -> JobState {
        if self.is_over { JobState::Ready } else { JobState::Blocked }
    }
}

impl Ledger {
    /// Shuts series whose time has come, and makes their jobs ready; those, at most `limit`, to be pushed. Series that
    /// somebody else is at are passed over. Safe to repeat and to run anywhere at once.
    pub fn shut_due(&self, limit: u32) -> BoxFuture<'_, Result<Vec<Job>>> {
        Box::pin(async move { dispatch!(self, shut_due(limit)) })
    }

    /// Shuts the series that a job stands for, before its time; the job, which is ready now. `None`: it stands for none.
    /// Safe to repeat.
    pub fn shut(&self, job: JobId) -> BoxFuture<'_, Result<Option<Job>>> {
        Box::pin(async move { dispatch!(self, shut(job)) })
    }

    /// The open series that a job stands for.
    pub fn series(&self, job: JobId) -> BoxFuture<'_, Result<Option<Series>>> {
        Box::pin(async move { dispatch!(self, series(job)) })
    }
}

/// Where submissions meet each other: sort (of a throttle 0), queue, kind (of a throttle none), key. Its order is that of
/// locking, so that two submissions with many keys don't wait for each other.
pub(super) type Place<'a> = (i16, &'a str, &'a str, &'a str);

/// Where a job meets others; `None`: it is not shaped.
pub(super) fn place(job: &NewJob) -> Option<Place<'_>> {
    let (queue, kind) = (job.queue.as_str(), job.kind.as_str());
    Some(match job.shaping.as_deref()? {
        Shaping::Debounce(rule) => (SeriesSort::Debounce as i16, queue, kind, rule.key.as_str()),
        Shaping::Collect(rule) => (SeriesSort::Collect as i16, queue, kind, rule.key.as_str()),
        Shaping::Throttle(rule) => (0, queue, "", rule.key.as_str()),
    })
}

/// The series that a job begins at `now`.
pub(super) fn begin(now: Timestamp, job: &NewJob, shaping: &Shaping) -> Option<Series> {
    let (sort, shuts_at, latest_at, items_max, bytes_max) = match shaping {
        Shaping::Debounce(rule) => {
            let latest_at = now.plus(rule.max_wait);
            (SeriesSort::Debounce, now.plus(rule.delay).min(latest_at), latest_at, 0, 0)
        }
        Shaping::Collect(rule) => {
            let until = now.plus(rule.wait);
            (SeriesSort::Collect, until, until, rule.items_max, rule.bytes_max.into())
        }
        Shaping::Throttle(_) => return None,
    };
    let (opened_at, key) = (now, shaping.key().to_owned());
    let (items, bytes) = (0, FRAME_BYTES);
    let job = job.id;
    Some(Series {
        sort,
        key,
        job,
        opened_at,
        shuts_at,
        latest_at,
        items,
        items_max,
        bytes,
        bytes_max,
    })
}

/// The series once another debounced job stands for it. The first one's latest time can come closer, and never moves away.
pub(super) fn move_on(series: &Series, now: Timestamp, job: JobId, rule: &Debounce) -> Series {
    let latest_at = series.latest_at.min(series.opened_at.plus(rule.max_wait));
    Series { job, latest_at, shuts_at: now.plus(rule.delay).min(latest_at), ..series.clone() }
}

/// What a superseded job is told, and whoever asks for it.
pub(super) fn superseded_by(job: JobId) -> String {
    format!("superseded by {job}, which came later with the same key of debounce")
}

/// Around the items of a payload, and between two of them.
pub(super) const FRAME: [&str; 3] = [r#"{"items":["#, ",", "]}"];
const FRAME_BYTES: u64 = (FRAME[0].len() + FRAME[2].len()) as u64;

/// Largest payload of an item, where the whole may have so many bytes.
pub const fn item_bytes_max(bytes_max: u32) -> u64 {
    (bytes_max as u64).saturating_sub(FRAME_BYTES)
}

/// The bytes of an item.
pub(super) fn item_bytes(job: &NewJob) -> &[u8] {
    match &job.payload {
        Value::Inline(bytes) => bytes,
        // Refused before.
        Value::Blob(_) => b"null",
    }
}

/// Some items of one collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// As it is with them.
    pub(super) series: Series,
    /// The place of the job that begins it; `None`: it was open before.
    pub(super) opener: Option<usize>,
    /// The places of the jobs that are its items, in order.
    pub(super) members: Vec<usize>,
    /// It takes nothing more.
    pub(super) is_over: bool,
}

impl Part {
    fn room_for(&self, bytes: u64) -> bool {
        let comma = u64::from(self.series.items > 0);
        self.series.items < self.series.items_max
            && self.series.bytes + comma + bytes <= self.series.bytes_max
    }
    fn add(&mut self, place: usize, bytes: u64) {
        self.series.bytes += bytes + u64::from(self.series.items > 0);
        self.series.items += 1;
        self.members.push(place);
        // The shortest item is one byte.
        self.is_over = !self.room_for(1);
    }
    /// The number of the first of its members.
    pub(super) fn first(&self) -> u32 {
        let members = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        self.series.items + 1 - members.min(self.series.items)
    }
}

/// Deals jobs of one key out to collections, in order: the one that is open, if it is, and as many more as they need.
pub(super) fn deal<'a>(
    now: Timestamp,
    open: Option<Series>,
    jobs: impl Iterator<Item = (usize, &'a NewJob, &'a Collect)>,
) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut current = open.map(|series| Part {
        is_over: series.is_due(now),
        series,
        opener: None,
        members: Vec::new(),
    });
    for (place, job, rule) in jobs {
        let bytes = item_bytes(job).len() as u64;
        if let Some(part) = current.take_if(|part| part.is_over || !part.room_for(bytes)) {
            parts.push(Part { is_over: true, ..part });
        }
        let part = current.get_or_insert_with(|| Part {
            series: begin(now, job, &Shaping::Collect(rule.clone()))
                .expect("collecting is a series"),
            opener: Some(place),
            members: Vec::new(),
            is_over: false,
        });
        part.add(place, bytes);
    }
    parts.extend(current);
    parts
}

/// How far ahead of now the time of a key may be for another job to get through.
pub(super) fn tolerance_us(rate: Rate) -> i64 {
    let us = rate.interval_us.saturating_mul(u64::from(rate.burst.saturating_sub(1)));
    i64::try_from(us).unwrap_or(i64::MAX)
}

/// By how much a job moves the time of its key.
pub(super) fn interval_us(rate: Rate) -> i64 {
    i64::try_from(rate.interval_us).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
