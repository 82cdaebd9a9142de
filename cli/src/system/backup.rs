//! `backup.create`, `backup.drill` and `backup.restore`, and the schedules by which they come by themselves.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use windlass_scheduler::backup::{BackupError, create, drill, fetch};
use windlass_shared::config::{BackupSettings, LedgerSettings};
use windlass_shared::ledger::upkeep::Upkeep;
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::lifecycle::schedule::NewSchedule;
use windlass_shared::model::backup::{CREATE, DRILL, job_spec};
use windlass_shared::model::id::ScheduleId;
use windlass_shared::model::job::Priority;
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::schedule::times::Timing;
use windlass_shared::model::schedule::{
    CatchUp, CatchUpPolicy, Overlap, ScheduleSpec, ScheduledWork,
};
use windlass_shared::model::time::Timestamp;
use windlass_shared::model::workflow::JobTemplate;
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;
use windlass_worker::handler::typed;

use super::{Installation, OwnKind};

mod listing;
mod restoring;

/// Progress is told this often at most.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// Before it is looked again whether another backup is still being made.
const BUSY_PAUSE: Duration = Duration::from_secs(30);

/// Takes nothing: `null` or `{}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Which backup; the newest where none is named.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    #[serde(default)]
    backup: Option<String>,
}

/// The kinds; without a store they say that there is none.
pub(super) fn kinds(installation: &Installation) -> [OwnKind; 3] {
    let (one, other) = (installation.clone(), installation.clone());
    let creating = typed(move |ctx: Context, _: Option<Nothing>| {
        let (places, life) = (places(&one), one.life.clone());
        async move {
            let (backup, ledger) = places?;
            let progress = told(&ctx);
            let made = create::create(&backup, &ledger, &progress, &ctx.cancellation()).await;
            let manifest = made.map_err(failed)?;
            note(&life, Upkeep::Backup, Some(manifest.origin.at)).await;
            listing::note_made(life.ledger(), &backup, &manifest).await;
            let (rows, bytes) = (manifest.contents.rows(), manifest.bytes());
            Ok::<_, HandlerError>(
                json!({ "backup": manifest.id, "at": manifest.origin.at, "rows": rows, "bytes": bytes }),
            )
        }
    });
    let drilling = typed(move |ctx: Context, which: Option<Which>| {
        let (places, life) = (places(&other), other.life.clone());
        async move {
            let (backup, ledger) = places?;
            let id = match which.and_then(|which| which.backup) {
                Some(id) => id,
                None => newest(&backup).await?,
            };
            let progress = told(&ctx);
            let stop = ctx.cancellation();
            let report = drill::drill(&backup, &ledger, &id, &progress, &stop).await;
            let what = match &report {
                Ok(report) if report.error.is_none() => Some(Upkeep::Drill),
                Err(error) if error.is_passing() => None,
                Ok(_) | Err(_) => Some(Upkeep::DrillFailed),
            };
            if let (Some(what), Ok(now)) = (what, life.ledger().now().await) {
                note(&life, what, Some(now)).await;
            }
            let report = report.map_err(failed)?;
            listing::note_drill(life.ledger(), &backup, &report).await;
            // One that is found bad is found bad again: somebody has to look.
            if let Some((code, why)) = report.error {
                return Err(HandlerError::permanent(&code, why));
            }
            Ok(json!(report))
        }
    });
    [(CREATE, creating), (DRILL, drilling), restoring::kind(installation)]
}

/// For the ages that overwatch holds them to. What could not be noted makes them seem older than they are, no younger.
async fn note(life: &Lifecycle, what: Upkeep, at: Option<Timestamp>) {
    if let Err(error) = life.ledger().note_upkeep(what, at).await {
        tracing::warn!(%error, what = what.as_str(), "cannot note when this happened");
    }
}

