//! Workers that speak to the API only.

use super::*;

/// A remote worker, that speaks to the API only.
async fn taken(rig: &Rig) -> Shown {
    let take = Take {
        namespace: rig.shard.namespace.clone(),
        worker: rig.worker,
        queues: vec![rig.shard.queue.clone()],
        kinds: Vec::new(),
        max: 1,
        lease: LEASE,
        wait: SOON,
    };
    let taken = rig.life.take(take).await.unwrap().remove(0);
    Shown { queue: taken.job.queue, held: taken.held, told: Default::default() }
}

#[tokio::test]
async fn a_remote_workers_lease_survives_a_wipe() {
    let rig = Rig::new().await;
    rig.submit(1).await;
    let shown = taken(&rig).await;
    rig.engine.wipe();
    let namespace = rig.shard.namespace.clone();
    let extended =
        rig.life.extend_taken(&namespace, std::slice::from_ref(&shown), LEASE).await.unwrap();
    assert!(extended[0].is_some(), "adopted on its behalf");
    rig.verify_with(&[]).await;
    assert!(rig.try_claim(1).await.1.is_empty(), "it is held");
    let ends = [(shown.clone(), End::Succeed(None))];
    let landed = rig.life.settle_taken(&namespace, "remote", &ends).await.unwrap();
    assert_eq!(landed, [Landed::Yes]);
    rig.record_all().await;
    assert_eq!(rig.state(shown.held.id).await, JobState::Succeeded);
}

#[tokio::test]
async fn a_remote_workers_result_survives_a_wipe() {
    let rig = Rig::new().await;
    rig.submit(1).await;
    let shown = taken(&rig).await;
    rig.engine.wipe();
    let ends = [(shown.clone(), End::Succeed(None))];
    for _ in 0..2 {
        let landed = rig.life.settle_taken(&rig.shard.namespace, "remote", &ends).await.unwrap();
        assert_eq!(landed, [Landed::Yes], "also when it is repeated");
    }
    assert_eq!(rig.state(shown.held.id).await, JobState::Succeeded);
    rig.verify_with(&[]).await;
    assert!(rig.try_claim(1).await.1.is_empty());
}
