//! Evaluations, and what an attempt learns of the one before it, as callers see them. For the documentation only: they are
//! written as the models have them.

use utoipa::ToSchema;

use super::job::JobErrorDocs;

/// The verdict over an output.
#[derive(ToSchema)]
#[schema(as = Evaluation)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub struct EvaluationDocs {
    /// 0 to 1: the weighted mean of `scores`.
    score: f64,
    /// Whether it reaches the threshold.
    passed: bool,
    threshold: f64,
    /// `schema`, `completeness`, `accuracy`, `rules`: those that were looked at.
    scores: std::collections::BTreeMap<String, f64>,
    /// What lowers the score; at most 20.
    failures: Vec<FailureDocs>,
    /// What to do better; at most 20.
    recommendations: Vec<String>,
}

/// One thing that lowers a score.
#[derive(ToSchema)]
#[schema(as = EvaluationFailure)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub struct FailureDocs {
    /// Which score.
    dimension: String,
    /// Where and why.
    message: String,
}

/// Why the attempt before failed, and what to do better.
#[derive(ToSchema)]
#[schema(as = Previous)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub struct PreviousDocs {
    /// Its number.
    attempt: u32,
    error: JobErrorDocs,
    /// Empty where its output was not evaluated.
    recommendations: Vec<String>,
    #[schema(required = true)]
    score: Option<f64>,
}
