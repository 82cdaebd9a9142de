//! Failpoints: each is placed once, and does what `WINDLASS_FAIL` says in a process that is built with them.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_shared::clock::Clock;
use windlass_shared::config::{EngineSettings, LedgerSettings};
use windlass_shared::engine::Engine;
use windlass_shared::fail::POINTS;
use windlass_shared::failpoint;
use windlass_shared::ledger::{JobFilter, Ledger, Submission};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::job::{NewJob, Value};
use windlass_shared::model::name::{Namespace, QueueName};

/// The names of all `failpoint!`s under the crates' `src`.
fn placed() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut folders: Vec<_> = ["shared", "api", "worker", "scheduler", "cli"]
        .iter()
        .map(|name| root.join(name).join("src"))
        .collect();
    let mut names = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("src/fail.rs")
            {
                let text = std::fs::read_to_string(&path).expect("readable source");
                let places = text.split("failpoint!(").skip(1);
                names.extend(places.map(|rest| rest.split('"').nth(1).unwrap_or("").to_owned()));
            }
        }
    }
    names
}

#[test]
fn every_point_is_placed_once() {
    let mut placed = placed();
    placed.sort_unstable();
    let mut points = POINTS.map(str::to_owned);
    points.sort_unstable();
    assert_eq!(placed, points);
}

#[test]
fn every_point_is_documented() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rig/failpoints.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut documented: Vec<_> = rows.collect();
    documented.sort_unstable();
    let mut points = POINTS;
    points.sort_unstable();
    assert_eq!(documented, points);
}

/// Names the folder of the ledger to a child process, which then only submits a job.
const CHILD: &str = "WINDLASS_FAILPOINTS_TEST_FOLDER";

fn settings(folder: &Path) -> LedgerSettings {
    LedgerSettings::new(format!("sqlite://{}/ledger.db", folder.display()))
}

async fn submit_one(folder: &Path) {
    let ledger = Ledger::open(&settings(folder)).await.unwrap();
    let engine = Engine::open(&EngineSettings::new("embedded")).await.unwrap();
    let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
    let life = Lifecycle::start(ledger, engine, Clock::System, shutdown, tasks);
    let value = Value::Inline(Bytes::from_static(b"{}"));
    let job =
        NewJob::new(Namespace::default(), QueueName::default(), "echo".parse().unwrap(), value);
    let submission = Submission { jobs: vec![job], atomic: false, idempotency: None };
    life.submit(submission).await.unwrap();
}

/// Runs this test again as a process of its own that submits a job. How it ended, and how many jobs the
/// ledger has.
async fn submit_in_child(test: &str, order: Option<&str>) -> (ExitStatus, usize) {
    let folder = tempfile::tempdir().unwrap();
    Ledger::migrate(&settings(folder.path())).await.unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test]).env(CHILD, folder.path()).env_remove("WINDLASS_FAIL");
    if let Some(order) = order {
        child.env("WINDLASS_FAIL", order);
    }
    let output = child.output().unwrap();
    let ledger = Ledger::open(&settings(folder.path())).await.unwrap();
    let page = ledger.list(&Namespace::default(), &JobFilter::default(), None, 10).await.unwrap();
    (output.status, page.jobs.len())
}

#[tokio::test]
async fn a_process_dies_after_the_commit_and_not_before() {
    let name = "a_process_dies_after_the_commit_and_not_before";
    if let Some(folder) = std::env::var_os(CHILD) {
        return submit_one(Path::new(&folder)).await;
    }
    let (status, jobs) = submit_in_child(name, None).await;
    assert!(status.success() && jobs == 1, "{status}, {jobs} jobs");
    let (status, jobs) = submit_in_child(name, Some("submit.committed=abort@2")).await;
    assert!(status.success() && jobs == 1, "only one was submitted: {status}, {jobs} jobs");
    let (status, jobs) = submit_in_child(name, Some("submit.committed=abort")).await;
    assert_eq!((status.signal(), jobs), (Some(6), 1));
    let (status, jobs) = submit_in_child(name, Some("submit.committed=panic")).await;
    assert_eq!((status.code(), jobs), (Some(101), 1));
    let (status, jobs) = submit_in_child(name, Some("submit.comitted=abort")).await;
    assert_eq!((status.code(), jobs), (Some(2), 1), "a point that does not exist");
}

#[test]
fn sleeps_errors_and_times_are_as_ordered() {
    if std::env::var_os(CHILD).is_some() {
        // Both points stand in for any.
        let started = Instant::now();
        let fails = || -> Result<(), ()> {
            failpoint!("submit.committed", return Err(()));
            Ok(())
        };
        assert_eq!([fails(), fails(), fails()], [Ok(()), Err(()), Ok(())]);
        assert!(started.elapsed() < Duration::from_millis(200));
        failpoint!("record.before_confirm");
        assert!(started.elapsed() >= Duration::from_millis(200));
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sleeps_errors_and_times_are_as_ordered"])
        .env(CHILD, "unused")
        .env("WINDLASS_FAIL", "submit.committed=error@2;record.before_confirm=sleep(200)")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
