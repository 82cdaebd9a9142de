//! Decisions over runs: carried out whole or not at all, and what leads to them.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;

use super::run_scene::{advanced, child, fails, many, moves, plain, signal, step_names, templated};
use super::scene::{Scene, at};
use crate::engine::Ended;
use crate::ledger::runs::{
    Advance, Advanced, END, GIVEN_MAX, Items, NewGiven, NewRun, Release, RunChanged, Step,
};
use crate::model::id::{BlobId, WorkflowId};
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
    a_stop_cancels_what_has_not_started,
    a_stop_does_not_wait_for_items_that_were_not_made,
    a_stop_of_what_does_nothing_is_due_at_once,
    added_steps_are_waited_for,
    a_step_is_added_after_one_that_runs,
    a_step_added_as_its_need_ends_is_released_once,
    steps_cannot_be_added_before_what_has_started,
    an_end_is_final,
    an_end_is_told_to_the_parent,
    a_wait_is_due_by_its_time,
    a_deadline_is_due_until_it_is_acted_upon,
    due_runs_come_in_pages,
    signals_are_kept_until_they_are_taken,
    a_signal_looks_at_what_waits,
    signals_are_bounded,
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

async fn a_stop_cancels_what_has_not_started(scene: &Scene) {
    // a runs, b needs it; c failed, d needs it; e waits; f is a blocked step that nothing needs.
    let steps = vec![
        plain("a", &[]),
        plain("b", &[0]),
        plain("c", &[]),
        plain("d", &[2]),
        signal("e", &[]),
        plain("f", &[4]),
        plain("g", &[]),
    ];
    let (run, _) = scene.run_of(steps).await;
    scene.move_step(run, "e", StepState::Waiting).await;
    scene.step_ends(run, "g", Ended::Succeeded).await;
    scene.step_ends(run, "c", Ended::Dead).await;
    let failed = fails(&scene.step(run, "c").await, StepState::Failed);
    let error = permanent("step_failed", "the step \"c\" failed");
    let (released, more) = scene
        .advance(run, |advance| {
            advance.moves.push(failed);
            advance.error = Some(error.clone());
            advance.ending = Some(WorkflowState::Failed);
            advance.stop = true;
        })
        .await;
    // What waits is looked at, to be ended.
    assert_eq!((released, more), (vec![], true));
    let run_now = scene.snapshot(run).await.run;
    assert_eq!(
        (run_now.state, run_now.ending),
        (WorkflowState::Running, Some(WorkflowState::Failed))
    );
    assert_eq!(run_now.error, Some(error));
    for step in ["b", "d", "f"] {
        let row = scene.step(run, step).await;
        assert_eq!((row.state, row.due), (StepState::Cancelled, 0), "{step}");
        assert!(row.finished_at.is_some());
        let job = scene.job_of(run, step).await;
        assert_eq!((job.state, job.error.unwrap().code), (JobState::Cancelled, "cancelled".into()));
    }
    assert_eq!(scene.step(run, "e").await.due, 1);
    assert_eq!(scene.job_state(run, "a").await, JobState::Ready);
    assert_eq!(scene.ledger.live_jobs(run, None, 10).await.unwrap().len(), 1);
    // The end waits for what runs and what waits, though others stood between.
    let end = scene.end_of(run).await;
    assert_eq!((end.needs_left, end.due), (2, 0));
    scene.move_step(run, "e", StepState::Cancelled).await;
    assert_eq!(scene.end_of(run).await.needs_left, 1);
    let reply = scene.step_ends(run, "a", Ended::Succeeded).await;
    assert_eq!((reply.released, reply.due), (vec![], vec![run]));
    assert_eq!((scene.end_of(run).await.needs_left, scene.end_of(run).await.due), (0, 1));
}

async fn a_stop_does_not_wait_for_items_that_were_not_made(scene: &Scene) {
    let item =
        |item| Release::Item { ord: 0, item, step: "m".into(), job: Box::new(scene.new_job()) };
    for made in [1, 0] {
        let (run, _) = scene.run_of(vec![many("m", &[], Some(2)), plain("z", &[0])]).await;
        let mut start = moves(&scene.step(run, "m").await, StepState::Released);
        start.list = Some(("[1,2,3]".into(), 3));
        let (jobs, _) = scene
            .advance(run, |advance| {
                advance.moves.push(start);
                advance.releases = (0..made).map(item).collect();
            })
            .await;
        let (_, more) = scene
            .advance(run, |advance| {
                (advance.stop, advance.ending) = (true, Some(WorkflowState::Cancelled));
            })
            .await;
        let m = scene.step(run, "m").await;
        assert_eq!(m.items, Items { total: 3, made, open: made, failed: 0 });
        assert_eq!((m.due > 0, more), (made == 0, made == 0));
        assert_eq!(scene.end_of(run).await.needs_left, 1);
        if made == 1 {
            assert_eq!(scene.ends(jobs[0].id, Ended::Cancelled).await.due, [run]);
            let m = scene.step(run, "m").await;
            assert_eq!((m.items.open, m.items.failed, m.due), (0, 1, 1));
        }
    }
}

