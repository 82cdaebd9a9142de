//! What becomes of submissions: decided in order, one job after the other, without touching the database.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::holds::{Hold, HoldKey};
use super::quotas::Doors;
use super::statement::Args;
use super::{Accepted, Idempotency, Refused, Submission, SubmitOutcome, unfit_text};
use crate::ledger::quotas::Exceeded;
use crate::ledger::unfinished::group_of;
use crate::limits::IDEMPOTENCY_TTL;
use crate::model::id::{Fence, JobId};
use crate::model::job::{Job, JobSpec, JobState, NewJob, OnConflict, Unique, Value};
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;

/// What the tables hold that matters to the submissions.
pub(super) struct Found {
    pub(super) keys: HashMap<(Namespace, String), KeyRow>,
    pub(super) holds: HashMap<HoldKey, Hold>,
    /// Jobs named by `keys` that are still there.
    pub(super) existing: HashSet<JobId>,
    /// Queues that do not exist and may not be made.
    pub(super) closed: HashSet<(Namespace, QueueName)>,
    /// Doors that what comes in has to pass.
    pub(super) doors: Doors,
}

/// What an idempotency key stands for.
#[derive(Clone)]
pub(super) struct KeyRow {
    pub(super) body_hash: [u8; 32],
    pub(super) ids: Vec<Option<JobId>>,
    pub(super) created_at: Timestamp,
}

/// What is to be written, and what is to be answered once it is.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) rows: Vec<Planned>,
    /// Keys with their new holders.
    pub(super) holds: Vec<(HoldKey, Hold)>,
    /// Cancelled jobs, each with the one that took its key.
    pub(super) replaced: Vec<(JobId, JobId)>,
    pub(super) keys: Vec<((Namespace, String), KeyRow)>,
    /// As they are once all have passed.
    pub(super) doors: Doors,
    answers: Vec<Answer>,
}

enum Answer {
    Done(Vec<Decided>),
    /// Its key was used before.
    Before(SubmitOutcome),
    OverQuota(Exceeded),
}

/// What becomes of one job.
enum Decided {
    /// The row at this place.
    New(usize),
    Replaced(usize, JobId),
    Existing(JobId),
    Refused(Refused),
}

/// A job on its way into the table.
pub(super) struct Planned {
    pub(super) job: Job,
    spec: Arc<str>,
    unique_until: Option<i64>,
}

/// The rules of the latest job as JSON: those that come together mostly have the same.
#[derive(Default)]
pub(super) struct Specs {
    latest: Option<(JobSpec, Arc<str>)>,
}

impl Specs {
    fn text(&mut self, spec: &JobSpec) -> Arc<str> {
        if let Some((latest, text)) = &self.latest
            && latest == spec
        {
            return Arc::clone(text);
        }
        let text = serde_json::to_string(spec).expect("rules are plain data and always serialise");
        let text: Arc<str> = text.into();
        self.latest = Some((spec.clone(), Arc::clone(&text)));
        text
    }
}

impl Planned {
    pub(super) fn new(now: Timestamp, job: &NewJob, specs: &mut Specs) -> Self {
        let (run_at, expires_at) = job.times(now);
        Self {
            spec: specs.text(&job.spec),
            unique_until: unique_until(now, job.unique.as_ref()).map(Timestamp::micros),
            job: Job {
                id: job.id,
                namespace: job.namespace.clone(),
                queue: job.queue.clone(),
                kind: job.kind.clone(),
                state: if run_at > now { JobState::Scheduled } else { JobState::Ready },
                priority: job.priority,
                payload: job.payload.clone(),
                spec: job.spec.clone(),
                fence: Fence(0),
                attempt: 0,
                crashes: 0,
                run_at,
                created_at: now,
                started_at: None,
                finished_at: None,
                expires_at,
                output: None,
                error: None,
                worker: None,
                workflow: None,
                tags: job.tags.clone(),
                meta: job.meta.clone(),
                unique_key: job.unique.as_ref().map(|unique| unique.key.clone()),
                cancel_requested: false,
                progress: None,
                request_id: job.request_id.clone(),
                traceparent: job.traceparent.clone(),
            },
        }
    }

