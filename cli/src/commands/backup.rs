//! `windlass backup`: backups of the ledger, made, proven and restored.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use secrecy::ExposeSecret;
use serde_json::{Value, json, to_value};
use tokio_util::sync::CancellationToken;
use windlass_scheduler::backup::manifest::Manifest;
use windlass_scheduler::backup::{BackupError, create, drill, fetch, new_key, restore, silent};
use windlass_shared::config::{LedgerSettings, Process, Settings};
use windlass_shared::shutdown::Shutdown;

use crate::exit::{Failure, HALT, Outcome};
use crate::output::{self, Output, text};
use crate::setup::SettingsArgs;

mod physical;

const EXAMPLES: &str = "\
Examples:
  windlass backup keygen                          a key for backup.key: keep it apart from the backups
  windlass backup create
  windlass backup list
  windlass backup verify ID                       restore it beside the ledger and prove it; exit 3 if it is not good
  windlass backup restore ID --into postgres://windlass@db/windlass_restored
  windlass backup restore ID --into sqlite:///var/lib/windlass/restored.db

To an instant, on a PostgreSQL server of your own (docs/point-in-time.md):
  windlass backup base                            all files of the server, where it archives by wal-push
  windlass backup bases                           what they can be recovered to
  windlass backup restore-base ID --into-dir /var/lib/postgresql/15/new --to-time 2026-11-22T08:00:00Z
  windlass backup adopt --ledger postgres://postgres@localhost/windlass

Needs WINDLASS_BACKUP__STORE and WINDLASS_BACKUP__KEY. On PostgreSQL pg_dump and pg_restore of the server's \
version, or later, must be installed.";

/// Backups of the ledger.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BackupArgs {
    #[command(subcommand)]
    command: BackupCommand,
}

#[derive(Debug, Subcommand)]
enum BackupCommand {
    /// Make a backup; the ledger may be in use
    Create(Common),
    /// List backups, newest first
    List(Common),
    /// Show one backup and its latest drill
    Show(One),
    /// Restore a backup beside the ledger, compare it, run a workflow on it; exit 3 if it is not good
    Verify(One),
    /// Restore a backup into an empty database
    Restore(Restore),
    /// Make a base backup: all files of the ledger's PostgreSQL server, to recover it to an instant
    Base(physical::BaseArgs),
    /// List base backups, newest first, and to which instants each can be recovered
    Bases(Common),
    /// Archive one file of WAL, for PostgreSQL's archive_command
    WalPush(physical::PushArgs),
    /// Bring one file of WAL back, for PostgreSQL's restore_command
    WalFetch(physical::FetchArgs),
    /// Make a data directory of a base backup, on which PostgreSQL recovers to an instant
    RestoreBase(physical::RestoreBaseArgs),
    /// Make the ledger of a recovered server a new one, and let processes write to it
    Adopt(physical::AdoptArgs),
    /// Print a fresh key for backup.key
    Keygen,
}

