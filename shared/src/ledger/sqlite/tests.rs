//! Faults that only this module can cause: a full disk, a damaged file, a write of ours that fails.

use std::io::{Seek, SeekFrom, Write};

use futures::FutureExt;

use super::statement::{Args, execute};
use super::*;
use crate::ledger::retention::{Aged, Tidy, Whose};
use crate::model::job::{JobState, NewJob, OnConflict, Unique, Value};

async fn ledger(folder: &tempfile::TempDir) -> (Sqlite, LedgerSettings) {
    let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
    let settings = LedgerSettings::new(url);
    Sqlite::migrate(&settings).await.unwrap();
    (Sqlite::open(&settings).await.unwrap(), settings)
}

fn new_jobs(n: usize) -> Vec<NewJob> {
    let job = || {
        NewJob::new(
            Namespace::default(),
            QueueName::default(),
            "test.kind".parse().unwrap(),
            Value::Inline(vec![b'1'; 2_000].into()),
        )
    };
    (0..n).map(|_| job()).collect()
}

async fn submit(ledger: &Sqlite, n: usize) -> Result<Vec<JobId>> {
    let jobs = new_jobs(n);
    let ids = jobs.iter().map(|job| job.id).collect();
    let submission = Submission { jobs, atomic: false, idempotency: None };
    match ledger.submit(submission).await? {
        SubmitOutcome::Done(results) if results.iter().all(Result::is_ok) => Ok(ids),
        other => panic!("expected acceptance, got {other:?}"),
    }
}

async fn write(ledger: &Sqlite, sql: &'static str) -> Result<u64> {
    let change = ledger.writer.change(move |tx| {
        async move { execute(tx.connection, sql, Args::default()).await }.boxed()
    });
    change.await
}

/// Goal: a full disk refuses writes and harms nothing, and once there is room they are taken again without
/// a restart.
#[tokio::test]
async fn a_full_disk_passes() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = ledger(&folder).await;
    write(&ledger, "PRAGMA max_page_count = 300").await.unwrap();
    let mut accepted = Vec::new();
    let refused = loop {
        match submit(&ledger, 20).await {
            Ok(ids) => accepted.extend(ids),
            Err(error) => break error,
        }
        assert!(accepted.len() < 10_000, "300 pages hold no 10,000 jobs");
    };
    assert!(matches!(refused, LedgerError::Unavailable(_)), "{refused:?}");
    assert!(matches!(submit(&ledger, 20).await, Err(LedgerError::Unavailable(_))));
    assert_eq!(ledger.jobs(&accepted).await.unwrap().len(), accepted.len());
    ledger.now().await.unwrap();
    write(&ledger, "PRAGMA max_page_count = 100000").await.unwrap();
    let later = submit(&ledger, 20).await.unwrap();
    assert_eq!(ledger.jobs(&later).await.unwrap().len(), 20);
    ledger.close().await;
}

/// Goal: damage that a read comes upon ends acceptance too. Method: every page behind the first ones is
/// overwritten while the ledger is closed.
#[tokio::test]
async fn damage_seen_by_a_read_ends_acceptance() {
    let folder = tempfile::tempdir().unwrap();
    let (first, settings) = ledger(&folder).await;
    let path = folder.path().join("ledger.db");
    // An empty ledger: the schema and the roots of its tables, which opening reads.
    let spared = path.metadata().unwrap().len();
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.extend(submit(&first, 100).await.unwrap());
    }
    first.close().await;
    let length = path.metadata().unwrap().len();
    let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    assert!(length > 2 * spared, "{length}");
    file.seek(SeekFrom::Start(spared)).unwrap();
    file.write_all(&vec![0x5a; usize::try_from(length - spared).unwrap()]).unwrap();
    let ledger = Sqlite::open(&settings).await.unwrap();
    let read = ledger.jobs(&ids).await;
    assert!(matches!(read, Err(LedgerError::Unavailable(_))), "{read:?}");
    for _ in 0..2 {
        let refused = submit(&ledger, 1).await;
        assert!(matches!(refused, Err(LedgerError::Unavailable(_))), "{refused:?}");
        assert!(matches!(ledger.now().await, Err(LedgerError::Unavailable(_))));
    }
    ledger.close().await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    std::fs::write(&path, vec![0x5a; 8192]).unwrap();
    let settings = LedgerSettings::new(format!("sqlite://{}", path.display()));
    assert!(matches!(Sqlite::open(&settings).await, Err(LedgerError::Unavailable(_))));
    assert_eq!(std::fs::read(&path).unwrap(), vec![0x5a; 8192]);
}

