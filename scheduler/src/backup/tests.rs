//! Backups on both databases: round trips, everything that can be wrong with one, and drills.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use windlass_shared::config::{BackupSettings, LedgerSettings};
use windlass_shared::ledger::backup as ledger;
use windlass_shared::ledger::{
    Accepted, JobFilter, Ledger, LedgerError, Record, Submission, SubmitOutcome,
};
use windlass_shared::model::id::{JobId, WorkerId};
use windlass_shared::model::job::{JobState, NewJob, Value};
use windlass_shared::model::name::{Namespace, QueueName};
use windlass_shared::testkit::postgres_server::PostgresServer;

use super::create::create;
use super::drill::{Report, drill};
use super::keys::{Signer, new_key};
use super::manifest::{FORMAT, Manifest};
use super::restore::{Restored, restore};
use super::{BackupError, fetch, silent};
use secrecy::ExposeSecret;
use windlass_shared::engine::Ended;
use windlass_shared::model::id::Fence;

mod claims;
mod damage;
mod drills;
mod life;
mod million;
mod retention;

/// One server for the tests of this process; each has databases of its own. Nothing writes by itself.
fn server() -> &'static PostgresServer {
    static SERVER: OnceLock<PostgresServer> = OnceLock::new();
    SERVER.get_or_init(|| PostgresServer::start_with(&["autovacuum=off"]))
}

#[derive(Clone, Copy, PartialEq)]
enum Sort {
    Sqlite,
    Postgres,
}

/// A ledger with a few jobs, and a folder for backups.
struct Scene {
    sort: Sort,
    folder: tempfile::TempDir,
    live: LedgerSettings,
    settings: BackupSettings,
}

impl Scene {
    async fn new(sort: Sort) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let live = match sort {
            Sort::Sqlite => {
                let live =
                    LedgerSettings::new(format!("sqlite://{}/live.db", folder.path().display()));
                Ledger::migrate(&live).await.unwrap();
                live
            }
            Sort::Postgres => LedgerSettings::new(server().url(&server().database().await)),
        };
        let key = new_key();
        let mut settings = BackupSettings::new(
            folder.path().join("store").display().to_string(),
            key.expose_secret(),
        );
        // Small, so that there are several.
        settings.part_bytes = 2_000;
        let scene = Self { sort, folder, live, settings };
        scene.fill().await;
        scene
    }

    /// Jobs with payloads that do not compress; one of them has succeeded.
    async fn fill(&self) {
        let ledger = Ledger::open(&self.live).await.unwrap();
        for n in 0..20 {
            submit(&ledger, n).await;
        }
        let done = submit(&ledger, 99).await;
        ledger.record(vec![succeeded(done, Fence(5))]).await.unwrap();
        ledger
            .lead(WorkerId::generate(), "old", std::time::Duration::from_millis(1))
            .await
            .unwrap();
        ledger.close().await;
    }

    async fn create(&self) -> Manifest {
        create(&self.settings, &self.live, &silent, &CancellationToken::new()).await.unwrap()
    }

    /// Gives every job of PostgreSQL a larger payload: this expression for a text.
    async fn enlarge(&self, text: &str) {
        let ledger = Ledger::open(&self.live).await.unwrap();
        let sql = format!("UPDATE jobs SET payload = convert_to('\"' || {text} || '\"', 'UTF8')");
        ledger.tamper(sql).await.unwrap();
        ledger.close().await;
    }

    /// An empty target.
    fn target(&self) -> LedgerSettings {
        match self.sort {
            Sort::Sqlite => {
                let path = self.folder.path().join(format!("{}.db", uuid::Uuid::new_v4()));
                LedgerSettings::new(format!("sqlite://{}", path.display()))
            }
            Sort::Postgres => LedgerSettings::new(server().url(&server().empty_database())),
        }
    }

    async fn restore(&self, id: &str, into: &LedgerSettings) -> Result<Restored, BackupError> {
        restore(&self.settings, Some(&self.live), into, id, &silent).await
    }

    async fn drill(&self, id: &str) -> Report {
        let stop = CancellationToken::new();
        drill(&self.settings, &self.live, id, &silent, &stop).await.unwrap()
    }

    /// Databases of drills; the server is this test's own.
    async fn left_databases(&self) -> Vec<String> {
        match self.sort {
            Sort::Sqlite => Vec::new(),
            Sort::Postgres => ledger::databases(&self.live, "windlass_drill_").await.unwrap(),
        }
    }

    /// Signs a changed manifest as its owner would.
    fn resign(&self, manifest: &Manifest, change: impl FnOnce(&mut Manifest)) {
        let mut changed = manifest.clone();
        change(&mut changed);
        let signer = Signer::of(&self.settings).unwrap();
        std::fs::write(self.file(&manifest.id, "manifest"), changed.encode(&signer)).unwrap();
    }

    /// Ids of the complete ones, newest first.
    async fn listed(&self) -> Vec<String> {
        let listed = fetch::list(&self.settings).await.unwrap();
        listed.into_iter().map(|one| one.entry.id).collect()
    }

    fn file(&self, id: &str, name: &str) -> PathBuf {
        Path::new(&self.settings.store).join(id).join(name)
    }
}

async fn submit(ledger: &Ledger, n: u32) -> JobId {
    let noise: String =
        (0..200u32).map(|i| char::from(b'a' + (i.wrapping_mul(7919 + n) % 23) as u8)).collect();
    let payload =
        Bytes::from(format!("{{\"n\":{n},\"noise\":\"{noise}{}\"}}", uuid::Uuid::new_v4()));
    let job = NewJob::new(
        Namespace::default(),
        QueueName::default(),
        "plain".parse().unwrap(),
        Value::Inline(payload),
    );
    let submission = Submission { jobs: vec![job], atomic: false, idempotency: None };
    match ledger.submit(submission).await.unwrap() {
        SubmitOutcome::Done(results) => match results.into_iter().next() {
            Some(Ok(Accepted::New(job))) => job.id,
            other => panic!("not accepted: {other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn succeeded(id: JobId, fence: Fence) -> Record {
    let at = super::store::now();
    Record {
        namespace: Namespace::default(),
        id,
        fence,
        ended: Ended::Succeeded,
        at,
        claimed_at: Some(at),
        attempt: 1,
        crashes: 0,
        worker: None,
        output: None,
        error: None,
        timed_out: false,
        usage: None,
    }
}

async fn jobs(ledger: &Ledger) -> Vec<(JobId, JobState, Option<Value>)> {
    let page = ledger.list(&Namespace::default(), &JobFilter::default(), None, 100).await.unwrap();
    page.jobs.into_iter().map(|job| (job.id, job.state, Some(job.payload))).collect()
}
