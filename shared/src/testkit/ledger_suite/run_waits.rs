//! What runs wait for: times, deadlines, signals and votes.

use std::time::Duration;

use bytes::Bytes;

use super::run_scene::{moves, plain, signal, templated};
use super::scene::{Scene, at};
use crate::ledger::runs::{GIVEN_MAX, NewGiven, NewRun, RunChanged};
use crate::model::id::WorkflowId;
use crate::model::workflow::{StepState, WorkflowState};

super::cases![
    a_wait_is_due_by_its_time,
    a_deadline_is_due_until_it_is_acted_upon,
    due_runs_come_in_pages,
    signals_are_kept_until_they_are_taken,
    a_signal_looks_at_what_waits,
    signals_are_bounded,
];

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

pub(super) fn signal_of(name: &str) -> NewGiven {
    NewGiven {
        name: name.into(),
        by: "ada".into(),
        role: None,
        approved: None,
        reason: None,
        body: Some(Bytes::from_static(b"{\"x\": 1}")),
    }
}

pub(super) async fn give(scene: &Scene, run: WorkflowId, name: &str) {
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