/// Goal: a write that fails half-way leaves nothing, and the others of its transaction stay. Method: all are
/// handed in before the writer has a turn, so they share a transaction.
#[tokio::test]
async fn a_write_that_fails_is_undone_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = ledger(&folder).await;
    let queue = |name: &str| -> QueueName { name.parse().unwrap() };
    let half = ledger.writer.change(|tx| {
        async move {
            let (namespace, name) = (Namespace::default(), "half".parse().expect("a name"));
            queues::ensure(tx, &namespace, &name).await?;
            execute(tx.connection, "INSERT INTO no_such_table VALUES (1)", Args::default()).await
        }
        .boxed()
    });
    let namespace = Namespace::default();
    let settings = QueueSettings::default();
    let (name, other) = (queue("before"), queue("after"));
    let (before, half, after, jobs) = tokio::join!(
        ledger.set_queue(&namespace, &name, None, &settings),
        half,
        ledger.set_queue(&namespace, &other, None, &settings),
        submit(&ledger, 3),
    );
    assert!(matches!(half, Err(LedgerError::Failed(_))), "{half:?}");
    before.unwrap();
    after.unwrap();
    jobs.unwrap();
    let names: Vec<String> = ledger
        .queue_page(None, None, 100)
        .await
        .unwrap()
        .queues
        .iter()
        .map(|q| q.name.to_string())
        .collect();
    assert_eq!(names, ["after", "before", "default"]);
    // The writer does not think that it exists.
    ledger.set_paused(&namespace, &queue("half"), None).await.unwrap();
    assert!(ledger.queue(&namespace, &queue("half")).await.unwrap().is_some());
    ledger.close().await;
}

/// Goal: dropping the ledger without closing it ends the writer and frees the file.
#[tokio::test]
async fn a_dropped_ledger_lets_go_of_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let (first, settings) = ledger(&folder).await;
    submit(&first, 1).await.unwrap();
    drop(first);
    let reopened = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            match Sqlite::open(&settings).await {
                Err(LedgerError::Unfit(_)) => tokio::task::yield_now().await,
                other => break other,
            }
        }
    });
    reopened.await.expect("the lock is given up").unwrap().close().await;
}

/// Goal: whoever opens the file leads at once, whatever term a process before it has left; its epoch counts no more.
#[tokio::test]
async fn the_term_of_the_process_before_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let (first, settings) = ledger(&folder).await;
    let old = first.lead(WorkerId::generate(), "old", TERM_MAX).await.unwrap().unwrap();
    first.close().await;
    let second = Sqlite::open(&settings).await.unwrap();
    let new = second.lead(WorkerId::generate(), "new", TERM_MAX).await.unwrap();
    assert_eq!(new, Some(Epoch(old.0 + 1)));
    second.close().await;
}

/// Goal: old jobs go, but not one that is old no longer, and not the window of a unique key that lasts.
#[tokio::test]
async fn pruning_looks_again_and_spares_windows() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = ledger(&folder).await;
    let mut jobs = new_jobs(2);
    let window = Some(Duration::from_secs(3600));
    let unique = |on_conflict| Unique { key: "k".into(), window, on_conflict };
    jobs[0].unique = Some(unique(OnConflict::Reject));
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    let submit = |jobs| ledger.submit(Submission { jobs, atomic: false, idempotency: None });
    submit(jobs).await.unwrap();
    for id in &ids {
        ledger.cancel(&Namespace::default(), *id, None, false, "test").await.unwrap();
    }
    let now = ledger.now().await.unwrap();
    let (earlier, later) = (now.minus(Duration::from_secs(60)), now.plus(Duration::from_secs(60)));
    let looked_up = ids.clone();
    let forget = ledger.writer.change(move |tx| {
        async move { prune::forget(tx, &looked_up, prune::Cause::Old(earlier)).await }.boxed()
    });
    assert_eq!(forget.await.unwrap(), 0);
    assert_eq!(ledger.jobs(&ids).await.unwrap().len(), 2);
    let states = JobState::ALL.to_vec();
    let whose = Whose::AllBut(Vec::new());
    let aged = Aged { whose, states, before: later, made_before: later };
    let pruned = ledger.prune_jobs(None, &aged, None, 10).await.unwrap().unwrap();
    assert_eq!((pruned.deleted, pruned.at_end), (2, true));
    assert_eq!(ledger.jobs(&ids).await.unwrap(), []);
    let mut again = new_jobs(1);
    again[0].unique = Some(unique(OnConflict::Reject));
    let outcome = submit(again).await.unwrap();
    let SubmitOutcome::Done(results) = outcome else { panic!("not a first answer") };
    assert_eq!(results, [Err(Refused::UniqueKeyHeld { holder: ids[0] })]);
    ledger.close().await;
}

