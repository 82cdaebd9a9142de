//! The wire document of a workflow.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use windlass_shared::model::job::{OrderOnFailure, Priority};
use windlass_shared::model::retry::RetryPolicy;
use windlass_shared::model::time::{Span, Timestamp};
use windlass_shared::model::workflow::{RunFailure, StepFailure};

use crate::requests::docs::{DurationText, Tag, TimeoutText};
use crate::requests::job::{ExpectRequest, JobRequest, OrderOnFailureDocs};
use crate::requests::retry::RetryDocs;
use crate::requests::{Change, Text, some_bounded};

/// A workflow to run: its steps, or a stored definition by name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WorkflowRequest)]
pub struct WorkflowRequest<'a> {
    /// For people. Required with `steps`.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 128, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$", example = "nightly-report")]
    pub name: Option<Text<'a>>,
    /// What expressions see as `input`: any JSON, at most 1 MiB.
    #[serde(borrow, default)]
    #[schema(value_type = Option<serde_json::Value>)]
    pub input: Option<&'a RawValue>,
    /// 1 to 10,000 steps.
    #[serde(borrow, default, deserialize_with = "some_bounded::<_, _, 10_000>")]
    #[schema(value_type = Option<Vec<StepRequest<'static>>>, min_items = 1, max_items = 10_000)]
    pub steps: Option<Vec<StepRequest<'a>>>,
    /// The run fails when it has not ended within this time of its start. At most 366 days.
    #[serde(default)]
    #[schema(value_type = Option<DurationText>)]
    pub deadline: Option<Span>,
    /// What a run that fails does with steps that don't depend on the failed one. Default `stop`.
    #[serde(default)]
    #[schema(value_type = Option<RunFailureDocs>)]
    pub on_failure: Option<RunFailure>,
    /// What the run answers: any JSON with `${{ }}` templates. Default: the outputs of the steps that no other
    /// needs, by id.
    #[serde(borrow, default)]
    #[schema(value_type = Option<serde_json::Value>)]
    pub output: Option<&'a RawValue>,
    /// Words to find the run by.
    #[serde(borrow, default, deserialize_with = "some_bounded::<_, _, 20>")]
    #[schema(value_type = Option<Vec<Tag>>, max_items = 20)]
    pub tags: Option<Vec<Text<'a>>>,
    /// The name of a stored definition, in place of `steps`.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9._-]{1,128}$")]
    pub definition: Option<Text<'a>>,
    /// Which version of it. Default: the latest.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub version: Option<u32>,
}

/// What a run that fails does with the steps that don't depend on the failed one.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RunFailure)]
pub enum RunFailureDocs {
    /// Those that have not started are cancelled, those that run are stopped.
    Stop,
    /// They go on to their end.
    LetFinish,
}

/// What a step's failure means for its run.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = StepFailure)]
pub enum StepFailureDocs {
    /// The run fails.
    Fail,
    /// Whatever needs the step is skipped; the rest goes on.
    SkipDependents,
    /// As if it had succeeded with the output `null`.
    Continue,
}

