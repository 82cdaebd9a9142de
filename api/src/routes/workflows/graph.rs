//! `GET /v1/workflows/{id}/graph`: a run as a picture.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, header};
use utoipa::ToSchema;
use windlass_shared::ledger::runs::{Run, Step};
use windlass_shared::model::id::WorkflowId;
use windlass_shared::model::workflow::draw::{Drawing, Edge, Node};

use super::{documents, known, reading};
use crate::app::App;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{Id, Params};

/// As what a graph is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum GraphFormat {
    Json,
    Dot,
    Mermaid,
    Svg,
}

/// A graph as data.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what the drawing writes")]
struct Graph {
    title: String,
    nodes: Vec<GraphNode>,
    edges: Vec<GraphEdge>,
}

/// A step.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what the drawing writes")]
struct GraphNode {
    id: String,
    label: String,
    kind: String,
    #[schema(value_type = Option<crate::views::workflow::StepStateDocs>, required = true)]
    state: (),
    /// An error, or counts of items.
    detail: String,
}

/// From a step to one that needs it, by id.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what the drawing writes")]
struct GraphEdge {
    from: String,
    to: String,
}

/// Draw a run
///
/// Its steps with their states, and who needs whom: as data, for Graphviz, for Mermaid, or as an SVG picture.
#[utoipa::path(
    get, path = "/v1/workflows/{id}/graph", tag = "workflows",
    params(
        ("id" = String, Path, format = Uuid),
        ("format" = inline(Option<GraphFormat>), Query, description = "`json` if not given."),
    ),
    responses((status = 200, description = "The graph.", content(
        (Graph = "application/json"), (String = "text/vnd.graphviz"), (String = "text/plain"), (String = "image/svg+xml"),
    ))),
)]
pub async fn draw_workflow(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<WorkflowId>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let format = params.parsed("format", |text| match text {
        "json" => Ok(GraphFormat::Json),
        "dot" => Ok(GraphFormat::Dot),
        "mermaid" => Ok(GraphFormat::Mermaid),
        "svg" => Ok(GraphFormat::Svg),
        _ => Err("must be one of json, dot, mermaid, svg"),
    });
    params.finish()?;
    let run = known(&app, &caller, id).await?;
    let steps = reading::all_steps(&app, id).await?;
    documents::bounded(&app, move || {
        Ok(answer(&drawing(&run, &steps), format.unwrap_or(GraphFormat::Json)))
    })
    .await
}

fn answer(drawing: &Drawing, format: GraphFormat) -> Response {
    let (kind, text) = match format {
        GraphFormat::Json => return Json(drawing.to_json()).into_response(),
        GraphFormat::Dot => ("text/vnd.graphviz; charset=utf-8", drawing.to_dot()),
        GraphFormat::Mermaid => ("text/plain; charset=utf-8", drawing.to_mermaid()),
        GraphFormat::Svg => ("image/svg+xml", drawing.to_svg()),
    };
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if format == GraphFormat::Svg {
        // A picture that is looked at by itself keeps its colours; nothing in it can run or load.
        let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    }
    response
}

fn drawing(run: &Run, steps: &[Step]) -> Drawing {
    let places: HashMap<i32, u32> = steps.iter().map(|step| step.ord).zip(0..).collect();
    let nodes = steps.iter().map(node).collect();
    let mut edges = Vec::new();
    for (to, step) in (0..).zip(steps) {
        let needs = step.needs.iter().filter_map(|ord| places.get(ord));
        edges.extend(needs.map(|from| Edge { from: *from, to }));
    }
    Drawing { title: run.name.clone(), nodes, edges }
}

fn node(step: &Step) -> Node {
    let kind = reading::spec_of(step).map_or_else(String::new, |spec| spec.work.kind().to_owned());
    let items = step.items;
    let detail = match &step.error {
        Some(error) => format!("{}: {}", error.code, error.message),
        None if step.many => {
            format!(
                "{} of {} items ended, {} failed",
                items.total - items.open.min(items.total),
                items.total,
                items.failed
            )
        }
        None => String::new(),
    };
    Node { id: step.id.clone(), label: step.id.clone(), kind, state: Some(step.state), detail }
}
