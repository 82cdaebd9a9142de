//! Jobs of one order key run one at a time, in the order in which they were accepted (I17).

use std::time::Duration;

use super::scene::{Scene, changed, done, new, unique};
use crate::engine::Ended;
use crate::ledger::orders::OrderPlace;
use crate::ledger::{Accepted, Changed, JobPatch, Recorded, Unfinished};
use crate::model::id::JobId;
use crate::model::job::{Job, JobSpec, JobState, NewJob, OnConflict, OrderOnFailure};

super::cases![
    only_the_first_of_a_key_may_run,
    the_end_of_one_releases_the_next,
    an_answer_says_what_is_on_record,
    attempts_to_come_keep_the_place,
    a_first_that_is_due_later_keeps_the_others_waiting,
    a_released_job_keeps_its_own_time,
    what_failed_is_skipped,
    what_failed_blocks_on_request,
    a_blocking_failure_is_let_go_by_deleting_it,
    one_in_the_middle_is_cancelled,
    a_cancelled_first_makes_room,
    a_cancelled_one_that_blocks_keeps_its_place,
    a_redriven_job_goes_to_the_end,
    a_replaced_job_makes_room,
    a_blocked_job_expires,
    a_place_is_not_moved_to_another_queue,
    an_order_is_of_one_queue,
    nothing_is_left_of_an_order_that_is_over,
    a_stuck_order_goes_on,
];

/// A job of the order `key`.
pub(super) fn ordered(scene: &Scene, key: &str) -> NewJob {
    let spec = JobSpec { order_key: Some(key.into()), ..JobSpec::default() };
    NewJob { spec, ..scene.new_job() }
}

/// As [`ordered`], holding up those behind it if it does not succeed.
pub(super) fn blocking(scene: &Scene, key: &str) -> NewJob {
    let mut job = ordered(scene, key);
    job.spec.order_on_failure = OrderOnFailure::Block;
    job
}

/// `n` jobs of the order `k`, submitted together.
async fn row_of(scene: &Scene, n: usize) -> Vec<Job> {
    let jobs = (0..n).map(|_| ordered(scene, "k")).collect();
    scene.submit(jobs).await.into_iter().map(new).collect()
}

async fn states(scene: &Scene, jobs: &[Job]) -> Vec<JobState> {
    let mut states = Vec::new();
    for job in jobs {
        states.push(scene.get(job.id).await.state);
    }
    states
}

/// The first that may run of the order `k`.
async fn first(scene: &Scene) -> Option<JobId> {
    let head = scene.ledger.order_head(&scene.namespace, &scene.queue, "k").await.unwrap();
    head.map(|job| job.id)
}

async fn place(scene: &Scene, id: JobId) -> Option<OrderPlace> {
    scene.ledger.order_place(&scene.namespace, id).await.unwrap()
}

/// Whether the ledger has a row for the order `k`.
async fn is_on_record(scene: &Scene) -> bool {
    let (namespace, queue) = (&scene.namespace, &scene.queue);
    let one = format!("namespace = '{namespace}' AND queue = '{queue}' AND order_key = 'k'");
    let insert = format!(
        "INSERT INTO order_chains (namespace, queue, order_key, head, next) \
         VALUES ('{namespace}', '{queue}', 'k', 0, 0)"
    );
    if scene.ledger.tamper(insert).await.is_err() {
        return true;
    }
    scene.ledger.tamper(format!("DELETE FROM order_chains WHERE {one}")).await.unwrap();
    false
}

use JobState::{Blocked, Cancelled, Ready, Scheduled, Succeeded};

async fn only_the_first_of_a_key_may_run(scene: &Scene) {
    let mut jobs = vec![ordered(scene, "k"), scene.new_job(), ordered(scene, "l")];
    jobs.extend([ordered(scene, "k"), ordered(scene, "l")]);
    let jobs: Vec<Job> = scene.submit(jobs).await.into_iter().map(new).collect();
    let late = scene.accept(ordered(scene, "k")).await;
    assert_eq!(states(scene, &jobs).await, [Ready, Ready, Ready, Blocked, Blocked]);
    assert_eq!(late.state, Blocked);
    // What the engine is filled from, and what is counted as waiting.
    let ahead = scene.ledger.now().await.unwrap().plus(Duration::from_secs(60));
    let (namespace, queue) = (&scene.namespace, &scene.queue);
    let page = scene
        .ledger
        .unfinished(Unfinished::new(namespace, queue, (ahead, ahead), 10))
        .await
        .unwrap();
    let mut found: Vec<JobId> = page.jobs.iter().map(|job| job.id).collect();
    let mut expected: Vec<JobId> = jobs[..3].iter().map(|job| job.id).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(scene.ledger.waiting(namespace, queue, 100).await.unwrap(), 3);
    let seen = place(scene, late.id).await.unwrap();
    assert_eq!(seen, OrderPlace { before: 2, head: jobs[0].id, head_state: Ready });
    assert_eq!(place(scene, jobs[0].id).await.unwrap().before, 0);
    assert_eq!(place(scene, jobs[1].id).await, None);
}

