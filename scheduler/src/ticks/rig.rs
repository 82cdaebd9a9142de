//! A ledger on SQLite and an engine on a private Redis, whose queues can be damaged one by one.

use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_shared::clock::Clock;
use windlass_shared::config::{EngineSettings, LedgerSettings};
use windlass_shared::engine::{ClaimRequest, Engine, Push, Pushed, ShardId, Validity};
use windlass_shared::ledger::{Accepted, Ledger, QueueSettings, Submission, SubmitOutcome};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::id::{Fence, JobId, LeaseId, WorkerId};
use windlass_shared::model::job::{NewJob, Value};
use windlass_shared::model::name::Namespace;
use windlass_shared::testkit::gates::until;
use windlass_shared::testkit::redis_server::{RedisServer, unique_prefix};

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// How far ahead a job for later is.
const LATER: Duration = Duration::from_millis(20);

pub(crate) struct Rig {
    pub(crate) life: Lifecycle,
    prefix: String,
    _folder: tempfile::TempDir,
}

impl Rig {
    /// With these queues, open.
    pub(crate) async fn start(queues: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/ledger.db", folder.path().display());
        let settings = LedgerSettings::new(url);
        Ledger::migrate(&settings).await.unwrap();
        let ledger = Ledger::open(&settings).await.unwrap();
        let prefix = unique_prefix();
        let url = RedisServer::shared().url();
        let settings = EngineSettings { prefix: prefix.clone(), ..EngineSettings::new(url) };
        let engine = Engine::open(&settings).await.unwrap();
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let life = Lifecycle::start(ledger, engine, Clock::System, shutdown, tasks);
        for queue in queues {
            let settings = QueueSettings::default();
            life.set_queue(&Namespace::default(), &queue.parse().unwrap(), 0, &settings)
                .await
                .unwrap();
        }
        Self { life, prefix, _folder: folder }
    }

    pub(crate) fn shard(&self, queue: &str) -> ShardId {
        ShardId::first(Namespace::default(), queue.parse().unwrap())
    }

    /// Puts a stranger's value in the place of one of a queue's keys.
    pub(crate) fn damage(&self, queue: &str, key: &str) {
        let key = format!("{}:{{{}}}:{key}", self.prefix, self.shard(queue));
        RedisServer::shared().command(&["SET", &key, "?"]).expect_ok();
    }

    /// Takes it away again, and what it took the place of stays gone.
    pub(crate) fn mend(&self, queue: &str, key: &str) {
        let key = format!("{}:{{{}}}:{key}", self.prefix, self.shard(queue));
        RedisServer::shared().command(&["DEL", &key]).expect_ok();
    }

    /// Pushes a job that is due in a moment.
    pub(crate) async fn push_later(&self, shard: &ShardId) {
        let now = self.life.engine().now().await.unwrap();
        let push = Push::new(Fence(1), "plain".parse().unwrap(), now.plus(LATER), Bytes::new());
        let ledger = self.life.ledger().id();
        let valid = Validity { ledger, ..until(now.plus(PATIENCE)) };
        let reply = self.life.engine().push(shard, &[push], &valid).await.unwrap();
        assert_eq!(reply.pushed, [Pushed::Added]);
    }

    /// Repeats a duty until nothing of the shard waits for its time any more; what it said last.
    pub(crate) async fn until_due<T>(
        &self,
        shard: &ShardId,
        mut duty: impl AsyncFnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.until("the job is due", async || {
            let said = duty().await;
            let stats = self.life.engine().stats(shard).await.unwrap();
            (stats.delayed == 0).then_some(said)
        })
        .await
    }

    /// Asks until there is an answer.
    pub(crate) async fn until<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
        let asking = async {
            loop {
                if let Some(answer) = ask().await {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        };
        let answer = tokio::time::timeout(PATIENCE, asking).await;
        answer.unwrap_or_else(|_| panic!("in vain: {what}"))
    }

    /// Submits a job.
    pub(crate) async fn submit(&self, queue: &str) -> JobId {
        let job = NewJob::new(
            Namespace::default(),
            queue.parse().unwrap(),
            "plain".parse().unwrap(),
            Value::Inline(Bytes::from_static(b"null")),
        );
        let submission = Submission { jobs: vec![job], atomic: false, idempotency: None };
        let outcome = self.life.submit(submission).await.unwrap();
        let SubmitOutcome::Done(results) = outcome else {
            panic!("a submission without a key is never replayed");
        };
        match results.into_iter().next() {
            Some(Ok(Accepted::New(job))) => job.id,
            other => panic!("not accepted: {other:?}"),
        }
    }

    /// Claims a job as soon as there is one.
    pub(crate) async fn claim(&self, shard: &ShardId) {
        self.until("a job is there", async || {
            let request = ClaimRequest {
                worker: WorkerId::generate(),
                lease_id: LeaseId::random(),
                max: 1,
                lease: PATIENCE,
                kinds: Vec::new(),
                offset: 0,
                ledger: None,
            };
            self.life.engine().claim(shard, &request).await.unwrap().jobs.pop()
        })
        .await;
    }
}
