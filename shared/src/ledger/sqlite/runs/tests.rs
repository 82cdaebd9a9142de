//! Large runs, runs of any shape, and what only this module can see.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

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

/// Goal: runs of the largest size go through, wide ones and deep ones, and go whole when their time is over.
#[tokio::test]
async fn the_largest_runs_go_through() {
    const STEPS: i32 = 10_000;
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(&folder).await;
    let middle = 1..STEPS - 1;
    let mut wide = vec![step(0, vec![], true)];
    wide.extend(middle.clone().map(|ord| step(ord, vec![0], true)));
    wide.push(step(STEPS - 1, middle.collect(), true));
    // Fifty chains side by side.
    let chains = (0..STEPS).map(|ord| {
        let above = if ord < 50 { vec![] } else { vec![ord - 50] };
        step(ord, above, true)
    });
    for (shape, steps, batch) in [("wide", wide, 500), ("deep", chains.collect(), 500)] {
        let new = run_of(steps);
        let started = Instant::now();
        let first = create(&ledger, &new).await;
        let created = started.elapsed();
        let started = Instant::now();
        assert_eq!(run_dry(&ledger, new.id, first, batch).await, STEPS as usize, "{shape}");
        eprintln!("{shape}: created in {created:?}, run in {:?}", started.elapsed());
        let counts = ledger.step_counts(new.id).await.unwrap();
        assert_eq!(counts, [(StepState::Succeeded, STEPS as u32)], "{shape}");
        end(&ledger, new.id, WorkflowState::Succeeded).await;
    }
    let later = Timestamp::from_micros(i64::MAX / 2);
    let started = Instant::now();
    let mut calls = 0;
    while ledger.prune(later, 5_000).await.unwrap() > 0 {
        calls += 1;
        assert!(calls < 20, "pruning ends");
    }
    eprintln!("pruned in {calls} calls, {:?}", started.elapsed());
    for table in
        ["jobs", "workflows", "workflow_steps", "workflow_plans", "workflow_items", "blobs"]
    {
        assert_eq!(count(&ledger, table).await, 0, "{table}");
    }
    ledger.close().await;
}

