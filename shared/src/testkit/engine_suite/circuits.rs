//! Circuit breakers.

use super::*;
use crate::engine::flow::{
    CircuitMode, CircuitSetting, Dependency, Flow, FlowKey, FlowSettings, Keys,
};
use crate::engine::model::CircuitState;
use crate::engine::{Ended, Limit};

const PROBE: Duration = Duration::from_secs(2);

fn api() -> FlowKey {
    FlowKey::of("api")
}

/// Opens after two failures, and probes every two seconds.
fn setting() -> CircuitSetting {
    let probe_us = PROBE.as_micros() as u64;
    CircuitSetting { failures: 2, percent: 0, probe_us, ..CircuitSetting::default() }
}

async fn set(rig: &Rig, version: u64, setting: CircuitSetting) {
    let flow = FlowSettings { circuits: [(api(), setting)].into(), ..FlowSettings::default() };
    assert!(rig.configure(ShardSettings { version, flow, ..ShardSettings::default() }).await);
}

/// Jobs `from` to `to`, of which each calls the dependency.
async fn push_calls(rig: &Rig, from: u8, to: u8) {
    let keys = Keys { circuit: Some("api"), ..Keys::default() };
    let mut jobs = Vec::new();
    for n in from..to {
        jobs.push(Push { flow: Flow::new(&kind("plain"), keys), ..rig.job(n).await });
    }
    assert_eq!(rig.push(&jobs).await, vec![Pushed::Added; jobs.len()]);
}

async fn tell(rig: &Rig, held: Held, verdict: Verdict, told: Dependency) {
    let settle = Settle { held, verdict, dependency: Some(told), detail: Bytes::new() };
    assert_eq!(rig.settle_all(&[settle]).await, [Settled::Settled]);
}

const RETRY: Verdict = Verdict::Retry { delay: Duration::from_secs(3600) };

/// Opens the circuit: two of the jobs fail.
async fn break_it(rig: &Rig) {
    for (held, job) in rig.claim(2).await {
        assert!(!job.probe);
        tell(rig, held, RETRY, Dependency::Failed).await;
    }
}

async fn state(rig: &Rig) -> Option<CircuitState> {
    let circuits = rig.engine.circuits(&rig.shard).await.unwrap();
    circuits.into_iter().find(|(key, _)| *key == api()).map(|(_, circuit)| circuit.state)
}

/// After so many failures in a row its jobs wait; others do not.
pub async fn failures_open_a_circuit(rig: &Rig) {
    set(rig, 1, setting()).await;
    push_calls(rig, 0, 6).await;
    rig.push(&[rig.job(9).await]).await;
    let given = rig.claim(4).await;
    let calls: Vec<Held> =
        given.iter().map(|(held, _)| *held).filter(|held| held.id != id(9)).collect();
    assert_eq!(calls.len(), 3, "jobs without keys take turns with them");
    tell(rig, calls[0], RETRY, Dependency::Failed).await;
    tell(rig, calls[1], Verdict::Succeeded, Dependency::Answered).await;
    tell(rig, calls[2], RETRY, Dependency::Failed).await;
    assert_eq!(state(rig).await, Some(CircuitState::Closed), "not one after the other");
    let (held, _) = rig.claim_one().await;
    tell(rig, held, RETRY, Dependency::Failed).await;
    assert_eq!(state(rig).await, Some(CircuitState::Open));
    rig.push(&[rig.job(10).await]).await;
    let reply = rig.claim_as(&rig.request(9)).await;
    assert_eq!(reply.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [id(10)]);
    assert_eq!(reply.next_due, Some(reply.now.plus(PROBE)));
    let holds = rig.engine.holds(&rig.shard, id(5)).await.unwrap().unwrap();
    assert_eq!((holds[0].limit, holds[0].until), (Limit::Circuit, Some(reply.now.plus(PROBE))));
}

/// While it is open one job starts per interval; its failure is no attempt.
pub async fn one_probe_starts_per_interval(rig: &Rig) {
    set(rig, 1, setting()).await;
    push_calls(rig, 0, 6).await;
    break_it(rig).await;
    for _ in 0..3 {
        rig.advance(PROBE - ms(1)).await;
        assert_eq!(rig.claim_ids(9).await, []);
        rig.advance(ms(1)).await;
        let given = rig.claim(9).await;
        assert_eq!(given.len(), 1);
        assert!(given[0].1.probe);
        assert_eq!(rig.claim_ids(9).await, [], "only one");
        tell(rig, given[0].0, RETRY, Dependency::Failed).await;
        let outcome = rig.last_outcome().await;
        assert!(matches!(outcome.ended, Ended::Snoozed(_)), "{outcome:?}");
        assert_eq!(outcome.attempt, 0);
        assert_eq!(state(rig).await, Some(CircuitState::Open));
    }
    rig.advance(PROBE).await;
    let (held, job) = rig.claim_one().await;
    assert!(job.probe);
    tell(rig, held, Verdict::Succeeded, Dependency::Answered).await;
    assert_eq!(state(rig).await, Some(CircuitState::Closed));
}

