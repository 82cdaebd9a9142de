//! Runs under everything at once: outcomes, decisions, cancels, signals and stops, in any order.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::run_scene::{fails, moves, plain, signal, templated};
use super::scene::{Scene, at};
use crate::engine::Ended;
use crate::ledger::runs::{
    Advance, Advanced, END, NewGiven, Release, RunChanged, Snapshot, Step, StepJob,
};
use crate::ledger::{LedgerError, Recorded};
use crate::model::id::{Fence, JobId, WorkflowId};
use crate::model::job::{Job, JobState};
use crate::model::workflow::{StepSpec, StepState, WorkflowState};

super::cases![whatever_happens_at_once_everything_is_released_once_and_ends];

/// Steps of each run.
const STEPS: u32 = 24;
/// Tasks, each at work on all runs.
const WORKERS: u64 = 5;
/// Rounds after which a task gives up: by far more than are needed.
const ROUNDS_MAX: u32 = 3_000;

/// What all tasks know.
struct Storm {
    scene: Scene,
    runs: Vec<WorkflowId>,
    released: Mutex<HashMap<JobId, u32>>,
    ended: Mutex<HashSet<WorkflowId>>,
}

impl Storm {
    fn note(&self, jobs: &[Job]) {
        let mut released = self.released.lock().unwrap();
        jobs.iter().for_each(|job| *released.entry(job.id).or_default() += 1);
    }

    fn is_over(&self) -> bool {
        self.ended.lock().unwrap().len() == self.runs.len()
    }
}

/// Steps that need up to four of those before them.
fn drawn(rng: &mut StdRng) -> Vec<StepSpec> {
    (0..STEPS)
        .map(|n| {
            let count = if n == 0 { 0 } else { rng.random_range(0..5) };
            let mut needs: Vec<u32> = (0..count).map(|_| rng.random_range(0..n)).collect();
            needs.sort_unstable();
            needs.dedup();
            let id = format!("s{n}");
            match rng.random_range(0..10) {
                0 => signal(&id, &needs),
                1 | 2 => templated(&id, &needs),
                _ => plain(&id, &needs),
            }
        })
        .collect()
}

async fn whatever_happens_at_once_everything_is_released_once_and_ends(scene: &Scene) {
    for seed in 0..3 {
        let mut rng = StdRng::seed_from_u64(seed);
        let here = Scene { namespace: scene.namespace.clone(), ..scene.elsewhere() };
        let (mut runs, mut first) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let (run, jobs) = here.run_of(drawn(&mut rng)).await;
            runs.push(run);
            first.extend(jobs);
        }
        let storm = Arc::new(Storm {
            scene: here,
            runs: runs.clone(),
            released: Mutex::default(),
            ended: Mutex::default(),
        });
        storm.note(&first);
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..WORKERS {
            tasks.spawn(work(Arc::clone(&storm), StdRng::seed_from_u64(seed * 100 + n), n == 0));
        }
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
        for run in runs {
            check(&storm, run).await;
        }
    }
}

/// Ends jobs of any runs, a few in each call, and decides over runs; one task stops the first run on its way.
async fn work(storm: Arc<Storm>, mut rng: StdRng, stops: bool) {
    let scene = &storm.scene;
    for round in 0..ROUNDS_MAX {
        if storm.is_over() {
            return;
        }
        for (n, run) in storm.runs.iter().enumerate() {
            drive(&storm, *run, stops && n == 0 && round == 5).await;
        }
        let mut ids = Vec::new();
        for run in &storm.runs {
            let live = scene.ledger.live_jobs(*run, None, 20).await.unwrap();
            ids.extend(live.choose_multiple(&mut rng, 2).copied());
        }
        let jobs = scene.ledger.jobs(&ids).await.unwrap();
        if rng.random_bool(0.1)
            && let Some(job) = jobs.first()
        {
            // It may have ended meanwhile.
            unless_waited(scene.ledger.cancel(&scene.namespace, job.id, None, false, "x").await);
        }
        if rng.random_bool(0.2)
            && let Some(run) = storm.runs.choose(&mut rng)
        {
            give(scene, *run).await;
        }
        let batch: Vec<_> = jobs
            .iter()
            .map(|job| {
                let ended = match rng.random_range(0..10) {
                    0 => Ended::Dead,
                    1 => Ended::Retry(at(0)),
                    _ => Ended::Succeeded,
                };
                let Fence(fence) = job.fence;
                scene.record(job.id, fence + 1, ended)
            })
            .collect();
        let Some(reply) = unless_waited(scene.ledger.record(batch).await) else { continue };
        assert!(reply.replies.iter().all(|reply| *reply != Recorded::Unknown));
        storm.note(&reply.released);
    }
    panic!("the runs do not end");
}

