//! Steps end with the outcomes of their jobs, in the same transaction.

use futures::future::join_all;

use super::run_scene::{many, moves, plain, signal, step_names, templated};
use super::scene::{Scene, at};
use crate::engine::Ended;
use crate::ledger::runs::{Items, RecordReply, Release};
use crate::ledger::{Changed, JobPatch, Record, Recorded};
use crate::model::id::{JobId, WorkflowId};
use crate::model::job::{JobState, NewJob};
use crate::model::workflow::{StepSpec, StepState};

super::cases![
    a_chain_is_released_link_by_link,
    a_diamond_is_released_by_its_last_need,
    needs_that_end_in_one_batch_count_together,
    needs_that_end_at_once_release_once,
    a_fan_is_released_whole_and_joined_once,
    what_is_not_plain_is_made_due,
    the_end_is_due_when_every_last_step_has_ended,
    a_failure_makes_its_step_due_and_releases_nothing,
    what_is_no_end_is_not_noted,
    an_outcome_is_noted_once,
    items_are_counted,
    paced_items_are_looked_at_one_by_one,
    a_cancelled_job_is_noted,
    a_cancelled_item_is_noted,
    jobs_of_runs_are_changed_by_their_run_alone,
    one_batch_serves_many_runs,
    recorders_at_once_release_everything_once,
];

async fn a_chain_is_released_link_by_link(scene: &Scene) {
    let (run, released) =
        scene.run_of(vec![plain("a", &[]), plain("b", &[0]), plain("c", &[1])]).await;
    assert_eq!(step_names(&released), ["a"]);
    let before = scene.ledger.now().await.unwrap();
    let reply = scene.step_ends(run, "a", Ended::Succeeded).await;
    assert_eq!((step_names(&reply.released), reply.due), (vec!["b"], vec![]));
    let after = scene.ledger.now().await.unwrap();
    let (a, b) = (scene.step(run, "a").await, scene.step(run, "b").await);
    assert_eq!((a.state, a.due, a.error), (StepState::Succeeded, 0, None));
    assert_eq!((b.state, b.needs_left, b.due), (StepState::Released, 0, 0));
    // Steps end and start by the ledger's clock, whatever the outcome's own time says.
    for at in [a.finished_at.unwrap(), b.started_at.unwrap()] {
        assert!(at >= before && at <= after, "{at:?}");
    }
    let job = scene.job_of(run, "b").await;
    assert_eq!((job.state, reply.released), (JobState::Ready, vec![job.clone()]));
    assert!(job.run_at >= before && job.run_at <= after);
    assert_eq!(scene.state_of(run, "c").await, (StepState::Blocked, 1));
    assert_eq!(scene.job_state(run, "c").await, JobState::Blocked);

    let reply = scene.step_ends(run, "b", Ended::Succeeded).await;
    assert_eq!(step_names(&reply.released), ["c"]);
    let reply = scene.step_ends(run, "c", Ended::Succeeded).await;
    assert_eq!((reply.released.len(), reply.due), (0, vec![run]));
    // The run's own state is for an advance to change.
    assert_eq!(scene.snapshot(run).await.run.version, 0);
}

fn diamond() -> Vec<StepSpec> {
    vec![plain("a", &[]), plain("b", &[0]), plain("c", &[0]), plain("d", &[1, 2])]
}

async fn a_diamond_is_released_by_its_last_need(scene: &Scene) {
    let (run, _) = scene.run_of(diamond()).await;
    let reply = scene.step_ends(run, "a", Ended::Succeeded).await;
    assert_eq!(step_names(&reply.released), ["b", "c"]);
    let reply = scene.step_ends(run, "c", Ended::Succeeded).await;
    assert_eq!((reply.released.len(), reply.due.len()), (0, 0));
    assert_eq!(scene.state_of(run, "d").await, (StepState::Blocked, 1));
    let reply = scene.step_ends(run, "b", Ended::Succeeded).await;
    assert_eq!(step_names(&reply.released), ["d"]);
    let reply = scene.step_ends(run, "d", Ended::Succeeded).await;
    assert_eq!(reply.due, [run]);
}

async fn needs_that_end_in_one_batch_count_together(scene: &Scene) {
    let (run, _) = scene.run_of(diamond()).await;
    scene.step_ends(run, "a", Ended::Succeeded).await;
    let mut batch = Vec::new();
    for step in ["b", "c"] {
        let job = scene.job_of(run, step).await.id;
        batch.push(scene.next_record(job, Ended::Succeeded).await);
    }
    let reply = scene.ledger.record(batch).await.unwrap();
    assert_eq!(reply.replies, [Recorded::Applied, Recorded::Applied]);
    assert_eq!(step_names(&reply.released), ["d"]);
    assert_eq!(scene.state_of(run, "d").await, (StepState::Released, 0));
}

