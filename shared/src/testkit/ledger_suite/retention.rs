//! Retention: runs and their jobs by namespace and state, and that a past leader deletes nothing.

use std::time::Duration;

use super::gates::past_leaders;
use super::reports::beat;
use super::run_scene::{child, plain};
use super::scene::{Scene, aged, aged_runs, at, key};
use super::schedules::{change, fire, made, without_work};
use crate::engine::Ended;
use crate::ledger::retention::{Aged, AgedRuns, Tidy, Whose};
use crate::ledger::{Changed, Epoch, Operation, Recorded};
use crate::model::id::{BlobId, JobId, OperationId, WorkflowId};
use crate::model::job::{JobState, NewJob, Unique};
use crate::model::schedule::FireOutcome;
use crate::model::time::Timestamp;
use crate::model::workflow::{StepState, WorkflowState};

super::cases![
    runs_go_by_namespace_and_state,
    a_job_outlives_its_run_until_its_own_time,
    a_walk_over_runs_goes_on_behind_the_last,
    what_a_leader_deletes_is_refused_to_a_past_one,
];

const DAY: Duration = Duration::from_secs(86_400);

/// As if the run had ended then, and its jobs with it.
async fn ended_at(scene: &Scene, run: WorkflowId, at: Timestamp) {
    let (id, at) = (run.uuid().simple(), at.micros());
    for sql in [
        format!("UPDATE workflows SET finished_at = {at} WHERE HEX = '{id}'"),
        format!("UPDATE jobs SET changed_at = {at} WHERE workflow_HEX = '{id}'"),
    ] {
        // An id is its own text on PostgreSQL, and bytes on SQLite.
        let as_text = |column: &str| match scene.ledger {
            crate::ledger::Ledger::Postgres(_) => format!("replace({column}::text, '-', '')"),
            _ => format!("lower(hex({column}))"),
        };
        let sql = sql.replace("workflow_HEX", &as_text("workflow_id"));
        scene.ledger.tamper(sql.replace("HEX", &as_text("id"))).await.unwrap();
    }
}

/// A run of one job, which ended so at that time.
async fn old_run(scene: &Scene, state: WorkflowState, at: Timestamp) -> (WorkflowId, JobId) {
    let (run, jobs) = scene.run_of(vec![plain("a", &[])]).await;
    let ended = if state == WorkflowState::Succeeded { Ended::Succeeded } else { Ended::Dead };
    scene.ends(jobs[0].id, ended).await;
    scene.end_run(run, state).await;
    ended_at(scene, run, at).await;
    (run, jobs[0].id)
}

async fn is_there(scene: &Scene, run: WorkflowId) -> bool {
    scene.ledger.run(&scene.namespace, run).await.unwrap().is_some()
}

async fn prune_runs(scene: &Scene, aged: &AgedRuns) -> u64 {
    let (mut deleted, mut after) = (0, None);
    loop {
        let step = scene.ledger.prune_runs(None, aged, after, 100).await.unwrap().unwrap();
        deleted += step.deleted;
        if step.at_end {
            return deleted;
        }
        after = step.last.or(after);
    }
}

async fn prune_jobs(scene: &Scene, aged: &Aged) -> u64 {
    let (mut deleted, mut after) = (0, None);
    loop {
        let step = scene.ledger.prune_jobs(None, aged, after, 100).await.unwrap().unwrap();
        deleted += step.deleted;
        if step.at_end {
            return deleted;
        }
        after = step.last.or(after);
    }
}

async fn runs_go_by_namespace_and_state(scene: &Scene) {
    let (ended, other) = (at(0), scene.elsewhere());
    let succeeded = old_run(scene, WorkflowState::Succeeded, ended).await.0;
    let failed = old_run(scene, WorkflowState::Failed, ended).await.0;
    let undone = old_run(scene, WorkflowState::Compensated, ended).await.0;
    let others = old_run(&other, WorkflowState::Succeeded, ended).await.0;
    let there = async || {
        let mut there = Vec::new();
        for run in [succeeded, failed, undone] {
            there.push(is_there(scene, run).await);
        }
        there.push(is_there(&other, others).await);
        there
    };
    let after = ended.plus(Duration::from_micros(1));
    let own = Whose::Only(scene.namespace.clone());
    let rule = |whose: &Whose, states: &[WorkflowState], before| AgedRuns {
        whose: whose.clone(),
        states: states.to_vec(),
        ..aged_runs(before)
    };
    assert_eq!(prune_runs(scene, &rule(&own, &WorkflowState::ALL, ended)).await, 0);
    // A run and its job.
    assert_eq!(prune_runs(scene, &rule(&own, &[WorkflowState::Succeeded], after)).await, 2);
    assert_eq!(there().await, [false, true, true, true]);
    let failures = [WorkflowState::Failed, WorkflowState::Cancelled];
    assert_eq!(prune_runs(scene, &rule(&own, &failures, after)).await, 2);
    assert_eq!(there().await, [false, false, true, true]);
    let but = Whose::AllBut(vec![scene.namespace.clone()]);
    assert!(prune_runs(scene, &rule(&but, &WorkflowState::ALL, after)).await >= 2);
    assert_eq!(there().await, [false, false, true, false]);
}

