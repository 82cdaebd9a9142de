//! `load_check.run`: one sustained-load check, from its beginning on record to its verdict on record.
//!
//! The verdict is written before anything is cleaned, and until the ledger takes it. An attempt that dies in between leaves
//! a check that says `running`; the next attempt of the job finds it and judges it as failed, for it must not be repeated
//! until one passes. Only a process that is stopped gives its check back, says so, and has it begun anew.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use windlass_loadtest::check::{self, Check, CheckError};
use windlass_shared::ledger::LedgerError;
use windlass_shared::ledger::load_checks::{CheckBegun, CheckEnd, LoadCheck, NewCheck};
use windlass_shared::limits::LEASE_DEFAULT;
use windlass_shared::model::load_check::{CheckState, KIND, Plan, Report};
use windlass_shared::model::name::Namespace;
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;
use windlass_worker::handler::typed;

use super::{Installation, OwnKind};

/// Between two tries of a call to the ledger.
const AGAIN: Duration = Duration::from_millis(500);
/// An attempt that is told to stop has a few seconds; this much of it is for the verdict.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Jobs of one step of cleaning.
const CLEAN_BATCH: u32 = 500;
/// What is not clean by then is left to the scheduler's duty.
const CLEAN_MAX: Duration = Duration::from_secs(30);
/// Before the job of a check that was given back may start again.
const RESTART: Duration = Duration::from_secs(1);
/// A host's clock may be set back this much while a check runs, in milliseconds.
const CLOCK_BACK_MS: u64 = 60_000;

pub(super) fn kind(installation: &Installation) -> OwnKind {
    let installation = installation.clone();
    let handler = typed(move |ctx: Context, plan: Option<Plan>| {
        let installation = installation.clone();
        async move { Box::pin(perform(&installation, &ctx, plan.unwrap_or_default())).await }
    });
    (KIND, handler)
}

async fn perform(
    installation: &Installation,
    ctx: &Context,
    plan: Plan,
) -> Result<Value, HandlerError> {
    if let Some((field, fault)) = plan.faults().first() {
        return Err(HandlerError::permanent("invalid_payload", format!("{field} {fault}")));
    }
    let (given, needed) = (ctx.spec().timeout.0, plan.timeout());
    if given < needed {
        let text = format!("the job's timeout must be at least {} s", needed.as_secs());
        return Err(HandlerError::permanent("timeout_too_short", text));
    }
    let new = new_check(installation, ctx, plan);
    let stop = ctx.cancellation();
    let begun = persistently(&stop, || installation.life.ledger().begin_check(&new)).await;
    let known = match begun {
        None => return Err(HandlerError::snooze(RESTART)),
        Some(CheckBegun::Started(known)) => known,
        Some(CheckBegun::Ended(ended)) => {
            clean(installation, &ended.shadow, &stop).await;
            return verdict(ended.state, &ended.reasons, ended.report);
        }
        Some(CheckBegun::Busy(other)) => {
            return Err(HandlerError::permanent("check_running", format!("check {other} runs")));
        }
        Some(CheckBegun::Stale) => return Err(HandlerError::snooze(RESTART)),
    };
    tracing::info!(check = %known.id, jobs = known.plan.jobs(), "a load check begins");
    // What a check left that died is no load of this one.
    // What does not fit into the time is cleaned by the scheduler's duty.
    let _ = tokio::time::timeout(CLEAN_MAX, clean_earlier(installation, &stop)).await;
    let ended = load(installation, ctx, &known).await;
    end(installation, ctx, &known, ended).await
}

fn new_check(installation: &Installation, ctx: &Context, plan: Plan) -> NewCheck {
    let now = u64::try_from(installation.life.clock().now().millis()).unwrap_or(0);
    let most = u64::try_from(plan.timeout().as_millis()).unwrap_or(u64::MAX);
    NewCheck {
        id: ctx.job_id(),
        run: ctx.fence(),
        shadow: Namespace::shadow(uuid::Uuid::now_v7()),
        ids: (
            now.saturating_sub(CLOCK_BACK_MS),
            now.saturating_add(most).saturating_add(CLOCK_BACK_MS),
        ),
        plan,
    }
}

