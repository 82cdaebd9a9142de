//! What a failure means for a run: policies, deadlines, what is undone.

use std::time::Duration;

use serde_json::json;
use windlass_shared::model::time::Span;
use windlass_shared::model::workflow::{StepState, WorkflowState};

use super::rig::{Rig, job, order, signal, step, template, with, workflow};

#[tokio::test]
async fn a_failure_stops_the_run() {
    let rig = Rig::new().await;
    let steps = vec![
        step("bad", &[], json!({"fail": "no_luck"})),
        step("below", &[0], json!({})),
        with("held", &[], job("hold", json!({})), json!({})),
        with("later", &[2], job("do", json!({})), json!({})),
    ];
    let ended = rig.end_of(workflow(steps, json!({})), json!(null)).await;
    assert_eq!(ended.state(), WorkflowState::Failed);
    let (code, message) = ended.error();
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("step_failed", "the step \"bad\" failed: no_luck: as told")
    );
    assert_eq!(ended.of("bad"), StepState::Failed);
    for step in ["below", "held", "later"] {
        assert_eq!(ended.of(step), StepState::Cancelled, "{step}");
    }
}

#[tokio::test]
async fn others_may_finish_first() {
    let rig = Rig::new().await;
    let steps = vec![
        step("bad", &[], json!({"fail": "no_luck"})),
        step("below", &[0], json!({})),
        step("far_below", &[1], json!({})),
        step("other", &[], json!({})),
        step("after_other", &[3], json!({})),
    ];
    let more = json!({"on_failure": "let_finish"});
    let ended = rig.end_of(workflow(steps, more), json!(null)).await;
    assert_eq!(ended.state(), WorkflowState::Failed);
    assert_eq!(
        (ended.of("other"), ended.of("after_other")),
        (StepState::Succeeded, StepState::Succeeded)
    );
    for step in ["below", "far_below"] {
        assert_eq!(
            (ended.of(step), ended.why(step).as_str()),
            (StepState::Skipped, "upstream_failed")
        );
    }
}

#[tokio::test]
async fn a_failure_may_skip_its_dependents_alone() {
    let rig = Rig::new().await;
    let steps = vec![
        with("bad", &[], job("do", json!({"fail": "x"})), json!({"on_failure": "skip_dependents"})),
        step("below", &[0], json!({})),
        step("other", &[], json!({"out": 7})),
    ];
    let ended = rig.end_of(workflow(steps, json!({})), json!(null)).await;
    assert_eq!(ended.state(), WorkflowState::Succeeded);
    assert_eq!((ended.of("bad"), ended.of("below")), (StepState::Failed, StepState::Skipped));
    assert_eq!(ended.output(), json!({"below": null, "other": 7}));
}

#[tokio::test]
async fn a_failure_may_be_passed_over() {
    let rig = Rig::new().await;
    let steps = vec![
        with("bad", &[], job("do", json!({"fail": "x"})), json!({"on_failure": "continue"})),
        step(
            "below",
            &[0],
            json!({"saw": "${{ steps.bad.output }}", "why": "${{ steps.bad.error.code }}"}),
        ),
    ];
    let ended = rig.end_of(workflow(steps, json!({})), json!(null)).await;
    assert_eq!(ended.state(), WorkflowState::Succeeded);
    assert_eq!(ended.output(), json!({"below": {"saw": null, "why": "x"}}));
}

#[tokio::test]
async fn an_expression_that_fails_fails_its_step() {
    let rig = Rig::new().await;
    for (bad, code) in [
        (
            with("bad", &[], job("do", json!({"v": "${{ input.nope }}"})), json!({})),
            "expression_failed",
        ),
        (with("bad", &[], job("do", json!({})), json!({"if": "input.n"})), "expression_failed"),
        (
            with("bad", &[], job("do", json!({})), json!({"for_each": "input.n"})),
            "expression_failed",
        ),
        (
            with(
                "bad",
                &[],
                job("do", json!({})),
                json!({"if": "input.l.all(a, input.l.all(b, a == b))"}),
            ),
            "expression_failed",
        ),
    ] {
        let input = json!({"n": 1, "l": vec![1; 4_000]});
        let ended = rig.end_of(workflow(vec![bad], json!({})), input).await;
        assert_eq!((ended.state(), ended.why("bad").as_str()), (WorkflowState::Failed, code));
    }
    let ended = rig
        .end_of(
            workflow(vec![step("a", &[], json!({}))], json!({"output": "${{ input.nope }}"})),
            json!({}),
        )
        .await;
    assert_eq!(
        (ended.state(), ended.error().0.as_str()),
        (WorkflowState::Failed, "expression_failed")
    );
}

#[tokio::test]
async fn a_deadline_fails_the_run_and_stops_it() {
    let rig = Rig::new().await;
    let steps =
        vec![with("held", &[], job("hold", json!({})), json!({})), step("later", &[0], json!({}))];
    let spec = serde_json::from_value(workflow(steps, json!({}))).unwrap();
    let mut order = order(spec, json!(null));
    order.deadline = Some(Span(Duration::from_millis(20)));
    rig.life.submit_run(order.clone()).await.unwrap();
    let ended = rig.ended(order.id).await;
    assert_eq!(
        (ended.state(), ended.error().0.as_str()),
        (WorkflowState::Failed, "deadline_exceeded")
    );
    assert_eq!((ended.of("held"), ended.of("later")), (StepState::Cancelled, StepState::Cancelled));
}