/// Goal: a job of a run is kept as long as its run, and as long as its own namespace and state say, whichever is longer.
async fn a_job_outlives_its_run_until_its_own_time(scene: &Scene) {
    let (run, jobs) = scene.run_of(vec![plain("a", &[]), plain("b", &[])]).await;
    let [good, dead] = [0, 1].map(|n| jobs[n].id);
    scene.ends(good, Ended::Succeeded).await;
    scene.ends(dead, Ended::Dead).await;
    scene.end_run(run, WorkflowState::Succeeded).await;
    let ended = at(0);
    ended_at(scene, run, ended).await;
    let own = Whose::Only(scene.namespace.clone());
    let (soon, late) = (ended.plus(DAY), ended.minus(DAY));
    let old = aged(own.clone(), scene.ledger.now().await.unwrap());
    assert_eq!(prune_jobs(scene, &old).await, 0, "their run is on record");
    let mut runs = AgedRuns { whose: own, ..aged_runs(soon) };
    for (state, before) in &mut runs.jobs {
        *before = if *state == JobState::Dead { late } else { soon };
    }
    assert_eq!(prune_runs(scene, &runs).await, 2);
    assert!(!is_there(scene, run).await);
    assert_eq!(scene.find(good).await, None);
    let left = scene.get(dead).await;
    assert_eq!((left.state, left.workflow.map(|of| of.id)), (JobState::Dead, Some(run)));
    assert_eq!(scene.ledger.attempts(&scene.namespace, dead).await.unwrap().unwrap().len(), 1);
    // Nobody waits for it any more.
    let again = scene.ledger.redrive(&scene.namespace, dead).await.unwrap();
    assert_eq!(again, Changed::Refused(JobState::Dead));
    let mut one = old.clone();
    (one.states, one.before) = (vec![JobState::Dead], late);
    assert_eq!(prune_jobs(scene, &one).await, 0);
    one.before = soon;
    assert_eq!(prune_jobs(scene, &one).await, 1);
    assert_eq!(scene.find(dead).await, None);
}

/// Goal: a walk takes what it may of each step, passes over a child whose parent goes on, and comes to its end.
async fn a_walk_over_runs_goes_on_behind_the_last(scene: &Scene) {
    let (parent, _) = scene.run_of(vec![child("a", &[])]).await;
    scene.move_step(parent, "a", StepState::Waiting).await;
    let kid = scene.new_child(parent, 0);
    scene.create(&kid).await;
    scene.ends(kid.steps[0].job.as_ref().unwrap().id, Ended::Succeeded).await;
    scene.end_run(kid.id, WorkflowState::Succeeded).await;
    ended_at(scene, kid.id, at(0)).await;
    let mut runs = Vec::new();
    // Two of them at the same instant.
    for n in [1, 2, 2, 3] {
        runs.push(old_run(scene, WorkflowState::Succeeded, at(n)).await.0);
    }
    let aged = AgedRuns { whose: Whose::Only(scene.namespace.clone()), ..aged_runs(at(4)) };
    let (mut after, mut steps) = (None, 0);
    loop {
        let step = scene.ledger.prune_runs(None, &aged, after, 1).await.unwrap().unwrap();
        after = step.last.or(after);
        if step.at_end && step.deleted == 0 {
            break;
        }
        steps += 1;
        assert_eq!(step.deleted, 2, "a run and its job at a time: {step:?}");
    }
    assert_eq!(steps, 4);
    for run in runs {
        assert!(!is_there(scene, run).await);
    }
    assert!(is_there(scene, kid.id).await);
    scene.end_run(parent, WorkflowState::Succeeded).await;
    let behind = scene.ledger.prune_runs(None, &aged, after, 1).await.unwrap().unwrap();
    assert_eq!((behind.deleted, behind.last), (0, None), "it is behind that place");
    assert_eq!(prune_runs(scene, &aged).await, 2);
}

/// One row of each sort that is deleted by age.
struct Rows {
    job: JobId,
    run: WorkflowId,
    operation: OperationId,
    value: BlobId,
    schedule: crate::ledger::schedules::Schedule,
}