/// Goal: of needs that end in different transactions at the same time the last one releases, and no other (I20).
async fn needs_that_end_at_once_release_once(scene: &Scene) {
    for round in 0..30 {
        let width = 2 + round % 5;
        let mut steps: Vec<StepSpec> = (0..width).map(|n| plain(&format!("n{n}"), &[])).collect();
        let needs: Vec<u32> = (0..width).collect();
        steps.push(plain("join", &needs));
        steps.push(templated("look", &needs));
        let (run, jobs) = scene.run_of(steps).await;
        let calls =
            jobs.iter().map(|job| vec![scene.record(job.id, 1, Ended::Succeeded)]).map(|batch| {
                let ledger = scene.ledger.clone();
                tokio::spawn(async move { ledger.record(batch).await.unwrap() })
            });
        let replies: Vec<RecordReply> =
            join_all(calls).await.into_iter().map(|reply| reply.unwrap()).collect();
        let released: Vec<JobId> =
            replies.iter().flat_map(|reply| reply.released.iter().map(|job| job.id)).collect();
        let join = scene.step(run, "join").await;
        assert_eq!(released, [join.job_id.unwrap()], "round {round}");
        assert_eq!((join.state, join.needs_left), (StepState::Released, 0));
        let due: Vec<WorkflowId> = replies.iter().flat_map(|reply| reply.due.clone()).collect();
        assert_eq!(due, [run], "round {round}");
        let look = scene.step(run, "look").await;
        assert_eq!((look.state, look.needs_left, look.due), (StepState::Blocked, 0, 1));
    }
}

async fn a_fan_is_released_whole_and_joined_once(scene: &Scene) {
    let width = 1_500u32;
    let mut steps = vec![plain("root", &[])];
    steps.extend((0..width).map(|n| plain(&format!("w{n}"), &[0])));
    steps.push(plain("join", &(1..=width).collect::<Vec<_>>()));
    let (run, _) = scene.run_of(steps).await;
    let reply = scene.step_ends(run, "root", Ended::Succeeded).await;
    assert_eq!(reply.released.len(), width as usize);
    let records: Vec<Record> = reply
        .released
        .iter()
        .map(|job| scene.record(job.id, job.fence.0 + 1, Ended::Succeeded))
        .collect();
    let batches = records.chunks(400).map(|batch| scene.ledger.record(batch.to_vec()));
    let mut released = Vec::new();
    for reply in join_all(batches).await {
        released.extend(reply.unwrap().released);
    }
    assert_eq!(step_names(&released), ["join"]);
    assert_eq!(scene.state_of(run, "join").await, (StepState::Released, 0));
    assert_eq!(scene.step_ends(run, "join", Ended::Succeeded).await.due, [run]);
}

async fn what_is_not_plain_is_made_due(scene: &Scene) {
    let steps = vec![
        plain("a", &[]),
        templated("b", &[0]),
        signal("c", &[0]),
        many("d", &[0], None),
        StepSpec { condition: Some("true".into()), ..plain("e", &[0]) },
    ];
    let (run, _) = scene.run_of(steps).await;
    let reply = scene.step_ends(run, "a", Ended::Succeeded).await;
    assert_eq!((reply.released, reply.due), (vec![], vec![run]));
    let due: Vec<_> = scene.snapshot(run).await.due;
    assert_eq!(due.iter().map(|step| step.id.as_str()).collect::<Vec<_>>(), ["b", "c", "d", "e"]);
    for step in &due {
        assert_eq!((step.state, step.needs_left, step.due), (StepState::Blocked, 0, 1));
        assert_eq!(step.started_at, None);
    }
    assert_eq!(scene.job_state(run, "b").await, JobState::Blocked);
}

async fn the_end_is_due_when_every_last_step_has_ended(scene: &Scene) {
    let (run, _) = scene.run_of(vec![plain("a", &[]), plain("b", &[0]), plain("c", &[0])]).await;
    for (step, left) in [("a", 2), ("b", 1)] {
        assert_eq!(scene.step_ends(run, step, Ended::Succeeded).await.due, []);
        let end = scene.end_of(run).await;
        assert_eq!((end.needs_left, end.due, end.state), (left, 0, StepState::Blocked));
    }
    assert!(!scene.is_due(run).await);
    assert_eq!(scene.step_ends(run, "c", Ended::Succeeded).await.due, [run]);
    let end = scene.end_of(run).await;
    assert_eq!((end.needs_left, end.due, end.state), (0, 1, StepState::Blocked));
    assert_eq!(scene.snapshot(run).await.due, [end]);
    assert!(scene.is_due(run).await);
}