/// Goal: the release is in the transaction that records the end: nothing has to follow.
async fn the_end_of_one_releases_the_next(scene: &Scene) {
    let jobs = row_of(scene, 3).await;
    let reply = scene.ends(jobs[0].id, Ended::Succeeded).await;
    assert_eq!(states(scene, &jobs).await, [Succeeded, Ready, Blocked]);
    assert_eq!(reply.released, [scene.get(jobs[1].id).await]);
    assert!(reply.released[0].run_at >= jobs[1].run_at);
    // Recorded again, nothing happens again.
    let again = scene.record(jobs[0].id, 1, Ended::Succeeded);
    let reply = scene.ledger.record(vec![again]).await.unwrap();
    assert_eq!((reply.replies, reply.released.len()), (vec![Recorded::Stale], 0));
    assert_eq!(states(scene, &jobs).await, [Succeeded, Ready, Blocked]);
    // Several orders, and a job of none, in one batch.
    let other = scene.accept(ordered(scene, "l")).await;
    let behind = scene.accept(ordered(scene, "l")).await;
    let plain = scene.accept(scene.new_job()).await;
    let mut batch = Vec::new();
    for id in [jobs[1].id, plain.id, other.id] {
        batch.push(scene.next_record(id, Ended::Succeeded).await);
    }
    let reply = scene.ledger.record(batch).await.unwrap();
    let mut released: Vec<JobId> = reply.released.iter().map(|job| job.id).collect();
    let mut expected = [jobs[2].id, behind.id];
    released.sort_unstable();
    expected.sort_unstable();
    assert_eq!(released, expected);
}

async fn an_answer_says_what_is_on_record(scene: &Scene) {
    for atomic in [false, true] {
        let jobs = vec![ordered(scene, "k"), ordered(scene, "k"), ordered(scene, "k")];
        for result in done(scene.submit_with(jobs, atomic, None).await) {
            let job = new(result);
            assert_eq!(scene.get(job.id).await, job);
        }
    }
    let keyed = scene.submit_with(vec![ordered(scene, "k")], false, super::scene::key("i", 1));
    assert_eq!(new(done(keyed.await).remove(0)).state, Blocked);
}

async fn attempts_to_come_keep_the_place(scene: &Scene) {
    let jobs = row_of(scene, 2).await;
    let soon = scene.ledger.now().await.unwrap().plus(Duration::from_secs(60));
    let stays = [Ended::Retry(soon), Ended::Snoozed(soon), Ended::Released, Ended::Lost];
    for ended in stays {
        let reply = scene.ends(jobs[0].id, ended).await;
        assert!(reply.released.is_empty(), "{ended:?}");
        assert_eq!(scene.get(jobs[1].id).await.state, Blocked, "{ended:?}");
    }
    scene.ends(jobs[0].id, Ended::Succeeded).await;
    assert_eq!(scene.get(jobs[1].id).await.state, Ready);
}

async fn a_first_that_is_due_later_keeps_the_others_waiting(scene: &Scene) {
    let ahead = scene.ledger.now().await.unwrap().plus(Duration::from_secs(600));
    let late = scene.accept(NewJob { run_at: Some(ahead), ..ordered(scene, "k") }).await;
    let next = scene.accept(ordered(scene, "k")).await;
    assert_eq!((late.state, next.state), (Scheduled, Blocked));
    changed(scene.ledger.cancel(&scene.namespace, late.id, None, false, "x").await.unwrap());
    assert_eq!(scene.get(next.id).await.state, Ready);
}

