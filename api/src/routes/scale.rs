//! How many workers a queue needs: for autoscalers.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use windlass_shared::engine::ShardId;
use windlass_shared::ledger::QueueMinute;
use windlass_shared::model::name::QueueName;
use windlass_shared::model::scale::{self, Minute, Objective, SERVICE_DEFAULT, Seen};
use windlass_shared::model::time::{Span, Timestamp};

use super::workers::SEEN_WITHIN;
use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, Code};
use crate::extract::{Id, Params};
use crate::views::scale::{Of, ScaleView};

/// Jobs are to start within this, unless the call or the queue says otherwise.
const OBJECTIVE_DEFAULT: Duration = Duration::from_secs(10);
/// Longest objective and service time.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// A shard that is shut is open again after some seconds.
const COMPARED_WITHIN: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);

/// Ask how many workers a queue needs
///
/// So that 95 % of its jobs start within the objective: from what ended within the last hour, what waits and what runs.
/// Costs the same however many jobs there are. Smooth it over time where you scale: it follows what it sees at once.
#[utoipa::path(
    get, path = "/v1/scale/{queue}", tag = "queues",
    params(
        ("queue" = String, Path, pattern = "^[A-Za-z0-9._:-]{1,128}$"),
        ("objective" = Option<String>, Query, description = "Jobs are to start within this, at most a day; if not given the queue's `latency_objective`, or `10s`.", max_length = 40),
        ("service_time" = Option<String>, Query, description = "Time of an attempt, where too few have ended to know: `1s` if not given.", max_length = 40),
        ("slots_per_worker" = Option<u32>, Query, description = "Slots of a worker, where there is none: 16 if not given.", minimum = 1, maximum = 10_000),
    ),
    responses((status = 200, description = "What it needs, and why.", body = ScaleView)),
)]
pub async fn get_scale(
    State(app): State<App>,
    caller: Caller,
    Id(name): Id<QueueName>,
    mut params: Params,
) -> Result<Json<ScaleView>, ApiError> {
    let start_within = params.parsed("objective", span);
    let service = params.parsed("service_time", span).unwrap_or(SERVICE_DEFAULT);
    let slots = params.number("slots_per_worker", 1..=10_000);
    params.finish()?;
    let (ledger, namespace) = (app.life.ledger(), &caller.namespace);
    let queue = ledger.queue(namespace, &name).await?.ok_or_else(ApiError::not_found)?;
    let own = queue.settings.latency_objective.map(|span| span.0);
    let start_within = start_within.or(own).unwrap_or(OBJECTIVE_DEFAULT);
    let (minutes, now) = ledger.queue_minutes(namespace, &name).await?;
    let workers = ledger.workers(namespace, SEEN_WITHIN).await?;
    let shard = ShardId::first(namespace.clone(), name.clone());
    let stats = app.life.engine().stats(&shard).await?;
    // What is in a shard that is shut is what came since the store lost the rest; whoever believed it would stop workers
    // that hold jobs. One that was never opened has nothing.
    if !stats.open && ledger.shard(&shard).await?.generation > 0 {
        let why = "the queue store has to be compared with the ledger first";
        return Err(ApiError::new(Code::Unavailable, why).retry_after(COMPARED_WITHIN));
    }
    let seen = Seen {
        minutes: minutes.iter().map(|minute| before(*minute, now)).collect(),
        into_minute: Duration::from_micros(now.micros().rem_euclid(60_000_000).unsigned_abs()),
        waiting: stats.ready,
        running: stats.leased,
        paused: queue.paused.is_some(),
    };
    let objective = Objective { start_within, service };
    let of = Of {
        namespace: namespace.as_str(),
        queue: &name,
        at: now,
        slots: slots.and_then(|slots| u32::try_from(slots).ok()),
    };
    let need = scale::need(&seen, objective);
    Ok(Json(ScaleView::new(&of, need, &seen, objective, workers)))
}

fn before(minute: QueueMinute, now: Timestamp) -> Minute {
    let ago = now.since(minute.minute).as_secs() / MINUTE.as_secs();
    let ago = u32::try_from(ago).unwrap_or(u32::MAX);
    Minute { ago, count: minute.count, run_ms: minute.run_ms }
}

/// `10s`, or a number of seconds.
fn span(text: &str) -> Result<Duration, &'static str> {
    let parsed = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => text.parse::<Span>().ok().map(|span| span.0),
    };
    let within = |time: &Duration| !time.is_zero() && *time <= LONGEST;
    parsed.filter(within).ok_or("must be a time such as 10s, at most a day")
}
