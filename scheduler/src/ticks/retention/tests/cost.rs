//! What pruning without a pause between ticks costs those who submit meanwhile. By hand: docs/operating.md has the command.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;

/// Ended jobs that are past their time, made for each round.
const OLD: u64 = 200_000;
/// Of one statement; the server gives one 5 s.
const CHUNK: u64 = 20_000;
/// Jobs are submitted, and their outcomes recorded, this far apart.
const EVERY: Duration = Duration::from_millis(5);
/// Of one half of a round.
const HALF: Duration = Duration::from_secs(8);
const ROUNDS: usize = 3;

/// Jobs that were made and ended a day ago, with payloads of 200 bytes.
fn rows(scene: &Scene, from: u64) -> String {
    let to = from + CHUNK - 1;
    let (ms, us) = (scene.made.millis(), scene.made.micros());
    let columns = "id, state, fence, namespace, queue, kind, run_at, created_at, changed_at, finished_at, priority, spec, payload";
    let values = format!(
        "10, 1, 'default', 'default', 'plain', {us}, {us}, {us}, {us}, \
         (SELECT priority FROM jobs LIMIT 1), (SELECT spec FROM jobs LIMIT 1)"
    );
    match &scene.ledger {
        Ledger::Postgres(_) => format!(
            "INSERT INTO jobs ({columns}) SELECT (lpad(to_hex({ms}), 12, '0') || '7' || lpad(to_hex(n / 4096 % 4096), 3, '0') || '8' \
             || lpad(to_hex(n), 15, '0'))::uuid, {values}, ('\"' || repeat(md5(n::text), 6) || '\"')::bytea \
             FROM generate_series({from}, {to}) AS n"
        ),
        _ => format!(
            "INSERT INTO jobs ({columns}) WITH RECURSIVE s(n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM s WHERE n < {to}) \
             SELECT unhex(printf('%012x7%03x8%015x', {ms}, n / 4096 % 4096, n)), {values}, \
             CAST('\"' || hex(randomblob(96)) || '\"' AS BLOB) FROM s"
        ),
    }
}

/// Submits a job, and records its outcome when it is accepted; how long the submission took since it was due.
async fn one(ledger: Ledger, due: Instant) -> Duration {
    let job = NewJob::new(
        Namespace::default(),
        "q".parse().unwrap(),
        "k".parse().unwrap(),
        Value::Inline(Bytes::from_static(b"null")),
    );
    let id = job.id;
    let submission = Submission { jobs: vec![job], atomic: false, idempotency: None };
    ledger.submit(submission).await.unwrap();
    let took = due.elapsed();
    let at = ledger.now().await.unwrap();
    let record = Record {
        namespace: Namespace::default(),
        id,
        fence: Fence(1),
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
    };
    ledger.record(vec![record]).await.unwrap();
    took
}

/// The median and the 99th percentile of submissions at a steady rate, from when each was due, whatever the others did.
async fn load(ledger: &Ledger) -> [Duration; 2] {
    let (mut tasks, mut interval) = (JoinSet::new(), tokio::time::interval(EVERY));
    let end = Instant::now() + HALF;
    while Instant::now() < end {
        let due = interval.tick().await;
        tasks.spawn(one(ledger.clone(), due));
    }
    let mut took = tasks.join_all().await;
    took.sort_unstable();
    [took[took.len() / 2], took[took.len() * 99 / 100]]
}

/// As [`load`], while the duty ticks all the time; and how many jobs it has deleted.
async fn load_beside(scene: &Scene, walks: &mut Walks) -> ([Duration; 2], u64) {
    let (stop, mut deleted) = (CancellationToken::new(), 0);
    let pace = Pace { budget: Duration::from_secs(1), ..Pace::USUAL };
    let pruning = async {
        while !stop.is_cancelled() {
            let done = scene.now(walks, pace).await;
            assert!(done > 0, "there was too little to delete");
            deleted += done;
        }
    };
    let loading = async {
        let took = load(&scene.ledger).await;
        stop.cancel();
        took
    };
    let ((), took) = tokio::join!(pruning, loading);
    (took, deleted)
}

async fn measure(name: &str, settings: LedgerSettings) {
    let scene = Scene::of(settings).await;
    one(scene.ledger.clone(), Instant::now()).await;
    let settings = RetentionSettings { default: HOUR, ..RetentionSettings::default() };
    let mut walks = walks(&settings);
    let (mut alone, mut beside, mut deleted) =
        ([const { Vec::new() }; 2], [const { Vec::new() }; 2], 0);
    for round in 0..ROUNDS as u64 {
        for from in (round * OLD..(round + 1) * OLD).step_by(CHUNK as usize) {
            scene.ledger.tamper(rows(&scene, from)).await.unwrap();
        }
        let (without, (with, done)) =
            (load(&scene.ledger).await, load_beside(&scene, &mut walks).await);
        println!("{name}: alone {without:?}, beside pruning {with:?} of {done} jobs");
        deleted += done;
        for n in 0..2 {
            alone[n].push(without[n]);
            beside[n].push(with[n]);
        }
    }
    let middle = |mut of: Vec<Duration>| {
        of.sort_unstable();
        of[ROUNDS / 2].as_secs_f64() * 1e3
    };
    let [[a50, a99], [b50, b99]] = [alone, beside].map(|of| of.map(middle));
    let rate = deleted as f64 / (HALF.as_secs_f64() * ROUNDS as f64);
    println!("| {name} | {a50:.1} | {a99:.1} | {b50:.1} | {b99:.1} | {rate:.0} |");
    scene.ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: a measurement"]
async fn retention_beside_submissions_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/ledger.db", folder.path().display());
    measure("SQLite", LedgerSettings::new(url)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: a measurement"]
async fn retention_beside_submissions_on_postgres() {
    let server = PostgresServer::start();
    measure("PostgreSQL", LedgerSettings::new(server.url(&server.database().await))).await;
}
