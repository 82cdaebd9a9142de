//! `for_each`: one job per item.

use serde_json::json;
use windlass_shared::model::workflow::{StepState, WorkflowState};

use super::rig::{Rig, job, step, with, workflow};

#[tokio::test]
async fn items_run_and_their_outputs_are_in_order() {
    let rig = Rig::new().await;
    let each = json!({"for_each": "steps.list.output"});
    let steps = vec![
        step("list", &[], json!({"out": [3, 1, 2]})),
        with("each", &[0], job("do", json!({"out": "${{ item * 10 + index }}"})), each),
        step("sum", &[1], json!({"all": "${{ steps.each.output }}"})),
    ];
    let ended = rig.end_of(workflow(steps, json!({})), json!(null)).await;
    assert_eq!(ended.state(), WorkflowState::Succeeded, "{:?}", ended.run.error);
    assert_eq!(ended.output(), json!({"sum": {"all": [30, 11, 22]}}));
}

#[tokio::test]
async fn an_empty_list_is_no_work() {
    let rig = Rig::new().await;
    let steps = vec![
        with("each", &[], job("do", json!({})), json!({"for_each": "input"})),
        step("after", &[0], json!({"got": "${{ steps.each.output }}"})),
    ];
    let ended = rig.end_of(workflow(steps, json!({})), json!([])).await;
    assert_eq!(
        (ended.state(), ended.output()),
        (WorkflowState::Succeeded, json!({"after": {"got": []}}))
    );
}

#[tokio::test]
async fn no_more_items_run_at_once_than_max_parallel() {
    let rig = Rig::new().await;
    let each = json!({"for_each": "input", "max_parallel": 3});
    let steps = vec![with("each", &[], job("do", json!({"out": "${{ item }}"})), each)];
    let input: Vec<u32> = (0..50).collect();
    let id = rig.submit(workflow(steps, json!({})), json!(input)).await;
    let mut most = 0;
    loop {
        let step = rig.steps(id).await.remove("each").unwrap();
        let running = (step.items.open + step.items.made).saturating_sub(step.items.total);
        most = most.max(if step.list.is_some() { running } else { 0 });
        if step.state.is_terminal() {
            break;
        }
        rig.work().await;
    }
    assert_eq!(most, 3);
    assert_eq!(rig.ended(id).await.output(), json!({ "each": input }));
}

#[tokio::test]
async fn thousands_of_items_are_made_in_portions() {
    let rig = Rig::new().await;
    let steps = vec![
        with("each", &[], job("do", json!({"out": "${{ item }}"})), json!({"for_each": "input"})),
        step("after", &[0], json!({"n": "${{ steps.each.output.size() }}"})),
    ];
    let input: Vec<u32> = (0..1_700).collect();
    let ended = rig.end_of(workflow(steps, json!({})), json!(input)).await;
    assert_eq!(ended.output(), json!({"after": {"n": 1_700}}));
    assert_eq!((ended.steps["each"].items.total, ended.steps["each"].items.open), (1_700, 0));
}

#[tokio::test]
async fn an_item_that_fails_stops_the_run() {
    let rig = Rig::new().await;
    let each = json!({"for_each": "input", "max_parallel": 2});
    let steps = vec![with(
        "each",
        &[],
        job(
            "do",
            json!({"fail": "${{ item == 3 ? 'odd' : 'no' }}", "until": "${{ item == 3 ? -1 : 0 }}"}),
        ),
        each,
    )];
    let input: Vec<u32> = (0..10).collect();
    let ended = rig.end_of(workflow(steps, json!({})), json!(input)).await;
    assert_eq!(ended.state(), WorkflowState::Failed);
    assert!(ended.error().1.contains("item 3: as told"), "{}", ended.error().1);
    assert!(
        matches!(ended.of("each"), StepState::Failed | StepState::Cancelled),
        "{:?}",
        ended.of("each")
    );
    assert!(ended.steps["each"].items.made < 10, "no more are made");
}

#[tokio::test]
async fn an_item_that_fails_may_be_passed_over() {
    let rig = Rig::new().await;
    let each = json!({"for_each": "input", "on_failure": "continue"});
    let steps = vec![
        with(
            "each",
            &[],
            job(
                "do",
                json!({"fail": "odd", "until": "${{ item == 1 ? -1 : 0 }}", "out": "${{ item }}"}),
            ),
            each,
        ),
        step("after", &[0], json!({"got": "${{ steps.each.output }}"})),
    ];
    let ended = rig.end_of(workflow(steps, json!({})), json!([0, 1, 2])).await;
    assert_eq!(ended.state(), WorkflowState::Succeeded);
    assert_eq!(ended.output(), json!({"after": {"got": [0, null, 2]}}));
}

