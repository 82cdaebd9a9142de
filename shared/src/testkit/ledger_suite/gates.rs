//! Leadership, and the generations of shards. There is one lead in a ledger, so each case begins by ending the term
//! of whoever has it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;

use super::scene::{Scene, at};
use crate::engine::{Ended, ProcessId, ShardId};
use crate::ledger::{Epoch, Leader, Operation, Recorded, TERM_MAX};
use crate::model::id::{OperationId, WorkerId};
use crate::model::job::JobState;
use crate::model::time::Timestamp;

super::cases![
    one_of_many_candidates_leads,
    a_term_that_is_prolonged_keeps_its_epoch,
    the_lead_is_taken_over_after_the_term_alone,
    a_term_that_ran_out_is_taken_anew,
    the_epoch_of_a_past_leader_ends_nothing,
    a_term_that_ends_too_far_ahead_is_not_believed,
    any_name_and_any_term_is_taken,
    a_shard_on_nobodys_record_is_of_generation_0,
    one_of_many_opens_a_new_shard,
    a_verification_ends_the_chance_to_open_a_new_shard,
    generations_rise_and_nobody_shares_one,
    a_deposed_leader_verifies_nothing,
    a_leader_whose_term_ran_out_verifies_nothing,
    shards_are_counted_apart,
    an_opening_is_noted_for_the_latest_generation_alone,
    outcomes_of_before_a_verification_are_refused,
    the_id_does_not_change,
    a_past_leader_ends_no_operation,
];

/// Longer than any case.
const LONG: Duration = TERM_MAX;
const SHORT: Duration = Duration::from_millis(60);

/// Takes or prolongs the lead.
async fn lead(scene: &Scene, holder: WorkerId, term: Duration) -> Option<Epoch> {
    scene.ledger.lead(holder, "scheduler-1", term).await.unwrap()
}

async fn leader(scene: &Scene) -> Leader {
    scene.ledger.leader().await.unwrap().expect("somebody led")
}

async fn now(scene: &Scene) -> Timestamp {
    scene.ledger.now().await.unwrap()
}

/// Ends the term of whoever leads.
async fn depose(scene: &Scene) {
    if let Some(leader) = scene.ledger.leader().await.unwrap() {
        scene.ledger.resign(leader.epoch).await.unwrap();
    }
}

/// A fresh leader for longer than the case.
async fn new_leader(scene: &Scene) -> Epoch {
    depose(scene).await;
    lead(scene, WorkerId::generate(), LONG).await.expect("nobody leads")
}

/// Waits for the end of the latest term.
async fn term_over(scene: &Scene) {
    let end = leader(scene).await.expires_at;
    while now(scene).await < end {}
}

fn shard(scene: &Scene) -> ShardId {
    ShardId::first(scene.namespace.clone(), scene.queue.clone())
}

async fn next(scene: &Scene, epoch: Epoch) -> Option<u64> {
    scene.ledger.next_generation(&shard(scene), epoch).await.unwrap()
}

async fn one_of_many_candidates_leads(scene: &Scene) {
    depose(scene).await;
    let candidates: Vec<WorkerId> = (0..8).map(|_| WorkerId::generate()).collect();
    let before = now(scene).await;
    let epochs = join_all(candidates.iter().map(|id| lead(scene, *id, LONG))).await;
    let led: Vec<_> = candidates.iter().zip(epochs).filter_map(|(id, e)| Some((*id, e?))).collect();
    let [(holder, epoch)] = led[..] else { panic!("{led:?} lead at once") };
    let leader = leader(scene).await;
    assert_eq!((leader.holder, leader.name.as_str()), (holder, "scheduler-1"));
    assert_eq!(leader.epoch, epoch);
    assert!(
        leader.expires_at >= before.plus(LONG) && leader.expires_at <= now(scene).await.plus(LONG)
    );
}

async fn a_term_that_is_prolonged_keeps_its_epoch(scene: &Scene) {
    depose(scene).await;
    let holder = WorkerId::generate();
    let epoch = lead(scene, holder, LONG).await.expect("nobody leads");
    let first = leader(scene).await.expires_at;
    while now(scene).await.plus(LONG) <= first {}
    for _ in 0..3 {
        let again = scene.ledger.lead(holder, "renamed", LONG).await.unwrap();
        assert_eq!(again, Some(epoch));
        assert_eq!(lead(scene, WorkerId::generate(), LONG).await, None);
    }
    let leader = leader(scene).await;
    assert_eq!((leader.holder, leader.name.as_str(), leader.epoch), (holder, "renamed", epoch));
    assert!(leader.expires_at > first);
}

