//! Removes old base backups, and the WAL that only they needed.

use std::cmp::Reverse;
use std::time::Duration;

use windlass_shared::config::BackupSettings;

use super::archive::Archive;
use super::base::{Base, read};
use crate::backup::BackupError;
use crate::backup::keys::Signer;
use crate::backup::store::Store;

#[cfg(test)]
mod tests;

/// What is not complete after this long never will be.
const INCOMPLETE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Who began to read one is done with its WAL after this long.
const READ_MAX: Duration = Duration::from_secs(24 * 3600);

/// Of the server of `made`, the base that was just made, keeps that one, the newest and the young ones, and those that
/// somebody reads; then removes its WAL from before the oldest that is left. Histories of timelines stay. What is not ours
/// or of another server stays, and where a manifest cannot be read, so does all WAL: it is not known what that needs. For
/// who holds the claim.
///
/// No host is asked for the time: what the store stored last tells its own, and `made` tells the server's.
pub(super) async fn retain(
    settings: &BackupSettings,
    store: &Store,
    signer: &Signer,
    made: &Base,
) -> Result<(), BackupError> {
    let entries = store.entries().await?;
    let Some(stored_at) = entries.iter().find(|e| e.id == made.id).map(|e| e.changed_at) else {
        return Ok(());
    };
    let (mut ours, mut is_all_known) = (Vec::new(), true);
    for entry in entries {
        if !entry.complete {
            if stored_at.since(entry.changed_at) > INCOMPLETE_MAX {
                let backup = entry.id.as_str();
                tracing::info!(backup, "removing a base backup that was never completed");
                store.remove(&entry.id).await?;
            }
            continue;
        }
        match read(store, signer, &entry.id).await {
            Ok(base) if base.system == made.system => ours.push((entry, base)),
            Ok(_) => {}
            Err(error) if error.is_passing() => return Err(error),
            Err(error) => {
                tracing::warn!(backup = entry.id, %error, "no WAL is removed: a base backup cannot be read");
                is_all_known = false;
            }
        }
    }
    ours.sort_by_key(|(_, base)| Reverse(base.from));
    let mut oldest = made.first_segment();
    for (newer, (entry, base)) in ours.into_iter().enumerate() {
        let is_new = newer < settings.keep.max(1) as usize || entry.id == made.id;
        let is_young = made.from.since(base.from) < settings.keep_for;
        let is_read = entry.read_at.is_some_and(|at| stored_at.since(at) < READ_MAX);
        if is_new || is_young || is_read {
            oldest = oldest.min(base.first_segment());
            continue;
        }
        tracing::info!(backup = entry.id, "removing an old base backup");
        store.remove(&entry.id).await?;
    }
    let archive = made.archive(settings)?;
    archive.sweep(stored_at.minus(INCOMPLETE_MAX)).await;
    if is_all_known {
        forget_before(oldest, made.segment_bytes, &archive).await?;
    }
    Ok(())
}

/// Whatever the timeline: a position of WAL comes once in the life of a server, or in lives that left each other there.
async fn forget_before(
    first: u64,
    segment_bytes: u64,
    archive: &Archive,
) -> Result<(), BackupError> {
    let mut removed = 0_u64;
    for name in archive.names().await? {
        if name.number(segment_bytes).is_some_and(|number| number < first) {
            archive.remove(&name).await?;
            removed += 1;
        }
    }
    if removed > 0 {
        tracing::info!(files = removed, "removed WAL that no base backup needs");
    }
    Ok(())
}
