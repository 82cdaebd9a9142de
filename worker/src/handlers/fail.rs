//! `fail`: fails the first attempts, for trying out retries.

use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::error::HandlerError;
use crate::handler::{Handler, Typed};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    /// How many attempts fail; all by default.
    #[serde(default = "always")]
    times: u32,
    /// The message, and the code if it could be one.
    #[serde(default = "on_purpose")]
    error: String,
    /// Whether the failure is for good.
    #[serde(default)]
    permanent: bool,
}

#[derive(Serialize)]
struct Succeeded {
    /// The attempt that did.
    attempt: u32,
}

const fn always() -> u32 {
    u32::MAX
}

fn on_purpose() -> String {
    "failed_on_purpose".into()
}

pub(super) fn handler() -> impl Handler {
    Typed::new(|ctx: Context, args: Args| async move {
        let attempt = ctx.attempt();
        if attempt > args.times {
            return Ok(Succeeded { attempt });
        }
        let is_code =
            args.error.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let code = if is_code { args.error.clone() } else { on_purpose() };
        Err(if args.permanent {
            HandlerError::permanent(&code, args.error)
        } else {
            HandlerError::retryable(&code, args.error)
        })
    })
}
