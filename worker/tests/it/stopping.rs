//! Cancellation, drain and shutdown.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;
use windlass_shared::engine::{CancelReply, Ended, LiveState};
use windlass_shared::model::id::JobId;
use windlass_worker::builder::WorkerBuilder;
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;

use crate::fixture::{PATIENCE, Rig, Running, spec};

/// Registers `wait`, which says that it has started and then waits to be let go, and listens or not.
fn waiting(builder: WorkerBuilder, started: &Arc<Notify>, go: &Arc<Notify>) -> WorkerBuilder {
    let (started, go) = (Arc::clone(started), Arc::clone(go));
    builder.handle("wait", move |ctx: Context, listen: bool| {
        let (started, go) = (Arc::clone(&started), Arc::clone(&go));
        async move {
            let token = listen.then(|| ctx.cancellation());
            started.notify_one();
            match token {
                Some(token) => tokio::select! {
                    () = token.cancelled() => Err(HandlerError::cancelled()),
                    () = go.notified() => Ok(()),
                },
                None => {
                    go.notified().await;
                    Ok(())
                }
            }
        }
    })
}

async fn started_job(rig: &Rig, started: &Notify, listen: bool) -> JobId {
    let id = rig.push("wait", json!(listen), spec(5)).await;
    tokio::time::timeout(PATIENCE, started.notified()).await.expect("the job does not start");
    id
}