/// Goal: nobody leads before the end of another's term by ledger time, and somebody can right after it. Method: the
/// ledger's time before and after each try bounds when it was made.
async fn the_lead_is_taken_over_after_the_term_alone(scene: &Scene) {
    depose(scene).await;
    let (old, new) = (WorkerId::generate(), WorkerId::generate());
    let epoch = lead(scene, old, LONG).await.expect("nobody leads");
    assert_eq!(lead(scene, new, LONG).await, None);
    assert_eq!(lead(scene, old, SHORT).await, Some(epoch));
    let end = leader(scene).await.expires_at;
    let taken = loop {
        let before = now(scene).await;
        let taken = lead(scene, new, LONG).await;
        if let Some(taken) = taken {
            assert!(now(scene).await >= end, "taken before the end of the term");
            break taken;
        }
        assert!(before < end, "not taken after the end of the term");
    };
    assert!(taken > epoch);
    assert_eq!(lead(scene, old, LONG).await, None);
    assert_eq!(leader(scene).await.holder, new);
}

async fn a_term_that_ran_out_is_taken_anew(scene: &Scene) {
    depose(scene).await;
    let holder = WorkerId::generate();
    let first = lead(scene, holder, SHORT).await.expect("nobody leads");
    term_over(scene).await;
    let second = lead(scene, holder, LONG).await.expect("nobody leads");
    scene.ledger.resign(second).await.unwrap();
    let third = lead(scene, holder, LONG).await.expect("nobody leads");
    assert!(first < second && second < third);
}

async fn the_epoch_of_a_past_leader_ends_nothing(scene: &Scene) {
    let past = new_leader(scene).await;
    scene.ledger.resign(past).await.unwrap();
    let resigned = leader(scene).await;
    assert!(resigned.epoch == past && resigned.expires_at <= now(scene).await);
    // Whoever resigns a second time neither prolongs its term nor ends another's.
    scene.ledger.resign(past).await.unwrap();
    assert_eq!(leader(scene).await, resigned);
    let epoch = lead(scene, WorkerId::generate(), LONG).await.expect("nobody leads");
    let leads = leader(scene).await;
    assert!(epoch > past);
    scene.ledger.resign(past).await.unwrap();
    scene.ledger.resign(Epoch(epoch.0 + 1)).await.unwrap();
    assert_eq!(leader(scene).await, leads);
}

/// Goal: a term that was given before the clock was set back keeps nobody from leading.
async fn a_term_that_ends_too_far_ahead_is_not_believed(scene: &Scene) {
    let old = new_leader(scene).await;
    let ends_in = async |after: Duration| {
        let end = now(scene).await.plus(after).micros();
        scene.ledger.tamper(format!("UPDATE leader SET expires_at = {end}")).await.unwrap();
    };
    // As far ahead as a term may end, and far enough for the rest of the case.
    ends_in(TERM_MAX).await;
    assert_eq!(lead(scene, WorkerId::generate(), LONG).await, None);
    ends_in(TERM_MAX * 60).await;
    assert!(scene.ledger.next_generation(&shard(scene), old).await.unwrap().is_some());
    let holder = WorkerId::generate();
    let epoch = lead(scene, holder, LONG).await.expect("the term on record is none");
    assert!(epoch > old);
    assert_eq!(next(scene, old).await, None);
    assert_eq!(lead(scene, WorkerId::generate(), LONG).await, None);
    // Its holder prolongs it to what it can be.
    ends_in(TERM_MAX * 60).await;
    assert_eq!(lead(scene, holder, LONG).await, Some(epoch));
    assert!(leader(scene).await.expires_at <= now(scene).await.plus(TERM_MAX));
}

async fn any_name_and_any_term_is_taken(scene: &Scene) {
    depose(scene).await;
    let holder = WorkerId::generate();
    let epoch = scene.ledger.lead(holder, "odd\0name", Duration::MAX).await.unwrap();
    assert_eq!(Some(leader(scene).await.epoch), epoch);
    let end = leader(scene).await.expires_at;
    let after = now(scene).await;
    assert!(end > after && end <= after.plus(TERM_MAX), "cut to the longest");
    // A term of nothing is over when it is given.
    assert_eq!(scene.ledger.lead(holder, "", Duration::ZERO).await.unwrap(), epoch);
    assert!(lead(scene, WorkerId::generate(), LONG).await > epoch);
}

async fn a_shard_on_nobodys_record_is_of_generation_0(scene: &Scene) {
    // The queue alone opens nothing.
    scene.accept(scene.new_job()).await;
    let record = scene.ledger.shard(&shard(scene)).await.unwrap();
    assert_eq!((record.generation, record.process), (0, None));
    assert_eq!(record.changed_at, Timestamp::from_micros(0));
    let process = ProcessId::generate();
    assert!(!scene.ledger.note_opened(&shard(scene), 0, process).await.unwrap());
    assert_eq!(scene.ledger.shard(&shard(scene)).await.unwrap(), record);
}

