//! Brings a file back from the archive: `restore_command`.

use std::path::{Path, PathBuf};

use tokio::io::AsyncWriteExt as _;
use windlass_shared::config::BackupSettings;

use super::archive::Archive;
use super::name::Name;
use super::system_of;
use crate::backup::BackupError;

/// Whether a file was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// It was written.
    Written,
    /// The archive ends before it, or never had it: for PostgreSQL the end of recovery. Never said of a gap.
    NotThere,
}

/// Writes file `name` of the archive of the server with the data directory `data` to `to`, replacing what is there.
///
/// # Errors
/// The file is damaged, or the store does not answer; [`BackupError::WalGap`]: it is not there, although later WAL is;
/// [`BackupError::Server`]: nothing of this server is there, as of a folder that is not mounted. To PostgreSQL none of these
/// may look like [`Fetched::NotThere`].
pub async fn fetch(
    settings: &BackupSettings,
    data: &Path,
    name: &str,
    to: &Path,
) -> Result<Fetched, BackupError> {
    let name = Name::parse(name)
        .ok_or_else(|| BackupError::Settings(format!("no file of WAL is named {name:?}")))?;
    let archive = Archive::open(settings, system_of(data)?)?;
    let Some((_, raw)) = archive.get(&name).await? else {
        let names = archive.names().await?;
        if names.is_empty() {
            return Err(BackupError::Server(
                "the archive holds nothing of this server: is it the right store, and is it mounted?".into(),
            ));
        }
        let goes_on =
            |other: &Name| other.is_segment() && other.timeline == name.timeline && *other > name;
        if name.is_segment() && names.iter().any(goes_on) {
            return Err(BackupError::WalGap(name.to_string()));
        }
        return Ok(Fetched::NotThere);
    };
    let mut part = to.as_os_str().to_owned();
    part.push(".windlass");
    let part = PathBuf::from(part);
    let what = format!("cannot write {}", to.display());
    let write = async {
        let mut file = tokio::fs::File::create(&part).await?;
        file.write_all(&raw).await?;
        file.sync_all().await?;
        tokio::fs::rename(&part, to).await
    };
    write.await.map_err(BackupError::file(what))?;
    Ok(Fetched::Written)
}
