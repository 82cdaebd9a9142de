//! Orders under many hands at once, and random histories of one order against a model.

use std::collections::BTreeMap;

use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::orders::{blocking, ordered};
use super::run_scene::plain;
use super::scene::{Scene, changed, new};
use crate::engine::Ended;
use crate::ledger::Unfinished;
use crate::ledger::runs::Reset;
use crate::ledger::{Ledger, Record, Recorded};
use crate::model::id::{JobId, WorkflowId};
use crate::model::job::{Job, JobState, NewJob};
use crate::model::workflow::{StepSpec, StepState, Work};

super::cases![
    submitters_at_once_are_put_into_one_order,
    submitters_and_ends_at_once_lose_nothing,
    orders_and_submissions_of_many_keys_do_not_stand_in_each_others_way,
    random_histories_match_the_model,
    steps_take_their_places_when_they_are_released,
    a_blocked_step_is_cancelled,
    a_step_that_waits_for_its_needs_again_gives_its_place_up,
];

async fn head(ledger: &Ledger, scene: &Corner, key: &str) -> Option<Job> {
    ledger.order_head(&scene.0, &scene.1, key).await.unwrap()
}

/// Namespace and queue of a scene, for tasks.
type Corner = (crate::model::name::Namespace, crate::model::name::QueueName);

fn corner(scene: &Scene) -> Corner {
    (scene.namespace.clone(), scene.queue.clone())
}

/// A job that says whose it is, and which of theirs.
fn marked(scene: &Scene, key: &str, who: usize, n: usize) -> NewJob {
    NewJob { tags: vec![who.to_string(), n.to_string()], ..ordered(scene, key) }
}

fn mark(job: &Job) -> (usize, usize) {
    (job.tags[0].parse().unwrap(), job.tags[1].parse().unwrap())
}

/// Ends what comes first in the order until there is nothing, one after the other; in which order.
async fn drain(scene: &Scene, key: &str) -> Vec<(usize, usize)> {
    let mut ran = Vec::new();
    while let Some(job) = head(&scene.ledger, &corner(scene), key).await {
        assert_eq!(job.state, JobState::Ready);
        ran.push(mark(&job));
        scene.ends(job.id, Ended::Succeeded).await;
    }
    ran
}

/// Each submitter's own come in the order in which they were accepted.
fn assert_in_order(ran: &[(usize, usize)]) {
    let mut latest = BTreeMap::new();
    for (who, n) in ran {
        assert!(latest.insert(who, n).is_none_or(|before| before < n), "{who} {n} in {ran:?}");
    }
}

async fn submitters_at_once_are_put_into_one_order(scene: &Scene) {
    let (submitters, each) = (8, 12);
    let tasks = (0..submitters).map(|who| {
        let mut batches = Vec::new();
        let mut n = 0;
        for size in (1..=3).cycle().take(each / 2) {
            batches.push((n..n + size).map(|n| marked(scene, "k", who, n)).collect::<Vec<_>>());
            n += size;
        }
        let scene = Scene {
            ledger: scene.ledger.clone(),
            namespace: scene.namespace.clone(),
            queue: scene.queue.clone(),
        };
        tokio::spawn(async move {
            let (mut count, mut free) = (0, 0);
            for batch in batches {
                for result in scene.submit(batch).await {
                    free += usize::from(new(result).state != JobState::Blocked);
                    count += 1;
                }
            }
            (count, free)
        })
    });
    let told: Vec<(usize, usize)> =
        join_all(tasks).await.into_iter().map(|told| told.unwrap()).collect();
    let all: usize = told.iter().map(|told| told.0).sum();
    assert_eq!(told.iter().map(|told| told.1).sum::<usize>(), 1, "only one came first");
    let ran = drain(scene, "k").await;
    assert_eq!(ran.len(), all);
    assert_in_order(&ran);
}

