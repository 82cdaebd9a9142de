//! Jobs that are cancelled, changed or replaced, whatever else is under way.

use super::*;

#[tokio::test]
async fn a_cancelled_job_never_starts_whatever_is_under_way() {
    let world = World::new().await;
    // Cancelled right after the submission, so that its push may still be on its way.
    for _ in 0..200 {
        let job = world.submit(new_job()).await;
        let reply = world.life.cancel(&world.namespace, job.id, "test").await.unwrap();
        assert!(matches!(reply, Changed::Done(Cancelled::Now(_))), "{reply:?}");
    }
    // A job behind them shows that every push has arrived.
    let last = world.submit(new_job()).await;
    assert_eq!(world.claim().await.id, last.id);
    assert!(world.claim_now().await.jobs.is_empty());
    let again = world.life.cancel(&world.namespace, last.id, "test").await.unwrap();
    assert!(
        matches!(again, Changed::Done(Cancelled::Requested(_))),
        "a running job is asked to stop"
    );
}

#[tokio::test]
async fn a_running_job_that_was_cancelled_ends_as_its_worker_says() {
    let world = World::new().await;
    let job = world.submit(new_job()).await;
    let claimed = world.claim().await;
    world.life.cancel(&world.namespace, job.id, "test").await.unwrap();
    assert!(world.job(job.id).await.cancel_requested);
    let retry = Verdict::Retry { delay: Duration::ZERO };
    world.settle(&claimed, retry, error("interrupted")).await;
    world.record().await;
    assert_eq!(world.job(job.id).await.state, JobState::Cancelled, "no other attempt starts");
}

#[tokio::test]
async fn a_patch_moves_a_waiting_job_and_spares_a_running_one() {
    let world = World::new().await;
    let job = world.submit(new_job()).await;
    soon("the job in the engine", || async { world.live(job.id).await }).await;
    let other: QueueName = "other".parse().unwrap();
    let patch = JobPatch { queue: Some(other.clone()), ..JobPatch::default() };
    let changed = world.life.patch(&world.namespace, job.id, &patch).await.unwrap();
    assert!(matches!(changed, Changed::Done(_)), "{changed:?}");
    assert!(world.claim_now().await.jobs.is_empty(), "it left its old queue");
    let moved = World { shard: ShardId::first(world.namespace.clone(), other), ..world };
    let claimed = moved.claim().await;
    assert_eq!(claimed.id, job.id);

    let patch = JobPatch { priority: Some(Priority::MAX), ..JobPatch::default() };
    let refused = moved.life.patch(&moved.namespace, job.id, &patch).await.unwrap();
    assert_eq!(refused, Changed::Refused(JobState::Running));
    assert!(matches!(moved.live(job.id).await, Some(LiveState::Leased { cancel: false, .. })));
}

#[tokio::test]
async fn a_bulk_action_changes_what_matches_and_nothing_else() {
    let world = World::new().await;
    let tagged = NewJob { tags: vec!["old".into()], ..new_job() };
    for _ in 0..3 {
        world.submit(NewJob { id: JobId::generate(), ..tagged.clone() }).await;
    }
    let spared = world.submit(new_job()).await;
    let filter = JobFilter { tags: vec!["old".into()], ..JobFilter::default() };
    let (life, namespace) = (&world.life, &world.namespace);
    assert_eq!(life.count(namespace, Action::Cancel, &filter).await.unwrap(), 3);
    assert_eq!(life.count(namespace, Action::Retry { rate: None }, &filter).await.unwrap(), 0);
    let operation =
        life.start_action(namespace, Action::Cancel, filter.clone(), "test").await.unwrap();
    let ended = soon("the operation's end", || async {
        let operation = life.ledger().operation(namespace, operation.id).await.unwrap().unwrap();
        (operation.state != "running").then_some(operation)
    })
    .await;
    assert_eq!((ended.state.as_str(), ended.matched, ended.changed), ("succeeded", 3, 3));
    assert_eq!(world.job(spared.id).await.state, JobState::Ready);
    assert_eq!(life.count(namespace, Action::Retry { rate: None }, &filter).await.unwrap(), 3);
}

