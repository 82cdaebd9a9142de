//! The canary of a drill: a workflow that runs on a restored ledger and a rebuilt engine. No handler runs; what workers and
//! the recorder do, is done here.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use windlass_shared::engine::envelope::Detail;
use windlass_shared::engine::{ClaimRequest, Held, Settle, ShardId, Verdict};
use windlass_shared::lifecycle::sweep::Sweeper;
use windlass_shared::lifecycle::workflow::Order;
use windlass_shared::lifecycle::{Lifecycle, record};
use windlass_shared::model::id::{LeaseId, WorkerId, WorkflowId};
use windlass_shared::model::name::Namespace;
use windlass_shared::model::workflow::WorkflowState;

use super::BackupError;
use super::drill::{differs, failed};

/// Pace of looking at it.
const PACE: Duration = Duration::from_millis(5);
/// A push that came too late is made good this often.
const SWEEP_EVERY: Duration = Duration::from_secs(2);

/// Runs a workflow on the restored ledger to its end; all is well where its jobs, which end as `verdict` says, and it have succeeded.
pub(super) async fn sing(life: &Lifecycle, verdict: &fn() -> Verdict) -> Result<(), BackupError> {
    let namespace: Namespace = "windlass-drill".parse().map_err(failed)?;
    let queue: windlass_shared::model::name::QueueName = "canary".parse().map_err(failed)?;
    let step = |id: &str, needs: &[usize]| {
        json!({"id": id, "needs": needs, "work": {"job": {
            "queue": "canary", "kind": "canary", "payload": {"step": id}, "is_template": false,
            "spec": windlass_shared::model::job::JobSpec::default(),
        }}})
    };
    let steps =
        [step("first", &[]), step("left", &[0]), step("right", &[0]), step("last", &[1, 2])];
    let spec = serde_json::from_value(json!({"name": "canary", "steps": steps})).map_err(failed)?;
    let order = Order {
        id: WorkflowId::generate(),
        namespace: namespace.clone(),
        spec,
        definition: None,
        input: json!(null),
        deadline: None,
        tags: Vec::new(),
        rerun_of: None,
        request_id: None,
        traceparent: None,
        idempotency: None,
    };
    let id = order.id;
    life.submit_run(order).await?;
    let shard = ShardId::first(namespace.clone(), queue);
    let (mut sweeper, mut swept) = (Sweeper::default(), Instant::now());
    loop {
        work(life, &shard, verdict).await?;
        let run = life.ledger().run(&namespace, id).await?;
        match run.ok_or_else(|| differs("the canary is not on record".into()))?.state {
            WorkflowState::Succeeded => return Ok(()),
            state if state.is_terminal() => {
                return Err(differs(format!("the canary ended as {state:?}")));
            }
            _ => {}
        }
        if swept.elapsed() > SWEEP_EVERY {
            swept = Instant::now();
            if let Some(queue) = life.ledger().queue(&namespace, &shard.queue).await? {
                sweeper.pass(life, &queue).await.map_err(failed)?;
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

/// What workers and the recorder do, once.
async fn work(
    life: &Lifecycle,
    shard: &ShardId,
    verdict: &fn() -> Verdict,
) -> Result<(), BackupError> {
    let request = ClaimRequest {
        worker: WorkerId::generate(),
        lease_id: LeaseId::random(),
        max: 16,
        lease: Duration::from_secs(60),
        kinds: Vec::new(),
        offset: 0,
        ledger: None,
    };
    let claimed = life.engine().claim(shard, &request).await.map_err(failed)?;
    let settles: Vec<Settle> = claimed
        .jobs
        .iter()
        .map(|job| Settle {
            dependency: None,
            held: Held { id: job.id, fence: job.fence, lease_id: request.lease_id },
            verdict: verdict(),
            detail: Detail::default().encode(),
        })
        .collect();
    if !settles.is_empty() {
        life.engine().settle(shard, &settles).await.map_err(failed)?;
    }
    record::record_outcomes(life, shard).await.map_err(failed)?;
    for (_, run) in life.ledger().due_runs(None, 100).await? {
        life.advance_run(run).await?;
    }
    Ok(())
}
