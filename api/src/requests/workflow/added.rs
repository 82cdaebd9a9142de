//! Steps that come into a run that is under way.

use serde::Deserialize;
use utoipa::ToSchema;
use windlass_shared::model::workflow::StepSpec;

use super::shape::StepRequest;
use super::step::{ID_RULE, is_id};
use super::{Context, Desk, edges, text};
use crate::error::ApiError;
use crate::extract;
use crate::requests::Text;

/// Steps to add to a run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AddedStepsRequest)]
pub struct AddedRequest<'a> {
    /// The step after which they run. It waits, runs or is blocked; what needs it waits for the last of them too.
    #[serde(borrow, default)]
    #[schema(value_type = String, required = true, pattern = "^[A-Za-z0-9._-]{1,128}$")]
    after: Option<Text<'a>>,
    /// Their `needs` name each other; one without needs `after`.
    #[serde(borrow, default, deserialize_with = "super::super::bounded::<_, _, 10_000>")]
    #[schema(value_type = Vec<StepRequest<'static>>, required = true, min_items = 1, max_items = 10_000)]
    steps: Vec<StepRequest<'a>>,
}

/// Steps without a fault in themselves.
#[derive(Debug)]
pub struct Added {
    /// After which.
    pub after: String,
    /// Positions in their needs count from the first of them.
    pub steps: Vec<StepSpec>,
    /// What they read of the run itself: pointer and id.
    pub outside: Vec<(String, String)>,
}

/// Reads and checks steps to be added.
///
/// # Errors
/// As [`super::check_request`].
pub fn check(body: &str, context: &Context) -> Result<Added, ApiError> {
    let request: AddedRequest<'_> = extract::parse(body, "")?;
    let mut desk = Desk::new(context);
    let after = text(request.after.as_ref()).to_owned();
    if !is_id(&after) {
        desk.faults.wrong("/after", ID_RULE);
    }
    if request.steps.is_empty() {
        desk.faults.wrong("/steps", "must hold at least one step");
    }
    let ids: Vec<String> = request.steps.iter().map(|s| text(s.id.as_ref()).to_owned()).collect();
    // They all come after it, whether they say so or not.
    let needs: Vec<Vec<String>> = request
        .steps
        .iter()
        .map(|step| step.needs().into_iter().filter(|need| *need != after).collect())
        .collect();
    if let Some(at) = ids.iter().position(|id| *id == after && !id.is_empty()) {
        desk.faults.wrong(&format!("/steps/{at}/id"), "is the step after which they are to come");
    }
    let (specs, reads) = desk.steps(request.steps, "", 1);
    let graph = edges::check(&ids, &needs, &mut desk.faults);
    let mut outside = Vec::new();
    let mut steps: Vec<StepSpec> = specs.into_iter().flatten().collect();
    if let Some(graph) = &graph {
        let (_, missing) = edges::check_reads(&ids, graph, &reads, &mut desk.faults);
        outside.extend(missing.into_iter().map(|(at, id)| (at.to_owned(), id.to_owned())));
        for (at, step) in (0..).zip(&mut steps) {
            if (at as usize) < graph.len() {
                step.needs = graph.needs(at).to_vec();
            }
        }
    }
    desk.faults.finish()?;
    Ok(Added { after, steps, outside })
}