/// Runs the load, until it has a report or the attempt or the process is to stop.
async fn load(
    installation: &Installation,
    ctx: &Context,
    known: &LoadCheck,
) -> Result<Report, CheckError> {
    let check = Check {
        life: installation.life.clone(),
        source: installation.source.clone(),
        plan: known.plan.clone(),
        shadow: known.shadow.clone(),
        lease: installation.settings.worker.lease.min(LEASE_DEFAULT),
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
    check::run(&check, |percent, what| ctx.progress(percent, Some(what)), &stop).await
}

/// What becomes of the check and of its job.
async fn end(
    installation: &Installation,
    ctx: &Context,
    known: &LoadCheck,
    ended: Result<Report, CheckError>,
) -> Result<Value, HandlerError> {
    let (stop, ledger) = (ctx.cancellation(), installation.life.ledger());
    let (state, reasons, report) = match ended {
        Ok(report) => {
            let reasons = report.reasons();
            let state = if reasons.is_empty() { CheckState::Passed } else { CheckState::Failed };
            (state, reasons, Some(report))
        }
        Err(CheckError::Broken(why)) => {
            (CheckState::Failed, vec![format!("could not be carried through: {why:#}")], None)
        }
        Err(CheckError::Stopped) if ctx.is_cancelled() => {
            (CheckState::Aborted, vec!["stopped on request".to_owned()], None)
        }
        Err(CheckError::Stopped) if installation.stopping.is_cancelled() => {
            let given = last_words(|| ledger.give_back_check(known.id, known.run)).await;
            tracing::info!(check = %known.id, given = given.is_some(), "a load check was given back");
            return Err(HandlerError::snooze(RESTART));
        }
        Err(CheckError::Stopped) => (
            CheckState::Failed,
            vec!["interrupted: its job lost its lease, or ran out of time".to_owned()],
            Some(Report::interrupted()),
        ),
    };
    let end = CheckEnd {
        id: known.id,
        run: known.run,
        state,
        reasons: reasons.clone(),
        report: report.clone(),
    };
    let write = || ledger.end_check(&end);
    let written = match persistently(&stop, write).await {
        Some(written) => Some(written),
        None => last_words(write).await,
    };
    match written {
        Some(true) => {}
        Some(false) => return Err(HandlerError::snooze(RESTART)),
        // The next attempt finds it running, and judges it.
        None => return Err(HandlerError::retryable("no_verdict", "the ledger did not take it")),
    }
    tracing::info!(check = %known.id, state = state.as_str(), ?reasons, "a load check has its verdict");
    clean(installation, &known.shadow, &stop).await;
    verdict(state, &reasons, report)
}

/// How the job ends: as the check did, and for good.
fn verdict(
    state: CheckState,
    reasons: &[String],
    report: Option<Report>,
) -> Result<Value, HandlerError> {
    match state {
        CheckState::Passed => Ok(json!({ "state": state.as_str(), "report": report })),
        CheckState::Aborted => Err(HandlerError::cancelled()),
        CheckState::Failed | CheckState::Running => {
            Err(HandlerError::permanent("check_failed", reasons.join("; ")))
        }
    }
}

/// Repeats a call until the ledger answers; `None`: the attempt is to stop.
async fn persistently<T, F>(stop: &CancellationToken, call: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = Result<T, LedgerError>>,
{
    loop {
        if stop.is_cancelled() {
            return None;
        }
        match call().await {
            Ok(answer) => return Some(answer),
            Err(error) => tracing::warn!(%error, "a load check waits for the ledger"),
        }
        stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await;
    }
}

/// As [`persistently`], for the little time that an attempt has which is to stop.
async fn last_words<T, F>(call: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = Result<T, LedgerError>>,
{
    let never = CancellationToken::new();
    tokio::time::timeout(LAST_WORDS, persistently(&never, call)).await.ok().flatten()
}

/// Cleans what earlier checks have left.
async fn clean_earlier(installation: &Installation, stop: &CancellationToken) {
    // What cannot be cleaned now is cleaned by the scheduler's duty.
    let shadows = installation.life.ledger().unclean_shadows(10).await.unwrap_or_default();
    for shadow in shadows {
        clean(installation, &shadow, stop).await;
    }
}

/// Cleans a shadow, as far as that goes in a while.
async fn clean(installation: &Installation, shadow: &Namespace, stop: &CancellationToken) {
    let cleaning = async {
        loop {
            match installation.life.clean_shadow(shadow, CLEAN_BATCH).await {
                Ok(Some(cleaned)) if cleaned.is_done => return,
                Ok(Some(cleaned)) if cleaned.jobs == 0 => tokio::time::sleep(AGAIN).await,
                Ok(Some(_)) => {}
                Ok(None) => return,
                // The duty goes on with it.
                Err(error) => {
                    return tracing::warn!(%error, %shadow, "a shadow cannot be cleaned now");
                }
            }
        }
    };
    let cleaning = tokio::time::timeout(CLEAN_MAX, cleaning);
    // Either way the duty does the rest.
    let _ = stop.run_until_cancelled(cleaning).await;
}
