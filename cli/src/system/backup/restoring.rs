//! `backup.restore`: a backup into the database of `backup.restore_url`.
//!
//! The address is a secret. It stands in the settings only: never in a payload, and what is said of a failure names
//! nothing of it, since jobs are shown to whoever may read them.

use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::json;
use windlass_scheduler::backup::{BackupError, restore};
use windlass_shared::config::LedgerSettings;
use windlass_shared::model::backup::RESTORE;
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;
use windlass_worker::handler::typed;

use super::{failed, places, told};
use crate::system::{Installation, OwnKind};

/// Which backup. It must be named: nothing is restored that nobody has chosen.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chosen {
    backup: String,
}

pub(super) fn kind(installation: &Installation) -> OwnKind {
    let installation = installation.clone();
    let restoring = typed(move |ctx: Context, chosen: Chosen| {
        let places = places(&installation);
        async move {
            let (backup, live) = places?;
            let unset = || HandlerError::permanent("settings", "backup.restore_url is not set");
            let url = backup.restore_url.as_ref().ok_or_else(unset)?;
            let into = LedgerSettings::new(url.expose_secret());
            let progress = told(&ctx);
            let restoring =
                restore::restore(&backup, Some(&live), &into, &chosen.backup, &progress);
            let stop = ctx.cancellation();
            let restored =
                stop.run_until_cancelled(restoring).await.unwrap_or(Err(BackupError::Stopped));
            let restored = restored.map_err(refused)?;
            let (id, ledger) = (restored.manifest.id, restored.ledger.to_string());
            tracing::info!(backup = id, ledger, "restored a backup");
            Ok::<_, HandlerError>(
                json!({ "backup": id, "at": restored.manifest.origin.at, "ledger": ledger }),
            )
        }
    });
    (RESTORE, restoring)
}

/// Without what a database, a file or a tool says, which may name the target. For good, but for a process that stops:
/// somebody has asked for it, and looks at it.
fn refused(error: BackupError) -> HandlerError {
    let code = error.code();
    let text = match &error {
        BackupError::Stopped => return failed(error),
        BackupError::TargetLive(_) => "the target is live: it is in use, or this ledger itself",
        BackupError::TargetNotEmpty(_) => "the target is not empty",
        BackupError::Ledger(_) => "the target database failed, or could not be reached",
        BackupError::Tool(_) => "pg_restore failed, is not there, or is too old",
        BackupError::File { .. } => "a file of the target could not be written",
        _ => {
            let text = format!("{:#}", anyhow::Error::new(error));
            return HandlerError::permanent(code, text);
        }
    };
    HandlerError::permanent(code, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_shared::ledger::LedgerError;

    #[test]
    fn what_is_said_of_a_failure_names_nothing_of_the_target() {
        let secret = || "postgres://u:hunter2@db/x".to_owned();
        for error in [
            BackupError::TargetLive(secret()),
            BackupError::TargetNotEmpty(secret()),
            BackupError::Ledger(LedgerError::Unfit(secret())),
            BackupError::Tool(secret()),
            BackupError::File { what: secret(), source: std::io::Error::other(secret()) },
        ] {
            let said = format!("{:?}", refused(error));
            assert!(!said.contains("hunter2") && !said.contains("postgres://"), "{said}");
        }
    }
}