fn places(installation: &Installation) -> Result<(BackupSettings, LedgerSettings), HandlerError> {
    let none = |why: String| HandlerError::permanent("settings", why);
    let settings = &installation.settings;
    let backup = settings.backup().map_err(|error| none(error.to_string()))?;
    let ledger = settings.ledger().map_err(|error| none(error.to_string()))?;
    Ok((backup.clone(), ledger.clone()))
}

async fn newest(settings: &BackupSettings) -> Result<String, HandlerError> {
    let newest = fetch::newest(settings).await.map_err(failed)?.map(|manifest| manifest.id);
    newest.ok_or_else(|| HandlerError::permanent("not_found", "there is no backup yet"))
}

/// What passes is tried again; the rest needs somebody to look.
fn failed(error: BackupError) -> HandlerError {
    if matches!(error, BackupError::Busy(_)) {
        // No attempt is to be spent on waiting for the other one's end.
        return HandlerError::snooze(BUSY_PAUSE);
    }
    let passes = error.is_passing() || matches!(error, BackupError::Tool(_));
    let (code, text) = (error.code(), format!("{:#}", anyhow::Error::new(error)));
    if passes { HandlerError::retryable(code, text) } else { HandlerError::permanent(code, text) }
}

/// Tells the job's progress in words: how much there will be is not known before.
fn told(ctx: &Context) -> impl Fn(&str, u64) + Send + Sync + use<> {
    let (ctx, last) = (ctx.clone(), Mutex::new(None::<Instant>));
    move |what, bytes| {
        let mut last = last.lock().expect("nothing panics while holding it");
        if last.is_none_or(|last| last.elapsed() >= TELL_EVERY) {
            *last = Some(Instant::now());
            ctx.progress(0.0, Some(&format!("{what} {bytes} bytes")));
        }
    }
}

/// Gives the installation its daily backup and weekly drill, once: what an operator makes of them stays. Tries until it
/// has, or until `shutdown`.
pub(super) async fn keep_defaults(installation: &Installation, shutdown: &CancellationToken) {
    if installation.settings.backup.is_none() {
        return;
    }
    let pause = Duration::from_secs(5);
    loop {
        note(&installation.life, Upkeep::BackupsWanted, None).await;
        match make_defaults(&installation.life).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "the schedules of backups could not be made yet"
            ),
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

async fn make_defaults(life: &Lifecycle) -> anyhow::Result<()> {
    for (name, cron, kind) in
        [("daily-backup", "17 2 * * *", CREATE), ("weekly-drill", "41 4 * * 0", DRILL)]
    {
        if life.ledger().has_default(name).await? {
            continue;
        }
        let new = NewSchedule {
            id: ScheduleId::generate(),
            namespace: Namespace::system(),
            name: name.parse().ok().context("a name of ours is one")?,
            spec: spec(cron, kind)?,
            paused: None,
        };
        // Where there is one of that name, it is somebody's own, or another scheduler was faster.
        let _ = life.create_schedule(new).await?;
        life.ledger().note_default(name).await?;
    }
    Ok(())
}

fn spec(cron: &str, kind: &str) -> anyhow::Result<ScheduleSpec> {
    Ok(ScheduleSpec {
        timing: Timing::Cron {
            pattern: cron.parse().ok().context("a pattern of ours is one")?,
            gap: Default::default(),
            repeat: None,
        },
        zone: Default::default(),
        overlap: Overlap::Skip,
        // After an outage one backup is as good as many.
        catch_up: CatchUp { policy: CatchUpPolicy::One, ..CatchUp::default() },
        jitter: None,
        start_at: None,
        end_at: None,
        exclude: Vec::new(),
        pause_on_failure: None,
        work: ScheduledWork::Job(JobTemplate {
            queue: QueueName::system(),
            kind: kind.parse().ok().context("a kind of ours is one")?,
            priority: Priority::default(),
            payload: json!({}),
            is_template: false,
            delay: None,
            ttl: None,
            spec: job_spec(),
            tags: Vec::new(),
            meta: None,
        }),
        description: "made by Windlass; change, pause or delete it as you like".into(),
    })
}
