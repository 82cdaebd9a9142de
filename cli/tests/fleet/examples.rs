//! The examples of the repository, run as a user would.

use serde_json::json;

use crate::harness::{Fleet, until};

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_example_does_what_its_head_says() {
    let fleet = Fleet::start().await;
    let _worker = fleet.worker(8);
    let pages = fleet.python("examples/pages/pages.py", &fleet.submitter_key, &[]);
    let output = tokio::task::spawn_blocking(|| pages.wait_with_output()).await.expect("it ran");
    let output = output.expect("its output");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("http_status_404"), "the dead letter is listed: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_in_plain_python_runs_jobs() {
    let fleet = Fleet::start().await;
    let job = json!({ "kind": "text.reverse", "payload": { "text": "windlass" } });
    let ids = fleet.submit(1, job).await;
    let mut worker = fleet.python("examples/remote_worker.py", &fleet.worker_key, &["--once"]);
    let jobs = fleet.all_in(&ids, "succeeded").await;
    assert_eq!(jobs[0]["output"], json!({ "reversed": "ssaldniw" }));
    let status = until("the worker ends", || {
        let ended = worker.try_wait().expect("it can be waited for");
        async move { ended }
    })
    .await;
    assert!(status.success());
}
