//! Brings a file back from the archive: `restore_command`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tokio::io::AsyncWriteExt as _;
use windlass_shared::config::BackupSettings;

use super::archive::Archive;
use super::history::{histories, lost, went_on};
use super::name::{Name, Sort};
use super::system_of;
use crate::backup::BackupError;

/// Whether a file was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// It was written.
    Written,
    /// The archive ends before it, or never had it: for PostgreSQL the end of recovery. Never said of what is known to have
    /// been: of a gap, of the end of a timeline that another one left later, of the history of a timeline that is there.
    NotThere,
}

/// Writes file `name` of the archive of the server with the data directory `data` to `to`, replacing what is there.
///
/// # Errors
/// The file is damaged, or the store does not answer; [`BackupError::WalGap`]: it is not there, although it must have been;
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
    let found = match archive.get(&name).await? {
        Some(found) => found,
        None => match may_end_before(&archive, &name).await {
            Ok(()) => return Ok(Fetched::NotThere),
            // What came meanwhile came in order: now it is there, where it is no gap.
            Err(gap @ BackupError::WalGap(_)) => archive.get(&name).await?.ok_or(gap)?,
            Err(error) => return Err(error),
        },
    };
    let (_, raw) = found;
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

/// Fails where a file that is not there must have been.
async fn may_end_before(archive: &Archive, name: &Name) -> Result<(), BackupError> {
    let names = archive.names().await?;
    if names.is_empty() {
        return Err(BackupError::Server(
            "the archive holds nothing of this server: is it the right store, and is it mounted?"
                .into(),
        ));
    }
    let must_have_been = match name.sort {
        Sort::History => lost(&names).contains(&name.timeline),
        Sort::Segment(..) => {
            let is_later = |other: &Name| {
                other.is_segment() && other.timeline == name.timeline && other > name
            };
            names.iter().any(is_later) || was_left_later(archive, &names, name).await?
        }
        Sort::Partial(..) | Sort::Label(..) => false,
    };
    if must_have_been { Err(BackupError::WalGap(name.to_string())) } else { Ok(()) }
}

/// Whether another timeline left that of a segment in a later one.
async fn was_left_later(
    archive: &Archive,
    names: &BTreeSet<Name>,
    name: &Name,
) -> Result<bool, BackupError> {
    let histories = histories(archive, names).await?;
    if histories.is_empty() {
        return Ok(false);
    }
    let Some(size) = archive.segment_bytes(names).await? else { return Ok(false) };
    Ok(name.number(size).is_some_and(|number| went_on(&histories, name.timeline, number, size)))
}
