//! Deletes jobs whose time is over, by namespace and state, in small batches with pauses. Leader only.
//!
//! Each rule walks over the jobs in the order of their making, goes on where it stopped, and has its turn after each
//! batch of another: however much one has to delete, the others get on. A walk passes over a job once, soon after it
//! has come to its time; what ended late, long after it was made, is found by a second walk from the beginning, every
//! [`AGAIN_EVERY`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use windlass_shared::config::{RetentionRule, RetentionSettings};
use windlass_shared::ledger::duties::Who;
use windlass_shared::ledger::retention::{Aged, Pruned};
use windlass_shared::ledger::{Epoch, Ledger, LedgerError};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::id::JobId;
use windlass_shared::model::time::Timestamp;

use crate::board::Duty;
use crate::ticker::{Ticks, leading};

/// Jobs of one batch: a statement of some ten milliseconds.
const BATCH: u32 = 500;
/// A tick begins no batch after this long.
const BUDGET: Duration = Duration::from_secs(8);
/// Longest pause after a batch; shorter ones are followed by one of their own length, so that half of the time is left
/// to others.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often a rule begins from the first job again.
const AGAIN_EVERY: Duration = Duration::from_secs(3600);

static DUTY: Duty = Duty {
    name: "retention",
    what: "deletes jobs whose time is over, by namespace and state",
    interval: Duration::from_secs(10),
    batch: BATCH,
    longest: Duration::from_secs(60),
    who: Who::Leader,
};

pub(super) async fn run(life: Lifecycle, settings: RetentionSettings, ticks: Ticks) {
    let walks = Arc::new(Mutex::new(Walks::new(&settings)));
    leading(&DUTY, &ticks, |epoch| {
        let (life, walks) = (life.clone(), walks.clone());
        async move { walks.lock().await.tick(life.ledger(), epoch, BATCH, BUDGET).await }
    })
    .await;
}

/// Where one rule is.
struct Walk {
    rule: RetentionRule,
    /// The last job that was looked at.
    at: Option<JobId>,
    /// Of the walk that began anew; `None`: there is none.
    again: Option<Option<JobId>>,
    /// When that began last.
    again_at: Instant,
}

/// Every rule, in turn.
struct Walks {
    walks: Vec<Walk>,
    /// Whose turn it is.
    next: usize,
}

impl Walks {
    fn new(settings: &RetentionSettings) -> Self {
        let walk = |rule| Walk { rule, at: None, again: None, again_at: Instant::now() };
        Self { walks: settings.rules().into_iter().map(walk).collect(), next: 0 }
    }

    /// Gives each rule its turns until all are through, or `budget` has passed; how many jobs were deleted.
    async fn tick(
        &mut self,
        ledger: &Ledger,
        epoch: Epoch,
        batch: u32,
        budget: Duration,
    ) -> anyhow::Result<u64> {
        let (started, now) = (Instant::now(), ledger.now().await?);
        let mut through = vec![false; self.walks.len()];
        let mut deleted = 0;
        while through.contains(&false) {
            let turn = self.next % self.walks.len();
            self.next = (turn + 1) % self.walks.len();
            if through[turn] {
                continue;
            }
            let began = Instant::now();
            // Where one fails, the next tick goes on with the others first.
            let step = self.walks[turn].step(ledger, epoch, now, batch).await?;
            through[turn] = step.at_end;
            deleted += step.deleted;
            metrics::counter!("windlass_retention_deleted_total").increment(step.deleted);
            if started.elapsed() >= budget {
                break;
            }
            tokio::time::sleep(began.elapsed().min(PAUSE_MAX)).await;
        }
        let behind = self.walks.iter().zip(&through).filter(|(_, through)| !**through);
        let behind = behind.map(|(walk, _)| walk.behind(now)).max().unwrap_or_default();
        metrics::gauge!("windlass_retention_behind_seconds").set(behind.as_secs_f64());
        Ok(deleted)
    }
}