/// `None`: it waited for a lock for too long, so nothing was written. A busy machine may be that slow; the next round
/// tries again.
fn unless_waited<T>(result: Result<T, LedgerError>) -> Option<T> {
    match result {
        Ok(done) => Some(done),
        Err(LedgerError::Unavailable(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

async fn give(scene: &Scene, run: WorkflowId) {
    let given = NewGiven {
        name: "go".into(),
        by: "ada".into(),
        role: None,
        approved: None,
        reason: None,
        body: None,
    };
    let Some(given) = unless_waited(scene.ledger.give(&scene.namespace, run, &given).await) else {
        return;
    };
    assert!(matches!(given, RunChanged::Done(()) | RunChanged::Refused(_)), "{given:?}");
}

/// Decides over a run once.
async fn drive(storm: &Storm, run: WorkflowId, stops: bool) {
    let ledger = &storm.scene.ledger;
    loop {
        let seen = storm.scene.snapshot(run).await;
        if seen.run.state.is_terminal() {
            storm.ended.lock().unwrap().insert(run);
            return;
        }
        let ords: Vec<i32> = seen.due.iter().map(|step| step.ord).collect();
        let mut advance = decide(&seen, &ledger.step_jobs(run, &ords).await.unwrap());
        if stops {
            (advance.stop, advance.ending) = (true, Some(WorkflowState::Cancelled));
            advance.moves.retain(|one| one.from != StepState::Blocked);
            advance.releases.clear();
            advance.state = None;
        } else if seen.due.is_empty() {
            return;
        }
        let Some(advanced) = unless_waited(ledger.advance(&seen.run, &advance).await) else {
            continue;
        };
        match advanced {
            Advanced::Done { released, .. } => return storm.note(&released),
            // Somebody else was first: a stop looks again, the others have another round.
            Advanced::Conflict if stops => {}
            Advanced::Conflict => return,
        }
    }
}

/// A step that failed is passed over; what waits ends with the first look at it after the one that made it wait.
fn decide(seen: &Snapshot, jobs: &[StepJob]) -> Advance {
    let mut advance = Advance { version: seen.run.version, ..Advance::default() };
    let stopping = seen.run.ending.is_some();
    for step in &seen.due {
        let job = jobs.iter().find(|job| job.ord == step.ord);
        let to = match step.state {
            StepState::Blocked if step.ord == END && step.needs_left == 0 => {
                advance.state = Some(seen.run.ending.unwrap_or(WorkflowState::Succeeded));
                continue;
            }
            StepState::Blocked if step.ord == END || step.needs_left > 0 => StepState::Blocked,
            StepState::Blocked => begin(step, &mut advance),
            StepState::Waiting if stopping => StepState::Cancelled,
            StepState::Waiting => StepState::Succeeded,
            StepState::Released
                if job.is_some_and(|j| j.state.is_terminal() && j.state != JobState::Succeeded) =>
            {
                StepState::Failed
            }
            other => other,
        };
        advance.moves.push(if to == StepState::Failed { fails(step, to) } else { moves(step, to) });
    }
    advance
}

fn begin(step: &Step, advance: &mut Advance) -> StepState {
    let Some(id) = step.job_id else { return StepState::Waiting };
    advance.releases.push(Release::Blocked { id, payload: None, run_at: at(0), expires_at: None });
    StepState::Released
}

async fn check(storm: &Storm, run: WorkflowId) {
    let scene = &storm.scene;
    let steps = scene.all_steps(run).await;
    assert_eq!(steps.len(), STEPS as usize);
    let ended = scene.snapshot(run).await.run;
    for step in &steps {
        let id = &step.id;
        assert!(step.state.is_terminal() && step.finished_at.is_some(), "{id}: {:?}", step.state);
        let Some(job) = step.job_id else { continue };
        let started = step.state != StepState::Cancelled || step.started_at.is_some();
        let times = storm.released.lock().unwrap().get(&job).copied().unwrap_or_default();
        assert_eq!(times, u32::from(started), "{id} of {run}, {:?}", step.state);
        assert!(scene.get(job).await.state.is_terminal());
        // Nobody starts before what it needs has ended.
        for need in step.needs.iter().filter(|_| started) {
            let need = &steps[usize::try_from(*need).unwrap()];
            assert!(need.finished_at <= step.started_at, "{id} came before {}", need.id);
        }
    }
    let end = scene.end_of(run).await;
    assert_eq!((end.state, end.needs_left, end.due), (StepState::Succeeded, 0, 0));
    assert_eq!(scene.ledger.live_jobs(run, None, 10).await.unwrap(), []);
    let stopped = ended.ending.is_some();
    assert_eq!(ended.state == WorkflowState::Cancelled, stopped);
}
