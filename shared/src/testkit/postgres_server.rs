//! Private PostgreSQL servers: in a temporary folder, on a Unix socket there, unknown to anybody else.
//!
//! A server dies with its handle, also when a test panics, and with the process that started it, also when
//! that is killed; what the latter leaves in the temporary folder is swept by the next start. Needs
//! `initdb`, `postgres`, `psql` and `createdb` on the path or under `/usr/lib/postgresql`, and `setpriv`.
//! PostgreSQL refuses to run as root: started by root it runs as `nobody`.
//!
//! Everything here blocks for some milliseconds and panics on failure: for tests only.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use crate::config::LedgerSettings;
use crate::ledger::Ledger;

pub mod link;

/// Longest wait for a server to be ready or gone.
const READY_MAX: Duration = Duration::from_secs(30);
/// The user that servers run as when root starts them, by number.
const NOBODY: u32 = 65_534;
const PROGRAMS: [&str; 5] = ["initdb", "postgres", "pg_isready", "psql", "createdb"];
const FOLDER_PREFIX: &str = "windlass-postgres-";
/// Migrated once, copied for each database.
const TEMPLATE: &str = "windlass_template";

/// One private server.
pub struct PostgresServer {
    folder: PathBuf,
    data: PathBuf,
    programs: PathBuf,
    settings: Vec<String>,
    process: Option<Process>,
    databases: AtomicU32,
    template: tokio::sync::OnceCell<()>,
}

/// A running postmaster. The kernel ties a child to the thread that made it, so that thread waits until
/// it is let go.
struct Process {
    child: Child,
    _keeper: Sender<()>,
}

impl PostgresServer {
    /// A server with `fsync` on and otherwise small.
    ///
    /// # Panics
    /// When PostgreSQL is missing, or does not answer in time.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server with further settings (`name=value`).
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_with(settings: &[&str]) -> Self {
        Self::start_as(settings, &[])
    }

