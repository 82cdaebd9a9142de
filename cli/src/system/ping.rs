//! `system.ping`: shows that somebody runs the installation's own jobs. Answers which ledger, and its time.

use serde::Deserialize;
use serde_json::json;
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;
use windlass_worker::handler::typed;

use super::{Installation, OwnKind};

/// Takes nothing: `null` or `{}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

pub(super) fn kind(installation: &Installation) -> OwnKind {
    let ledger = installation.life.ledger().clone();
    let handler = typed(move |_ctx: Context, _: Option<Nothing>| {
        let ledger = ledger.clone();
        async move {
            let at = ledger.now().await?;
            Ok::<_, HandlerError>(json!({ "ledger": ledger.id().to_string(), "at": at }))
        }
    });
    ("system.ping", handler)
}
