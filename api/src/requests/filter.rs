//! Which jobs a list, a stream or a bulk action means.

use std::fmt::Write as _;
use std::num::NonZeroU32;

use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use windlass_shared::ledger::JobFilter;
use windlass_shared::lifecycle::Action;
use windlass_shared::limits;
use windlass_shared::model::id::WorkflowId;
use windlass_shared::model::job::JobState;
use windlass_shared::model::name::{Kind, QueueName};
use windlass_shared::model::time::Timestamp;

use super::Faults;
use super::docs::Tag;
use crate::error::{ApiError, FieldError};
use crate::extract::Params;
use crate::views::job::StateDocs;

const TEXT_BYTES_MAX: usize = 200;

/// Filters of a list, as query parameters. For the documentation; [`from_query`] reads them.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `from_query` reads")]
pub struct FilterParams {
    /// In any of these states; may be given more than once.
    #[param(value_type = Option<Vec<StateDocs>>, explode)]
    state: (),
    /// In this queue.
    #[param(pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    queue: Option<String>,
    /// Of this kind.
    #[param(pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    kind: Option<String>,
    /// With all of these tags; may be given more than once.
    #[param(value_type = Option<Vec<Tag>>, max_items = 20, explode)]
    tag: (),
    /// Steps of this workflow.
    #[param(format = Uuid)]
    workflow_id: Option<String>,
    /// Accepted at or after.
    #[param(format = DateTime)]
    created_after: Option<String>,
    /// Accepted before.
    #[param(format = DateTime)]
    created_before: Option<String>,
    /// Text in kind, tags or error.
    #[param(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$"
    )]
    q: Option<String>,
}

fn states() -> String {
    JobState::ALL.map(JobState::as_str).join(", ")
}

/// Takes the filters from a query; faults are noted there.
pub fn from_query(params: &mut Params) -> JobFilter {
    let mut filter = JobFilter::default();
    for text in params.all("state") {
        match text.parse::<JobState>() {
            Ok(state) => filter.states.push(state),
            Err(_) => params.wrong("state", format!("must be one of {}", states())),
        }
    }
    filter.queue = params.parsed("queue", str::parse::<QueueName>);
    filter.kind = params.parsed("kind", str::parse::<Kind>);
    filter.workflow_id = params.parsed("workflow_id", str::parse::<WorkflowId>);
    filter.created_after = params.parsed("created_after", instant);
    filter.created_before = params.parsed("created_before", instant);
    filter.tags = params.all("tag");
    if filter.tags.len() > limits::TAGS_MAX {
        params.wrong("tag", format!("must be at most {} tags", limits::TAGS_MAX));
    }
    for tag in filter.tags.clone() {
        check_text(params, "tag", &tag, 128);
    }
    filter.text = params.one("q");
    if let Some(text) = filter.text.clone() {
        check_text(params, "q", &text, TEXT_BYTES_MAX);
    }
    filter
}

pub(super) fn instant(text: &str) -> Result<Timestamp, &'static str> {
    text.parse().map_err(|_| "not an RFC 3339 time")
}

pub(super) fn check_text(params: &mut Params, name: &str, text: &str, max: usize) {
    let mut faults = Faults::default();
    faults.indexed("", text, max);
    if let Err(error) = faults.finish() {
        let message = error.errors().first().map_or("is not valid", |e| e.message.as_str());
        params.wrong(name, message);
    }
}

/// The filter as text in a fixed order, for what a cursor is bound to.
pub fn scope(filter: &JobFilter) -> String {
    let mut scope = String::from("jobs");
    for state in &filter.states {
        // Writing to a String cannot fail.
        let _ = write!(scope, "\u{1f}s={state}");
    }
    for tag in &filter.tags {
        let _ = write!(scope, "\u{1f}t={tag}");
    }
    let _ = write!(
        scope,
        "\u{1f}{:?}\u{1f}{:?}\u{1f}{:?}\u{1f}{:?}\u{1f}{:?}\u{1f}{:?}",
        filter.queue,
        filter.kind,
        filter.workflow_id,
        filter.created_after,
        filter.created_before,
        filter.text,
    );
    scope
}

