//! A run that is changed from outside: retried, grown, carried on by many.

use futures::future::join_all;
use serde_json::json;
use windlass_shared::ledger::runs::RunChanged;
use windlass_shared::lifecycle::workflow::AddedSteps;
use windlass_shared::model::workflow::{StepSpec, StepState, WorkflowState};

use super::rig::{Rig, job, signal, step, template, with, workflow};

#[tokio::test]
async fn a_retry_goes_on_from_what_failed() {
    let rig = Rig::new().await;
    let steps = vec![
        step("a", &[], json!({"out": 1})),
        // Its first attempt succeeds, once it is not the first run of it: the condition reads the input.
        with("b", &[0], job("do", json!({"fail": "x"})), json!({})),
        step("c", &[1], json!({})),
        with("held", &[], job("hold", json!({})), json!({})),
    ];
    let id = rig.submit(workflow(steps, json!({})), json!(null)).await;
    assert_eq!(rig.ended(id).await.state(), WorkflowState::Failed);
    let RunChanged::Done(retried) = rig.life.retry_run(&rig.namespace, id).await.unwrap() else {
        panic!("a failed run can be retried");
    };
    assert_eq!(retried.reused, ["a"]);
    assert_eq!(retried.again, ["b", "c", "held"]);
    assert_eq!((retried.run.state, retried.run.error.clone()), (WorkflowState::Running, None));
    let ended = rig.ended(id).await;
    assert_eq!(ended.state(), WorkflowState::Failed, "b fails again");
    let attempts =
        rig.life.ledger().attempts(&rig.namespace, ended.steps["b"].job_id.unwrap()).await.unwrap();
    assert_eq!(attempts.unwrap().len(), 2);
    let first =
        rig.life.ledger().attempts(&rig.namespace, ended.steps["a"].job_id.unwrap()).await.unwrap();
    assert_eq!(first.unwrap().len(), 1, "its result was reused");
    assert_eq!(ended.of("held"), StepState::Cancelled);
}

#[tokio::test]
async fn a_cancelled_run_can_go_on_to_its_end() {
    let rig = Rig::new().await;
    let steps = vec![
        step("a", &[], json!({"out": 1})),
        with("go", &[0], json!({"signal": {"name": "go", "timeout": null}}), json!({})),
        step("b", &[1], json!({"n": "${{ steps.a.output }}"})),
    ];
    let id = rig.submit(workflow(steps, json!({})), json!(null)).await;
    rig.until("it waits", || async {
        (rig.state_of(id, "go").await == StepState::Waiting).then_some(())
    })
    .await;
    rig.life.cancel_run(&rig.namespace, id, "no").await.unwrap();
    assert_eq!(rig.ended(id).await.state(), WorkflowState::Cancelled);
    let RunChanged::Done(retried) = rig.life.retry_run(&rig.namespace, id).await.unwrap() else {
        panic!()
    };
    assert_eq!(
        (retried.reused, retried.again),
        (vec!["a".to_owned()], vec!["go".to_owned(), "b".to_owned()])
    );
    let given = signal("go", None);
    rig.life.give(&rig.namespace, id, &given).await.unwrap();
    let ended = rig.ended(id).await;
    assert_eq!((ended.state(), ended.output()), (WorkflowState::Succeeded, json!({"b": {"n": 1}})));
}

#[tokio::test]
async fn what_was_undone_or_has_succeeded_is_not_retried() {
    let rig = Rig::new().await;
    let undo = json!({"compensate": template("do", json!({}))});
    let steps =
        vec![with("a", &[], job("do", json!({})), undo), step("b", &[0], json!({"fail": "x"}))];
    let id = rig.submit(workflow(steps, json!({})), json!(null)).await;
    assert_eq!(rig.ended(id).await.state(), WorkflowState::Compensated);
    let refused = rig.life.retry_run(&rig.namespace, id).await.unwrap();
    assert_eq!(refused, RunChanged::Refused(WorkflowState::Compensated));
    let id = rig.submit(workflow(vec![step("a", &[], json!({}))], json!({})), json!(null)).await;
    rig.ended(id).await;
    let refused = rig.life.retry_run(&rig.namespace, id).await.unwrap();
    assert_eq!(refused, RunChanged::Refused(WorkflowState::Succeeded));
}

