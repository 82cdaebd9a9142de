//! Archives a file: `archive_command`.

use std::path::Path;

use bytes::Bytes;
use windlass_shared::config::BackupSettings;
use windlass_shared::model::time::Timestamp;

use super::archive::Archive;
pub use super::archive::Pushed;
use super::name::{Name, Sort};
use super::{NOT_ADOPTED, system_of};
use crate::backup::BackupError;

/// Of the head of a WAL file: where its position, its server and its size stand.
const POSITION: usize = 8;
const SYSTEM: usize = 24;
const SIZE: usize = 32;

/// Archives a file of a server's `pg_wal`; it is durable when this returns. The same file may be archived again.
///
/// Reads the whole file into memory.
///
/// # Errors
/// [`BackupError::WalConflict`]: the archive has other content under this name. [`BackupError::Server`]: the file is not
/// what it is named, or the server was recovered and not adopted.
pub async fn push(settings: &BackupSettings, file: &Path) -> Result<Pushed, BackupError> {
    let name = file.file_name().and_then(|name| name.to_str()).and_then(Name::parse);
    let name = name.ok_or_else(|| {
        BackupError::Settings(format!("{} is not named like a file of pg_wal", file.display()))
    })?;
    // PostgreSQL gives `pg_wal/NAME`, and runs its command in the data directory.
    let data = file.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    let mark = data.join(NOT_ADOPTED);
    let marked = mark.try_exists();
    if marked.map_err(BackupError::file(format!("cannot look for {}", mark.display())))? {
        return Err(BackupError::Server(format!(
            "this server was recovered: nothing is archived until its ledger was adopted (`windlass backup adopt`) and {} was removed",
            std::path::absolute(&mark).unwrap_or(mark).display()
        )));
    }
    let what = format!("cannot read {}", file.display());
    let raw = tokio::fs::read(file).await.map_err(BackupError::file(what.clone()))?;
    let about = tokio::fs::metadata(file).await.map_err(BackupError::file(what))?;
    let system = match name.sort {
        Sort::Segment(..) | Sort::Partial(..) => system_of_segment(&name, &raw)?,
        Sort::Label(..) | Sort::History => system_of(data)?,
    };
    let written_at =
        about.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let written_at = written_at.and_then(|at| i64::try_from(at.as_millis()).ok());
    let written_at = written_at.map_or_else(crate::backup::store::now, Timestamp::from_millis);
    let pushed = Archive::open(settings, system)?.put(&name, Bytes::from(raw), written_at).await?;
    tracing::debug!(wal = name.as_str(), "archived");
    Ok(pushed)
}

/// The identifier of the server that has written a segment.
fn system_of_segment(name: &Name, raw: &[u8]) -> Result<u64, BackupError> {
    let wrong = |why: &str| BackupError::Server(format!("{name} is no such file of WAL: {why}"));
    let read = |at: usize| raw.get(at..).and_then(|bytes| bytes.first_chunk()).copied();
    let system = read(SYSTEM).map(u64::from_ne_bytes).ok_or_else(|| wrong("it is too short"))?;
    let size: &[u8; 4] =
        raw.get(SIZE..).and_then(|b| b.first_chunk()).ok_or_else(|| wrong("it is too short"))?;
    let size = u64::from(u32::from_ne_bytes(*size));
    if raw.len() as u64 != size || !size.is_power_of_two() {
        return Err(wrong("it is not of the size that it says"));
    }
    let position = read(POSITION).map(u64::from_ne_bytes);
    if position.map(|at| at / size) != name.number(size) {
        return Err(wrong("it says that it is another one"));
    }
    Ok(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(number: u64, system: u64) -> Vec<u8> {
        let mut raw = vec![0; 1 << 20];
        raw[POSITION..POSITION + 8].copy_from_slice(&(number << 20).to_ne_bytes());
        raw[SYSTEM..SYSTEM + 8].copy_from_slice(&system.to_ne_bytes());
        raw[SIZE..SIZE + 4].copy_from_slice(&(1u32 << 20).to_ne_bytes());
        raw
    }

    #[test]
    fn a_segment_must_be_what_it_is_named() {
        let name = Name::of(1, 5, 1 << 20);
        assert_eq!(system_of_segment(&name, &segment(5, 77)).unwrap(), 77);
        for raw in [segment(6, 77), segment(5, 77)[1..].to_vec(), vec![0; 1 << 20], Vec::new()] {
            let refused = system_of_segment(&name, &raw);
            assert!(matches!(refused, Err(BackupError::Server(_))), "{refused:?}");
        }
    }
}