async fn a_released_job_keeps_its_own_time(scene: &Scene) {
    let ahead = scene.ledger.now().await.unwrap().plus(Duration::from_secs(600));
    let one = scene.accept(ordered(scene, "k")).await;
    let late = scene.accept(NewJob { run_at: Some(ahead), ..ordered(scene, "k") }).await;
    assert_eq!((late.state, late.run_at), (Blocked, ahead));
    scene.ends(one.id, Ended::Succeeded).await;
    let late = scene.get(late.id).await;
    assert_eq!((late.state, late.run_at), (Scheduled, ahead));
}

const FAILURES: [Ended; 4] = [Ended::Dead, Ended::Cancelled, Ended::Expired, Ended::Quarantined];

async fn what_failed_is_skipped(scene: &Scene) {
    for ended in FAILURES {
        let jobs = row_of(scene, 2).await;
        let reply = scene.ends(jobs[0].id, ended).await;
        assert_eq!(reply.released.len(), 1, "{ended:?}");
        assert_eq!(scene.get(jobs[1].id).await.state, Ready, "{ended:?}");
        scene.ends(jobs[1].id, Ended::Succeeded).await;
    }
}

async fn what_failed_blocks_on_request(scene: &Scene) {
    for ended in FAILURES {
        let head = scene.accept(blocking(scene, "k")).await;
        let next = scene.accept(blocking(scene, "k")).await;
        let reply = scene.ends(head.id, ended).await;
        assert!(reply.released.is_empty(), "{ended:?}");
        let stands = scene.get(head.id).await.state;
        assert_eq!(scene.get(next.id).await.state, Blocked, "{ended:?}");
        let seen = place(scene, next.id).await.unwrap();
        assert_eq!(seen, OrderPlace { before: 1, head: head.id, head_state: stands });
        assert_eq!(first(scene).await, None, "what has ended does not run");
        // It is the first still, though others came meanwhile.
        let again = changed(scene.ledger.redrive(&scene.namespace, head.id).await.unwrap());
        assert_eq!((again.state, first(scene).await), (Ready, Some(head.id)));
        scene.ends(head.id, ended).await;
        assert_eq!(scene.get(next.id).await.state, Blocked);
        changed(scene.ledger.redrive(&scene.namespace, head.id).await.unwrap());
        let reply = scene.ends(head.id, Ended::Succeeded).await;
        assert_eq!(reply.released.len(), 1, "{ended:?}");
        scene.ends(next.id, Ended::Succeeded).await;
    }
}

async fn a_blocking_failure_is_let_go_by_deleting_it(scene: &Scene) {
    let head = scene.accept(blocking(scene, "k")).await;
    let next = scene.accept(ordered(scene, "k")).await;
    scene.ends(head.id, Ended::Dead).await;
    changed(scene.ledger.delete(&scene.namespace, head.id).await.unwrap());
    assert_eq!((scene.get(next.id).await.state, first(scene).await), (Ready, Some(next.id)));
}

/// Goal: a blocked job can be cancelled, whatever the engine says of it, and does not make the one behind it run.
async fn one_in_the_middle_is_cancelled(scene: &Scene) {
    for running in [false, true] {
        let jobs = row_of(scene, 3).await;
        let seen = scene.get(jobs[1].id).await;
        let guard = Some(crate::ledger::Guard::of(&seen));
        let cancel = scene.ledger.cancel(&scene.namespace, seen.id, guard, running, "not needed");
        assert_eq!(changed(cancel.await.unwrap()).state, Cancelled);
        assert_eq!(states(scene, &jobs).await, [Ready, Cancelled, Blocked]);
        assert_eq!(place(scene, jobs[2].id).await.unwrap().before, 1);
        let reply = scene.ends(jobs[0].id, Ended::Succeeded).await;
        assert_eq!(reply.released.len(), 1);
        assert_eq!(states(scene, &jobs).await, [Succeeded, Cancelled, Ready]);
        scene.ends(jobs[2].id, Ended::Succeeded).await;
    }
}

async fn a_cancelled_first_makes_room(scene: &Scene) {
    let jobs = row_of(scene, 3).await;
    // Asked to stop it has not ended.
    changed(scene.ledger.cancel(&scene.namespace, jobs[0].id, None, true, "x").await.unwrap());
    assert_eq!(states(scene, &jobs).await, [Ready, Blocked, Blocked]);
    changed(scene.ledger.cancel(&scene.namespace, jobs[0].id, None, false, "x").await.unwrap());
    assert_eq!(states(scene, &jobs).await, [Cancelled, Ready, Blocked]);
    assert_eq!(first(scene).await, Some(jobs[1].id));
}