/// A step: a job's fields, and what makes it part of a graph. Steps of the kinds `wait.signal`, `wait.timer`,
/// `wait.approval` and `workflow.run` are no jobs: of the job's fields they have the payload alone.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StepRequest)]
pub struct StepRequest<'a> {
    /// Unique in the workflow.
    #[serde(borrow, default)]
    #[schema(value_type = String, required = true, pattern = "^[A-Za-z0-9._-]{1,128}$", example = "extract")]
    pub id: Option<Text<'a>>,
    /// Ids of the steps that must have ended first.
    #[serde(borrow, default, deserialize_with = "some_bounded::<_, _, 10_000>")]
    #[schema(value_type = Option<Vec<String>>, max_items = 10_000)]
    pub needs: Option<Vec<Text<'a>>>,
    /// CEL over `input`, `run` and `steps.<id>`; false skips the step.
    #[serde(borrow, default, rename = "if")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 4096)]
    pub condition: Option<Text<'a>>,
    /// CEL that yields a list: one job per item, with `item` and `index` in scope.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 4096)]
    pub for_each: Option<Text<'a>>,
    /// Most jobs of a `for_each` at one time. Default: no bound.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 10_000)]
    pub max_parallel: Option<u32>,
    /// What its failure means for the run. Default `fail`.
    #[serde(default)]
    #[schema(value_type = Option<StepFailureDocs>)]
    pub on_failure: Option<StepFailure>,
    /// A job that undoes this one, when the run fails after it has succeeded. Of steps that are jobs.
    #[serde(borrow, default)]
    #[schema(value_type = Option<JobRequest<'static>>)]
    pub compensate: Option<Box<JobRequest<'a>>>,
    /// Selects the handler, or what the step waits for.
    #[serde(borrow, default)]
    #[schema(value_type = String, required = true, pattern = "^[A-Za-z0-9._:-]{1,128}$", example = "http.request")]
    pub kind: Option<Text<'a>>,
    /// Of a job: any JSON, whose strings may hold `${{ expr }}`. Of `wait.signal`: `{"name", "timeout"}`; of
    /// `wait.timer`: `{"for"}` or `{"until"}`; of `wait.approval`: `{"required", "roles", "expires", "message"}`;
    /// of `workflow.run`: `{"definition", "version", "input"}` or `{"workflow", "input"}`.
    #[serde(borrow, default)]
    #[schema(value_type = Option<serde_json::Value>)]
    pub payload: Option<&'a RawValue>,
    /// As of a job.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    pub queue: Option<Text<'a>>,
    /// As of a job.
    #[serde(default)]
    #[schema(value_type = Option<u8>, minimum = 0, maximum = 9)]
    pub priority: Option<Priority>,
    /// Not before this time from its release.
    #[serde(default)]
    #[schema(value_type = Option<DurationText>)]
    pub delay: Option<Span>,
    /// As of a job.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1000)]
    pub max_attempts: Option<u32>,
    /// As of a job.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1000)]
    pub max_crashes: Option<u32>,
    /// Limit of one attempt, as of a job.
    #[serde(default)]
    #[schema(value_type = Option<TimeoutText>)]
    pub timeout: Option<Span>,
    /// As of a job.
    #[serde(default)]
    #[schema(value_type = Option<RetryDocs>)]
    pub retry: Option<RetryPolicy>,
    /// Not started within this time of its release: `expired`.
    #[serde(default)]
    #[schema(value_type = Option<DurationText>)]
    pub ttl: Option<Span>,
    /// As of a job.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255)]
    pub concurrency_key: Option<Text<'a>>,
    /// As of a job.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255)]
    pub rate_limit_key: Option<Text<'a>>,
    /// As of a job.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub rate_limit_units: Option<u32>,
    /// As of a job.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255)]
    pub fairness_key: Option<Text<'a>>,
    /// As of a job.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255)]
    pub order_key: Option<Text<'a>>,
    /// As of a job.
    #[serde(default)]
    #[schema(value_type = Option<OrderOnFailureDocs>)]
    pub order_on_failure: Option<OrderOnFailure>,
    /// As of a job.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1000)]
    pub weight: Option<u32>,
    /// As of a job.
    #[serde(default)]
    pub exclusive: Option<bool>,
    /// As of a job.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    pub circuit: Change<Text<'a>>,
    /// As of a job.
    #[serde(borrow, default)]
    #[schema(value_type = Option<ExpectRequest<'static>>)]
    pub expect: Option<ExpectRequest<'a>>,
    /// As of a job.
    #[serde(borrow, default, deserialize_with = "some_bounded::<_, _, 20>")]
    #[schema(value_type = Option<Vec<Tag>>, max_items = 20)]
    pub tags: Option<Vec<Text<'a>>>,
    /// As of a job.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Object>)]
    pub meta: Option<&'a RawValue>,
    /// Not of steps: refused with a reason of its own.
    #[serde(default)]
    #[schema(ignore)]
    pub unique: Option<IgnoredAny>,
    /// As `unique`.
    #[serde(default)]
    #[schema(ignore)]
    pub debounce: Option<IgnoredAny>,
    /// As `unique`.
    #[serde(default)]
    #[schema(ignore)]
    pub throttle: Option<IgnoredAny>,
    /// As `unique`.
    #[serde(default)]
    #[schema(ignore)]
    pub collect: Option<IgnoredAny>,
    /// As `unique`.
    #[serde(default)]
    #[schema(ignore)]
    pub run_at: Option<Timestamp>,
    /// As `unique`.
    #[serde(default)]
    #[schema(ignore)]
    pub expires_at: Option<Timestamp>,
}

impl<'a> StepRequest<'a> {
    /// The ids that it needs, as given.
    pub fn needs(&self) -> Vec<String> {
        self.needs.iter().flatten().map(|need| need.as_str().to_owned()).collect()
    }

    /// Names of the job's fields that are given, but for kind and payload.
    pub fn job_fields(&self) -> Vec<&'static str> {
        [
            ("queue", self.queue.is_some()),
            ("priority", self.priority.is_some()),
            ("delay", self.delay.is_some()),
            ("max_attempts", self.max_attempts.is_some()),
            ("max_crashes", self.max_crashes.is_some()),
            ("timeout", self.timeout.is_some()),
            ("retry", self.retry.is_some()),
            ("ttl", self.ttl.is_some()),
            ("concurrency_key", self.concurrency_key.is_some()),
            ("rate_limit_key", self.rate_limit_key.is_some()),
            ("rate_limit_units", self.rate_limit_units.is_some()),
            ("fairness_key", self.fairness_key.is_some()),
            ("order_key", self.order_key.is_some()),
            ("order_on_failure", self.order_on_failure.is_some()),
            ("weight", self.weight.is_some()),
            ("exclusive", self.exclusive.is_some()),
            ("circuit", self.circuit != Change::Keep),
            ("expect", self.expect.is_some()),
            ("tags", self.tags.is_some()),
            ("meta", self.meta.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect()
    }

    /// The step as a job, without what a job has not.
    pub fn into_job(self) -> JobRequest<'a> {
        JobRequest {
            kind: self.kind,
            payload: self.payload,
            queue: self.queue,
            priority: self.priority,
            run_at: None,
            delay: self.delay,
            max_attempts: self.max_attempts,
            max_crashes: self.max_crashes,
            timeout: self.timeout,
            retry: self.retry,
            expires_at: None,
            ttl: self.ttl,
            unique: None,
            debounce: None,
            throttle: None,
            collect: None,
            concurrency_key: self.concurrency_key,
            rate_limit_key: self.rate_limit_key,
            rate_limit_units: self.rate_limit_units,
            fairness_key: self.fairness_key,
            order_key: self.order_key,
            order_on_failure: self.order_on_failure,
            weight: self.weight,
            exclusive: self.exclusive,
            circuit: self.circuit,
            expect: self.expect,
            tags: self.tags,
            meta: self.meta,
        }
    }
}