async fn one_of_many_opens_a_new_shard(scene: &Scene) {
    let before = now(scene).await;
    let shard = shard(scene);
    let calls = (0..16).map(|_| scene.ledger.first_generation(&shard));
    let firsts = join_all(calls).await.into_iter().filter(|first| *first.as_ref().unwrap()).count();
    assert_eq!(firsts, 1);
    let record = scene.ledger.shard(&shard).await.unwrap();
    assert_eq!((record.generation, record.process), (1, None));
    assert!(record.changed_at >= before && record.changed_at <= now(scene).await);
    assert!(!scene.ledger.first_generation(&shard).await.unwrap());
    assert_eq!(scene.ledger.shard(&shard).await.unwrap(), record);
}

async fn a_verification_ends_the_chance_to_open_a_new_shard(scene: &Scene) {
    let epoch = new_leader(scene).await;
    assert_eq!(next(scene, epoch).await, Some(1));
    assert!(!scene.ledger.first_generation(&shard(scene)).await.unwrap());
    assert_eq!(next(scene, epoch).await, Some(2));
    assert!(!scene.ledger.first_generation(&shard(scene)).await.unwrap());
    assert_eq!(scene.ledger.shard(&shard(scene)).await.unwrap().generation, 2);
}

/// Goal: two verifications of a shard have two generations, whoever they are and however the shard began.
async fn generations_rise_and_nobody_shares_one(scene: &Scene) {
    let epoch = new_leader(scene).await;
    let shard = shard(scene);
    let nexts = join_all((0..16).map(|_| scene.ledger.next_generation(&shard, epoch)));
    let (nexts, first) = tokio::join!(nexts, scene.ledger.first_generation(&shard));
    let mut given: Vec<u64> = nexts.into_iter().map(|n| n.unwrap().expect("it leads")).collect();
    given.extend(first.unwrap().then_some(1));
    let most = given.len() as u64;
    assert_eq!(given.into_iter().collect::<BTreeSet<_>>(), (1..=most).collect());
    assert_eq!(next(scene, epoch).await, Some(most + 1));
}

async fn a_deposed_leader_verifies_nothing(scene: &Scene) {
    let old = new_leader(scene).await;
    assert_eq!(next(scene, old).await, Some(1));
    scene.ledger.resign(old).await.unwrap();
    let untouched = shard(&scene.elsewhere());
    for shard in [&shard(scene), &untouched] {
        assert_eq!(scene.ledger.next_generation(shard, old).await.unwrap(), None);
    }
    let new = lead(scene, WorkerId::generate(), LONG).await.expect("nobody leads");
    let unchanged = scene.ledger.shard(&shard(scene)).await.unwrap();
    assert_eq!(next(scene, old).await, None);
    assert_eq!(next(scene, Epoch(new.0 + 1)).await, None);
    assert_eq!(scene.ledger.shard(&shard(scene)).await.unwrap(), unchanged);
    assert_eq!(next(scene, new).await, Some(2));
    assert_eq!(scene.ledger.next_generation(&untouched, old).await.unwrap(), None);
    assert_eq!(scene.ledger.shard(&untouched).await.unwrap().generation, 0);
}

/// Goal: a term ends by ledger time, also where nobody has taken the lead since.
async fn a_leader_whose_term_ran_out_verifies_nothing(scene: &Scene) {
    depose(scene).await;
    let holder = WorkerId::generate();
    let epoch = lead(scene, holder, SHORT).await.expect("nobody leads");
    let end = leader(scene).await.expires_at;
    loop {
        let before = now(scene).await;
        if next(scene, epoch).await.is_none() {
            assert!(now(scene).await >= end, "refused before the end of the term");
            break;
        }
        assert!(before < end, "counted after the end of the term");
    }
    let counted = scene.ledger.shard(&shard(scene)).await.unwrap().generation;
    let again = lead(scene, holder, LONG).await.expect("nobody leads");
    assert_eq!(next(scene, epoch).await, None);
    assert_eq!(next(scene, again).await, Some(counted + 1));
}

async fn shards_are_counted_apart(scene: &Scene) {
    let epoch = new_leader(scene).await;
    let first = shard(scene);
    let others = [
        ShardId { index: u16::MAX, ..first.clone() },
        ShardId { queue: "other".parse().unwrap(), ..first.clone() },
        shard(&scene.elsewhere()),
    ];
    for n in 1..=3 {
        assert_eq!(next(scene, epoch).await, Some(n));
    }
    for other in &others {
        assert_eq!(scene.ledger.shard(other).await.unwrap().generation, 0);
        assert!(scene.ledger.first_generation(other).await.unwrap());
        let process = ProcessId::generate();
        assert!(scene.ledger.note_opened(other, 1, process).await.unwrap());
        assert_eq!(scene.ledger.shard(other).await.unwrap().process, Some(process));
    }
    let record = scene.ledger.shard(&first).await.unwrap();
    assert_eq!((record.generation, record.process), (3, None));
}

