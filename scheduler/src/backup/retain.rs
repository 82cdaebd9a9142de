//! Removes old backups: what has no manifest after a day, and the complete ones that nothing keeps.

use std::cmp::Reverse;
use std::time::Duration;

use windlass_shared::config::BackupSettings;

use super::BackupError;
use super::drill::Report;
use super::fetch::read;
use super::keys::Signer;
use super::manifest::Manifest;
use super::store::Store;

/// What is not complete after this long never will be.
const INCOMPLETE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Who began to read a backup has done so after this long.
const READ_MAX: Duration = Duration::from_secs(6 * 3600);

/// Removes what is neither among the newest nor young. `made`, the one that was just made, stays, and so do the latest one
/// that a drill has found good and everything that is not ours: signed by another key, or not readable. How many were
/// removed. For who holds the claim.
///
/// No host is asked for the time: what the store stored last tells its own, and `made` tells the ledger's.
pub(super) async fn retain(
    settings: &BackupSettings,
    store: &Store,
    signer: &Signer,
    made: &Manifest,
) -> Result<u64, BackupError> {
    let entries = store.entries().await?;
    let Some(stored_at) = entries.iter().find(|e| e.id == made.id).map(|e| e.changed_at) else {
        return Ok(0);
    };
    let (mut ours, mut removed) = (Vec::new(), 0);
    for entry in entries {
        if entry.complete {
            match read(store, signer, &entry.id).await {
                Ok(manifest) => ours.push((entry, manifest)),
                Err(error) if error.is_passing() => return Err(error),
                Err(_) => {}
            }
        } else if stored_at.since(entry.changed_at) > INCOMPLETE_MAX {
            tracing::info!(backup = entry.id, "removing a backup that was never completed");
            store.remove(&entry.id).await?;
            removed += 1;
        }
    }
    ours.sort_by_key(|(_, manifest)| Reverse(manifest.origin.at));
    let mut has_good = false;
    for (newer, (entry, manifest)) in ours.into_iter().enumerate() {
        let is_good = is_good(store, signer, &entry.id).await?;
        let is_last_good = is_good && !has_good;
        has_good |= is_good;
        let is_new = newer < settings.keep.max(1) as usize || entry.id == made.id;
        let is_young = made.origin.at.since(manifest.origin.at) < settings.keep_for;
        let is_read = entry.read_at.is_some_and(|at| stored_at.since(at) < READ_MAX);
        if is_new || is_young || is_last_good || is_read {
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
    Ok(report
        .and_then(|bytes| Report::decode(&bytes, id, signer))
        .is_some_and(|report| report.good))
}
