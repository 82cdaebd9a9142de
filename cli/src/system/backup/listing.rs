//! Keeps the ledger's list of backups as the store has them.

use std::collections::BTreeSet;

use windlass_scheduler::backup::manifest::Manifest;
use windlass_scheduler::backup::{BackupError, drill, fetch};
use windlass_shared::config::BackupSettings;
use windlass_shared::ledger::backups::{Drilled, Made};
use windlass_shared::ledger::{Ledger, LedgerError};
use windlass_shared::model::id::BackupId;

/// Most backups of a page, and most that one job newly notes.
const MANY: u32 = 500;

/// Notes a backup that was made, and puts right what else the list has wrong: a backup that was made elsewhere, or that
/// retention has removed. What cannot be noted now is noted after the next backup.
pub(super) async fn note_made(ledger: &Ledger, settings: &BackupSettings, manifest: &Manifest) {
    let noted = async {
        if let Some(made) = made(manifest) {
            ledger.note_backup(&made).await?;
        }
        put_right(ledger, settings).await
    };
    warn(noted.await);
}

/// Notes a drill, and its backup where that is not on record.
pub(super) async fn note_drill(ledger: &Ledger, settings: &BackupSettings, report: &drill::Report) {
    let noted = async {
        let manifest = fetch::manifest(settings, &report.backup).await?;
        if let Some(made) = made(&manifest) {
            ledger.note_backup(&made).await?;
            ledger.note_drill(made.id, &drilled(report)).await?;
        }
        Ok::<_, BackupError>(())
    };
    warn(noted.await);
}

fn warn(noted: Result<(), BackupError>) {
    if let Err(error) = noted {
        tracing::warn!(%error, "the list of backups could not be put right");
    }
}

async fn put_right(ledger: &Ledger, settings: &BackupSettings) -> Result<(), BackupError> {
    // In this order: what is on record was in the store before it was, so what is not in the store now is gone from it.
    let known = known(ledger).await?;
    let there = fetch::list(settings).await?;
    let ids: BTreeSet<BackupId> =
        there.iter().filter_map(|one| one.entry.id.parse().ok()).collect();
    for gone in known.difference(&ids) {
        ledger.forget_backup(*gone).await?;
    }
    let usable = there.iter().filter_map(|one| made(one.manifest.as_ref().ok()?));
    for made in usable.filter(|made| !known.contains(&made.id)).take(MANY as usize) {
        ledger.note_backup(&made).await?;
        if let Some(report) = drill::report(settings, &made.id.to_string()).await? {
            ledger.note_drill(made.id, &drilled(&report)).await?;
        }
    }
    Ok(())
}

async fn known(ledger: &Ledger) -> Result<BTreeSet<BackupId>, LedgerError> {
    let (mut known, mut before) = (BTreeSet::new(), None);
    loop {
        let page = ledger.backups(before, MANY).await?;
        known.extend(page.iter().map(|backup| backup.made.id));
        before = page.last().map(|last| last.made.id);
        if before.is_none() {
            return Ok(known);
        }
    }
}

/// `None`: its id is none of ours.
fn made(manifest: &Manifest) -> Option<Made> {
    Some(Made {
        id: manifest.id.parse().ok()?,
        at: manifest.origin.at,
        made_at: manifest.finished_at,
        rows: manifest.contents.rows(),
        bytes: manifest.bytes(),
        encrypted: manifest.encrypted,
    })
}

fn drilled(report: &drill::Report) -> Drilled {
    Drilled {
        at: report.started_at,
        rto_ms: report.rto_ms,
        rpo_ms: report.rpo_ms,
        error: report.error.as_ref().map(|(code, why)| format!("{code}: {why}")),
    }
}