/// Goal: at every moment at most one may run, and in the end all have run, whoever submits, ends and cancels at once.
async fn submitters_and_ends_at_once_lose_nothing(scene: &Scene) {
    let (submitters, each) = (4, 30);
    let jobs: Vec<Vec<NewJob>> = (0..submitters)
        .map(|who| (0..each).map(|n| marked(scene, "k", who, n)).collect())
        .collect();
    let ids: Vec<JobId> = jobs.iter().flatten().map(|job| job.id).collect();
    let submitting = jobs.into_iter().map(|jobs| {
        let scene = copy(scene);
        tokio::spawn(async move {
            for job in jobs {
                scene.accept(job).await;
            }
            Vec::new()
        })
    });
    let cancelled: Vec<JobId> = ids.iter().copied().step_by(7).collect();
    let cancelling = cancelled.chunks(3).map(|ids| {
        let (scene, ids) = (copy(scene), ids.to_vec());
        tokio::spawn(async move {
            for id in ids {
                // Before it is there, while it waits, while it is the first, or after.
                for _ in 0..20 {
                    let _ =
                        scene.ledger.cancel(&scene.namespace, id, None, true, "x").await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
            Vec::new()
        })
    });
    let ending = (0..2).map(|_| {
        let scene = copy(scene);
        tokio::spawn(async move {
            let mut ran = Vec::new();
            let mut idle = 0;
            while idle < 2_000 {
                let Some(job) = head(&scene.ledger, &corner(&scene), "k").await else {
                    idle += 1;
                    tokio::task::yield_now().await;
                    continue;
                };
                idle = 0;
                let fence = job.fence.0 + 1;
                if scene.end(job.id, fence, Ended::Succeeded).await == Recorded::Applied {
                    ran.push(mark(&job));
                }
            }
            ran
        })
    });
    let tasks: Vec<_> = submitting.chain(cancelling).chain(ending).collect();
    for ran in join_all(tasks).await {
        assert_in_order(&ran.unwrap());
    }
    drain(scene, "k").await;
    for job in scene.ledger.jobs(&ids).await.unwrap() {
        assert!(job.state.is_terminal(), "{job:?}");
        assert!(job.state == JobState::Succeeded || cancelled.contains(&job.id), "{job:?}");
    }
}

fn copy(scene: &Scene) -> Scene {
    let (namespace, queue) = corner(scene);
    Scene { ledger: scene.ledger.clone(), namespace, queue }
}

/// Goal: batches of outcomes and of submissions lock many orders, and never each other.
async fn orders_and_submissions_of_many_keys_do_not_stand_in_each_others_way(scene: &Scene) {
    let keys: Vec<String> = (0..12).map(|n| format!("k{n}")).collect();
    let tasks = (0..4).map(|who| {
        let (scene, keys) = (copy(scene), keys.clone());
        tokio::spawn(async move {
            let mut rng = StdRng::seed_from_u64(who);
            for n in 0..15 {
                let jobs = (0..12).map(|at| {
                    let key = &keys[(rng.random_range(0..12) + at) % 12];
                    marked(&scene, key, who as usize, n * 12 + at)
                });
                scene.submit(jobs.collect()).await.into_iter().for_each(|job| drop(new(job)));
                let mut batch: Vec<Record> = Vec::new();
                for key in &keys {
                    if let Some(job) = head(&scene.ledger, &corner(&scene), key).await {
                        batch.push(scene.record(job.id, job.fence.0 + 1, Ended::Succeeded));
                    }
                }
                scene.records(batch).await;
            }
        })
    });
    join_all(tasks).await.into_iter().for_each(|task| task.unwrap());
    for key in &keys {
        drain(scene, key).await;
    }
    let ahead = scene.ledger.now().await.unwrap().plus(std::time::Duration::from_secs(60));
    let left = Unfinished::new(&scene.namespace, &scene.queue, (ahead, ahead), 10);
    assert_eq!(scene.ledger.unfinished(left).await.unwrap().jobs, []);
}

/// One member of the model's order.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Member {
    id: JobId,
    blocks: bool,
    /// It has ended badly and keeps its place.
    stands: bool,
}

/// What the ledger is to do, in a few words.
#[derive(Default)]
struct Model {
    order: Vec<Member>,
    /// Ended without success and without a place.
    ended: Vec<(JobId, bool)>,
}

impl Model {
    fn ends(&mut self, at: usize, well: bool) {
        match (well, self.order[at].blocks) {
            (true, _) => drop(self.order.remove(at)),
            (false, true) => self.order[at].stands = true,
            (false, false) => {
                let member = self.order.remove(at);
                self.ended.push((member.id, false));
            }
        }
    }

    async fn assert_same(&self, scene: &Scene, story: &[String]) {
        for (at, member) in self.order.iter().enumerate() {
            let state = scene.get(member.id).await.state;
            let fits = match (member.stands, at) {
                (true, _) => state.is_terminal() && state != JobState::Succeeded,
                (false, 0) => !state.is_terminal() && state != JobState::Blocked,
                (false, _) => state == JobState::Blocked,
            };
            assert!(fits, "{state} at {at} of {:#?}\nafter {story:#?}", self.order);
            let place = scene.ledger.order_place(&scene.namespace, member.id).await.unwrap();
            let place = place.expect("a member has its place");
            assert_eq!((place.before as usize, place.head), (at, self.order[0].id), "{story:#?}");
        }
        for (id, _) in &self.ended {
            assert!(scene.get(*id).await.state.is_terminal(), "{story:#?}");
            let place = scene.ledger.order_place(&scene.namespace, *id).await.unwrap();
            assert_eq!(place, None, "{story:#?}");
        }
    }
}

async fn random_histories_match_the_model(scene: &Scene) {
    for seed in 0..12 {
        let mut rng = StdRng::seed_from_u64(seed);
        let key = format!("seed {seed}");
        let (mut model, mut story) = (Model::default(), Vec::new());
        for _ in 0..40 {
            story.push(one_step(scene, &key, &mut model, &mut rng).await);
            model.assert_same(scene, &story).await;
        }
    }
}

/// Does something at random to the ledger and to the model; what.
async fn one_step(scene: &Scene, key: &str, model: &mut Model, rng: &mut StdRng) -> String {
    let (ledger, namespace) = (&scene.ledger, &scene.namespace);
    let stands = model.order.first().is_some_and(|member| member.stands);
    match rng.random_range(0..10) {
        0..3 => {
            let count = rng.random_range(1..4);
            let jobs: Vec<(NewJob, bool)> = (0..count)
                .map(|_| match rng.random_bool(0.5) {
                    true => (blocking(scene, key), true),
                    false => (ordered(scene, key), false),
                })
                .collect();
            let blocks: Vec<bool> = jobs.iter().map(|job| job.1).collect();
            let results = scene.submit(jobs.into_iter().map(|job| job.0).collect()).await;
            for (result, blocks) in results.into_iter().zip(blocks) {
                model.order.push(Member { id: new(result).id, blocks, stands: false });
            }
            format!("submit {count}")
        }
        3..6 if !model.order.is_empty() && !stands => {
            let kinds =
                [Ended::Succeeded, Ended::Dead, Ended::Quarantined, Ended::Lost, Ended::Succeeded];
            let ended = kinds[rng.random_range(0..kinds.len())];
            scene.ends(model.order[0].id, ended).await;
            if ended != Ended::Lost {
                model.ends(0, ended == Ended::Succeeded);
            }
            format!("the first ends as {ended:?}")
        }
        6 if !model.order.is_empty() => {
            let at = rng.random_range(0..model.order.len());
            if model.order[at].stands {
                let id = model.order.remove(at).id;
                changed(ledger.delete(namespace, id).await.unwrap());
                return format!("delete {at}");
            }
            changed(ledger.cancel(namespace, model.order[at].id, None, at > 0, "x").await.unwrap());
            model.ends(at, false);
            format!("cancel {at}")
        }
        7..9 => {
            let standing = model.order.iter_mut().filter(|member| member.stands);
            let mut standing: Vec<&mut Member> = standing.collect();
            if !standing.is_empty() && rng.random_bool(0.6) {
                let at = rng.random_range(0..standing.len());
                changed(ledger.redrive(namespace, standing[at].id).await.unwrap());
                standing[at].stands = false;
                return format!("redrive standing {at}");
            }
            let Some((id, blocks)) = model.ended.pop() else { return "nothing".into() };
            changed(ledger.redrive(namespace, id).await.unwrap());
            model.order.push(Member { id, blocks, stands: false });
            "redrive".into()
        }
        9 => {
            let mended = ledger.mend_orders(None, 1_000).await.unwrap();
            let ours = mended.released.iter().filter(|job| job.namespace == *namespace).count();
            assert_eq!(ours, 0, "nothing is stuck");
            "mend".into()
        }
        _ => "nothing".into(),
    }
}

/// A plain step with a job of the order `k`.
fn in_order(id: &str, needs: &[u32]) -> StepSpec {
    let mut step = plain(id, needs);
    if let Work::Job(template) = &mut step.work {
        template.spec.order_key = Some("k".into());
    }
    step
}

async fn steps_take_their_places_when_they_are_released(scene: &Scene) {
    let steps = vec![in_order("a", &[]), in_order("b", &[]), plain("c", &[]), in_order("d", &[2])];
    let (run, jobs) = scene.run_of(steps).await;
    let mut free: Vec<&str> =
        jobs.iter().map(|job| job.workflow.as_ref().unwrap().step.as_str()).collect();
    free.sort_unstable();
    assert_eq!(free, ["a", "c"], "one of the order and the plain one");
    assert_eq!(scene.job_of(run, "b").await.state, JobState::Blocked);
    assert_eq!(scene.state_of(run, "b").await.0, StepState::Released);
    let live = scene.ledger.live_jobs(run, None, 10).await.unwrap();
    assert_eq!(live.len(), 3, "what its order blocks may be stopped");
    // Accepted after the run, and before the step waits for nothing more.
    let outside = scene.accept(ordered(scene, "k")).await;
    let reply = scene.step_ends(run, "c", Ended::Succeeded).await;
    assert_eq!(reply.released, [], "the step is released, and waits for its order");
    assert_eq!(scene.state_of(run, "d").await.0, StepState::Released);
    let mut ran = Vec::new();
    while let Some(job) = head(&scene.ledger, &corner(scene), "k").await {
        scene.ends(job.id, Ended::Succeeded).await;
        ran.push(job.id);
    }
    let of = async |step: &str| scene.job_of(run, step).await.id;
    assert_eq!(ran, [of("a").await, of("b").await, outside.id, of("d").await]);
}

async fn a_blocked_step_is_cancelled(scene: &Scene) {
    let (run, _) = scene.run_of(vec![in_order("a", &[]), in_order("b", &[])]).await;
    let b = scene.job_of(run, "b").await;
    changed(scene.ledger.cancel(&scene.namespace, b.id, None, true, "x").await.unwrap());
    assert_eq!(scene.job_of(run, "b").await.state, JobState::Cancelled);
    let due = scene.ledger.due_runs(None, 1_000).await.unwrap();
    assert!(due.iter().any(|(_, id)| *id == run), "its run hears of it");
    assert_eq!(scene.job_of(run, "a").await.state, JobState::Ready);
}

/// Goal: a run that is retried from an earlier step does not hold up others with the place of a later one.
async fn a_step_that_waits_for_its_needs_again_gives_its_place_up(scene: &Scene) {
    let mut held = in_order("b", &[0]);
    if let Work::Job(template) = &mut held.work {
        template.spec.order_on_failure = crate::model::job::OrderOnFailure::Block;
    }
    let (run, _): (WorkflowId, _) = scene.run_of(vec![plain("a", &[]), held]).await;
    scene.step_ends(run, "a", Ended::Succeeded).await;
    let outside = scene.accept(ordered(scene, "k")).await;
    scene.step_ends(run, "b", Ended::Dead).await;
    assert_eq!(scene.get(outside.id).await.state, JobState::Blocked);
    end_run(scene, run).await;
    let run_now = scene.snapshot(run).await.run;
    let (a, b) = (scene.job_of(run, "a").await.id, scene.job_of(run, "b").await.id);
    let reset = |ord, to, needs_left, job| Reset {
        ord,
        to,
        needs_left,
        due: false,
        jobs: vec![job],
        items_open: None,
    };
    let resets = [reset(0, StepState::Released, 0, a), reset(1, StepState::Blocked, 1, b)];
    scene.ledger.retry_run(&run_now, &resets).await.unwrap().expect("the run was as seen");
    assert_eq!(scene.get(outside.id).await.state, JobState::Ready);
    scene.step_ends(run, "a", Ended::Succeeded).await;
    assert_eq!(scene.job_of(run, "b").await.state, JobState::Blocked, "behind the other now");
    scene.ends(outside.id, Ended::Succeeded).await;
    assert_eq!(scene.job_of(run, "b").await.state, JobState::Ready);
}

/// Ends a run as failed.
async fn end_run(scene: &Scene, run: WorkflowId) {
    use super::run_scene::{advanced, fails};
    let b = scene.step(run, "b").await;
    let ended = scene
        .try_advance(run, |advance| {
            advance.moves = vec![fails(&b, StepState::Failed)];
            advance.state = Some(crate::model::workflow::WorkflowState::Failed);
        })
        .await;
    advanced(ended);
}