    /// A server that archives WAL in segments of 1 MiB, once `archive_command` is set.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_archiving() -> Self {
        Self::start_as(&["archive_mode=on"], &["--wal-segsize=1"])
    }

    fn start_as(settings: &[&str], initdb: &[&str]) -> Self {
        sweep();
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let n = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("{FOLDER_PREFIX}{}-{n}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).expect("a temporary folder can be made");
        if is_root() {
            std::os::unix::fs::chown(&folder, Some(NOBODY), Some(NOBODY))
                .expect("root may give a folder away");
        }
        let mut server = Self {
            data: folder.join("data"),
            folder,
            programs: programs(),
            settings: settings.iter().map(|s| (*s).to_owned()).collect(),
            process: None,
            databases: AtomicU32::new(0),
            template: tokio::sync::OnceCell::new(),
        };
        let options = ["-U", "windlass", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"];
        run(server.program("initdb").arg("-D").arg(&server.data).args(options).args(initdb));
        server.restart();
        server
    }

    /// Where `database` is, over the server's socket.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://windlass@localhost/{database}?host={}", self.folder.display())
    }

    /// The folder of its socket.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A fresh database without a schema; its name.
    pub fn empty_database(&self) -> String {
        self.make_database("template0")
    }

    /// A fresh database with the ledger's schema, and an id of its own; its name.
    pub async fn database(&self) -> String {
        let make = || async {
            run(self.program("createdb").args(self.address()).arg(TEMPLATE));
            let settings = LedgerSettings::new(self.url(TEMPLATE));
            Ledger::migrate(&settings).await.expect("the schema can be applied");
            // It is nobody's ledger.
            self.sql("postgres", &format!("ALTER DATABASE {TEMPLATE} IS_TEMPLATE true"));
        };
        self.template.get_or_init(make).await;
        let name = self.make_database(TEMPLATE);
        self.sql(&name, "UPDATE meta SET ledger_id = gen_random_uuid()");
        name
    }

    /// A ledger in a fresh database of its own.
    pub async fn ledger(&self) -> Ledger {
        let settings = LedgerSettings::new(self.url(&self.database().await));
        Ledger::open(&settings).await.expect("the ledger opens")
    }

    fn make_database(&self, template: &str) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        run(self.program("createdb").args(self.address()).args(["-T", template, &name]));
        name
    }

    /// Runs SQL as the owner and returns its rows, fields separated by `|`.
    ///
    /// # Panics
    /// When the server does not take it.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let mut psql = self.program("psql");
        psql.args(self.address()).args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, database]);
        run(&mut psql).trim_end().to_owned()
    }

    /// Puts the database `other` into the place of `live`, whoever uses that one: as somebody does who restores under the
    /// same name. `live` is called `gone` from then on, and takes no connection.
    ///
    /// # Panics
    /// When its connections do not end.
    pub fn replace(&self, live: &str, other: &str) {
        self.sql("postgres", &format!("ALTER DATABASE {live} ALLOW_CONNECTIONS false"));
        let end = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{live}'"
        );
        let rename = format!("ALTER DATABASE {live} RENAME TO gone");
        let started = Instant::now();
        loop {
            self.sql("postgres", &end);
            let mut psql = self.program("psql");
            psql.args(self.address()).args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", &rename]);
            // A connection that was told to go needs a moment.
            if psql.arg("postgres").output().expect("psql runs").status.success() {
                break;
            }
            assert!(started.elapsed() < READY_MAX, "its connections do not end");
        }
        self.sql("postgres", &format!("ALTER DATABASE {other} RENAME TO {live}"));
    }

    /// Kills the postmaster without warning. Its children notice and end.
    pub fn kill_9(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Both fail only when the process is gone already, which is what is wanted.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }

    /// Ends the server as a crash does: no checkpoint, nothing flushed that was not flushed before.
    pub fn stop_immediately(&mut self) {
        if let Some(mut process) = self.process.take() {
            let mut stop = self.program("pg_ctl");
            run(stop.arg("-D").arg(&self.data).args(["-m", "immediate", "-w", "stop"]));
            process.child.wait().expect("a child that was asked to end can be awaited");
        }
    }

    /// Starts it (again) on its data, and waits until it answers.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn restart(&mut self) {
        self.kill_9();
        let started = Instant::now();
        while !self.try_start() {
            // Children of a killed postmaster may still hold the data for a moment.
            assert!(started.elapsed() < READY_MAX, "PostgreSQL does not start:\n{}", self.log());
        }
    }

    /// Whether it is not running any more, for whatever reason.
    pub fn has_ended(&mut self) -> bool {
        let process = self.process.as_mut();
        process.is_none_or(|process| matches!(process.child.try_wait(), Ok(Some(_)) | Err(_)))
    }

    /// As [`Self::sql`]; `None`: the server did not take it, or is not there.
    pub fn try_sql(&self, database: &str, sql: &str) -> Option<String> {
        let mut psql = self.program("psql");
        psql.args(self.address()).args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, database]);
        let output = psql.stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        output.status.success().then_some(text)
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Lets the next start be on another data directory, which its user must own.
    pub fn use_data(&mut self, data: PathBuf) {
        self.data = data;
    }

    /// Another program, as the server's user.
    pub fn as_its_user(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        self.as_user(&mut command);
        command.arg(program).current_dir("/");
        command
    }

    /// One try; `false` when the process ended instead of answering.
    pub fn try_start(&mut self) -> bool {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .expect("the temporary folder is writable");
        let mut command = self.program("postgres");
        command.arg("-D").arg(&self.data);
        command.arg("-c").arg(format!("unix_socket_directories={}", self.folder.display()));
        for setting in ["listen_addresses=", "max_connections=60", "shared_buffers=64MB"] {
            command.args(["-c", setting]);
        }
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file handle can be cloned"));
        command.stderr(log);
        let mut process = spawn_kept(command);
        let started = Instant::now();
        loop {
            if matches!(process.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return false;
            }
            let mut ready = self.program("pg_isready");
            let ready = ready.args(self.address()).stdout(Stdio::null()).status();
            if ready.is_ok_and(|status| status.success()) {
                self.process = Some(process);
                return true;
            }
            assert!(started.elapsed() < READY_MAX, "no answer from PostgreSQL:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn address(&self) -> [String; 4] {
        let folder = self.folder.display().to_string();
        ["-h".into(), folder, "-U".into(), "windlass".into()]
    }

    /// A program of the installation, as the server's user, that ends with this process.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "QUIT"]);
        self.as_user(&mut command);
        command.arg(self.programs.join(name)).current_dir("/");
        command
    }

    /// Arguments of `setpriv`.
    fn as_user(&self, command: &mut Command) {
        if is_root() {
            let ids = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
            command.args(ids).arg("--clear-groups");
        }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // Asked first: a postmaster that is killed leaves its shared memory behind.
        if self.process.is_some() {
            let mut stop = self.program("pg_ctl");
            stop.arg("-D").arg(&self.data).args(["-m", "immediate", "-w", "-t", "5", "stop"]);
            let _ = stop.stdin(Stdio::null()).output();
        }
        self.kill_9();
        // Children of the postmaster may write for a moment more; what is left the next start sweeps.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Spawns from a thread that lives until the handle is dropped or the process ends.
fn spawn_kept(mut command: Command) -> Process {
    let (keeper, let_go) = channel::<()>();
    let (sender, child) = channel();
    std::thread::spawn(move || {
        let sent = sender.send(command.spawn());
        if sent.is_ok() {
            // Returns when the other end is dropped.
            let _ = let_go.recv();
        }
    });
    let child = child.recv().expect("the spawning thread answers");
    Process { child: child.expect("PostgreSQL can be started"), _keeper: keeper }
}

/// Runs a program to its end; its output.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Where the newest installation's programs are.
fn programs() -> PathBuf {
    // A folder may hold links to some of them only.
    let whole = |dir: &PathBuf| PROGRAMS.iter().all(|program| dir.join(program).exists());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).find(whole);
    if let Some(found) = on_path {
        return found;
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |dir: &PathBuf| dir.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.map(|v| v.path()).filter(|p| whole(&p.join("bin")));
    newest.max_by_key(number).expect("PostgreSQL is installed").join("bin")
}

/// Removes what processes that are gone have left.
fn sweep() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|n| n.strip_prefix(FOLDER_PREFIX)) else {
            continue;
        };
        let pid = rest.split('-').next().and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Another process may sweep the same one.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
