//! What callers ask to have evaluated.

use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use windlass_shared::model::evaluate::Evaluate;

use super::Faults;
use super::job::checked_value;

/// Largest `expect.evaluate`, in bytes of JSON.
const EVALUATE_BYTES_MAX: usize = 64 << 10;

/// What an output is scored by: at least one of `schema`, `completeness`, `accuracy` and `rules`; at most 64 KiB.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Evaluate)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub struct EvaluateDocs {
    /// JSON Schema (draft 2020-12) that it should satisfy.
    schema: Option<serde_json::Map<String, serde_json::Value>>,
    completeness: Option<CompletenessDocs>,
    accuracy: Option<AccuracyDocs>,
    /// What should hold.
    #[schema(max_items = 50)]
    rules: Option<Vec<RuleDocs>>,
    weights: Option<WeightsDocs>,
    /// Passed at this score and above. Default 0.95.
    #[schema(minimum = 0, maximum = 1)]
    threshold: Option<f64>,
}

/// What must be there.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Completeness)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub struct CompletenessDocs {
    /// JSON pointers to places that should hold something.
    #[schema(min_items = 1, max_items = 200)]
    required: Vec<String>,
}

/// What it should be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Accuracy)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub struct AccuracyDocs {
    /// The right value; fields that it does not name are not looked at.
    expected: serde_json::Value,
    /// How far a number may be off, as a part of the expected one. Default 0.
    #[schema(minimum = 0, maximum = 1_000_000)]
    tolerance: Option<f64>,
}

/// What should hold.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Rule)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub struct RuleDocs {
    /// For people.
    #[schema(min_length = 1, max_length = 128)]
    name: String,
    /// CEL over `value` (also called `output`) that should be true.
    #[schema(min_length = 1, max_length = 4096)]
    expr: String,
    /// How much it counts among the rules. Default 1.
    #[schema(minimum = 0, maximum = 1_000_000)]
    weight: Option<f64>,
    /// What the next attempt is told where it is not true.
    #[schema(max_length = 512)]
    recommendation: Option<String>,
}

/// How much each dimension counts. Default 1 each.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Weights)]
#[expect(dead_code, reason = "describes a type of another crate")]
pub struct WeightsDocs {
    #[schema(minimum = 0, maximum = 1_000_000)]
    schema: Option<f64>,
    #[schema(minimum = 0, maximum = 1_000_000)]
    completeness: Option<f64>,
    #[schema(minimum = 0, maximum = 1_000_000)]
    accuracy: Option<f64>,
    #[schema(minimum = 0, maximum = 1_000_000)]
    rules: Option<f64>,
}

/// Reads and checks one; notes every fault below `pointer`.
pub fn check(raw: &RawValue, pointer: &str, faults: &mut Faults) -> Option<Box<Evaluate>> {
    let text = raw.get();
    if !text.starts_with('{') || text.len() > EVALUATE_BYTES_MAX {
        faults.wrong(pointer, "must be an object of at most 64 KiB");
        return None;
    }
    checked_value(text, pointer, faults)?;
    let parsed: Result<Evaluate, _> = serde_json::from_str(text);
    let spec = parsed.map_err(|error| faults.wrong(pointer, error.to_string())).ok()?;
    for (below, message) in spec.faults() {
        faults.wrong(&format!("{pointer}{below}"), message);
    }
    Some(Box::new(spec))
}
