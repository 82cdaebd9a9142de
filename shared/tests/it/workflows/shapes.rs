//! Graphs that end well: order, values, conditions.

use std::collections::HashMap;

use serde_json::json;
use windlass_shared::model::workflow::{StepState, WorkflowState};

use super::rig::{Rig, job, order, step, with, workflow};

#[tokio::test]
async fn values_flow_along_a_chain() {
    let rig = Rig::new().await;
    let steps = vec![
        step("a", &[], json!({"out": {"n": 20}})),
        step(
            "b",
            &[0],
            json!({"sum": "${{ steps.a.output.n + input.n }}", "text": "n is ${{ input.n }}"}),
        ),
        step("c", &[1], json!({"got": "${{ steps.b.output }}"})),
    ];
    let ended = rig.end_of(workflow(steps, json!({})), json!({"n": 22})).await;
    assert_eq!(ended.state(), WorkflowState::Succeeded);
    let b = json!({"sum": 42, "text": "n is 22"});
    assert_eq!(ended.output(), json!({"c": {"got": b}}));
    assert!(ended.run.finished_at.is_some());
}

#[tokio::test]
async fn the_answer_is_what_the_document_says() {
    let rig = Rig::new().await;
    let steps = vec![step("a", &[], json!({"out": 1})), step("b", &[0], json!({"out": 2}))];
    let output = json!({"output": {"both": ["${{ steps.a.output }}", "${{ steps.b.output }}"], "of": "${{ run.name }}"}});
    let ended = rig.end_of(workflow(steps, output), json!(null)).await;
    assert_eq!(ended.output(), json!({"both": [1, 2], "of": "test"}));
}

#[tokio::test]
async fn a_false_condition_skips_its_step_alone() {
    let rig = Rig::new().await;
    let steps = vec![
        step("a", &[], json!({"out": 1})),
        with("b", &[0], job("do", json!({})), json!({"if": "steps.a.output > 1"})),
        with(
            "c",
            &[1],
            job("do", json!({"saw": "${{ steps.b.state }}"})),
            json!({"if": "steps.a.output == 1"}),
        ),
    ];
    let ended = rig.end_of(workflow(steps, json!({})), json!(null)).await;
    assert_eq!(ended.state(), WorkflowState::Succeeded);
    assert_eq!((ended.of("b"), ended.why("b").as_str()), (StepState::Skipped, "condition_false"));
    assert_eq!(ended.output(), json!({"c": {"saw": "skipped"}}));
}

#[tokio::test]
async fn a_diamond_runs_in_order() {
    let rig = Rig::new().await;
    let steps = vec![
        step("a", &[], json!({})),
        step("b", &[0], json!({})),
        step("c", &[0], json!({})),
        step("d", &[1, 2], json!({})),
    ];
    let id = rig.submit(workflow(steps, json!({})), json!(null)).await;
    assert_eq!(rig.ended(id).await.state(), WorkflowState::Succeeded);
    let mut jobs = HashMap::new();
    for name in ["a", "b", "c", "d"] {
        jobs.insert(name, rig.job_of(id, name).await);
    }
    for (first, then) in [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")] {
        assert!(jobs[first].finished_at <= jobs[then].started_at, "{first} before {then}");
    }
}

#[tokio::test]
async fn wide_and_deep_graphs_run_each_step_once() {
    let rig = Rig::new().await;
    let mut steps = vec![step("root", &[], json!({}))];
    steps.extend((0..300).map(|n| step(&format!("fan-{n}"), &[0], json!({}))));
    let all: Vec<usize> = (1..=300).collect();
    steps.push(step("join", &all, json!({})));
    for n in 0..200 {
        // Every other link is not plain, so that the two ways of release take turns.
        let payload = if n % 2 == 0 { json!({}) } else { json!({"n": "${{ input.n }}"}) };
        steps.push(step(&format!("link-{n}"), &[301 + n], payload));
    }
    let id = rig.submit(workflow(steps, json!({})), json!({"n": 1})).await;
    let ended = rig.ended(id).await;
    assert_eq!(ended.state(), WorkflowState::Succeeded);
    assert_eq!(ended.steps.len(), 502);
    for step in ended.steps.values() {
        assert_eq!(step.state, StepState::Succeeded, "{}", step.id);
    }
    let attempts = rig.job_of(id, "link-199").await.attempt;
    assert_eq!(attempts, 1);
}

#[tokio::test]
async fn a_large_value_is_passed_by_reference() {
    let rig = Rig::new().await;
    let large = "x".repeat(100_000);
    let steps = vec![
        step("a", &[], json!({"out": 1})),
        step("b", &[0], json!({"out": "${{ input.text.size() }}"})),
    ];
    let ended = rig
        .end_of(workflow(steps, json!({"output": "${{ input.text }}"})), json!({"text": large}))
        .await;
    assert_eq!(ended.state(), WorkflowState::Succeeded, "{:?}", ended.run.error);
    let windlass_shared::model::job::Value::Blob(id) = ended.run.output.unwrap() else {
        panic!("inline")
    };
    let bytes = rig.life.ledger().blob(&rig.namespace, id).await.unwrap().unwrap();
    assert_eq!(bytes.len(), 100_002);
}

#[tokio::test]
async fn a_run_without_steps_ends_at_once() {
    let rig = Rig::new().await;
    let ended = rig.end_of(workflow(vec![], json!({})), json!(null)).await;
    assert_eq!((ended.state(), ended.output()), (WorkflowState::Succeeded, json!({})));
}

#[tokio::test]
async fn a_repeat_of_a_submission_is_the_same_run() {
    let rig = Rig::new().await;
    let spec =
        serde_json::from_value(workflow(vec![step("a", &[], json!({}))], json!({}))).unwrap();
    let order = order(spec, json!(1));
    rig.life.submit_run(order.clone()).await.unwrap();
    rig.life.submit_run(order.clone()).await.unwrap();
    assert_eq!(rig.ended(order.id).await.state(), WorkflowState::Succeeded);
    let runs =
        rig.life.ledger().list_runs(&rig.namespace, &Default::default(), None, 10).await.unwrap();
    assert_eq!(runs.len(), 1);
}
