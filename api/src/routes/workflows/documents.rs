//! From the body of a call to a checked workflow. What callers shape is read on threads of its own, bounded in time.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value as Json;
use windlass_shared::expr::bounded::Unfinished;
use windlass_shared::model::name::Namespace;
use windlass_shared::model::workflow::WorkflowSpec;

use crate::app::App;
use crate::error::{ApiError, Code};
use crate::extract::{self, MediaType, RawBody};
use crate::requests::workflow::shape::WorkflowRequest;
use crate::requests::workflow::{self, Checked, Context, Unnamed, queue_names};
use crate::yaml;

/// Longest check or drawing. What a document may hold is bounded, so that only a machine that is short of time gets
/// there.
const CHECK_MAX: Duration = Duration::from_secs(20);

/// The body as JSON text; YAML is turned into it.
///
/// # Errors
/// 415, or 400 naming the line.
pub async fn json_text<const MAX: usize>(
    app: &App,
    body: &RawBody<MAX>,
) -> Result<Bytes, ApiError> {
    extract::text(&body.bytes)?;
    let bytes = body.bytes.clone();
    match body.media_type {
        Some(MediaType::Json) => Ok(bytes),
        Some(MediaType::Yaml) => {
            bounded(app, move || yaml::to_json(extract::text(&bytes)?, MAX).map(Bytes::from)).await
        }
        Some(MediaType::Lines) | None => Err(ApiError::new(
            Code::UnsupportedMediaType,
            "the body must be JSON or YAML: send Content-Type: application/json or application/yaml",
        )),
    }
}

/// Does work that callers shape.
///
/// # Errors
/// What the work says; 503 where no place came free; 422 where it takes too long.
pub async fn bounded<T, F>(app: &App, work: F) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ApiError> + Send + 'static,
{
    match app.checks.run_within(CHECK_MAX, work).await {
        Ok(result) => result,
        Err(Unfinished::Crowded) => {
            Err(ApiError::new(Code::Overloaded, "too many workflows are being checked"))
        }
        Err(Unfinished::TooSlow) => {
            let text = format!(
                "the check of the workflow takes longer than {} s: split it up",
                CHECK_MAX.as_secs()
            );
            Err(ApiError::new(Code::Invalid, text))
        }
        Err(Unfinished::Broke) => Err(ApiError::new(Code::Internal, "the check broke")),
    }
}

/// What the check of a document looks at.
///
/// # Errors
/// 422 for too many queues; the ledger does not answer.
pub async fn context(app: &App, namespace: &Namespace, json: &str) -> Result<Context, ApiError> {
    let mut queues = HashMap::new();
    for name in queue_names(json)? {
        let known = app.queues.get(app, namespace, &name).await?;
        queues.insert(name, known);
    }
    Ok(Context { queues, now: app.life.clock().now() })
}

/// A checked document, and the input beside it.
pub struct Document {
    pub checked: Checked,
    pub input: Json,
}

/// Checks the document of a call; `name` is for one without.
///
/// # Errors
/// 400, 413 or 422 with everything that is wrong; 503.
pub async fn check(
    app: &App,
    namespace: &Namespace,
    json: Bytes,
    name: Option<String>,
) -> Result<Document, ApiError> {
    let context = context(app, namespace, extract::text(&json)?).await?;
    bounded(app, move || {
        let request: WorkflowRequest<'_> = extract::parse(extract::text(&json)?, "")?;
        let input = workflow::check_input(request.input)?;
        let unnamed = name.as_deref().map_or(Unnamed::Refuse, Unnamed::Use);
        Ok(Document { checked: workflow::check_request(request, unnamed, &context)?, input })
    })
    .await
}

/// Whether a body asks for a stored definition. Of what is not JSON: no, so that the check says so.
pub fn names_definition(json: &str) -> bool {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        definition: Option<IgnoredAny>,
        #[serde(default)]
        steps: Option<IgnoredAny>,
    }
    serde_json::from_str::<Head>(json)
        .is_ok_and(|head| head.definition.is_some() && head.steps.is_none())
}

/// Takes a place in their queues for the jobs that may run at once. Those that come later are let in whatever the
/// depth: a run that was accepted must be able to end.
///
/// # Errors
/// 429 `queue_full`; the ledger does not answer.
pub async fn admit(app: &App, namespace: &Namespace, spec: &WorkflowSpec) -> Result<(), ApiError> {
    for (queue, count) in workflow::starting(spec) {
        let known = app.queues.get(app, namespace, queue).await?;
        for _ in 0..count {
            known.admit()?;
        }
    }
    Ok(())
}
