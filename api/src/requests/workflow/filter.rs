//! Which runs a list means.

use std::fmt::Write as _;

use utoipa::IntoParams;
use windlass_shared::ledger::runs::RunFilter;
use windlass_shared::limits;
use windlass_shared::model::workflow::WorkflowState;

use super::step::{ID_RULE, is_id};
use crate::extract::Params;
use crate::requests::docs::Tag;
use crate::requests::filter::{check_text, instant};
use crate::views::workflow::WorkflowStateDocs;

/// Filters of a list of runs. For the documentation; [`from_query`] reads them.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `from_query` reads")]
pub struct RunFilterParams {
    /// In any of these states; may be given more than once.
    #[param(value_type = Option<Vec<WorkflowStateDocs>>, explode)]
    state: (),
    /// With this name.
    #[param(
        min_length = 1,
        max_length = 128,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]*$"
    )]
    name: Option<String>,
    /// Of this stored definition.
    #[param(pattern = "^[A-Za-z0-9._-]{1,128}$")]
    definition: Option<String>,
    /// With all of these tags; may be given more than once.
    #[param(value_type = Option<Vec<Tag>>, max_items = 20, explode)]
    tag: (),
    /// Accepted at or after.
    #[param(format = DateTime)]
    created_after: Option<String>,
    /// Accepted before.
    #[param(format = DateTime)]
    created_before: Option<String>,
}

/// What a list asks for.
#[derive(Debug)]
pub struct RunQuery {
    /// For the ledger, which knows no [`WorkflowState::Waiting`]: its runs are on record as running.
    pub filter: RunFilter,
    /// The states asked for, as readers see them; empty is all.
    pub states: Vec<WorkflowState>,
    /// The query as text in a fixed order, for what a cursor is bound to.
    pub scope: String,
}

/// Takes the filters from a query; faults are noted there.
pub fn from_query(params: &mut Params) -> RunQuery {
    let mut filter = RunFilter::default();
    let mut states = Vec::new();
    for text in params.all("state") {
        match WorkflowState::ALL.into_iter().find(|state| state.as_str() == text) {
            Some(state) => states.push(state),
            None => {
                let known = WorkflowState::ALL.map(WorkflowState::as_str).join(", ");
                params.wrong("state", format!("must be one of {known}"));
            }
        }
    }
    for state in &states {
        let recorded = match state {
            WorkflowState::Waiting => WorkflowState::Running,
            state => *state,
        };
        if !filter.states.contains(&recorded) {
            filter.states.push(recorded);
        }
    }
    filter.name = params.one("name");
    if let Some(name) = filter.name.clone() {
        check_text(params, "name", &name, super::NAME_BYTES_MAX);
    }
    filter.definition =
        params.parsed("definition", |text| is_id(text).then(|| text.to_owned()).ok_or(ID_RULE));
    filter.tags = params.all("tag");
    if filter.tags.len() > limits::TAGS_MAX {
        params.wrong("tag", format!("must be at most {} tags", limits::TAGS_MAX));
    }
    for tag in filter.tags.clone() {
        check_text(params, "tag", &tag, 128);
    }
    filter.created_after = params.parsed("created_after", instant);
    filter.created_before = params.parsed("created_before", instant);
    let scope = scope(&filter, &states);
    RunQuery { filter, states, scope }
}

fn scope(filter: &RunFilter, states: &[WorkflowState]) -> String {
    let mut scope = String::from("workflows");
    for state in states {
        // Writing to a String cannot fail.
        let _ = write!(scope, "\u{1f}s={}", state.as_str());
    }
    for tag in &filter.tags {
        let _ = write!(scope, "\u{1f}t={tag}");
    }
    let _ = write!(
        scope,
        "\u{1f}{:?}\u{1f}{:?}\u{1f}{:?}\u{1f}{:?}",
        filter.name, filter.definition, filter.created_after, filter.created_before,
    );
    scope
}
