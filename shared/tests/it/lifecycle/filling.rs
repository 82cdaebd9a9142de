//! What the sweep and the pump bring to an engine, and what they leave alone.

use super::*;

#[tokio::test]
async fn an_empty_engine_is_filled_with_what_has_not_ended() {
    let world = World::new().await;
    let done = world.submit(new_job()).await;
    let claimed = world.claim().await;
    world.settle(&claimed, Verdict::Succeeded, output("1")).await;
    world.record().await;
    let retrying = world.submit(new_job()).await;
    let claimed = world.claim().await;
    world.settle(&claimed, Verdict::Retry { delay: Duration::from_secs(30) }, error("busy")).await;
    world.record().await;
    let waiting = world.submit(new_job()).await;

    let world = world.wiped().await;
    assert!(world.live(waiting.id).await.is_none());
    assert_eq!(world.fill().await.pushed, 2);
    assert!(matches!(world.live(waiting.id).await, Some(LiveState::Ready { ahead: 0 })));
    let live = world.life.get(&world.namespace, retrying.id).await.unwrap().unwrap().live.unwrap();
    assert_eq!((live.state, live.attempt), (LiveState::Delayed, 1), "its back-off survives");
    assert!(world.live(done.id).await.is_none());
    assert_eq!(world.fill().await.pushed, 0, "repeating changes nothing");
}

/// Goal: of a queue longer than the engine has room for, every job runs without waiting for the sweep.
/// Method: room for 10, 60 jobs, a worker by hand, and the pump in between.
#[tokio::test]
async fn the_pump_fills_a_long_queue_again_as_it_drains() {
    let world = World::new().await;
    let first = world.submit(new_job()).await;
    soon("the first is there", || async { world.live(first.id).await }).await;
    let queue =
        world.life.ledger().queue(&world.namespace, &world.shard.queue).await.unwrap().unwrap();
    let room = ShardSettings { version: queue.version + 1, jobs_max: 10, ..queue.shard_settings() };
    assert!(world.life.engine().configure(&world.shard, &room).await.unwrap());
    let mut waiting = std::collections::BTreeSet::from([first.id]);
    for _ in 0..59 {
        waiting.insert(world.submit(new_job()).await.id);
    }
    soon("jobs without keys have their part", || async {
        (world.life.engine().stats(&world.shard).await.unwrap().ready == 8).then_some(())
    })
    .await;

    let mut pump = Pump::default();
    for _ in 0..1_000 {
        pump.pass(&world.life, &queue).await.unwrap();
        for claimed in world.claim_now().await.jobs {
            assert_eq!(
                world.settle(&claimed, Verdict::Succeeded, output("1")).await,
                Settled::Settled
            );
            assert!(waiting.remove(&claimed.id), "{} ran twice", claimed.id);
        }
        world.record().await;
        if waiting.is_empty() {
            break;
        }
    }
    assert!(waiting.is_empty(), "{} never ran", waiting.len());
    let stats = world.life.engine().stats(&world.shard).await.unwrap();
    assert_eq!((stats.ready, stats.leased, stats.outbox), (0, 0, 0));
}

/// Goal: a tenant with more jobs than there is room for keeps out nobody, and all of its jobs run; also after the engine
/// has lost everything.
/// Method: room for 20, 150 jobs of a tenant, and behind them 3 of each of 6 others, of which each wave that is claimed
/// has some.
#[tokio::test]
async fn a_long_queue_of_one_tenant_keeps_out_nobody() {
    let of = |tenant: &str| {
        let spec = JobSpec { fairness_key: Some(tenant.into()), ..JobSpec::default() };
        NewJob { spec, ..new_job() }
    };
    for is_wiped in [false, true] {
        let mut world = World::new().await;
        let first = world.submit(of("large")).await;
        soon("the first is there", || async { world.live(first.id).await }).await;
        let queue =
            world.life.ledger().queue(&world.namespace, &world.shard.queue).await.unwrap().unwrap();
        let room =
            ShardSettings { version: queue.version + 1, jobs_max: 20, ..queue.shard_settings() };
        assert!(world.life.engine().configure(&world.shard, &room).await.unwrap());
        let mut waiting = std::collections::BTreeSet::from([first.id]);
        for _ in 0..149 {
            waiting.insert(world.submit(of("large")).await.id);
        }
        let mut small = std::collections::BTreeSet::new();
        for n in 0..18 {
            small.insert(world.submit(of(&format!("small{}", n % 6))).await.id);
        }
        waiting.extend(&small);
        let stats = async |world: &World| world.life.engine().stats(&world.shard).await.unwrap();
        soon("there is no room left", || async {
            (stats(&world).await.ready == 20 && stats(&world).await.refused >= 2).then_some(())
        })
        .await;
        if is_wiped {
            world = world.wiped().await;
            assert!(world.life.engine().configure(&world.shard, &room).await.unwrap());
            assert_eq!(world.fill().await.pushed, 20);
        }
        let (mut pump, mut claims, mut small_done_at) = (Pump::default(), 0, None);
        for _ in 0..1_000 {
            pump.pass(&world.life, &queue).await.unwrap();
            for claimed in world.claim_now().await.jobs {
                claims += 1;
                let settled = world.settle(&claimed, Verdict::Succeeded, output("1")).await;
                assert_eq!(settled, Settled::Settled);
                assert!(waiting.remove(&claimed.id), "{} ran twice", claimed.id);
                small.remove(&claimed.id);
            }
            world.record().await;
            if small.is_empty() && small_done_at.is_none() {
                small_done_at = Some(claims);
            }
            if waiting.is_empty() {
                break;
            }
        }
        assert!(waiting.is_empty(), "{} never ran", waiting.len());
        let most = small_done_at.unwrap();
        assert!(most <= 100, "the others waited for {most} jobs");
        for _ in 0..3 {
            pump.pass(&world.life, &queue).await.unwrap();
        }
        assert_eq!(stats(&world).await.refused, 0, "all is there");
    }
}