async fn count(ledger: &Sqlite, table: &str) -> i64 {
    use sqlx::Row;
    let mut reader = ledger.reader().await.unwrap();
    let sql = format!("SELECT count(*) FROM {table}");
    composed(&mut reader, sql, Args::default()).await.unwrap()[0].get(0)
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

/// Goal: a decision over many steps is carried out in time: what a failure takes along, and items.
#[tokio::test]
async fn wide_decisions_are_carried_out() {
    const ITEMS: u32 = 2_000;
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(&folder).await;
    let mut steps = vec![NewStep { many: true, job: None, ..step(0, vec![], false) }];
    steps.extend((1..10_000).map(|ord| step(ord, vec![ord - 1], true)));
    let new = run_of(steps);
    create(&ledger, &new).await;
    let seen = ledger.run_snapshot(new.id).await.unwrap().unwrap();
    let mut start = moved(&seen.due[0], StepState::Released);
    start.list = Some(("[]".into(), ITEMS));
    let item = |item| {
        let job = Box::new(new_job());
        Release::Item { ord: 0, item, step: "s0".into(), job }
    };
    let releases = (0..ITEMS).map(item).collect();
    let begin = Advance { version: 0, moves: vec![start], releases, ..Advance::default() };
    let started = Instant::now();
    let (released, more) = advance(&ledger, &seen.run, begin).await;
    eprintln!("{ITEMS} items made in {:?}", started.elapsed());
    assert_eq!((released.len(), more), (ITEMS as usize, false));
    let started = Instant::now();
    for part in released.chunks(500) {
        let records = part.iter().map(|job| record(job.id, Ended::Succeeded)).collect();
        ledger.record(records).await.unwrap();
    }
    eprintln!("{ITEMS} items recorded in {:?}", started.elapsed());
    let seen = ledger.run_snapshot(new.id).await.unwrap().unwrap();
    assert_eq!((seen.due.len(), seen.due[0].items.open, seen.due[0].due), (1, 0, 1));
    // All of the chain is skipped with it.
    let mut moves = vec![moved(&seen.due[0], StepState::Failed)];
    let mut after = 0;
    loop {
        let page = ledger.steps(new.id, after, 2_000).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.ord;
        moves.extend(page.iter().map(|step| moved(step, StepState::Skipped)));
    }
    assert_eq!(moves.len(), 10_000);
    let version = seen.run.version;
    let started = Instant::now();
    let skip = Advance { version, moves, ..Advance::default() };
    let (released, more) = advance(&ledger, &seen.run, skip).await;
    eprintln!("10,000 steps moved in {:?}", started.elapsed());
    assert_eq!((released.len(), more), (0, true));
    let last = ledger.steps(new.id, i32::MIN, 1).await.unwrap().remove(0);
    assert_eq!((last.needs_left, last.due), (0, 1));
    ledger.close().await;
}

/// Goal: a run of the largest size is stopped, and made to go on, in time.
#[tokio::test]
async fn a_large_run_is_stopped_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(&folder).await;
    // Half of them may run, each with a dependent that may not.
    let above = |ord| if ord < 5_000 { vec![] } else { vec![ord - 5_000] };
    let new = run_of((0..10_000).map(|ord| step(ord, above(ord), true)).collect());
    let first = create(&ledger, &new).await;
    for part in first[..4_000].chunks(500) {
        let records = part.iter().map(|id| record(*id, Ended::Dead)).collect();
        assert_eq!(ledger.record(records).await.unwrap().due, [new.id]);
    }
    let run = ledger.run(&Namespace::default(), new.id).await.unwrap().unwrap();
    let ending = Some(WorkflowState::Cancelled);
    let stop = Advance { version: 0, stop: true, ending, ..Advance::default() };
    let started = Instant::now();
    let (released, more) = advance(&ledger, &run, stop).await;
    eprintln!("10,000 steps stopped in {:?}", started.elapsed());
    assert_eq!((released.len(), more), (0, true));
    let last = ledger.steps(new.id, i32::MIN, 1).await.unwrap().remove(0);
    assert_eq!(last.needs_left, 5_000);
    let counts = ledger.step_counts(new.id).await.unwrap();
    assert_eq!(counts, [(StepState::Released, 5_000), (StepState::Cancelled, 5_000)]);
    end(&ledger, new.id, WorkflowState::Cancelled).await;

    let run = ledger.run(&Namespace::default(), new.id).await.unwrap().unwrap();
    let resets: Vec<Reset> = new
        .steps
        .iter()
        .map(|step| Reset {
            ord: step.ord,
            to: step.state,
            needs_left: u32::try_from(step.needs.len()).unwrap(),
            due: false,
            jobs: step.job.iter().map(|job| job.id).collect(),
            items_open: None,
        })
        .collect();
    let started = Instant::now();
    let released = ledger.retry_run(&run, &resets).await.unwrap().unwrap();
    eprintln!("10,000 steps made to go on in {:?}", started.elapsed());
    assert_eq!(released.len(), 5_000);
    let steps = ledger.steps(new.id, END, 2_000).await.unwrap();
    assert!(steps.iter().all(|step| step.dependents == [step.ord + 5_000]));
    let records = released[..500]
        .iter()
        .map(|job| Record { fence: Fence(job.fence.0 + 1), ..record(job.id, Ended::Succeeded) });
    let reply = ledger.record(records.collect()).await.unwrap();
    assert_eq!(reply.released.len(), 500);
    ledger.close().await;
}

