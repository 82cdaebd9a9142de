//! What checks of a workflow answer without running it.

use serde::Serialize;
use utoipa::ToSchema;
use windlass_shared::model::time::Span;

/// A workflow that can be run.
#[derive(Debug, Serialize, ToSchema)]
pub struct Validation {
    /// Always true: a document with a fault is answered as its submission would be.
    pub valid: bool,
    /// How many steps there are.
    pub steps: usize,
    /// How many needs there are.
    pub edges: usize,
    /// How many steps the longest chain has.
    pub levels: usize,
    /// Runs inside of runs written in place; 1 without.
    pub depth: u16,
    pub critical_path: CriticalPath,
    /// The steps that could run at once, level by level.
    pub parallel_groups: Vec<Vec<String>>,
    /// What can be run and is perhaps not meant.
    pub warnings: Vec<Warning>,
}

/// The chain of steps that decides how long a run takes.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CriticalPath {
    /// Their ids, in order.
    pub steps: Vec<String>,
    /// How many they are.
    pub length: usize,
    /// What they take together: mean run times of the last 7 days, 1 s for a kind without any; waits for people and
    /// signals count as nothing.
    #[schema(value_type = String)]
    pub estimate: Span,
}

/// Something that can be run and is perhaps not meant.
#[derive(Debug, Serialize, ToSchema)]
pub struct Warning {
    /// Stable, snake_case.
    pub code: &'static str,
    /// JSON pointer into the document.
    pub pointer: String,
    /// In words.
    pub message: String,
}

/// What a workflow would gain.
#[derive(Debug, Serialize, ToSchema)]
pub struct Optimization {
    pub before: Outlook,
    /// With the changes.
    pub after: Outlook,
    /// What the document in the answer does differently; the meaning stays.
    pub changes: Vec<Suggestion>,
    /// What else might be changed by somebody who knows what the steps do. Not in the document.
    pub suggestions: Vec<Suggestion>,
    /// The steps that could run at once, level by level.
    pub parallel_groups: Vec<Vec<String>>,
    /// Kinds without a past: their jobs are taken to need 1 s.
    pub unknown_kinds: Vec<String>,
    /// The document with the changes.
    #[schema(value_type = Object)]
    pub document: serde_json::Value,
}

/// How long a run takes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Outlook {
    /// How many needs there are.
    pub edges: usize,
    pub critical_path: CriticalPath,
    /// What all steps take together, one item of each `for_each`.
    #[schema(value_type = String)]
    pub total_work: Span,
    /// Total work by critical path: how many workers the run can keep busy on average.
    pub parallelism: f64,
}

/// One change, or something to think about.
#[derive(Debug, Serialize, ToSchema)]
pub struct Suggestion {
    /// `redundant_need`, `unread_need`, `heavy_step` or `serial_items`.
    pub code: &'static str,
    /// The step that it is about.
    pub step: String,
    /// The need that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub need: Option<String>,
    /// In words.
    pub message: String,
    /// What the run would take with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub estimate: Option<Span>,
}
