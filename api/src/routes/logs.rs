//! A job's log: a page of lines, or a stream that follows it.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::Stream;
use http::HeaderMap;
use tokio::time::Instant;
use windlass_shared::ledger::LogLine;
use windlass_shared::model::id::JobId;

use crate::app::App;
use crate::auth::{self, Caller};
use crate::error::{ApiError, Code};
use crate::extract::{Id, Params};
use crate::streams::Place;
use crate::views::job::LogView;
use crate::views::{Page, ServerSentEvent};

/// Pause between two looks at the ledger.
const POLL: Duration = Duration::from_millis(500);
/// A stream's key is checked this often.
const RECHECK: Duration = Duration::from_secs(4);
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const LINES_MAX: u32 = 500;

/// Read a job's log
///
/// The lines that its handler wrote, oldest first. With `follow=true` they are streamed as server-sent
/// events (`event: line`, the line's number as id) until the job has ended (`event: end`).
#[utoipa::path(
    get, path = "/v1/jobs/{id}/logs", tag = "jobs",
    params(
        ("id" = String, Path, format = Uuid),
        ("after" = Option<u64>, Query, description = "Lines after this number.", minimum = 0, maximum = 9007199254740991_u64),
        ("limit" = Option<u32>, Query, description = "Lines of a page; 50 if not given.", minimum = 1, maximum = 500),
        ("follow" = Option<bool>, Query, description = "Stream lines as they come."),
        ("Last-Event-ID" = Option<String>, Header, description = "Where a broken stream goes on.", pattern = "^[0-9]{1,16}$"),
    ),
    responses((status = 200, description = "Lines; `next_cursor` is the `after` of the next page.",
        content((Page<LogView> = "application/json"), (ServerSentEvent = "text/event-stream")))),
)]
pub async fn read_logs(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<JobId>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    let follow = params.flag("follow");
    let after = params.number("after", 0..=(1 << 53) - 1);
    let limit = params.limit();
    params.finish()?;
    let after = last_event_id(&headers)?.or(after).unwrap_or(0);
    let first = app
        .life
        .ledger()
        .logs(&caller.namespace, id, after, limit)
        .await?
        .ok_or_else(ApiError::not_found)?;
    if !follow {
        let full = first.len() as u64 >= u64::from(limit);
        let next_cursor = first.last().filter(|_| full).map(|line| line.seq.to_string());
        let items = first.into_iter().map(LogView::from).collect();
        return Ok(Json(Page { items, next_cursor }).into_response());
    }
    let place = app.streams.open(caller.key)?;
    let stream =
        follow_log(Follow { app, caller, id, after, checked: Instant::now(), _place: place });
    let mut response =
        Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    super::events::mark_stream(&mut response);
    Ok(response)
}

/// Where a client's stream broke off.
///
/// # Errors
/// 400 for a header that is no number.
pub fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or("");
    let fine = (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(id) if fine => Ok(Some(id)),
        _ => Err(ApiError::new(Code::InvalidHeader, "Last-Event-ID must be a number")),
    }
}

struct Follow {
    app: App,
    caller: Caller,
    id: JobId,
    after: u64,
    checked: Instant,
    _place: Place,
}

fn follow_log(follow: Follow) -> impl Stream<Item = Result<Event, std::convert::Infallible>> {
    // Flattened by hand: one look yields many events, and the stream ends after its last one.
    let batches = futures::stream::unfold(Some(follow), |state| async move {
        let mut follow = state?;
        match look(&mut follow).await {
            Look::Lines(events) => Some((events, Some(follow))),
            Look::End(events) => Some((events, None)),
        }
    });
    futures::StreamExt::flat_map(batches, |events| {
        futures::stream::iter(events.into_iter().map(Ok))
    })
}

enum Look {
    Lines(Vec<Event>),
    End(Vec<Event>),
}

/// Waits until there is something to send.
async fn look(follow: &mut Follow) -> Look {
    loop {
        if follow.app.shutdown.is_cancelled() {
            return Look::End(Vec::new());
        }
        if follow.checked.elapsed() >= RECHECK {
            follow.checked = Instant::now();
            if !auth::still_valid(&follow.app, &follow.caller).await {
                return Look::End(Vec::new());
            }
        }
        // Asked before the lines: what is written before the end is then not missed.
        let (ledger, namespace) = (follow.app.life.ledger(), &follow.caller.namespace);
        let job = ledger.job(namespace, follow.id).await;
        let lines = ledger.logs(namespace, follow.id, follow.after, LINES_MAX).await;
        let (ended, lines) = match (job, lines) {
            (Ok(Some(job)), Ok(Some(lines))) => (job.state.is_terminal(), lines),
            // The client asks again where it stopped, and gets a proper answer then.
            _ => return Look::End(Vec::new()),
        };
        let more = lines.len() >= LINES_MAX as usize;
        follow.after = lines.last().map_or(follow.after, |line| line.seq);
        let mut events: Vec<Event> = lines.into_iter().filter_map(event_of).collect();
        if ended && !more {
            events.push(Event::default().event("end").data("{}"));
            return Look::End(events);
        }
        if !events.is_empty() {
            return Look::Lines(events);
        }
        tokio::select! {
            biased;
            () = follow.app.shutdown.cancelled() => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

fn event_of(line: LogLine) -> Option<Event> {
    let id = line.seq.to_string();
    Event::default().event("line").id(id).json_data(LogView::from(line)).ok()
}
