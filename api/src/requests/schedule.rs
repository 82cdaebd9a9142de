//! Schedules as submitted and changed: one shape for both, checked once, then laid over what there is.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use windlass_shared::model::schedule::cron::Pattern;
use windlass_shared::model::schedule::times::{Gap, Repeat, Timing, Zone};
use windlass_shared::model::schedule::{
    CatchUp, CatchUpPolicy, Dates, EVERY_MAX, EVERY_MIN, EXCLUDES_MAX, GRACE_MAX, GRACE_MIN,
    JITTER_MAX, Overlap, ScheduleSpec, ScheduledWork,
};
use windlass_shared::model::time::{Span, Timestamp};

use super::docs::{DayText, DurationText};
use super::job::JobRequest;
use super::{Change, Faults, Text, bounded};
use crate::error::ApiError;
use crate::requests::workflow::Context;
use crate::requests::workflow::shape::WorkflowRequest;

mod work;

pub use work::queues;

/// Longest description, in bytes.
const DESCRIPTION_BYTES_MAX: usize = 1_000;
/// Most due times that are made good at once.
const CATCH_UP_MAX: u32 = 1_000;
/// Most fires in a row that may fail before a pause.
const FAILURES_MAX: u32 = 1_000;

/// A schedule. Of a new one `name`, one of `cron` and `every`, and one of `job` and `workflow` are required; of a change
/// absent fields stay, and `null` is the default again where there is one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ScheduleRequest)]
pub struct ScheduleRequest<'a> {
    /// Unique. Cannot be changed.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, pattern = "^[a-z0-9._-]{1,64}$", example = "nightly-report")]
    pub name: Option<Text<'a>>,
    /// Five fields (minute, hour, day of month, month, weekday), six with seconds in front, or `@yearly`, `@monthly`,
    /// `@weekly`, `@daily`, `@hourly`. Where day of month and weekday both say something, either does.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 256, example = "30 2 * * *")]
    cron: Option<Text<'a>>,
    /// An interval in place of `cron`, counted from `start_at`, else from now: 1 s to 366 days.
    #[serde(default)]
    #[schema(value_type = Option<DurationText>)]
    every: Option<Span>,
    /// A zone of the IANA database. Default `UTC`.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 64, example = "Europe/Berlin")]
    timezone: Change<Text<'a>>,
    /// What happens to times of `cron` where clocks are put forward or back.
    #[serde(default)]
    #[schema(value_type = Option<DstRequest>)]
    dst: Change<DstRequest>,
    /// What happens when the work of an earlier fire has not ended. Default `skip`.
    #[serde(default)]
    #[schema(value_type = Option<OverlapDocs>)]
    overlap: Change<Overlap>,
    /// What happens to due times that nobody was there for.
    #[serde(default)]
    #[schema(value_type = Option<CatchUpRequest>)]
    catch_up: Change<CatchUpRequest>,
    /// Each fire comes up to this much later, but not past the next due time, and always the same for the same due
    /// time; at most 1 day.
    #[serde(default)]
    #[schema(value_type = Option<DayText>)]
    jitter: Change<Span>,
    /// Not due before.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    start_at: Change<Timestamp>,
    /// Not due after.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    end_at: Change<Timestamp>,
    /// Dates of the zone on which nothing is fired, such as `2026-12-25` or `2026-12-24/2027-01-01`. At most 400.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Vec<String>>, max_items = 400)]
    exclude: Change<Excluded<'a>>,
    /// So many fires in a row that failed pause the schedule.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    pause_on_failure: Change<u32>,
    /// For people, at most 1,000 bytes.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 1000, pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$")]
    description: Change<Text<'a>>,
    /// What a fire submits. Strings of its payload may hold `${{ run.scheduled_at }}` and `${{ run.schedule }}`. It has
    /// no `unique`, `run_at` and `expires_at`.
    #[serde(borrow, default)]
    #[schema(value_type = Option<JobRequest<'static>>)]
    pub job: Option<JobRequest<'a>>,
    /// A run in place of a job: `{"definition", "version", "input"}`, or `{"name", "steps", "input"}`. The input may
    /// hold templates as a job's payload may.
    #[serde(borrow, default)]
    #[schema(value_type = Option<WorkflowRequest<'static>>)]
    pub workflow: Option<&'a RawValue>,
    /// Made paused. Of a new one only.
    #[serde(default)]
    pub paused: Option<bool>,
}