async fn a_cancelled_one_that_blocks_keeps_its_place(scene: &Scene) {
    let mut jobs = vec![scene.accept(ordered(scene, "k")).await];
    jobs.push(scene.accept(blocking(scene, "k")).await);
    jobs.push(scene.accept(ordered(scene, "k")).await);
    changed(scene.ledger.cancel(&scene.namespace, jobs[1].id, None, true, "x").await.unwrap());
    scene.ends(jobs[0].id, Ended::Succeeded).await;
    assert_eq!(states(scene, &jobs).await, [Succeeded, Cancelled, Blocked]);
    // Redriven before its turn it waits for it again.
    let early = scene.accept(blocking(scene, "l")).await;
    let second = scene.accept(blocking(scene, "l")).await;
    changed(scene.ledger.cancel(&scene.namespace, second.id, None, true, "x").await.unwrap());
    let second = changed(scene.ledger.redrive(&scene.namespace, second.id).await.unwrap());
    assert_eq!(second.state, Blocked);
    scene.ends(early.id, Ended::Succeeded).await;
    assert_eq!(scene.get(second.id).await.state, Ready);
}

async fn a_redriven_job_goes_to_the_end(scene: &Scene) {
    let jobs = row_of(scene, 3).await;
    scene.ends(jobs[0].id, Ended::Dead).await;
    let again = changed(scene.ledger.redrive(&scene.namespace, jobs[0].id).await.unwrap());
    assert_eq!(again.state, Blocked);
    assert_eq!(states(scene, &jobs).await, [Blocked, Ready, Blocked]);
    assert_eq!(place(scene, again.id).await.unwrap().before, 2);
    scene.ends(jobs[1].id, Ended::Succeeded).await;
    assert_eq!(states(scene, &jobs).await, [Blocked, Succeeded, Ready]);
    scene.ends(jobs[2].id, Ended::Succeeded).await;
    assert_eq!(states(scene, &jobs).await, [Ready, Succeeded, Succeeded]);
    // Alone, it runs at once.
    scene.ends(jobs[0].id, Ended::Dead).await;
    let again = changed(scene.ledger.redrive(&scene.namespace, jobs[0].id).await.unwrap());
    assert_eq!(again.state, Ready);
}

async fn a_replaced_job_makes_room(scene: &Scene) {
    let holds = |job: NewJob| NewJob { unique: unique("u", OnConflict::Replace), ..job };
    let holder = scene.accept(holds(ordered(scene, "k"))).await;
    let next = scene.accept(ordered(scene, "k")).await;
    let Ok(Accepted::Replaced(by, old)) = scene.offer(holds(ordered(scene, "k"))).await else {
        panic!("a waiting holder is replaced");
    };
    assert_eq!(old, holder.id);
    assert_eq!((by.state, scene.get(by.id).await), (Blocked, by.clone()));
    assert_eq!((scene.get(next.id).await.state, first(scene).await), (Ready, Some(next.id)));
    // A blocked one is replaced, too.
    let Ok(Accepted::Replaced(last, old)) = scene.offer(holds(ordered(scene, "k"))).await else {
        panic!("a blocked holder is replaced");
    };
    assert_eq!((old, last.state), (by.id, Blocked));
    scene.ends(next.id, Ended::Succeeded).await;
    assert_eq!(scene.get(last.id).await.state, Ready);
    // Alone in its order, the new one runs.
    let Ok(Accepted::Replaced(alone, _)) = scene.offer(holds(ordered(scene, "k"))).await else {
        panic!("a waiting holder is replaced");
    };
    assert_eq!((alone.state, scene.get(alone.id).await.state), (Ready, Ready));
}

async fn a_blocked_job_expires(scene: &Scene) {
    let now = scene.ledger.now().await.unwrap();
    let passed = now.minus(Duration::from_secs(5));
    let expires = |job: NewJob| NewJob { expires_at: Some(passed), ..job };
    let head = scene.accept(expires(ordered(scene, "k"))).await;
    let over = scene.accept(expires(ordered(scene, "k"))).await;
    let later = now.plus(Duration::from_secs(600));
    let last = scene.accept(NewJob { expires_at: Some(later), ..ordered(scene, "k") }).await;
    let overdue = scene.ledger.overdue_in_order(now, 1_000).await.unwrap();
    let ours: Vec<&Job> = overdue.iter().filter(|job| job.namespace == scene.namespace).collect();
    assert_eq!(ours, [&scene.get(over.id).await], "the first is the engine's to see to");
    assert_eq!(scene.end(over.id, 1, Ended::Expired).await, Recorded::Applied);
    assert_eq!(scene.get(last.id).await.state, Blocked);
    scene.ends(head.id, Ended::Succeeded).await;
    assert_eq!(scene.get(last.id).await.state, Ready);
}

