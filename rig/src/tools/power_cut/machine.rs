//! What the machine must have, and programs that it has.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::PowerCutError;

const PROGRAMS: [(&str, &str); 7] = [
    ("mkfs.btrfs", "btrfs-progs"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mount", "mount"),
    ("umount", "mount"),
    ("losetup", "mount"),
    ("cp", "coreutils"),
    ("sync", "coreutils"),
];
/// Where the programs are when the path of an ordinary user hides them.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// What this machine lacks for power cuts, each as one readable sentence; empty when it can.
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !is_root {
        missing.push("this does not run as root".to_owned());
    }
    for (program, package) in PROGRAMS {
        if !FOLDERS.iter().any(|folder| Path::new(folder).join(program).exists()) {
            missing.push(format!("there is no `{program}` (Debian package {package})"));
        }
    }
    if !Path::new("/dev/loop-control").exists() {
        missing.push("there are no loop devices (/dev/loop-control)".to_owned());
    }
    for name in ["btrfs", "ext4"] {
        if !knows_file_system(name) {
            missing.push(format!("the kernel has no {name}"));
        }
    }
    missing
}

fn knows_file_system(name: &str) -> bool {
    let is_loaded = || {
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        known.lines().any(|line| line.split_whitespace().last() == Some(name))
    };
    is_loaded() || {
        // A module that nobody has needed yet. Without the program, or the module, it stays unknown.
        let _ = Command::new("/usr/sbin/modprobe").args(["-q", name]).status();
        is_loaded()
    }
}

/// Runs a program to its end.
pub(super) fn run<'a>(
    program: &str,
    arguments: impl IntoIterator<Item = &'a OsStr>,
) -> Result<String, PowerCutError> {
    let folder = FOLDERS.iter().find(|folder| Path::new(folder).join(program).exists());
    let mut command =
        Command::new(folder.map_or_else(
            || Path::new(program).to_owned(),
            |folder| Path::new(folder).join(program),
        ));
    let output = command.args(arguments).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(PowerCutError::Program { command: format!("{command:?}"), message })
}
