//! Runs of any shape and size, and what only this module can see.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use crate::config::LedgerSettings;
use crate::engine::Ended;
use crate::ledger::runs::{
    Advance, Advanced, CreateOutcome, END, Move, NewRun, NewStep, Release, Reset, Run, Step,
};
use crate::ledger::sqlite::Sqlite;
use crate::ledger::sqlite::statement::{Args, composed};
use crate::ledger::{Record, Recorded};
use crate::model::id::{Fence, JobId, WorkflowId};
use crate::model::job::{Job, NewJob, Value};
use crate::model::name::{Namespace, QueueName};
use crate::model::time::Timestamp;
use crate::model::workflow::{StepState, WorkflowState};

mod large;
mod plans;

async fn ledger(folder: &tempfile::TempDir) -> Sqlite {
    let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
    let settings = LedgerSettings::new(url);
    Sqlite::migrate(&settings).await.unwrap();
    Sqlite::open(&settings).await.unwrap()
}

fn new_job() -> NewJob {
    let payload = Value::Inline(Bytes::from_static(b"{\"n\":1}"));
    let kind = "test.kind".parse().unwrap();
    NewJob::new(Namespace::default(), QueueName::default(), kind, payload)
}

/// A step of this shape; its dependents are found by [`run_of`].
fn step(ord: i32, needs: Vec<i32>, plain: bool) -> NewStep {
    let starts = needs.is_empty();
    NewStep {
        ord,
        id: format!("s{ord}"),
        needs,
        dependents: Vec::new(),
        state: if starts && plain { StepState::Released } else { StepState::Blocked },
        plain,
        many: false,
        paced: false,
        due: starts && !plain,
        job: Some(new_job()),
        later: Vec::new(),
        spec: "{}".into(),
    }
}

fn run_of(mut steps: Vec<NewStep>) -> NewRun {
    let mut below: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for step in &steps {
        for need in &step.needs {
            below.entry(*need).or_default().push(step.ord);
        }
    }
    let mut last = Vec::new();
    for step in &mut steps {
        step.dependents = below.remove(&step.ord).unwrap_or_else(|| {
            last.push(step.ord);
            vec![END]
        });
    }
    let end = NewStep { id: String::new(), job: None, due: false, ..step(END, last, false) };
    steps.push(end);
    NewRun {
        id: WorkflowId::generate(),
        namespace: Namespace::default(),
        name: "flow".into(),
        definition: None,
        document: Some("{}".into()),
        options: "{}".into(),
        input: Value::Inline(Bytes::from_static(b"null")),
        deadline: None,
        tags: Vec::new(),
        parent: None,
        depth: 0,
        rerun_of: None,
        request_id: None,
        traceparent: None,
        steps,
        idempotency: None,
    }
}

async fn create(ledger: &Sqlite, new: &NewRun) -> Vec<JobId> {
    match ledger.create_run(new).await.unwrap() {
        CreateOutcome::Created(jobs) => ids(&jobs),
        other => panic!("expected a new run, got {other:?}"),
    }
}

