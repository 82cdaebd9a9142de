//! Every route, mounted once for the router and for its documentation.

use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::on;
use axum::{Json, Router};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::{PathItemExt as _, routes};

use crate::app::App;
use crate::error::{ApiError, Code};
use crate::{auth, observe};

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

/// A list of handlers, those of one path in brackets: their router, and their documentation. Apart from each other, as
/// the documents of all their types are megabytes that only whoever asks for them need have made.
macro_rules! mounted {
    ($router:ident, $documented:ident: $([$($($handler:ident)::+),+],)+) => {
        fn $router() -> Router<App> {
            let mut router = Router::new();
            // What `#[utoipa::path]` says of a handler; these arms of its macro name it.
            $($(for method in routes!(@path [methods()] of $($handler)::+) {
                let at = routes!(@path [path()] of $($handler)::+);
                router = router.route(&at, on(method.to_method_filter(), $($handler)::+));
            })+)+
            router
        }

        /// The same with its documentation.
        pub fn $documented() -> OpenApiRouter<App> {
            OpenApiRouter::new()$(.routes(routes!($($($handler)::+),+)))+
        }
    };
}

// The calls that need a key.
mounted! { api, documented_api:
    [jobs::submit_job, reading::list_jobs],
    [submit::submit_batch],
    [actions::start_action],
    [reading::get_job, changes::patch_job, changes::delete_job],
    [reading::wait_for_job],
    [reading::list_attempts],
    [logs::read_logs],
    [reading::explain_job],
    [changes::cancel_job],
    [changes::retry_job],
    [actions::get_operation],
    [events::watch],
    [queues::list_queues],
    [queues::get_queue, queues::patch_queue],
    [queues::pause_queue],
    [queues::resume_queue],
    [queues::purge_queue],
    [circuits::list_circuits],
    [circuits::get_circuit, circuits::patch_circuit],
    [circuits::open_circuit],
    [circuits::close_circuit],
    [circuits::reset_circuit],
    [quotas::list_quotas],
    [quotas::get_quotas, quotas::put_quotas, quotas::delete_quotas],
    [workers::list_workers],
    [workers::drain_worker],
    [leases::take_leases],
    [leases::extend_leases],
    [leases::settle_leases],
    [reports::report],
    [blobs::put_blob, blobs::get_blob],
    [workflows::submit_workflow, workflows::list_workflows],
    [workflows::plan::validate_workflow],
    [workflows::plan::optimize_workflow],
    [workflows::get_workflow],
    [workflows::graph::draw_workflow],
    [workflows::changes::cancel_workflow],
    [workflows::changes::retry_workflow],
    [workflows::changes::rerun_workflow],
    [workflows::given::send_signal],
    [workflows::given::vote, workflows::given::list_votes],
    [workflows::added::add_steps],
    [definitions::list_definitions],
    [definitions::put_definition, definitions::get_definition],
    [definitions::list_versions],
    [definitions::get_version],
    [schedules::create_schedule, schedules::list_schedules],
    [schedules::get_schedule, schedules::patch_schedule, schedules::delete_schedule],
    [schedules::pause_schedule],
    [schedules::resume_schedule],
    [schedules::fires::trigger_schedule],
    [schedules::fires::backfill_schedule],
    [schedules::fires::list_fires],
    [schedules::fires::list_next],
    [scale::get_scale],
    [system::list_duties],
    [load_checks::start_load_check, load_checks::list_load_checks],
    [load_checks::get_load_check],
    [load_checks::abort_load_check],
    [load_results::list_load_results],
    [load_results::put_load_result, load_results::get_load_result],
    [system_health::system_health],
    [backups::create_backup, backups::list_backups],
    [backups::get_backup],
    [backups::verify_backup],
    [backups::restore_backup],
    [keys::create_key, keys::list_keys],
    [keys::delete_key],
}

// Those that need none.
mounted! { probes, documented_probes:
    [probes::liveness],
    [probes::readiness],
    [probes::startup],
    [probes::health],
}

/// The public listener: the API, its documentation and the probes.
pub fn router(app: App) -> Router {
    let mut api = api();
    let mut open = probes().merge(docs::routes()).merge(openapi_router());
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
    finish(probes().merge(metrics_router()), app)
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
