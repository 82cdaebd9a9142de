//! Every route, mounted once for the router and for its documentation.

use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::error::{ApiError, Code};
use crate::{auth, observe, openapi};

pub mod actions;
pub mod backups;
pub mod blobs;
pub mod changes;
pub mod circuits;
pub mod definitions;
pub mod docs;
pub mod events;
pub mod jobs;
pub mod keys;
pub mod leases;
pub mod load_checks;
pub mod load_results;
pub mod logs;
pub mod probes;
pub mod queues;
pub mod quotas;
pub mod reading;
pub mod reports;
pub mod scale;
pub mod schedules;
pub mod submit;
pub mod system;
pub mod system_health;
pub mod workers;
pub mod workflows;

/// An answer that says where what it shows is found.
fn located(status: StatusCode, location: &str, view: impl Serialize) -> Response {
    let mut response = (status, Json(view)).into_response();
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// The calls that need a key.
pub fn api() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(jobs::submit_job, reading::list_jobs))
        .routes(routes!(submit::submit_batch))
        .routes(routes!(actions::start_action))
        .routes(routes!(reading::get_job, changes::patch_job, changes::delete_job))
        .routes(routes!(reading::wait_for_job))
        .routes(routes!(reading::list_attempts))
        .routes(routes!(logs::read_logs))
        .routes(routes!(reading::explain_job))
        .routes(routes!(changes::cancel_job))
        .routes(routes!(changes::retry_job))
        .routes(routes!(actions::get_operation))
        .routes(routes!(events::watch))
        .routes(routes!(queues::list_queues))
        .routes(routes!(queues::get_queue, queues::patch_queue))
        .routes(routes!(queues::pause_queue))
        .routes(routes!(queues::resume_queue))
        .routes(routes!(queues::purge_queue))
        .routes(routes!(circuits::list_circuits))
        .routes(routes!(circuits::get_circuit, circuits::patch_circuit))
        .routes(routes!(circuits::open_circuit))
        .routes(routes!(circuits::close_circuit))
        .routes(routes!(circuits::reset_circuit))
        .routes(routes!(quotas::list_quotas))
        .routes(routes!(quotas::get_quotas, quotas::put_quotas, quotas::delete_quotas))
        .routes(routes!(workers::list_workers))
        .routes(routes!(workers::drain_worker))
        .routes(routes!(leases::take_leases))
        .routes(routes!(leases::extend_leases))
        .routes(routes!(leases::settle_leases))
        .routes(routes!(reports::report))
        .routes(routes!(blobs::put_blob, blobs::get_blob))
        .routes(routes!(workflows::submit_workflow, workflows::list_workflows))
        .routes(routes!(workflows::plan::validate_workflow))
        .routes(routes!(workflows::plan::optimize_workflow))
        .routes(routes!(workflows::get_workflow))
        .routes(routes!(workflows::graph::draw_workflow))
        .routes(routes!(workflows::changes::cancel_workflow))
        .routes(routes!(workflows::changes::retry_workflow))
        .routes(routes!(workflows::changes::rerun_workflow))
        .routes(routes!(workflows::given::send_signal))
        .routes(routes!(workflows::given::vote, workflows::given::list_votes))
        .routes(routes!(workflows::added::add_steps))
        .routes(routes!(definitions::list_definitions))
        .routes(routes!(definitions::put_definition, definitions::get_definition))
        .routes(routes!(definitions::list_versions))
        .routes(routes!(definitions::get_version))
        .routes(routes!(schedules::create_schedule, schedules::list_schedules))
        .routes(routes!(
            schedules::get_schedule,
            schedules::patch_schedule,
            schedules::delete_schedule
        ))
        .routes(routes!(schedules::pause_schedule))
        .routes(routes!(schedules::resume_schedule))
        .routes(routes!(schedules::fires::trigger_schedule))
        .routes(routes!(schedules::fires::backfill_schedule))
        .routes(routes!(schedules::fires::list_fires))
        .routes(routes!(schedules::fires::list_next))
        .routes(routes!(scale::get_scale))
        .routes(routes!(system::list_duties))
        .routes(routes!(load_checks::start_load_check, load_checks::list_load_checks))
        .routes(routes!(load_checks::get_load_check))
        .routes(routes!(load_checks::abort_load_check))
        .routes(routes!(load_results::list_load_results))
        .routes(routes!(load_results::put_load_result, load_results::get_load_result))
        .routes(routes!(system_health::system_health))
        .routes(routes!(backups::create_backup, backups::list_backups))
        .routes(routes!(backups::get_backup))
        .routes(routes!(backups::verify_backup))
        .routes(routes!(backups::restore_backup))
        .routes(routes!(keys::create_key, keys::list_keys))
        .routes(routes!(keys::delete_key))
}

/// The probes, which need none.
pub fn probes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(probes::liveness))
        .routes(routes!(probes::readiness))
        .routes(routes!(probes::startup))
        .routes(routes!(probes::health))
}

/// The public listener: the API, its documentation and the probes.
pub fn router(app: App) -> Router {
    let (mut api, _) = api().split_for_parts();
    let (probes, _) = probes().split_for_parts();
    let mut open = probes.merge(docs::routes()).merge(openapi_router());
    // Without an admin listener there is no other place for metrics. They name queues and kinds, so where
    // keys are needed they need one too.
    if app.settings.admin_listen.is_none() {
        if app.settings.auth_required {
            api = api.merge(metrics_router());
        } else {
            open = open.merge(metrics_router());
        }
    }
    let router = api.route_layer(from_fn_with_state(app.clone(), auth::guard)).merge(open);
    finish(router, app)
}

/// The admin listener: probes and metrics.
pub fn admin_router(app: App) -> Router {
    let (probes, _) = probes().split_for_parts();
    finish(probes.merge(metrics_router()), app)
}

fn openapi_router() -> Router<App> {
    Router::new().route("/openapi.json", axum::routing::get(probes::openapi))
}

fn metrics_router() -> Router<App> {
    Router::new().route("/metrics", axum::routing::get(probes::metrics))
}

fn finish(router: Router<App>, app: App) -> Router {
    router
        .fallback(|| async { ApiError::new(Code::NotFound, "there is no such route") })
        .layer(from_fn(observe::observe))
        .with_state(app)
}
