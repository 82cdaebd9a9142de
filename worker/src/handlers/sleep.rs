//! `sleep`: waits. It asks for no token, so it is dropped at once when it is to stop.

use serde::Deserialize;
use windlass_shared::model::time::Span;

use crate::context::Context;
use crate::error::HandlerError;
use crate::handler::{Handler, Typed};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    /// How long.
    #[serde(rename = "for")]
    length: Span,
}

pub(super) fn handler() -> impl Handler {
    Typed::new(|_ctx: Context, args: Args| async move {
        tokio::time::sleep(args.length.0).await;
        Ok::<_, HandlerError>(())
    })
}