async fn a_failure_makes_its_step_due_and_releases_nothing(scene: &Scene) {
    for ended in [Ended::Dead, Ended::Cancelled, Ended::Expired, Ended::Quarantined] {
        let (run, _) = scene.run_of(vec![plain("a", &[]), plain("b", &[0])]).await;
        let reply = scene.step_ends(run, "a", ended).await;
        assert_eq!((reply.released, reply.due), (vec![], vec![run]), "{ended:?}");
        let a = scene.step(run, "a").await;
        assert_eq!((a.state, a.due, a.finished_at), (StepState::Released, 1, None), "{ended:?}");
        assert_eq!((a.items.open, a.items.failed), (0, 1));
        assert_eq!(scene.state_of(run, "b").await, (StepState::Blocked, 1));
        assert_eq!(scene.end_of(run).await.due, 0);
        let jobs = scene.ledger.step_jobs(run, &[0]).await.unwrap();
        assert!(jobs[0].state.is_terminal() && jobs[0].state != JobState::Succeeded);
    }
}

async fn what_is_no_end_is_not_noted(scene: &Scene) {
    let (run, _) = scene.run_of(vec![plain("a", &[]), plain("b", &[0])]).await;
    let before = scene.all_steps(run).await;
    for ended in [Ended::Retry(at(1)), Ended::Snoozed(at(1)), Ended::Released, Ended::Lost] {
        let reply = scene.step_ends(run, "a", ended).await;
        assert_eq!((reply.released, reply.due), (vec![], vec![]), "{ended:?}");
    }
    assert_eq!(scene.all_steps(run).await, before);
    assert_eq!(step_names(&scene.step_ends(run, "a", Ended::Succeeded).await.released), ["b"]);
}

async fn an_outcome_is_noted_once(scene: &Scene) {
    let (run, jobs) =
        scene.run_of(vec![plain("a", &[]), plain("b", &[]), plain("c", &[0, 1])]).await;
    let a = jobs.iter().find(|j| j.workflow.as_ref().unwrap().step == "a").unwrap().id;
    let record = scene.record(a, 5, Ended::Succeeded);
    // Twice in one batch, and again in another; and as a failure, which comes too late.
    let batch = vec![record.clone(), record.clone()];
    assert_eq!(scene.records(batch).await, [Recorded::Applied, Recorded::Stale]);
    for late in [record, scene.record(a, 9, Ended::Dead)] {
        let reply = scene.ledger.record(vec![late]).await.unwrap();
        let nothing = RecordReply { replies: vec![Recorded::Stale], ..RecordReply::default() };
        assert_eq!(reply, nothing);
    }
    assert_eq!(scene.state_of(run, "c").await, (StepState::Blocked, 1));
    assert_eq!(scene.step(run, "a").await.due, 0);

    let b = scene.job_of(run, "b").await.id;
    let dead = scene.record(b, 5, Ended::Dead);
    let records = (0..6).map(|_| scene.ledger.record(vec![dead.clone()]));
    let applied = join_all(records).await.into_iter().map(Result::unwrap);
    assert_eq!(applied.filter(|r| r.replies == [Recorded::Applied] && r.due == [run]).count(), 1);
    let b = scene.step(run, "b").await;
    assert_eq!((b.due, b.items.failed), (1, 1));
}

/// A run whose one step has begun with a list of so many items, all of them made but `later`.
async fn with_items(
    scene: &Scene,
    total: u32,
    later: u32,
    max_parallel: Option<u32>,
) -> (WorkflowId, Vec<JobId>) {
    let (run, _) = scene.run_of(vec![many("m", &[], max_parallel), plain("z", &[0])]).await;
    let mut start = moves(&scene.step(run, "m").await, StepState::Released);
    start.list = Some(("[1,2,3]".into(), total));
    let made: Vec<(u32, NewJob)> = (0..total - later).map(|n| (n, scene.new_job())).collect();
    let ids = made.iter().map(|(_, job)| job.id).collect();
    let (released, more) = scene
        .advance(run, |advance| {
            advance.moves.push(start);
            advance.releases = made
                .into_iter()
                .map(|(item, job)| Release::Item {
                    ord: 0,
                    item,
                    step: "m".into(),
                    job: Box::new(job),
                })
                .collect();
        })
        .await;
    assert_eq!((released.len(), more), ((total - later) as usize, false));
    (run, ids)
}

