//! Disks of processes that were killed: found by their folders' names, and removed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::machine::run;
use super::{FOLDER_PREFIX, PowerCutError, mounted};
use crate::tools::processes;

const OWNER: &str = "owner";

/// Notes that this process owns `folder`: its number and its start, since numbers are used again.
pub(super) fn write_owner(folder: &Path) -> std::io::Result<()> {
    let pid = std::process::id();
    let start = processes::start_of(pid)?.unwrap_or_default();
    std::fs::write(folder.join(OWNER), format!("{pid} {start}"))
}

/// Whether the process that made `folder` has ended. Not when that cannot be told.
fn is_left(folder: &Path) -> bool {
    let Ok(owner) = std::fs::read_to_string(folder.join(OWNER)) else { return false };
    let Some((pid, start)) = owner.split_once(' ') else { return false };
    let (Ok(pid), Ok(start)) = (pid.parse(), start.trim().parse::<u64>()) else { return false };
    processes::start_of(pid).is_ok_and(|now| now != Some(start))
}

/// Removes the disks under `parent` whose processes have ended: unmounts, detaches loop devices, deletes the
/// images. Touches nothing else. Returns the folders that were removed.
///
/// Errors when the mounts or loop devices cannot be listed; a disk that is still in use is unmounted lazily.
pub fn clean(parent: &Path) -> Result<Vec<PathBuf>, PowerCutError> {
    let mut removed = Vec::new();
    for entry in std::fs::read_dir(parent)? {
        let folder = entry?.path();
        let name = folder.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if !name.starts_with(FOLDER_PREFIX) || !is_left(&folder) {
            continue;
        }
        // The last mounted first: it lies on the others.
        for mount in mounts_under(&folder)?.into_iter().rev() {
            mounted::unmount(&mount);
        }
        for device in devices_under(&folder)? {
            // Fails when the device went with its mount, just now.
            let _ = run("losetup", ["-d".as_ref(), device.as_os_str()]);
        }
        remove_folder(&folder);
        removed.push(folder);
    }
    Ok(removed)
}

/// Deletes the folder of a disk, unless something is still mounted in it.
pub(super) fn remove_folder(folder: &Path) {
    match mounts_under(folder) {
        Ok(mounts) if mounts.is_empty() => {
            if let Err(error) = std::fs::remove_dir_all(folder) {
                eprintln!("power cut: {}: {error}", folder.display());
            }
        }
        Ok(mounts) => eprintln!("power cut: still mounted: {mounts:?}"),
        Err(error) => eprintln!("power cut: {error}"),
    }
}

/// What is mounted under `folder`, in the order of mounting.
pub fn mounts_under(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let places = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    Ok(places.filter(|place| place.starts_with(folder) && place != folder).collect())
}

/// The loop devices whose images lie under `folder`.
pub fn devices_under(folder: &Path) -> Result<Vec<PathBuf>, PowerCutError> {
    let options = ["--list", "--noheadings", "--raw", "--output", "NAME,BACK-FILE"];
    let table = run("losetup", options.map(OsStr::new))?;
    let pairs = table.lines().filter_map(|line| line.split_once(' '));
    let ours = pairs.filter(|(_, image)| Path::new(image).starts_with(folder));
    Ok(ours.map(|(device, _)| PathBuf::from(device)).collect())
}
