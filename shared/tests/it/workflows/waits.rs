//! Steps that wait: for a signal, people, a time, another run.

use serde_json::json;
use windlass_shared::ledger::runs::{Definition, NewGiven, RunChanged};
use windlass_shared::model::time::Timestamp;
use windlass_shared::model::workflow::{StepState, WorkflowState};

use super::rig::{self, Rig, job, step, with, workflow};

fn signal(name: &str, body: &'static str) -> NewGiven {
    rig::signal(name, Some(body))
}

fn vote(by: &str, approved: bool, reason: Option<&str>) -> NewGiven {
    NewGiven {
        name: "ok".into(),
        by: by.into(),
        role: Some("operator".into()),
        approved: Some(approved),
        reason: reason.map(str::to_owned),
        body: None,
    }
}

async fn waits(rig: &Rig, id: windlass_shared::model::id::WorkflowId, step: &str) {
    rig.until("the step waits", || async {
        (rig.state_of(id, step).await == StepState::Waiting).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_signal_brings_its_body_before_or_after_the_wait() {
    let rig = Rig::new().await;
    for early in [true, false] {
        let steps = vec![
            step("a", &[], json!({})),
            with("go", &[0], json!({"signal": {"name": "start", "timeout": null}}), json!({})),
            step("b", &[1], json!({"got": "${{ steps.go.output }}"})),
        ];
        let id = rig.submit(workflow(steps, json!({})), json!(null)).await;
        if !early {
            waits(&rig, id, "go").await;
        }
        assert_eq!(
            rig.life.give(&rig.namespace, id, &signal("other", "1")).await.unwrap(),
            RunChanged::Done(())
        );
        assert_eq!(
            rig.life.give(&rig.namespace, id, &signal("start", r#"{"x":1}"#)).await.unwrap(),
            RunChanged::Done(())
        );
        let ended = rig.ended(id).await;
        assert_eq!(ended.output(), json!({"b": {"got": {"x": 1}}}), "early: {early}");
        let late = rig.life.give(&rig.namespace, id, &signal("start", "1")).await.unwrap();
        assert_eq!(late, RunChanged::Refused(WorkflowState::Succeeded));
    }
}

#[tokio::test]
async fn one_signal_is_for_one_step() {
    let rig = Rig::new().await;
    let wait = || json!({"signal": {"name": "go", "timeout": null}});
    let steps = vec![with("one", &[], wait(), json!({})), with("two", &[0], wait(), json!({}))];
    let id = rig.submit(workflow(steps, json!({})), json!(null)).await;
    rig.life.give(&rig.namespace, id, &signal("go", "1")).await.unwrap();
    waits(&rig, id, "two").await;
    rig.life.give(&rig.namespace, id, &signal("go", "2")).await.unwrap();
    let ended = rig.ended(id).await;
    assert_eq!(ended.steps["one"].output.as_deref(), Some(&b"1"[..]));
    assert_eq!(ended.output(), json!({"two": 2}));
}

#[tokio::test]
async fn waits_that_last_too_long_fail() {
    let rig = Rig::new().await;
    for wait in [
        json!({"signal": {"name": "go", "timeout": "20ms"}}),
        json!({"approval": {"required": 1, "expires": "20ms"}}),
    ] {
        let steps = vec![with("ok", &[], wait, json!({})), step("b", &[0], json!({}))];
        let ended = rig.end_of(workflow(steps, json!({})), json!(null)).await;
        assert_eq!(
            (ended.state(), ended.why("ok").as_str()),
            (WorkflowState::Failed, "wait_timed_out")
        );
    }
}

#[tokio::test]
async fn a_timer_ends_by_itself() {
    let rig = Rig::new().await;
    for timer in [
        json!({"for": "30ms"}),
        json!({"template": "${{ input.wait }}"}),
        json!({"until": "2020-01-01T00:00:00.000Z"}),
    ] {
        let steps =
            vec![with("t", &[], json!({"timer": timer}), json!({})), step("b", &[0], json!({}))];
        let ended = rig.end_of(workflow(steps, json!({})), json!({"wait": "10ms"})).await;
        assert_eq!(ended.state(), WorkflowState::Succeeded, "{timer}: {:?}", ended.run.error);
    }
}

#[tokio::test]
async fn two_people_must_agree_and_one_may_refuse() {
    let rig = Rig::new().await;
    let steps = |required: u32| {
        let approval = json!({"approval": {"required": required, "roles": ["operator"], "message": "delete?"}});
        vec![
            with("ok", &[], approval, json!({})),
            step("b", &[0], json!({"n": "${{ steps.ok.output.approvals.size() }}"})),
        ]
    };
    let id = rig.submit(workflow(steps(2), json!({})), json!(null)).await;
    waits(&rig, id, "ok").await;
    for by in ["ada", "ada"] {
        rig.life.give(&rig.namespace, id, &vote(by, true, None)).await.unwrap();
    }
    for _ in 0..5 {
        rig.work().await;
    }
    assert_eq!(rig.state_of(id, "ok").await, StepState::Waiting, "one person counts once");
    rig.life.give(&rig.namespace, id, &vote("bob", true, Some("fine"))).await.unwrap();
    assert_eq!(rig.ended(id).await.output(), json!({"b": {"n": 2}}));

    let id = rig.submit(workflow(steps(2), json!({})), json!(null)).await;
    waits(&rig, id, "ok").await;
    rig.life.give(&rig.namespace, id, &vote("bob", false, Some("too risky"))).await.unwrap();
    let ended = rig.ended(id).await;
    assert_eq!(
        (ended.state(), ended.why("ok").as_str()),
        (WorkflowState::Failed, "approval_rejected")
    );
    assert!(ended.error().1.contains("bob rejected it: too risky"), "{}", ended.error().1);
}

#[tokio::test]
async fn a_child_runs_and_its_answer_is_the_steps() {
    let rig = Rig::new().await;
    let child = workflow(
        vec![step("c", &[], json!({"out": "${{ input.n + 1 }}"}))],
        json!({"output": "${{ steps.c.output }}"}),
    );
    let steps = vec![
        step("a", &[], json!({"out": 4})),
        with(
            "child",
            &[0],
            json!({"child": {"of": {"inline": child}, "input": {"n": "${{ steps.a.output }}"}}}),
            json!({}),
        ),
        step("b", &[1], json!({"got": "${{ steps.child.output }}"})),
    ];
    let id = rig.submit(workflow(steps, json!({})), json!(null)).await;
    let ended = rig.ended(id).await;
    assert_eq!(
        (ended.state(), ended.output()),
        (WorkflowState::Succeeded, json!({"b": {"got": 5}}))
    );
    let children = rig.life.ledger().children(id, &[1]).await.unwrap();
    assert_eq!(children.len(), 1, "it is started once");
}

#[tokio::test]
async fn a_child_that_fails_fails_its_step() {
    let rig = Rig::new().await;
    let child = workflow(vec![step("c", &[], json!({"fail": "x"}))], json!({}));
    let steps = vec![with(
        "child",
        &[],
        json!({"child": {"of": {"inline": child}, "input": null}}),
        json!({}),
    )];
    let ended = rig.end_of(workflow(steps, json!({})), json!(null)).await;
    assert_eq!(
        (ended.state(), ended.why("child").as_str()),
        (WorkflowState::Failed, "child_failed")
    );
    let missing =
        json!({"child": {"of": {"definition": {"name": "nope", "version": null}}, "input": null}});
    let ended = rig
        .end_of(workflow(vec![with("child", &[], missing, json!({}))], json!({})), json!(null))
        .await;
    assert!(ended.error().1.contains("there is no definition \"nope\""), "{}", ended.error().1);
}

#[tokio::test]
async fn workflows_that_start_themselves_end() {
    let rig = Rig::new().await;
    let this =
        json!({"child": {"of": {"definition": {"name": "self", "version": null}}, "input": null}});
    let spec = workflow(vec![with("again", &[], this, json!({}))], json!({}));
    let definition = Definition {
        namespace: rig.namespace.clone(),
        name: "self".into(),
        version: 0,
        created_at: Timestamp::from_millis(0),
        by: "ada".into(),
        document: serde_json::to_string(&spec).unwrap(),
        source: String::new(),
    };
    rig.life.ledger().put_definition(&definition).await.unwrap();
    let ended = rig.end_of(spec, json!(null)).await;
    assert_eq!(ended.state(), WorkflowState::Failed);
    let runs =
        rig.life.ledger().list_runs(&rig.namespace, &Default::default(), None, 100).await.unwrap();
    assert_eq!(runs.len(), 9, "eight below the first");
    assert!(runs.iter().all(|run| run.state == WorkflowState::Failed));
}

#[tokio::test]
async fn a_cancelled_run_takes_its_children_along() {
    let rig = Rig::new().await;
    let grandchild =
        workflow(vec![with("held", &[], job("hold", json!({})), json!({}))], json!({}));
    let child = workflow(
        vec![with(
            "grandchild",
            &[],
            json!({"child": {"of": {"inline": grandchild}, "input": null}}),
            json!({}),
        )],
        json!({}),
    );
    let steps = vec![
        with("child", &[], json!({"child": {"of": {"inline": child}, "input": null}}), json!({})),
        with("wait", &[], json!({"signal": {"name": "go", "timeout": null}}), json!({})),
        step("after", &[0, 1], json!({})),
    ];
    let id = rig.submit(workflow(steps, json!({})), json!(null)).await;
    let all = || async {
        rig.life.ledger().list_runs(&rig.namespace, &Default::default(), None, 10).await.unwrap()
    };
    rig.until("three runs", || async { (all().await.len() == 3).then_some(()) }).await;
    let cancelled = rig.life.cancel_run(&rig.namespace, id, "changed my mind").await.unwrap();
    assert!(matches!(cancelled, RunChanged::Done(_)));
    let ended = rig.ended(id).await;
    assert_eq!(
        (ended.state(), ended.error().1.as_str()),
        (WorkflowState::Cancelled, "changed my mind")
    );
    for step in ["child", "wait", "after"] {
        assert_eq!(ended.of(step), StepState::Cancelled, "{step}");
    }
    // The root ends last.
    assert!(all().await.iter().all(|run| run.state == WorkflowState::Cancelled));
    let again = rig.life.cancel_run(&rig.namespace, id, "again").await.unwrap();
    assert_eq!(again, RunChanged::Refused(WorkflowState::Cancelled));
}

#[tokio::test]
async fn one_signal_ends_one_of_two_that_wait_side_by_side() {
    let rig = Rig::new().await;
    let wait = || json!({"signal": {"name": "go", "timeout": null}});
    let steps = vec![with("one", &[], wait(), json!({})), with("two", &[], wait(), json!({}))];
    let id = rig.submit(workflow(steps, json!({})), json!(null)).await;
    waits(&rig, id, "one").await;
    waits(&rig, id, "two").await;
    rig.life.give(&rig.namespace, id, &signal("go", "1")).await.unwrap();
    rig.until("one has ended", || async {
        let ended = rig.steps(id).await.values().filter(|s| s.state.is_terminal()).count();
        (ended > 0).then_some(())
    })
    .await;
    for _ in 0..5 {
        rig.work().await;
    }
    assert_eq!(rig.steps(id).await.values().filter(|s| s.state.is_terminal()).count(), 1);
    rig.life.give(&rig.namespace, id, &signal("go", "2")).await.unwrap();
    assert_eq!(rig.ended(id).await.output(), json!({"one": 1, "two": 2}));
}

#[tokio::test]
async fn votes_are_cast_anew_after_a_retry() {
    let rig = Rig::new().await;
    let approval = json!({"approval": {"required": 1, "roles": ["operator"]}});
    let id = rig
        .submit(workflow(vec![with("ok", &[], approval, json!({}))], json!({})), json!(null))
        .await;
    waits(&rig, id, "ok").await;
    rig.life.give(&rig.namespace, id, &vote("bob", false, None)).await.unwrap();
    assert_eq!(rig.ended(id).await.state(), WorkflowState::Failed);
    rig.life.retry_run(&rig.namespace, id).await.unwrap();
    waits(&rig, id, "ok").await;
    for _ in 0..5 {
        rig.work().await;
    }
    assert_eq!(
        rig.state_of(id, "ok").await,
        StepState::Waiting,
        "the old no is about the old start"
    );
    rig.life.give(&rig.namespace, id, &vote("bob", true, None)).await.unwrap();
    assert_eq!(rig.ended(id).await.state(), WorkflowState::Succeeded);
}

#[tokio::test]
async fn a_key_that_is_named_like_a_role_has_not_the_role() {
    let rig = Rig::new().await;
    let approval = json!({"approval": {"required": 1, "roles": ["admin", "ada"]}});
    let id = rig
        .submit(workflow(vec![with("ok", &[], approval, json!({}))], json!({})), json!(null))
        .await;
    waits(&rig, id, "ok").await;
    rig.life.give(&rig.namespace, id, &vote("admin", true, None)).await.unwrap();
    for _ in 0..5 {
        rig.work().await;
    }
    assert_eq!(rig.state_of(id, "ok").await, StepState::Waiting);
    rig.life.give(&rig.namespace, id, &vote("ada", true, None)).await.unwrap();
    assert_eq!(rig.ended(id).await.state(), WorkflowState::Succeeded);
}

#[tokio::test]
async fn a_child_that_was_retried_by_hand_is_waited_for() {
    let rig = Rig::new().await;
    let held = with("held", &[], job("hold", json!({})), json!({}));
    let child = workflow(
        vec![step("c", &[], json!({"fail": "x"})), held],
        json!({"on_failure": "let_finish"}),
    );
    let steps = vec![with(
        "child",
        &[],
        json!({"child": {"of": {"inline": child}, "input": null}}),
        json!({}),
    )];
    let id = rig.submit(workflow(steps, json!({})), json!(null)).await;
    let first = rig
        .until("the child is there", || async {
            Some(rig.life.ledger().children(id, &[0]).await.unwrap().first()?.1.id)
        })
        .await;
    rig.life.cancel_run(&rig.namespace, first, "no").await.unwrap();
    assert_eq!(rig.ended(id).await.state(), WorkflowState::Failed);
    rig.life.retry_run(&rig.namespace, first).await.unwrap();
    rig.life.retry_run(&rig.namespace, id).await.unwrap();
    waits(&rig, id, "child").await;
    for _ in 0..10 {
        rig.work().await;
    }
    let version = rig.run(id).await.version;
    for _ in 0..50 {
        rig.work().await;
    }
    assert!(rig.run(id).await.version <= version + 2, "it is not looked at in vain");
    assert_eq!(rig.life.ledger().children(id, &[0]).await.unwrap().len(), 1);
    rig.life.cancel_run(&rig.namespace, first, "no").await.unwrap();
    rig.until("another child is started", || async {
        (rig.life.ledger().children(id, &[0]).await.unwrap().len() == 2).then_some(())
    })
    .await;
}

/// A list of lists: a child per row, in it a job per cell.
#[tokio::test]
async fn fan_outs_nest() {
    let rig = Rig::new().await;
    let cells = with(
        "cells",
        &[],
        job("do", json!({"out": "${{ item * 2 }}"})),
        json!({"for_each": "input.row"}),
    );
    let child = workflow(vec![cells], json!({"output": "${{ steps.cells.output }}"}));
    let run = json!({"child": {"of": {"inline": child}, "input": {"row": "${{ item }}", "at": "${{ index }}"}}});
    for most in [None, Some(2)] {
        let rows =
            with("rows", &[], run.clone(), json!({"for_each": "input", "max_parallel": most}));
        let steps = vec![rows, step("sum", &[0], json!({"all": "${{ steps.rows.output }}"}))];
        let id =
            rig.submit(workflow(steps, json!({})), json!([[1, 2], [], [3], [4, 5], [6]])).await;
        let mut live_most = 0;
        while !rig.run(id).await.state.is_terminal() {
            let children = rig.life.ledger().children(id, &[0]).await.unwrap();
            let live = children.iter().filter(|(_, child)| !child.state.is_terminal()).count();
            live_most = live_most.max(live);
            rig.work().await;
        }
        let ended = rig.ended(id).await;
        assert_eq!(ended.output(), json!({"sum": {"all": [[2, 4], [], [6], [8, 10], [12]]}}));
        assert_eq!(rig.life.ledger().children(id, &[0]).await.unwrap().len(), 5, "one for each");
        assert!(most.is_none_or(|most| live_most <= most), "{live_most}");
    }
}

#[tokio::test]
async fn a_child_of_many_that_fails_stops_the_others_or_is_passed_over() {
    let rig = Rig::new().await;
    let inner = vec![step(
        "c",
        &[],
        json!({"fail": "x", "until": "${{ input == 1 ? -1 : 0 }}", "out": "${{ input }}"}),
    )];
    let child = workflow(inner, json!({"output": "${{ steps.c.output }}"}));
    let run = json!({"child": {"of": {"inline": child}, "input": "${{ item }}"}});
    let each = |policy: &str| {
        with("each", &[], run.clone(), json!({"for_each": "input", "on_failure": policy}))
    };
    let ended = rig.end_of(workflow(vec![each("continue")], json!({})), json!([0, 1, 2])).await;
    assert_eq!((ended.state(), ended.of("each")), (WorkflowState::Succeeded, StepState::Failed));
    assert_eq!(ended.steps["each"].output.as_deref(), Some(&b"[0,null,2]"[..]));
    let held = workflow(
        vec![
            with("h", &[], job("hold", json!({})), json!({"if": "input != 1"})),
            step("c", &[], json!({"fail": "x", "until": "${{ input == 1 ? -1 : 0 }}"})),
        ],
        json!({}),
    );
    let run = json!({"child": {"of": {"inline": held}, "input": "${{ item }}"}});
    let steps = vec![with("each", &[], run, json!({"for_each": "input"}))];
    let id = rig.submit(workflow(steps, json!({})), json!([0, 1, 2])).await;
    let ended = rig.ended(id).await;
    assert_eq!(ended.state(), WorkflowState::Failed);
    assert!(ended.error().1.contains("item 1"), "{}", ended.error().1);
    let children = rig.life.ledger().children(id, &[0]).await.unwrap();
    assert!(
        children.iter().all(|(_, child)| child.state.is_terminal()),
        "the tree has ended before its root"
    );
}

/// Each level would multiply the runs.
#[tokio::test]
async fn only_a_root_fans_out_over_workflows() {
    let rig = Rig::new().await;
    let leaf = workflow(vec![step("c", &[], json!({}))], json!({}));
    let of = |inner: &serde_json::Value| json!({"child": {"of": {"inline": inner}, "input": "${{ input }}"}});
    let middle =
        workflow(vec![with("fan", &[], of(&leaf), json!({"for_each": "input"}))], json!({}));
    let steps = vec![with("fan", &[], of(&middle), json!({"for_each": "input"}))];
    let ended = rig.end_of(workflow(steps, json!({})), json!([1, 2])).await;
    assert_eq!(ended.state(), WorkflowState::Failed);
    assert!(
        ended.error().1.contains("only a run that no other has started"),
        "{}",
        ended.error().1
    );
}

#[tokio::test]
async fn a_definition_that_changes_on_the_way_changes_no_run() {
    let rig = Rig::new().await;
    let put = |answer: u32| {
        let spec = workflow(
            vec![step("c", &[], json!({ "out": answer }))],
            json!({"output": "${{ steps.c.output }}"}),
        );
        let definition = Definition {
            namespace: rig.namespace.clone(),
            name: "inner".into(),
            version: 0,
            created_at: Timestamp::from_millis(0),
            by: "ada".into(),
            document: serde_json::to_string(&spec).unwrap(),
            source: String::new(),
        };
        let life = rig.life.clone();
        async move { life.ledger().put_definition(&definition).await.unwrap() }
    };
    put(1).await;
    let inner =
        json!({"child": {"of": {"definition": {"name": "inner", "version": null}}, "input": null}});
    let steps = || {
        let wait = json!({"signal": {"name": "go", "timeout": null}});
        vec![with("wait", &[], wait, json!({})), with("child", &[0], inner.clone(), json!({}))]
    };
    let before = rig.submit(workflow(steps(), json!({})), json!(null)).await;
    waits(&rig, before, "wait").await;
    assert_eq!(put(2).await, (2, true));
    let after = rig.submit(workflow(steps(), json!({})), json!(null)).await;
    for (id, answer) in [(before, 1), (after, 2)] {
        rig.life.give(&rig.namespace, id, &signal("go", "null")).await.unwrap();
        assert_eq!(rig.ended(id).await.output(), json!({ "child": answer }));
    }
}
