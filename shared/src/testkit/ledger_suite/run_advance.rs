//! Decisions over runs: carried out whole or not at all, and what leads to them.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;

use super::run_scene::{advanced, child, fails, moves, plain, signal, step_names, templated};
use super::run_waits::{give, signal_of};
use super::scene::{Scene, at};
use crate::engine::Ended;
use crate::ledger::runs::{Advance, Advanced, Release, RunChanged, Step};
use crate::model::id::BlobId;
use crate::model::job::{JobState, Value};
use crate::model::workflow::{StepState, WorkflowState, permanent};

super::cases![
    a_decision_over_another_version_changes_nothing,
    a_decision_over_a_moved_step_changes_nothing,
    of_advances_at_once_one_is_carried_out,
    a_move_lowers_what_needs_the_step,
    reasons_that_were_not_seen_stay,
    a_late_look_at_an_ended_step_changes_nothing,
    a_failed_step_takes_what_needs_it_along,
    a_step_that_stays_is_lowered_all_the_same,
    a_blocked_job_is_filled_in,
    an_end_is_final,
    an_end_is_told_to_the_parent,
    advances_and_outcomes_at_once_lose_nothing,
];

async fn a_decision_over_another_version_changes_nothing(scene: &Scene) {
    let (run, _) = scene.run_of(vec![templated("a", &[]), plain("b", &[0])]).await;
    let seen = scene.snapshot(run).await;
    assert_eq!(seen.due.len(), 1);
    let skip = Advance {
        version: seen.run.version,
        moves: vec![fails(&seen.due[0], StepState::Skipped)],
        ..Advance::default()
    };
    let (released, more) = advanced(scene.ledger.advance(&seen.run, &skip).await.unwrap());
    assert_eq!((step_names(&released), more), (vec!["b"], false));
    let now = scene.snapshot(run).await.run;
    assert_eq!(now.version, 1);
    let steps = scene.all_steps(run).await;
    for late in [skip.clone(), Advance { version: 2, ..skip }] {
        let outcome = scene.ledger.advance(&seen.run, &late).await.unwrap();
        assert_eq!(outcome, Advanced::Conflict);
    }
    assert_eq!((scene.snapshot(run).await.run, scene.all_steps(run).await), (now, steps));
}

async fn a_decision_over_a_moved_step_changes_nothing(scene: &Scene) {
    let (run, _) = scene.run_of(vec![plain("a", &[]), templated("b", &[]), plain("c", &[1])]).await;
    let (a, b) = (scene.step(run, "a").await, scene.step(run, "b").await);
    scene.step_ends(run, "a", Ended::Succeeded).await;
    let before = (scene.snapshot(run).await.run, scene.all_steps(run).await);
    let outcome = scene
        .try_advance(run, |advance| {
            advance.moves = vec![moves(&b, StepState::Succeeded), fails(&a, StepState::Failed)];
            advance.ending = Some(WorkflowState::Failed);
            advance.error = Some(permanent("step_failed", "no"));
        })
        .await;
    assert_eq!(outcome, Advanced::Conflict);
    assert_eq!((scene.snapshot(run).await.run, scene.all_steps(run).await), before);
    assert_eq!(scene.job_state(run, "c").await, JobState::Blocked);
}

async fn of_advances_at_once_one_is_carried_out(scene: &Scene) {
    for _ in 0..5 {
        let (run, _) = scene.run_of(vec![templated("a", &[]), plain("b", &[0])]).await;
        let seen = scene.snapshot(run).await;
        let advance = Advance {
            version: seen.run.version,
            moves: vec![moves(&seen.due[0], StepState::Succeeded)],
            ..Advance::default()
        };
        let calls = (0..6).map(|_| scene.ledger.advance(&seen.run, &advance));
        let outcomes: Vec<Advanced> =
            join_all(calls).await.into_iter().map(Result::unwrap).collect();
        let done: Vec<_> = outcomes.iter().filter(|o| **o != Advanced::Conflict).collect();
        assert_eq!(done.len(), 1);
        assert_eq!(scene.snapshot(run).await.run.version, 1);
        assert_eq!(scene.state_of(run, "b").await, (StepState::Released, 0));
    }
}

