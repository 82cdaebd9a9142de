//! Runs of workflows: how they come in, and how they are read.

use std::time::Duration;

use futures::future::join_all;

use super::run_scene::{
    child, elsewhere, many, moves, plain, signal, step_names, template_of, templated,
};
use super::scene::{Scene, key};
use crate::engine::Ended;
use crate::ledger::runs::{CreateOutcome, DUE_MAX, END, Items, NewRun, Parent, RunFilter};
use crate::ledger::{JobFilter, LedgerError, Unfinished};
use crate::model::id::{BlobId, WorkflowId};
use crate::model::job::{JobState, Value};
use crate::model::workflow::{StepSpec, StepState, WorkflowState};

super::cases![
    a_run_reads_back_as_it_was_created,
    its_steps_and_jobs_read_back,
    what_needs_nothing_and_is_not_plain_is_due_at_once,
    a_snapshot_is_bounded,
    a_repeat_with_the_same_id_changes_nothing,
    a_key_stands_for_one_run,
    callers_that_share_a_key_make_one_run,
    a_run_that_would_need_too_many_queues_is_refused_whole,
    queues_of_later_jobs_are_made_with_the_run,
    a_run_is_started_by_a_waiting_step_alone,
    callers_that_start_the_same_child_make_one,
    runs_are_listed_newest_first,
    lists_are_filtered,
    a_large_run_is_read_in_pages,
    heads_leave_out_lists_and_outputs_alone,
    blocked_jobs_are_nobodys_work,
];

async fn a_run_reads_back_as_it_was_created(scene: &Scene) {
    let before = scene.ledger.now().await.unwrap();
    let deadline = before.plus(Duration::from_secs(3_600));
    let new = NewRun {
        definition: Some(("nightly".into(), 3)),
        document: None,
        deadline: Some(deadline),
        tags: vec!["x".into(), "y \"z\"".into()],
        depth: 2,
        rerun_of: Some(WorkflowId::generate()),
        request_id: Some("r1".into()),
        traceparent: Some("00-1-2-01".into()),
        ..scene.new_run(vec![plain("a", &[]), plain("b", &[0])])
    };
    scene.create(&new).await;
    let run = scene.ledger.run(&scene.namespace, new.id).await.unwrap().unwrap();
    assert_eq!((run.id, &run.namespace, run.name.as_str()), (new.id, &scene.namespace, "flow"));
    assert_eq!((run.version, run.state, run.ending), (0, WorkflowState::Running, None));
    assert_eq!((&run.definition, &run.document), (&new.definition, &None));
    assert_eq!((&run.options, &run.input), (&new.options, &new.input));
    assert_eq!((&run.output, &run.error, run.finished_at), (&None, &None, None));
    assert_eq!((run.steps, &run.tags, run.deadline), (2, &new.tags, Some(deadline)));
    assert_eq!((run.parent, run.depth, run.rerun_of), (None, 2, new.rerun_of));
    assert_eq!((&run.request_id, &run.traceparent), (&new.request_id, &new.traceparent));
    assert!(run.created_at >= before && run.created_at <= scene.ledger.now().await.unwrap());
    assert_eq!(scene.snapshot(new.id).await.run, run);
    let elsewhere = scene.elsewhere();
    assert_eq!(scene.ledger.run(&elsewhere.namespace, new.id).await.unwrap(), None);
    assert_eq!(scene.ledger.run_snapshot(WorkflowId::generate()).await.unwrap().map(|_| ()), None);

    let own = scene.new_run(vec![plain("a", &[])]);
    scene.create(&own).await;
    let run = scene.ledger.run(&scene.namespace, own.id).await.unwrap().unwrap();
    assert_eq!((run.definition, run.document), (None, own.document));
}

