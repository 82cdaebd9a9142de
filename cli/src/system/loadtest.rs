//! `loadtest.run`: carries a load profile out against this installation's own API, and keeps the result on record.
//!
//! A load that has not passed is not repeated until it passes: its job is dead, and says why.

use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use windlass_loadtest::profile::{Profile, shipped};
use windlass_loadtest::result::LoadResult;
use windlass_loadtest::run::{self as load, Options, Progress, Target, figures};
use windlass_shared::model::name::QueueName;
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;
use windlass_worker::handler::typed;

use super::{Installation, OwnKind};

/// What a job is given beyond the stages of its profile and the time that its jobs have to end: checking each, and a margin.
const OVERHEAD: Duration = Duration::from_secs(240);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    /// The name of one that Windlass ships with, or one as a whole.
    profile: Which,
    /// Every stage so many times as long.
    #[serde(default = "one")]
    scale: f64,
    /// Instead of the profile's.
    #[serde(default)]
    queue: Option<QueueName>,
    /// Of what is drawn.
    #[serde(default = "first")]
    seed: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Which {
    Named(String),
    Whole(Box<Profile>),
}

const fn one() -> f64 {
    1.0
}

const fn first() -> u64 {
    1
}

pub(super) fn kind(installation: &Installation) -> OwnKind {
    let installation = installation.clone();
    let handler = typed(move |ctx: Context, args: Args| {
        let installation = installation.clone();
        async move { Box::pin(perform(&installation, &ctx, args)).await }
    });
    ("loadtest.run", handler)
}

async fn perform(
    installation: &Installation,
    ctx: &Context,
    args: Args,
) -> Result<Value, HandlerError> {
    let invalid = |what: String| HandlerError::permanent("invalid_payload", what);
    let (name, profile) = profile(&args).map_err(invalid)?;
    let Some(api) = &installation.api else {
        let text = "the scheduler knows no API: set worker.api_url, and worker.api_key to a key with the role admin";
        return Err(HandlerError::permanent("no_api", text));
    };
    let needed = profile.length() + profile.settle.0 + OVERHEAD;
    if ctx.spec().timeout.0 < needed {
        let text = format!("the job's timeout must be at least {} s", needed.as_secs());
        return Err(HandlerError::permanent("timeout_too_short", text));
    }
    let target = Target {
        url: api.url.clone(),
        api_key: api.key.as_ref().map(|key| key.expose_secret().to_owned()),
        namespace: None,
        watched: Vec::new(),
    };
    let stop = CancellationToken::new();
    let (asked, stopping, told) = (ctx.cancellation(), installation.stopping.clone(), stop.clone());
    let _watch = AbortOnDropHandle::new(tokio::spawn(async move {
        tokio::select! {
            () = asked.cancelled() => {}
            () = stopping.cancelled() => {}
        }
        told.cancel();
    }));
    let whole = profile.length().as_secs_f64().max(1.0);
    let tell = |progress: &Progress<'_>| {
        let at = progress.second.map_or(whole, |second| second.at);
        ctx.progress((at / whole).min(1.0) * 90.0, Some(progress.doing));
    };
    let options = Options { seed: args.seed, traces: Vec::new() };
    let failed =
        |error: anyhow::Error| HandlerError::permanent("load_broken", format!("{error:#}"));
    let mut result =
        load::run(&name, &profile, &target, options, &tell, stop).await.map_err(failed)?;
    load::keep(&target, &mut result).await.map_err(failed)?;
    verdict(&result)
}

fn profile(args: &Args) -> Result<(String, Profile), String> {
    let (name, mut profile) = match &args.profile {
        Which::Named(name) => {
            let known = shipped(name).ok_or_else(|| format!("there is no profile {name:?}"))?;
            (name.clone(), known)
        }
        Which::Whole(profile) => ("custom".to_owned(), profile.as_ref().clone()),
    };
    if !(args.scale > 0.0 && args.scale <= 100.0) {
        return Err("scale must be over 0 and at most 100".into());
    }
    if let Some(queue) = &args.queue {
        profile.jobs.queue = queue.clone();
    }
    let profile = profile.scaled(args.scale).checked()?;
    if !profile.faults.is_empty() {
        return Err(
            "a profile that breaks things needs a fleet of its own: `windlass-rig load`".into()
        );
    }
    let wanted = profile.thresholds.keys().find_map(|name| figures::wants_process(name, &[]));
    if let Some(wanted) = wanted {
        return Err(format!("{wanted}, which a job cannot: leave the threshold out"));
    }
    Ok((profile.named(&name), profile))
}

fn verdict(result: &LoadResult) -> Result<Value, HandlerError> {
    let reasons = result.reasons();
    if !result.passed {
        let text = format!("{} ({}): {}", result.profile, result.id, reasons.join("; "));
        return Err(HandlerError::permanent("load_test_failed", text));
    }
    Ok(json!({
        "id": result.id,
        "profile": result.profile,
        "passed": result.passed,
        "figures": result.figures,
    }))
}
