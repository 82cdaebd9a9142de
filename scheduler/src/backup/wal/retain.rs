//! Removes old base backups, and the WAL that only they needed.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use windlass_shared::config::BackupSettings;

use super::archive::Archive;
use super::base::{Base, read};
use super::history;
use super::name::{Lsn, Name};
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
/// A server and a copy that was recovered from it cannot be told apart by their identifier. So nothing goes that does not
/// lead to `made`; and of each ledger of another timeline its newest base stays, with the WAL of other timelines.
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
    let archive = made.archive(settings)?;
    let line = Line::of(made, &archive).await?;
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
    let mut limits = Limits { own: made.first_segment(), other: made.first_segment() };
    let (mut newer, mut ledgers) = (0, BTreeSet::from([made.ledger.to_string()]));
    for (entry, base) in ours {
        let leads = line.comes_from(&base);
        let is_new = newer < settings.keep.max(1) || entry.id == made.id;
        newer += u32::from(leads);
        let is_young = made.from.since(base.from) < settings.keep_for;
        let is_read = entry.read_at.is_some_and(|at| stored_at.since(at) < READ_MAX);
        // On one timeline there is one server, whichever of its ledgers it was backed up for.
        let is_last = base.timeline != made.timeline && ledgers.insert(base.ledger.to_string());
        let first = base.first_segment();
        if leads && (is_new || is_young || is_read) {
            limits.own = limits.own.min(first);
        } else if leads && !is_last {
            tracing::info!(backup = entry.id, "removing an old base backup");
            store.remove(&entry.id).await?;
            continue;
        }
        limits.other = limits.other.min(first);
    }
    archive.sweep(stored_at.minus(INCOMPLETE_MAX)).await;
    if is_all_known {
        forget(&limits, made, &archive).await?;
    }
    Ok(())
}

/// The timelines that a base came through, and where each was left.
struct Line {
    timeline: u32,
    before: Vec<(u32, Lsn)>,
}

impl Line {
    async fn of(made: &Base, archive: &Archive) -> Result<Self, BackupError> {
        // Of the oldest timeline of an archive there is none.
        let history = archive.get(&Name::history(made.timeline)).await?;
        let before = history.map(|(_, text)| history::decode(&text)).unwrap_or_default();
        Ok(Self { timeline: made.timeline, before })
    }

    /// Whether the server was once as `base` has it.
    fn comes_from(&self, base: &Base) -> bool {
        let left = |(timeline, at): &(u32, Lsn)| *timeline == base.timeline && base.end <= *at;
        base.timeline == self.timeline || self.before.iter().any(left)
    }
}

/// The first segments that are needed: of the timeline of the base that was just made, and of all others.
struct Limits {
    own: u64,
    other: u64,
}

/// A position of WAL comes once in the life of a server, or in lives that left each other there.
async fn forget(limits: &Limits, made: &Base, archive: &Archive) -> Result<(), BackupError> {
    let mut removed = 0_u64;
    for name in archive.names().await? {
        let first = if name.timeline == made.timeline { limits.own } else { limits.other };
        if name.number(made.segment_bytes).is_some_and(|number| number < first) {
            archive.remove(&name).await?;
            removed += 1;
        }
    }
    if removed > 0 {
        tracing::info!(files = removed, "removed WAL that no base backup needs");
    }
    Ok(())
}