/// Goal: an operation is there for repeats of its call for a day, however short jobs are kept.
#[tokio::test]
async fn operations_outlive_short_retention() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = ledger(&folder).await;
    let now = ledger.now().await.unwrap();
    let mut ids = Vec::new();
    for hours in [23, 25] {
        let ended = now.minus(Duration::from_secs(hours * 3600));
        let operation = Operation {
            id: OperationId::generate(),
            namespace: Namespace::default(),
            action: "retry".into(),
            state: "succeeded".into(),
            matched: 0,
            changed: 0,
            error: None,
            created_at: ended,
            finished_at: Some(ended),
        };
        ledger.put_operation(&operation).await.unwrap();
        ids.push(operation.id);
    }
    let before = now.minus(Duration::from_secs(3600));
    ledger.prune(None, Tidy { now, before }, 10).await.unwrap();
    let mut left = Vec::new();
    for id in ids {
        left.push(ledger.operation(&Namespace::default(), id).await.unwrap().is_some());
    }
    assert_eq!(left, [true, false]);
    ledger.close().await;
}

/// Goal: however many old values are kept, a call looks at so many of them and no more, the next goes on behind them,
/// and what somebody has come to name meanwhile is spared.
#[tokio::test]
async fn values_are_looked_at_bit_by_bit() {
    const VALUES: &str = "INSERT INTO blobs (namespace, id, created_at, bytes) \
        WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 5002) \
        SELECT 'default', unhex(printf('%032x', n)), n, x'00' FROM s";
    const JOBS: &str = "INSERT INTO jobs (id, state, fence, namespace, queue, kind, run_at, created_at, \
        changed_at, priority, spec, payload_blob) \
        SELECT id, 2, 1, 'default', 'q', 'k', 0, 0, 0, 0, '{}', id FROM blobs WHERE created_at <= 5000";
    const ONE_MORE: &str = "UPDATE jobs SET output_blob = unhex(printf('%032x', 5002)) \
        WHERE id = unhex(printf('%032x', 1))";
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = ledger(&folder).await;
    write(&ledger, VALUES).await.unwrap();
    write(&ledger, JOBS).await.unwrap();
    let now = ledger.now().await.unwrap();
    let tidy = Tidy { now, before: now };
    let at = || *ledger.values_at.lock().unwrap();
    let begin = at();
    assert_eq!(ledger.prune(None, tidy, 10).await.unwrap(), 0);
    let middle = at();
    assert_ne!(middle, begin);
    let mut reader = ledger.reader().await.unwrap();
    let found = prune::strays(&mut reader, tidy, middle, 10).await.unwrap();
    write(&ledger, ONE_MORE).await.unwrap();
    let delete = ledger
        .writer
        .change(move |tx| async move { prune::tidy(tx, tidy, &found, 10).await }.boxed());
    assert_eq!(delete.await.unwrap(), 1, "of two that were found");
    assert_eq!(ledger.prune(None, tidy, 10).await.unwrap(), 0);
    assert_eq!(at(), begin, "it begins anew");
    let left = write(&ledger, "UPDATE blobs SET bytes = x'01'").await.unwrap();
    assert_eq!(left, 5001);
    drop(reader);
    ledger.close().await;
}