impl Walk {
    /// One batch of the walk, or of the one that began anew where the first is at its end.
    async fn step(
        &mut self,
        ledger: &Ledger,
        epoch: Epoch,
        now: Timestamp,
        batch: u32,
    ) -> Result<Pruned, LedgerError> {
        let aged = Aged {
            whose: self.rule.whose.clone(),
            states: self.rule.states.clone(),
            before: now.minus(self.rule.keep),
        };
        let step = ledger.prune_jobs(Some(epoch), &aged, self.at, batch).await?;
        self.at = step.last.or(self.at);
        if !step.at_end {
            return Ok(step);
        }
        if self.again.is_none() && self.again_at.elapsed() >= AGAIN_EVERY {
            (self.again, self.again_at) = (Some(None), Instant::now());
        }
        let Some(at) = self.again else { return Ok(step) };
        let again = ledger.prune_jobs(Some(epoch), &aged, at, batch).await?;
        self.again = (!again.at_end).then_some(again.last.or(at));
        Ok(Pruned { deleted: step.deleted + again.deleted, ..again })
    }

    /// How long the job that comes next has been past its time at least.
    fn behind(&self, now: Timestamp) -> Duration {
        let made = self.at.and_then(JobId::drawn_at).unwrap_or(now);
        now.minus(self.rule.keep).since(made)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use windlass_shared::config::LedgerSettings;
    use windlass_shared::engine::Ended;
    use windlass_shared::ledger::{Record, Submission};
    use windlass_shared::model::id::{Fence, WorkerId};
    use windlass_shared::model::job::{JobState, NewJob, Value};
    use windlass_shared::model::name::Namespace;
    use windlass_shared::testkit::postgres_server::PostgresServer;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    struct Scene {
        ledger: Ledger,
        epoch: Epoch,
        made: Timestamp,
    }

    impl Scene {
        async fn of(settings: LedgerSettings) -> Self {
            Ledger::migrate(&settings).await.unwrap();
            let ledger = Ledger::open(&settings).await.unwrap();
            let term = Duration::from_secs(600);
            let epoch = ledger.lead(WorkerId::generate(), "test", term).await.unwrap().unwrap();
            let made = ledger.now().await.unwrap().minus(HOUR * 24);
            Self { ledger, epoch, made }
        }

        /// Jobs that were made, and ended, a day ago; `n` seconds after each other.
        async fn ended(&self, namespace: &str, ended: Ended, from: u64, count: u64) -> Vec<JobId> {
            let mut ids = Vec::new();
            for n in from..from + count {
                let at = self.made.plus(Duration::from_millis(n));
                let mut bytes = *JobId::first_at(u64::try_from(at.millis()).unwrap()).as_bytes();
                bytes[8..].copy_from_slice(&JobId::generate().as_bytes()[8..]);
                ids.push(JobId::from_bytes(bytes));
            }
            let namespace: Namespace = namespace.parse().unwrap();
            let job = |id: &JobId| NewJob {
                id: *id,
                ..NewJob::new(
                    namespace.clone(),
                    "q".parse().unwrap(),
                    "k".parse().unwrap(),
                    Value::Inline(Bytes::from_static(b"null")),
                )
            };
            let jobs = ids.iter().map(job).collect();
            let submission = Submission { jobs, atomic: false, idempotency: None };
            self.ledger.submit(submission).await.unwrap();
            let record = |id: &JobId| Record {
                namespace: namespace.clone(),
                id: *id,
                fence: Fence(1),
                ended,
                at: self.made,
                claimed_at: Some(self.made),
                attempt: 1,
                crashes: 0,
                worker: None,
                output: None,
                error: None,
                timed_out: false,
                usage: None,
            };
            self.ledger.record(ids.iter().map(record).collect()).await.unwrap();
            for id in &ids {
                let set = format!("changed_at = {}", self.made.micros());
                self.ledger.tamper_job(*id, &set).await.unwrap();
            }
            ids
        }

        async fn left(&self, ids: &[JobId]) -> usize {
            self.ledger.jobs(ids).await.unwrap().len()
        }

        async fn tick(&self, walks: &mut Walks, batch: u32, budget: Duration) -> u64 {
            walks.tick(&self.ledger, self.epoch, batch, budget).await.unwrap()
        }
    }

    fn settings(text: &[(&str, Option<JobState>, Duration)]) -> RetentionSettings {
        let entry =
            |(namespace, state, keep): &(&str, _, _)| ((namespace.parse().unwrap(), *state), *keep);
        RetentionSettings {
            namespaces: text.iter().map(entry).collect(),
            ..RetentionSettings::default()
        }
    }

    async fn jobs_go_by_namespace_and_state(scene: &Scene) {
        let mut kept = Vec::new();
        let mut gone = Vec::new();
        gone.extend(scene.ended("short", Ended::Succeeded, 0, 3).await);
        kept.extend(scene.ended("short", Ended::Dead, 3, 3).await);
        kept.extend(scene.ended("other", Ended::Succeeded, 6, 3).await);
        gone.extend(scene.ended("other", Ended::Cancelled, 9, 3).await);
        let mut settings =
            settings(&[("short", None, HOUR), ("short", Some(JobState::Dead), HOUR * 48)]);
        settings.states.insert(JobState::Cancelled, HOUR * 2);
        let mut walks = Walks::new(&settings);
        assert_eq!(scene.tick(&mut walks, 2, Duration::from_secs(60)).await, 6);
        assert_eq!((scene.left(&gone).await, scene.left(&kept).await), (0, 6));
        assert_eq!(scene.tick(&mut walks, 2, Duration::from_secs(60)).await, 0);
        // A past leader deletes nothing.
        settings.default = HOUR;
        let mut walks = Walks::new(&settings);
        let past = Epoch(scene.epoch.0 + 1);
        walks.tick(&scene.ledger, past, 100, Duration::from_secs(60)).await.unwrap();
        assert_eq!(scene.left(&kept).await, 6);
    }

    /// Goal: whoever has endless jobs to delete keeps nobody else from being pruned. Method: ticks of a single batch
    /// each, and one namespace whose old jobs come before all others and never end.
    async fn nobody_starves(scene: &Scene) {
        let endless = scene.ended("endless", Ended::Succeeded, 0, 60).await;
        let few = scene.ended("few", Ended::Succeeded, 100, 3).await;
        let rest = scene.ended("rest", Ended::Dead, 200, 3).await;
        let mut settings = settings(&[("endless", None, HOUR), ("few", None, HOUR)]);
        settings.default = HOUR;
        let mut walks = Walks::new(&settings);
        assert_eq!(walks.walks.len(), 3);
        let mut more = 1_000;
        for _ in 0..6 {
            // As much as a tick deletes comes anew.
            scene.ended("endless", Ended::Succeeded, more, 5).await;
            more += 5;
            scene.tick(&mut walks, 5, Duration::ZERO).await;
        }
        assert_eq!((scene.left(&few).await, scene.left(&rest).await), (0, 0));
        assert!(scene.left(&endless).await > 0, "it is far from its end");
        // It goes on where it stopped, too, and comes to its end.
        scene.tick(&mut walks, 5, Duration::from_secs(60)).await;
        assert_eq!(scene.left(&endless).await, 0);
    }

    async fn all(settings: impl AsyncFn() -> LedgerSettings) {
        jobs_go_by_namespace_and_state(&Scene::of(settings().await).await).await;
        nobody_starves(&Scene::of(settings().await).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn on_sqlite() {
        let folder = tempfile::tempdir().unwrap();
        let n = std::sync::atomic::AtomicU32::new(0);
        all(async || {
            let n = n.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            LedgerSettings::new(format!("sqlite://{}/{n}.db", folder.path().display()))
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn on_postgres() {
        let server = PostgresServer::start();
        all(async || LedgerSettings::new(server.url(&server.database().await))).await;
    }
}
