//! exists, peek, leased, stats and configure.

use super::*;
use crate::engine::flow::{FlowSettings, Limits, Rate};
use crate::engine::{Live, Running, ShardStats};

/// From its push to its end.
pub async fn peek_shows_every_state(rig: &Rig) {
    rig.open().await;
    let start = rig.now().await;
    let peek = async || rig.engine.peek(&rig.shard, id(0)).await.unwrap();
    assert_eq!(peek().await, None);
    let run_at = start.plus(us(1_500));
    rig.push(&[Push { fence: Fence(4), attempt: 1, crashes: 2, run_at, ..rig.job(0).await }]).await;
    let state = LiveState::Delayed;
    let delayed = Live { state, fence: Fence(4), attempt: 1, crashes: 2, run_at };
    assert_eq!(peek().await, Some(delayed));
    rig.advance(ms(2)).await;
    rig.engine.promote(&rig.shard, 9).await.unwrap();
    assert_eq!(peek().await, Some(Live { state: LiveState::Ready { ahead: 0 }, ..delayed }));
    let request = rig.request(1);
    let claimed = rig.claim_as(&request).await.jobs.remove(0);
    let (worker, claimed_at) = (request.worker, start.plus(ms(2)));
    let expires_at = claimed_at.plus(LEASE);
    let state = LiveState::Leased { worker, claimed_at, expires_at, cancel: false };
    assert_eq!(peek().await, Some(Live { state, fence: claimed.fence, ..delayed }));
    rig.settle(proof(&request, &claimed), Verdict::Dead).await;
    let state = LiveState::Finishing;
    assert_eq!(peek().await, Some(Live { state, fence: claimed.fence, attempt: 2, ..delayed }));
    rig.confirm_all().await;
    assert_eq!(peek().await, None);
}

/// In ready order.
pub async fn peek_counts_the_jobs_ahead(rig: &Rig) {
    rig.open_with(4).await;
    rig.push(&[Push { priority: Priority::MAX, ..rig.job(9).await }]).await;
    assert_eq!(rig.state(9).await, Some(LiveState::Ready { ahead: 0 }));
    assert_eq!(rig.state(0).await, Some(LiveState::Ready { ahead: 1 }));
    assert_eq!(rig.state(3).await, Some(LiveState::Ready { ahead: 4 }));
    rig.claim(2).await;
    assert_eq!(rig.state(3).await, Some(LiveState::Ready { ahead: 2 }));
}

/// The sweep pushes what the shard does not know.
pub async fn exists_knows_every_state(rig: &Rig) {
    rig.open_with(4).await;
    let run_at = rig.now().await.plus(ms(1_000));
    rig.push(&[Push { run_at, ..rig.job(4).await }]).await;
    let (confirmed, _) = rig.claim_one().await;
    rig.settle(confirmed, Verdict::Succeeded).await;
    rig.confirm_all().await;
    let (finishing, _) = rig.claim_one().await;
    rig.settle(finishing, Verdict::Succeeded).await;
    rig.claim_one().await;
    rig.cancel(9, Fence(1)).await;
    let ids = [id(0), id(8), id(1), id(2), id(3), id(4), id(9)];
    let known = rig.engine.exists(&rig.shard, &ids).await.unwrap();
    assert_eq!(known, [true, false, true, true, true, true, true]);
}

/// Only those given by then, whatever their ends.
pub async fn leases_are_listed_oldest_first(rig: &Rig) {
    rig.open_with(3).await;
    let long = ClaimRequest { lease: LEASE * 4, ..rig.request(1) };
    rig.claim_as(&long).await;
    let first = rig.now().await;
    rig.advance(us(1)).await;
    let (settled, _) = rig.claim_one().await;
    rig.advance(us(1)).await;
    let (_, third) = rig.claim_one().await;
    let third_at = rig.now().await;
    rig.settle(settled, Verdict::Succeeded).await;
    let list = async |by, max| {
        let running: Vec<Running> = rig.engine.leased(&rig.shard, None, by, max).await.unwrap();
        running.iter().map(|lease| (lease.id, lease.claimed_at)).collect::<Vec<_>>()
    };
    assert_eq!(list(third_at, 9).await, [(id(0), first), (id(2), third_at)]);
    assert_eq!(list(third_at, 1).await, [(id(0), first)]);
    assert_eq!(list(third_at.minus(us(1)), 9).await, [(id(0), first)]);
    assert_eq!(list(first.minus(us(1)), 9).await, []);
    let running = rig.engine.leased(&rig.shard, None, first, 9).await.unwrap();
    assert_eq!((running[0].worker, running[0].attempt), (long.worker, 0));
    assert!(running[0].fence < third.fence);
}

