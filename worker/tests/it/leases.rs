//! What holds a lease, and what happens when it is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use serde_json::json;
use tokio::sync::Notify;
use windlass_shared::clock::Clock;
use windlass_shared::engine::{ClaimRequest, Ended, Held, Settle, Settled, Verdict};
use windlass_shared::model::id::{LeaseId, WorkerId};
use windlass_shared::model::job::JobSpec;
use windlass_shared::model::time::Timestamp;
use windlass_worker::builder::WorkerBuilder;
use windlass_worker::context::Context;
use windlass_worker::error::HandlerError;

use crate::fixture::{PATIENCE, Rig, Running, spec};

/// Goal: handlers that block every thread of the worker's runtime do not cost their leases.
/// Method: a worker on a runtime of two threads, both of which spin for three leases; the test, on a
/// runtime of its own, reaps all the while and must find nothing.
#[tokio::test]
async fn a_handler_that_blocks_every_thread_keeps_its_lease() {
    block_every_thread(Rig::new().await).await;
}

pub async fn block_every_thread(mut rig: Rig) {
    const LEASES: u32 = 3;
    let spinning = rig.settings.lease * LEASES;
    let runs = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&runs);
    let worker = rig
        .builder()
        .handle("spin", move |_ctx, (): ()| {
            let runs = Arc::clone(&runs);
            async move {
                runs.fetch_add(1, Ordering::SeqCst);
                let until = Instant::now() + spinning;
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
                Ok::<_, HandlerError>(())
            }
        })
        .build()
        .unwrap();
    let ids = [
        rig.push("spin", json!(null), spec(1)).await,
        rig.push("spin", json!(null), spec(1)).await,
    ];
    let stop = tokio_util::sync::CancellationToken::new();
    let token = stop.clone();
    let thread = std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime
            .unwrap()
            .block_on(async { tokio::spawn(worker.run(token)).await.unwrap() })
            .unwrap();
    });
    let engine = rig.engine.clone();
    let shard = rig.shard.clone();
    let reaper = tokio::spawn(async move {
        let mut reaped = 0;
        loop {
            reaped += engine.reap(&shard, 100).await.unwrap();
            assert_eq!(reaped, 0, "a lease has run out");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    for id in ids {
        assert_eq!(rig.first(id).await.ended, Ended::Succeeded);
    }
    assert!(!reaper.is_finished());
    reaper.abort();
    assert_eq!(seen.load(Ordering::SeqCst), 2);
    stop.cancel();
    tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
}

/// Handlers that tell when they start and when they are told to stop, and end when they are let go.
struct Watched {
    started: Arc<Notify>,
    told: Arc<Notify>,
    go: Arc<Notify>,
}

impl Watched {
    fn new() -> Self {
        Self { started: Arc::default(), told: Arc::default(), go: Arc::default() }
    }

    fn add(&self, builder: WorkerBuilder) -> WorkerBuilder {
        let (started, told, go) =
            (Arc::clone(&self.started), Arc::clone(&self.told), Arc::clone(&self.go));
        builder.handle("watched", move |ctx: Context, (): ()| {
            let (started, told, go) = (Arc::clone(&started), Arc::clone(&told), Arc::clone(&go));
            let token = ctx.cancellation();
            async move {
                started.notify_one();
                tokio::select! {
                    () = token.cancelled() => {
                        told.notify_one();
                        Err(HandlerError::cancelled())
                    }
                    () = go.notified() => Ok(()),
                }
            }
        })
    }
}

async fn soon(what: &Notify) {
    tokio::time::timeout(PATIENCE, what.notified()).await.expect("it does not happen");
}

/// A rig on a clock that stands still, so that leases end when the test says so.
async fn rig_with_job(watched: &Watched, spec: JobSpec) -> (Rig, Clock, Running, Held) {
    let clock = Clock::manual(Timestamp::from_millis(1_800_000_000_000));
    let mut rig = Rig::on(clock.clone()).await;
    // Its only slot is taken, so the worker cannot claim the job again while it runs.
    rig.settings.concurrency = 1;
    let worker = rig.start(|b| watched.add(b));
    let id = rig.push("watched", json!(null), spec).await;
    soon(&watched.started).await;
    let now = rig.engine.now().await.unwrap();
    let fence = rig.engine.leased(&rig.shard, None, now, 10).await.unwrap()[0].fence;
    (rig, clock, worker, Held { id, fence, lease_id: LeaseId::random() })
}

#[tokio::test]
async fn an_exclusive_job_is_stopped_before_its_lease_can_pass_on() {
    let watched = Watched::new();
    let exclusive = JobSpec { exclusive: true, ..spec(1) };
    let (mut rig, clock, worker, held) = rig_with_job(&watched, exclusive).await;
    let before = Instant::now();
    // The lease runs out in the engine: the worker is not granted any extension from now on.
    clock.advance(Duration::from_secs(60));
    assert_eq!(rig.engine.reap(&rig.shard, 10).await.unwrap(), 1);
    soon(&watched.told).await;
    assert!(before.elapsed() < rig.settings.lease, "{:?}", before.elapsed());
    // It is claimed again, and this time its lease lasts.
    soon(&watched.started).await;
    watched.go.notify_one();
    let ends = rig.outcomes(held.id, |o| o.ended.is_terminal()).await;
    let ends: Vec<Ended> = ends.into_iter().map(|end| end.ended).collect();
    assert_eq!(ends, [Ended::Lost, Ended::Succeeded]);
    worker.stop().await;
}

#[tokio::test]
async fn other_jobs_run_on_and_the_fence_decides_about_their_result() {
    let watched = Watched::new();
    let (mut rig, clock, worker, held) = rig_with_job(&watched, spec(1)).await;
    clock.advance(Duration::from_secs(60));
    assert_eq!(rig.engine.reap(&rig.shard, 10).await.unwrap(), 1);
    // The first run ends well, but its result must not count: the job is claimed and run again.
    watched.go.notify_one();
    soon(&watched.started).await;
    assert!(watched.told.notified().now_or_never().is_none());
    watched.go.notify_one();
    let ends = rig.outcomes(held.id, |o| o.ended.is_terminal()).await;
    let ends: Vec<Ended> = ends.into_iter().map(|end| end.ended).collect();
    assert_eq!(ends, [Ended::Lost, Ended::Succeeded]);
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_another_worker_holds_is_stopped() {
    let watched = Watched::new();
    let clock = Clock::manual(Timestamp::from_millis(1_800_000_000_000));
    let mut rig = Rig::on(clock.clone()).await;
    rig.settings.concurrency = 1;
    let worker = rig.start(|b| watched.add(b));
    let id = rig.push("watched", json!(null), spec(1)).await;
    soon(&watched.started).await;
    clock.advance(Duration::from_secs(60));
    let request = ClaimRequest {
        worker: WorkerId::generate(),
        lease_id: LeaseId::random(),
        max: 1,
        lease: Duration::from_secs(600),
        kinds: Vec::new(),
        offset: 0,
        ledger: None,
    };
    // Its only slot is taken, so the worker cannot claim it back.
    let claimed = rig.engine.claim(&rig.shard, &request).await.unwrap().jobs.remove(0);
    soon(&watched.told).await;
    let held = Held { id, fence: claimed.fence, lease_id: request.lease_id };
    let settle =
        Settle { dependency: None, held, verdict: Verdict::Succeeded, detail: bytes::Bytes::new() };
    let settled = rig.engine.settle(&rig.shard, &[settle]).await.unwrap();
    assert_eq!(settled.settles, [Settled::Settled]);
    let ends = rig.outcomes(id, |o| o.ended.is_terminal()).await;
    assert_eq!(
        ends.into_iter().map(|end| end.ended).collect::<Vec<_>>(),
        [Ended::Lost, Ended::Succeeded]
    );
    worker.stop().await;
}
