//! The installation as a whole.

use axum::Json;
use axum::extract::State;

use crate::app::App;
use crate::auth::Caller;
use crate::error::{ApiError, Code};
use crate::extract::NoParams;
use crate::views::duty::{Duties, DutyView, LeaderView};

/// List duties
///
/// What schedulers do by themselves, and how it went last, as they wrote it within the last seconds. For keys that are
/// bound to no namespace.
#[utoipa::path(
    get, path = "/v1/system/duties", tag = "operations",
    responses((status = 200, description = "All of them.", body = Duties)),
)]
pub async fn list_duties(
    State(app): State<App>,
    caller: Caller,
    _: NoParams,
) -> Result<Json<Duties>, ApiError> {
    if caller.bound_to.is_some() {
        let why = "the key is bound to a namespace, and this is about the whole installation";
        return Err(ApiError::new(Code::NamespaceDenied, why));
    }
    let ledger = app.life.ledger();
    let (rows, now) = ledger.duties().await?;
    let leader = ledger.leader().await?.and_then(|leader| LeaderView::of(leader, now));
    Ok(Json(Duties { items: DutyView::all(&rows, now), leader, now }))
}