/// Also among leases of one instant, and after the last one seen has ended.
pub async fn a_list_of_leases_goes_on_where_it_stopped(rig: &Rig) {
    rig.open_with(5).await;
    let held: Vec<Held> = rig.claim(5).await.into_iter().map(|(held, _)| held).collect();
    let now = rig.now().await;
    let mut after = None;
    let mut seen = Vec::new();
    for page in [2, 2, 1, 0] {
        let running = rig.engine.leased(&rig.shard, after, now, 2).await.unwrap();
        assert_eq!(running.len(), page);
        seen.extend(running.iter().map(|lease| lease.id));
        after = running.last().map(|lease| (lease.claimed_at, lease.id)).or(after);
        if page == 2 {
            let last = seen.len() - 1;
            rig.settle(held[last], Verdict::Succeeded).await;
        }
    }
    assert_eq!(seen, [id(0), id(1), id(2), id(3), id(4)]);
}

/// In constant time, so that anybody may ask often.
pub async fn stats_count_everything(rig: &Rig) {
    rig.open().await;
    let now = rig.now().await;
    let waits_since = now.minus(us(1_234_567));
    rig.push(&[
        rig.job(0).await,
        Push { run_at: waits_since, ..rig.job(1).await },
        Push { run_at: now.plus(ms(1)), ..rig.job(2).await },
        rig.job(3).await,
        Push { run_at: now.minus(ms(9_000)), ..rig.job(4).await },
        Push { run_at: now.minus(ms(9_001)), ..rig.job(5).await },
    ])
    .await;
    let (held, claimed) = rig.claim_one().await;
    rig.claim_one().await;
    let detail = Bytes::from_static(b"12345");
    rig.settle_all(&[Settle { dependency: None, held, verdict: Verdict::Succeeded, detail }]).await;
    let expected = ShardStats {
        ready: 3,
        delayed: 1,
        leased: 1,
        outbox: 1,
        bytes: 6 * claimed.envelope.len() as u64 + 5 + crate::engine::model::OUTCOME_BYTES,
        refused: 0,
        oldest_ready: Some(waits_since),
        settings: Some(ShardSettings { version: 1, ..ShardSettings::default() }),
        open: true,
        now,
    };
    assert_eq!(rig.engine.stats(&rig.shard).await.unwrap(), expected);
}

/// A slow writer with old settings loses.
pub async fn settings_never_go_back(rig: &Rig) {
    let at = |version, paused| ShardSettings { version, paused, ..ShardSettings::default() };
    assert!(rig.configure(at(5, false)).await);
    assert!(rig.configure(at(5, true)).await, "the same version again is applied");
    assert!(!rig.configure(at(4, false)).await);
    let exact = ShardSettings {
        version: 6,
        paused: true,
        jobs_max: 123_456_789,
        bytes_max: 1 << 40,
        priority_unit: ms(1_500),
        flow: FlowSettings {
            queue: Limits { concurrency: Some(7), rate: Some(Rate { interval_us: 9, burst: 8 }) },
            keys: Limits { concurrency: Some(6), rate: None },
            ..FlowSettings::default()
        },
    };
    assert!(rig.configure(exact.clone()).await);
    let stats = rig.engine.stats(&rig.shard).await.unwrap();
    assert_eq!(stats.settings, Some(exact));
}

/// Of one queue, and of one name in two namespaces.
pub async fn shards_are_apart(rig: &Rig) {
    rig.open_with(1).await;
    let second = ShardId { index: 1, ..rig.shard.clone() };
    let namespace: Namespace = "another".parse().unwrap();
    let foreign = ShardId { namespace, ..rig.shard.clone() };
    for other in [second, foreign] {
        assert_eq!(rig.engine.exists(&other, &[id(0)]).await.unwrap(), [false]);
        assert_eq!(rig.engine.stats(&other).await.unwrap().settings, None);
        let pushed = rig
            .engine
            .push(&other, &[rig.job(0).await], &until(rig.now().await))
            .await
            .unwrap()
            .pushed;
        assert_eq!(pushed, [Pushed::Added], "the same id is another job there");
        open_shard(&rig.engine, &other, ShardSettings::default()).await.unwrap();
        assert_eq!(rig.engine.claim(&other, &rig.request(9)).await.unwrap().jobs.len(), 1);
    }
    assert_eq!(rig.claim_ids(9).await, [id(0)]);
}

/// Every verb answers, and nothing comes of it.
pub async fn an_unknown_shard_is_empty(rig: &Rig) {
    assert_eq!(rig.claim(9).await, []);
    assert_eq!(rig.reap(9).await, 0);
    assert_eq!(rig.engine.promote(&rig.shard, 9).await.unwrap(), 0);
    assert_eq!(rig.outcomes().await, []);
    let now = rig.now().await;
    rig.confirm(Mark { seq: 9, id: id(0), fence: Fence(1), at: now }).await;
    assert_eq!((rig.state(0).await, rig.knows(0).await), (None, false));
    assert_eq!(rig.engine.leased(&rig.shard, None, now, 9).await.unwrap(), []);
    let held = Held { id: id(0), fence: Fence(1), lease_id: LeaseId::random() };
    assert_eq!(rig.extend(held, LEASE).await, Extended::Gone);
    assert_eq!(rig.settle(held, Verdict::Succeeded).await, Settled::Gone);
    let stats = rig.engine.stats(&rig.shard).await.unwrap();
    assert_eq!(stats, ShardStats { now, ..ShardStats::default() });
}