async fn an_opening_is_noted_for_the_latest_generation_alone(scene: &Scene) {
    let epoch = new_leader(scene).await;
    let shard = shard(scene);
    let (old, new) = (ProcessId::generate(), ProcessId::generate());
    assert!(scene.ledger.first_generation(&shard).await.unwrap());
    let begun = scene.ledger.shard(&shard).await.unwrap();
    assert!(scene.ledger.note_opened(&shard, 1, old).await.unwrap());
    let opened = scene.ledger.shard(&shard).await.unwrap();
    assert_eq!((opened.generation, opened.process), (1, Some(old)));
    assert!(opened.changed_at >= begun.changed_at);
    // Safe to repeat.
    assert!(scene.ledger.note_opened(&shard, 1, old).await.unwrap());
    assert_eq!(next(scene, epoch).await, Some(2));
    let verifying = scene.ledger.shard(&shard).await.unwrap();
    assert_eq!((verifying.generation, verifying.process), (2, None));
    for generation in [0, 1, 3, u64::MAX] {
        assert!(!scene.ledger.note_opened(&shard, generation, old).await.unwrap());
    }
    assert_eq!(scene.ledger.shard(&shard).await.unwrap(), verifying);
    assert!(scene.ledger.note_opened(&shard, 2, new).await.unwrap());
    assert_eq!(scene.ledger.shard(&shard).await.unwrap().process, Some(new));
}

async fn the_id_does_not_change(scene: &Scene) {
    let id = scene.ledger.id();
    scene.accept(scene.new_job()).await;
    assert_eq!(scene.elsewhere().ledger.id(), id);
}

/// Also of one shard among several; and what is refused leaves nothing behind.
async fn outcomes_of_before_a_verification_are_refused(scene: &Scene) {
    let epoch = new_leader(scene).await;
    let id = scene.accept(scene.new_job()).await.id;
    let record = scene.record(id, 7, Ended::Succeeded);
    let other = ShardId { index: 9, ..shard(scene) };
    let within = async |generation| {
        let generations = vec![(other.clone(), 0), (shard(scene), generation)];
        let reply = scene.ledger.record_within(vec![record.clone()], generations).await.unwrap();
        reply.map(|reply| reply.replies)
    };
    let first = next(scene, epoch).await.expect("it leads");
    let second = next(scene, epoch).await.expect("it leads");
    for generation in [0, first, second + 1] {
        assert_eq!(within(generation).await, None);
        assert!(!scene.get(id).await.state.is_terminal());
    }
    assert_eq!(within(second).await, Some(vec![Recorded::Applied]));
    assert_eq!(scene.get(id).await.state, JobState::Succeeded);
    assert_eq!(within(second).await, Some(vec![Recorded::Stale]), "again");
}

/// Past ones: one that was followed by another, and one whose term ran out with nobody after it.
pub(super) async fn past_leaders(scene: &Scene) -> (Vec<Epoch>, Epoch) {
    depose(scene).await;
    let ran_out = lead(scene, WorkerId::generate(), SHORT).await.expect("nobody leads");
    term_over(scene).await;
    let old = new_leader(scene).await;
    scene.ledger.resign(old).await.unwrap();
    let new = lead(scene, WorkerId::generate(), LONG).await.expect("nobody leads");
    (vec![ran_out, old, Epoch(new.0 + 1)], new)
}

async fn a_past_leader_ends_no_operation(scene: &Scene) {
    let (past, leads) = past_leaders(scene).await;
    let operation = Operation {
        id: OperationId::generate(),
        namespace: scene.namespace.clone(),
        action: "retry".into(),
        state: "running".into(),
        matched: 0,
        changed: 0,
        error: None,
        created_at: at(1),
        finished_at: None,
    };
    scene.ledger.put_operation(&operation).await.unwrap();
    let later = now(scene).await.plus(LONG);
    let state = async || {
        let read = scene.ledger.operation(&scene.namespace, operation.id).await.unwrap();
        read.expect("it was put").state
    };
    for epoch in past {
        assert_eq!(scene.ledger.fail_silent_operations(Some(epoch), later).await.unwrap(), 0);
        assert_eq!(state().await, "running", "{epoch:?}");
    }
    assert!(scene.ledger.fail_silent_operations(Some(leads), later).await.unwrap() >= 1);
    assert_eq!(state().await, "failed");
}