#[tokio::test]
async fn a_retry_runs_the_failed_items_alone() {
    let rig = Rig::new().await;
    let each = json!({"for_each": "input"});
    let payload = json!({"fail": "odd", "until": "${{ item == 1 ? 1 : 0 }}", "out": "${{ item }}"});
    let steps = vec![
        with("each", &[], job("do", payload), each),
        step("after", &[0], json!({"got": "${{ steps.each.output }}"})),
    ];
    let more = json!({"on_failure": "let_finish"});
    let id = rig.submit(workflow(steps, more), json!([0, 1, 2])).await;
    assert_eq!(rig.ended(id).await.state(), WorkflowState::Failed);
    let before = rig.life.ledger().step_jobs(id, &[0]).await.unwrap();
    // `until` says at which attempt it does well; a retry starts to count anew.
    assert_eq!(before.iter().filter(|job| job.output.is_some()).count(), 2);
    rig.life.retry_run(&rig.namespace, id).await.unwrap();
    let ended = rig.ended(id).await;
    let after = rig.life.ledger().step_jobs(id, &[0]).await.unwrap();
    assert_eq!(
        before.iter().map(|j| j.id).collect::<Vec<_>>(),
        after.iter().map(|j| j.id).collect::<Vec<_>>()
    );
    assert_eq!(ended.state(), WorkflowState::Failed, "it fails as before");
    let attempts = |job: &windlass_shared::ledger::runs::StepJob| job.id;
    let failed =
        rig.life.ledger().attempts(&rig.namespace, attempts(&after[1])).await.unwrap().unwrap();
    assert_eq!(failed.len(), 2);
    let fine =
        rig.life.ledger().attempts(&rig.namespace, attempts(&after[0])).await.unwrap().unwrap();
    assert_eq!(fine.len(), 1);
}

/// The template fails on an item while others run: these are waited for, and what needs the step is skipped.
#[tokio::test]
async fn items_that_run_are_waited_for_when_the_next_cannot_be_made() {
    let rig = Rig::new().await;
    let each = json!({"for_each": "input", "max_parallel": 2, "on_failure": "skip_dependents"});
    let payload = json!({"out": "${{ item == 3 ? item.nope : item }}"});
    let steps = vec![with("each", &[], job("do", payload), each), step("after", &[0], json!({}))];
    let id = rig.submit(workflow(steps, json!({})), json!([0, 1, 2, 3, 4])).await;
    let ended = rig.ended(id).await;
    assert_eq!(ended.state(), WorkflowState::Succeeded);
    assert_eq!(
        (ended.of("each"), ended.why("each").as_str()),
        (StepState::Failed, "expression_failed")
    );
    assert_eq!(ended.of("after"), StepState::Skipped);
    let jobs = rig.life.ledger().step_jobs(id, &[0]).await.unwrap();
    assert!(jobs.iter().all(|job| job.state.is_terminal()), "nothing of it runs on");
}

#[tokio::test]
async fn a_large_payload_is_stored_once_for_all_items() {
    let rig = Rig::new().await;
    let large = "x".repeat(20_000);
    let steps = vec![with(
        "each",
        &[],
        job("hold", json!({ "text": large })),
        json!({"for_each": "input"}),
    )];
    let id = rig.submit(workflow(steps, json!({})), json!([0, 1, 2])).await;
    rig.until("the items are made", || async {
        (rig.steps(id).await["each"].items.made == 3).then_some(())
    })
    .await;
    let mut blobs = std::collections::HashSet::new();
    for job in rig.life.ledger().step_jobs(id, &[0]).await.unwrap() {
        let job = rig.life.ledger().job(&rig.namespace, job.id).await.unwrap().unwrap();
        let windlass_shared::model::job::Value::Blob(blob) = job.payload else { panic!("inline") };
        blobs.insert(blob);
    }
    assert_eq!(blobs.len(), 1);
}

#[tokio::test]
async fn what_is_too_large_to_be_read_together_fails_the_step_that_would() {
    let rig = Rig::new().await;
    let text = "x".repeat(15_000);
    let each = with(
        "each",
        &[],
        job("do", json!({"out": "${{ input.text }}"})),
        json!({"for_each": "input.list"}),
    );
    let steps = vec![each, step("after", &[0], json!({"n": "${{ steps.each.output.size() }}"}))];
    let list: Vec<u32> = (0..600).collect();
    let ended = rig.end_of(workflow(steps, json!({})), json!({"text": text, "list": list})).await;
    assert_eq!(ended.of("each"), StepState::Succeeded, "{:?}", ended.steps["each"].error);
    assert_eq!(
        (ended.of("each"), ended.why("after").as_str()),
        (StepState::Succeeded, "expression_failed")
    );
    assert!(ended.error().1.contains("larger than 8 MiB"), "{}", ended.error().1);
    let bytes = rig.life.ledger().step_output_bytes(ended.run.id, &[0, 1]).await.unwrap();
    assert_eq!(bytes, 600 * 15_002);
}

/// 30 payloads of 700 kB are more than one decision holds: the rest is made by the next ones, without anybody's end.
#[tokio::test]
async fn large_payloads_are_made_in_portions() {
    let rig = Rig::new().await;
    let text = "x".repeat(700_000);
    for most in [None, Some(30)] {
        let each = json!({"for_each": "input.list", "max_parallel": most});
        let steps = vec![with(
            "each",
            &[],
            job("hold", json!({"t": "${{ input.text }}", "n": "${{ item }}"})),
            each,
        )];
        let list: Vec<u32> = (0..30).collect();
        let id = rig.submit(workflow(steps, json!({})), json!({"text": text, "list": list})).await;
        rig.until("all are made", || async {
            (rig.steps(id).await["each"].items.made == 30).then_some(())
        })
        .await;
        let jobs = rig.life.ledger().step_jobs(id, &[0]).await.unwrap();
        let items: Vec<u32> = jobs.iter().filter_map(|job| job.item).collect();
        assert_eq!(items, list);
    }
}
