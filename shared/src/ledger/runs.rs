//! What the ledger keeps of workflows, and the words in which a run moves on.
//!
//! A run is rows: one of its own, one per step, and one more at [`END`], which needs every step that no other
//! needs. Each step that ends lowers `needs_left` of its dependents once, in the transaction that ends it:
//! * a single job's success in the recorder's ([`super::Ledger::record`]), which also releases the *plain*
//!   dependents that wait for nothing more;
//! * everything else in [`super::Ledger::advance`], which carries out what `lifecycle::workflow` decided over a
//!   [`Snapshot`].
//!
//! What needs such a decision is *due*: `due` counts reasons, and an advance takes off those that it had seen, so
//! that none is lost between the two.

use bytes::Bytes;

use super::Idempotency;
use crate::model::id::{JobId, WorkflowId};
use crate::model::job::{Job, JobError, JobState, NewJob, Value};
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;
use crate::model::workflow::{StepState, WorkflowState};

/// Position of the row that stands for the end of a run.
pub const END: i32 = -1;

/// A run on its way into the ledger, with all its rows.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Drawn by the submitter.
    pub id: WorkflowId,
    /// Whose.
    pub namespace: Namespace,
    /// For people.
    pub name: String,
    /// The stored definition that it runs; `None`: `document` is its own.
    pub definition: Option<(String, u32)>,
    /// [`crate::model::workflow::WorkflowSpec`] as JSON, where there is no definition.
    pub document: Option<String>,
    /// [`crate::lifecycle::workflow::decide::Options`] as JSON: what decisions need of the document.
    pub options: String,
    /// What `input` is in expressions.
    pub input: Value,
    /// It fails when not ended by then (ledger time).
    pub deadline: Option<Timestamp>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// The step that started it.
    pub parent: Option<Parent>,
    /// How many runs are above it.
    pub depth: u16,
    /// The run that it repeats.
    pub rerun_of: Option<WorkflowId>,
    /// The request that made it.
    pub request_id: Option<String>,
    /// W3C trace context of that request.
    pub traceparent: Option<String>,
    /// All of its steps, and the end.
    pub steps: Vec<NewStep>,
    /// The caller's `Idempotency-Key`.
    pub idempotency: Option<Idempotency>,
}

/// The step of another run that started a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// That run.
    pub run: WorkflowId,
    /// Its step.
    pub ord: i32,
    /// Which item, of a `for_each`.
    pub item: Option<u32>,
}

/// A step on its way into the ledger.
#[derive(Debug, Clone)]
pub struct NewStep {
    /// Its position, or [`END`].
    pub ord: i32,
    /// Its id.
    pub id: String,
    /// Steps that must have ended first.
    pub needs: Vec<i32>,
    /// Steps that need it.
    pub dependents: Vec<i32>,
    /// [`StepState::Blocked`], or [`StepState::Released`] with a job that may run.
    pub state: StepState,
    /// See [`crate::model::workflow::StepSpec::is_plain`].
    pub plain: bool,
    /// It has a `for_each`.
    pub many: bool,
    /// It has a `max_parallel`.
    pub paced: bool,
    /// It needs nothing and is not plain.
    pub due: bool,
    /// Its job, of a step with one; blocked until released.
    pub job: Option<NewJob>,
    /// Queues of jobs that it may get later: of its items, of what undoes it. They are made with the step, so that
    /// their number is looked at while the run can still be refused.
    pub later: Vec<QueueName>,
    /// [`crate::model::workflow::StepSpec`] as JSON.
    pub spec: String,
}

impl NewStep {
    /// The queues of every job that it has or may get.
    pub(super) fn queues(&self) -> impl Iterator<Item = &QueueName> {
        self.job.iter().map(|job| &job.queue).chain(&self.later)
    }
}

/// What became of a [`NewRun`].
#[derive(Debug, Clone, PartialEq)]
pub enum CreateOutcome {
    /// It is durable; its jobs that may run now.
    Created(Vec<Job>),
    /// The key was used before with the same body, or there is a run with this id, or the step has started this run
    /// already: nothing is changed.
    Replayed(WorkflowId),
    /// The key was used before with another body.
    KeyReused,
    /// The step that was to start it has moved on.
    ParentGone,
    /// A quota of the namespace has no room for its jobs. Nothing of it is there, and its key is not spent.
    OverQuota(super::quotas::Exceeded),
}

/// A run on record.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its id.
    pub id: WorkflowId,
    /// Whose.
    pub namespace: Namespace,
    /// For people.
    pub name: String,
    /// Rises with every advance.
    pub version: u64,
    /// What it does.
    pub state: WorkflowState,
    /// The state it takes when what still runs has ended; `None` while it goes forward.
    pub ending: Option<WorkflowState>,
    /// The stored definition that it runs.
    pub definition: Option<(String, u32)>,
    /// Its own document, where there is no definition.
    pub document: Option<String>,
    /// See [`NewRun::options`].
    pub options: String,
    /// What `input` is in expressions.
    pub input: Value,
    /// What it answers.
    pub output: Option<Value>,
    /// Why it failed or was stopped.
    pub error: Option<JobError>,
    /// Steps, without the end.
    pub steps: u32,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Accepted at.
    pub created_at: Timestamp,
    /// Ended at.
    pub finished_at: Option<Timestamp>,
    /// It fails when not ended by then.
    pub deadline: Option<Timestamp>,
    /// The step that started it.
    pub parent: Option<Parent>,
    /// How many runs are above it.
    pub depth: u16,
    /// The run that it repeats.
    pub rerun_of: Option<WorkflowId>,
    /// The request that made it.
    pub request_id: Option<String>,
    /// W3C trace context of that request.
    pub traceparent: Option<String>,
}