async fn rows(scene: &Scene) -> Rows {
    let window = Some(Duration::from_micros(1));
    let unique = Some(Unique { window, ..super::scene::unique("k", Default::default()).unwrap() });
    let jobs = vec![NewJob { unique, ..scene.new_job() }];
    let job = jobs[0].id;
    scene.submit_with(jobs, false, key("key", 1)).await;
    assert_eq!(scene.end(job, 1, Ended::Succeeded).await, Recorded::Applied);
    let run = old_run(scene, WorkflowState::Succeeded, at(0)).await.0;
    let operation = Operation {
        id: OperationId::generate(),
        namespace: scene.namespace.clone(),
        action: "retry".into(),
        state: "succeeded".into(),
        matched: 0,
        changed: 0,
        error: None,
        created_at: at(1),
        finished_at: Some(at(2)),
    };
    scene.ledger.put_operation(&operation).await.unwrap();
    scene.ledger.beat(&beat(scene)).await.unwrap();
    let value = BlobId::generate();
    scene.ledger.put_blob(&scene.namespace, value, "v".into()).await.unwrap();
    let schedule = made(scene, "s").await;
    let skipped = without_work(fire(60, FireOutcome::Skipped));
    change(scene, &schedule, |change| change.fires.push(skipped)).await;
    Rows { job, run, operation: operation.id, value, schedule }
}

impl Rows {
    /// Which of them are there; of what no call shows, how many rows.
    async fn there(&self, scene: &Scene) -> [bool; 7] {
        let (ledger, namespace) = (&scene.ledger, &scene.namespace);
        [
            scene.find(self.job).await.is_some(),
            is_there(scene, self.run).await,
            ledger.operation(namespace, self.operation).await.unwrap().is_some(),
            !ledger.workers(namespace, Duration::MAX).await.unwrap().is_empty(),
            ledger.blob(namespace, self.value).await.unwrap().is_some(),
            !ledger.rollups(namespace, Timestamp::default()).await.unwrap().is_empty(),
            !ledger.fires(self.schedule.id, None, 10).await.unwrap().is_empty(),
        ]
    }
}

/// Goal: whatever a leader deletes by age stays when its epoch is past, and goes when it is not.
async fn what_a_leader_deletes_is_refused_to_a_past_one(scene: &Scene) {
    let (past, leads) = past_leaders(scene).await;
    let rows = rows(scene).await;
    let later = scene.ledger.now().await.unwrap().plus(DAY * 10);
    let tidy = Tidy { now: later, before: later };
    let jobs = aged(Whose::Only(scene.namespace.clone()), later);
    let runs = AgedRuns { whose: jobs.whose.clone(), ..aged_runs(later) };
    let ledger = &scene.ledger;
    // A walk looks at so many jobs of others, too, that it might not get there in one step from the beginning.
    let before = uuid::Uuid::from_u128(rows.job.uuid().as_u128() - 1);
    let before = Some(JobId::from_uuid(before));
    for epoch in past {
        let lead = Some(epoch);
        assert_eq!(ledger.prune(lead, tidy, 100).await.unwrap(), 0, "{epoch:?}");
        assert_eq!(ledger.prune_jobs(lead, &jobs, before, 100).await.unwrap(), None, "{epoch:?}");
        assert_eq!(ledger.prune_runs(lead, &runs, None, 100).await.unwrap(), None, "{epoch:?}");
        assert_eq!(ledger.prune_fires(lead, later, 100).await.unwrap(), 0, "{epoch:?}");
        assert_eq!(rows.there(scene).await, [true; 7], "{epoch:?}");
    }
    let lead: Option<Epoch> = Some(leads);
    let mut deleted = 0;
    for n in 0.. {
        assert!(n < 100, "it ends");
        match ledger.prune(lead, tidy, 100).await.unwrap() {
            0 => break,
            more => deleted += more,
        }
    }
    assert!(deleted >= 6, "besides what calls show, an idempotency key and a unique key");
    let step = ledger.prune_runs(lead, &runs, None, 100).await.unwrap().unwrap();
    assert_eq!(step.deleted, 2);
    let mut after = None;
    while rows.there(scene).await[0] {
        let step = ledger.prune_jobs(lead, &jobs, after, 100).await.unwrap().unwrap();
        assert!(!step.at_end || step.deleted == 1, "{step:?}");
        after = step.last.or(after);
    }
    assert!(ledger.prune_fires(lead, later, 100).await.unwrap() >= 1);
    assert_eq!(rows.there(scene).await, [false; 7]);
}