async fn a_move_lowers_what_needs_the_step(scene: &Scene) {
    let steps = vec![
        signal("a", &[]),
        plain("b", &[0]),
        templated("c", &[0]),
        plain("d", &[0, 1]),
        plain("e", &[0]),
    ];
    let (run, _) = scene.run_of(steps).await;
    let (released, _) = scene.move_step(run, "a", StepState::Waiting).await;
    assert_eq!(released, []);
    let a = scene.step(run, "a").await;
    assert!(a.state == StepState::Waiting && a.started_at.is_some() && a.due == 0);
    let mut end = moves(&a, StepState::Succeeded);
    end.output = Some(Bytes::from_static(b"{\"by\": 1}"));
    let (released, more) = scene.advance(run, |advance| advance.moves.push(end)).await;
    assert_eq!((step_names(&released), more), (vec!["b", "e"], true));
    assert!(released.iter().all(|job| job.state == JobState::Ready));
    let a = scene.step(run, "a").await;
    assert_eq!((a.state, a.output.as_deref()), (StepState::Succeeded, Some(&b"{\"by\": 1}"[..])));
    assert!(a.finished_at >= a.started_at && a.finished_at.is_some());
    let c = scene.step(run, "c").await;
    assert_eq!((c.state, c.needs_left, c.due), (StepState::Blocked, 0, 1));
    assert_eq!(scene.state_of(run, "d").await, (StepState::Blocked, 1));
    // A step that was skipped lowers as well, and its job never runs.
    let skip = fails(&c, StepState::Skipped);
    let (_, more) = scene.advance(run, |advance| advance.moves.push(skip)).await;
    assert!(!more);
    let (c, job) = (scene.step(run, "c").await, scene.job_of(run, "c").await);
    assert_eq!((c.state, c.error.unwrap().code.as_str()), (StepState::Skipped, "step_failed"));
    assert_eq!((job.state, job.error.unwrap().code), (JobState::Cancelled, "step_failed".into()));
    assert!(job.finished_at.is_some());
    assert_eq!(scene.end_of(run).await.needs_left, 2);
}

async fn reasons_that_were_not_seen_stay(scene: &Scene) {
    let (run, _) = scene.run_of(vec![signal("a", &[])]).await;
    scene.move_step(run, "a", StepState::Waiting).await;
    give(scene, run, "x").await;
    let seen = scene.step(run, "a").await;
    assert_eq!(seen.due, 1);
    give(scene, run, "x").await;
    let stay = moves(&seen, StepState::Waiting);
    let (_, more) = scene.advance(run, |advance| advance.moves.push(stay)).await;
    assert_eq!((more, scene.step(run, "a").await.due), (true, 1));
    // More than there are take off all.
    let mut stay = moves(&seen, StepState::Waiting);
    stay.seen = 9;
    let (_, more) = scene.advance(run, |advance| advance.moves.push(stay)).await;
    assert_eq!((more, scene.step(run, "a").await.due), (false, 0));
}

async fn a_late_look_at_an_ended_step_changes_nothing(scene: &Scene) {
    let (run, _) = scene.run_of(vec![signal("a", &[]), plain("b", &[0])]).await;
    scene.move_step(run, "a", StepState::Waiting).await;
    let seen = scene.step(run, "a").await;
    give(scene, run, "x").await;
    scene.advance(run, |a| a.moves.push(moves(&seen, StepState::Succeeded))).await;
    let ended = scene.step(run, "a").await;
    assert_eq!((ended.state, ended.due), (StepState::Succeeded, 1));
    let (released, more) = scene.move_step(run, "a", StepState::Succeeded).await;
    assert_eq!((released, more), (vec![], false));
    assert_eq!(scene.step(run, "a").await, Step { due: 0, ..ended });
    assert_eq!(scene.end_of(run).await.needs_left, 1);
}

async fn a_failed_step_takes_what_needs_it_along(scene: &Scene) {
    let steps = vec![plain("a", &[]), plain("b", &[0]), plain("c", &[1]), plain("d", &[])];
    let (run, _) = scene.run_of(steps).await;
    scene.step_ends(run, "a", Ended::Dead).await;
    let ends = [
        fails(&scene.step(run, "a").await, StepState::Failed),
        fails(&scene.step(run, "b").await, StepState::Skipped),
        fails(&scene.step(run, "c").await, StepState::Skipped),
    ];
    let (released, more) = scene.advance(run, |advance| advance.moves = ends.to_vec()).await;
    assert_eq!((released, more), (vec![], false));
    for (step, state) in [("a", StepState::Failed), ("b", StepState::Skipped)] {
        assert_eq!(scene.step(run, step).await.state, state);
    }
    for step in ["b", "c"] {
        assert_eq!(scene.job_state(run, step).await, JobState::Cancelled);
    }
    assert_eq!(scene.end_of(run).await.needs_left, 1);
    assert_eq!(scene.step_ends(run, "d", Ended::Succeeded).await.due, [run]);
}

