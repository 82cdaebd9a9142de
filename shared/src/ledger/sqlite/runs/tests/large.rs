//! Runs of the largest size.

use std::time::Instant;

use sqlx::Row;

use super::*;
use crate::ledger::retention::{Aged, AgedRuns, Whose};
use crate::model::job::JobState;

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
    let states = JobState::ALL.to_vec();
    let whose = Whose::AllBut(Vec::new());
    let runs = AgedRuns {
        whose: whose.clone(),
        states: WorkflowState::ALL.to_vec(),
        before: later,
        jobs: states.iter().map(|state| (*state, later)).collect(),
    };
    let aged = Aged { whose, states, before: later, made_before: later };
    // What does not go with its run goes as old jobs do.
    while ledger.prune_runs(None, &runs, None, 5_000).await.unwrap().unwrap().deleted
        + ledger.prune_jobs(None, &aged, None, 5_000).await.unwrap().unwrap().deleted
        > 0
    {
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
    let mut reader = ledger.reader().await.unwrap();
    let sql = format!("SELECT count(*) FROM {table}");
    composed(&mut reader, sql, Args::default()).await.unwrap()[0].get(0)
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
