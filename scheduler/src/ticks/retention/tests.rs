use bytes::Bytes;
use windlass_shared::config::LedgerSettings;
use windlass_shared::engine::Ended;
use windlass_shared::ledger::{Record, Submission, TERM_MAX};
use windlass_shared::model::id::{Fence, WorkerId};
use windlass_shared::model::job::{JobState, NewJob, Value};
use windlass_shared::model::name::Namespace;
use windlass_shared::testkit::postgres_server::PostgresServer;

use super::*;

mod cost;

const HOUR: Duration = Duration::from_secs(3600);
const WHOLE: Pace = Pace { batch: 2, budget: Duration::from_secs(60) };

struct Scene {
    ledger: Ledger,
    holder: WorkerId,
    /// A day ago.
    made: Timestamp,
    began: Instant,
}

impl Scene {
    async fn of(settings: LedgerSettings) -> Self {
        Ledger::migrate(&settings).await.unwrap();
        let ledger = Ledger::open(&settings).await.unwrap();
        let made = ledger.now().await.unwrap().minus(HOUR * 24);
        Self { ledger, holder: WorkerId::generate(), made, began: Instant::now() }
    }

    /// Its term is prolonged by that.
    async fn epoch(&self) -> Epoch {
        let led = self.ledger.lead(self.holder, "test", TERM_MAX).await.unwrap();
        led.expect("nobody else stands for it")
    }