/// Filters of a bulk action.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = JobFilter)]
pub struct FilterRequest {
    /// In any of these states.
    #[serde(default, deserialize_with = "super::bounded::<_, _, 10>")]
    #[schema(value_type = Vec<StateDocs>, max_items = 10)]
    pub states: Vec<JobState>,
    /// In this queue.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    pub queue: Option<QueueName>,
    /// Of this kind.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    pub kind: Option<Kind>,
    /// With all of these tags.
    #[serde(default, deserialize_with = "super::bounded::<_, _, 20>")]
    #[schema(value_type = Vec<Tag>, max_items = 20)]
    pub tags: Vec<String>,
    /// Steps of this workflow.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub workflow_id: Option<WorkflowId>,
    /// Accepted at or after.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created_after: Option<Timestamp>,
    /// Accepted before.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created_before: Option<Timestamp>,
    /// Text in kind, tags or error.
    #[serde(default)]
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$"
    )]
    pub q: Option<String>,
}

impl FilterRequest {
    /// # Errors
    /// 422 or 400.
    pub fn check(self) -> Result<JobFilter, ApiError> {
        let mut faults = Faults::below("/filter");
        for (i, tag) in self.tags.iter().enumerate() {
            faults.indexed(&format!("/tags/{i}"), tag, 128);
        }
        if let Some(text) = &self.q {
            faults.indexed("/q", text, TEXT_BYTES_MAX);
        }
        faults.finish()?;
        Ok(JobFilter {
            states: self.states,
            queue: self.queue,
            kind: self.kind,
            tags: self.tags,
            workflow_id: self.workflow_id,
            created_after: self.created_after,
            created_before: self.created_before,
            text: self.q,
        })
    }
}

/// A bulk action.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActionRequest {
    /// What to do with every job that matches.
    #[serde(default)]
    #[schema(value_type = ActionDocs, required = true)]
    pub action: Option<ActionDocs>,
    /// Which jobs; `{}` is all of the namespace.
    #[serde(default)]
    #[schema(value_type = FilterRequest, required = true)]
    pub filter: Option<FilterRequest>,
    /// Of `retry`: at most so many jobs per second, evenly; 0 is no limit.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 10_000, default = 100)]
    pub rate: Option<u32>,
    /// Only count.
    #[serde(default)]
    pub dry_run: bool,
}

impl ActionRequest {
    /// What to do, with which jobs, and whether only to count them.
    ///
    /// # Errors
    /// 422 or 400.
    pub fn check(self) -> Result<(Action, JobFilter, bool), ApiError> {
        let missing = |field: &str| {
            ApiError::invalid(vec![FieldError::at(format!("/{field}"), "is required")])
        };
        let action = self.action.ok_or_else(|| missing("action"))?;
        let filter = self.filter.ok_or_else(|| missing("filter"))?.check()?;
        let mut faults = Faults::default();
        if self.rate.is_some_and(|rate| rate > limits::ACTION_RATE_MAX) {
            faults.wrong("/rate", "must be from 0 to 10000; 0 is no limit");
        }
        if self.rate.is_some() && !matches!(action, ActionDocs::Retry) {
            faults
                .wrong("/rate", "is for retry only: cancel and delete start nothing; leave it out");
        }
        faults.finish()?;
        let action = match action {
            ActionDocs::Retry => {
                Action::Retry { rate: self.rate.map_or(Some(limits::RETRY_RATE), NonZeroU32::new) }
            }
            ActionDocs::Cancel => Action::Cancel,
            ActionDocs::Delete => Action::Delete,
        };
        Ok((action, filter, self.dry_run))
    }
}

/// What a bulk action does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Action)]
pub enum ActionDocs {
    /// Runs dead, cancelled, expired and quarantined jobs again, at `rate`.
    Retry,
    /// Cancels those that have not ended.
    Cancel,
    /// Forgets those that have ended.
    Delete,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_filters_have_different_scopes() {
        let with = |queue: Option<&str>, tags: &[&str], text: Option<&str>| {
            scope(&JobFilter {
                queue: queue.map(|q| q.parse().unwrap()),
                tags: tags.iter().map(ToString::to_string).collect(),
                text: text.map(Into::into),
                ..JobFilter::default()
            })
        };
        let scopes = [
            with(None, &[], None),
            with(Some("a"), &[], None),
            with(None, &["a"], None),
            with(None, &["a", "b"], None),
            with(None, &["ab"], None),
            with(None, &[], Some("a")),
        ];
        let distinct: std::collections::HashSet<_> = scopes.iter().collect();
        assert_eq!(distinct.len(), scopes.len());
    }
}