/// Goal: the statements that run often find their rows by an index.
#[tokio::test]
async fn no_statement_of_runs_scans_a_table() {
    use sqlx::Row;
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(&folder).await;
    let by_step = "USING PRIMARY KEY (workflow_id=? AND ord=?)";
    for (sql, index) in [
        (
            "SELECT json_group_array(json_array(s.ord, json(p.dependents))) FROM workflow_steps s \
             JOIN workflow_plans p ON p.workflow_id = s.workflow_id AND p.ord = s.ord \
             WHERE s.state = 1 AND (s.workflow_id, s.ord) IN (VALUES (x'00', 1), (x'01', 2))",
            format!("SEARCH s {by_step}"),
        ),
        (
            "WITH v (workflow_id, ord, n) AS (VALUES (x'00', 1, 2), (x'01', 3, 4)) \
             UPDATE workflow_steps AS s SET needs_left = v.n FROM v \
             WHERE s.workflow_id = v.workflow_id AND s.ord = v.ord AND s.state = 0",
            format!("SEARCH s {by_step}"),
        ),
        (
            "WITH v (id, now) AS (VALUES (x'00', 2), (x'01', 3)) UPDATE jobs SET state = 2 \
             FROM v WHERE jobs.id = v.id AND jobs.state = 0",
            "SEARCH jobs USING INDEX sqlite_autoindex_jobs_1 (id=?)".into(),
        ),
        (
            "SELECT s.ord FROM workflow_steps s WHERE s.workflow_id = x'00' AND s.ord IN (\
             SELECT ord FROM workflow_steps WHERE workflow_id = x'00' AND due > 0 \
             UNION SELECT ord FROM workflow_steps WHERE wake_at <= 5 AND +workflow_id = x'00')",
            "SEARCH workflow_steps USING COVERING INDEX workflow_steps_wake (wake_at<?)".into(),
        ),
        (
            "UPDATE jobs SET state = 12 WHERE state = 0 AND id IN (SELECT job_id FROM \
             workflow_steps WHERE workflow_id = x'00' AND state = 0 AND job_id IS NOT NULL)",
            "SEARCH jobs USING INDEX sqlite_autoindex_jobs_1 (id=?)".into(),
        ),
        (
            "SELECT count(*) FROM workflow_items i CROSS JOIN jobs j ON j.id = i.job_id \
             WHERE i.workflow_id = x'00' AND i.ord = 1 AND j.state < 10",
            format!("SEARCH i {by_step}"),
        ),
        (
            "DELETE FROM workflow_items WHERE (workflow_id, ord, item) IN (VALUES (x'00', 1, 2))",
            "SEARCH workflow_items USING PRIMARY KEY (workflow_id=? AND ord=? AND item=?)".into(),
        ),
        (
            "SELECT id FROM workflows WHERE parent_id = x'00' AND parent_ord = 1 AND parent_item \
             IS 2 AND (state < 10 OR created_at >= 3)",
            "SEARCH workflows USING INDEX workflows_parent (parent_id=? AND parent_ord=?)".into(),
        ),
        (
            "SELECT DISTINCT s.workflow_id FROM workflow_steps s CROSS JOIN workflows w \
             ON w.id = s.workflow_id WHERE s.due > 0 AND s.workflow_id > x'00' AND w.state < 10 \
             ORDER BY s.workflow_id LIMIT 10",
            "SEARCH s USING INDEX workflow_steps_due (workflow_id>?)".into(),
        ),
        (
            "SELECT id FROM workflows WHERE deadline <= 5 AND state < 10 AND state = 0 \
             AND ending IS NULL",
            "SEARCH workflows USING INDEX workflows_deadline (deadline<?)".into(),
        ),
        (
            "SELECT id FROM jobs WHERE workflow_id = x'00' AND id > x'00' AND state > 0 \
             AND state < 10 ORDER BY id LIMIT 10",
            "SEARCH jobs USING INDEX jobs_by_workflow (workflow_id=? AND id>?)".into(),
        ),
        (
            "SELECT w.id FROM workflows w WHERE w.namespace = 'a' AND w.id < x'ff' AND w.state \
             IN (0, 1) ORDER BY w.id DESC LIMIT 10",
            "SEARCH w USING INDEX workflows_by_namespace (namespace=? AND id<?)".into(),
        ),
        (
            "SELECT id FROM workflows WHERE output_blob = x'00'",
            "SEARCH workflows USING INDEX workflows_output_blob (output_blob=?)".into(),
        ),
        (
            "SELECT id, steps FROM workflows w WHERE state >= 10 AND finished_at < 5 AND NOT \
             EXISTS (SELECT 1 FROM workflows p WHERE p.id = w.parent_id AND p.state < 10) \
             ORDER BY finished_at LIMIT 10",
            "SEARCH w USING INDEX workflows_finished (finished_at<?)".into(),
        ),
    ] {
        let mut reader = ledger.reader().await.unwrap();
        let explain = format!("EXPLAIN QUERY PLAN {sql}");
        let plan = composed(&mut reader, explain, Args::default()).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
        assert!(plan.contains(&index), "{sql}\n{plan:#?}");
        let scans = |step: &&String| step.starts_with("SCAN w") || step.starts_with("SCAN jobs");
        assert_eq!(plan.iter().find(scans), None, "{sql}\n{plan:#?}");
    }
    ledger.close().await;
}
