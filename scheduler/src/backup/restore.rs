//! Restores a backup into an empty database.
//!
//! Everything is checked before the target is touched. The data comes without the row of `meta`, in one transaction
//! (PostgreSQL) or into a file of another name (SQLite), and is compared with the manifest; only then the ledger gets an
//! id, a new one, in the transaction that makes everything of before stale. A process that opens the target earlier finds
//! no ledger.

use std::path::PathBuf;

use secrecy::ExposeSecret;
use tokio::io::AsyncWriteExt as _;
use windlass_shared::config::{BackupSettings, LedgerSettings};
use windlass_shared::failpoint;
use windlass_shared::ledger::backup::{self as ledger, Target};
use windlass_shared::model::id::LedgerId;

use super::fetch::{Checked, check};
use super::manifest::Manifest;
use super::scratch::Scratch;
use super::{BackupError, Progress, pg};

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// From what.
    pub manifest: Manifest,
    /// The new ledger's id.
    pub ledger: LedgerId,
}

/// Restores backup `id` into an empty database. `live`: the ledger of this installation, which is never a target.
///
/// # Errors
/// Whatever is wrong with the backup or the target, found before the target is touched; a failure after that leaves a
/// target that is empty, or one that is no ledger. Only where PostgreSQL is lost at the very end, for longer than a while,
/// it is not known whether there is a ledger ([`LedgerError::OutcomeUnknown`]).
///
/// [`LedgerError::OutcomeUnknown`]: windlass_shared::ledger::LedgerError::OutcomeUnknown
pub async fn restore(
    settings: &BackupSettings,
    live: Option<&LedgerSettings>,
    into: &LedgerSettings,
    id: &str,
    progress: Progress<'_>,
) -> Result<Restored, BackupError> {
    if live.is_some_and(|live| live.url.expose_secret() == into.url.expose_secret()) {
        return Err(BackupError::TargetLive("it is the ledger of these settings".into()));
    }
    look(into).await?;
    let checked = check(settings, into, id, progress).await?;
    if !into.is_sqlite() {
        pg_restore_for(into, &checked.manifest).await?;
    }
    // Once more: checking takes its time.
    look(into).await?;
    fill(checked, into, progress).await
}

async fn look(into: &LedgerSettings) -> Result<(), BackupError> {
    match ledger::look_at_target(into).await? {
        Target::Empty => Ok(()),
        Target::NotEmpty(what) => Err(BackupError::TargetNotEmpty(what)),
        Target::Live(who) => Err(BackupError::TargetLive(who)),
    }
}

/// The program that restores into this server.
async fn pg_restore_for(
    into: &LedgerSettings,
    manifest: &Manifest,
) -> Result<PathBuf, BackupError> {
    let (there, was) = (ledger::server_version(into).await?, manifest.origin.version);
    if there < was {
        return Err(BackupError::OtherDatabase(format!(
            "the target is PostgreSQL {there}, older than the {was} that was backed up"
        )));
    }
    pg::client("pg_restore", there).await
}

/// Restores into a target that was looked at.
pub(super) async fn fill(
    checked: Checked,
    into: &LedgerSettings,
    progress: Progress<'_>,
) -> Result<Restored, BackupError> {
    if into.is_sqlite() {
        fill_sqlite(checked, into, progress).await
    } else {
        fill_postgres(checked, into, progress).await
    }
}

async fn fill_postgres(
    checked: Checked,
    into: &LedgerSettings,
    progress: Progress<'_>,
) -> Result<Restored, BackupError> {
    let pg_restore = pg_restore_for(into, &checked.manifest).await?;
    let (manifest, dump, over) = checked.dump();
    pg::restore(&pg_restore, into, dump, async || over.await).await?;
    progress("restored", manifest.bytes());
    compare(&manifest, into).await?;
    let ledger = ledger::finish(into).await?;
    Ok(Restored { manifest, ledger })
}

async fn fill_sqlite(
    checked: Checked,
    into: &LedgerSettings,
    progress: Progress<'_>,
) -> Result<Restored, BackupError> {
    let target = ledger::sqlite_file(into)?;
    let scratch = Scratch::beside(&target)?;
    let path = scratch.path.join("restored.db");
    let (manifest, mut dump, over) = checked.dump();
    let failed = || BackupError::file(format!("cannot write {}", path.display()));
    let mut options = tokio::fs::OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(0o600).open(&path).await.map_err(failed())?;
    while let Some(chunk) = dump.recv().await {
        file.write_all(&chunk).await.map_err(failed())?;
    }
    file.sync_all().await.map_err(failed())?;
    drop(file);
    over.await?;
    progress("restored", manifest.bytes());
    let restored = LedgerSettings::new(format!("sqlite://{}", path.display()));
    compare(&manifest, &restored).await?;
    let ledger = ledger::finish(&restored).await?;
    // A link is refused where there is a file by now; a rename would replace it.
    let what = format!("cannot put the restored file to {}", target.display());
    std::fs::hard_link(&path, &target).map_err(BackupError::file(what.clone()))?;
    let folder = scratch.path.parent().expect("the scratch folder is in one");
    let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    if let Err(error) = synced {
        // What is said to have failed must not be there. A file that stays is whole.
        let _ = std::fs::remove_file(&target);
        return Err(BackupError::file(what)(error));
    }
    Ok(Restored { manifest, ledger })
}

async fn compare(manifest: &Manifest, restored: &LedgerSettings) -> Result<(), BackupError> {
    failpoint!("restore.filled");
    let found = ledger::contents(restored).await?;
    let differences = manifest.contents.differences(&found);
    if differences.is_empty() { Ok(()) } else { Err(BackupError::Differs(differences)) }
}
