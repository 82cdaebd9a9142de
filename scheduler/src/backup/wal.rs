//! Point in time recovery: base backups of a PostgreSQL server's files, and the archive of its WAL.
//!
//! `base/ID/` holds a base backup: parts, and a manifest that is written last, when the archive is known to hold all WAL
//! that the base needs. `wal/SYSTEM/TIMELINE/` holds WAL files, one object each: a signed head, and the content. SYSTEM is
//! the identifier that `initdb` gave the server, so that another server's WAL never gets among it. A copy that was recovered
//! of it has the same one, and timelines of its own.
//!
//! Who is authoritative: of what WAL there is, the archive; PostgreSQL asks for file after file, and takes "not there" for
//! the end of it. So everything else (a store that does not answer, damage, a gap) must never look like "not there".
//!
//! A server that was recovered is read-only and archives nothing until its ledger was adopted
//! ([`windlass_shared::ledger::wal::adopt`]). `docs/point-in-time.md` says how to use all this.

mod archive;
pub mod base;
mod commits;
mod extract;
pub mod fetch;
mod history;
mod name;
pub mod push;
mod reach;
pub mod recover;
mod retain;
mod server;
mod tar;

use std::path::Path;

use super::BackupError;

/// The folder of the store that holds base backups.
const BASES: &str = "base";
/// The folder of the store that holds WAL.
const WAL: &str = "wal";
/// In a recovered server's data directory: nothing is archived while it is there.
pub const NOT_ADOPTED: &str = "windlass.not-adopted";
/// Where a server keeps what identifies it, in its data directory.
const CONTROL: &str = "global/pg_control";

/// The identifier of the server with this data directory.
fn system_of(data: &Path) -> Result<u64, BackupError> {
    let file = data.join(CONTROL);
    let what = format!("cannot read {} of the server", file.display());
    let bytes = std::fs::read(&file).map_err(BackupError::file(what))?;
    system_in(&bytes)
        .ok_or_else(|| BackupError::Settings(format!("{} is too short", file.display())))
}

/// The identifier of the server, of its control file: what that has begun with in every version.
fn system_in(control: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(*control.first_chunk()?))
}
