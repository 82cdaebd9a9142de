//! subscribe. Signals are hints: a case waits for the one that it is about and passes over others.

use super::*;
use crate::engine::{Signal, Signals, Topic};

/// Real time, as signals travel in it.
const PATIENCE: Duration = Duration::from_secs(10);

impl Rig {
    async fn listen(&self) -> Signals {
        self.engine.subscribe(std::slice::from_ref(&self.shard)).await.expect("subscribe")
    }

    fn ready(&self) -> Signal {
        Signal::Ready(self.shard.clone())
    }

    /// The signals heard until a mark of this case's own comes along: the outcome of another job.
    async fn heard(&self, signals: &mut Signals) -> Vec<Signal> {
        let mark = self.job(250).await;
        let fence = mark.fence;
        self.push(&[mark]).await;
        let kinds = vec![kind("plain")];
        self.claim_as(&ClaimRequest { kinds, ..self.request(1) }).await;
        self.cancel(250, fence).await;
        let mut heard = Vec::new();
        loop {
            let signal = next(signals).await;
            if signal == Signal::Cancel(self.shard.clone(), id(250)) {
                return heard;
            }
            heard.push(signal);
        }
    }
}

async fn next(signals: &mut Signals) -> Signal {
    let signal = tokio::time::timeout(PATIENCE, signals.next()).await;
    signal.expect("a signal comes in time").expect("no signal was missed")
}

async fn wait_for(signals: &mut Signals, wanted: &Signal) {
    while next(signals).await != *wanted {}
}

/// Whoever waits for work hears of it.
pub async fn a_push_wakes(rig: &Rig) {
    rig.open().await;
    let mut signals = rig.listen().await;
    rig.push(&[rig.job(0).await]).await;
    wait_for(&mut signals, &rig.ready()).await;
}

/// Nothing to do yet; then there is.
pub async fn a_job_for_later_does_not_wake_until_promoted(rig: &Rig) {
    rig.open().await;
    let run_at = rig.now().await.plus(ms(100));
    let mut signals = rig.listen().await;
    rig.push(&[Push { run_at, ..rig.job(0).await }]).await;
    rig.advance(ms(100)).await;
    rig.engine.promote(&rig.shard, 9).await.unwrap();
    wait_for(&mut signals, &rig.ready()).await;
    // By a claim that leaves some of what it promoted to others.
    let run_at = rig.now().await.plus(ms(100));
    rig.push(&[Push { run_at, ..rig.job(1).await }, Push { run_at, ..rig.job(2).await }]).await;
    rig.advance(ms(100)).await;
    assert_eq!(rig.claim(1).await.len(), 1);
    wait_for(&mut signals, &rig.ready()).await;
}

/// Pushes into a paused shard wake nobody.
pub async fn a_resumed_shard_wakes(rig: &Rig) {
    let at = |version, paused| ShardSettings { version, paused, ..ShardSettings::default() };
    rig.configure(at(1, true)).await;
    let mut signals = rig.listen().await;
    rig.push(&[rig.job(0).await]).await;
    rig.configure(at(2, false)).await;
    wait_for(&mut signals, &rig.ready()).await;
}

/// Released, retried at once, or lost.
pub async fn a_returned_job_wakes(rig: &Rig) {
    rig.open_with(1).await;
    let mut signals = rig.listen().await;
    for verdict in [Verdict::Release, Verdict::Retry { delay: Duration::ZERO }] {
        let (held, _) = rig.claim_one().await;
        rig.settle(held, verdict).await;
        wait_for(&mut signals, &rig.ready()).await;
    }
    rig.claim_one().await;
    assert_eq!(rig.lose_leases().await, 1);
    wait_for(&mut signals, &rig.ready()).await;
}

/// The jobs were there all along.
pub async fn a_lifted_brake_wakes(rig: &Rig) {
    let most = BOUNDS.outbox_entries_max as u8;
    rig.open_with(most + 1).await;
    for _ in 0..most {
        let (held, _) = rig.claim_one().await;
        rig.settle(held, Verdict::Succeeded).await;
    }
    let mut signals = rig.listen().await;
    rig.confirm_all().await;
    wait_for(&mut signals, &rig.ready()).await;
}

