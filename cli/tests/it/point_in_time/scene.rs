//! A PostgreSQL server that archives through the binary, and what is done to it.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::Value as Json;
use windlass_shared::config::LedgerSettings;
use windlass_shared::engine::Ended;
use windlass_shared::ledger::{
    Accepted, JobFilter, Ledger, LedgerError, Record, Submission, SubmitOutcome,
};
use windlass_shared::model::id::{Fence, JobId};
use windlass_shared::model::job::{NewJob, Value};
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::time::Timestamp;
use windlass_shared::testkit::postgres_server::PostgresServer;

use crate::binary::{Said, until, windlass};

const BINARY: &str = env!("CARGO_BIN_EXE_windlass");

pub(super) struct Scene {
    pub(super) server: PostgresServer,
    pub(super) database: String,
    pub(super) key: String,
    /// age's, where WAL and bases are encrypted.
    pub(super) identity: Option<age::x25519::Identity>,
}

impl Scene {
    pub(super) async fn new(encrypted: bool) -> Self {
        let server = PostgresServer::start_archiving();
        let database = server.database().await;
        let key = windlass(&["backup", "keygen"], &[]).out.trim().to_owned();
        let identity = encrypted.then(age::x25519::Identity::generate);
        server.sql("postgres", "CREATE ROLE plain LOGIN");
        let scene = Self { server, database, key, identity };
        // Nothing makes the archive's folder by itself.
        scene.make_folder("store/wal");
        let config =
            scene.config("config.toml", &scene.key, scene.identity.as_ref(), scene.store());
        let command = format!("{BINARY} backup wal-push --config {} %p", config.display());
        scene.set("archive_command", &command);
        scene
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.server.folder().join(name)
    }

    /// For the server's user.
    pub(super) fn make_folder(&self, name: &str) {
        let mut make = self.server.as_its_user(Path::new("mkdir"));
        assert!(make.arg("-p").arg(self.at(name)).status().expect("mkdir").success());
    }

    pub(super) fn store(&self) -> PathBuf {
        self.at("store")
    }

    /// Settings that the server's user may read.
    pub(super) fn config(
        &self,
        name: &str,
        key: &str,
        identity: Option<&age::x25519::Identity>,
        store: PathBuf,
    ) -> PathBuf {
        let mut text = format!("[backup]\nstore = {store:?}\nkey = {key:?}\nkeep = 1\n");
        if let Some(ours) = &self.identity {
            text.push_str(&format!("recipients = {:?}\n", [ours.to_public().to_string()]));
        }
        if let Some(identity) = identity {
            let file = self.at(&format!("{name}.identity"));
            std::fs::write(&file, identity.to_string().expose_secret()).expect("writable");
            text.push_str(&format!("identity_file = {file:?}\n"));
        }
        let file = self.at(name);
        std::fs::write(&file, text).expect("writable");
        file
    }

    pub(super) fn set(&self, name: &str, value: &str) {
        let value = value.replace('\'', "''");
        self.server.sql("postgres", &format!("ALTER SYSTEM SET {name} = '{value}'"));
        self.server.sql("postgres", "SELECT pg_reload_conf()");
    }

    pub(super) fn url(&self) -> String {
        self.server.url(&self.database)
    }

    pub(super) async fn open(&self) -> Result<Ledger, LedgerError> {
        Ledger::open(&LedgerSettings::new(self.url())).await
    }

