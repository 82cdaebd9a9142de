//! A run comes in.

use super::decide::Options;
use super::{Order, build, drive, pin, release};
use crate::ledger::LedgerError;
use crate::ledger::runs::{CreateOutcome, NewRun, Parent};
use crate::lifecycle::{Lifecycle, quota};

pub(super) async fn submit(
    life: &Lifecycle,
    order: Order,
    parent: Option<(Parent, u16)>,
) -> Result<CreateOutcome, LedgerError> {
    let new = prepare(life, order, parent).await?;
    // Fixed before the insert is sent: a push that is delayed past it could restart a finished job.
    let ticket = life.inner.delivery.ticket().await;
    let outcome = life.inner.ledger.create_run(&new).await?;
    quota::after(life);
    if let CreateOutcome::OverQuota(exceeded) = &outcome {
        quota::refused(exceeded);
    }
    if let CreateOutcome::Created(jobs) = &outcome {
        drive::push(life, jobs.clone(), ticket);
        if new.steps.iter().any(|step| step.due) {
            drive::soon(life, new.id);
        }
    }
    Ok(outcome)
}

/// Makes the rows of a run. Stores its large values; those of a run that is never committed go with age.
pub(crate) async fn prepare(
    life: &Lifecycle,
    mut order: Order,
    parent: Option<(Parent, u16)>,
) -> Result<NewRun, LedgerError> {
    let (id, namespace) = (order.id, order.namespace.clone());
    let ledger = &life.inner.ledger;
    pin::pin(ledger, &namespace, &mut order.spec.steps).await?;
    let now = match order.deadline.or(order.spec.deadline) {
        Some(_) => Some(ledger.now().await?),
        None => None,
    };
    let deadline =
        order.deadline.or(order.spec.deadline).zip(now).map(|(span, now)| now.plus(span.0));
    // Its size was checked at the door, or when its step was decided over.
    let (input, blob) =
        release::stored(&order.input).map_err(|error| LedgerError::Failed(error.message.into()))?;
    let origin = build::Origin {
        namespace: &namespace,
        request_id: order.request_id.as_deref(),
        traceparent: order.traceparent.as_deref(),
    };
    let mut steps = build::rows(&order.spec, &origin);
    let blobs = build::large(&mut steps);
    for (id, bytes) in blob.into_iter().chain(blobs) {
        ledger.put_blob(&namespace, id, bytes).await?;
    }
    let options = Options {
        on_failure: order.spec.on_failure,
        output: order.spec.output.clone(),
        deadline: order.deadline.or(order.spec.deadline),
    };
    let mut tags = order.spec.tags.clone();
    tags.extend(order.tags);
    tags.dedup();
    let document = match &order.definition {
        Some(_) => None,
        None => {
            Some(serde_json::to_string(&order.spec).expect("a workflow is made of what JSON has"))
        }
    };
    Ok(NewRun {
        id,
        namespace,
        name: order.spec.name,
        definition: order.definition,
        document,
        options: serde_json::to_string(&options).expect("options are made of what JSON has"),
        input,
        deadline,
        tags,
        parent: parent.map(|(parent, _)| parent),
        depth: parent.map_or(0, |(_, depth)| depth),
        rerun_of: order.rerun_of,
        request_id: order.request_id,
        traceparent: order.traceparent,
        steps,
        idempotency: order.idempotency,
    })
}
