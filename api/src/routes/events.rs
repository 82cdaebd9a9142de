//! `GET /v1/events`: changes of jobs as they are recorded.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use tokio::time::Instant;
use windlass_shared::ledger::JobFilter;
use windlass_shared::model::id::JobId;
use windlass_shared::model::job::{Job, JobState};
use windlass_shared::model::time::Timestamp;

use super::logs::last_event_id;
use crate::app::App;
use crate::auth::{self, Caller};
use crate::error::ApiError;
use crate::extract::Params;
use crate::requests::filter::{self, FilterParams};
use crate::streams::Place;
use crate::views::ServerSentEvent;

const POLL: Duration = Duration::from_millis(250);
/// A stream's key is checked this often.
const RECHECK: Duration = Duration::from_secs(4);
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events of one look; the jobs of one look are read in one query.
const EVENTS_MAX: u32 = 500;

/// A recorded change of a job.
#[derive(Debug, Serialize)]
struct EventView {
    id: String,
    state: JobState,
    queue: String,
    kind: String,
    at: Timestamp,
}

/// Watch jobs change
///
/// Server-sent events: `event: job` with `{"id", "state", "queue", "kind", "at"}` for each recorded change,
/// filtered as the list is. `Last-Event-ID` goes on where a stream broke off; `event: reset` says that
/// events are missing and the list should be read again. A convenience, not a record.
#[utoipa::path(
    get, path = "/v1/events", tag = "jobs",
    params(
        FilterParams,
        ("Last-Event-ID" = Option<String>, Header, description = "Where a broken stream goes on.", pattern = "^[0-9]{1,16}$"),
    ),
    responses((status = 200, description = "The stream.", body = ServerSentEvent, content_type = "text/event-stream")),
)]
pub async fn watch(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    let filter = filter::from_query(&mut params);
    params.finish()?;
    let after = last_event_id(&headers)?;
    let place = app.streams.open(caller.key)?;
    // The first look tells where the feed ends, and fails here rather than in the stream.
    let page = app.life.feed(&caller.namespace, after, 1).await?;
    let position = after.unwrap_or(page.position);
    let watch = Watch { app, caller, filter, position, checked: Instant::now(), _place: place };
    let mut response =
        Sse::new(events(watch)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    mark_stream(&mut response);
    Ok(response)
}

/// Tells proxies not to hold events back.
pub fn mark_stream(response: &mut Response) {
    response
        .headers_mut()
        .insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
}

struct Watch {
    app: App,
    caller: Caller,
    filter: JobFilter,
    position: u64,
    checked: Instant,
    _place: Place,
}

fn events(watch: Watch) -> impl Stream<Item = Result<Event, Infallible>> {
    let batches = futures::stream::unfold(watch, |mut watch| async move {
        let events = look(&mut watch).await?;
        Some((events, watch))
    });
    batches.flat_map(|events| futures::stream::iter(events.into_iter().map(Ok)))
}

/// Waits until there is something to send; `None` ends the stream.
async fn look(watch: &mut Watch) -> Option<Vec<Event>> {
    loop {
        if watch.app.shutdown.is_cancelled() {
            return None;
        }
        if watch.checked.elapsed() >= RECHECK {
            watch.checked = Instant::now();
            if !auth::still_valid(&watch.app, &watch.caller).await {
                return None;
            }
        }
        let namespace = &watch.caller.namespace;
        let page = watch.app.life.feed(namespace, Some(watch.position), EVENTS_MAX).await.ok()?;
        watch.position = page.position;
        let mut out = Vec::new();
        if page.reset {
            out.push(Event::default().event("reset").id(page.position.to_string()).data("{}"));
        }
        let ids: Vec<JobId> = page.events.iter().map(|(_, event)| event.id).collect();
        if !ids.is_empty() {
            let jobs = watch.app.life.ledger().jobs(&ids).await.ok()?;
            let jobs: HashMap<JobId, Job> = jobs.into_iter().map(|job| (job.id, job)).collect();
            for (position, event) in page.events {
                // A job that was forgotten since has nothing to show.
                let Some(job) = jobs.get(&event.id).filter(|job| job.namespace == *namespace)
                else {
                    continue;
                };
                if matches(&watch.filter, job, event.state) {
                    out.extend(event_of(position, job, event.state, event.at));
                }
            }
        }
        if !out.is_empty() {
            return Some(out);
        }
        tokio::select! {
            biased;
            () = watch.app.shutdown.cancelled() => return None,
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

fn event_of(position: u64, job: &Job, state: JobState, at: Timestamp) -> Option<Event> {
    let view = EventView {
        id: job.id.to_string(),
        state,
        queue: job.queue.to_string(),
        kind: job.kind.to_string(),
        at,
    };
    Event::default().event("job").id(position.to_string()).json_data(view).ok()
}

/// Whether an event passes the list's filters.
fn matches(filter: &JobFilter, job: &Job, state: JobState) -> bool {
    let text = |needle: &String| {
        let needle = needle.to_lowercase();
        let has = |hay: &str| hay.to_lowercase().contains(&needle);
        has(job.kind.as_str())
            || job.tags.iter().any(|tag| has(tag))
            || job.error.as_ref().is_some_and(|e| has(&e.message) || has(&e.code))
    };
    (filter.states.is_empty() || filter.states.contains(&state))
        && filter.queue.as_ref().is_none_or(|queue| *queue == job.queue)
        && filter.kind.as_ref().is_none_or(|kind| *kind == job.kind)
        && filter.tags.iter().all(|tag| job.tags.contains(tag))
        && filter
            .workflow_id
            .is_none_or(|id| job.workflow.as_ref().is_some_and(|step| step.id == id))
        && filter.created_after.is_none_or(|at| job.created_at >= at)
        && filter.created_before.is_none_or(|at| job.created_at < at)
        && filter.text.as_ref().is_none_or(text)
}