#[tokio::test]
async fn a_running_step_adds_steps_after_itself() {
    let rig = Rig::new().await;
    let steps = vec![
        with("plan", &[], json!({"signal": {"name": "go", "timeout": null}}), json!({})),
        step("last", &[0], json!({"got": "${{ input }}"})),
    ];
    let id = rig.submit(workflow(steps, json!({})), json!(3)).await;
    rig.until("it waits", || async {
        (rig.state_of(id, "plan").await == StepState::Waiting).then_some(())
    })
    .await;
    let added: Vec<StepSpec> = vec![
        serde_json::from_value(step("x", &[], json!({}))).unwrap(),
        serde_json::from_value(step("y", &[0], json!({}))).unwrap(),
    ];
    let add = |after: &'static str| rig.life.add_steps(&rig.namespace, id, after, added.clone());
    assert_eq!(add("nope").await.unwrap(), AddedSteps::NoSuchStep);
    assert_eq!(add("plan").await.unwrap(), AddedSteps::Done);
    assert_eq!(add("plan").await.unwrap(), AddedSteps::Taken("x".into()));
    let given = signal("go", None);
    rig.life.give(&rig.namespace, id, &given).await.unwrap();
    let ended = rig.ended(id).await;
    assert_eq!((ended.state(), ended.run.steps), (WorkflowState::Succeeded, 4));
    let (x, y, last) = (&ended.steps["x"], &ended.steps["y"], &ended.steps["last"]);
    assert!(x.finished_at <= y.started_at && y.finished_at <= last.started_at);
    assert_eq!(add("plan").await.unwrap(), AddedSteps::Ended);
}

#[tokio::test]
async fn many_may_carry_a_run_on_at_once() {
    let rig = Rig::new().await;
    let mut steps = vec![step("root", &[], json!({}))];
    for n in 0..40 {
        let payload = json!({"n": "${{ input }}"});
        steps.push(with(&format!("s{n}"), &[0], job("do", payload), json!({"if": "input == 1"})));
    }
    let id = rig.submit(workflow(steps, json!({})), json!(1)).await;
    while !rig.run(id).await.state.is_terminal() {
        rig.work().await;
        for result in join_all((0..4).map(|_| rig.life.advance_run(id))).await {
            result.unwrap();
        }
    }
    let ended = rig.ended(id).await;
    assert_eq!(ended.state(), WorkflowState::Succeeded);
    assert!(ended.steps.values().all(|step| step.state == StepState::Succeeded));
}

#[tokio::test]
async fn items_that_a_stop_left_unmade_are_made_by_a_retry() {
    let rig = Rig::new().await;
    let each = json!({"for_each": "input", "max_parallel": 1});
    let steps = vec![
        with("each", &[], job("do", json!({"out": "${{ item }}"})), each),
        with(
            "held",
            &[],
            json!({"signal": {"name": "go", "timeout": null}}),
            json!({"on_failure": "continue"}),
        ),
    ];
    let id = rig.submit(workflow(steps, json!({})), json!([0, 1, 2, 3])).await;
    rig.until("two items have run", || async {
        let step = rig.steps(id).await.remove("each").unwrap();
        (step.list.is_some() && step.items.open == 2).then_some(())
    })
    .await;
    rig.life.cancel_run(&rig.namespace, id, "no").await.unwrap();
    let ended = rig.ended(id).await;
    assert_eq!((ended.state(), ended.of("each")), (WorkflowState::Cancelled, StepState::Cancelled));
    let made = ended.steps["each"].items.made;
    assert!(made < 4, "{made}");
    rig.life.retry_run(&rig.namespace, id).await.unwrap();
    let given = signal("go", None);
    rig.life.give(&rig.namespace, id, &given).await.unwrap();
    let ended = rig.ended(id).await;
    assert_eq!(ended.state(), WorkflowState::Succeeded, "{:?}", ended.run.error);
    assert_eq!(ended.output(), json!({"each": [0, 1, 2, 3], "held": null}));
}