/// Goal: a step that is noted as looked at and lowered by the same decision loses neither.
async fn a_step_that_stays_is_lowered_all_the_same(scene: &Scene) {
    let (run, _) =
        scene.run_of(vec![signal("a", &[]), signal("b", &[]), signal("c", &[0, 1])]).await;
    let seen = [scene.step(run, "a").await, scene.step(run, "b").await];
    let mut all: Vec<_> = seen.iter().map(|step| moves(step, StepState::Succeeded)).collect();
    all.insert(0, moves(&scene.end_of(run).await, StepState::Blocked));
    all.push(moves(&scene.step(run, "c").await, StepState::Blocked));
    let (_, more) = scene.advance(run, |advance| advance.moves = all).await;
    let c = scene.step(run, "c").await;
    assert_eq!((c.state, c.needs_left, c.due, more), (StepState::Blocked, 0, 1, true));
    let both =
        vec![moves(&scene.end_of(run).await, StepState::Blocked), moves(&c, StepState::Succeeded)];
    scene.advance(run, |advance| advance.moves = both).await;
    let end = scene.end_of(run).await;
    assert_eq!((end.needs_left, end.due), (0, 1));
}

async fn a_blocked_job_is_filled_in(scene: &Scene) {
    let (run, _) = scene.run_of(vec![templated("a", &[]), templated("b", &[])]).await;
    let (a, b) = (scene.step(run, "a").await, scene.step(run, "b").await);
    let now = scene.ledger.now().await.unwrap();
    let (later, last) = (now.plus(Duration::from_secs(60)), now.plus(Duration::from_secs(90)));
    let blob = BlobId::generate();
    scene.ledger.put_blob(&scene.namespace, blob, "\"large\"".into()).await.unwrap();
    let release =
        |id, payload, run_at, expires_at| Release::Blocked { id, payload, run_at, expires_at };
    let inline = Value::Inline(Bytes::from_static(b"{\"n\": 2}"));
    let (ids, first) = ((a.job_id.unwrap(), b.job_id.unwrap()), scene.job_of(run, "b").await);
    let releases = vec![
        release(ids.0, Some(inline.clone()), later, Some(last)),
        release(ids.1, None, now, None),
    ];
    let both = vec![moves(&a, StepState::Released), moves(&b, StepState::Released)];
    let (released, more) =
        scene.advance(run, |advance| (advance.moves, advance.releases) = (both, releases)).await;
    assert_eq!((step_names(&released), more), (vec!["a", "b"], false));
    let (a, b) = (scene.job_of(run, "a").await, scene.job_of(run, "b").await);
    assert_eq!((a.state, a.run_at, a.expires_at), (JobState::Scheduled, later, Some(last)));
    assert_eq!((a.payload, a.fence.0), (inline, 0));
    assert_eq!((b.state, b.run_at, b.expires_at), (JobState::Ready, now, None));
    assert_eq!(b.payload, first.payload);
    assert_eq!(scene.step(run, "a").await.state, StepState::Released);
    assert_eq!(step_names(&scene.ends(ids.0, Ended::Succeeded).await.released), [""; 0]);

    let (run, _) = scene.run_of(vec![templated("a", &[])]).await;
    let a = scene.step(run, "a").await;
    let (go, large) = (moves(&a, StepState::Released), Some(Value::Blob(blob)));
    let releases = vec![release(a.job_id.unwrap(), large.clone(), now, None)];
    scene.advance(run, |advance| (advance.moves, advance.releases) = (vec![go], releases)).await;
    assert_eq!(Some(scene.job_of(run, "a").await.payload), large);
}