async fn items(scene: &Scene, run: WorkflowId) -> (Items, u64) {
    let step = scene.step(run, "m").await;
    assert_eq!(step.state, StepState::Released);
    (step.items, step.due)
}

async fn items_are_counted(scene: &Scene) {
    let (run, ids) = with_items(scene, 4, 0, None).await;
    let counts = |open, failed| Items { total: 4, made: 4, open, failed };
    assert_eq!(items(scene, run).await, (counts(4, 0), 0));
    let reply = scene.ends(ids[1], Ended::Succeeded).await;
    assert_eq!((reply.due, items(scene, run).await), (vec![], (counts(3, 0), 0)));
    // A failure is looked at by itself: it may stop the others.
    let reply = scene.ends(ids[0], Ended::Dead).await;
    assert_eq!((reply.due, items(scene, run).await), (vec![run], (counts(2, 1), 1)));
    // The last two in one batch.
    let last = [ids[2], ids[3]].map(|id| scene.record(id, 1, Ended::Succeeded));
    let reply = scene.ledger.record(last.to_vec()).await.unwrap();
    assert_eq!((reply.due, items(scene, run).await), (vec![run], (counts(0, 1), 2)));
    assert_eq!(scene.state_of(run, "z").await, (StepState::Blocked, 1));
    let jobs = scene.ledger.step_jobs(run, &[0]).await.unwrap();
    let seen: Vec<_> = jobs.iter().map(|j| (j.item, j.id)).collect();
    let expected: Vec<_> = (0..4).map(Some).zip(ids.iter().copied()).collect();
    assert_eq!(seen, expected);
    assert_eq!(scene.get(ids[0]).await.workflow.unwrap().step, "m");
}

async fn paced_items_are_looked_at_one_by_one(scene: &Scene) {
    let (run, ids) = with_items(scene, 4, 2, Some(2)).await;
    let counts = |open| Items { total: 4, made: 2, open, failed: 0 };
    assert_eq!(items(scene, run).await, (counts(4), 0));
    for (n, id) in [(1, ids[0]), (2, ids[1])] {
        assert_eq!(scene.ends(id, Ended::Succeeded).await.due, [run]);
        assert_eq!(items(scene, run).await, (counts(4 - n), u64::from(n)));
    }
}

async fn a_cancelled_job_is_noted(scene: &Scene) {
    let (run, _) = scene.run_of(vec![plain("a", &[]), plain("b", &[0])]).await;
    let a = scene.job_of(run, "a").await.id;
    let (ledger, namespace) = (&scene.ledger, &scene.namespace);
    // To be asked is no end.
    let asked = ledger.cancel(namespace, a, None, true, "stop").await.unwrap();
    assert!(matches!(asked, Changed::Done(_)), "{asked:?}");
    assert_eq!(scene.step(run, "a").await.due, 0);
    let ended = ledger.cancel(namespace, a, None, false, "stop").await.unwrap();
    assert!(matches!(&ended, Changed::Done(job) if job.state == JobState::Cancelled), "{ended:?}");
    let step = scene.step(run, "a").await;
    assert_eq!((step.state, step.due, step.items.open), (StepState::Released, 1, 0));
    assert!(scene.is_due(run).await);
    let again = ledger.cancel(namespace, a, None, false, "stop").await.unwrap();
    assert_eq!(again, Changed::Refused(JobState::Cancelled));
    assert_eq!(scene.end(a, 99, Ended::Succeeded).await, Recorded::Stale);
    assert_eq!(scene.step(run, "a").await, step);
    assert_eq!(scene.state_of(run, "b").await, (StepState::Blocked, 1));
}

async fn a_cancelled_item_is_noted(scene: &Scene) {
    let (run, ids) = with_items(scene, 2, 0, None).await;
    scene.ledger.cancel(&scene.namespace, ids[0], None, false, "stop").await.unwrap();
    let counts = Items { total: 2, made: 2, open: 1, failed: 1 };
    assert_eq!(items(scene, run).await, (counts, 1));
}

