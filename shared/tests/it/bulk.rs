//! Bulk retries: at their pace, and to the end of their process.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use windlass_shared::engine::ShardId;
use windlass_shared::ledger::{JobFilter, Operation};
use windlass_shared::lifecycle::{Action, Lifecycle};
use windlass_shared::model::id::{JobId, OperationId};
use windlass_shared::model::job::{JobState, NewJob};
use windlass_shared::model::name::{Namespace, QueueName};

use crate::lifecycle::{World, new_job, soon};

/// So many jobs that were cancelled.
async fn cancelled(world: &World, jobs: usize) {
    for _ in 0..jobs {
        world.submit(NewJob { id: JobId::generate(), ..new_job() }).await;
    }
    let id = start(&world.life, Action::Cancel).await;
    let ended = soon("the cancellation", || async {
        Some(read(&world.life, id).await).filter(|operation| operation.state != "running")
    });
    assert_eq!(ended.await.changed, jobs as u64);
}

async fn start(life: &Lifecycle, action: Action) -> OperationId {
    let filter = JobFilter::default();
    life.start_action(&Namespace::default(), action, filter, "test").await.unwrap().id
}

fn retry(rate: u32) -> Action {
    Action::Retry { rate: NonZeroU32::new(rate) }
}

async fn read(life: &Lifecycle, id: OperationId) -> Operation {
    life.ledger().operation(&Namespace::default(), id).await.unwrap().expect("it was started")
}

async fn in_state(life: &Lifecycle, state: JobState) -> usize {
    let filter = JobFilter { states: vec![state], ..JobFilter::default() };
    life.ledger().list(&Namespace::default(), &filter, None, 500).await.unwrap().jobs.len()
}

/// Goal: a metered retry is never ahead of its rate, though its jobs are read by the page, and tells its progress.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metered_retry_starts_jobs_at_its_rate() {
    const RATE: u32 = 40;
    const JOBS: usize = 80;
    let world = World::new().await;
    cancelled(&world, JOBS).await;
    let shard = ShardId::first(Namespace::default(), QueueName::default());
    let began = Instant::now();
    let id = start(&world.life, retry(RATE)).await;
    let mut progress = Vec::new();
    let ended = loop {
        let ready = world.life.engine().stats(&shard).await.unwrap().ready;
        // A tenth of a second may be made up; the first comes at once.
        let due = f64::from(RATE) * (began.elapsed().as_secs_f64() + 0.1) + 1.0;
        assert!(ready as f64 <= due, "{ready} after {:?}", began.elapsed());
        let operation = read(&world.life, id).await;
        if operation.state != "running" {
            break operation;
        }
        progress.push((operation.matched, operation.changed));
        assert!(began.elapsed() < Duration::from_secs(30), "{operation:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!((ended.state.as_str(), ended.matched, ended.changed), ("succeeded", 80, 80));
    // 79 turns after the first, 25 ms each.
    assert!(began.elapsed() >= Duration::from_millis(1_875), "{:?}", began.elapsed());
    progress.dedup();
    assert!(progress.contains(&(40, 40)), "{progress:?}");
    assert_eq!(in_state(&world.life, JobState::Ready).await, JOBS);
}

/// Goal: a process that is told to stop does not wait for a retry that has minutes to go, and says at once that it did
/// not end; started again, it does the rest.
#[tokio::test]
async fn a_process_that_stops_ends_its_retries() {
    const JOBS: usize = 100;
    let world = World::new().await;
    cancelled(&world, JOBS).await;
    let id = start(&world.life, retry(2)).await;
    soon("progress", || async { (read(&world.life, id).await.changed > 0).then_some(()) }).await;
    // Waits for its tasks.
    let began = Instant::now();
    let world = world.wiped().await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let stopped = read(&world.life, id).await;
    assert_eq!(stopped.state, "failed");
    assert!(stopped.error.as_deref().is_some_and(|error| error.contains("stopped")), "{stopped:?}");
    assert!(stopped.finished_at.is_some());
    let ready = in_state(&world.life, JobState::Ready).await;
    assert_eq!(ready as u64, stopped.changed, "what was changed was counted");
    assert!((1..JOBS).contains(&ready), "{ready}");

    let id = start(&world.life, Action::Retry { rate: None }).await;
    let ended = soon("the operation's end", || async {
        Some(read(&world.life, id).await).filter(|operation| operation.state != "running")
    })
    .await;
    assert_eq!((ended.state.as_str(), ended.changed), ("succeeded", (JOBS - ready) as u64));
    assert_eq!(in_state(&world.life, JobState::Ready).await, JOBS);
}