/// A step on record.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its position, or [`END`].
    pub ord: i32,
    /// Its id.
    pub id: String,
    /// What it does.
    pub state: StepState,
    /// Reasons to look at it.
    pub due: u64,
    /// Look at it then.
    pub wake_at: Option<Timestamp>,
    /// Steps that must have ended first.
    pub needs: Vec<i32>,
    /// Steps that need it.
    pub dependents: Vec<i32>,
    /// How many of its needs have not ended.
    pub needs_left: u32,
    /// See [`NewStep::plain`].
    pub plain: bool,
    /// It has a `for_each`.
    pub many: bool,
    /// Counts of a `for_each`.
    pub items: Items,
    /// Its job, of a step with one.
    pub job_id: Option<JobId>,
    /// [`crate::model::workflow::StepSpec`] as JSON.
    pub spec: String,
    /// The list of a `for_each`.
    pub list: Option<Bytes>,
    /// Of a step without a job.
    pub output: Option<Bytes>,
    /// Why it did not succeed.
    pub error: Option<JobError>,
    /// Released at (ledger time).
    pub started_at: Option<Timestamp>,
    /// Ended at (ledger time, so that of two steps of which one needs the other it tells which).
    pub finished_at: Option<Timestamp>,
}

/// Counts of a `for_each`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Items {
    /// All.
    pub total: u32,
    /// Those with a job.
    pub made: u32,
    /// Those that have not ended, whether made or not.
    pub open: u32,
    /// Those that ended otherwise than well.
    pub failed: u32,
}

/// A job of a step, as far as workflows look at it.
#[derive(Debug, Clone, PartialEq)]
pub struct StepJob {
    /// Whose step's.
    pub ord: i32,
    /// Which item.
    pub item: Option<u32>,
    /// Which job.
    pub id: JobId,
    /// The recorded state.
    pub state: JobState,
    /// What it returned.
    pub output: Option<Value>,
    /// Why it did not succeed.
    pub error: Option<JobError>,
}

/// What an advance decides over.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The run.
    pub run: Run,
    /// Its steps that are due, or whose `wake_at` has passed, in order of position; at most [`DUE_MAX`].
    pub due: Vec<Step>,
    /// Ledger time.
    pub now: Timestamp,
}

/// Most due steps of one [`Snapshot`].
pub const DUE_MAX: u32 = 500;

/// A decision, carried out whole or not at all.
#[derive(Debug, Clone, Default)]
pub struct Advance {
    /// The version that it was decided over.
    pub version: u64,
    /// New state of the run.
    pub state: Option<WorkflowState>,
    /// New `ending`; never taken back but by a retry.
    pub ending: Option<WorkflowState>,
    /// Why.
    pub error: Option<JobError>,
    /// What the run answers.
    pub output: Option<Value>,
    /// Everything that has not started ends as cancelled, the end waits for what runs, what waits is due, and the items
    /// that were not made are not waited for. It comes before the moves: none of them may be from
    /// [`StepState::Blocked`], but of the end.
    pub stop: bool,
    /// Steps that move.
    pub moves: Vec<Move>,
    /// Jobs that may run from now on, or from their `run_at`: the payloads of blocked ones are filled in, those of a
    /// `for_each` are made.
    pub releases: Vec<Release>,
    /// Steps that come in: compensations, or what a step adds. Those that they need and that have ended already are
    /// not waited for: with none left a plain one is released, and another is due. Where one comes before a step that
    /// has started, or needs one that is not there, nothing of the advance is carried out. Where they would make one
    /// queue too many the advance fails, unless it has a `state` too: a run that undoes what it did is not held up.
    pub added: Vec<NewStep>,
    /// Steps that the end waits for from now on, where they have not ended: what needed them is skipped.
    pub awaits: Vec<i32>,
    /// Signals of the run that are used up, by `seq`. Votes among them stay.
    pub taken: Vec<u64>,
}

/// How one step moves.
#[derive(Debug, Clone)]
pub struct Move {
    /// Which.
    pub ord: i32,
    /// Where it was.
    pub from: StepState,
    /// Where it goes; a terminal state lowers its dependents, and a blocked job of it ends as cancelled.
    pub to: StepState,
    /// Reasons that the snapshot had shown.
    pub seen: u64,
    /// Of a step without a job.
    pub output: Option<Bytes>,
    /// Why it did not succeed.
    pub error: Option<JobError>,
    /// Look at it then; `None` takes an earlier one back.
    pub wake_at: Option<Timestamp>,
    /// The list of a `for_each` that starts, and its length.
    pub list: Option<(Bytes, u32)>,
}