async fn jobs_of_runs_are_changed_by_their_run_alone(scene: &Scene) {
    let (run, _) = scene.run_of(vec![plain("a", &[]), plain("b", &[0])]).await;
    let (a, b) = (scene.job_of(run, "a").await.id, scene.job_of(run, "b").await);
    let (ledger, namespace) = (&scene.ledger, &scene.namespace);
    let patch = JobPatch { max_attempts: Some(9), ..JobPatch::default() };
    let blocked = Changed::Refused(JobState::Blocked);
    for running in [true, false] {
        let refused = ledger.cancel(namespace, b.id, None, running, "stop").await.unwrap();
        assert_eq!(refused, blocked);
    }
    assert_eq!(ledger.patch(namespace, b.id, None, &patch).await.unwrap(), blocked);
    assert_eq!(ledger.redrive(namespace, b.id).await.unwrap(), blocked);
    assert_eq!(ledger.delete(namespace, b.id).await.unwrap(), Changed::Refused(JobState::Blocked));
    assert_eq!(scene.get(b.id).await, b);
    // One that waits may be changed as any other.
    let patched = ledger.patch(namespace, a, None, &patch).await.unwrap();
    assert!(matches!(patched, Changed::Done(job) if job.spec.max_attempts == 9));
    scene.ends(a, Ended::Dead).await;
    let dead = scene.get(a).await;
    let redriven = ledger.redrive(namespace, a).await.unwrap();
    assert_eq!(redriven, Changed::Refused(JobState::Dead));
    assert_eq!(ledger.delete(namespace, a).await.unwrap(), Changed::Refused(JobState::Dead));
    assert_eq!(scene.get(a).await, dead);
}

async fn one_batch_serves_many_runs(scene: &Scene) {
    let chain = || vec![plain("a", &[]), plain("b", &[0])];
    let (one, first) = scene.run_of(chain()).await;
    let (two, second) = scene.run_of(vec![plain("a", &[])]).await;
    let (three, third) = scene.run_of(chain()).await;
    let alone = scene.accept(scene.new_job()).await.id;
    let batch = vec![
        scene.record(second[0].id, 1, Ended::Succeeded),
        scene.record(JobId::generate(), 1, Ended::Succeeded),
        scene.record(alone, 1, Ended::Dead),
        scene.record(third[0].id, 1, Ended::Dead),
        scene.record(first[0].id, 1, Ended::Succeeded),
    ];
    let reply = scene.ledger.record(batch).await.unwrap();
    let mut expected = vec![Recorded::Applied; 5];
    expected[1] = Recorded::Unknown;
    assert_eq!(reply.replies, expected);
    assert_eq!(reply.released, [scene.job_of(one, "b").await]);
    let mut due = reply.due;
    due.sort_by_key(|id| *id.as_bytes());
    let mut both = vec![two, three];
    both.sort_by_key(|id| *id.as_bytes());
    assert_eq!(due, both);
}

/// Goal: whatever order outcomes come in, from however many recorders: every step of every run is released once,
/// and every run is due once, at its end. Method: layered runs whose steps all need the whole layer above, with
/// each wave of outcomes split among recorders so that every call has jobs of every run.
async fn recorders_at_once_release_everything_once(scene: &Scene) {
    let (runs, layers, width) = (5usize, 4u32, 6u32);
    let mut steps = Vec::new();
    for layer in 0..layers {
        for n in 0..width {
            let above = layer.saturating_sub(1) * width;
            let needs: Vec<u32> =
                if layer == 0 { Vec::new() } else { (above..above + width).collect() };
            steps.push(plain(&format!("l{layer}-{n}"), &needs));
        }
    }
    let (mut ids, mut wave) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let (run, jobs) = scene.run_of(steps.clone()).await;
        ids.push(run);
        wave.extend(jobs.into_iter().map(|job| job.id));
    }
    for layer in 0..layers {
        assert_eq!(wave.len(), runs * width as usize, "layer {layer}");
        let recorders = 4;
        let calls = (0..recorders).map(|n| {
            let part = wave.iter().skip(n).step_by(recorders);
            let batch: Vec<Record> =
                part.map(|id| scene.record(*id, 1, Ended::Succeeded)).collect();
            let ledger = scene.ledger.clone();
            tokio::spawn(async move { ledger.record(batch).await.unwrap() })
        });
        let replies: Vec<RecordReply> =
            join_all(calls).await.into_iter().map(|reply| reply.unwrap()).collect();
        assert!(replies.iter().flat_map(|r| &r.replies).all(|r| *r == Recorded::Applied));
        wave = replies.iter().flat_map(|r| r.released.iter().map(|job| job.id)).collect();
        let mut due: Vec<WorkflowId> = replies.into_iter().flat_map(|r| r.due).collect();
        due.sort_by_key(|id| *id.as_bytes());
        let mut expected = if layer + 1 == layers { ids.clone() } else { Vec::new() };
        expected.sort_by_key(|id| *id.as_bytes());
        assert_eq!(due, expected, "layer {layer}");
    }
    assert_eq!(wave, []);
}