async fn its_steps_and_jobs_read_back(scene: &Scene) {
    let (payload, input) = (BlobId::generate(), BlobId::generate());
    for blob in [payload, input] {
        scene.ledger.put_blob(&scene.namespace, blob, "\"large\"".into()).await.unwrap();
    }
    let steps = vec![plain("a", &[]), plain("b", &[0]), many("c", &[0], Some(2)), signal("d", &[])];
    let mut new = NewRun { input: Value::Blob(input), ..scene.new_run(steps) };
    new.steps[1].job.as_mut().unwrap().payload = Value::Blob(payload);
    let released = scene.create(&new).await;
    assert_eq!(step_names(&released), ["a"]);

    let rows = scene.ledger.steps(new.id, i32::MIN, 10).await.unwrap();
    assert_eq!(rows.iter().map(|s| s.ord).collect::<Vec<_>>(), [END, 0, 1, 2, 3]);
    for (row, step) in rows[1..].iter().zip(&new.steps) {
        assert_eq!((&row.id, row.state, row.due > 0), (&step.id, step.state, step.due));
        assert_eq!((&row.needs, &row.dependents), (&step.needs, &step.dependents));
        assert_eq!((row.plain, row.many, &row.spec), (step.plain, step.many, &step.spec));
        assert_eq!(row.job_id, step.job.as_ref().map(|job| job.id));
        assert_eq!(row.needs_left as usize, step.needs.len());
        assert_eq!((row.wake_at, row.finished_at, &row.error), (None, None, &None));
        assert_eq!(row.started_at.is_some(), step.state == StepState::Released);
        assert_eq!((&row.list, &row.output), (&None, &None));
        assert_eq!(row.items, Items { total: 1, made: 1, open: 1, failed: 0 });
    }
    assert_eq!((rows[0].needs.clone(), rows[0].needs_left, rows[0].due), (vec![1, 2, 3], 3, 0));

    let (a, b) = (scene.job_of(new.id, "a").await, scene.job_of(new.id, "b").await);
    assert_eq!((a.state, b.state), (JobState::Ready, JobState::Blocked));
    assert_eq!((&b.payload, b.tags.as_slice()), (&Value::Blob(payload), &["step".to_owned()][..]));
    let step = a.workflow.as_ref().unwrap();
    assert_eq!((step.id, step.step.as_str(), a.request_id.as_deref()), (new.id, "a", Some("r1")));
    assert_eq!(released, std::slice::from_ref(&a));

    let jobs = scene.ledger.step_jobs(new.id, &[0, 1, 2]).await.unwrap();
    let seen: Vec<_> = jobs.iter().map(|j| (j.ord, j.item, j.id, j.state)).collect();
    let expected = [(0, None, a.id, JobState::Ready), (1, None, b.id, JobState::Blocked)];
    assert_eq!(seen, expected);
    let mut counts = scene.ledger.step_counts(new.id).await.unwrap();
    counts.sort_by_key(|(state, _)| *state as i16);
    assert_eq!(counts, [(StepState::Blocked, 3), (StepState::Released, 1)]);
    assert_eq!(scene.ledger.live_jobs(new.id, None, 10).await.unwrap(), [a.id]);
    assert_eq!(scene.ledger.live_jobs(new.id, Some(a.id), 10).await.unwrap(), []);

    let of_run = JobFilter { workflow_id: Some(new.id), ..JobFilter::default() };
    let page = scene.ledger.list(&scene.namespace, &of_run, None, 10).await.unwrap();
    assert_eq!(page.jobs.len(), 2);
}

async fn what_needs_nothing_and_is_not_plain_is_due_at_once(scene: &Scene) {
    let (run, released) =
        scene.run_of(vec![templated("a", &[]), plain("b", &[]), signal("c", &[1])]).await;
    assert_eq!(step_names(&released), ["b"]);
    let due: Vec<_> = scene.snapshot(run).await.due.into_iter().map(|s| s.id).collect();
    assert_eq!(due, ["a"]);
    assert!(scene.is_due(run).await);
    let (calm, _) = scene.run_of(vec![plain("a", &[])]).await;
    assert!(!scene.is_due(calm).await);
    assert_eq!(scene.snapshot(calm).await.due, []);
    let (empty, _) = scene.run_of(Vec::new()).await;
    assert_eq!(scene.snapshot(empty).await.due[0].ord, END);
    assert!(scene.is_due(empty).await);
}

async fn a_snapshot_is_bounded(scene: &Scene) {
    let most = DUE_MAX as usize;
    let steps = (0..most + 20).map(|n| templated(&format!("s{n}"), &[])).collect();
    let (run, _) = scene.run_of(steps).await;
    let due = scene.snapshot(run).await.due;
    let first: Vec<i32> = (0..i32::try_from(most).unwrap()).collect();
    assert_eq!(due.iter().map(|step| step.ord).collect::<Vec<_>>(), first);
}