/// What happens to times of `cron` where clocks are put forward or back.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Dst)]
pub struct DstRequest {
    /// Civil times that are passed over: `shift` (default) to the first instant after, or `skip`.
    #[serde(default)]
    #[schema(value_type = Option<GapDocs>)]
    gap: Option<Gap>,
    /// Civil times that are shown twice: `first`, `last` or `both`. Default `both` where the hour begins with `*`, else
    /// `first`.
    #[serde(default)]
    #[schema(value_type = Option<RepeatDocs>)]
    repeat: Option<Repeat>,
}

/// What happens to due times that nobody was there for.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CatchUp)]
pub struct CatchUpRequest {
    /// Which are made good: `none`, the latest `one` (default), or `all`, of which the latest `max`.
    #[serde(default)]
    #[schema(value_type = Option<CatchUpPolicyDocs>)]
    policy: Option<CatchUpPolicy>,
    /// With `all`. Default 100.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1000)]
    max: Option<u32>,
    /// No later than this is late, not missed, and is fired whatever the policy. Default 1 min; 15 s to 1
    /// day.
    #[serde(default)]
    #[schema(value_type = Option<DurationText>)]
    grace: Option<Span>,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident as $schema:ident { $($word:ident),+ }) => {
        $(#[$doc])*
        #[derive(Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        #[schema(as = $schema)]
        pub enum $name { $($word),+ }
    };
}

words!(
    /// What happens when the work of an earlier fire has not ended.
    OverlapDocs as Overlap { Allow, Skip, Queue, Replace }
);
words!(
    /// Which missed due times are made good.
    CatchUpPolicyDocs as CatchUpPolicy { None, One, All }
);
words!(
    /// What becomes of civil times that are passed over.
    GapDocs as Gap { Shift, Skip }
);
words!(
    /// Which of two showings of a civil time counts.
    RepeatDocs as Repeat { First, Last, Both }
);

/// `exclude`, with a bound.
#[derive(Debug, Clone, PartialEq)]
pub struct Excluded<'a>(Vec<Text<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Excluded<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bounded::<D, Text<'a>, EXCLUDES_MAX>(deserializer).map(Self)
    }
}

/// A request without a fault, to be laid over a schedule.
#[derive(Debug, Clone)]
pub struct Checked {
    pattern: Option<Pattern>,
    every: Option<Span>,
    zone: Change<Zone>,
    dst: Change<DstRequest>,
    overlap: Change<Overlap>,
    catch_up: Change<CatchUpRequest>,
    jitter: Change<Span>,
    start_at: Change<Timestamp>,
    end_at: Change<Timestamp>,
    exclude: Change<Vec<Dates>>,
    pause_on_failure: Change<u32>,
    description: Change<String>,
    work: Option<ScheduledWork>,
}