async fn a_place_is_not_moved_to_another_queue(scene: &Scene) {
    let jobs = row_of(scene, 2).await;
    let elsewhere = JobPatch { queue: Some("r".parse().unwrap()), ..JobPatch::default() };
    let priority = JobPatch { max_attempts: Some(9), ..JobPatch::default() };
    let patch = async |id: JobId, patch: &JobPatch| {
        scene.ledger.patch(&scene.namespace, id, None, patch).await.unwrap()
    };
    assert_eq!(patch(jobs[0].id, &elsewhere).await, Changed::Refused(Ready));
    assert_eq!(changed(patch(jobs[0].id, &priority).await).spec.max_attempts, 9);
    assert_eq!(patch(jobs[1].id, &priority).await, Changed::Refused(Blocked));
    // The time of the first moves, and the others with it.
    let ahead = scene.ledger.now().await.unwrap().plus(Duration::from_secs(600));
    let later = JobPatch { run_at: Some(ahead), ..JobPatch::default() };
    assert_eq!(changed(patch(jobs[0].id, &later).await).state, Scheduled);
    assert_eq!(states(scene, &jobs).await, [Scheduled, Blocked]);
}

async fn an_order_is_of_one_queue(scene: &Scene) {
    let here = scene.accept(ordered(scene, "k")).await;
    let queue = "other".parse().unwrap();
    let there = scene.accept(NewJob { queue, ..ordered(scene, "k") }).await;
    let tenant = scene.elsewhere();
    let foreign = tenant.accept(ordered(&tenant, "k")).await;
    assert_eq!([here.state, there.state, foreign.state], [Ready; 3]);
}

async fn nothing_is_left_of_an_order_that_is_over(scene: &Scene) {
    let jobs = row_of(scene, 3).await;
    scene.ends(jobs[0].id, Ended::Succeeded).await;
    changed(scene.ledger.cancel(&scene.namespace, jobs[2].id, None, true, "x").await.unwrap());
    assert!(is_on_record(scene).await);
    scene.ends(jobs[1].id, Ended::Dead).await;
    assert!(!is_on_record(scene).await);
    assert_eq!(place(scene, jobs[1].id).await, None);
    let fresh = scene.accept(ordered(scene, "k")).await;
    assert_eq!(fresh.state, Ready);
}

/// Goal: should an order ever be left with a first job that nobody released, or that is gone, it goes on by itself.
async fn a_stuck_order_goes_on(scene: &Scene) {
    let jobs = row_of(scene, 2).await;
    let fine = scene.accept(ordered(scene, "fine")).await;
    let released = async || {
        let (mut released, mut at) = (Vec::new(), None);
        loop {
            // One at a time, so that the walk has to find its way.
            let mended = scene.ledger.mend_orders(at, 1).await.unwrap();
            released.extend(mended.released.into_iter().map(|job| (job.id, job.state)));
            at = mended.next;
            if at.is_none() {
                return released;
            }
        }
    };
    assert!(!released().await.iter().any(|job| job.0 == jobs[0].id || job.0 == fine.id));
    scene.ledger.tamper_job(jobs[0].id, "state = 0").await.unwrap();
    assert_eq!(released().await, [(jobs[0].id, Ready)]);
    let of_k = format!("WHERE namespace = '{}' AND order_key = 'k'", scene.namespace);
    scene.ledger.tamper(format!("UPDATE order_chains SET head = 0 {of_k}")).await.unwrap();
    scene.ledger.tamper(format!("DELETE FROM order_links {of_k} AND number = 1")).await.unwrap();
    assert_eq!(released().await, [(jobs[1].id, Ready)]);
    assert_eq!(states(scene, &jobs).await, [Ready, Ready], "the first lost its place by hand");
    scene.ends(jobs[1].id, Ended::Succeeded).await;
    assert!(!is_on_record(scene).await);
    assert_eq!(scene.get(fine.id).await.state, Ready);
}
