//! What a JSON Schema has to say of a value.

use serde_json::Value as Json;

use super::cut_short;

/// One place that the schema does not allow.
pub(super) struct Complaint {
    /// JSON pointer into the value.
    pub(super) path: String,
    /// Why; short.
    pub(super) message: String,
}

impl Complaint {
    /// With its place, for people.
    pub(super) fn in_words(&self) -> String {
        match self.path.as_str() {
            "" => self.message.clone(),
            path => format!("at {path}: {}", self.message),
        }
    }
}

/// The first complaints, at most `max`.
///
/// # Errors
/// The schema is not usable.
pub(super) fn complaints(
    schema: &Json,
    value: &Json,
    max: usize,
) -> Result<Vec<Complaint>, String> {
    let validator = jsonschema::options()
        // Patterns run in linear time, and references outside the schema are not fetched.
        .with_pattern_options(jsonschema::PatternOptions::regex())
        .offline()
        .build(schema)
        .map_err(|e| format!("the schema is not usable: {}", cut_short(e.to_string())))?;
    let complaints = validator.iter_errors(value).take(max).map(|e| Complaint {
        path: e.instance_path().as_str().to_owned(),
        message: cut_short(e.to_string()),
    });
    Ok(complaints.collect())
}
