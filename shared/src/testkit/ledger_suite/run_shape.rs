//! Decisions that change the shape of a run: it is stopped, or steps come in.

use super::run_scene::{
    elsewhere, fails, many, moves, plain, signal, step_names, template_of, templated,
};
use super::scene::Scene;
use crate::engine::Ended;
use crate::ledger::LedgerError;
use crate::ledger::runs::{Advance, Advanced, END, Items, Release};
use crate::model::job::JobState;
use crate::model::workflow::{StepSpec, StepState, WorkflowState, permanent};

super::cases![
    a_stop_cancels_what_has_not_started,
    a_step_that_fails_before_it_starts_stops_the_rest,
    a_stop_does_not_wait_for_items_that_were_not_made,
    a_stop_of_what_does_nothing_is_due_at_once,
    added_steps_are_waited_for,
    a_step_is_added_after_one_that_runs,
    a_step_added_as_its_need_ends_is_released_once,
    steps_cannot_be_added_before_what_has_started,
    steps_that_would_need_too_many_queues_are_not_added,
];

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

/// Goal: a step whose condition cannot be evaluated keeps its own error, and what needs it never starts.
async fn a_step_that_fails_before_it_starts_stops_the_rest(scene: &Scene) {
    let steps = vec![templated("a", &[]), plain("b", &[0]), templated("c", &[])];
    let (run, _) = scene.run_of(steps).await;
    let failed = fails(&scene.step(run, "a").await, StepState::Failed);
    let why = failed.error.clone();
    let (released, more) = scene
        .advance(run, |advance| {
            advance.moves.push(failed);
            advance.ending = Some(WorkflowState::Failed);
            advance.stop = true;
        })
        .await;
    assert_eq!((released, more), (vec![], true));
    let a = scene.step(run, "a").await;
    assert_eq!((a.state, a.error), (StepState::Failed, why));
    for step in ["b", "c"] {
        assert_eq!(scene.step(run, step).await.state, StepState::Cancelled, "{step}");
    }
    for step in ["a", "b", "c"] {
        assert_eq!(scene.job_state(run, step).await, JobState::Cancelled, "{step}");
    }
    let end = scene.end_of(run).await;
    assert_eq!((end.needs_left, end.due), (0, 1));
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

/// Goal: whoever adds steps makes no more queues than whoever submits runs. What undoes a run is not held up.
async fn steps_that_would_need_too_many_queues_are_not_added(scene: &Scene) {
    let (run, _) = scene.run_of(vec![plain("a", &[])]).await;
    scene.fill_with_queues().await;
    let before = (scene.snapshot(run).await.run, scene.all_steps(run).await);
    let own = elsewhere("x", "one-more");
    let items = StepSpec { for_each: Some("input".into()), ..own.clone() };
    let undone = StepSpec { compensate: template_of(&own), ..plain("x", &[]) };
    for spec in [&own, &items, &undone] {
        let added = vec![scene.added(spec, 1, vec![0], vec![END])];
        let advance = Advance { version: before.0.version, added, ..Advance::default() };
        let refused = scene.ledger.advance(&before.0, &advance).await;
        assert!(matches!(refused, Err(LedgerError::TooManyQueues)), "{refused:?}");
    }
    assert_eq!((scene.snapshot(run).await.run, scene.all_steps(run).await), before);
    let fits = scene.added(&elsewhere("x", "full-1"), 1, vec![0], vec![END]);
    scene.advance(run, |advance| advance.added = vec![fits]).await;
    let undo = scene.added(&elsewhere("y", "one-more"), 2, vec![0], vec![END]);
    let undoing = |advance: &mut Advance| {
        (advance.state, advance.added) = (Some(WorkflowState::Compensating), vec![undo]);
    };
    scene.advance(run, undoing).await;
    assert_eq!(scene.state_of(run, "y").await, (StepState::Blocked, 1));
}