async fn a_repeat_with_the_same_id_changes_nothing(scene: &Scene) {
    let new = scene.new_run(vec![plain("a", &[]), plain("b", &[0])]);
    scene.create(&new).await;
    scene.step_ends(new.id, "a", Ended::Succeeded).await;
    let steps = scene.all_steps(new.id).await;
    let other = NewRun { id: new.id, ..scene.new_run(vec![plain("z", &[])]) };
    for again in [&new, &other] {
        let outcome = scene.ledger.create_run(again).await.unwrap();
        assert_eq!(outcome, CreateOutcome::Replayed(new.id));
    }
    assert_eq!(scene.all_steps(new.id).await, steps);
    let job = other.steps[0].job.as_ref().unwrap().id;
    assert_eq!(scene.find(job).await, None);
}

async fn a_key_stands_for_one_run(scene: &Scene) {
    let with = |key| NewRun { idempotency: key, ..scene.new_run(vec![plain("a", &[])]) };
    let first = with(key("k", 1));
    scene.create(&first).await;
    let again = with(key("k", 1));
    let outcome = scene.ledger.create_run(&again).await.unwrap();
    assert_eq!(outcome, CreateOutcome::Replayed(first.id));
    let outcome = scene.ledger.create_run(&with(key("k", 2))).await.unwrap();
    assert_eq!(outcome, CreateOutcome::KeyReused);
    assert_eq!(scene.ledger.run(&scene.namespace, again.id).await.unwrap(), None);
    // Other keys and other namespaces are others.
    scene.create(&with(key("l", 2))).await;
    let there = scene.elsewhere();
    there.create(&NewRun { idempotency: key("k", 9), ..there.new_run(Vec::new()) }).await;
}

