//! Recovery to an instant: a PostgreSQL server that archives through the binary, is lost, and is recovered by it.

use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;
use serde_json::Value as Json;
use windlass_shared::config::LedgerSettings;
use windlass_shared::engine::Ended;
use windlass_shared::ledger::{
    Accepted, JobFilter, Ledger, LedgerError, Record, Recorded, Submission, SubmitOutcome,
};
use windlass_shared::model::id::{Fence, JobId};
use windlass_shared::model::job::{NewJob, Value};
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::model::time::Timestamp;
use windlass_shared::testkit::postgres_server::PostgresServer;

use crate::binary::{Said, until, windlass};

const BINARY: &str = env!("CARGO_BIN_EXE_windlass");

struct Scene {
    server: PostgresServer,
    database: String,
    key: String,
    /// age's, where WAL and bases are encrypted.
    identity: Option<age::x25519::Identity>,
}

impl Scene {
    async fn new(encrypted: bool) -> Self {
        let server = PostgresServer::start_archiving();
        let database = server.database().await;
        let key = windlass(&["backup", "keygen"], &[]).out.trim().to_owned();
        let identity = encrypted.then(age::x25519::Identity::generate);
        server.sql("postgres", "CREATE ROLE plain LOGIN");
        let scene = Self { server, database, key, identity };
        let config =
            scene.config("config.toml", &scene.key, scene.identity.as_ref(), scene.store());
        let command = format!("{BINARY} backup wal-push --config {} %p", config.display());
        scene.set("archive_command", &command);
        scene
    }

    fn at(&self, name: &str) -> PathBuf {
        self.server.folder().join(name)
    }

    fn store(&self) -> PathBuf {
        self.at("store")
    }

