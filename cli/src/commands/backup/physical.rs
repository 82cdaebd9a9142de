//! Base backups, the archive of WAL, and recovery to an instant.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json, to_value};
use windlass_scheduler::backup::wal::base::{self, Base};
use windlass_scheduler::backup::wal::fetch::{self, Fetched};
use windlass_scheduler::backup::wal::recover::{self, Order, Target};
use windlass_scheduler::backup::wal::{NOT_ADOPTED, push as archive};
use windlass_scheduler::backup::{BackupError, silent};
use windlass_shared::config::{LedgerSettings, Process, Settings};
use windlass_shared::ledger::wal as ledger;
use windlass_shared::model::time::Timestamp;

use super::{Common, failure, interrupted, load, shown};
use crate::exit::{Failure, Outcome};
use crate::output::{self, Output, text};
use crate::setup::SettingsArgs;

const BASE_HELP: &str = "\
The server must archive its WAL into the same store before (then reload it, or restart it for the first two):
  wal_level = replica
  archive_mode = on
  archive_command = 'windlass backup wal-push --config /etc/windlass/backup.toml %p'
  archive_timeout = 60          what is lost at most when the server is lost
and let the role in: ALTER ROLE windlass_backup REPLICATION; `host replication windlass_backup …` in pg_hba.conf.
Whatever is missing is named, before anything is done.";

const PUSH_HELP: &str = "\
  archive_command = 'windlass backup wal-push --config /etc/windlass/backup.toml %p'

Exit codes: 0 it is durable in the store, now or since before; else it is not, and PostgreSQL tries again.
Needs backup.store and backup.key, and backup.recipients where WAL is to be encrypted.";

const FETCH_HELP: &str = "\
  restore_command = 'windlass backup wal-fetch --config /etc/windlass/backup.toml %f \"%p\"'

Exit codes: 0 it was written; 1 it is not in the archive, and nothing says that it has been; 200 whatever else is wrong, \
upon which PostgreSQL stops and does not take the archive for ended.";

const RESTORE_HELP: &str = "\
Run it as the user that the server will run as. The server must be of the version that was backed up.
  windlass backup restore-base ID --into-dir /var/lib/postgresql/15/new --to-time 2026-11-22T08:00:00Z
  pg_ctl -D /var/lib/postgresql/15/new start      recovers by itself, then is read-only
  windlass backup adopt --ledger postgres://postgres@localhost/windlass";

