//! Proves a backup: restores it beside the ledger, rebuilds an engine from it, and runs a workflow on both to its end.
//!
//! Nothing of the live ledger or engine is touched, and no handler runs: the drill's own hands settle its canary.

use std::time::Duration;

use futures::future::BoxFuture;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use windlass_shared::clock::Clock;
use windlass_shared::config::{BackupSettings, EngineSettings, LedgerSettings};
use windlass_shared::engine::{Engine, ShardId, Verdict};
use windlass_shared::ledger::{Ledger, LedgerError, TERM_MAX, Unfinished, backup as ledger};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::lifecycle::sweep::is_over;
use windlass_shared::lifecycle::verify::{Verified, VerifySettings, verify};
use windlass_shared::model::id::{JobId, WorkerId};
use windlass_shared::model::time::Timestamp;

use super::canary::sing;
use super::fetch::{check, list};
use super::keys::Signer;
use super::restore::fill;
use super::scratch::Scratch;
use super::store::{Store, now};
use super::{BackupError, Progress, pg};

/// Databases of drills are named so, and by when they were made.
const PREFIX: &str = "windlass_drill_";
/// One of a drill that was killed is dropped after this long: longer than a drill may take.
const LEFT_MAX: Duration = Duration::from_secs(25 * 3600);
/// Due jobs of a queue that are counted.
const COUNTED_MAX: usize = 10_000;
const PAGE: u32 = 1_000;

/// What a drill has found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Which backup.
    pub backup: String,
    /// Whether it is proven.
    pub good: bool,
    /// When the drill began.
    pub started_at: Timestamp,
    /// From the first byte fetched to the end of the canary, in ms: how long a restore takes at least.
    pub rto_ms: u64,
    /// Age of the backup when the drill began, in ms: what would have been lost.
    pub rpo_ms: u64,
    /// Time between the backup and the one before, in ms: what is lost at most; `None`: it is the first.
    pub gap_ms: Option<u64>,
    /// Of the parts of `rto_ms`: checking and restoring; rebuilding the engine; the canary.
    pub restore_ms: u64,
    /// See `restore_ms`.
    pub rebuild_ms: u64,
    /// See `restore_ms`.
    pub canary_ms: u64,
    /// Rows that were compared.
    pub rows: u64,
    /// Jobs of any state.
    pub jobs: u64,
    /// Why it is not good: a code, and words.
    pub error: Option<(String, String)>,
}

impl Report {
    /// As a file of the store: JSON and its signature.
    fn encode(&self, signer: &Signer) -> Vec<u8> {
        let mut text = serde_json::to_vec(self).expect("its maps have texts as keys");
        let signature = signer.of_reports().sign(&text);
        text.extend_from_slice(format!("\n{signature}\n").as_bytes());
        text
    }

    /// One that is said to be of backup `id`. `None`: it is another's, damaged, or signed by somebody else.
    pub(super) fn decode(bytes: &[u8], id: &str, signer: &Signer) -> Option<Self> {
        let end = bytes.iter().position(|b| *b == b'\n')?;
        let (text, signature) = bytes.split_at(end);
        let signature = std::str::from_utf8(signature).ok()?.trim();
        let is_ours = signer.of_reports().accepts(text, signature);
        let report: Self = is_ours.then(|| serde_json::from_slice(text).ok())??;
        (report.backup == id).then_some(report)
    }
}

/// The report of the latest drill of a backup; `None`: there was none, or its report is not ours.
pub async fn report(settings: &BackupSettings, id: &str) -> Result<Option<Report>, BackupError> {
    let (store, signer) = (Store::open(settings)?, Signer::of(settings)?);
    let Some(id) = super::store::id_of(id) else { return Ok(None) };
    Ok(store.report(&id).await?.and_then(|bytes| Report::decode(&bytes, &id, &signer)))
}

/// What tests change, so that a drill has something to find.
pub(super) struct Faults {
    /// Between a queue's rebuild and its comparison.
    pub(super) rebuilt: for<'a> fn(&'a Lifecycle, &'a ShardId) -> BoxFuture<'a, ()>,
    /// How the canary's jobs end.
    pub(super) canary: fn() -> Verdict,
}

impl Default for Faults {
    fn default() -> Self {
        Self { rebuilt: |_, _| Box::pin(async {}), canary: || Verdict::Succeeded }
    }
}