async fn an_end_is_final(scene: &Scene) {
    let (run, _) = scene.run_of(vec![plain("a", &[]), signal("b", &[])]).await;
    let mut wait = moves(&scene.step(run, "b").await, StepState::Waiting);
    wait.wake_at = Some(at(0));
    scene.advance(run, |advance| advance.moves.push(wait)).await;
    scene.step_ends(run, "a", Ended::Succeeded).await;
    assert!(scene.is_due(run).await);
    let answer = Value::Inline(Bytes::from_static(b"{\"a\": null}"));
    let (released, more) = scene
        .advance(run, |advance| {
            advance.state = Some(WorkflowState::Succeeded);
            advance.output = Some(answer.clone());
        })
        .await;
    assert_eq!((released, more), (vec![], false));
    let ended = scene.ledger.run(&scene.namespace, run).await.unwrap().unwrap();
    assert_eq!((ended.state, &ended.output), (WorkflowState::Succeeded, &Some(answer)));
    assert!(ended.finished_at.is_some_and(|at| at >= ended.created_at));
    let end = scene.end_of(run).await;
    assert_eq!((end.state, end.due), (StepState::Succeeded, 0));
    assert_eq!(scene.step(run, "b").await.wake_at, None);
    assert!(!scene.is_due(run).await);
    let late = scene.try_advance(run, |advance| advance.state = Some(WorkflowState::Failed)).await;
    assert_eq!(late, Advanced::Conflict);
    let given = scene.ledger.give(&scene.namespace, run, &signal_of("x")).await.unwrap();
    assert_eq!(given, RunChanged::Refused(WorkflowState::Succeeded));
    assert_eq!(scene.ledger.run(&scene.namespace, run).await.unwrap(), Some(ended));
}

async fn an_end_is_told_to_the_parent(scene: &Scene) {
    let (run, _) = scene.run_of(vec![child("a", &[]), child("b", &[])]).await;
    let blob = BlobId::generate();
    scene.ledger.put_blob(&scene.namespace, blob, "\"large\"".into()).await.unwrap();
    for (ord, state) in [(0, WorkflowState::Succeeded), (1, WorkflowState::Failed)] {
        let name = ["a", "b"][ord];
        scene.move_step(run, name, StepState::Waiting).await;
        let new = scene.new_child(run, i32::try_from(ord).unwrap());
        scene.create(&new).await;
        assert_eq!(scene.step(run, name).await.due, 0);
        scene
            .advance(new.id, |advance| {
                (advance.stop, advance.state) = (true, Some(state));
                match state {
                    WorkflowState::Succeeded => advance.output = Some(Value::Blob(blob)),
                    _ => advance.error = Some(permanent("step_failed", "no")),
                }
            })
            .await;
        let step = scene.step(run, name).await;
        assert_eq!((step.state, step.due), (StepState::Waiting, 1));
    }
    assert!(scene.is_due(run).await);
    let children = scene.ledger.children(run, &[0, 1]).await.unwrap();
    let (good, bad) = (&children[0].1, &children[1].1);
    assert_eq!((children[0].0, children[1].0, children.len()), (0, 1, 2));
    assert_eq!(
        (good.state, good.output.as_deref()),
        (WorkflowState::Succeeded, Some(&b"\"large\""[..]))
    );
    assert_eq!(
        (bad.state, bad.error.clone().unwrap().message),
        (WorkflowState::Failed, "no".into())
    );
}

/// Goal: outcomes and decisions that change the same run at once each count, in whatever order they come. Method:
/// a join needs steps that end by an outcome, by a decision and by a signal's, all at the same time.
async fn advances_and_outcomes_at_once_lose_nothing(scene: &Scene) {
    for round in 0..20 {
        let steps = vec![
            plain("a", &[]),
            plain("b", &[]),
            signal("c", &[]),
            plain("join", &[0, 1, 2]),
            templated("look", &[0, 2]),
        ];
        let (run, _) = scene.run_of(steps).await;
        scene.move_step(run, "c", StepState::Waiting).await;
        let jobs = [scene.job_of(run, "a").await.id, scene.job_of(run, "b").await.id];
        let records = jobs.map(|id| scene.record(id, 1, Ended::Succeeded));
        let [first, second] = records.map(|record| {
            let ledger = scene.ledger.clone();
            tokio::spawn(async move { ledger.record(vec![record]).await.unwrap() })
        });
        let (ledger, namespace) = (scene.ledger.clone(), scene.namespace.clone());
        let given =
            tokio::spawn(async move { ledger.give(&namespace, run, &signal_of("x")).await });
        let end = moves(&scene.step(run, "c").await, StepState::Succeeded);
        let (mut released, _) = scene.advance(run, |advance| advance.moves.push(end)).await;
        for reply in [first, second] {
            released.extend(reply.await.unwrap().released);
        }
        given.await.unwrap().unwrap();
        assert_eq!(step_names(&released), ["join"], "round {round}");
        assert_eq!(scene.state_of(run, "join").await, (StepState::Released, 0));
        let look = scene.step(run, "look").await;
        assert_eq!((look.needs_left, look.due), (0, 1), "round {round}");
    }
}