/// Of `base`.
#[derive(Debug, Args)]
#[command(after_help = BASE_HELP)]
pub(super) struct BaseArgs {
    /// The ledger's database, as a role that may replicate; the ledger of the settings where absent
    #[arg(long, value_name = "URL", env = "WINDLASS_BASE_FROM", hide_env_values = true)]
    from: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// Of `wal-push`.
#[derive(Debug, Args)]
#[command(after_help = PUSH_HELP)]
pub(super) struct PushArgs {
    /// The file: %p
    file: PathBuf,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Of `wal-fetch`.
#[derive(Debug, Args)]
#[command(after_help = FETCH_HELP)]
pub(super) struct FetchArgs {
    /// The file's name: %f
    name: String,
    /// Where it is to be written: %p
    to: PathBuf,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Of `restore-base`.
#[derive(Debug, Args)]
#[command(after_help = RESTORE_HELP)]
pub(super) struct RestoreBaseArgs {
    /// The base backup
    id: String,
    /// A folder that is empty, or not there: the new server's data directory
    #[arg(long, value_name = "DIR")]
    into_dir: PathBuf,
    /// All that was committed by then: an instant in UTC (2026-11-22T08:00:00Z), at least a second before `until`
    #[arg(long, value_name = "TIME", required_unless_present = "to_latest")]
    to_time: Option<Timestamp>,
    /// All that was archived
    #[arg(long, conflicts_with = "to_time")]
    to_latest: bool,
    /// Which branch of the server's history to follow, where it has several
    #[arg(long, value_name = "N")]
    timeline: Option<u32>,
    #[command(flatten)]
    common: Common,
}

/// Of `adopt`.
#[derive(Debug, Args)]
pub(super) struct AdoptArgs {
    /// The recovered ledger; as a superuser where it was recovered by restore-base
    #[arg(long, value_name = "URL", env = "WINDLASS_ADOPT_LEDGER", hide_env_values = true)]
    ledger: String,
    /// The shape of what is printed
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) async fn base(args: BaseArgs) -> Outcome {
    let settings = load(&args.common)?;
    let from = match args.from {
        Some(url) => LedgerSettings::new(url),
        None => settings.ledger()?.clone(),
    };
    let stop = interrupted()?;
    let made = base::create(settings.backup()?, &from, &silent, &stop).await;
    shown(args.common.output, &of(&made.map_err(failure)?))
}

pub(super) async fn bases(args: &Common) -> Outcome {
    let settings = load(args)?;
    let all = base::list(settings.backup()?).await.map_err(failure)?;
    let view = |one: &base::Listed| match &one.base {
        Ok((base, reach)) => {
            let mut view = of(base);
            view["until"] = json!(reach.until);
            view["segments"] = json!(reach.segments);
            view["gap"] = json!(reach.gap);
            view["later_timelines"] = json!(reach.later_timelines);
            view
        }
        Err(error) => json!({ "id": one.id, "error": error.to_string() }),
    };
    let views: Vec<Value> = all.iter().map(view).collect();
    match args.output {
        Output::Json => output::json(&json!(views)),
        Output::Table => {
            let names = ["id", "from", "until", "timeline", "bytes", "encrypted", "gap", "error"];
            let row = |view: &Value| names.map(|name| text(view, name)).to_vec();
            output::table(&names, views.iter().map(row))
        }
    }
}

/// A base backup as it is shown.
fn of(base: &Base) -> Value {
    json!({
        "id": base.id,
        "from": base.from,
        "ledger": base.ledger.to_string(),
        "version": base.version,
        "system": base.system,
        "timeline": base.timeline,
        "start": base.start,
        "end": base.end,
        "bytes": base.bytes(),
        "parts": base.parts.len(),
        "encrypted": base.encrypted,
    })
}

pub(super) async fn push(args: PushArgs) -> Outcome {
    let settings = args.settings.load(Process::Tool, Vec::new())?;
    archive::push(settings.backup()?, &args.file).await.map_err(failure)?;
    Ok(())
}

/// Every failure but [`Failure::NotThere`] ends as [`Failure::or_halt`] says; so it is for the whole process.
pub(super) async fn fetch(args: FetchArgs) -> Outcome {
    let settings = args.settings.load(Process::Tool, Vec::new())?;
    let here = std::path::Path::new("");
    match fetch::fetch(settings.backup()?, here, &args.name, &args.to).await.map_err(failure)? {
        Fetched::Written => Ok(()),
        Fetched::NotThere => Err(Failure::NotThere(format!("{} is not in the archive", args.name))),
    }
}

pub(super) async fn restore(args: RestoreBaseArgs) -> Outcome {
    let settings = load(&args.common)?;
    let binary = std::env::current_exe().context("cannot tell where this program is")?;
    let config = args.common.settings.config.as_ref().map(std::path::absolute);
    let config = config.transpose().context("cannot tell where the settings file is")?;
    let order = Order {
        id: &args.id,
        into: &args.into_dir,
        target: args.to_time.map_or(Target::Latest, Target::Time),
        timeline: args.timeline,
        binary: &binary,
        config: config.as_deref(),
    };
    let restored = recover::restore(settings.backup()?, &order, &silent).await.map_err(failure)?;
    let view = json!({
        "base": restored.0.id,
        "ledger": restored.0.ledger.to_string(),
        "to": args.to_time.or(restored.1.until),
        "timeline": restored.1.timeline,
        "next": next(&args, &settings, config.is_some()),
    });
    shown(args.common.output, &view)
}

/// What is left to do, a step on each line.
fn next(args: &RestoreBaseArgs, settings: &Settings, has_config: bool) -> String {
    let dir = args.into_dir.display();
    let mut next = Vec::new();
    if !has_config {
        next.push(
            "give the server this environment (WINDLASS_BACKUP__…), or settings in a file: it fetches WAL by them".into(),
        );
    } else if settings.backup.as_ref().is_some_and(|backup| backup.identity_file.is_some()) {
        next.push("let the server's user read the settings file and backup.identity_file".into());
    }
    next.push(format!("start PostgreSQL on {dir}: it recovers by itself, and is read-only then"));
    next.push("look whether it is what you want".into());
    next.push(
        "where the server that it is a copy of lives on: give one of the two another backup.store now"
            .into(),
    );
    next.push(
        "windlass backup adopt --ledger URL, as a superuser: a new ledger, that can be written to"
            .into(),
    );
    next.push(format!(
        "rm {dir}/{NOT_ADOPTED}, then SELECT pg_switch_wal(): archiving begins, see pg_stat_archiver"
    ));
    next.push("windlass backup base, then start the fleet on it".into());
    next.join("\n")
}

pub(super) async fn adopt(args: AdoptArgs) -> Outcome {
    let adopting = ledger::adopt(&LedgerSettings::new(args.ledger)).await;
    let adopted = adopting.map_err(|error| failure(BackupError::Ledger(error)))?;
    let mut view = to_value(&adopted).context("an adoption is JSON")?;
    let mut next = vec![
        "windlass backup base: those of before lead to what is written from now on only with --timeline"
            .to_owned(),
    ];
    if !adopted.waits_for.is_empty() {
        next = vec![format!(
            "the server stays read-only until its other ledgers were adopted too, or their databases dropped: {}",
            adopted.waits_for.join(", ")
        )];
    } else if adopted.was_read_only {
        next.insert(
            0,
            format!(
                "remove {NOT_ADOPTED} from the server's data directory, then SELECT pg_switch_wal(): archiving begins, see pg_stat_archiver"
            ),
        );
    }
    view["next"] = json!(next.join("\n"));
    shown(args.output, &view)
}
