//! The drivers of the peers, brought to disk with their packages.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;

/// The files of `rig/peers`, by their names below it.
pub const FILES: [(&str, &str); 11] = [
    ("package.json", include_str!("../../peers/package.json")),
    ("package-lock.json", include_str!("../../peers/package-lock.json")),
    ("shared/effects.mjs", include_str!("../../peers/shared/effects.mjs")),
    ("shared/execute.mjs", include_str!("../../peers/shared/execute.mjs")),
    ("shared/shim.mjs", include_str!("../../peers/shared/shim.mjs")),
    ("bullmq/processor.mjs", include_str!("../../peers/bullmq/processor.mjs")),
    ("bullmq/settings.mjs", include_str!("../../peers/bullmq/settings.mjs")),
    ("bullmq/submit.mjs", include_str!("../../peers/bullmq/submit.mjs")),
    ("bullmq/worker.mjs", include_str!("../../peers/bullmq/worker.mjs")),
    ("graphile-worker/submit.mjs", include_str!("../../peers/graphile-worker/submit.mjs")),
    ("graphile-worker/worker.mjs", include_str!("../../peers/graphile-worker/worker.mjs")),
];
/// Says which lock file the packages are from.
const STAMP: &str = "installed";

/// Drivers that can be started.
#[derive(Debug, Clone)]
pub struct Drivers {
    /// Where they are.
    pub folder: PathBuf,
    /// The Node that the lock file names.
    pub node: PathBuf,
}

/// Writes the drivers into `folder`, and lets npm install exactly what the lock file says, unless that is there. No
/// script of a package is run.
///
/// # Errors
/// npm is not installed, the registry does not answer, or this is not Linux on x64 or arm64.
pub fn install(folder: &Path) -> anyhow::Result<Drivers> {
    write(folder)?;
    let lock = std::fs::read(folder.join("package-lock.json"))?;
    let stamp = folder.join(STAMP);
    if std::fs::read(&stamp).ok().as_ref() != Some(&lock) {
        eprintln!("npm installs the peers into {}", folder.display());
        let status = Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("npm, which comes with Node")?;
        anyhow::ensure!(status.success(), "npm ci in {} failed: {status}", folder.display());
        std::fs::write(&stamp, &lock)?;
    }
    let node = folder.join("node_modules/.bin/node");
    anyhow::ensure!(node.is_file(), "{} is not there: another machine's?", node.display());
    Ok(Drivers { folder: folder.to_owned(), node })
}

/// Writes the drivers, without their packages.
///
/// # Errors
/// The folder cannot be written to.
pub fn write(folder: &Path) -> anyhow::Result<()> {
    for (name, text) in FILES {
        let path = folder.join(name);
        let parent = path.parent().context("it is in the folder")?;
        std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// `windlass-rig/peers` in the user's folder for caches.
///
/// # Errors
/// Neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn default_folder() -> anyhow::Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let cache = cache.or_else(home).context("no HOME: say --cache FOLDER")?;
    Ok(cache.join("windlass-rig/peers"))
}

/// The version of a package that is installed.
///
/// # Errors
/// It is not.
pub fn version(drivers: &Drivers, package: &str) -> anyhow::Result<String> {
    let path = drivers.folder.join("node_modules").join(package).join("package.json");
    let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let package: serde_json::Value = serde_json::from_slice(&text)?;
    Ok(package["version"].as_str().context("it has a version")?.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::effects::{self, End, Phase};
    use crate::stamp::Stamp;

    /// What is forgotten here would be missing on every other machine.
    #[test]
    fn every_driver_is_part_of_the_binary() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let mut found = BTreeSet::new();
        for folder in ["", "shared", "bullmq", "graphile-worker"] {
            for entry in std::fs::read_dir(root.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    found.insert(path.strip_prefix(&root).unwrap().display().to_string());
                }
            }
        }
        let own: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(found, own);
    }

    /// A job of a driver, run by whatever Node is on the path: this part needs no package.
    #[test]
    fn the_parser_reads_what_a_driver_writes() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let log = folder.path().join("effects.jsonl");
        let run = "const { execute } = await import('./shared/execute.mjs');
            const job = { key: 'k', kind: 'rig.effect', queue: 'rig-a', ms: 30, fails: 1 };
            await execute({ ...job, attempt: 1 }).catch(() => {});
            await execute({ ...job, attempt: 2, ms: 1, spin: true });";
        let before = Stamp::now();
        let node = Command::new("node")
            .args(["--input-type=module", "-e", run])
            .current_dir(folder.path())
            .envs([("PEER_EFFECTS", log.as_os_str()), ("PEER_NAME", "worker-0.1".as_ref())])
            .output()
            .expect("the drivers' tests need Node");
        assert!(node.status.success(), "{}", String::from_utf8_lossy(&node.stderr));
        let after = Stamp::now();
        let seen = effects::read(&log).unwrap();
        let phases: Vec<_> = seen.iter().map(|e| (e.phase, e.attempt, e.end)).collect();
        let (start, end) = (Phase::Start, Phase::End);
        let planned = (end, 1, Some(End::Planned));
        assert_eq!(phases, [(start, 1, None), planned, (start, 2, None), (end, 2, Some(End::Ok))]);
        assert!(seen.iter().all(|e| e.job == "k" && e.worker == "worker-0.1"));
        // Both clocks are those of the rig; a millisecond is what the drivers' wall clock has.
        for effect in &seen {
            assert!(before.boot_us <= effect.at.boot_us && effect.at.boot_us <= after.boot_us);
            assert!(before.wall_us - 1_000 <= effect.at.wall_us);
            assert!(effect.at.wall_us <= after.wall_us);
        }
        assert!(seen[1].at.boot_us - seen[1].started.boot_us >= 29_000);
    }
}