impl ScheduleRequest<'_> {
    /// Checks everything that can be without the schedule that is changed.
    ///
    /// # Errors
    /// 400, 413 or 422 with everything that is wrong.
    pub fn check(self, context: &Context) -> Result<Checked, ApiError> {
        let mut faults = Faults::default();
        let pattern = self.cron.and_then(|text| {
            let parsed = text.as_str().parse::<Pattern>();
            parsed.map_err(|error| faults.wrong("/cron", error.to_string())).ok()
        });
        if self.every.is_some_and(|every| !(EVERY_MIN..=EVERY_MAX).contains(&every.0)) {
            faults.wrong("/every", "must be from 1 s to 366 days");
        }
        if pattern.is_some() && self.every.is_some() {
            faults.wrong("/every", "cannot be given together with cron");
        }
        let zone = mapped(self.timezone, |name| {
            let zone = Zone::named(name.as_str());
            if zone.is_none() {
                faults.wrong("/timezone", "is no zone of the IANA database, such as Europe/Berlin");
            }
            zone
        });
        if let Some(asked) = self.catch_up.value() {
            check_catch_up(asked, &mut faults);
        }
        let within = |span: Option<&Span>, most: Duration| span.is_none_or(|span| span.0 <= most);
        if !within(self.jitter.value(), JITTER_MAX) {
            faults.wrong("/jitter", "must be at most 1 day");
        }
        let exclude = mapped(self.exclude, |texts| Some(exclude(&texts.0, &mut faults)));
        let failures = self.pause_on_failure.value();
        if failures.is_some_and(|n| !(1..=FAILURES_MAX).contains(n)) {
            faults.wrong("/pause_on_failure", "must be from 1 to 1000");
        }
        if let Some(text) = self.description.value() {
            faults.indexed("/description", text.as_str(), DESCRIPTION_BYTES_MAX);
        }
        let work = work::check(self.job, self.workflow, context, &mut faults);
        faults.finish()?;
        Ok(Checked {
            pattern,
            every: self.every,
            zone,
            dst: self.dst,
            overlap: self.overlap,
            catch_up: self.catch_up,
            jitter: self.jitter,
            start_at: self.start_at,
            end_at: self.end_at,
            exclude,
            pause_on_failure: self.pause_on_failure,
            description: mapped(self.description, |text| Some(text.as_str().to_owned())),
            work,
        })
    }
}

fn mapped<T, U>(change: Change<T>, with: impl FnOnce(T) -> Option<U>) -> Change<U> {
    match change {
        Change::Keep => Change::Keep,
        Change::Clear => Change::Clear,
        Change::Set(value) => with(value).map_or(Change::Keep, Change::Set),
    }
}

fn check_catch_up(asked: &CatchUpRequest, faults: &mut Faults) {
    if asked.max.is_some_and(|max| !(1..=CATCH_UP_MAX).contains(&max)) {
        faults.wrong("/catch_up/max", "must be from 1 to 1000");
    }
    if asked.grace.is_some_and(|grace| !(GRACE_MIN..=GRACE_MAX).contains(&grace.0)) {
        faults.wrong("/catch_up/grace", "must be from 15 s (a change of leaders) to 1 day");
    }
}

