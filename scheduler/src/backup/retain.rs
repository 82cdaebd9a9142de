//! Removes old backups: what has no manifest after a day, and the complete ones that nothing keeps.

use std::time::Duration;

use windlass_shared::config::BackupSettings;

use super::BackupError;
use super::drill::Report;
use super::fetch::read;
use super::keys::Signer;
use super::store::{Store, now};

/// What is not complete after this long never will be.
const INCOMPLETE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Who began to read a backup has done so after this long.
const READ_MAX: Duration = Duration::from_secs(6 * 3600);

/// Removes what is neither among the newest nor young. The latest one that a drill has found good stays, and so does
/// everything that is not ours: signed by another key, or not readable. How many were removed.
pub(super) async fn retain(
    settings: &BackupSettings,
    store: &Store,
    signer: &Signer,
) -> Result<u64, BackupError> {
    let (now, mut kept, mut removed, mut has_good) = (now(), 0, 0, false);
    for entry in store.entries().await? {
        if !entry.complete {
            if now.since(entry.changed_at) > INCOMPLETE_MAX {
                tracing::info!(backup = entry.id, "removing a backup that was never completed");
                store.remove(&entry.id).await?;
                removed += 1;
            }
            continue;
        }
        let manifest = match read(store, signer, &entry.id).await {
            Ok(manifest) => manifest,
            Err(error @ BackupError::Store(_)) => return Err(error),
            Err(_) => continue,
        };
        let is_good = is_good(store, signer, &entry.id).await?;
        let is_last_good = is_good && !has_good;
        has_good |= is_good;
        kept += 1;
        let is_young = now.since(manifest.finished_at) < settings.keep_for;
        let is_read = entry.read_at.is_some_and(|at| now.since(at) < READ_MAX);
        if kept <= settings.keep.max(1) || is_young || is_last_good || is_read {
            continue;
        }
        tracing::info!(backup = entry.id, "removing an old backup");
        store.remove(&entry.id).await?;
        removed += 1;
    }
    Ok(removed)
}

async fn is_good(store: &Store, signer: &Signer, id: &str) -> Result<bool, BackupError> {
    let report = store.report(id).await?;
    Ok(report.and_then(|bytes| Report::decode(&bytes, signer)).is_some_and(|report| report.good))
}