#[tokio::test]
async fn a_running_job_is_cancelled_whether_it_listens_or_not() {
    let mut rig = Rig::new().await;
    let (started, go) = (Arc::default(), Arc::default());
    let worker = rig.start(|b| waiting(b, &started, &go));
    for listen in [true, false] {
        let id = started_job(&rig, &started, listen).await;
        assert_eq!(rig.cancel(id).await, CancelReply::Running);
        let end = rig.first(id).await;
        assert_eq!((end.ended, end.code()), (Ended::Cancelled, ""), "listens: {listen}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_handler_that_does_not_listen_is_dropped_when_its_job_is_cancelled() {
    /// Tells when it goes.
    struct Gone(Arc<Notify>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let mut rig = Rig::new().await;
    let (started, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (ready, dropped) = (Arc::clone(&started), Arc::clone(&gone));
    let worker = rig.start(|b| {
        b.handle("deaf", move |_ctx, (): ()| {
            let (started, held) = (Arc::clone(&started), Gone(Arc::clone(&gone)));
            async move {
                started.notify_one();
                std::future::pending::<()>().await;
                drop(held);
                Ok::<_, HandlerError>(())
            }
        })
    });
    let id = rig.push("deaf", json!(null), spec(1)).await;
    tokio::time::timeout(PATIENCE, ready.notified()).await.expect("the job does not start");
    assert_eq!(rig.cancel(id).await, CancelReply::Running);
    assert_eq!(rig.first(id).await.ended, Ended::Cancelled);
    tokio::time::timeout(PATIENCE, dropped.notified()).await.expect("the handler is not dropped");
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_whose_future_is_dropped_claims_nothing_more() {
    let mut rig = Rig::new().await;
    let worker = rig.builder().builtin().build().unwrap();
    let run = worker.run(tokio_util::sync::CancellationToken::new());
    let first = rig.push("noop", json!(null), spec(1)).await;
    tokio::select! {
        _ = run => panic!("the worker has ended"),
        end = rig.first(first) => assert_eq!(end.ended, Ended::Succeeded),
    }
    // A claim may be under way. Then what it gives is handed back or run to its end, and later jobs stay.
    let stays = async {
        loop {
            let id = rig.push("noop", json!(null), spec(1)).await;
            if tokio::time::timeout(Duration::from_millis(300), rig.first(id)).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, stays).await.expect("the worker goes on claiming");
}

#[tokio::test]
async fn a_job_that_ends_well_while_it_is_cancelled_has_succeeded() {
    let mut rig = Rig::new().await;
    let started = Arc::new(Notify::new());
    let ready = Arc::clone(&started);
    let worker = rig.start(|b| {
        b.handle("stubborn", move |ctx: Context, (): ()| {
            let token = ctx.cancellation();
            started.notify_one();
            async move {
                token.cancelled().await;
                Ok::<_, HandlerError>("done")
            }
        })
    });
    let id = rig.push("stubborn", json!(null), spec(1)).await;
    ready.notified().await;
    assert_eq!(rig.cancel(id).await, CancelReply::Running);
    assert_eq!(rig.first(id).await.ended, Ended::Succeeded);
    worker.stop().await;
}

#[tokio::test]
async fn a_drain_lets_running_jobs_end_and_claims_nothing_more() {
    let mut rig = Rig::new().await;
    let (started, go) = (Arc::default(), Arc::default());
    let worker = rig.start(|b| waiting(b, &started, &go));
    let id = started_job(&rig, &started, true).await;
    worker.stop.cancel();
    // The claimer stops without waiting for the job, so this one stays.
    let later = rig.push("unheard.of", json!(null), spec(1)).await;
    go.notify_one();
    worker.ended().await;
    assert_eq!(rig.first(id).await.ended, Ended::Succeeded);
    let live = rig.engine.peek(&rig.shard, later).await.unwrap().unwrap();
    assert!(matches!(live.state, LiveState::Ready { .. }));
    assert_eq!(rig.engine.stats(&rig.shard).await.unwrap().leased, 0);
}

#[tokio::test]
async fn what_does_not_end_in_the_drain_time_is_handed_back() {
    let mut rig = Rig::new().await;
    rig.settings.drain_timeout = Duration::from_millis(100);
    let (started, go) = (Arc::default(), Arc::default());
    let worker = rig.start(|b| waiting(b, &started, &go));
    let ids = [started_job(&rig, &started, true).await, started_job(&rig, &started, false).await];
    worker.stop().await;
    for id in ids {
        let end = rig.first(id).await;
        assert_eq!((end.ended, end.attempt), (Ended::Released, 0), "{end:?}");
        let live = rig.engine.peek(&rig.shard, id).await.unwrap().unwrap();
        assert!(matches!(live.state, LiveState::Ready { .. }), "{live:?}");
    }
}

#[tokio::test]
async fn an_idle_worker_stops_at_once_and_one_that_never_started_too() {
    let mut rig = Rig::new().await;
    let worker = rig.start(|b| b);
    assert_eq!(rig.run("noop", json!(null), spec(1)).await.ended, Ended::Succeeded);
    let before = std::time::Instant::now();
    worker.stop().await;
    assert!(before.elapsed() < Duration::from_secs(2));
    let worker = rig.builder().builtin().build().unwrap();
    let stopped = tokio_util::sync::CancellationToken::new();
    stopped.cancel();
    tokio::time::timeout(PATIENCE, worker.run(stopped)).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_operator_drains_a_worker_which_then_idles_until_it_is_stopped() {
    let mut rig = Rig::new().await;
    let (started, go) = (Arc::default(), Arc::default());
    *rig.memory.drain.lock().unwrap() = true;
    let worker = rig.start(|b| waiting(b, &started, &go));
    rig.memory.until(|reports| (!reports.is_empty()).then_some(())).await;
    // The first reply stops the claimer. A job that it has claimed before that runs to its end; so jobs
    // are pushed until one stays.
    let stays = async {
        loop {
            let id = rig.push("sleep", json!({"for": "0ms"}), spec(1)).await;
            let ended = tokio::time::timeout(Duration::from_millis(300), rig.first(id)).await;
            if ended.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, stays).await.expect("the worker goes on claiming");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_handler_that_blocks_its_thread_is_settled_without_it() {
    let mut rig = Rig::new().await;
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(std::sync::Mutex::new(held));
    let worker = rig.start(|b| {
        b.handle("block", move |_ctx, (): ()| {
            let held = Arc::clone(&held);
            async move {
                let _ = held.lock().unwrap().recv();
                Ok::<_, HandlerError>(())
            }
        })
    });
    let spec = crate::fixture::limited(1, 100);
    let end = rig.run("block", json!(null), spec).await;
    assert_eq!((end.ended, end.code()), (Ended::Dead, "timeout"));
    release.send(()).unwrap();
    worker.stop().await;
}

/// The example is built together with these tests.
#[tokio::test]
async fn the_example_runs_and_stops_on_interrupt() {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let mut example = Command::new(path.join("examples/own_handler"))
        .env_remove("WINDLASS_ENGINE__URL")
        .stdin(Stdio::null())
        .spawn()
        .expect("the example is not built");
    // It starts to listen for the interrupt within this time, and idles until then.
    let caught = format!("/proc/{}/status", example.id());
    let listening = || {
        let status = std::fs::read_to_string(&caught).unwrap_or_default();
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:"))
            .unwrap_or("0")
            .trim()
            .to_owned();
        u64::from_str_radix(&mask, 16).unwrap_or(0) & (1 << (libc::SIGINT - 1)) != 0
    };
    let wait = async {
        while !listening() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the example does not start");
    let pid = example.id().to_string();
    assert!(Command::new("/bin/kill").args(["-INT", &pid]).status().unwrap().success());
    let status = tokio::task::spawn_blocking(move || example.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn several_workers_share_a_queue() {
    let mut rig = Rig::new().await;
    let workers: Vec<Running> = (0..3).map(|_| rig.start(|b| b)).collect();
    let mut ids = Vec::new();
    for _ in 0..60 {
        ids.push(rig.push("sleep", json!({"for": "5ms"}), spec(1)).await);
    }
    for id in ids {
        let ends = rig.outcomes(id, |o| o.ended.is_terminal()).await;
        assert_eq!((ends.len(), ends[0].ended), (1, Ended::Succeeded));
    }
    for worker in workers {
        worker.stop().await;
    }
}