async fn a_stop_of_what_does_nothing_is_due_at_once(scene: &Scene) {
    let (run, _) = scene.run_of(vec![templated("a", &[]), plain("b", &[0])]).await;
    let (_, more) = scene
        .advance(run, |advance| {
            (advance.stop, advance.ending) = (true, Some(WorkflowState::Cancelled));
        })
        .await;
    assert!(more);
    let end = scene.end_of(run).await;
    assert_eq!((end.needs_left, end.due, end.state), (0, 1, StepState::Blocked));
    assert_eq!(scene.snapshot(run).await.due, [end]);
    // Another stop changes nothing.
    scene.advance(run, |advance| advance.stop = true).await;
    assert_eq!(scene.end_of(run).await.needs_left, 0);
}

async fn added_steps_are_waited_for(scene: &Scene) {
    let (run, _) = scene.run_of(vec![plain("a", &[])]).await;
    assert_eq!(scene.step_ends(run, "a", Ended::Succeeded).await.due, [run]);
    let end = scene.end_of(run).await;
    let added = vec![
        scene.added(&plain("u1", &[]), 1, vec![], vec![2]),
        scene.added(&plain("u2", &[]), 2, vec![1], vec![END]),
    ];
    let (released, more) = scene
        .advance(run, |advance| {
            advance.moves.push(moves(&end, StepState::Blocked));
            advance.state = Some(WorkflowState::Compensating);
            advance.added = added;
        })
        .await;
    assert_eq!((step_names(&released), more), (vec!["u1"], false));
    let now = scene.snapshot(run).await.run;
    assert_eq!((now.state, now.steps, now.finished_at), (WorkflowState::Compensating, 3, None));
    let end = scene.end_of(run).await;
    assert_eq!((end.needs_left, end.due, end.needs), (1, 0, vec![0, 2]));
    assert_eq!(scene.state_of(run, "u2").await, (StepState::Blocked, 1));
    let reply = scene.step_ends(run, "u1", Ended::Succeeded).await;
    assert_eq!((step_names(&reply.released), reply.due), (vec!["u2"], vec![]));
    assert_eq!(scene.step_ends(run, "u2", Ended::Succeeded).await.due, [run]);
}

async fn a_step_is_added_after_one_that_runs(scene: &Scene) {
    // x needs a, which runs; y needs x and d, which has ended; z needs d alone. b, which needs a, waits for y too.
    let steps = vec![plain("a", &[]), plain("b", &[0]), plain("c", &[]), plain("d", &[])];
    let (run, _) = scene.run_of(steps).await;
    scene.step_ends(run, "d", Ended::Succeeded).await;
    let added = vec![
        scene.added(&plain("x", &[]), 4, vec![0], vec![5]),
        scene.added(&plain("y", &[]), 5, vec![4, 3], vec![1]),
        scene.added(&plain("z", &[]), 6, vec![3], vec![END]),
        scene.added(&templated("t", &[]), 7, vec![3], vec![END]),
    ];
    let (released, more) = scene.advance(run, |advance| advance.added = added).await;
    assert_eq!((step_names(&released), more), (vec!["z"], true));
    assert_eq!(scene.state_of(run, "z").await, (StepState::Released, 0));
    let t = scene.step(run, "t").await;
    assert_eq!((t.state, t.needs_left, t.due), (StepState::Blocked, 0, 1));
    assert_eq!(scene.state_of(run, "y").await, (StepState::Blocked, 1));
    assert_eq!(scene.state_of(run, "b").await, (StepState::Blocked, 2));
    assert_eq!(scene.step(run, "b").await.needs, [0, 5]);
    assert_eq!(scene.step(run, "a").await.dependents, [1, 4]);
    assert_eq!(scene.end_of(run).await.needs_left, 4);
    let reply = scene.step_ends(run, "a", Ended::Succeeded).await;
    assert_eq!(step_names(&reply.released), ["x"]);
    assert_eq!(step_names(&scene.step_ends(run, "x", Ended::Succeeded).await.released), ["y"]);
    assert_eq!(step_names(&scene.step_ends(run, "y", Ended::Succeeded).await.released), ["b"]);
}