/// When the probe has succeeded its jobs start: one at first, four times as many in each second, and all after four.
pub async fn a_probe_that_succeeds_closes_the_circuit(rig: &Rig) {
    set(rig, 1, setting()).await;
    push_calls(rig, 0, 120).await;
    break_it(rig).await;
    rig.advance(PROBE).await;
    let (held, _) = rig.claim_one().await;
    tell(rig, held, Verdict::Succeeded, Dependency::Answered).await;
    let mut started = [0; 4];
    for n in 0..160 {
        started[n / 40] += rig.claim_ids(9).await.len();
        rig.advance(ms(25)).await;
    }
    assert_eq!(started[0], 1);
    assert!((3..=5).contains(&started[1]), "{started:?}");
    assert!((10..=17).contains(&started[2]), "{started:?}");
    assert!((30..=65).contains(&started[3]), "{started:?}");
    assert_eq!(rig.claim_ids(9).await.len(), 9);
}

/// A probe that is lost, or says nothing, is followed by another one.
pub async fn a_probe_that_says_nothing_is_followed_by_another(rig: &Rig) {
    set(rig, 1, setting()).await;
    push_calls(rig, 0, 6).await;
    break_it(rig).await;
    rig.advance(PROBE).await;
    let (held, _) = rig.claim_one().await;
    assert_eq!(rig.settle(held, Verdict::Release).await, Settled::Settled);
    let (held, job) = rig.claim_one().await;
    assert!(job.probe, "at once");
    assert_eq!(rig.lose_leases().await, 1);
    assert_eq!(rig.claim_ids(9).await, [], "a lost one after a while");
    rig.advance(PROBE).await;
    let (again, job) = rig.claim_one().await;
    assert_eq!((again.id, job.probe), (held.id, true));
    // What the one that was lost says late is of no account.
    let settle = Settle {
        held,
        verdict: Verdict::Succeeded,
        dependency: Some(Dependency::Answered),
        detail: Bytes::new(),
    };
    assert_ne!(rig.settle_all(&[settle]).await, [Settled::Settled]);
    assert!(matches!(state(rig).await, Some(CircuitState::HalfOpen { .. })));
}

/// A share of failures opens it too, from so many calls on.
pub async fn a_share_of_failures_opens_a_circuit(rig: &Rig) {
    let share = CircuitSetting { failures: 0, percent: 50, calls_min: 4, ..setting() };
    set(rig, 1, share).await;
    push_calls(rig, 0, 9).await;
    let told = [Dependency::Failed, Dependency::Answered, Dependency::Failed];
    for told in told {
        let (held, _) = rig.claim_one().await;
        tell(rig, held, Verdict::Dead, told).await;
    }
    assert_eq!(state(rig).await, Some(CircuitState::Closed), "too few");
    let (held, _) = rig.claim_one().await;
    rig.advance(Duration::from_secs(61)).await;
    rig.extend(held, LEASE).await;
    tell(rig, held, Verdict::Dead, Dependency::Failed).await;
    assert_eq!(state(rig).await, Some(CircuitState::Closed), "the window is over");
    for told in told {
        let (held, _) = rig.claim_one().await;
        tell(rig, held, Verdict::Dead, told).await;
    }
    assert_eq!(state(rig).await, Some(CircuitState::Open));
}

/// An operator's word stands over what calls say.
pub async fn an_operator_opens_and_closes_a_circuit(rig: &Rig) {
    set(rig, 1, CircuitSetting { mode: CircuitMode::Open, ..setting() }).await;
    push_calls(rig, 0, 6).await;
    assert_eq!(rig.claim_ids(9).await, []);
    rig.advance(Duration::from_secs(3600)).await;
    assert_eq!(rig.claim_ids(9).await, [], "not even a probe");
    set(rig, 2, CircuitSetting { mode: CircuitMode::Closed, ..setting() }).await;
    for (held, _) in rig.claim(3).await {
        tell(rig, held, RETRY, Dependency::Failed).await;
    }
    assert_eq!(rig.claim_ids(1).await.len(), 1, "whatever happens");
    set(rig, 3, setting()).await;
    break_it(rig).await;
    assert_eq!(state(rig).await, Some(CircuitState::Open));
    push_calls(rig, 6, 8).await;
    assert_eq!(rig.claim_ids(9).await, []);
    assert!(rig.engine.reset_circuit(&rig.shard, api()).await.unwrap());
    assert_eq!(rig.claim_ids(9).await, [id(6), id(7)]);
    assert!(!rig.engine.reset_circuit(&rig.shard, api()).await.unwrap());
}

