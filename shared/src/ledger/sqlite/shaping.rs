//! Submissions that are shaped, each decided by itself: the writer is alone, so that nothing changes between looking and
//! writing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fault::{Class, Fault};
use super::jobs::Columns;
use super::plan::{self, KeyRow, Planned, Specs};
use super::quotas::Doors;
use super::series::{find, put, shut_these};
use super::statement::{Args, Bulk, execute, row};
use super::submit::{self, BAD_DATA, Bad, Way};
use super::writer::{Tx, release, roll_back, savepoint, undo};
use super::{Accepted, Refused, Submission, SubmitOutcome, orders, queues, unfit_text};
use crate::ledger::shaping::{
    Collected, Debounced, Place, begin, deal, interval_us, item_bytes, move_on, place,
    superseded_by, tolerance_us,
};
use crate::model::id::JobId;
use crate::model::job::{Job, JobState, NewJob, Value};
use crate::model::shaping::{Collect, Debounce, Series, SeriesSort, Shaping, Throttle};

/// What one job has come to.
type Outcome = Result<Accepted, Refused>;

/// What a submission has come to.
enum Passed {
    /// What was written for it stays.
    Kept(SubmitOutcome),
    /// Nothing of it is to stay.
    Refused(SubmitOutcome),
}

/// Whether a submission is for [`write()`].
pub(super) fn is_shaped(submission: &Submission) -> bool {
    submission.jobs.iter().any(|job| job.shaping.is_some())
}

/// Writes a submission, or nothing of it.
///
/// # Errors
/// The outer one only where the transaction cannot go on.
pub(super) async fn write(
    tx: &mut Tx<'_>,
    submission: &Submission,
) -> Result<Result<SubmitOutcome, Fault>, Fault> {
    savepoint(tx).await?;
    let result = match pass(tx, submission).await {
        Ok(Passed::Kept(outcome)) => Ok(outcome),
        Ok(Passed::Refused(outcome)) => {
            roll_back(tx).await?;
            Ok(outcome)
        }
        Err(fault) => {
            undo(tx, fault.clone()).await?;
            if fault.class() == Class::Data {
                let bad = || Err(Refused::BadData(BAD_DATA.to_owned()));
                Ok(SubmitOutcome::Done(submission.jobs.iter().map(|_| bad()).collect()))
            } else {
                Err(fault)
            }
        }
    };
    release(tx).await?;
    Ok(result)
}

async fn pass(tx: &mut Tx<'_>, submission: &Submission) -> Result<Passed, Fault> {
    let found = submit::look(tx, &[submission]).await?;
    if let Some(outcome) = plan::replayed(tx.now, &found, submission) {
        return Ok(Passed::Kept(outcome));
    }
    let closed = found.closed;
    let mut outcomes = pass_plain(tx, submission).await?;
    let mut places: BTreeMap<Place<'_>, Vec<usize>> = BTreeMap::new();
    for (n, job) in submission.jobs.iter().enumerate() {
        let Some(place) = place(job) else { continue };
        if let Some(why) = unfit_text(job) {
            outcomes[n] = Some(Err(Refused::BadData(why.to_owned())));
        } else if closed.contains(&(job.namespace.clone(), job.queue.clone())) {
            outcomes[n] = Some(Err(Refused::TooManyQueues));
        } else {
            places.entry(place).or_default().push(n);
        }
    }
    for rows in places.into_values() {
        pass_place(tx, &submission.jobs, &rows, &mut outcomes).await?;
    }
    let decided = |outcome: Option<Outcome>| outcome.expect("every job has been looked at");
    let results: Vec<Outcome> = outcomes.into_iter().map(decided).collect();
    if submission.atomic && results.iter().any(Result::is_err) {
        let refused = results.into_iter().map(|result| result.and(Err(Refused::Batch)));
        return Ok(Passed::Refused(SubmitOutcome::Done(refused.collect())));
    }
    if results.iter().all(Result::is_err) {
        return Ok(Passed::Refused(SubmitOutcome::Done(results)));
    }
    if results.iter().flatten().any(Accepted::brings_in) {
        let mut doors = Doors::of(tx, &[submission]).await?;
        let admitted = doors.admit(tx.now, &submission.jobs);
        doors.write(tx).await?;
        if let Err(exceeded) = admitted {
            return Ok(Passed::Refused(SubmitOutcome::OverQuota(exceeded)));
        }
    }
    if let (Some(key), Some(first)) = (&submission.idempotency, submission.jobs.first()) {
        let ids = results.iter().map(|result| result.as_ref().ok().map(Accepted::id)).collect();
        let row = KeyRow { body_hash: key.body_hash, ids, created_at: tx.now };
        submit::keep_keys(tx, &[((first.namespace.clone(), key.key.clone()), row)]).await?;
    }
    Ok(Passed::Kept(SubmitOutcome::Done(results)))
}