    /// Adds the row's values in the order of the insert's columns.
    pub(super) fn bind(args: &mut Args, row: &Self) {
        let job = &row.job;
        let (blob, inline) = match &job.payload {
            Value::Inline(bytes) => (None, Some(bytes.as_ref())),
            Value::Blob(id) => (Some(id.as_bytes().as_slice()), None),
        };
        args.add(job.id.as_bytes().as_slice())
            .add(job.state as i16)
            .add(job.namespace.as_str())
            .add(job.queue.as_str())
            .add(job.kind.as_str())
            .add(job.unique_key.as_deref())
            .add(row.unique_until)
            .add(job.run_at.micros())
            .add(job.created_at.micros())
            .add(job.created_at.micros())
            .add(job.expires_at.map(Timestamp::micros))
            .add(job.priority.level())
            .add(tags_text(&job.tags))
            .add(job.request_id.as_deref())
            .add(job.traceparent.as_deref())
            .add(job.meta.as_deref())
            .add(Arc::clone(&row.spec))
            .add(blob)
            .add(inline)
            .add(job.spec.order_key.as_deref())
            .add(group_of(&job.spec, &job.kind));
    }
}

/// Tags as the table has them.
pub(super) fn tags_text(tags: &[String]) -> Option<String> {
    (!tags.is_empty()).then(|| serde_json::to_string(tags).expect("words always serialise"))
}

/// The jobs of a key, 16 bytes each; zeros: refused.
pub(super) fn pack(ids: &[Option<JobId>]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.map_or([0; 16], |id| *id.as_bytes())).collect()
}

/// The reverse of [`pack`].
pub(super) fn unpack(bytes: &[u8]) -> Vec<Option<JobId>> {
    let (ids, _) = bytes.as_chunks::<16>();
    ids.iter().map(|id| (*id != [0; 16]).then(|| JobId::from_bytes(*id))).collect()
}

fn unique_until(now: Timestamp, unique: Option<&Unique>) -> Option<Timestamp> {
    Some(now.plus(unique?.window?))
}

/// Decides over all submissions, each seeing what those before it do. `bad` are rows that the database is
/// known to refuse, by submission and place.
pub(super) fn plan(
    now: Timestamp,
    submissions: &[&Submission],
    found: Found,
    bad: &HashMap<(usize, usize), String>,
) -> Plan {
    let mut planner = Planner {
        now,
        found,
        bad,
        specs: Specs::default(),
        plan: Plan::default(),
        undo: Vec::new(),
    };
    for (at, submission) in submissions.iter().enumerate() {
        planner.submission(at, submission);
    }
    planner.plan.doors = planner.found.doors;
    planner.plan
}

/// The answer to an earlier submission with the same key.
pub(super) fn replayed(
    now: Timestamp,
    found: &Found,
    submission: &Submission,
) -> Option<SubmitOutcome> {
    let (key, first) = (submission.idempotency.as_ref()?, submission.jobs.first()?);
    let row = found.keys.get(&(first.namespace.clone(), key.key.clone()))?;
    if row.created_at.plus(IDEMPOTENCY_TTL) < now {
        return None;
    }
    if row.body_hash != key.body_hash {
        return Some(SubmitOutcome::KeyReused);
    }
    let existing = |id: &JobId| found.existing.contains(id);
    Some(SubmitOutcome::Replayed(row.ids.iter().map(|id| id.filter(existing)).collect()))
}

struct Planner<'b> {
    now: Timestamp,
    found: Found,
    bad: &'b HashMap<(usize, usize), String>,
    specs: Specs,
    plan: Plan,
    /// Holds that the submission at hand changed, with what was there before.
    undo: Vec<(HoldKey, Option<Hold>)>,
}