fn exclude(texts: &[Text<'_>], faults: &mut Faults) -> Vec<Dates> {
    let mut dates = Vec::with_capacity(texts.len());
    for (n, text) in texts.iter().enumerate() {
        match text.as_str().parse() {
            Ok(found) => dates.push(found),
            Err(why) => faults.wrong(&format!("/exclude/{n}"), why),
        }
    }
    dates
}

impl Checked {
    /// A new schedule's rules.
    ///
    /// # Errors
    /// 422 with what is missing, or does not go together.
    pub fn new_spec(self, now: Timestamp) -> Result<ScheduleSpec, ApiError> {
        let mut faults = Faults::default();
        if self.pattern.is_none() && self.every.is_none() {
            faults.wrong("/cron", "one of cron and every is required");
        }
        if self.work.is_none() {
            faults.wrong("/job", "one of job and workflow is required");
        }
        faults.finish()?;
        let anchor = Timestamp::from_millis(now.millis());
        let base = ScheduleSpec {
            timing: Timing::Every { every: Span(EVERY_MAX), anchor },
            zone: Zone::default(),
            overlap: Overlap::default(),
            catch_up: CatchUp::default(),
            jitter: None,
            start_at: None,
            end_at: None,
            exclude: Vec::new(),
            pause_on_failure: None,
            work: self.work.clone().expect("looked at above"),
            description: String::new(),
        };
        self.apply(&base, now)
    }

    /// What a schedule is with the change.
    ///
    /// # Errors
    /// 422 with what does not go together.
    pub fn apply(&self, base: &ScheduleSpec, now: Timestamp) -> Result<ScheduleSpec, ApiError> {
        let mut faults = Faults::default();
        let mut spec = base.clone();
        laid(&self.zone, &mut spec.zone);
        laid(&self.overlap, &mut spec.overlap);
        match &self.catch_up {
            Change::Keep => {}
            Change::Clear => spec.catch_up = CatchUp::default(),
            Change::Set(asked) => {
                let now = spec.catch_up;
                spec.catch_up = CatchUp {
                    policy: asked.policy.unwrap_or(now.policy),
                    max: asked.max.unwrap_or(now.max),
                    grace: asked.grace.unwrap_or(now.grace),
                };
            }
        }
        laid(&self.exclude, &mut spec.exclude);
        laid(&self.description, &mut spec.description);
        self.jitter.clone().apply(&mut spec.jitter);
        self.start_at.clone().apply(&mut spec.start_at);
        self.end_at.clone().apply(&mut spec.end_at);
        self.pause_on_failure.clone().apply(&mut spec.pause_on_failure);
        if let Some(work) = &self.work {
            spec.work = work.clone();
        }
        self.retime(&mut spec, now, &mut faults);
        if spec.start_at.zip(spec.end_at).is_some_and(|(start, end)| start > end) {
            faults.wrong("/end_at", "must not be before start_at");
        }
        faults.finish()?;
        Ok(spec)
    }

    fn retime(&self, spec: &mut ScheduleSpec, now: Timestamp, faults: &mut Faults) {
        if let Some(pattern) = &self.pattern {
            let (gap, repeat) = match &spec.timing {
                Timing::Cron { gap, repeat, .. } => (*gap, *repeat),
                Timing::Every { .. } => (Gap::default(), None),
            };
            spec.timing = Timing::Cron { pattern: pattern.clone(), gap, repeat };
        }
        let is_moved = !matches!(self.start_at, Change::Keep);
        if let Timing::Every { every, anchor } = &mut spec.timing
            && (self.every.is_some() || is_moved)
        {
            *every = self.every.unwrap_or(*every);
            *anchor = spec.start_at.unwrap_or(*anchor);
        } else if let Some(every) = self.every {
            let now = Timestamp::from_millis(now.millis());
            spec.timing = Timing::Every { every, anchor: spec.start_at.unwrap_or(now) };
        }
        match (&mut spec.timing, &self.dst) {
            (_, Change::Keep) | (Timing::Every { .. }, Change::Clear) => {}
            (Timing::Every { .. }, Change::Set(_)) => {
                faults.wrong("/dst", "is only for cron: an interval knows no clocks");
            }
            (Timing::Cron { gap, repeat, .. }, Change::Clear) => {
                (*gap, *repeat) = (Gap::default(), None);
            }
            (Timing::Cron { gap, repeat, .. }, Change::Set(dst)) => {
                *gap = dst.gap.unwrap_or(*gap);
                *repeat = dst.repeat.or(*repeat);
            }
        }
    }
}

fn laid<T: Clone + Default>(change: &Change<T>, field: &mut T) {
    match change {
        Change::Keep => {}
        Change::Clear => *field = T::default(),
        Change::Set(value) => *field = value.clone(),
    }
}

/// The range of a backfill.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackfillRequest {
    /// The first instant.
    #[serde(default)]
    #[schema(value_type = String, format = DateTime, required = true)]
    pub from: Option<Timestamp>,
    /// The last; due times after now are left out.
    #[serde(default)]
    #[schema(value_type = String, format = DateTime, required = true)]
    pub to: Option<Timestamp>,
}

impl BackfillRequest {
    /// # Errors
    /// 422.
    pub fn range(self) -> Result<(Timestamp, Timestamp), ApiError> {
        let mut faults = Faults::default();
        for (pointer, at) in [("/from", self.from), ("/to", self.to)] {
            if at.is_none() {
                faults.wrong(pointer, "is required");
            }
        }
        let (from, to) = (self.from.unwrap_or_default(), self.to.unwrap_or_default());
        if from > to {
            faults.wrong("/to", "must not be before from");
        }
        faults.finish()?;
        Ok((from, to))
    }
}