/// Goal: the statements that run often find their rows by an index, each by the one made for it.
#[tokio::test]
async fn no_hot_statement_scans_a_table() {
    use sqlx::Row;
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _) = ledger(&folder).await;
    for (sql, index) in [
        (
            "WITH v (row, state, fence) AS (VALUES (1, 2, 3), (4, 5, 6)) UPDATE jobs \
             SET state = v.state FROM v WHERE jobs.row = v.row AND jobs.state < 10 \
             AND jobs.fence <= v.fence",
            "SEARCH jobs USING INTEGER PRIMARY KEY (rowid=?)",
        ),
        (
            "WITH v (id, fence) AS (VALUES (x'00', 2), (x'01', 3)) UPDATE jobs SET state = 3 \
             FROM v WHERE jobs.id = v.id AND jobs.state < 10 AND jobs.fence < v.fence",
            "SEARCH jobs USING INDEX sqlite_autoindex_jobs_1 (id=?)",
        ),
        (
            "SELECT json_group_array(row) FROM jobs WHERE id IN (VALUES (x'00'), (x'01'))",
            "SEARCH jobs USING COVERING INDEX sqlite_autoindex_jobs_1 (id=?)",
        ),
        (
            "SELECT h.job_id, j.state FROM holds h LEFT JOIN jobs j ON j.id = h.job_id WHERE \
             (h.namespace, h.queue, h.unique_key) IN (VALUES ('a', 'b', 'c'), ('d', 'e', 'f'))",
            "SEARCH h USING PRIMARY KEY (namespace=? AND queue=? AND unique_key=?)",
        ),
        (
            "DELETE FROM holds WHERE until IS NULL AND (namespace, queue, unique_key, job_id) \
             IN (VALUES ('a', 'b', 'c', x'00'))",
            "SEARCH holds USING PRIMARY KEY (namespace=? AND queue=? AND unique_key=?)",
        ),
        (
            "SELECT 1 FROM jobs WHERE output_blob = x'00'",
            "SEARCH jobs USING COVERING INDEX jobs_output_blob (output_blob=?)",
        ),
        (
            "SELECT j.payload FROM jobs j WHERE j.namespace = 'a' AND j.queue = 'b' \
             AND j.id > x'00' AND j.state < 10 AND j.state > 0 AND j.run_at < 1 \
             AND j.changed_at < 1 AND true ORDER BY j.id LIMIT 10",
            "SEARCH j USING INDEX jobs_live (namespace=? AND queue=? AND id>?)",
        ),
        (
            "SELECT j.payload FROM jobs j WHERE j.namespace = 'a' AND j.queue = 'b' \
             AND j.id > x'00' AND j.state < 10 AND j.state > 0 AND j.run_at < 1 \
             AND j.changed_at < 1 AND j.flow_group = 7 ORDER BY j.id LIMIT 10",
            "SEARCH j USING INDEX jobs_groups (namespace=? AND queue=? AND flow_group=? AND id>?)",
        ),
        (
            "SELECT id FROM jobs INDEXED BY jobs_live WHERE namespace = 'a' AND queue = 'b' \
             AND state < 10 AND state > 0 AND id > x'00' ORDER BY id LIMIT 1 OFFSET 19999",
            "SEARCH jobs USING INDEX jobs_live (namespace=? AND queue=? AND id>?)",
        ),
        (
            "SELECT id FROM jobs WHERE id < x'ff' AND namespace = 'a' AND id >= x'00' \
             AND state IN (1, 2) AND queue = 'b' ORDER BY id DESC LIMIT 10",
            "SEARCH jobs USING INDEX sqlite_autoindex_jobs_1 (id>? AND id<?)",
        ),
    ] {
        let mut reader = ledger.reader().await.unwrap();
        let explain = format!("EXPLAIN QUERY PLAN {sql}");
        let steps = statement::composed(&mut reader, explain, Args::default()).await.unwrap();
        let steps: Vec<String> = steps.iter().map(|step| step.get("detail")).collect();
        assert!(steps.iter().any(|step| step == index), "{sql}\n{steps:#?}");
        assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "{sql}\n{steps:#?}");
    }
    ledger.close().await;
}