/// The last attempt of a job is none either where it was the probe; one that is not worth another is the end.
pub async fn a_probe_does_not_use_up_a_job(rig: &Rig) {
    set(rig, 1, setting()).await;
    push_calls(rig, 0, 6).await;
    break_it(rig).await;
    rig.advance(PROBE).await;
    let (held, _) = rig.claim_one().await;
    tell(rig, held, Verdict::Dead, Dependency::Exhausted).await;
    assert!(matches!(rig.last_outcome().await.ended, Ended::Snoozed(_)));
    rig.advance(PROBE).await;
    let (again, job) = rig.claim_one().await;
    assert!(again.id != held.id && job.probe, "it waits behind the others");
    tell(rig, again, Verdict::Dead, Dependency::Failed).await;
    assert_eq!(rig.last_outcome().await.ended, Ended::Dead);
    rig.advance(PROBE).await;
    let (held, _) = rig.claim_one().await;
    let stop = [(held.id, held.fence)];
    rig.engine.cancel(&rig.shard, &stop, crate::engine::Withdraw::StopRunning).await.unwrap();
    tell(rig, held, Verdict::Dead, Dependency::Exhausted).await;
    assert_eq!(rig.last_outcome().await.ended, Ended::Dead, "it was to stop");
}

/// What is down for long is probed less often, and after an hour its probes are attempts.
pub async fn a_dependency_that_stays_away_does_not_keep_its_jobs(rig: &Rig) {
    set(rig, 1, setting()).await;
    push_calls(rig, 0, 6).await;
    break_it(rig).await;
    let opened = rig.now().await;
    // Whoever is not looked at for a window after a probe might have started is not taken to wait.
    assert_eq!(rig.claim_ids(9).await, []);
    rig.advance(Duration::from_secs(1_920)).await;
    let (held, _) = rig.claim_one().await;
    tell(rig, held, RETRY, Dependency::Failed).await;
    rig.advance(Duration::from_millis(29_999)).await;
    assert_eq!(rig.claim_ids(9).await, [], "a 64th of half an hour");
    rig.advance(ms(1)).await;
    let (held, _) = rig.claim_one().await;
    tell(rig, held, RETRY, Dependency::Failed).await;
    assert!(matches!(rig.last_outcome().await.ended, Ended::Snoozed(_)));
    assert_eq!(rig.claim_ids(9).await, []);
    rig.advance(Duration::from_secs(3_600) - rig.now().await.since(opened)).await;
    let (held, job) = rig.claim_one().await;
    assert!(job.probe);
    tell(rig, held, RETRY, Dependency::Failed).await;
    assert!(matches!(rig.last_outcome().await.ended, Ended::Retry(_)));
    assert_eq!(rig.claim_ids(9).await, []);
    rig.advance(Duration::from_secs(86_400)).await;
    let (held, _) = rig.claim_one().await;
    tell(rig, held, RETRY, Dependency::Failed).await;
    rig.advance(Duration::from_millis(59_999)).await;
    assert_eq!(rig.claim_ids(9).await, []);
    rig.advance(ms(1)).await;
    assert_eq!(rig.claim_ids(9).await.len(), 1, "a minute is the most");
}

/// A circuit that nobody waits for is forgotten, and what answers is never kept.
pub async fn a_circuit_without_jobs_is_forgotten(rig: &Rig) {
    set(rig, 1, setting()).await;
    push_calls(rig, 0, 4).await;
    let (held, _) = rig.claim_one().await;
    tell(rig, held, Verdict::Succeeded, Dependency::Answered).await;
    assert_eq!(state(rig).await, None, "it has never failed");
    let (held, _) = rig.claim_one().await;
    tell(rig, held, Verdict::Dead, Dependency::Failed).await;
    assert_eq!(state(rig).await, Some(CircuitState::Closed));
    rig.advance(Duration::from_secs(60)).await;
    rig.engine.promote(&rig.shard, 1).await.unwrap();
    assert_eq!(state(rig).await, None, "that was a window ago");
    for (held, _) in rig.claim(2).await {
        tell(rig, held, Verdict::Dead, Dependency::Failed).await;
    }
    assert_eq!(state(rig).await, Some(CircuitState::Open));
    rig.advance(PROBE + Duration::from_secs(59)).await;
    rig.engine.promote(&rig.shard, 1).await.unwrap();
    assert_eq!(state(rig).await, Some(CircuitState::Open));
    rig.advance(Duration::from_secs(1)).await;
    rig.engine.promote(&rig.shard, 1).await.unwrap();
    assert_eq!(state(rig).await, None);
}