async fn callers_that_share_a_key_make_one_run(scene: &Scene) {
    let runs: Vec<NewRun> = (0..8)
        .map(|_| NewRun {
            idempotency: key("k", 1),
            ..scene.new_run(vec![plain("a", &[]), plain("b", &[0])])
        })
        .collect();
    let outcomes = join_all(runs.iter().map(|new| scene.ledger.create_run(new))).await;
    let mut made = Vec::new();
    let mut replayed = Vec::new();
    for (new, outcome) in runs.iter().zip(outcomes) {
        match outcome.unwrap() {
            CreateOutcome::Created(_) => made.push(new.id),
            CreateOutcome::Replayed(id) => replayed.push(id),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((made.len(), replayed.len()), (1, 7));
    assert!(replayed.iter().all(|id| *id == made[0]));
    let all = scene.ledger.list_runs(&scene.namespace, &RunFilter::default(), None, 50).await;
    assert_eq!(all.unwrap().len(), 1);
}

async fn queues_of_later_jobs_are_made_with_the_run(scene: &Scene) {
    let items = StepSpec { for_each: Some("input".into()), ..elsewhere("a", "items") };
    let undone = StepSpec { compensate: template_of(&elsewhere("b", "undo")), ..plain("b", &[]) };
    scene.run_of(vec![items, undone]).await;
    let queues = scene.ledger.queues(Some(&scene.namespace)).await.unwrap();
    let names: Vec<&str> = queues.iter().map(|queue| queue.name.as_str()).collect();
    assert_eq!(names, ["items", "q", "undo"]);
}

async fn a_run_that_would_need_too_many_queues_is_refused_whole(scene: &Scene) {
    scene.accept(scene.new_job()).await;
    scene.fill_with_queues().await;
    let fits: Vec<StepSpec> = vec![plain("a", &[]), elsewhere("b", "full-1")];
    scene.run_of(fits.clone()).await;
    // A job that would only come later counts as well: an item's, or one that undoes a step.
    let items = StepSpec { for_each: Some("input".into()), ..elsewhere("c", "one-more") };
    let undone =
        StepSpec { compensate: template_of(&elsewhere("c", "one-more")), ..plain("c", &[]) };
    for late in [items, undone] {
        let new = scene.new_run(fits.iter().cloned().chain([late]).collect());
        let refused = scene.ledger.create_run(&new).await;
        assert!(matches!(refused, Err(LedgerError::TooManyQueues)), "{refused:?}");
        assert_eq!(scene.ledger.run(&scene.namespace, new.id).await.unwrap(), None);
    }
    let mut steps = fits;
    steps.push(elsewhere("c", "one-more"));
    let new = NewRun { idempotency: key("k", 1), ..scene.new_run(steps) };
    let refused = scene.ledger.create_run(&new).await;
    assert!(matches!(refused, Err(LedgerError::TooManyQueues)), "{refused:?}");
    assert_eq!(scene.ledger.run(&scene.namespace, new.id).await.unwrap(), None);
    assert_eq!(scene.find(new.steps[0].job.as_ref().unwrap().id).await, None);
    // The key is not spent.
    let other = NewRun { idempotency: key("k", 2), ..scene.new_run(Vec::new()) };
    scene.create(&other).await;
}

async fn a_run_is_started_by_a_waiting_step_alone(scene: &Scene) {
    let (run, _) = scene.run_of(vec![plain("a", &[]), child("b", &[0])]).await;
    let early = scene.ledger.create_run(&scene.new_child(run, 1)).await.unwrap();
    assert_eq!(early, CreateOutcome::ParentGone);
    scene.step_ends(run, "a", Ended::Succeeded).await;
    scene.move_step(run, "b", StepState::Waiting).await;
    let started = scene.new_child(run, 1);
    scene.create(&started).await;
    let twice = scene.ledger.create_run(&scene.new_child(run, 1)).await.unwrap();
    assert_eq!(twice, CreateOutcome::Replayed(started.id));
    let read = scene.ledger.run(&scene.namespace, started.id).await.unwrap().unwrap();
    assert_eq!(read.parent, Some(Parent { run, ord: 1, item: None }));
    let children = scene.ledger.children(run, &[0, 1]).await.unwrap();
    let seen: Vec<_> = children.iter().map(|(ord, c)| (*ord, c.id, c.state)).collect();
    assert_eq!(seen, [(1, started.id, WorkflowState::Running)]);
    assert_eq!(scene.ledger.children(run, &[0]).await.unwrap(), []);
    for gone in [scene.new_child(run, 7), scene.new_child(WorkflowId::generate(), 1)] {
        let outcome = scene.ledger.create_run(&gone).await.unwrap();
        assert_eq!(outcome, CreateOutcome::ParentGone);
    }

    // A run that is to end starts nothing more, nor does one that has ended.
    let (run, _) = scene.run_of(vec![child("a", &[])]).await;
    scene.move_step(run, "a", StepState::Waiting).await;
    scene
        .advance(run, |advance| {
            (advance.stop, advance.ending) = (true, Some(WorkflowState::Cancelled));
        })
        .await;
    let late = scene.ledger.create_run(&scene.new_child(run, 0)).await.unwrap();
    assert_eq!(late, CreateOutcome::ParentGone);
}

async fn callers_that_start_the_same_child_make_one(scene: &Scene) {
    let (run, _) = scene.run_of(vec![child("a", &[])]).await;
    scene.move_step(run, "a", StepState::Waiting).await;
    let news: Vec<NewRun> = (0..6).map(|_| scene.new_child(run, 0)).collect();
    let outcomes = join_all(news.iter().map(|new| scene.ledger.create_run(new))).await;
    let made = outcomes.iter().filter(|o| matches!(o, Ok(CreateOutcome::Created(_)))).count();
    let same = outcomes.iter().filter(|o| matches!(o, Ok(CreateOutcome::Replayed(_)))).count();
    assert_eq!((made, same), (1, 5), "{outcomes:?}");
    assert_eq!(scene.ledger.children(run, &[0]).await.unwrap().len(), 1);
}

async fn runs_are_listed_newest_first(scene: &Scene) {
    let mut ids = Vec::new();
    for _ in 0..7 {
        ids.push(scene.run_of(vec![plain("a", &[])]).await.0);
    }
    scene.elsewhere().run_of(Vec::new()).await;
    ids.sort_by_key(|id| std::cmp::Reverse(*id.as_bytes()));
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let filter = RunFilter::default();
        let page = scene.ledger.list_runs(&scene.namespace, &filter, before, 3).await.unwrap();
        found.extend(page.iter().map(|run| run.id));
        if page.len() < 3 {
            break;
        }
        before = found.last().copied();
    }
    assert_eq!(found, ids);
}

async fn lists_are_filtered(scene: &Scene) {
    let tagged = NewRun {
        name: "tagged".into(),
        tags: vec!["a".into(), "b".into()],
        ..scene.new_run(vec![plain("a", &[])])
    };
    let defined = NewRun {
        definition: Some(("nightly".into(), 1)),
        document: None,
        ..scene.new_run(vec![plain("a", &[])])
    };
    for new in [&tagged, &defined] {
        scene.create(new).await;
    }
    scene.end_run(defined.id, WorkflowState::Failed).await;
    let created = scene.ledger.run(&scene.namespace, defined.id).await.unwrap().unwrap().created_at;
    let all = RunFilter::default();
    let tags = |tags: &[&str]| tags.iter().map(|t| (*t).to_owned()).collect();
    let cases = [
        (RunFilter { states: vec![WorkflowState::Running], ..all.clone() }, vec![tagged.id]),
        (
            RunFilter {
                states: vec![WorkflowState::Failed, WorkflowState::Cancelled],
                ..all.clone()
            },
            vec![defined.id],
        ),
        (RunFilter { states: vec![WorkflowState::Waiting], ..all.clone() }, vec![]),
        (RunFilter { name: Some("tagged".into()), ..all.clone() }, vec![tagged.id]),
        (RunFilter { definition: Some("nightly".into()), ..all.clone() }, vec![defined.id]),
        (RunFilter { definition: Some("flow".into()), ..all.clone() }, vec![]),
        (RunFilter { tags: tags(&["b", "a"]), ..all.clone() }, vec![tagged.id]),
        (RunFilter { tags: tags(&["a", "c"]), ..all.clone() }, vec![]),
        (RunFilter { created_after: Some(created), ..all.clone() }, vec![defined.id]),
        (RunFilter { created_before: Some(created), ..all.clone() }, vec![tagged.id]),
    ];
    for (filter, expected) in cases {
        let found = scene.ledger.list_runs(&scene.namespace, &filter, None, 500).await.unwrap();
        let found: Vec<_> = found.iter().map(|run| run.id).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
}

async fn a_large_run_is_read_in_pages(scene: &Scene) {
    let mut steps = vec![plain("s0", &[])];
    steps.extend((1..2_500).map(|n| plain(&format!("s{n}"), &[0])));
    let (run, released) = scene.run_of(steps).await;
    assert_eq!(step_names(&released), ["s0"]);
    let (mut ords, mut after) = (Vec::new(), END);
    loop {
        let page = scene.ledger.steps(run, after, 900).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.ord;
        ords.extend(page.iter().map(|step| step.ord));
    }
    assert_eq!(ords, (0..2_500).collect::<Vec<i32>>());
    let page = scene.ledger.step_heads(run, 899, 900).await.unwrap();
    assert_eq!(page, scene.ledger.steps(run, 899, 900).await.unwrap());
    let names: Vec<String> = (0..2_600).rev().map(|n| format!("s{n}")).collect();
    assert_eq!(scene.ledger.steps_named(run, &names).await.unwrap().len(), 2_500);
    let end = scene.end_of(run).await;
    assert_eq!((end.needs.len(), end.needs_left), (2_499, 2_499));
}

async fn heads_leave_out_lists_and_outputs_alone(scene: &Scene) {
    let (run, _) =
        scene.run_of(vec![many("a", &[], None), signal("b", &[]), plain("c", &[])]).await;
    let mut start = moves(&scene.step(run, "a").await, StepState::Released);
    start.list = Some(("[1,2,3]".into(), 3));
    let mut done = moves(&scene.step(run, "b").await, StepState::Succeeded);
    done.output = Some("\"large\"".into());
    scene.advance(run, |advance| advance.moves = vec![start, done]).await;
    let mut expected = scene.all_steps(run).await;
    assert_eq!(expected[0].list.replace("".into()), Some("[1,2,3]".into()));
    assert_eq!(expected[1].output.take(), Some("\"large\"".into()));
    assert_eq!(scene.ledger.step_heads(run, END, 10).await.unwrap(), expected);
    assert_eq!(scene.ledger.step_heads(run, 0, 1).await.unwrap(), expected[1..2]);
    assert_eq!(scene.ledger.step_heads(run, i32::MIN, 1).await.unwrap(), [scene.end_of(run).await]);
}

async fn blocked_jobs_are_nobodys_work(scene: &Scene) {
    let (run, _) = scene.run_of(vec![plain("a", &[]), plain("b", &[0])]).await;
    let a = scene.job_of(run, "a").await.id;
    let waiting = scene.ledger.waiting(&scene.namespace, &scene.queue, 10).await.unwrap();
    assert_eq!(waiting, 1);
    let later = scene.ledger.now().await.unwrap().plus(Duration::from_secs(60));
    let (namespace, queue) = (&scene.namespace, &scene.queue);
    let page = scene
        .ledger
        .unfinished(Unfinished::new(namespace, queue, (later, later), 10))
        .await
        .unwrap();
    assert_eq!(page.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [a]);
}