/// Writes those that are not shaped, of which the door of the namespace is asked with the others; a place for each job.
async fn pass_plain(
    tx: &mut Tx<'_>,
    submission: &Submission,
) -> Result<Vec<Option<Outcome>>, Fault> {
    let mut outcomes: Vec<Option<Outcome>> = submission.jobs.iter().map(|_| None).collect();
    let jobs = submission.jobs.iter().filter(|job| job.shaping.is_none()).cloned();
    let plain = Submission { jobs: jobs.collect(), atomic: false, idempotency: None };
    if plain.jobs.is_empty() {
        return Ok(outcomes);
    }
    let written = submit::write(tx, &[&plain], &Bad::new(), Way::Past).await?;
    let results = written.into_iter().flat_map(|outcome| match outcome {
        SubmitOutcome::Done(results) => results,
        SubmitOutcome::Replayed(_) | SubmitOutcome::KeyReused | SubmitOutcome::OverQuota(_) => {
            Vec::new()
        }
    });
    let free = outcomes.iter_mut().zip(&submission.jobs).filter(|(_, job)| job.shaping.is_none());
    for ((outcome, _), result) in free.zip(results) {
        *outcome = Some(result);
    }
    Ok(outcomes)
}

/// Decides jobs of one place, in order.
async fn pass_place(
    tx: &mut Tx<'_>,
    jobs: &[NewJob],
    rows: &[usize],
    outcomes: &mut [Option<Outcome>],
) -> Result<(), Fault> {
    let mut items = Vec::new();
    for n in rows {
        let job = &jobs[*n];
        match job.shaping.as_deref() {
            Some(Shaping::Debounce(rule)) => {
                let debounced = debounce(tx, job, rule).await?;
                outcomes[*n] = Some(Ok(Accepted::Debounced(debounced)));
            }
            Some(Shaping::Throttle(rule)) => outcomes[*n] = Some(throttle(tx, job, rule).await?),
            Some(Shaping::Collect(rule)) => items.push((*n, job, rule)),
            None => {}
        }
    }
    if items.is_empty() { Ok(()) } else { collect(tx, jobs, &items, outcomes).await }
}

async fn debounce(tx: &mut Tx<'_>, job: &NewJob, rule: &Debounce) -> Result<Debounced, Fault> {
    let mut shut = Vec::new();
    let mut open = find(tx.connection, job, SeriesSort::Debounce, &rule.key).await?;
    if let Some(over) = open.take_if(|series| series.is_due(tx.now)) {
        shut = shut_these(tx, &[over.job]).await?;
    }
    let series = match &open {
        Some(series) => Some(move_on(series, tx.now, job.id, rule)),
        None => begin(tx.now, job, &Shaping::Debounce(rule.clone())),
    };
    let series = series.expect("a debounced job is of a series");
    let superseded = open.map(|series| series.job);
    if let Some(old) = superseded {
        let sql = "UPDATE jobs SET state = ?, finished_at = ?, changed_at = ?, \
                   error_code = 'superseded', error_message = ?, error_retryable = 0 \
                   WHERE id = ? AND state = 0 AND workflow_id IS NULL";
        let args = Args::default()
            .with(JobState::Cancelled as i16)
            .with(tx.now.micros())
            .with(tx.now.micros())
            .with(superseded_by(job.id))
            .with(old.as_bytes().as_slice());
        execute(tx.connection, sql, args).await?;
    }
    put(tx.connection, job, &series).await?;
    let job = block(tx, job, &series).await?;
    Ok(Debounced { job, superseded, shut })
}

