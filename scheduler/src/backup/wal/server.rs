//! Whether a server allows base backups, and what to set where it does not.

use windlass_shared::ledger::wal::Server;

use crate::backup::BackupError;

/// # Errors
/// [`BackupError::Server`], with everything that is to be done.
pub(super) fn allows(server: &Server) -> Result<(), BackupError> {
    if let Some(service) = &server.managed_by {
        return Err(BackupError::Server(format!(
            "{service} runs this server and lets nobody back it up as files: use its own recovery to a point in time, then `windlass backup adopt`"
        )));
    }
    let mut wanted = Vec::new();
    if server.in_recovery {
        wanted.push("connect to the primary: this server is a standby".to_owned());
    }
    if server.wal_level == "minimal" {
        wanted.push("set wal_level = replica and restart it".to_owned());
    }
    if server.archive_mode == "off" {
        wanted.push("set archive_mode = on and restart it".to_owned());
    }
    if !server.has_archiver {
        wanted.push("set archive_command = 'windlass backup wal-push %p' and reload it".to_owned());
    }
    if server.wal_senders == 0 {
        wanted.push("set max_wal_senders to 2 or more and restart it".to_owned());
    }
    if !server.may_replicate {
        wanted.push(format!(
            "give the role the right: ALTER ROLE \"{}\" REPLICATION (or name another one with --from)",
            server.role
        ));
    }
    if server.tablespaces > 0 {
        wanted.push(
            "drop its tablespaces outside of the data directory: they cannot be backed up in this way"
                .to_owned(),
        );
    }
    if let Some(name) = server.archiver.fails_at() {
        wanted.push(format!(
            "look into the server's log why archive_command failed for {name} at last, and mend that"
        ));
    }
    if wanted.is_empty() {
        return Ok(());
    }
    Err(BackupError::Server(format!(
        "the server does not allow base backups yet: {}",
        wanted.join("; ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_shared::ledger::wal::Archiver;
    use windlass_shared::model::id::LedgerId;
    use windlass_shared::model::time::Timestamp;

    fn ready() -> Server {
        Server {
            version: 15,
            ledger: LedgerId::from_uuid(uuid::Uuid::nil()),
            now: Timestamp::default(),
            in_recovery: false,
            wal_level: "replica".into(),
            archive_mode: "on".into(),
            has_archiver: true,
            segment_bytes: 16 << 20,
            wal_senders: 10,
            role: "windlass".into(),
            may_replicate: true,
            tablespaces: 0,
            managed_by: None,
            archiver: Archiver { last_archived: None, last_failed: None },
        }
    }

    #[test]
    fn says_all_that_is_to_be_set() {
        assert!(allows(&ready()).is_ok());
        let bare = Server {
            wal_level: "minimal".into(),
            archive_mode: "off".into(),
            has_archiver: false,
            wal_senders: 0,
            may_replicate: false,
            tablespaces: 1,
            ..ready()
        };
        let said = allows(&bare).unwrap_err().to_string();
        for word in [
            "wal_level",
            "archive_mode",
            "archive_command",
            "max_wal_senders",
            "ALTER ROLE",
            "tablespaces",
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
        let failing = Archiver {
            last_archived: None,
            last_failed: Some((Timestamp::default(), "0001".into())),
        };
        let said = allows(&Server { archiver: failing, ..ready() }).unwrap_err().to_string();
        assert!(said.contains("failed for 0001"), "{said}");
        let said = allows(&Server { managed_by: Some("Amazon RDS".into()), ..bare })
            .unwrap_err()
            .to_string();
        assert!(said.contains("Amazon RDS") && said.contains("adopt"), "{said}");
    }
}