/// Goal: a step that comes in while the step that it needs ends is neither forgotten nor released twice.
async fn a_step_added_as_its_need_ends_is_released_once(scene: &Scene) {
    let mut first = [0, 0];
    for round in 0..40 {
        let (run, jobs) = scene.run_of(vec![plain("a", &[]), plain("b", &[0])]).await;
        let record = scene.record(jobs[0].id, 1, Ended::Succeeded);
        let ledger = scene.ledger.clone();
        let recorded = tokio::spawn(async move { ledger.record(vec![record]).await.unwrap() });
        let added = vec![scene.added(&plain("x", &[]), 2, vec![0], vec![END])];
        let (by_advance, _) = scene.advance(run, |advance| advance.added = added).await;
        let by_record = recorded.await.unwrap().released;
        first[usize::from(by_advance.is_empty())] += 1;
        let both: Vec<_> = by_advance.into_iter().chain(by_record).collect();
        assert_eq!(step_names(&both), ["b", "x"], "round {round}");
        assert_eq!(scene.state_of(run, "x").await, (StepState::Released, 0), "round {round}");
        assert_eq!(scene.end_of(run).await.needs_left, 2);
    }
    eprintln!("the record came first {} times, the advance {} times", first[0], first[1]);
}

async fn steps_cannot_be_added_before_what_has_started(scene: &Scene) {
    let (run, _) = scene.run_of(vec![plain("a", &[]), plain("b", &[0])]).await;
    scene.step_ends(run, "a", Ended::Succeeded).await;
    let before = (scene.snapshot(run).await.run, scene.all_steps(run).await);
    let x = scene.added(&plain("x", &[]), 2, vec![0], vec![1]);
    let y = scene.added(&plain("y", &[]), 2, vec![9], vec![END]);
    for added in [x, y] {
        let job = added.job.as_ref().unwrap().id;
        let outcome = scene.try_advance(run, |advance| advance.added = vec![added]).await;
        assert_eq!(outcome, Advanced::Conflict);
        assert_eq!(scene.find(job).await, None);
    }
    assert_eq!((scene.snapshot(run).await.run, scene.all_steps(run).await), before);
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

async fn a_wait_is_due_by_its_time(scene: &Scene) {
    let (run, _) = scene.run_of(vec![signal("a", &[]), signal("b", &[])]).await;
    let later = scene.ledger.now().await.unwrap().plus(Duration::from_secs(3_600));
    for (step, wake_at) in [("a", at(0)), ("b", later)] {
        let mut wait = moves(&scene.step(run, step).await, StepState::Waiting);
        wait.wake_at = Some(wake_at);
        scene.advance(run, |advance| advance.moves.push(wait)).await;
        assert_eq!(scene.step(run, step).await.wake_at, Some(wake_at));
    }
    let due: Vec<_> = scene.snapshot(run).await.due;
    assert_eq!(due.iter().map(|s| (s.id.as_str(), s.due)).collect::<Vec<_>>(), [("a", 0)]);
    assert!(scene.snapshot(run).await.now < later);
    assert!(scene.is_due(run).await);
    // It is taken back by a move without one.
    scene.move_step(run, "a", StepState::Waiting).await;
    assert_eq!(scene.step(run, "a").await.wake_at, None);
    assert_eq!((scene.snapshot(run).await.due, scene.is_due(run).await), (vec![], false));
}

async fn a_deadline_is_due_until_it_is_acted_upon(scene: &Scene) {
    let later = scene.ledger.now().await.unwrap().plus(Duration::from_secs(3_600));
    let with = |deadline| NewRun { deadline, ..scene.new_run(vec![plain("a", &[])]) };
    let (past, ahead) = (with(Some(at(0))), with(Some(later)));
    for new in [&past, &ahead] {
        scene.create(new).await;
    }
    assert!(scene.is_due(past.id).await && !scene.is_due(ahead.id).await);
    scene.advance(past.id, |advance| advance.ending = Some(WorkflowState::Failed)).await;
    assert!(!scene.is_due(past.id).await);
    // One that undoes what it did is let finish.
    let undoing = with(Some(at(0)));
    scene.create(&undoing).await;
    scene.advance(undoing.id, |a| a.state = Some(WorkflowState::Compensating)).await;
    assert!(!scene.is_due(undoing.id).await);
}

async fn due_runs_come_in_pages(scene: &Scene) {
    let mut expected = Vec::new();
    for n in 0..5 {
        let new = NewRun {
            deadline: (n == 2).then(|| at(0)),
            ..scene.new_run(vec![if n == 2 { plain("a", &[]) } else { templated("a", &[]) }])
        };
        scene.create(&new).await;
        expected.push(new.id);
    }
    expected.sort_by_key(|id| *id.as_bytes());
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = scene.ledger.due_runs(after, 2).await.unwrap();
        assert!(page.len() <= 2);
        let Some((_, last)) = page.last() else { break };
        after = Some(*last);
        found.extend(page.into_iter().filter(|(n, _)| *n == scene.namespace).map(|(_, id)| id));
    }
    assert_eq!(found, expected);
}

