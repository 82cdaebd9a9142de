//! The installation as a whole.

use axum::Json;
use axum::extract::State;

use crate::app::App;
use crate::auth::Caller;
use crate::extract::NoParams;
use crate::system;
use crate::views::system_health::SystemHealthView;

/// Show how the installation does
///
/// Components, active alerts, what to do, and figures of the last hour and day, as the leading scheduler judged them;
/// cheap to ask. While the ledger is away, this process answers from memory. A key that is bound to a namespace sees
/// what is of its namespace. The status is always 200: probes are `/readiness` and `/liveness`.
#[utoipa::path(
    get, path = "/v1/system/health", tag = "system",
    responses((status = 200, description = "How it does.", body = SystemHealthView)),
)]
pub async fn system_health(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
) -> Json<SystemHealthView> {
    Json(system::look(&app, caller.bound_to.as_ref()).await)
}