/// Proves backup `id`, and keeps the report beside it. `live`: the ledger of this installation, for its server or folder
/// only. A drill that finds something is a report that is not good, not an error. Where it was not over in time, or a tool
/// failed, that says little of a backup that was proven before, of the same bytes: the earlier report stays. At `stop` the
/// scratch database is removed first; when dropped, it is left to a later drill or backup.
///
/// # Errors
/// There is no such backup, the settings are wrong, or something failed that says nothing of the backup
/// ([`BackupError::is_passing`]): then there is no report.
pub async fn drill(
    settings: &BackupSettings,
    live: &LedgerSettings,
    id: &str,
    progress: Progress<'_>,
    stop: &CancellationToken,
) -> Result<Report, BackupError> {
    with(Faults::default(), settings, live, id, progress, stop).await
}

pub(super) async fn with(
    faults: Faults,
    settings: &BackupSettings,
    live: &LedgerSettings,
    id: &str,
    progress: Progress<'_>,
    stop: &CancellationToken,
) -> Result<Report, BackupError> {
    let (store, signer) = (Store::open(settings)?, Signer::of(settings)?);
    let manifest = super::fetch::manifest(settings, id).await?;
    let mut report = Report {
        backup: manifest.id.clone(),
        good: false,
        started_at: now(),
        rto_ms: 0,
        rpo_ms: ms(now().since(manifest.origin.at)),
        gap_ms: gap(settings, manifest.origin.at).await?,
        restore_ms: 0,
        rebuild_ms: 0,
        canary_ms: 0,
        rows: manifest.contents.rows(),
        jobs: manifest.contents.jobs.values().sum(),
        error: None,
    };
    let started = Instant::now();
    let scratch = Place::make(settings, live).await?;
    let proving = prove(&faults, settings, &scratch, id, &mut report, progress);
    let proven = tokio::select! {
        biased;
        () = stop.cancelled() => Err(BackupError::Stopped),
        proven = tokio::time::timeout(settings.drill_max, proving) => {
            proven.unwrap_or(Err(BackupError::TooLong(settings.drill_max.as_secs())))
        }
    };
    report.rto_ms = ms(started.elapsed());
    scratch.remove().await;
    let mut says_little = false;
    if let Err(error) = proven {
        // What an earlier drill has found stays.
        if error.is_passing() {
            return Err(error);
        }
        says_little = matches!(error, BackupError::TooLong(_) | BackupError::Tool(_));
        report.error = Some((error.code().to_owned(), chain(&error)));
    }
    report.good = report.error.is_none();
    metrics::counter!("windlass_drills_total", "result" => if report.good { "good" } else { "failed" })
        .increment(1);
    metrics::gauge!("windlass_drill_rto_seconds").set(report.rto_ms as f64 / 1000.0);
    if let Some((code, why)) = &report.error {
        tracing::error!(backup = id, code, why, "a backup could not be proven");
    } else {
        tracing::info!(
            backup = id,
            rto_ms = report.rto_ms,
            rpo_ms = report.rpo_ms,
            "proved a backup"
        );
    }
    let was_proven = async || {
        let earlier = store.report(&manifest.id).await?;
        let earlier = earlier.and_then(|bytes| Report::decode(&bytes, &manifest.id, &signer));
        Ok::<_, BackupError>(earlier.is_some_and(|earlier| earlier.good))
    };
    if !says_little || !was_proven().await? {
        store.put_report(&manifest.id, report.encode(&signer).into()).await?;
    }
    Ok(report)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Time from the backup before this one to it.
async fn gap(settings: &BackupSettings, at: Timestamp) -> Result<Option<u64>, BackupError> {
    let all = list(settings).await?;
    let instants = all.iter().filter_map(|one| Some(one.manifest.as_ref().ok()?.origin.at));
    Ok(instants.filter(|one| *one < at).max().map(|earlier| ms(at.since(earlier))))
}

/// Where a drill restores to.
enum Place {
    Database { server: LedgerSettings, name: String, settings: LedgerSettings },
    File { _folder: Scratch, settings: LedgerSettings },
}

impl Place {
    async fn make(settings: &BackupSettings, live: &LedgerSettings) -> Result<Self, BackupError> {
        if live.is_sqlite() {
            let folder = Scratch::beside(&ledger::sqlite_file(live)?)?;
            let url = format!("sqlite://{}", folder.path.join("drill.db").display());
            return Ok(Self::File {
                settings: LedgerSettings { url: url.into(), ..live.clone() },
                _folder: folder,
            });
        }
        let server = server(settings, live);
        drop_left_overs(&server).await;
        let name = format!(
            "{PREFIX}{}_{}",
            now().millis() / 1000,
            &Uuid::new_v4().simple().to_string()[..8]
        );
        let settings = pg::with_database(&server, &name)?;
        ledger::create_database(&server, &name).await?;
        Ok(Self::Database { server, name, settings })
    }

    fn settings(&self) -> &LedgerSettings {
        match self {
            Self::Database { settings, .. } | Self::File { settings, .. } => settings,
        }
    }

    async fn remove(self) {
        if let Self::Database { server, name, .. } = self
            && let Err(error) = ledger::drop_database(&server, &name).await
        {
            tracing::warn!(%error, database = name, "cannot drop the database of a drill; a later drill will");
        }
    }
}

/// Where drills make their databases.
pub(super) fn server(settings: &BackupSettings, live: &LedgerSettings) -> LedgerSettings {
    let url = settings.drill_url.as_ref().unwrap_or(&live.url);
    LedgerSettings { url: url.expose_secret().to_owned().into(), ..live.clone() }
}

/// Drops databases of drills that were killed. Failing to holds up nothing.
pub(super) async fn drop_left_overs(server: &LedgerSettings) {
    let Ok(names) = ledger::databases(server, PREFIX).await else { return };
    for name in names {
        let made =
            name.strip_prefix(PREFIX).and_then(|rest| rest.split('_').next()?.parse::<i64>().ok());
        let is_old =
            made.is_some_and(|made| now().since(Timestamp::from_millis(made * 1000)) > LEFT_MAX);
        if is_old && let Err(error) = ledger::drop_database(server, &name).await {
            tracing::warn!(%error, database = name, "cannot drop the database of an earlier drill");
        }
    }
}

async fn prove(
    faults: &Faults,
    settings: &BackupSettings,
    scratch: &Place,
    id: &str,
    report: &mut Report,
    progress: Progress<'_>,
) -> Result<(), BackupError> {
    let begun = Instant::now();
    let checked = check(settings, scratch.settings(), id, progress).await?;
    fill(checked, scratch.settings(), progress).await?;
    report.restore_ms = ms(begun.elapsed());

    let begun = Instant::now();
    let restored = Ledger::open(scratch.settings()).await?;
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let _stop = stop.clone().drop_guard();
    let engine = Engine::open(&EngineSettings::new("embedded")).await.map_err(failed)?;
    let life =
        Lifecycle::start(restored.clone(), engine, Clock::System, stop.clone(), tasks.clone());
    rebuild(&life, faults).await?;
    report.rebuild_ms = ms(begun.elapsed());
    progress("rebuilt", 0);

    let begun = Instant::now();
    sing(&life, &faults.canary).await?;
    report.canary_ms = ms(begun.elapsed());
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    restored.close().await;
    Ok(())
}

pub(super) fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BackupError {
    BackupError::Ledger(LedgerError::Failed(error.into()))
}

/// Fills the engine as after a wipe, and compares it with the ledger.
async fn rebuild(life: &Lifecycle, faults: &Faults) -> Result<(), BackupError> {
    let holder = WorkerId::generate();
    // Nobody holds anything of this engine.
    let times = VerifySettings {
        window: Duration::ZERO,
        ramp: Duration::ZERO,
        ..VerifySettings::default()
    };
    let mut walk = life.ledger().walk_queues(None);
    while let Some(queues) = walk.next().await? {
        for queue in queues {
            let shard = ShardId::first(queue.namespace, queue.name);
            let lead = life.ledger().lead(holder, "drill", TERM_MAX).await?;
            let epoch = lead.ok_or_else(|| failed("somebody leads the restored ledger"))?;
            let verified = verify(life, &shard, epoch, &times).await.map_err(failed)?;
            if !matches!(verified, Verified::Opened { .. }) {
                return Err(differs(format!("queue {shard} could not be opened")));
            }
            (faults.rebuilt)(life, &shard).await;
            compare(life, &shard).await?;
        }
    }
    Ok(())
}

/// Every job that is due and may still start is in the engine, and nothing is that the ledger does not have.
async fn compare(life: &Lifecycle, shard: &ShardId) -> Result<(), BackupError> {
    let ledger = life.ledger();
    let now = life.engine().now().await.map_err(failed)?;
    let (mut due, mut after): (usize, Option<JobId>) = (0, None);
    loop {
        let wanted = Unfinished::new(&shard.namespace, &shard.queue, (now, now), PAGE);
        let page = ledger.unfinished(Unfinished { after, ..wanted }).await?;
        due += page.jobs.iter().filter(|job| !is_over(job, now)).count();
        after = page.next;
        if after.is_none() || due >= COUNTED_MAX {
            break;
        }
    }
    let stats = life.engine().stats(shard).await.map_err(failed)?;
    let there = stats.ready + stats.delayed + stats.leased;
    let waiting = ledger.waiting(&shard.namespace, &shard.queue, there).await?;
    if !stats.open || there < due as u64 || waiting < there {
        return Err(differs(format!(
            "queue {shard} has {there} jobs in the rebuilt engine, {due} due in the ledger and {waiting} of them waiting"
        )));
    }
    Ok(())
}

pub(super) fn differs(what: String) -> BackupError {
    BackupError::Differs(vec![what])
}
