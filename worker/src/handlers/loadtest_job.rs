//! `loadtest.job`: what a job of a load test does: waits, keeps a processor busy, fails at first.

use std::time::Duration;

use serde::Deserialize;

use super::cpu_burn;
use crate::context::Context;
use crate::error::HandlerError;
use crate::handler::{Handler, Typed};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    /// How long it waits.
    #[serde(default)]
    sleep_ms: u32,
    /// Then, how long it uses a processor.
    #[serde(default)]
    burn_ms: u32,
    /// How many attempts fail, after all that.
    #[serde(default)]
    fails: u32,
    /// Bytes that make the payload as long as it is to be.
    #[serde(default, rename = "filling")]
    _filling: serde::de::IgnoredAny,
}

pub(super) fn handler() -> impl Handler {
    Typed::new(|ctx: Context, args: Args| async move {
        let ms = |ms: u32| Duration::from_millis(ms.into());
        if args.sleep_ms > 0 {
            tokio::time::sleep(ms(args.sleep_ms)).await;
        }
        if args.burn_ms > 0 {
            cpu_burn::use_processor(ms(args.burn_ms)).await?;
        }
        if ctx.attempt() <= args.fails {
            return Err(HandlerError::retryable("failed_on_purpose", "the load test wants it"));
        }
        Ok(())
    })
}
