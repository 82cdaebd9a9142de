//! Removes old base backups, and the WAL that only they needed.

use std::collections::BTreeMap;
use std::time::Duration;

use windlass_shared::config::BackupSettings;

use super::archive::Archive;
use super::base::{Base, read};
use crate::backup::BackupError;
use crate::backup::keys::Signer;
use crate::backup::store::{Store, now};

/// What is not complete after this long never will be.
const INCOMPLETE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Who began to read one is done with its WAL after this long.
const READ_MAX: Duration = Duration::from_secs(24 * 3600);

/// Of each server, keeps the newest and the young ones, and those that somebody reads; then removes its WAL from before
/// the oldest that is left. Histories of timelines stay. Of a server without a base nothing is removed, and no WAL where
/// a manifest cannot be read: it is not known what that needs.
pub(super) async fn retain(
    settings: &BackupSettings,
    store: &Store,
    signer: &Signer,
) -> Result<(), BackupError> {
    let mut kept: BTreeMap<String, Vec<Base>> = BTreeMap::new();
    let mut is_all_known = true;
    for entry in store.entries().await? {
        if !entry.complete {
            if now().since(entry.changed_at) > INCOMPLETE_MAX {
                tracing::info!(
                    backup = entry.id,
                    "removing a base backup that was never completed"
                );
                store.remove(&entry.id).await?;
            }
            continue;
        }
        let base = match read(store, signer, &entry.id).await {
            Ok(base) => base,
            Err(error @ BackupError::Store(_)) => return Err(error),
            Err(error) => {
                tracing::warn!(backup = entry.id, %error, "no WAL is removed: a base backup cannot be read");
                is_all_known = false;
                continue;
            }
        };
        let those = kept.entry(base.system.clone()).or_default();
        let is_read = entry.read_at.is_some_and(|at| now().since(at) < READ_MAX);
        let is_young = now().since(base.from) < settings.keep_for;
        if those.len() < settings.keep.max(1) as usize || is_young || is_read {
            those.push(base);
            continue;
        }
        tracing::info!(backup = entry.id, "removing an old base backup");
        store.remove(&entry.id).await?;
    }
    if !is_all_known {
        return Ok(());
    }
    for bases in kept.values() {
        let Some(oldest) = bases.iter().min_by_key(|base| base.start) else { continue };
        forget_before(oldest, &oldest.archive(settings)?).await?;
    }
    Ok(())
}

/// Whatever the timeline: a position of WAL comes once in the life of a server, or in lives that left each other there.
async fn forget_before(oldest: &Base, archive: &Archive) -> Result<(), BackupError> {
    let first = oldest.first_segment();
    let (mut removed, size) = (0_u64, oldest.segment_bytes);
    for name in archive.names().await? {
        if name.number(size).is_some_and(|number| number < first) {
            archive.remove(&name).await?;
            removed += 1;
        }
    }
    if removed > 0 {
        tracing::info!(files = removed, "removed WAL that no base backup needs");
    }
    Ok(())
}