#[tokio::test]
async fn what_had_succeeded_is_undone_in_reverse() {
    let rig = Rig::new().await;
    let undo = |text: &str| json!({"compensate": template("do", json!({"undo": text}))});
    let steps = vec![
        with(
            "hotel",
            &[],
            job("do", json!({"out": {"id": 5}})),
            undo("hotel ${{ steps.hotel.output.id }}"),
        ),
        with("car", &[0], job("do", json!({})), undo("car")),
        with("flight", &[1], job("do", json!({"fail": "sold_out"})), undo("flight")),
    ];
    let id = rig.submit(workflow(steps, json!({})), json!(null)).await;
    let ended = rig.ended(id).await;
    assert_eq!(
        (ended.state(), ended.error().0.as_str()),
        (WorkflowState::Compensated, "step_failed")
    );
    let (car, hotel) = (&ended.steps["compensate:car"], &ended.steps["compensate:hotel"]);
    assert_eq!((car.state, hotel.state), (StepState::Succeeded, StepState::Succeeded));
    assert!(!ended.steps.contains_key("compensate:flight"), "it had not succeeded");
    assert!(car.finished_at <= hotel.started_at, "the latest is undone first");
    let job = rig.job_of(id, "compensate:hotel").await;
    let windlass_shared::model::job::Value::Inline(bytes) = job.payload else { panic!() };
    assert_eq!(std::str::from_utf8(&bytes).unwrap(), r#"{"undo":"hotel 5"}"#);
}

#[tokio::test]
async fn a_compensation_that_fails_does_not_keep_others_from_running() {
    let rig = Rig::new().await;
    let undo = |payload| json!({"compensate": template("do", payload)});
    let steps = vec![
        with("a", &[], job("do", json!({})), undo(json!({}))),
        with("b", &[0], job("do", json!({})), undo(json!({"fail": "stuck"}))),
        step("c", &[1], json!({"fail": "x"})),
    ];
    let ended = rig.end_of(workflow(steps, json!({})), json!(null)).await;
    assert_eq!(
        (ended.state(), ended.error().0.as_str()),
        (WorkflowState::Failed, "compensation_failed")
    );
    assert_eq!(
        (ended.of("compensate:b"), ended.of("compensate:a")),
        (StepState::Failed, StepState::Succeeded)
    );
}

/// A skipped step needs others too, which run on: the run waits for them, and they are undone with the rest.
#[tokio::test]
async fn what_a_skipped_step_also_needed_is_waited_for() {
    let rig = Rig::new().await;
    let wait = json!({"signal": {"name": "go", "timeout": null}});
    for (policy, more, end) in [
        ("skip_dependents", json!({}), WorkflowState::Succeeded),
        ("fail", json!({"on_failure": "let_finish"}), WorkflowState::Compensated),
    ] {
        let steps = vec![
            with("slow", &[], wait.clone(), json!({})),
            with("bad", &[], job("do", json!({"fail": "x"})), json!({"on_failure": policy})),
            step("both", &[0, 1], json!({})),
            with(
                "next",
                &[0],
                job("do", json!({})),
                json!({"compensate": template("do", json!({}))}),
            ),
            step("last", &[2, 3], json!({})),
        ];
        let id = rig.submit(workflow(steps, more), json!(null)).await;
        rig.until("the failure has been dealt with", || async {
            (rig.state_of(id, "last").await == StepState::Skipped).then_some(())
        })
        .await;
        for _ in 0..10 {
            rig.work().await;
        }
        assert_eq!(
            rig.run(id).await.state,
            WorkflowState::Running,
            "slow and next are still to come"
        );
        rig.life.give(&rig.namespace, id, &signal("go", None)).await.unwrap();
        let ended = rig.ended(id).await;
        assert_eq!(ended.state(), end, "{policy}");
        assert_eq!(
            (ended.of("slow"), ended.of("next")),
            (StepState::Succeeded, StepState::Succeeded)
        );
        assert_eq!(ended.steps.contains_key("compensate:next"), policy == "fail");
    }
}

#[tokio::test]
async fn a_run_that_undoes_is_looked_at_when_something_happens_only() {
    let rig = Rig::new().await;
    let steps = vec![
        with("a", &[], job("do", json!({})), json!({"compensate": template("hold", json!({}))})),
        step("b", &[0], json!({"fail": "x"})),
    ];
    let id = rig.submit(workflow(steps, json!({})), json!(null)).await;
    rig.until("it undoes", || async {
        (rig.run(id).await.state == WorkflowState::Compensating).then_some(())
    })
    .await;
    rig.work().await;
    assert_eq!(rig.steps_with_end(id).await[0].wake_at, None);
    let version = rig.run(id).await.version;
    for _ in 0..10 {
        rig.work().await;
    }
    assert_eq!(rig.run(id).await.version, version);
}
