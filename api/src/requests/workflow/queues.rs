//! The queues of a document, found before it is checked: what they default to is part of the check.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::value::RawValue;
use windlass_shared::model::name::QueueName;
use windlass_shared::model::workflow::limits;

use crate::error::{ApiError, FieldError};
use crate::requests::{Text, bounded};

/// Different queues in one document.
pub const QUEUES_MAX: usize = 100;

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow, default, deserialize_with = "bounded::<_, _, 10_000>")]
    steps: Vec<Step<'a>>,
}

#[derive(Deserialize)]
struct Step<'a> {
    #[serde(borrow, default)]
    kind: Option<Text<'a>>,
    #[serde(borrow, default)]
    queue: Option<Text<'a>>,
    #[serde(borrow, default)]
    compensate: Option<Compensate<'a>>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Compensate<'a> {
    #[serde(borrow, default)]
    queue: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Child<'a> {
    #[serde(borrow, default)]
    workflow: Option<&'a RawValue>,
}

/// The queue of every job that a document, and those inside of it, may make. What cannot be read is left out: the
/// check says what is wrong with it.
///
/// # Errors
/// 422 for more than [`QUEUES_MAX`].
pub fn queue_names(text: &str) -> Result<BTreeSet<QueueName>, ApiError> {
    let mut names = BTreeSet::from([QueueName::default()]);
    let mut open = vec![(text, 1)];
    while let Some((text, depth)) = open.pop() {
        let Ok(document) = serde_json::from_str::<Document<'_>>(text) else { continue };
        for step in document.steps {
            let undo = step.compensate.and_then(|job| job.queue);
            for queue in step.queue.iter().chain(undo.iter()) {
                if names.iter().any(|name| name.as_str() == queue.as_str()) {
                    continue;
                }
                names.extend(queue.as_str().parse::<QueueName>().ok());
                if names.len() > QUEUES_MAX {
                    let message = format!("may name at most {QUEUES_MAX} different queues");
                    return Err(ApiError::invalid(vec![FieldError::at("/steps", message)]));
                }
            }
            let is_child = step.kind.is_some_and(|kind| kind.as_str() == "workflow.run");
            if is_child
                && depth < limits::DEPTH_MAX
                && let Some(payload) = step.payload
                && let Ok(Child { workflow: Some(inner) }) = serde_json::from_str(payload.get())
            {
                open.push((inner.get(), depth + 1));
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_found_wherever_jobs_come_from() {
        let text = r#"{"steps": [{"queue": "a", "compensate": {"queue": "b"}}, {"queue": "not one"},
            {"kind": "workflow.run", "payload": {"workflow": {"steps": [{"queue": "c"}]}}},
            {"kind": "other", "payload": {"workflow": {"steps": [{"queue": "d"}]}}}]}"#;
        let names: Vec<String> =
            queue_names(text).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["a", "b", "c", "default"]);
        assert_eq!(queue_names("nonsense").unwrap().len(), 1);
        let steps: Vec<String> = (0..200).map(|n| format!(r#"{{"queue":"q{n}"}}"#)).collect();
        let error = queue_names(&format!(r#"{{"steps":[{}]}}"#, steps.join(","))).unwrap_err();
        assert_eq!(error.detail(), "/steps: may name at most 100 different queues");
    }
}