fn ids(jobs: &[Job]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

fn record(id: JobId, ended: Ended) -> Record {
    let at = Timestamp::from_millis(1_700_000_000_000);
    Record {
        namespace: Namespace::default(),
        id,
        fence: Fence(1),
        ended,
        at,
        claimed_at: Some(at),
        attempt: 1,
        crashes: 0,
        worker: None,
        output: Some(Value::Inline(Bytes::from_static(b"{\"ok\":true}"))),
        error: None,
        timed_out: false,
        usage: None,
    }
}

/// Records successes, so many to a batch, until nothing is left to run; how many there were.
async fn run_dry(ledger: &Sqlite, run: WorkflowId, first: Vec<JobId>, batch: usize) -> usize {
    let (mut wave, mut seen) = (first, HashSet::new());
    let mut due = 0;
    while !wave.is_empty() {
        let mut next = Vec::new();
        for part in wave.chunks(batch) {
            assert!(part.iter().all(|id| seen.insert(*id)), "a job is released once");
            let records = part.iter().map(|id| record(*id, Ended::Succeeded)).collect();
            let reply = ledger.record(records).await.unwrap();
            assert!(reply.replies.iter().all(|reply| *reply == Recorded::Applied));
            due += reply.due.len();
            next.extend(ids(&reply.released));
        }
        wave = next;
    }
    let end = ledger.steps(run, i32::MIN, 1).await.unwrap().remove(0);
    assert_eq!((end.ord, end.needs_left, end.due, due), (END, 0, 1, 1));
    seen.len()
}

async fn end(ledger: &Sqlite, id: WorkflowId, state: WorkflowState) {
    let run = ledger.run(&Namespace::default(), id).await.unwrap().unwrap();
    let advance = Advance { version: run.version, state: Some(state), ..Advance::default() };
    let outcome = ledger.advance(&run, &advance).await.unwrap();
    assert_eq!(outcome, Advanced::Done { released: vec![], more: false });
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Goal: whatever the shape and the order of outcomes, repeats and late ones among them: a step is released by its
/// last need and not before, once (I20). Method: graphs by dice, compared with their edges after every batch.
#[tokio::test]
async fn graphs_of_any_shape_are_released_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(&folder).await;
    for seed in 0..12 {
        let mut dice = Dice(seed);
        let steps: Vec<NewStep> = (0..60)
            .map(|ord| {
                let needs = (0..ord).filter(|need| dice.below(4 + (ord - need) as u64) == 0);
                step(ord, needs.collect(), true)
            })
            .collect();
        let new = run_of(steps);
        let by_job: HashMap<JobId, &NewStep> =
            new.steps.iter().filter_map(|s| Some((s.job.as_ref()?.id, s))).collect();
        let mut ready = create(&ledger, &new).await;
        let mut ended: HashSet<i32> = HashSet::new();
        let mut old = Vec::new();
        while !ready.is_empty() {
            let mut batch = Vec::new();
            for _ in 0..=dice.below(5) {
                if !ready.is_empty() {
                    let at = dice.below(ready.len() as u64) as usize;
                    batch.push(record(ready.swap_remove(at), Ended::Succeeded));
                }
            }
            ended.extend(batch.iter().map(|record| by_job[&record.id].ord));
            let fresh = batch.clone();
            batch.extend(old.iter().chain(&fresh).take(3).cloned());
            let reply = ledger.record(batch).await.unwrap();
            let applied = reply.replies.iter().filter(|r| **r == Recorded::Applied).count();
            assert_eq!(applied, fresh.len(), "seed {seed}");
            for job in &reply.released {
                let step = by_job[&job.id];
                assert!(step.needs.iter().all(|need| ended.contains(need)), "seed {seed}");
                let last = |need| fresh.iter().any(|record| by_job[&record.id].ord == need);
                assert!(step.needs.iter().any(|need| last(*need)), "seed {seed}");
            }
            ready.extend(ids(&reply.released));
            old = fresh;
            let is_over = ended.len() == 60;
            assert_eq!(reply.due, if is_over { vec![new.id] } else { vec![] }, "seed {seed}");
        }
        assert_eq!(ended.len(), 60, "seed {seed}");
        for step in ledger.steps(new.id, END, 100).await.unwrap() {
            assert_eq!((step.state, step.needs_left, step.due), (StepState::Succeeded, 0, 0));
        }
    }
    ledger.close().await;
}

/// Goal: recorders that share a transaction are each told of their own runs.
#[tokio::test]
async fn each_recorder_is_told_of_its_own_runs() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(&folder).await;
    let mut runs = Vec::new();
    for _ in 0..3 {
        let new = run_of(vec![step(0, vec![], true), step(1, vec![0], true)]);
        let first = create(&ledger, &new).await;
        runs.push((new, record(first[0], Ended::Succeeded)));
    }
    let other = record(JobId::generate(), Ended::Succeeded);
    // Handed in before the writer has a turn, so they share a transaction.
    let (a, b, c, d) = tokio::join!(
        ledger.record(vec![runs[0].1.clone()]),
        ledger.record(vec![other.clone(), runs[1].1.clone()]),
        ledger.record(vec![other]),
        ledger.record(vec![runs[2].1.clone()]),
    );
    assert_eq!(c.unwrap().released, []);
    for (reply, (new, _)) in [a, b, d].into_iter().zip(&runs) {
        let released = reply.unwrap().released;
        assert_eq!(ids(&released), [new.steps[1].job.as_ref().unwrap().id]);
    }
    ledger.close().await;
}

fn moved(step: &Step, to: StepState) -> Move {
    Move {
        ord: step.ord,
        from: step.state,
        to,
        seen: step.due,
        output: None,
        error: None,
        wake_at: None,
        list: None,
    }
}

async fn advance(ledger: &Sqlite, run: &Run, advance: Advance) -> (Vec<Job>, bool) {
    match ledger.advance(run, &advance).await.unwrap() {
        Advanced::Done { released, more } => (released, more),
        Advanced::Conflict => panic!("the run is as it was"),
    }
}

/// Goal: a decision that looks at a step twice comes to what it decided, in whatever order.
#[tokio::test]
async fn a_step_may_be_looked_at_twice() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(&folder).await;
    for stays_first in [true, false] {
        let new = run_of(vec![step(0, vec![], false), step(1, vec![0], true)]);
        create(&ledger, &new).await;
        let seen = ledger.run_snapshot(new.id).await.unwrap().unwrap();
        let mut moves =
            vec![moved(&seen.due[0], StepState::Blocked), moved(&seen.due[0], StepState::Skipped)];
        if !stays_first {
            moves.reverse();
        }
        let both = Advance { version: 0, moves, ..Advance::default() };
        let (released, more) = advance(&ledger, &seen.run, both).await;
        assert_eq!((released.len(), more), (1, false));
        let steps = ledger.steps(new.id, END, 10).await.unwrap();
        assert_eq!((steps[0].state, steps[0].due), (StepState::Skipped, 0));
        assert_eq!((steps[1].state, steps[1].needs_left), (StepState::Released, 0));
    }
    ledger.close().await;
}