/// Goal: jobs that the engine refuses ahead of their time hold up nobody, and come in as room comes back.
/// Method: room for 10, more jobs for later than one push call takes, and one for now behind them.
#[tokio::test]
async fn jobs_refused_ahead_of_their_time_hold_up_nobody() {
    let world = World::new().await;
    let run_at = Some(Clock::System.now().plus(Duration::from_secs(50)));
    let jobs = (0..250).map(|_| NewJob { run_at, ..new_job() }).collect();
    let submission = Submission { jobs, atomic: false, idempotency: None };
    world.life.submit(submission).await.unwrap();
    let for_now = world.submit(new_job()).await;
    let queue = world.life.ledger().queues(None).await.unwrap().remove(0);
    let world = world.wiped().await;
    let room = ShardSettings { version: queue.version + 1, jobs_max: 10, ..queue.shard_settings() };
    assert!(world.life.engine().configure(&world.shard, &room).await.unwrap());

    assert_eq!(world.fill().await.pushed, 11);
    assert_eq!(world.claim_now().await.jobs[0].id, for_now.id);
    let mut pump = Pump::default();
    assert_eq!(pump.pass(&world.life, &queue).await.unwrap().pushed, 0, "there is no room yet");
    let (now, namespace) = (Clock::System.now().plus(LEASE), &world.namespace);
    let (ahead, ledger) = (now.plus(Duration::from_secs(60)), world.life.ledger());
    let page = Unfinished::new(namespace, &queue.name, (ahead, now), 5);
    let page = ledger.unfinished(page).await.unwrap();
    for job in page.jobs {
        world.life.cancel(namespace, job.id, "test").await.unwrap();
    }
    assert_eq!(pump.pass(&world.life, &queue).await.unwrap().pushed, 5);
    let stats = world.life.engine().stats(&world.shard).await.unwrap();
    assert_eq!((stats.delayed, stats.leased), (10, 1));
}

#[tokio::test]
async fn the_sweep_ends_what_must_not_start() {
    let world = World::new().await;
    let soon_over = NewJob {
        expires_at: Some(Clock::System.now().plus(Duration::from_millis(1))),
        ..new_job()
    };
    let expired = world.submit(soon_over).await;
    world.shutdown.cancel();
    let world = world.wiped().await;
    soon("its expiry", || async {
        (Clock::System.now() > expired.expires_at.unwrap()).then_some(())
    })
    .await;
    let filled = world.fill().await;
    assert_eq!((filled.ended, filled.pushed), (1, 0));
    assert_eq!(world.job(expired.id).await.state, JobState::Expired);
}

#[tokio::test]
async fn the_sweep_leaves_alone_what_changed_just_now() {
    let world = World::new().await;
    world.submit(new_job()).await;
    let queue = world.life.ledger().queues(None).await.unwrap().remove(0);
    let swept = Sweeper::default().pass(&world.life, &queue).await.unwrap();
    assert_eq!(swept.checked, 0, "the common path may still be carrying it");
}

/// Goal: a record of a newer build is left to a newer build, not ended as somebody else's.
#[tokio::test]
async fn a_job_that_this_build_cannot_read_is_put_off_and_not_ended() {
    let world = World::new().await;
    let sound = world.submit(new_job()).await;
    let strange = world.submit(new_job()).await;
    soon("both in the engine", || async {
        (world.live(sound.id).await.is_some() && world.live(strange.id).await.is_some())
            .then_some(())
    })
    .await;
    let set = "spec = '{\"max_attempts\":\"many\"}'";
    world.life.ledger().tamper_job(strange.id, set).await.unwrap();
    let take = |wait| Take {
        namespace: world.namespace.clone(),
        worker: WorkerId::generate(),
        queues: vec![QueueName::default()],
        kinds: Vec::new(),
        max: 10,
        lease: LEASE,
        wait,
    };
    let taken = world.life.take(take(SOON)).await.unwrap();
    assert_eq!(taken.iter().map(|t| t.job.id).collect::<Vec<_>>(), [sound.id]);
    world.record().await;
    // It is not lost: it waits in the engine for a build that can read it, and its attempts have not counted.
    let live = world.life.engine().peek(&world.shard, strange.id).await.unwrap().unwrap();
    assert!(matches!(live.state, LiveState::Delayed), "{live:?}");
    assert_eq!((live.attempt, live.crashes), (0, 0));
    let spec = serde_json::to_string(&strange.spec).unwrap();
    world.life.ledger().tamper_job(strange.id, &format!("spec = '{spec}'")).await.unwrap();
    let job = world.job(strange.id).await;
    assert_eq!((job.state, job.attempt), (JobState::Scheduled, 0));
}