#[derive(Debug, Args)]
struct Common {
    /// The shape of what is printed
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Args)]
struct One {
    /// The backup
    id: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Restore {
    /// The backup
    id: String,
    /// An empty database, or a file that is not there: postgres://… or sqlite://PATH
    #[arg(long, value_name = "URL", env = "WINDLASS_RESTORE_INTO", hide_env_values = true)]
    into: String,
    #[command(flatten)]
    common: Common,
}

/// Cancelled by Ctrl-C and SIGTERM: what is under way then gives back what it holds, and ends. A second one ends the process
/// at once.
fn interrupted() -> Outcome<CancellationToken> {
    Ok(Shutdown::on_signals().context("signals cannot be listened for")?.token)
}

/// Runs the command.
pub async fn run(args: BackupArgs) -> Outcome {
    match args.command {
        BackupCommand::Create(args) => {
            let settings = load(&args)?;
            let stop = interrupted()?;
            let made = create::create(settings.backup()?, settings.ledger()?, &silent, &stop).await;
            shown(args.output, &of(&made.map_err(failure)?))
        }
        BackupCommand::List(args) => list(&args).await,
        BackupCommand::Show(args) => {
            let settings = load(&args.common)?;
            let settings = settings.backup()?;
            let manifest = fetch::manifest(settings, &args.id).await.map_err(failure)?;
            let report = drill::report(settings, &args.id).await.map_err(failure)?;
            let mut view = of(&manifest);
            view["jobs"] = json!(manifest.contents.jobs);
            view["drill"] = to_value(report).context("a report is JSON")?;
            shown(args.common.output, &view)
        }
        BackupCommand::Verify(args) => {
            let settings = load(&args.common)?;
            let (backup, ledger, stop) = (settings.backup()?, settings.ledger()?, interrupted()?);
            let report = drill::drill(backup, ledger, &args.id, &silent, &stop).await;
            let report = report.map_err(failure)?;
            shown(args.common.output, &to_value(&report).context("a report is JSON")?)?;
            match report.error {
                None => Ok(()),
                Some((code, why)) => {
                    Err(Failure::Check(format!("the backup is not good ({code}): {why}")))
                }
            }
        }
        BackupCommand::Restore(args) => {
            let settings = load(&args.common)?;
            let into = LedgerSettings::new(args.into);
            let live = settings.ledger.as_ref();
            let restoring = restore::restore(settings.backup()?, live, &into, &args.id, &silent);
            let restored = restoring.await.map_err(failure)?;
            let view = json!({
                "backup": restored.manifest.id,
                "at": restored.manifest.origin.at,
                "rows": restored.manifest.contents.rows(),
                "ledger": restored.ledger.to_string(),
            });
            shown(args.common.output, &view)
        }
        BackupCommand::Base(args) => physical::base(args).await,
        BackupCommand::Bases(args) => physical::bases(&args).await,
        BackupCommand::WalPush(args) => physical::push(args).await,
        BackupCommand::WalFetch(args) => physical::fetch(args).await,
        BackupCommand::RestoreBase(args) => physical::restore(args).await,
        BackupCommand::Adopt(args) => physical::adopt(args).await,
        BackupCommand::Keygen => output::line(new_key().expose_secret()),
    }
}

/// Whether this process was started as `wal-fetch`, however well: PostgreSQL must take none of its failures for the end of
/// the archive.
pub fn fetches_wal() -> bool {
    std::env::args_os().skip(1).take(2).eq(["backup", "wal-fetch"])
}

/// Ends with what is wrong with the command line.
pub fn end(error: &clap::Error) -> ! {
    if error.use_stderr() && fetches_wal() {
        // Where nobody listens, the status says enough.
        let _ = error.print();
        std::process::exit(HALT.into());
    }
    error.exit()
}

fn load(args: &Common) -> Outcome<Settings> {
    let settings = args.settings.load(Process::Tool, Vec::new())?;
    settings.backup()?;
    Ok(settings)
}

async fn list(args: &Common) -> Outcome {
    let settings = load(args)?;
    let all = fetch::list(settings.backup()?).await.map_err(failure)?;
    let views: Vec<Value> = all
        .iter()
        .map(|one| match &one.manifest {
            Ok(manifest) => of(manifest),
            Err(error) => json!({ "id": one.entry.id, "error": error.to_string() }),
        })
        .collect();
    match args.output {
        Output::Json => output::json(&json!(views)),
        Output::Table => {
            let names = ["id", "at", "database", "rows", "bytes", "encrypted", "error"];
            output::table(
                &names,
                views.iter().map(|view| names.map(|name| text(view, name)).to_vec()),
            )
        }
    }
}

/// A backup as it is shown.
fn of(manifest: &Manifest) -> Value {
    json!({
        "id": manifest.id,
        "at": manifest.origin.at,
        "database": manifest.origin.database,
        "ledger": manifest.origin.ledger.to_string(),
        "schema": manifest.origin.schema,
        "rows": manifest.contents.rows(),
        "bytes": manifest.bytes(),
        "parts": manifest.parts.len(),
        "encrypted": manifest.encrypted,
    })
}

fn shown(output: Output, view: &Value) -> Outcome {
    match output {
        Output::Json => output::json(view),
        Output::Table => {
            let object = view.as_object().into_iter().flatten();
            let pairs: Vec<(&str, String)> =
                object.map(|(name, _)| (name.as_str(), text(view, name))).collect();
            output::fields(&pairs)
        }
    }
}

/// Settings that cannot be meant end with 2, everything else with 1.
fn failure(error: BackupError) -> Failure {
    match error {
        BackupError::Settings(why) => Failure::Usage(why),
        other => Failure::Failed(other.into()),
    }
}
