//! A private PostgreSQL on a folder of its own, on a port of loopback, so that a proxy can stand in front of it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use windlass_shared::testkit::redis_server::process::free_port;

use super::process::{Process, Program, tail};
use crate::until::until;

const READY_MAX: Duration = Duration::from_secs(60);
/// The user that it runs as where the rig is root, by number: nobody.
const NOBODY: u32 = 65_534;
const DATABASE: &str = "windlass";
/// Of `initdb`, where nobody cuts the power: what it makes need not be on the disk.
pub(super) const NO_SYNC: &str = "--no-sync";

/// One private server with one empty database. `fsync`, `full_page_writes` and `synchronous_commit` stay on.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    programs: PathBuf,
    data: PathBuf,
    port: u16,
}

impl Postgres {
    /// Makes it in `folder` with further settings (`name=value`), and waits until it answers. Where the rig is root,
    /// `folder` is given to the user `nobody`, who must be able to reach it.
    ///
    /// # Errors
    /// PostgreSQL is missing, or does not answer in time.
    pub async fn start(folder: &Path, log: &Path, settings: &[String]) -> anyhow::Result<Self> {
        Self::start_with(folder, log, settings, &[NO_SYNC.to_owned()]).await
    }

    /// The same, with further options of `initdb`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(
        folder: &Path,
        log: &Path,
        settings: &[String],
        initdb: &[String],
    ) -> anyhow::Result<Self> {
        let programs = programs().context("PostgreSQL is not installed")?;
        std::fs::create_dir_all(folder)?;
        if is_root() {
            std::os::unix::fs::chown(folder, Some(NOBODY), Some(NOBODY))?;
        }
        let data = folder.join("data");
        let options = ["-U", "windlass", "-A", "trust", "-E", "UTF8", "--locale=C"];
        let mut init = as_user(&programs.join("initdb"), folder);
        run(init.arg("-D").arg(&data).args(options).args(initdb))?;
        let postgres = Self::on(folder, log, settings)?;
        postgres.ready(log).await?;
        run(as_user(&postgres.programs.join("createdb"), folder)
            .args(postgres.address())
            .arg(DATABASE))?;
        Ok(postgres)
    }

    /// Starts a server of its own on what another one has left in `folder`, and waits until it answers. The other one
    /// may run still if `folder` is a copy of its.
    ///
    /// # Errors
    /// PostgreSQL is missing, or does not get over what was left.
    pub async fn open(folder: &Path, log: &Path) -> anyhow::Result<Self> {
        // It names the other server, which may well run; after a real cut it would name nobody.
        match std::fs::remove_file(folder.join("data/postmaster.pid")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let postgres = Self::on(folder, log, &[])?;
        postgres.ready(log).await?;
        Ok(postgres)
    }

    /// Starts it on its data.
    fn on(folder: &Path, log: &Path, settings: &[String]) -> anyhow::Result<Self> {
        let programs = programs().context("PostgreSQL is not installed")?;
        let (data, port) = (folder.join("data"), free_port());
        let mut args =
            vec!["-D".to_owned(), data.display().to_string(), "-p".into(), port.to_string()];
        let own = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200"];
        let own = own.into_iter().map(str::to_owned).chain(["shared_buffers=128MB".to_owned()]);
        args.extend(own.chain(settings.iter().cloned()).flat_map(|s| ["-c".to_owned(), s]));
        let program = Program {
            name: "postgres".into(),
            path: programs.join("postgres"),
            args: args.into_iter().map(Into::into).collect(),
            env: std::collections::BTreeMap::new(),
            log: log.to_owned(),
            folder: folder.to_owned(),
            user: is_root().then_some(NOBODY),
        };
        Ok(Self { process: Process::start(program)?, programs, data, port })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The database's address without a proxy between.
    pub fn url(&self) -> String {
        url_at(self.port)
    }

    /// The postmaster, to be hurt.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// `pg_ctl -m immediate stop`: as in a crash, nothing is flushed that was not flushed before. Waits for the end.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop_immediately(&mut self) -> anyhow::Result<()> {
        let pg_ctl = self.programs.join("pg_ctl");
        let folder = self.data.parent().context("the data have a folder")?.to_owned();
        let options = ["-m", "immediate", "-w", "-t", "10", "stop"];
        run(as_user(&pg_ctl, &folder).arg("-D").arg(&self.data).args(options))?;
        self.process.kill_9();
        Ok(())
    }

    /// Starts it again on the same data, and waits until it answers.
    ///
    /// # Errors
    /// It does not answer in time.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        let log = self.process.program_mut().log.clone();
        self.process.kill_9();
        // Children of a killed postmaster hold the data until they notice; then it ends at once, and is tried again.
        let started = until(READY_MAX, || {
            let started = self.process.restart();
            let answers = self.answers_or_ended();
            async move {
                started.ok()?;
                answers.then_some(())
            }
        });
        started.await.with_context(|| format!("postgres does not start:\n{}", tail(&log)))
    }

    /// Runs SQL and returns its rows, fields separated by `|`.
    ///
    /// # Errors
    /// The server does not take it.
    pub fn sql(&self, sql: &str) -> anyhow::Result<String> {
        let folder = self.data.parent().context("the data have a folder")?;
        let mut psql = as_user(&self.programs.join("psql"), folder);
        psql.args(self.address()).args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, DATABASE]);
        Ok(run(&mut psql)?.trim_end().to_owned())
    }

    /// Waits (blocking, at most 30 s: recovery takes its time) for an answer, or for the process to give up.
    fn answers_or_ended(&mut self) -> bool {
        let started = std::time::Instant::now();
        while started.elapsed() < Duration::from_secs(30) {
            if self.process.exited().is_some() {
                return false;
            }
            if self.is_ready() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    fn is_ready(&self) -> bool {
        let mut ready = Command::new(self.programs.join("pg_isready"));
        ready.args(self.address()).stdout(Stdio::null()).stderr(Stdio::null());
        ready.status().is_ok_and(|status| status.success())
    }

    async fn ready(&self, log: &Path) -> anyhow::Result<()> {
        let answers = || async { self.is_ready().then_some(()) };
        let ready = until(READY_MAX, answers).await;
        ready.with_context(|| format!("postgres does not answer:\n{}", tail(log)))
    }

    fn address(&self) -> [String; 6] {
        let port = self.port.to_string();
        ["-h".into(), "127.0.0.1".into(), "-p".into(), port, "-U".into(), "windlass".into()]
    }
}

/// Asks first: a postmaster that is killed leaves its shared memory behind.
impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.stop_immediately();
    }
}

/// The database's address at another port: that of a proxy.
pub fn url_at(port: u16) -> String {
    format!("postgres://windlass@127.0.0.1:{port}/{DATABASE}?sslmode=disable")
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// A program of PostgreSQL's, as its user. It is short-lived: nothing ties it to the rig.
fn as_user(program: &Path, folder: &Path) -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null());
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{command:?} failed:\n{errors}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where the newest installation's programs are.
fn programs() -> Option<PathBuf> {
    let whole = |folder: &PathBuf| {
        ["initdb", "postgres", "pg_isready", "pg_ctl", "psql", "createdb"]
            .iter()
            .all(|program| folder.join(program).exists())
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&path).find(whole) {
        return Some(found);
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |folder: &PathBuf| folder.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    versions.map(|version| version.path().join("bin")).filter(whole).max_by_key(number)
}