/// A job that may run.
#[derive(Debug, Clone)]
pub enum Release {
    /// The blocked job of a step.
    Blocked {
        /// Which.
        id: JobId,
        /// Its payload, filled in; `None` leaves it as it is.
        payload: Option<Value>,
        /// Not before.
        run_at: Timestamp,
        /// Not started by then: expired.
        expires_at: Option<Timestamp>,
    },
    /// A new one, of an item.
    Item {
        /// Whose step's.
        ord: i32,
        /// Which item.
        item: u32,
        /// The step's id.
        step: String,
        /// The job.
        job: Box<NewJob>,
    },
}

/// What became of an [`Advance`].
#[derive(Debug, Clone, PartialEq)]
pub enum Advanced {
    /// Done; the jobs that may run now, and whether more is due.
    Done {
        /// To be pushed.
        released: Vec<Job>,
        /// Steps became due through it.
        more: bool,
    },
    /// Somebody else advanced the run: look again.
    Conflict,
}

/// What a batch of outcomes has led to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RecordReply {
    /// One per record, in order.
    pub replies: Vec<super::Recorded>,
    /// Jobs of workflow steps that may run now; to be pushed. What could not be read back is left out, and comes by
    /// the sweep.
    pub released: Vec<Job>,
    /// Runs with something to be decided over, each once.
    pub due: Vec<WorkflowId>,
}

/// Which runs a list means. Empty fields don't filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// In any of these states; [`WorkflowState::Waiting`] is never on record and matches nothing.
    pub states: Vec<WorkflowState>,
    /// With this name.
    pub name: Option<String>,
    /// Of this stored definition.
    pub definition: Option<String>,
    /// With all of these tags.
    pub tags: Vec<String>,
    /// Accepted at or after.
    pub created_after: Option<Timestamp>,
    /// Accepted before.
    pub created_before: Option<Timestamp>,
}

/// A signal or a vote on its way into the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct NewGiven {
    /// The signal's name, or the id of the step that is voted on.
    pub name: String,
    /// Who.
    pub by: String,
    /// Their role.
    pub role: Option<String>,
    /// `None`: a signal.
    pub approved: Option<bool>,
    /// In words.
    pub reason: Option<String>,
    /// What a signal brings, as JSON.
    pub body: Option<Bytes>,
}

/// Most signals and votes of one run.
pub const GIVEN_MAX: u32 = 1_000;

/// What became of a change to a run. `T` is what it yields.
#[derive(Debug, Clone, PartialEq)]
pub enum RunChanged<T> {
    /// Done.
    Done(T),
    /// The run's state does not allow it.
    Refused(WorkflowState),
    /// No such run in the namespace.
    Unknown,
    /// The run has [`GIVEN_MAX`] signals and votes already.
    Full,
}

/// One step that goes back to where it can run again, for [`super::Ledger::retry_run`].
#[derive(Debug, Clone, PartialEq)]
pub struct Reset {
    /// Which; [`END`] with its new `needs_left`.
    pub ord: i32,
    /// [`StepState::Blocked`], or [`StepState::Released`] for one whose jobs may run at once.
    pub to: StepState,
    /// How many of its needs have not ended, once all resets are done.
    pub needs_left: u32,
    /// It is to be looked at.
    pub due: bool,
    /// Jobs that get a fresh budget and a higher fence: ready where `to` is released, blocked otherwise.
    pub jobs: Vec<JobId>,
    /// Of a `for_each` that keeps its list and the results of its other items: the items that have not ended now.
    /// `None`: its list and its items, if any, are forgotten.
    pub items_open: Option<u32>,
}

/// A stored definition, one version of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// Whose.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
    /// From 1; given by the ledger.
    pub version: u32,
    /// Ledger time; set by the ledger.
    pub created_at: Timestamp,
    /// Who put it.
    pub by: String,
    /// [`crate::model::workflow::WorkflowSpec`] as JSON.
    pub document: String,
    /// As it was put.
    pub source: String,
}

/// The latest partial result of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The lease that stored it.
    pub fence: crate::model::id::Fence,
    /// Ledger time.
    pub at: Timestamp,
    /// JSON.
    pub data: Bytes,
}

/// A signal or a vote, as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// Its place among those of the run.
    pub seq: u64,
    /// When (ledger time).
    pub at: Timestamp,
    /// The signal's name, or the id of the step that is voted on.
    pub name: String,
    /// Who.
    pub by: String,
    /// Their role.
    pub role: Option<String>,
    /// `None`: a signal.
    pub approved: Option<bool>,
    /// In words.
    pub reason: Option<String>,
    /// What a signal brings.
    pub body: Option<Bytes>,
}

/// A run that a step has started.
#[derive(Debug, Clone, PartialEq)]
pub struct ChildSeen {
    /// Which.
    pub id: WorkflowId,
    /// How it is.
    pub state: WorkflowState,
    /// What it answers, once it has succeeded.
    pub output: Option<Bytes>,
    /// Why it did not.
    pub error: Option<JobError>,
}