/// Of settles and of reaps.
pub async fn outcomes_wake_the_recorder(rig: &Rig) {
    rig.open_with(2).await;
    let outcomes = Signal::Outcomes(rig.shard.clone());
    let mut signals = rig.listen().await;
    let (held, _) = rig.claim_one().await;
    rig.settle(held, Verdict::Succeeded).await;
    wait_for(&mut signals, &outcomes).await;
    rig.claim_one().await;
    rig.lose_leases().await;
    wait_for(&mut signals, &outcomes).await;
}

/// Not of a job that waits, nor of one that is spared.
pub async fn a_cancellation_is_told_to_the_holder(rig: &Rig) {
    rig.open_with(2).await;
    let (_, claimed) = rig.claim_one().await;
    let mut signals = rig.listen().await;
    rig.cancel(1, Fence(1)).await;
    let spared = [(id(0), claimed.fence)];
    let how = crate::engine::Withdraw::WaitingOnly;
    rig.engine.cancel(&rig.shard, &spared, how).await.unwrap();
    let heard = rig.heard(&mut signals).await;
    assert!(!heard.iter().any(|signal| matches!(signal, Signal::Cancel(..))), "{heard:?}");
    rig.cancel(0, claimed.fence).await;
    wait_for(&mut signals, &Signal::Cancel(rig.shard.clone(), id(0))).await;
}

/// A listener hears of what it asked for only.
pub async fn other_sorts_are_not_heard(rig: &Rig) {
    rig.open().await;
    let shards = std::slice::from_ref(&rig.shard);
    let cancels = rig.engine.subscribe_to(shards, &[Topic::Cancels]).await.expect("subscribe");
    let heard = rig.heard(&mut { cancels }).await;
    assert_eq!(heard, [], "a push, a claim and a cancellation went before");
    let both = [Topic::Ready, Topic::Outcomes];
    let mut signals = rig.engine.subscribe_to(shards, &both).await.expect("subscribe");
    rig.cancel(250, Fence(u64::MAX >> 12)).await;
    rig.push(&[rig.job(0).await]).await;
    assert_eq!(next(&mut signals).await, rig.ready());
    let (held, _) = rig.claim_one().await;
    rig.settle(held, Verdict::Succeeded).await;
    assert_eq!(next(&mut signals).await, Signal::Outcomes(rig.shard.clone()));
}

/// A listener hears of its own shards only.
pub async fn other_shards_are_not_heard(rig: &Rig) {
    rig.open().await;
    let mut signals = rig.listen().await;
    let other = ShardId { index: 7, ..rig.shard.clone() };
    open_shard(&rig.engine, &other, ShardSettings::default()).await.unwrap();
    rig.engine.push(&other, &[rig.job(0).await], &until(rig.now().await)).await.unwrap();
    let heard = rig.heard(&mut signals).await;
    // What was said of its own before may come late: the nodes of a Cluster pass it on.
    assert!(heard.iter().all(|signal| *signal.shard() == rig.shard), "{heard:?}");
}

/// When it is shut, and whenever somebody finds it shut: it is to be verified, and holders are to adopt.
pub async fn a_shut_gate_is_told(rig: &Rig) {
    let shut = Signal::Shut(rig.shard.clone());
    let shards = std::slice::from_ref(&rig.shard);
    let hear = async |topic| rig.engine.subscribe_to(shards, &[topic]).await.expect("subscribe");
    let (mut holders, mut leader) = (hear(Topic::Gates).await, hear(Topic::Unverified).await);
    rig.claim(1).await;
    assert_eq!(next(&mut leader).await, Signal::Unverified(rig.shard.clone()));
    rig.shut(1).await;
    assert_eq!(next(&mut holders).await, shut, "and not of the claim");
}

/// What came in meanwhile.
pub async fn an_opened_shard_wakes(rig: &Rig) {
    rig.open().await;
    rig.shut(2).await;
    let mut signals = rig.listen().await;
    let settings = ShardSettings { version: 2, paused: true, ..ShardSettings::default() };
    rig.engine.configure(&rig.shard, &settings).await.unwrap();
    rig.push(&[rig.job(0).await]).await;
    let settings = ShardSettings { version: 3, ..ShardSettings::default() };
    let opening = rig.opening(2, settings).await;
    assert_eq!(rig.open_gate(&opening).await, Opened::Open);
    wait_for(&mut signals, &rig.ready()).await;
}