/// Goal: whatever else changes a job while it is cancelled, "cancelled" means that it never starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_moved_while_it_is_cancelled_never_starts_once_cancelled() {
    let world = World::new().await;
    let other: QueueName = "other".parse().unwrap();
    let mut cancelled = Vec::new();
    for _ in 0..150 {
        let job = world.submit(new_job()).await;
        let patch = JobPatch { queue: Some(other.clone()), ..JobPatch::default() };
        let (life, namespace) = (&world.life, &world.namespace);
        let (ended, _moved) = tokio::join!(
            life.cancel(namespace, job.id, "test"),
            life.patch(namespace, job.id, &patch)
        );
        match ended.unwrap() {
            Changed::Done(Cancelled::Now(_)) => cancelled.push(job.id),
            Changed::Done(Cancelled::Requested(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(!cancelled.is_empty());
    // A job behind them in each queue shows that every push has arrived.
    let here = world.submit(new_job()).await;
    let there = world.submit(NewJob { queue: other, ..new_job() }).await;
    let life = &world.life;
    for (name, last) in [("default", here.id), ("other", there.id)] {
        let shard = ShardId::first(Namespace::default(), name.parse().unwrap());
        soon("the last push", || async { life.engine().peek(&shard, last).await.unwrap() }).await;
        for id in &cancelled {
            let live = life.engine().peek(&shard, *id).await.unwrap();
            assert!(live.is_none(), "{id} is cancelled and in the queue {name}: {live:?}");
        }
    }
}

/// Goal: two changes at once leave one form of the job in the engine, in one queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_two_callers_change_at_once_is_in_one_queue_only() {
    let world = World::new().await;
    let here = world.shard.clone();
    let there = ShardId::first(world.namespace.clone(), "other".parse().unwrap());
    let mut jobs = Vec::new();
    for _ in 0..150 {
        let job = world.submit(new_job()).await;
        let moves = JobPatch { queue: Some(there.queue.clone()), ..JobPatch::default() };
        let rises = JobPatch { priority: Some(Priority::MAX), ..JobPatch::default() };
        let (life, namespace) = (&world.life, &world.namespace);
        let changes = tokio::join!(
            life.patch(namespace, job.id, &moves),
            life.patch(namespace, job.id, &rises)
        );
        for change in [changes.0.unwrap(), changes.1.unwrap()] {
            assert!(matches!(change, Changed::Done(_)), "{change:?}");
        }
        jobs.push(job.id);
    }
    // A job behind them in each queue shows that every push has arrived.
    for shard in [&here, &there] {
        let last = world.submit(NewJob { queue: shard.queue.clone(), ..new_job() }).await;
        soon("the last push", || async { world.life.engine().peek(shard, last.id).await.unwrap() })
            .await;
    }
    for id in jobs {
        let old = world.life.engine().peek(&here, id).await.unwrap();
        assert!(old.is_none(), "{id} was moved and is in its old queue: {old:?}");
        let job = world.job(id).await;
        assert_eq!((&job.queue, job.priority), (&there.queue, Priority::MAX));
    }
}

/// Goal: the holder that a submission replaced does not start after it was shown as cancelled.
#[tokio::test]
async fn a_replaced_job_leaves_the_engine_before_the_answer() {
    let world = World::new().await;
    let unique = Unique { key: "k".into(), window: None, on_conflict: OnConflict::Replace };
    let job = || NewJob { unique: Some(unique.clone()), ..new_job() };
    let old = world.submit(job()).await;
    soon("the holder in the engine", || async { world.live(old.id).await }).await;
    let submission = Submission { jobs: vec![job()], atomic: false, idempotency: None };
    let outcome = world.life.submit(submission).await.unwrap();
    let SubmitOutcome::Done(results) = outcome else { panic!("{outcome:?}") };
    let Ok(Accepted::Replaced(new, replaced)) = &results[0] else { panic!("{results:?}") };
    assert_eq!(*replaced, old.id);
    let live = world.life.engine().peek(&world.shard, old.id).await.unwrap();
    assert_eq!(live, None);
    assert_eq!(world.claim().await.id, new.id);
    assert!(world.claim_now().await.jobs.is_empty());
}

/// Goal: the end of a bulk action is noted although the ledger refuses it at first.
#[tokio::test]
async fn the_end_of_a_bulk_action_is_noted_again_until_it_is_taken() {
    let world = World::new().await;
    for _ in 0..3 {
        world.submit(new_job()).await;
    }
    let (life, namespace) = (&world.life, &world.namespace);
    let refuse = "CREATE TRIGGER no_end BEFORE UPDATE ON operations WHEN NEW.state <> 'running' \
                  BEGIN SELECT RAISE(ABORT, 'not now'); END";
    life.ledger().tamper(refuse.into()).await.unwrap();
    let filter = JobFilter::default();
    let operation = life.start_action(namespace, Action::Cancel, filter, "test").await.unwrap();
    let read =
        || async { life.ledger().operation(namespace, operation.id).await.unwrap().unwrap() };
    soon("the last page", || async { (read().await.changed == 3).then_some(()) }).await;
    // The end is refused by now.
    for _ in 0..50 {
        life.ledger().now().await.unwrap();
    }
    assert_eq!(read().await.state, "running");
    life.ledger().tamper("DROP TRIGGER no_end".into()).await.unwrap();
    let ended = soon("the operation's end", || async {
        Some(read().await).filter(|operation| operation.state != "running")
    })
    .await;
    assert_eq!((ended.state.as_str(), ended.changed), ("succeeded", 3));
}