fn signal_of(name: &str) -> NewGiven {
    NewGiven {
        name: name.into(),
        by: "ada".into(),
        role: None,
        approved: None,
        reason: None,
        body: Some(Bytes::from_static(b"{\"x\": 1}")),
    }
}

async fn give(scene: &Scene, run: WorkflowId, name: &str) {
    let done = scene.ledger.give(&scene.namespace, run, &signal_of(name)).await.unwrap();
    assert_eq!(done, RunChanged::Done(()));
}

async fn signals_are_kept_until_they_are_taken(scene: &Scene) {
    let (run, _) = scene.run_of(vec![signal("a", &[])]).await;
    give(scene, run, "go").await;
    give(scene, run, "other").await;
    let vote = NewGiven {
        name: "a".into(),
        by: "bob \0".into(),
        role: Some("admin".into()),
        approved: Some(false),
        reason: Some("no".into()),
        body: None,
    };
    let done = scene.ledger.give(&scene.namespace, run, &vote).await.unwrap();
    assert_eq!(done, RunChanged::Done(()));
    let given = scene.ledger.given(run).await.unwrap();
    let names: Vec<_> = given.iter().map(|g| (g.name.as_str(), g.approved)).collect();
    assert_eq!(names, [("go", None), ("other", None), ("a", Some(false))]);
    assert!(given.windows(2).all(|pair| pair[0].seq < pair[1].seq && pair[0].at <= pair[1].at));
    assert_eq!((&given[0].body, &given[0].by), (&signal_of("go").body, &"ada".to_owned()));
    assert_eq!((given[2].role.as_deref(), given[2].reason.as_deref()), (Some("admin"), Some("no")));
    assert_eq!((given[2].by.as_str(), &given[2].body), ("bob \u{fffd}", &None));

    // Votes stay, signals are used up; those of another run are not touched.
    let (other, _) = scene.run_of(vec![signal("a", &[])]).await;
    give(scene, other, "go").await;
    let theirs = scene.ledger.given(other).await.unwrap();
    let used = vec![given[0].seq, given[2].seq, theirs[0].seq];
    scene.advance(run, |advance| advance.taken = used).await;
    let left = scene.ledger.given(run).await.unwrap();
    assert_eq!(left, given[1..]);
    assert_eq!(scene.ledger.given(other).await.unwrap(), theirs);
    assert_eq!(scene.ledger.given(WorkflowId::generate()).await.unwrap(), []);
}

async fn a_signal_looks_at_what_waits(scene: &Scene) {
    let (run, _) = scene.run_of(vec![signal("a", &[]), signal("b", &[]), plain("c", &[])]).await;
    scene.move_step(run, "a", StepState::Waiting).await;
    let before = scene.step(run, "b").await.due;
    give(scene, run, "go").await;
    assert_eq!(scene.step(run, "a").await.due, 1);
    assert_eq!((scene.step(run, "b").await.due, scene.step(run, "c").await.due), (before, 0));
    let elsewhere = scene.elsewhere().namespace;
    let unknown = scene.ledger.give(&elsewhere, run, &signal_of("go")).await.unwrap();
    assert_eq!(unknown, RunChanged::Unknown);
    let (nobody, go) = (WorkflowId::generate(), signal_of("go"));
    let unknown = scene.ledger.give(&scene.namespace, nobody, &go).await.unwrap();
    assert_eq!(unknown, RunChanged::Unknown);
    assert_eq!(scene.step(run, "a").await.due, 1);
}

async fn signals_are_bounded(scene: &Scene) {
    let (run, _) = scene.run_of(vec![signal("a", &[])]).await;
    give(scene, run, "go").await;
    let namespace = &scene.namespace;
    let sql = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) \
         INSERT INTO workflow_signals (workflow_id, at, namespace, kind, name, by) \
         SELECT w.id, 0, w.namespace, 'signal', 'x', 'y' FROM n, workflows w \
         WHERE w.namespace = '{namespace}'",
        GIVEN_MAX - 2
    );
    scene.ledger.tamper(sql).await.unwrap();
    give(scene, run, "go").await;
    let full = scene.ledger.give(namespace, run, &signal_of("go")).await.unwrap();
    assert_eq!(full, RunChanged::Full);
    assert_eq!(scene.ledger.given(run).await.unwrap().len(), GIVEN_MAX as usize);
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