    /// Jobs that were made a day ago, `n` ms after each other, and ended so much later.
    async fn took(
        &self,
        namespace: &str,
        ended: Ended,
        from: u64,
        count: u64,
        took: Duration,
    ) -> Vec<JobId> {
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
            let set = format!("changed_at = {}", self.made.plus(took).micros());
            self.ledger.tamper_job(*id, &set).await.unwrap();
        }
        ids
    }

    /// As [`Self::took`], no time.
    async fn ended(&self, namespace: &str, ended: Ended, from: u64, count: u64) -> Vec<JobId> {
        self.took(namespace, ended, from, count, Duration::ZERO).await
    }

    /// A run of the state (its number) that ended a day ago, and is the run of that job.
    async fn run_of(&self, namespace: &str, state: u8, job: JobId) {
        let id = JobId::generate().uuid().simple().to_string();
        let id = match &self.ledger {
            Ledger::Postgres(_) => format!("'{id}'::uuid"),
            _ => format!("x'{id}'"),
        };
        let at = self.made.micros();
        let sql = format!(
            "INSERT INTO workflows (id, version, created_at, began_at, changed_at, finished_at, steps, state, depth, \
             namespace, name, options, input) VALUES ({id}, 1, {at}, {at}, {at}, {at}, 1, {state}, 0, '{namespace}', \
             'w', '{{}}', '')"
        );
        // Bytes of a BLOB column.
        let sql = match &self.ledger {
            Ledger::Postgres(_) => sql,
            _ => sql.replace("'')", "x'')"),
        };
        self.ledger.tamper(sql).await.unwrap();
        let set = format!("workflow_id = {id}, workflow_ord = 0, workflow_step = 'a'");
        self.ledger.tamper_job(job, &set).await.unwrap();
    }

    async fn runs(&self) -> usize {
        let mut there = 0;
        for namespace in ["short", "kept"] {
            let namespace = namespace.parse().unwrap();
            let filter = windlass_shared::ledger::runs::RunFilter::default();
            there += self.ledger.list_runs(&namespace, &filter, None, 10).await.unwrap().len();
        }
        there
    }

    async fn left(&self, ids: &[JobId]) -> usize {
        self.ledger.jobs(ids).await.unwrap().len()
    }

    /// When so much time has passed since the jobs were made.
    fn after(&self, time: Duration) -> Reading {
        Reading { ledger: self.made.plus(time), own: self.began + time }
    }

    async fn tick(&self, walks: &mut Walks, now: Duration, pace: Pace) -> u64 {
        let now = self.after(now);
        walks.tick(&self.ledger, self.epoch().await, now, pace).await.unwrap()
    }

    /// A tick a day after they were made.
    async fn now(&self, walks: &mut Walks, pace: Pace) -> u64 {
        self.tick(walks, HOUR * 24, pace).await
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

fn walks(settings: &RetentionSettings) -> Walks {
    Walks::new(settings, Steady::after(Duration::ZERO))
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
    let mut first = walks(&settings);
    assert_eq!(scene.now(&mut first, WHOLE).await, 6);
    assert_eq!((scene.left(&gone).await, scene.left(&kept).await), (0, 6));
    assert_eq!(scene.now(&mut first, WHOLE).await, 0);
    // A past leader deletes nothing, and passes over nothing: when it leads again it goes on where it was.
    settings.default = HOUR;
    let mut walks = walks(&settings);
    let past = Epoch(scene.epoch().await.0 + 1);
    let now = scene.after(HOUR * 24);
    walks.tick(&scene.ledger, past, now, WHOLE).await.unwrap();
    assert_eq!(scene.left(&kept).await, 6);
    assert_eq!(scene.now(&mut walks, WHOLE).await, 3);
}

/// Goal: the times of a namespace hold for its runs and their jobs, and so do those of how they ended.
async fn runs_go_by_namespace_and_state(scene: &Scene) {
    let short = scene.ended("short", Ended::Succeeded, 0, 1).await;
    let failed = scene.ended("short", Ended::Dead, 1, 1).await;
    let kept = scene.ended("kept", Ended::Succeeded, 2, 1).await;
    scene.run_of("short", 10, short[0]).await;
    scene.run_of("short", 11, failed[0]).await;
    scene.run_of("kept", 10, kept[0]).await;
    let mut settings = settings(&[
        ("short", None, HOUR),
        ("short", Some(JobState::Dead), HOUR * 25),
        ("kept", None, HOUR * 48),
    ]);
    settings.default = HOUR;
    let mut walks = walks(&settings);
    assert_eq!(scene.now(&mut walks, WHOLE).await, 2);
    let left = [scene.left(&short).await, scene.left(&failed).await, scene.left(&kept).await];
    assert_eq!((left, scene.runs().await), ([0, 1, 1], 2));
    assert_eq!(scene.tick(&mut walks, HOUR * 25 + LAG, WHOLE).await, 2);
    assert_eq!((scene.left(&kept).await, scene.runs().await), (1, 1));
    assert_eq!(scene.tick(&mut walks, HOUR * 48 + LAG, WHOLE).await, 2);
    assert_eq!((scene.left(&kept).await, scene.runs().await), (0, 0));
}

/// Goal: where a tick has nothing left to do, jobs still go within minutes of their time, and no earlier; those that took
/// long within an hour. Method: a tick each ten seconds from before their time on.
async fn jobs_go_soon_after_their_time_has_come(scene: &Scene) {
    let secs = Duration::from_secs;
    let quick = scene.took("a", Ended::Succeeded, 0, 2, secs(5)).await;
    let usual = scene.took("a", Ended::Succeeded, 10, 2, secs(300)).await;
    let long = scene.took("a", Ended::Succeeded, 20, 2, secs(1_800)).await;
    let settings = RetentionSettings { default: HOUR, ..RetentionSettings::default() };
    let mut walks = walks(&settings);
    let mut gone = [None; 3];
    let mut n = HOUR - secs(100);
    while n < HOUR * 3 && gone.contains(&None) {
        scene.tick(&mut walks, n, Pace { batch: 100, ..WHOLE }).await;
        for (gone, ids) in gone.iter_mut().zip([&quick, &usual, &long]) {
            if gone.is_none() && scene.left(ids).await == 0 {
                *gone = Some(n - HOUR);
            }
        }
        n += secs(10);
    }
    let [quick, usual, long] = gone.map(|gone| gone.expect("they go"));
    let soon = LAG..LAG + secs(20);
    assert!(soon.contains(&quick) && soon.contains(&usual), "{quick:?} {usual:?}");
    assert!(long >= secs(1_800) && long <= secs(1_800) + AGAIN_EVERY, "{long:?}");
}

/// Goal: a clock that jumps ahead, and is set right again, deletes nothing.
async fn a_clock_that_jumps_deletes_nothing(scene: &Scene) {
    let ids = scene.ended("a", Ended::Succeeded, 0, 3).await;
    let mut walks = Walks::new(&RetentionSettings::default(), Steady::after(LAG));
    let mut tick = async |own: u64, ledger: Duration| {
        let now = Reading {
            ledger: scene.made.plus(ledger),
            own: scene.began + Duration::from_secs(own),
        };
        walks.tick(&scene.ledger, scene.epoch().await, now, WHOLE).await.unwrap()
    };
    let (right, wrong) = (HOUR * 24, HOUR * 24 * 30);
    let secs = Duration::from_secs;
    for (own, ledger) in [(0, wrong), (30, right), (640, right + secs(610)), (650, wrong)] {
        assert_eq!(tick(own, ledger).await, 0, "{own}");
        assert_eq!(scene.left(&ids).await, 3, "{own}");
    }
    // A clock that runs evenly is believed, whatever it says.
    assert_eq!(tick(650 + 600, wrong + secs(600)).await, 3);
}

/// Goal: whoever has endless jobs to delete keeps nobody else from being pruned. Method: ticks of a single batch
/// each, and one namespace whose old jobs come before all others and never end.
async fn nobody_starves(scene: &Scene) {
    let endless = scene.ended("endless", Ended::Succeeded, 0, 60).await;
    let few = scene.ended("few", Ended::Succeeded, 100, 3).await;
    let rest = scene.ended("rest", Ended::Dead, 200, 3).await;
    let mut settings = settings(&[("endless", None, HOUR), ("few", None, HOUR)]);
    settings.default = HOUR;
    let mut walks = walks(&settings);
    assert_eq!(walks.walks.len(), 6);
    let mut more = 1_000;
    for _ in 0..6 {
        // As much as a tick deletes comes anew.
        scene.ended("endless", Ended::Succeeded, more, 5).await;
        more += 5;
        scene.now(&mut walks, Pace { batch: 5, budget: Duration::ZERO }).await;
    }
    assert_eq!((scene.left(&few).await, scene.left(&rest).await), (0, 0));
    assert!(scene.left(&endless).await > 0, "it is far from its end");
    // It goes on where it stopped, too, and comes to its end.
    scene.now(&mut walks, Pace { batch: 5, ..WHOLE }).await;
    assert_eq!(scene.left(&endless).await, 0);
}

async fn all(settings: impl AsyncFn() -> LedgerSettings) {
    jobs_go_by_namespace_and_state(&Scene::of(settings().await).await).await;
    runs_go_by_namespace_and_state(&Scene::of(settings().await).await).await;
    jobs_go_soon_after_their_time_has_come(&Scene::of(settings().await).await).await;
    a_clock_that_jumps_deletes_nothing(&Scene::of(settings().await).await).await;
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
