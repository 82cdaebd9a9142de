//! Makes a data directory of a base backup, on which PostgreSQL recovers to an instant by itself.
//!
//! Everything is checked before anything is written. The control file, without which no server starts, is written last.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use windlass_shared::config::BackupSettings;
use windlass_shared::ledger::wal::OF_RECOVERY;
use windlass_shared::model::time::Timestamp;

use super::base::{Base, read};
use super::commits::{Stop, stop_at};
use super::extract::{Extract, create, create_folder};
use super::reach::{Reach, reach_of};
use super::tar::Reader;
use super::{BASES, NOT_ADOPTED};
use crate::backup::fetch::Parts;
use crate::backup::keys::Signer;
use crate::backup::store::Store;
use crate::backup::{BackupError, Progress};

/// Where settings that were made by statements are kept; those in it win over `postgresql.conf`.
const SETTINGS: &str = "postgresql.auto.conf";
/// Tells a server to recover when it starts.
const SIGNAL: &str = "recovery.signal";
/// There while a restore is under way. What else is in the folder is its, then.
const RESTORING: &str = "windlass.restoring";
/// What another recovery may have left in the settings of the server. Here an empty one counts as none; several targets would
/// be refused.
const UNSET: [&str; 8] = [
    "recovery_target = ''",
    "recovery_target_name = ''",
    "recovery_target_xid = ''",
    "recovery_target_lsn = ''",
    "recovery_target_time = ''",
    "recovery_min_apply_delay = 0",
    "recovery_end_command = ''",
    "archive_cleanup_command = ''",
];
/// The first version of PostgreSQL that reads WAL ahead of what it replays.
const READS_AHEAD: i32 = 15;
/// A transaction takes its time before its record is written, and the file may be written to in between.
const COARSE: Duration = Duration::from_secs(1);

/// Where to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// All that was committed by then (ledger time).
    Time(Timestamp),
    /// All that was archived.
    Latest,
}

/// What is asked for.
#[derive(Debug)]
pub struct Order<'a> {
    /// The base.
    pub id: &'a str,
    /// A folder that is empty, or not there.
    pub into: &'a Path,
    /// How far.
    pub target: Target,
    /// Along which timeline; `None`: the base's own, where no other has left it.
    pub timeline: Option<u32>,
    /// This binary.
    pub binary: &'a Path,
    /// Its settings file, if it has one.
    pub config: Option<&'a Path>,
}

/// Checks a base backup and its WAL, and writes a data directory from which PostgreSQL recovers when it is started. The
/// server is read-only and archives nothing until its ledger was adopted.
///
/// # Errors
/// Whatever is wrong with the base, the WAL that it needs, the instant or the folder: then nothing was written. A failure
/// after that leaves an empty folder; a process that is killed, one on which no server starts.
pub async fn restore(
    settings: &BackupSettings,
    order: &Order<'_>,
    progress: Progress<'_>,
) -> Result<(Base, Reach), BackupError> {
    let was_there = look(order.into)?;
    let (store, signer) = (Store::open_part(settings, BASES)?, Signer::of(settings)?);
    let base = read(&store, &signer, order.id).await?;
    // It stays, and so does its WAL, while it is read.
    store.note_reader(&base.id).await;
    let archive = base.archive(settings)?;
    let reach = reach_of(&base, &archive, order.timeline).await?;
    allows(&base, &reach, order)?;
    let stop = match order.target {
        Target::Time(at) => Some(stop_at(&archive, &reach.names, at).await?),
        Target::Latest => None,
    };
    for name in base.needed() {
        if archive.get(&name).await?.is_none() {
            return Err(BackupError::WalGap(name.to_string()));
        }
    }
    let (id, list) = (base.id.clone(), base.parts.clone());
    let parts = Parts::check(settings, store, id, list, base.encrypted, progress).await?;
    let lines = lines(order, stop, &reach, &base)?;
    begin(order.into)?;
    let (dump, over) = parts.dump();
    let into = order.into.to_owned();
    let writing = tokio::task::spawn_blocking(move || write(&into, dump));
    let written = writing.await.expect("writing does not panic");
    // What was wrong with the parts says more than that they ended early.
    let complete = async {
        over.await?;
        let extracted = written?.check()?;
        let what = format!("cannot write into {}", order.into.display());
        finish(order.into, &lines)
            .and_then(|()| std::fs::remove_file(order.into.join(RESTORING)))
            .and_then(|()| extracted.complete())
            .map_err(BackupError::file(what))
    };
    if let Err(error) = complete.await {
        clear(order.into, was_there);
        return Err(error);
    }
    progress("restored", base.bytes());
    Ok((base, reach))
}

/// Whether the folder is there. It must be empty.
fn look(folder: &Path) -> Result<bool, BackupError> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => match entries.next() {
            None => Ok(true),
            Some(_) => {
                Err(BackupError::TargetNotEmpty(format!("{} holds something", folder.display())))
            }
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(BackupError::file(format!("cannot read {}", folder.display()))(error)),
    }
}

