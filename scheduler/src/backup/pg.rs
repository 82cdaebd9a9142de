//! PostgreSQL's own programs, `pg_dump` and `pg_restore`.
//!
//! They get a clean environment: a `PGHOST` or `PGOPTIONS` of this process must not lead them elsewhere. Where the
//! database is, and the password, are in it, never among the arguments, which every user of the machine can read.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::task::JoinHandle;
use windlass_shared::config::LedgerSettings;

use super::BackupError;
use super::pipe::CHUNK;

/// Where distributions keep versions side by side.
const INSTALLED: &str = "/usr/lib/postgresql";
/// What of a program's complaints is kept: the end of them.
const COMPLAINTS_MAX: usize = 4 << 10;
/// Parameters of an address, and the variables by which the programs know them.
const PARAMETERS: [(&str, &str); 12] = [
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("dbname", "PGDATABASE"),
    ("sslmode", "PGSSLMODE"),
    ("ssl-mode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("ssl-root-cert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
];

fn address(settings: &LedgerSettings) -> Result<reqwest::Url, BackupError> {
    let wrong = |_| BackupError::Settings("the ledger's address cannot be read".into());
    settings.url.expose_secret().parse().map_err(wrong)
}

/// An address as variables of the programs.
pub(super) fn environment(
    settings: &LedgerSettings,
) -> Result<Vec<(&'static str, String)>, BackupError> {
    let url = address(settings)?;
    let mut found: Vec<(&'static str, String)> = Vec::new();
    let host = url.host_str().map(|host| host.trim_matches(['[', ']']));
    let given = [
        ("PGHOST", host.map(decoded)),
        ("PGPORT", url.port().map(|port| port.to_string())),
        ("PGUSER", Some(decoded(url.username()))),
        ("PGPASSWORD", url.password().map(decoded)),
        ("PGDATABASE", Some(decoded(url.path().trim_start_matches('/')))),
    ];
    let given = given.into_iter().filter_map(|(name, value)| Some((name, value?)));
    found.extend(given.filter(|(_, value)| !value.is_empty()));
    for (name, value) in url.query_pairs() {
        if let Some((_, variable)) = PARAMETERS.iter().find(|(known, _)| *known == name) {
            found.retain(|(earlier, _)| earlier != variable);
            found.push((variable, value.into_owned()));
        }
    }
    Ok(found)
}

/// The same server, another database.
pub(super) fn with_database(
    settings: &LedgerSettings,
    name: &str,
) -> Result<LedgerSettings, BackupError> {
    let mut url = address(settings)?;
    url.set_path(&format!("/{name}"));
    let kept: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(key, _)| key != "dbname")
        .map(|(k, v)| (k.into(), v.into()))
        .collect();
    if kept.is_empty() {
        url.set_query(None);
    } else {
        url.query_pairs_mut().clear().extend_pairs(kept);
    }
    Ok(LedgerSettings { url: SecretString::from(String::from(url)), ..settings.clone() })
}

fn decoded(text: &str) -> String {
    let (mut out, bytes) = (Vec::with_capacity(text.len()), text.as_bytes());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The oldest installation of a program that is not older than the server, since newer ones may ask servers for what
/// they do not know; else whichever is on the path.
fn program(name: &str, server: i32) -> PathBuf {
    let versions = std::fs::read_dir(INSTALLED).into_iter().flatten().flatten();
    let number = |dir: &Path| dir.file_name()?.to_str()?.parse::<i32>().ok();
    let fit = versions
        .map(|version| version.path())
        .filter(|version| version.join("bin").join(name).exists())
        .filter(|version| number(version).is_some_and(|number| number >= server))
        .min_by_key(|version| number(version));
    fit.map_or_else(|| PathBuf::from(name), |version| version.join("bin").join(name))
}

pub(super) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C");
    // To be found, and to find each other.
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    // A group of its own: a signal for this process is not for it. It ends with what waits for it.
    command.process_group(0).kill_on_drop(true).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// From this version on `pg_restore` sets `transaction_timeout`, which older servers do not know.
const SETS_TRANSACTION_TIMEOUT: i32 = 17;

/// The program to use with a server of this version.
///
/// # Errors
/// It is missing, or older than the server: it would refuse, or misread, what it does not know. Or it is `pg_restore`, and
/// too new for the server.
pub(super) async fn client(name: &str, server: i32) -> Result<PathBuf, BackupError> {
    let program = program(name, server);
    let output = command(&program).arg("--version").stdout(Stdio::piped()).output().await;
    let output = output.map_err(|error| {
        BackupError::Tool(format!(
            "cannot run {name} ({error}): install PostgreSQL's client, version {server} or later"
        ))
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers = text.split_whitespace().find_map(|word| {
        word.split(['.', 'b', 'r', 'd']).next().and_then(|major| major.parse::<i32>().ok())
    });
    match numbers {
        Some(found)
            if name == "pg_restore"
                && server < SETS_TRANSACTION_TIMEOUT
                && found >= SETS_TRANSACTION_TIMEOUT =>
        {
            Err(BackupError::Tool(format!(
                "{name} is of version {found}, which cannot restore into a server of version {server}: install the client of version {server}"
            )))
        }
        Some(found) if found >= server => Ok(program),
        Some(found) => Err(BackupError::Tool(format!(
            "{name} is of version {found}, older than the server's {server}: install the client of version {server} or later"
        ))),
        None => Err(BackupError::Tool(format!("{name} does not say of which version it is"))),
    }
}

/// A program that runs, and the end of its complaints.
pub(super) struct Running {
    name: &'static str,
    child: Child,
    complaints: JoinHandle<String>,
}

impl Running {
    pub(super) fn start(name: &'static str, command: &mut Command) -> Result<Self, BackupError> {
        let child = command.spawn();
        let mut child =
            child.map_err(|error| BackupError::Tool(format!("cannot run {name}: {error}")))?;
        let stderr = child.stderr.take().expect("it was asked for");
        Ok(Self { name, child, complaints: tokio::spawn(last_of(stderr)) })
    }

    /// Sends all that it writes to its standard output, which was asked for, and waits for its end. Until that is known
    /// to be a good one, what was read is not known to be all: `to` ends after that.
    pub(super) async fn pump(mut self, to: &Sender<Bytes>) -> Result<(), BackupError> {
        let mut stdout = self.child.stdout.take().expect("it was asked for");
        let mut buffer = bytes::BytesMut::new();
        loop {
            buffer.reserve(CHUNK);
            let read = stdout.read_buf(&mut buffer).await;
            let read = read.map_err(|error| {
                BackupError::Tool(format!("cannot read from {}: {error}", self.name))
            })?;
            if read > 0 && to.send(buffer.split().freeze()).await.is_err() {
                return Err(BackupError::Stopped);
            }
            if read == 0 {
                return self.end().await;
            }
        }
    }

    /// Waits for its end.
    async fn end(mut self) -> Result<(), BackupError> {
        let status = self.child.wait().await;
        let complaints = self.complaints.await.unwrap_or_default();
        let status = status.map_err(|error| {
            BackupError::Tool(format!("{} cannot be awaited: {error}", self.name))
        })?;
        if status.success() {
            return Ok(());
        }
        Err(BackupError::Tool(format!("{} failed ({status}): {}", self.name, complaints.trim())))
    }
}

async fn last_of(mut from: impl AsyncRead + Unpin) -> String {
    let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..n]);
        let over = kept.len().saturating_sub(COMPLAINTS_MAX);
        kept.drain(..over);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Dumps what a snapshot sees, all but the row of `meta`. When dropped, the program is killed.
pub(super) async fn dump(
    program: &Path,
    settings: &LedgerSettings,
    snapshot: &str,
    to: Sender<Bytes>,
) -> Result<(), BackupError> {
    let mut command = command(program);
    command.envs(environment(settings)?).env("PGAPPNAME", "windlass backup");
    command.args([
        "--format=custom",
        "--compress=0",
        "--no-owner",
        "--no-privileges",
        "--no-password",
    ]);
    command.args(["--lock-wait-timeout=10000", "--exclude-table-data=meta"]);
    command.arg(format!("--snapshot={snapshot}")).stdout(Stdio::piped());
    Running::start("pg_dump", &mut command)?.pump(&to).await
}

/// Restores a dump in one transaction. When dropped, the program is killed, and nothing was done.
///
/// The dump ends where `from` does, whether it was whole or not: who feeds it must say so to `whole` before.
pub(super) async fn restore(
    program: &Path,
    settings: &LedgerSettings,
    mut from: Receiver<Bytes>,
    whole: impl AsyncFnOnce() -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let environment = environment(settings)?;
    let database = environment.iter().find(|(name, _)| *name == "PGDATABASE");
    let database = database.map(|(_, value)| value.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut command = command(program);
    command.envs(environment).env("PGAPPNAME", "windlass restore");
    command.env("PGOPTIONS", "-c maintenance_work_mem=256MB -c client_min_messages=error");
    command.args([
        "--no-owner",
        "--no-privileges",
        "--no-password",
        "--single-transaction",
        "--exit-on-error",
    ]);
    command.arg(format!("--dbname=dbname='{}'", database.unwrap_or_default()));
    let mut running = Running::start("pg_restore", command.stdin(Stdio::piped()))?;
    let mut stdin = running.child.stdin.take().expect("it was asked for");
    let mut ended_early = false;
    while let Some(chunk) = from.recv().await {
        ended_early = stdin.write_all(&chunk).await.is_err();
        if ended_early {
            break;
        }
    }
    // Whoever feeds it would wait for ever for somebody to listen.
    drop(from);
    let fed = whole().await;
    if ended_early {
        // It says why; that nobody listened is only what came of it.
        running.end().await?;
        return Err(BackupError::Tool("pg_restore ended before it had read all".into()));
    }
    // It may have committed by now, since it does not read to the end of its input. Without the row of `meta` it is no
    // ledger all the same.
    if let Err(error) = fed {
        let _ = running.child.kill().await;
        return Err(error);
    }
    drop(stdin);
    running.end().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Vec<(&'static str, String)> {
        environment(&LedgerSettings::new(url)).unwrap()
    }

    #[test]
    fn an_address_becomes_variables() {
        let full = of(
            "postgres://u%40x:p%2Fw@[::1]:5433/led%20ger?sslmode=verify-full&sslrootcert=/ca.pem&application_name=x",
        );
        let expected = [
            ("PGHOST", "::1"),
            ("PGPORT", "5433"),
            ("PGUSER", "u@x"),
            ("PGPASSWORD", "p/w"),
            ("PGDATABASE", "led ger"),
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", "/ca.pem"),
        ];
        assert_eq!(full, expected.map(|(name, value)| (name, value.to_owned())));
        let socket = of("postgres://u@localhost/d?host=/run/pg");
        assert!(socket.contains(&("PGHOST", "/run/pg".to_owned())));
        assert_eq!(socket.iter().filter(|(name, _)| *name == "PGHOST").count(), 1);
    }

    #[test]
    fn another_database_of_the_same_server() {
        let settings = LedgerSettings::new("postgres://u:p@h/a?host=/run/pg&dbname=b");
        let other = with_database(&settings, "drill").unwrap();
        let found = environment(&other).unwrap();
        assert!(found.contains(&("PGDATABASE", "drill".to_owned())), "{found:?}");
        assert!(found.contains(&("PGHOST", "/run/pg".to_owned())), "{found:?}");
        assert!(found.contains(&("PGPASSWORD", "p".to_owned())), "{found:?}");
    }
}