    /// The binary, as the server's user, in its data directory.
    pub(super) fn run_with(&self, config: &str, args: &[&str]) -> Said {
        let mut command = self.server.as_its_user(Path::new(BINARY));
        command.arg("backup").args(args).env_clear().env("PATH", "/usr/bin:/bin");
        command.env("WINDLASS_CONFIG", self.at(config)).env("WINDLASS_LEDGER__URL", self.url());
        command.current_dir(self.server.data());
        let output = command.output().expect("it runs");
        Said {
            code: output.status.code().expect("it was not killed"),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }

    pub(super) fn run(&self, args: &[&str]) -> Said {
        self.run_with("config.toml", args)
    }

    /// The binary, which gets no thread but its first; how it ended.
    pub(super) fn starved(&self, args: &[&str]) -> ExitStatus {
        let mut command = self.server.as_its_user(Path::new("prlimit"));
        command.args(["--nproc=1", BINARY, "backup"]).args(args);
        command.env("WINDLASS_CONFIG", self.at("config.toml")).current_dir(self.server.data());
        command.output().expect("it runs").status
    }

    pub(super) fn json(&self, args: &[&str]) -> Json {
        let said = self.run(&[args, &["--output", "json"]].concat());
        assert_eq!(said.code, 0, "{said:?}");
        serde_json::from_str(&said.out).expect("JSON")
    }

    pub(super) fn base(&self) -> String {
        self.json(&["base"])["id"].as_str().expect("an id").to_owned()
    }

    /// Ends the present segment, with something in it; its name.
    pub(super) fn switch(&self) -> String {
        let name = "SELECT pg_walfile_name(pg_create_restore_point('here'))";
        let name = self.server.sql("postgres", name);
        self.server.sql("postgres", "SELECT pg_switch_wal()");
        name
    }

    /// Ends the present segment, and waits until it is in the archive; its name.
    pub(super) fn archive(&self) -> String {
        let name = self.switch();
        until("it is archived", || self.wal(&name).exists().then_some(()));
        name
    }

    /// Archives until what was committed by `time` is promised.
    pub(super) fn archive_past(&self, time: &str) {
        let time: Timestamp = time.parse().expect("a time");
        until("it can be recovered", || {
            self.archive();
            let listed = self.json(&["bases"]);
            let until: Timestamp = listed[0]["until"].as_str()?.parse().expect("a time");
            (until >= time.plus(Duration::from_secs(1))).then_some(())
        });
    }

    pub(super) fn wal(&self, name: &str) -> PathBuf {
        let wal = self.store().join("wal");
        let systems: Vec<PathBuf> =
            std::fs::read_dir(wal).into_iter().flatten().flatten().map(|e| e.path()).collect();
        assert!(systems.len() < 2, "{systems:?}");
        systems.first().map(|one| one.join(&name[..8]).join(name)).unwrap_or_default()
    }

    pub(super) fn restore(&self, id: &str, into: &str, more: &[&str]) -> Said {
        let into = self.at(into).display().to_string();
        self.run(&[&["restore-base", id, "--into-dir", &into], more].concat())
    }

    /// Loses the server, and starts on what was restored.
    pub(super) fn replace(&mut self, data: &str) {
        self.server.stop_immediately();
        std::fs::remove_dir_all(self.server.data()).expect("removable");
        self.server.use_data(self.at(data));
        self.server.restart();
        let recovers = "SELECT pg_is_in_recovery()";
        until("it has recovered", || (self.server.sql("postgres", recovers) == "f").then_some(()));
    }
}

pub(super) async fn submit(ledger: &Ledger) -> Result<JobId, LedgerError> {
    let payload = Value::Inline("{}".into());
    let kind = "plain".parse().expect("a kind");
    let job = NewJob::new(Namespace::default(), QueueName::default(), kind, payload);
    let submission = Submission { jobs: vec![job], atomic: false, idempotency: None };
    match ledger.submit(submission).await? {
        SubmitOutcome::Done(results) => match results.into_iter().next() {
            Some(Ok(Accepted::New(job))) => Ok(job.id),
            other => panic!("not accepted: {other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// Submits some jobs, in order.
pub(super) async fn some(ledger: &Ledger) -> Vec<JobId> {
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(submit(ledger).await.expect("it is accepted"));
    }
    ids
}

pub(super) async fn jobs(ledger: &Ledger) -> Vec<JobId> {
    let page = ledger.list(&Namespace::default(), &JobFilter::default(), None, 100).await;
    let mut ids: Vec<_> = page.expect("a page").jobs.into_iter().map(|job| job.id).collect();
    ids.sort();
    ids
}

pub(super) fn succeeded(id: JobId) -> Record {
    Record {
        namespace: Namespace::default(),
        id,
        fence: Fence(5),
        ended: Ended::Succeeded,
        at: Timestamp::from_millis(1),
        claimed_at: None,
        attempt: 1,
        crashes: 0,
        worker: None,
        output: None,
        error: None,
        timed_out: false,
        usage: None,
    }
}

pub(super) fn said(what: &Said, code: i32, words: &str) {
    assert!(what.code == code && what.err.contains(words), "wanted {code} and {words:?}: {what:?}");
}

/// Of what is archived, only what was committed so long before its end is promised.
const MARGIN: Duration = Duration::from_millis(1100);

/// Lets so much time pass on the ledger's clock that what was committed by `time` is promised once this is archived.
pub(super) async fn pass(ledger: &Ledger, time: Timestamp) {
    while ledger.now().await.expect("a time") < time.plus(MARGIN) {}
}

/// An instant between what was committed before and what will be, which can be written in milliseconds.
pub(super) async fn between(ledger: &Ledger) -> Timestamp {
    let now = ledger.now().await.expect("a time");
    let time = Timestamp::from_millis(now.millis() + 1);
    while ledger.now().await.expect("a time") <= time {}
    time
}

pub(super) fn until_sql(scene: &Scene, sql: &str) {
    until(sql, || (scene.server.sql("postgres", sql) == "t").then_some(()));
}

pub(super) fn holds(file: &Path, bytes: &[u8]) -> bool {
    let text = std::fs::read(file).expect("a file");
    text.windows(bytes.len()).any(|window| window == bytes)
}

pub(super) fn flip(file: &Path) {
    let mut bytes = std::fs::read(file).expect("a file");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(file, bytes).expect("writable");
}

/// Starts; whether it comes out of its recovery. It may answer for a moment before it stops.
pub(super) fn recovered(scene: &mut Scene) -> bool {
    if !scene.server.try_start() {
        return false;
    }
    until("it has recovered or stopped", || {
        if scene.server.has_ended() {
            return Some(false);
        }
        let recovers = scene.server.try_sql("postgres", "SELECT pg_is_in_recovery()");
        (recovers.as_deref() == Some("f")).then_some(true)
    })
}