/// Makes the folder, and keeps a second restore out of it.
fn begin(folder: &Path) -> Result<(), BackupError> {
    let mark = folder.join(RESTORING);
    let taken = || {
        let why = format!("something was put into {} meanwhile", folder.display());
        Err(BackupError::TargetNotEmpty(why))
    };
    let count = || Ok(std::fs::read_dir(folder)?.count());
    match create_folder(folder).and_then(|()| create(&mark)).and_then(|_| count()) {
        Ok(1) => Ok(()),
        Ok(_) => {
            let _ = std::fs::remove_file(&mark);
            taken()
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => taken(),
        Err(error) => {
            Err(BackupError::file(format!("cannot write into {}", folder.display()))(error))
        }
    }
}

/// Whether the archive leads there.
fn allows(base: &Base, reach: &Reach, order: &Order<'_>) -> Result<(), BackupError> {
    let out = |why: String| Err(BackupError::OutOfReach(why));
    if order.timeline.is_none() && !reach.later_timelines.is_empty() {
        let others: Vec<String> = reach.later_timelines.iter().map(u32::to_string).collect();
        return out(format!(
            "after this base the server's history has branched: say with --timeline which branch to follow, {} (the base's own) or {}",
            base.timeline,
            others.join(", ")
        ));
    }
    let Some(until) = reach.until else {
        return Err(BackupError::WalGap(
            reach.gap.clone().unwrap_or_else(|| "WAL of the base itself".into()),
        ));
    };
    match order.target {
        Target::Time(at) if at < base.from => {
            out(format!("the base was complete at {}: for {at} take an earlier one", base.from))
        }
        Target::Time(at) if at.plus(COARSE) > until => match &reach.gap {
            Some(gap) => Err(BackupError::WalGap(gap.clone())),
            None => out(format!(
                "what was archived ends at {until}: {at} is later than a second before; --to-latest takes all that there is"
            )),
        },
        Target::Latest => {
            reach.gap.as_ref().map_or(Ok(()), |gap| Err(BackupError::WalGap(gap.clone())))
        }
        Target::Time(_) => Ok(()),
    }
}

/// Blocks.
fn write(folder: &Path, mut dump: mpsc::Receiver<Bytes>) -> Result<Extract, BackupError> {
    let what = format!("cannot write into {}", folder.display());
    let mut write = || {
        let mut reader = Reader::new(Extract::into(folder));
        while let Some(chunk) = dump.blocking_recv() {
            reader.feed(&chunk)?;
        }
        reader.finish()
    };
    write().map_err(BackupError::file(what))
}

/// Settings of the recovery. The last one of a name counts, wherever others are.
fn lines(
    order: &Order<'_>,
    stop: Option<Stop>,
    reach: &Reach,
    base: &Base,
) -> Result<Vec<String>, BackupError> {
    let mut lines = vec![format!("restore_command = {}", quoted(&command(order)?))];
    lines.extend(UNSET.map(str::to_owned));
    lines.push("recovery_target_inclusive = on".to_owned());
    match stop {
        None => {}
        Some(Stop::Time(at)) => {
            let at = jiff::Timestamp::from_microsecond(at.micros())
                .map_err(|_| BackupError::OutOfReach("there is no such time".into()))?;
            let at = at.strftime("%Y-%m-%d %H:%M:%S%.6f+00");
            lines.push(format!("recovery_target_time = '{at}'"));
        }
        Some(Stop::Record(at)) => lines.push(format!("recovery_target_lsn = '{at}'")),
    }
    if stop.is_some() && base.version >= READS_AHEAD {
        // It would ask for what follows, which may be missing, before it comes to where it stops.
        lines.push("recovery_prefetch = off".to_owned());
    }
    let own = reach.timeline == base.timeline;
    let timeline = if own { "current".to_owned() } else { reach.timeline.to_string() };
    lines.push(format!("recovery_target_timeline = '{timeline}'"));
    // It can be looked at, but not be written to: that it was recovered to the right instant can be seen before.
    lines.push("recovery_target_action = 'promote'".to_owned());
    lines.push("default_transaction_read_only = on".to_owned());
    Ok(lines)
}

/// As a shell runs it, with PostgreSQL's `%f` and `%p`.
fn command(order: &Order<'_>) -> Result<String, BackupError> {
    let word = |path: &Path| {
        let text = path.to_str().filter(|text| !text.contains('\n'));
        let text = text.ok_or_else(|| BackupError::Settings("a path is no text".into()))?;
        Ok::<_, BackupError>(format!("'{}'", text.replace('\'', "'\\''").replace('%', "%%")))
    };
    let mut command = format!("{} backup wal-fetch", word(order.binary)?);
    if let Some(config) = order.config {
        command.push_str(&format!(" --config {}", word(config)?));
    }
    Ok(command + " %f \"%p\"")
}

/// As a value in PostgreSQL's settings.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Writes what makes a server recover, and what keeps others from taking it for the one that it was.
fn finish(folder: &Path, lines: &[String]) -> std::io::Result<()> {
    let path = folder.join(SETTINGS);
    let before = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    let mut text: String = before
        .lines()
        .filter(|line| !OF_RECOVERY.iter().any(|name| line.trim_start().starts_with(name)))
        .map(|line| format!("{line}\n"))
        .collect();
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    std::fs::write(&path, text)?;
    // Of a server that was itself recovered.
    let mark = folder.join(NOT_ADOPTED);
    let _ = std::fs::remove_file(&mark);
    create(&mark)?.write_all(
        b"This server was recovered by `windlass backup restore-base`. It archives nothing while this file is here.\n\
        Remove it after `windlass backup adopt`.\n",
    )?;
    let signal = folder.join(SIGNAL);
    if !signal.exists() {
        create(&signal)?;
    }
    Ok(())
}

/// Removes what was written: it is of no use, and nothing else was there.
fn clear(folder: &Path, was_there: bool) {
    let entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    for path in entries {
        // What stays keeps the folder from being taken for an empty one.
        let _ = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
    }
    if !was_there {
        let _ = std::fs::remove_dir(folder);
    }
}

#[cfg(test)]
mod tests {
    use super::super::name::Lsn;
    use super::*;

    #[test]
    fn paths_are_quoted_for_the_shell_and_for_postgres() {
        let order = Order {
            id: "",
            into: Path::new("/data"),
            target: Target::Latest,
            timeline: None,
            binary: Path::new("/opt/it's 100%/windlass"),
            config: Some(Path::new("/etc/windlass.toml")),
        };
        let reach = Reach {
            timeline: 3,
            until: None,
            segments: 0,
            gap: None,
            later_timelines: Vec::new(),
            names: Vec::new(),
        };
        let mut base: Base = serde_json::from_value(serde_json::json!({
            "format": 1, "key": "", "id": "", "made_by": "", "ledger": uuid::Uuid::nil(), "version": 14,
            "system": "1", "segment_bytes": 16 << 20, "timeline": 2, "start": "0/1", "end": "0/2",
            "from": Timestamp::default(), "encrypted": false, "tar_bytes": 0, "parts": [],
        }))
        .unwrap();
        let stop = Stop::Time("2026-11-22T08:00:00.25Z".parse().unwrap());
        let found = lines(&order, Some(stop), &reach, &base).unwrap();
        assert_eq!(
            found[0],
            r#"restore_command = '''/opt/it''\\''''s 100%%/windlass'' backup wal-fetch --config ''/etc/windlass.toml'' %f "%p"'"#
        );
        let has = |lines: &[String], line: &str| lines.iter().any(|one| one == line);
        let time = "recovery_target_time = '2026-11-22 08:00:00.250000+00'";
        assert!(has(&found, time) && has(&found, "recovery_target_timeline = '3'"), "{found:?}");
        // Every target that is not meant is empty, and none comes after the one that is.
        let place = |line: &str| found.iter().position(|one| one == line).unwrap();
        assert!(UNSET.iter().all(|unset| place(unset) < place(time)), "{found:?}");
        let off = "recovery_prefetch = off";
        assert!(!has(&found, off), "version 14 does not know it");
        (base.version, base.timeline) = (15, 3);
        let found = lines(&order, Some(Stop::Record(Lsn(0x1_0200_0028))), &reach, &base).unwrap();
        for line in
            ["recovery_target_lsn = '1/2000028'", off, "recovery_target_timeline = 'current'"]
        {
            assert!(has(&found, line), "{line}: {found:?}");
        }
        assert!(!has(&lines(&order, None, &reach, &base).unwrap(), off));
    }

    #[test]
    fn of_two_restores_into_one_folder_one_leaves_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().join("new");
        begin(&into).unwrap();
        assert!(matches!(begin(&into), Err(BackupError::TargetNotEmpty(_))));
        assert!(matches!(look(&into), Err(BackupError::TargetNotEmpty(_))));
        // The first one was over in between.
        std::fs::rename(into.join(RESTORING), into.join("PG_VERSION")).unwrap();
        assert!(matches!(begin(&into), Err(BackupError::TargetNotEmpty(_))));
        assert!(!into.join(RESTORING).exists());
    }

    #[test]
    fn a_failure_leaves_an_empty_folder_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().join("new");
        for was_there in [true, false] {
            begin(&into).unwrap();
            std::fs::create_dir_all(into.join("base/1")).unwrap();
            std::fs::write(into.join("base/1/1"), "half").unwrap();
            clear(&into, was_there);
            assert_eq!(look(&into).unwrap(), was_there);
        }
    }

    #[test]
    fn settings_of_an_earlier_recovery_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SETTINGS);
        std::fs::write(
            &path,
            "work_mem = '8MB'\nrecovery_target_time = 'then'\nrestore_command = 'x'\narchive_cleanup_command = 'rm'\n",
        )
        .unwrap();
        finish(folder.path(), &["restore_command = 'y'".to_owned()]).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "work_mem = '8MB'\nrestore_command = 'y'\n"
        );
        assert!(folder.path().join(SIGNAL).exists() && folder.path().join(NOT_ADOPTED).exists());
    }
}
