//! Result gates.

use serde_json::json;
use windlass_shared::engine::Ended;
use windlass_shared::model::job::{Expect, JobSpec};

use crate::fixture::{Rig, spec};

#[tokio::test]
async fn an_output_that_fails_its_gate_fails_the_attempt() {
    let mut rig = Rig::new().await;
    let worker = rig.start(|b| b);
    let schema = json!({"type": "object", "required": ["total"]});
    let gate = Expect {
        schema: Some(schema),
        expr: Some("output.total > 10".into()),
        ..Expect::default()
    };
    let gated = |attempts| JobSpec { expect: Some(gate.clone()), ..spec(attempts) };
    let end = rig.run("echo", json!({"total": 11}), gated(1)).await;
    assert_eq!((end.ended, end.output()), (Ended::Succeeded, json!({"total": 11})));
    for output in [json!({"total": 10}), json!({}), json!("text")] {
        let end = rig.run("echo", output, gated(2)).await;
        assert_eq!((end.ended, end.code(), end.attempt), (Ended::Dead, "result_rejected", 2));
        assert!(end.detail.output.is_none());
    }
    let broken = Expect { expr: Some("output.".into()), ..Expect::default() };
    let end = rig.run("noop", json!(null), JobSpec { expect: Some(broken), ..spec(5) }).await;
    assert_eq!((end.ended, end.code(), end.attempt), (Ended::Dead, "invalid_expect", 1));
    worker.stop().await;
}