/// Inserts the job that stands for a series from now on.
async fn block(tx: &mut Tx<'_>, job: &NewJob, series: &Series) -> Result<Job, Fault> {
    queues::ensure_allowed(tx, &job.namespace, &job.queue).await?;
    let mut row = Planned::new(tx.now, job, &mut Specs::default());
    (row.job.state, row.job.run_at) = (JobState::Blocked, series.shuts_at);
    submit::insert(tx.connection, std::slice::from_ref(&row)).await?;
    Ok(row.job)
}

/// Deals items of one key out to the collection that is open, and to as many more as they need.
async fn collect(
    tx: &mut Tx<'_>,
    jobs: &[NewJob],
    items: &[(usize, &NewJob, &Collect)],
    outcomes: &mut [Option<Outcome>],
) -> Result<(), Fault> {
    static ADD: Bulk = Bulk::new(
        "INSERT INTO series_items (job_id, item, id, namespace, payload) VALUES",
        "(?, ?, ?, ?, ?)",
        "",
    );
    let Some((_, one, rule)) = items.first().copied() else { return Ok(()) };
    let open = find(tx.connection, one, SeriesSort::Collect, &rule.key).await?;
    let (mut shut, mut last) = (Vec::new(), None);
    for part in deal(tx.now, open, items.iter().copied()) {
        let of = part.series.job;
        if let Some(opener) = part.opener {
            // Its own payload is an item like the others.
            let job = NewJob { payload: Value::null(), ..jobs[opener].clone() };
            block(tx, &job, &part.series).await?;
        }
        let numbered: Vec<(u32, usize)> =
            (part.first()..).zip(part.members.iter().copied()).collect();
        ADD.execute(tx.connection, &numbered, |args, (item, n)| {
            args.add(of.as_bytes().as_slice())
                .add(*item)
                .add(jobs[*n].id.as_bytes().as_slice())
                .add(jobs[*n].namespace.as_str())
                .add(item_bytes(&jobs[*n]));
        })
        .await?;
        put(tx.connection, one, &part.series).await?;
        if part.is_over {
            shut.extend(shut_these(tx, &[of]).await?);
        }
        for (item, n) in numbered {
            let (opened, until) = (part.opener == Some(n), part.series.shuts_at);
            let (job, is_over) = (of, part.is_over);
            let collected = Collected { job, item, opened, until, is_over, shut: Vec::new() };
            outcomes[n] = Some(Ok(Accepted::Collected(collected)));
            last = Some(n);
        }
    }
    // Told once, with the last of them.
    if let Some(Some(Ok(Accepted::Collected(last)))) = last.map(|n| &mut outcomes[n]) {
        last.shut = shut;
    }
    Ok(())
}

/// Lets a job through or refuses it, and brings in one that got through.
async fn throttle(tx: &mut Tx<'_>, job: &NewJob, rule: &Throttle) -> Result<Outcome, Fault> {
    let key = || {
        let args = Args::default().with(job.namespace.as_str()).with(job.queue.as_str());
        args.with(rule.key.as_str())
    };
    let sql = "SELECT free_at, job_id FROM throttles WHERE namespace = ? AND queue = ? AND key = ?";
    let mut free_at = tx.now.micros();
    if let Some(found) = row(tx.connection, sql, key()).await? {
        let mut c = Columns::of(&found);
        free_at = free_at.max(c.next()?);
        let ahead = free_at.saturating_sub(tx.now.micros());
        if ahead > tolerance_us(rule.rate) {
            let wait = u64::try_from(ahead - tolerance_us(rule.rate)).unwrap_or(0);
            let (last, wait) = (JobId::from_bytes(c.id()?), Duration::from_micros(wait));
            return Ok(Err(Refused::Throttled { last, wait }));
        }
    }
    let sql = "INSERT INTO throttles (namespace, queue, key, free_at, job_id) VALUES (?, ?, ?, ?, ?) \
               ON CONFLICT DO UPDATE SET free_at = excluded.free_at, job_id = excluded.job_id";
    let args = key()
        .with(free_at.saturating_add(interval_us(rule.rate)))
        .with(job.id.as_bytes().as_slice());
    execute(tx.connection, sql, args).await?;
    queues::ensure_allowed(tx, &job.namespace, &job.queue).await?;
    let mut row = Planned::new(tx.now, job, &mut Specs::default());
    submit::insert(tx.connection, std::slice::from_ref(&row)).await?;
    orders::settle(tx.connection, std::iter::once(&mut row.job)).await?;
    Ok(Ok(Accepted::New(row.job)))
}
