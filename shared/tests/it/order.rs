//! Jobs in order through the verbs of their life: what the ledger releases comes to the engine at once, and nothing else
//! does.

use std::time::Duration;

use serde_json::json;
use windlass_shared::engine::envelope::Detail;
use windlass_shared::engine::{Settled, Verdict};
use windlass_shared::ledger::{Changed, JobPatch};
use windlass_shared::lifecycle::Cancelled;
use windlass_shared::lifecycle::order::Tender;
use windlass_shared::model::job::{Job, JobSpec, JobState, NewJob, OrderOnFailure};

use crate::lifecycle::{World, new_job};

fn ordered(on_failure: OrderOnFailure) -> NewJob {
    let spec = JobSpec {
        order_key: Some("k".into()),
        order_on_failure: on_failure,
        max_attempts: 1,
        ..JobSpec::default()
    };
    NewJob { spec, ..new_job() }
}

async fn skipping(world: &World) -> Job {
    world.submit(ordered(OrderOnFailure::Skip)).await
}

/// Claims the one job that may run, which must be this, and ends it; its outcome is recorded.
async fn run(world: &World, job: &Job, verdict: Verdict) {
    let claimed = world.claim().await;
    assert_eq!(claimed.id, job.id);
    assert!(world.claim_now().await.jobs.is_empty(), "one at a time");
    assert_eq!(world.settle(&claimed, verdict, Detail::default()).await, Settled::Settled);
    assert!(world.claim_now().await.jobs.is_empty(), "not before the end is on record");
    assert_eq!(world.record().await, 1);
}

/// Goal: every way to leave an order brings the next job to the engine, with no sweep.
#[tokio::test]
async fn the_next_one_can_be_claimed_as_soon_as_its_turn_comes() {
    let world = World::new().await;
    let mut jobs = vec![skipping(&world).await, skipping(&world).await, skipping(&world).await];
    jobs.push(world.submit(ordered(OrderOnFailure::Block)).await);
    jobs.push(skipping(&world).await);
    run(&world, &jobs[0], Verdict::Succeeded).await;
    for cancelled in [&jobs[2], &jobs[1]] {
        let done = world.life.cancel(&world.namespace, cancelled.id, "not needed").await.unwrap();
        assert!(matches!(done, Changed::Done(Cancelled::Now(_))), "{done:?}");
    }
    run(&world, &jobs[3], Verdict::Dead).await;
    assert_eq!(world.job(jobs[4].id).await.state, JobState::Blocked);
    world.life.delete(&world.namespace, jobs[3].id).await.unwrap();
    run(&world, &jobs[4], Verdict::Succeeded).await;
    let again = world.life.redrive(&world.namespace, jobs[1].id).await.unwrap();
    assert!(matches!(again, Changed::Done(_)));
    run(&world, &jobs[1], Verdict::Succeeded).await;
}

#[tokio::test]
async fn an_engine_that_is_emptied_does_not_forget_the_order() {
    let mut world = World::new().await;
    let jobs = [skipping(&world).await, skipping(&world).await, skipping(&world).await];
    for job in &jobs {
        world = world.wiped().await;
        assert_eq!(world.fill().await.pushed, 1, "the first of the order and no other");
        run(&world, job, Verdict::Succeeded).await;
    }
}

#[tokio::test]
async fn a_blocked_job_is_explained() {
    let world = World::new().await;
    let first = world.submit(ordered(OrderOnFailure::Block)).await;
    let (_, last) = (skipping(&world).await, skipping(&world).await);
    let explanation = world.life.explain(&world.namespace, last.id).await.unwrap().unwrap();
    let reason = &explanation.reasons[0];
    assert_eq!((explanation.state, reason.code), (JobState::Blocked, "blocked_by"));
    let head = json!({ "id": first.id, "state": "ready" });
    assert_eq!(reason.evidence, json!({ "order_key": "k", "before": 2, "head": head }));
    assert!(!explanation.runnable);
    run(&world, &first, Verdict::Dead).await;
    let explanation = world.life.explain(&world.namespace, last.id).await.unwrap().unwrap();
    let reason = &explanation.reasons[0];
    assert_eq!(reason.evidence["head"], json!({ "id": first.id, "state": "dead" }));
    assert!(reason.detail.contains("until it is retried"), "{}", reason.detail);
}

#[tokio::test]
async fn what_is_late_expires_while_it_is_blocked() {
    let world = World::new().await;
    let first = skipping(&world).await;
    let expires_at = Some(world.life.ledger().now().await.unwrap().minus(Duration::from_secs(1)));
    let late = world.submit(NewJob { expires_at, ..ordered(OrderOnFailure::Skip) }).await;
    let last = skipping(&world).await;
    let waiting = world.life.wait(&world.namespace, late.id, Duration::from_secs(10));
    let tending = async {
        let mut tender = Tender::default();
        assert_eq!(tender.pass(&world.life).await.unwrap(), 1);
        assert_eq!(tender.pass(&world.life).await.unwrap(), 0);
    };
    let (waited, ()) = tokio::join!(waiting, tending);
    let late = waited.unwrap().flatten().expect("it has ended, and who waits is told");
    assert_eq!(late.state, JobState::Expired);
    assert_eq!(late.error.unwrap().code, "expired");
    run(&world, &first, Verdict::Succeeded).await;
    run(&world, &last, Verdict::Succeeded).await;
}

/// Goal: a change that is refused takes nothing out of the engine.
#[tokio::test]
async fn a_refused_change_leaves_the_job_where_it_is() {
    let world = World::new().await;
    let (first, second) = (skipping(&world).await, skipping(&world).await);
    let moved = JobPatch { queue: Some("elsewhere".parse().unwrap()), ..JobPatch::default() };
    let reply = world.life.patch(&world.namespace, first.id, &moved).await.unwrap();
    assert_eq!(reply, Changed::Refused(JobState::Ready));
    let tagged = JobPatch { tags: Some(vec!["x".into()]), ..JobPatch::default() };
    let reply = world.life.patch(&world.namespace, second.id, &tagged).await.unwrap();
    assert_eq!(reply, Changed::Refused(JobState::Blocked));
    run(&world, &first, Verdict::Succeeded).await;
    run(&world, &second, Verdict::Succeeded).await;
}