    /// Settings that the server's user may read.
    fn config(
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

    fn set(&self, name: &str, value: &str) {
        let value = value.replace('\'', "''");
        self.server.sql("postgres", &format!("ALTER SYSTEM SET {name} = '{value}'"));
        self.server.sql("postgres", "SELECT pg_reload_conf()");
    }

    fn url(&self) -> String {
        self.server.url(&self.database)
    }

    async fn open(&self) -> Result<Ledger, LedgerError> {
        Ledger::open(&LedgerSettings::new(self.url())).await
    }

    /// The binary, as the server's user, in its data directory.
    fn run_with(&self, config: &str, args: &[&str]) -> Said {
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

    fn run(&self, args: &[&str]) -> Said {
        self.run_with("config.toml", args)
    }

    fn json(&self, args: &[&str]) -> Json {
        let said = self.run(&[args, &["--output", "json"]].concat());
        assert_eq!(said.code, 0, "{said:?}");
        serde_json::from_str(&said.out).expect("JSON")
    }

    fn base(&self) -> String {
        self.json(&["base"])["id"].as_str().expect("an id").to_owned()
    }

    /// Ends the present segment, with something in it; its name.
    fn switch(&self) -> String {
        let name = "SELECT pg_walfile_name(pg_create_restore_point('here'))";
        let name = self.server.sql("postgres", name);
        self.server.sql("postgres", "SELECT pg_switch_wal()");
        name
    }

    /// Ends the present segment, and waits until it is in the archive; its name.
    fn archive(&self) -> String {
        let name = self.switch();
        until("it is archived", || self.wal(&name).exists().then_some(()));
        name
    }

    fn wal(&self, name: &str) -> PathBuf {
        let wal = self.store().join("wal");
        let systems: Vec<PathBuf> =
            std::fs::read_dir(wal).into_iter().flatten().flatten().map(|e| e.path()).collect();
        assert!(systems.len() < 2, "{systems:?}");
        systems.first().map(|one| one.join(&name[..8]).join(name)).unwrap_or_default()
    }

    fn restore(&self, id: &str, into: &str, more: &[&str]) -> Said {
        let into = self.at(into).display().to_string();
        self.run(&[&["restore-base", id, "--into-dir", &into], more].concat())
    }

    /// Loses the server, and starts on what was restored.
    fn replace(&mut self, data: &str) {
        self.server.stop_immediately();
        std::fs::remove_dir_all(self.server.data()).expect("removable");
        self.server.use_data(self.at(data));
        self.server.restart();
        let recovers = "SELECT pg_is_in_recovery()";
        until("it has recovered", || (self.server.sql("postgres", recovers) == "f").then_some(()));
    }
}

async fn submit(ledger: &Ledger) -> Result<JobId, LedgerError> {
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
async fn some(ledger: &Ledger) -> Vec<JobId> {
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(submit(ledger).await.expect("it is accepted"));
    }
    ids
}

async fn jobs(ledger: &Ledger) -> Vec<JobId> {
    let page = ledger.list(&Namespace::default(), &JobFilter::default(), None, 100).await;
    let mut ids: Vec<_> = page.expect("a page").jobs.into_iter().map(|job| job.id).collect();
    ids.sort();
    ids
}

fn succeeded(id: JobId) -> Record {
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

fn said(what: &Said, code: i32, words: &str) {
    assert!(what.code == code && what.err.contains(words), "wanted {code} and {words:?}: {what:?}");
}

/// An instant between what was committed before and what will be, which can be written in milliseconds.
async fn between(ledger: &Ledger) -> Timestamp {
    let now = ledger.now().await.expect("a time");
    let time = Timestamp::from_millis(now.millis() + 1);
    while ledger.now().await.expect("a time") <= time {}
    time
}

/// The whole way: nobody takes the recovered server for the old one, before it is adopted or after.
async fn there_and_back(encrypted: bool) {
    let mut scene = Scene::new(encrypted).await;
    let old = scene.open().await.expect("it opens");
    let mut first = some(&old).await;
    let id = scene.base();
    first.extend(some(&old).await);
    let time = between(&old).await.to_string();
    let mut all = first.clone();
    all.extend(some(&old).await);
    scene.archive();
    let listed = scene.json(&["bases"]);
    let until: Timestamp = listed[0]["until"].as_str().expect("a time").parse().expect("a time");
    assert!(until >= time.parse().expect("a time") && listed[0]["gap"].is_null(), "{listed}");
    let part = scene.store().join("base").join(&id).join("part-00000");
    for file in [scene.wal(&scene.archive()), part] {
        assert_eq!(holds(&file, b"age-encryption.org"), encrypted, "{}", file.display());
    }

    for (target, more) in [("to-time", &["--to-time", &time][..]), ("latest", &["--to-latest"])] {
        let restored = scene.restore(&id, target, more);
        assert_eq!(restored.code, 0, "{restored:?}");
        said(&scene.restore(&id, target, more), 1, "not empty");
    }
    scene.replace("to-time");
    // The old ledger's id is in it: it can be read, and nobody can write.
    assert!(matches!(submit(&old).await, Err(LedgerError::Unavailable(_))));
    let refused = scene.open().await.err().expect("it is refused").to_string();
    assert!(refused.contains("windlass backup adopt"), "{refused}");
    // Nor does it archive what it writes by itself.
    let history = "00000002.history";
    let failing =
        "SELECT failed_count > 0 FROM pg_stat_archiver WHERE last_failed_wal = '00000002.history'";
    until_sql(&scene, failing);
    assert!(!scene.wal(history).exists());

    let url = scene.url();
    let adopt = ["adopt", "--ledger", &url];
    said(&scene.run(&adopt), 1, "connections of Windlass processes");
    old.close().await;
    let plain = url.replace("windlass@", "plain@");
    said(&scene.run(&["adopt", "--ledger", &plain]), 1, "superuser");
    let adopted = scene.json(&adopt);
    assert_eq!(adopted["was"], listed[0]["ledger"]);
    said(&scene.run(&adopt), 1, "adopted already");

    let new = scene.open().await.expect("it opens");
    assert_eq!(new.id().to_string(), adopted["ledger"].as_str().expect("an id"));
    assert_eq!(jobs(&new).await, first, "what was committed before the instant, and nothing after");
    let reply = new.record(vec![succeeded(first[0])]).await.expect("it answers");
    assert_eq!(
        reply.replies,
        [Recorded::Stale],
        "a lease of before is older than what is on record"
    );
    some(&new).await;
    std::fs::remove_file(scene.at("to-time").join("windlass.not-adopted")).expect("it is there");
    scene.archive();
    assert!(scene.wal(history).exists());
    new.close().await;

    // Now there are two branches after the base: which one is meant must be said.
    said(&scene.restore(&id, "which", &["--to-latest"]), 1, "--timeline");
    assert!(!scene.at("which").exists());
    scene.replace("latest");
    scene.json(&adopt);
    let latest = scene.open().await.expect("it opens");
    assert_eq!(jobs(&latest).await, all);
    latest.close().await;
}

fn until_sql(scene: &Scene, sql: &str) {
    until(sql, || (scene.server.sql("postgres", sql) == "t").then_some(()));
}

fn holds(file: &Path, bytes: &[u8]) -> bool {
    let text = std::fs::read(file).expect("a file");
    text.windows(bytes.len()).any(|window| window == bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_server_is_recovered_to_an_instant_and_to_the_end() {
    there_and_back(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_is_one_whose_archive_is_encrypted() {
    there_and_back(true).await;
}

/// A process that was left running on the old server, and what its workers report later.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_outlives_the_recovery_is_told() {
    let mut scene = Scene::new(false).await;
    let old = scene.open().await.expect("it opens");
    let ids = some(&old).await;
    let id = scene.base();
    assert_eq!(scene.restore(&id, "new", &["--to-latest"]).code, 0);
    scene.replace("new");
    // Its connections are gone with the server; it makes new ones when it needs them.
    scene.json(&["adopt", "--ledger", &scene.url()]);
    assert!(old.was_replaced().await);
    old.record(vec![succeeded(ids[0])]).await.expect_err("it is another ledger");
    let new = scene.open().await.expect("it opens");
    let page = new.list(&Namespace::default(), &JobFilter::default(), None, 100).await;
    assert!(page.expect("a page").jobs.iter().all(|job| !job.state.is_terminal()));
    submit(&old).await.expect_err("it is another ledger");
    assert_eq!(jobs(&new).await, ids);
}

fn flip(file: &Path) {
    let mut bytes = std::fs::read(file).expect("a file");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(file, bytes).expect("writable");
}

/// Whatever is wrong is found before anything is written, and never taken for the end of the archive.
#[tokio::test(flavor = "multi_thread")]
async fn damage_and_gaps_are_no_end_of_the_archive() {
    let mut scene = Scene::new(true).await;
    let ledger = scene.open().await.expect("it opens");
    let id = scene.base();
    some(&ledger).await;
    let middle = scene.archive();
    let ids = some(&ledger).await;
    let last = scene.archive();
    ledger.close().await;
    let restore = |scene: &Scene, code: i32, words: &str| {
        said(&scene.restore(&id, "new", &["--to-latest"]), code, words);
        assert!(!scene.at("new").exists(), "something was written: {words}");
    };

    let part = scene.store().join("base").join(&id).join("part-00000");
    flip(&part);
    restore(&scene, 1, "part 0 is damaged");
    flip(&part);
    let needed = scene.json(&["bases"])[0]["start"].as_str().expect("a position").to_owned();
    let needed = scene.server.sql("postgres", &format!("SELECT pg_walfile_name('{needed}')"));
    flip(&scene.wal(&needed));
    restore(&scene, 1, "is damaged: its checksum differs");
    flip(&scene.wal(&needed));
    let aside = scene.at("aside");
    std::fs::rename(scene.wal(&middle), &aside).expect("movable");
    assert_eq!(scene.json(&["bases"])[0]["gap"], middle.as_str());
    restore(&scene, 1, "is missing in the archive, although later");
    std::fs::rename(&aside, scene.wal(&middle)).expect("movable");
    let late = ["--to-time", "2999-01-01T00:00:00Z"];
    said(&scene.restore(&id, "new", &late), 1, "is later");
    let early = ["--to-time", "1999-01-01T00:00:00Z"];
    said(&scene.restore(&id, "new", &early), 1, "take an earlier one");
    said(&scene.restore(&id, "new", &["--to-latest", "--timeline", "7"]), 1, "timeline 7");

    let other = windlass(&["backup", "keygen"], &[]).out.trim().to_owned();
    scene.config("key.toml", &other, scene.identity.as_ref(), scene.store());
    let stranger = age::x25519::Identity::generate();
    scene.config("identity.toml", &scene.key, Some(&stranger), scene.store());
    // A folder that is not mounted.
    scene.config("empty.toml", &scene.key, scene.identity.as_ref(), scene.at("empty"));
    std::fs::write(scene.at("file"), "x").expect("writable");
    scene.config("away.toml", &scene.key, scene.identity.as_ref(), scene.at("file/store"));
    let to = scene.at("fetched").display().to_string();
    let fetch =
        |scene: &Scene, config: &str, name: &str| scene.run_with(config, &["wal-fetch", name, &to]);
    for (config, words) in [
        ("key.toml", "another key"),
        ("identity.toml", "somebody else"),
        ("away.toml", "folder of backups"),
        ("none.toml", "none.toml"),
        ("empty.toml", "holds nothing of this server"),
    ] {
        said(&fetch(&scene, config, &last), 200, words);
    }
    said(
        &scene.run_with("key.toml", &["restore-base", &id, "--into-dir", &to, "--to-latest"]),
        1,
        "another key",
    );
    said(
        &scene.run_with("identity.toml", &["restore-base", &id, "--into-dir", &to, "--to-latest"]),
        1,
        "somebody else",
    );
    said(&scene.run(&["wal-fetch", &last]), 200, "required");
    said(&fetch(&scene, "config.toml", "000000010000000000000000F"), 200, "no file of WAL");
    said(&fetch(&scene, "config.toml", "0000000100000000000000FF"), 1, "not in the archive");
    said(&fetch(&scene, "config.toml", "00000009.history"), 1, "not in the archive");
    assert!(!Path::new(&to).exists());
    assert_eq!(fetch(&scene, "config.toml", &last).code, 0);
    assert_eq!(std::fs::metadata(&to).expect("it is there").len(), 1 << 20);

    // What happens to the archive after the restore, the server finds: it stops instead of coming up with less.
    assert_eq!(scene.restore(&id, "new", &["--to-latest"]).code, 0);
    scene.server.stop_immediately();
    scene.server.use_data(scene.at("new"));
    flip(&scene.wal(&middle));
    assert!(!recovered(&mut scene), "it came up in spite of damage");
    assert!(scene.server.log().contains("is damaged"), "{}", scene.server.log());
    flip(&scene.wal(&middle));
    std::fs::rename(scene.wal(&middle), &aside).expect("movable");
    assert!(!recovered(&mut scene), "it came up in spite of a gap");
    std::fs::rename(&aside, scene.wal(&middle)).expect("movable");
    assert!(recovered(&mut scene), "{}", scene.server.log());
    scene.json(&["adopt", "--ledger", &scene.url()]);
    let ledger = scene.open().await.expect("it opens");
    assert!(ids.iter().all(|id| futures::executor::block_on(jobs(&ledger)).contains(id)));
}

/// Starts; whether it comes out of its recovery. It may answer for a moment before it stops.
fn recovered(scene: &mut Scene) -> bool {
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

#[tokio::test(flavor = "multi_thread")]
async fn the_same_may_be_archived_again_and_nothing_else_under_its_name() {
    let scene = Scene::new(false).await;
    let id = scene.base();
    let name = scene.archive();
    // As after a crash between the store's answer and PostgreSQL's note of it.
    let there = std::fs::read(scene.wal(&name)).expect("a file");
    let to = scene.at("copy").join("pg_wal");
    std::fs::create_dir_all(&to).expect("a folder");
    std::fs::create_dir_all(scene.at("copy/global")).expect("a folder");
    let control = scene.at("copy/global/pg_control");
    std::fs::copy(scene.server.data().join("global/pg_control"), &control).expect("copied");
    std::process::Command::new("chmod")
        .args(["-R", "a+rwX"])
        .arg(scene.at("copy"))
        .status()
        .expect("chmod");
    let file = to.join(&name).display().to_string();
    assert_eq!(scene.run(&["wal-fetch", &name, &file]).code, 0);
    let push = ["wal-push", &file];
    assert_eq!(scene.run(&push).code, 0, "{:?}", scene.run(&push));
    assert_eq!(std::fs::read(scene.wal(&name)).expect("a file"), there);
    // One that the store has damaged is put anew.
    flip(&scene.wal(&name));
    assert_eq!(scene.run(&push).code, 0);
    assert_eq!(scene.run(&["wal-fetch", &name, &file]).code, 0);

    flip(Path::new(&file));
    said(&scene.run(&push), 1, "with other content");
    let stored = scene.wal(&name);
    assert_eq!(scene.run(&["wal-fetch", &name, &file]).code, 0, "{}", stored.display());
    // Histories and labels come the same way; anything else does not.
    let history = to.join("00000002.history");
    std::fs::write(&history, "1\t0/5000000\tno reason\n").expect("writable");
    let history = history.display().to_string();
    assert_eq!(scene.run(&["wal-push", &history]).code, 0);
    std::fs::write(&history, "1\t0/6000000\tno reason\n").expect("writable");
    said(&scene.run(&["wal-push", &history]), 1, "with other content");
    let partial = to.join(format!("{name}.partial")).display().to_string();
    std::fs::copy(&file, &partial).expect("copied");
    assert_eq!(scene.run(&["wal-push", &partial]).code, 0);
    said(&scene.run(&["wal-push", &control.display().to_string()]), 2, "not named like");
    let renamed = to.join("0000000100000000000000FE").display().to_string();
    std::fs::copy(&file, &renamed).expect("copied");
    said(&scene.run(&["wal-push", &renamed]), 1, "another one");

    // One base is kept (`keep`), with what it needs; WAL from before goes with the other.
    let newer = scene.base();
    let left: Vec<Json> = scene.json(&["bases"]).as_array().expect("a list").clone();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0]["id"] == newer.as_str() && newer != id);
    assert!(!scene.wal(&name).exists() && left[0]["until"].is_string(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_allow_it_is_told_what_to_set() {
    let scene = Scene::new(false).await;
    // Its archive leads elsewhere.
    scene.set("archive_command", "true");
    said(&scene.run(&["base"]), 1, "is not in this store");
    scene.set("archive_command", "false");
    scene.switch();
    until_sql(&scene, "SELECT failed_count > 0 FROM pg_stat_archiver");
    said(&scene.run(&["base"]), 1, "archive_command failed");
    scene.set("archive_command", "");
    scene.server.sql(&scene.database, "GRANT SELECT ON meta TO plain");
    let plain = scene.url().replace("windlass@", "plain@");
    let refused = scene.run(&["base", "--from", &plain]);
    said(&refused, 1, "ALTER ROLE \"plain\" REPLICATION");
    said(&refused, 1, "set archive_command");
    assert_eq!(scene.json(&["bases"]), serde_json::json!([]));
    let sqlite = format!("sqlite://{}", scene.at("x.db").display());
    said(&scene.run(&["base", "--from", &sqlite]), 1, "not on PostgreSQL");
    said(&scene.run(&["adopt", "--ledger", &sqlite]), 1, "not on PostgreSQL");
}
