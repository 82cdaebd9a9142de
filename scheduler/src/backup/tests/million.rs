//! How long drills take on 1,000,000 jobs. By hand, in release: docs/backups.md has the command.

use super::*;

const JOBS: u64 = 1_000_000;
/// Jobs of one statement; the server gives one 5 s.
const CHUNK: u64 = 20_000;

/// Jobs with payloads of 200 bytes: one in twenty is ready, the rest has succeeded.
fn rows(sort: Sort, from: u64) -> String {
    let to = from + CHUNK - 1;
    let now = super::super::store::now();
    let (ms, us) = (now.millis(), now.micros());
    let columns = "id, state, fence, namespace, queue, kind, run_at, created_at, changed_at, finished_at, priority, spec, payload";
    let values = format!(
        "CASE WHEN n % 20 = 0 THEN 2 ELSE 10 END, {us}, 'default', 'default', 'plain', {us}, {us}, {us}, {us}, \
        (SELECT priority FROM jobs LIMIT 1), (SELECT spec FROM jobs LIMIT 1)"
    );
    match sort {
        Sort::Postgres => format!(
            "INSERT INTO jobs ({columns}) SELECT (lpad(to_hex({ms}), 12, '0') || '7' || lpad(to_hex(n / 4096 % 4096), 3, '0') || '8' \
             || lpad(to_hex(n), 15, '0'))::uuid, {values}, ('\"' || repeat(md5(n::text), 6) || '\"')::bytea \
             FROM generate_series({from}, {to}) AS n"
        ),
        Sort::Sqlite => format!(
            "INSERT INTO jobs ({columns}) WITH RECURSIVE s(n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM s WHERE n < {to}) \
             SELECT unhex(printf('%012x7%03x8%015x', {ms}, n / 4096 % 4096, n)), {values}, \
             CAST('\"' || hex(randomblob(96)) || '\"' AS BLOB) FROM s"
        ),
    }
}

async fn measure(sort: Sort) {
    let mut scene = Scene::new(sort).await;
    scene.settings.part_bytes = 32 << 20;
    let ledger = Ledger::open(&scene.live).await.unwrap();
    for from in (0..JOBS).step_by(CHUNK as usize) {
        ledger.tamper(rows(sort, from)).await.unwrap();
    }
    ledger.close().await;
    let began = std::time::Instant::now();
    let manifest = scene.create().await;
    let made = began.elapsed();
    let report = scene.drill(&manifest.id).await;
    println!(
        "{} jobs on {}: made in {} ms, {} bytes in {} parts; RTO {} ms (restore {}, rebuild {}, canary {}), RPO {} ms",
        report.jobs,
        manifest.origin.database,
        made.as_millis(),
        manifest.bytes(),
        manifest.parts.len(),
        report.rto_ms,
        report.restore_ms,
        report.rebuild_ms,
        report.canary_ms,
        report.rpo_ms
    );
    assert!(report.good, "{report:?}");
    assert_eq!(report.jobs, JOBS + 21);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: a measurement"]
async fn a_million_jobs_on_sqlite() {
    measure(Sort::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: a measurement"]
async fn a_million_jobs_on_postgres() {
    measure(Sort::Postgres).await;
}
