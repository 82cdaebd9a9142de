//! Clients: they send their orders, with the same key again and again until they have an answer.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use windlass_shared::ledger::runs::CreateOutcome;
use windlass_shared::ledger::{
    Changed, Idempotency, LedgerError, Paused, Submission, SubmitOutcome,
};
use windlass_shared::lifecycle::workflow::Order as RunOrder;
use windlass_shared::lifecycle::{Cancelled, Lifecycle};
use windlass_shared::model::id::{JobId, WorkflowId};
use windlass_shared::model::time::Timestamp;

use crate::below;
use crate::crew::Crew;
use crate::orders::{Order, Piece, Plan, Wish, new_job, workflow};
use crate::story::Pause;
use crate::world::{QUEUES, Who, namespace, queue};

/// Between two tries, at most, in ms.
const AGAIN_MS: u64 = 1_500;

/// Carries out the orders of a process's clients that are not done yet.
pub async fn serve(crew: &Crew, who: Who, life: &Lifecycle, shutdown: &CancellationToken) {
    let mut clients = tokio::task::JoinSet::new();
    for (place, order) in crew.orders.iter().enumerate() {
        let mine = (place % 2 == 0) == (who == Who::ApiA) || order.twice;
        let is_done = crew.world.state().story.done.contains_key(&(place, who));
        if mine && !is_done {
            let client = Client { crew: crew.clone(), who, life: life.clone(), place };
            let shutdown = shutdown.clone();
            clients.spawn(async move {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => {}
                    () = client.carry_out() => {}
                }
            });
        }
    }
    while clients.join_next().await.is_some() {}
}

struct Client {
    crew: Crew,
    who: Who,
    life: Lifecycle,
    place: usize,
}

impl Client {
    fn order(&self) -> &Order {
        &self.crew.orders[self.place]
    }

    async fn carry_out(self) {
        let at = u64::try_from(self.order().at.as_nanos()).expect("orders come soon");
        tokio::time::sleep(Duration::from_nanos(at.saturating_sub(below::now_ns()))).await;
        loop {
            let done = match &self.order().wish {
                Wish::Jobs { pieces, atomic } => self.submit(pieces, *atomic).await,
                Wish::Run(steps) => self.submit_run(steps).await,
                Wish::Cancel(order) => self.cancel(*order).await,
                Wish::Pause(queue, held) => self.pause(*queue, *held).await,
            };
            match done {
                Ok(()) => break,
                Err(error) => self.note(&format!("tries again: {error}")),
            }
            let pause = self.crew.world.roll(AGAIN_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.note("is done");
        self.crew.world.state().story.done.insert((self.place, self.who), ());
    }

    fn note(&self, what: &str) {
        self.crew.world.note(format_args!("{:?} order {} {what}", self.who, self.place));
    }

    fn key(&self) -> Idempotency {
        let mut body_hash = [0; 32];
        body_hash[0] = 1;
        Idempotency { key: format!("order-{}", self.place), body_hash }
    }

    async fn submit(&self, pieces: &[Piece], atomic: bool) -> Result<(), LedgerError> {
        let jobs: Vec<_> = pieces.iter().map(new_job).collect();
        let submission = Submission { jobs, atomic, idempotency: Some(self.key()) };
        let ids: Vec<JobId> = match self.life.submit(submission).await? {
            SubmitOutcome::Done(results) => results
                .into_iter()
                .map(|result| match result {
                    Ok(accepted) => Ok(accepted.id()),
                    Err(refused) => Err(LedgerError::Unfit(format!("{refused:?}"))),
                })
                .collect::<Result<_, _>>()?,
            SubmitOutcome::Replayed(ids) => ids.into_iter().flatten().collect(),
            SubmitOutcome::KeyReused => return self.wrong("its key was used for another body"),
            SubmitOutcome::OverQuota(_) => return self.wrong("a quota that nobody set refused it"),
        };
        if ids.len() != pieces.len() {
            return self.wrong("a part of it is missing");
        }
        let mut state = self.crew.world.state();
        let before = state.story.accepted.insert(self.place, ids.clone());
        if before.is_some_and(|before| before != ids) {
            state.story.broken(format!("order {} was accepted twice", self.place));
        }
        Ok(())
    }

    async fn submit_run(&self, steps: &[(Plan, Vec<usize>)]) -> Result<(), LedgerError> {
        let spec = serde_json::from_value(workflow(steps)).expect("a workflow");
        let order = RunOrder {
            id: WorkflowId::generate(),
            namespace: namespace(),
            spec,
            definition: None,
            input: serde_json::Value::Null,
            deadline: None,
            tags: Vec::new(),
            rerun_of: None,
            request_id: None,
            traceparent: None,
            idempotency: Some(self.key()),
        };
        let fresh = order.id;
        let id = match self.life.submit_run(order).await? {
            CreateOutcome::Created(_) => fresh,
            CreateOutcome::Replayed(id) => id,
            other => return self.wrong(&format!("answered {other:?}")),
        };
        let mut state = self.crew.world.state();
        let before = state.story.runs.insert(self.place, id);
        if before.is_some_and(|before| before != id) {
            state.story.broken(format!("run {} was accepted twice", self.place));
        }
        Ok(())
    }

    fn wrong(&self, what: &str) -> Result<(), LedgerError> {
        self.crew.world.broken(format!("order {}: {what}", self.place));
        Ok(())
    }

    async fn cancel(&self, order: usize) -> Result<(), LedgerError> {
        let first = self.crew.world.state().story.accepted.get(&order).map(|ids| ids[0]);
        let Some(id) = first else {
            // Not accepted yet, or no job.
            return Ok(());
        };
        if let Changed::Done(Cancelled::Now(_)) = self.life.cancel(&namespace(), id, "wish").await?
        {
            let mut state = self.crew.world.state();
            state.story.cancelled.entry(id).or_insert(below::now_ns());
        }
        Ok(())
    }

    async fn pause(&self, place: usize, held: Duration) -> Result<(), LedgerError> {
        let name = queue(QUEUES[place]);
        let paused = Paused {
            since: Timestamp::from_micros(below::wall_us()),
            by: "sim".into(),
            reason: None,
        };
        let (_, told) = self.life.set_paused(&namespace(), &name, Some(paused)).await?;
        if told {
            let mut state = self.crew.world.state();
            state.story.trace.note(format_args!("{} stands still", QUEUES[place]));
            let pause = Pause { queue: place, from: below::now_ns(), to: None };
            state.story.pauses.push(pause);
        }
        tokio::time::sleep(held).await;
        loop {
            self.end_pause(place);
            match self.life.set_paused(&namespace(), &name, None).await {
                Ok(_) => return Ok(()),
                Err(error) => self.note(&format!("resumes again: {error}")),
            }
            tokio::time::sleep(Duration::from_millis(AGAIN_MS)).await;
        }
    }

    /// From the moment at which the wish to resume is sent, jobs may start.
    fn end_pause(&self, place: usize) {
        let mut state = self.crew.world.state();
        for pause in &mut state.story.pauses {
            if pause.queue == place && pause.to.is_none() {
                pause.to = Some(below::now_ns());
            }
        }
    }
}