impl Planner<'_> {
    fn submission(&mut self, at: usize, submission: &Submission) {
        if let Some(outcome) = replayed(self.now, &self.found, submission) {
            self.plan.answers.push(Answer::Before(outcome));
            return;
        }
        let namespace = submission.jobs.first().map(|job| &job.namespace);
        let key = submission.idempotency.as_ref().zip(namespace);
        self.undo.clear();
        let mark = (self.plan.rows.len(), self.plan.holds.len(), self.plan.replaced.len());
        let jobs = submission.jobs.iter().enumerate();
        let mut decided: Vec<Decided> =
            jobs.map(|(place, job)| self.job((at, place), job)).collect();
        if submission.atomic && decided.iter().any(|d| matches!(d, Decided::Refused(_))) {
            self.take_back(mark);
            for decided in &mut decided {
                if !matches!(decided, Decided::Refused(_)) {
                    *decided = Decided::Refused(Refused::Batch);
                }
            }
        }
        // What brings nothing in pays nothing.
        let comes_in = |d: &Decided| matches!(d, Decided::New(_) | Decided::Replaced(..));
        if decided.iter().any(comes_in)
            && let Err(exceeded) = self.found.doors.admit(self.now, &submission.jobs)
        {
            self.take_back(mark);
            self.plan.answers.push(Answer::OverQuota(exceeded));
            return;
        }
        if let Some((key, namespace)) = key {
            self.spend(namespace, key, &decided);
        }
        self.plan.answers.push(Answer::Done(decided));
    }

    /// Notes what the key stands for from now on; a submission of which nothing came spends no key.
    fn spend(&mut self, namespace: &Namespace, key: &Idempotency, decided: &[Decided]) {
        let ids: Vec<Option<JobId>> = decided
            .iter()
            .map(|decided| match decided {
                Decided::New(row) | Decided::Replaced(row, _) => Some(self.plan.rows[*row].job.id),
                Decided::Existing(id) => Some(*id),
                Decided::Refused(_) => None,
            })
            .collect();
        if ids.iter().all(Option::is_none) {
            return;
        }
        self.found.existing.extend(ids.iter().flatten());
        let at = (namespace.clone(), key.key.clone());
        let row = KeyRow { body_hash: key.body_hash, ids, created_at: self.now };
        self.found.keys.insert(at.clone(), row.clone());
        self.plan.keys.push((at, row));
    }

    fn job(&mut self, place: (usize, usize), job: &NewJob) -> Decided {
        let known = self.bad.get(&place).cloned();
        if let Some(why) = known.or_else(|| unfit_text(job).map(str::to_owned)) {
            return Decided::Refused(Refused::BadData(why));
        }
        if !self.found.closed.is_empty()
            && self.found.closed.contains(&(job.namespace.clone(), job.queue.clone()))
        {
            return Decided::Refused(Refused::TooManyQueues);
        }
        let row = self.plan.rows.len();
        let Some(unique) = &job.unique else {
            self.plan.rows.push(Planned::new(self.now, job, &mut self.specs));
            return Decided::New(row);
        };
        let key = (job.namespace.clone(), job.queue.clone(), unique.key.clone());
        let holder = self.found.holds.get(&key).filter(|hold| hold.lasts(self.now)).copied();
        let decided = match (holder, unique.on_conflict) {
            (None, _) => Decided::New(row),
            (Some(holder), OnConflict::ReturnExisting) => return Decided::Existing(holder.job),
            (Some(holder), OnConflict::Replace) if holder.is_waiting => {
                self.plan.replaced.push((holder.job, job.id));
                Decided::Replaced(row, holder.job)
            }
            (Some(holder), OnConflict::Reject | OnConflict::Replace) => {
                return Decided::Refused(Refused::UniqueKeyHeld { holder: holder.job });
            }
        };
        self.plan.rows.push(Planned::new(self.now, job, &mut self.specs));
        let until = unique_until(self.now, Some(unique));
        let hold = Hold { job: job.id, until, is_waiting: true };
        self.plan.holds.push((key.clone(), hold));
        self.undo.push((key.clone(), self.found.holds.insert(key, hold)));
        decided
    }

    /// Undoes the submission at hand.
    fn take_back(&mut self, (rows, holds, replaced): (usize, usize, usize)) {
        self.plan.rows.truncate(rows);
        self.plan.holds.truncate(holds);
        self.plan.replaced.truncate(replaced);
        for (key, before) in self.undo.drain(..).rev() {
            match before {
                Some(hold) => self.found.holds.insert(key, hold),
                None => self.found.holds.remove(&key),
            };
        }
    }
}

impl Plan {
    /// The answers, once everything is written.
    pub(super) fn outcomes(self) -> Vec<SubmitOutcome> {
        let mut jobs: Vec<Option<Job>> = self.rows.into_iter().map(|row| Some(row.job)).collect();
        let mut take = |row: usize| jobs[row].take().expect("each row is one job's");
        let mut settle = |decided| match decided {
            Decided::New(row) => Ok(Accepted::New(take(row))),
            Decided::Replaced(row, old) => Ok(Accepted::Replaced(take(row), old)),
            Decided::Existing(id) => Ok(Accepted::Existing(id)),
            Decided::Refused(why) => Err(why),
        };
        let answers = self.answers.into_iter().map(|answer| match answer {
            Answer::Done(decided) => {
                SubmitOutcome::Done(decided.into_iter().map(&mut settle).collect())
            }
            Answer::Before(outcome) => outcome,
            Answer::OverQuota(exceeded) => SubmitOutcome::OverQuota(exceeded),
        });
        answers.collect()
    }
}
