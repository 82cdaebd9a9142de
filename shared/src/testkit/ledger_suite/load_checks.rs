//! Load checks: one at a time, each with one verdict, and nothing left of their shadows. Cases leave no check running:
//! the next one would be refused.

use std::time::Duration;

use super::scene::{Scene, at};
use crate::engine::Ended;
use crate::ledger::load_checks::{CheckBegun, CheckEnd, Cleaned, LoadCheck, NewCheck};
use crate::model::id::{Fence, JobId};
use crate::model::job::{Job, JobState};
use crate::model::load_check::{CheckState, Plan, Report, Verdict};
use crate::model::name::Namespace;

super::cases![
    a_check_is_kept_with_its_verdict,
    one_runs_at_a_time,
    a_check_that_was_left_running_has_failed,
    a_check_that_was_given_back_begins_anew,
    a_check_whose_job_is_gone_holds_up_no_other,
    a_verdict_is_given_once_by_who_has_the_check,
    a_shadow_is_cleaned_in_batches,
    nothing_else_is_ever_cleaned,
    old_checks_are_pruned,
];

fn new(job: &Job, run: u64) -> NewCheck {
    let now = job.created_at.millis();
    let ms = |n: i64| u64::try_from(n).expect("after 1970");
    NewCheck {
        id: job.id,
        run: Fence(run),
        plan: Plan { rate_per_minute: 60, ..Plan::default() },
        shadow: Namespace::shadow(uuid::Uuid::now_v7()),
        ids: (ms(now - 60_000), ms(now + 60_000)),
    }
}

async fn begin(scene: &Scene, new: &NewCheck) -> CheckBegun {
    scene.ledger.begin_check(new).await.unwrap()
}

async fn started(scene: &Scene, new: &NewCheck) -> LoadCheck {
    match begin(scene, new).await {
        CheckBegun::Started(check) => check,
        other => panic!("not started: {other:?}"),
    }
}

async fn end(scene: &Scene, new: &NewCheck, state: CheckState) -> bool {
    let end = CheckEnd { id: new.id, run: new.run, state, reasons: vec![], report: None };
    scene.ledger.end_check(&end).await.unwrap()
}

async fn check(scene: &Scene, id: JobId) -> LoadCheck {
    scene.ledger.load_check(id).await.unwrap().expect("it is kept")
}

async fn clean_all(scene: &Scene, shadow: &Namespace) {
    while scene.ledger.clean_shadow(shadow, 100).await.unwrap().is_some_and(|c| !c.is_done) {}
}

async fn a_check_is_kept_with_its_verdict(scene: &Scene) {
    let new = new(&scene.accept(scene.new_job()).await, 7);
    let before = scene.ledger.now().await.unwrap();
    let kept = started(scene, &new).await;
    assert_eq!((kept.id, kept.run, kept.restarts), (new.id, new.run, 0));
    assert_eq!(
        (kept.state, &kept.plan, &kept.shadow),
        (CheckState::Running, &new.plan, &new.shadow)
    );
    assert!(kept.started_at >= before && kept.ended_at.is_none() && !kept.is_clean);
    assert_eq!(started(scene, &new).await, kept, "a repeat");
    let verdicts = vec![Verdict::at_most("lost", 0.0, 2.5)];
    let end = CheckEnd {
        id: new.id,
        run: new.run,
        state: CheckState::Failed,
        reasons: vec!["lost \u{1f989} 'x'".into()],
        report: Some(Report { verdicts, accepted: 1 << 40, ..Report::default() }),
    };
    assert!(scene.ledger.end_check(&end).await.unwrap());
    assert!(scene.ledger.end_check(&end).await.unwrap(), "a repeat");
    let ended = check(scene, new.id).await;
    assert_eq!(
        (ended.state, &ended.reasons, &ended.report),
        (end.state, &end.reasons, &end.report)
    );
    assert!(ended.ended_at.is_some());
    assert_eq!(scene.ledger.load_checks(None, 1).await.unwrap(), [ended]);
    assert_eq!(scene.ledger.load_checks(Some(new.id), 500).await.unwrap(), []);
    assert_eq!(scene.ledger.load_check(JobId::generate()).await.unwrap(), None);
}

async fn one_runs_at_a_time(scene: &Scene) {
    let jobs = [scene.accept(scene.new_job()).await, scene.accept(scene.new_job()).await];
    let [first, second] = jobs.each_ref().map(|job| new(job, 1));
    let (one, other) = tokio::join!(begin(scene, &first), begin(scene, &second));
    let (winner, loser, refused) = match (&one, &other) {
        (CheckBegun::Started(_), refused) => (&first, &second, refused),
        (refused, CheckBegun::Started(_)) => (&second, &first, refused),
        none => panic!("none was started: {none:?}"),
    };
    assert_eq!(*refused, CheckBegun::Busy(winner.id));
    assert_eq!(scene.ledger.load_check(loser.id).await.unwrap(), None);
    assert!(end(scene, winner, CheckState::Passed).await);
    started(scene, loser).await;
    assert!(end(scene, loser, CheckState::Passed).await);
}

async fn a_check_that_was_left_running_has_failed(scene: &Scene) {
    let job = scene.accept(scene.new_job()).await;
    let first = new(&job, 1);
    started(scene, &first).await;
    let second = new(&job, 2);
    let CheckBegun::Ended(judged) = begin(scene, &second).await else {
        panic!("an interrupted check was repeated");
    };
    assert_eq!((judged.state, judged.run), (CheckState::Failed, Fence(2)));
    assert!(judged.reasons[0].starts_with("interrupted"), "{:?}", judged.reasons);
    assert_eq!(judged.report.as_ref().and_then(|r| r.measured("interrupted")), Some(1.0));
    assert!(!end(scene, &first, CheckState::Passed).await, "the dead attempt wakes");
    assert_eq!(check(scene, job.id).await, judged);
    assert_eq!(begin(scene, &new(&job, 3)).await, CheckBegun::Ended(judged));
}

async fn a_check_that_was_given_back_begins_anew(scene: &Scene) {
    let job = scene.accept(scene.new_job()).await;
    let [first, second, third] = [1, 2, 3].map(|run| new(&job, run));
    started(scene, &first).await;
    assert!(!scene.ledger.give_back_check(job.id, Fence(9)).await.unwrap());
    assert!(scene.ledger.give_back_check(job.id, first.run).await.unwrap());
    assert!(check(scene, job.id).await.given_back);
    assert!(scene.ledger.unclean_shadows(500).await.unwrap().contains(&first.shadow));
    let other = new(&scene.accept(scene.new_job()).await, 1);
    assert_eq!(begin(scene, &other).await, CheckBegun::Busy(job.id), "it keeps its turn");
    let anew = started(scene, &second).await;
    assert_eq!((anew.restarts, anew.run, &anew.shadow), (1, Fence(2), &second.shadow));
    assert!(!anew.given_back);
    assert_eq!(begin(scene, &first).await, CheckBegun::Stale);
    assert!(!end(scene, &first, CheckState::Passed).await);
    // Given back once does not excuse dying later.
    assert!(
        matches!(begin(scene, &third).await, CheckBegun::Ended(c) if c.state == CheckState::Failed)
    );
}

async fn a_check_whose_job_is_gone_holds_up_no_other(scene: &Scene) {
    let job = scene.accept(scene.new_job()).await;
    let dead = new(&job, 1);
    started(scene, &dead).await;
    let next = new(&scene.accept(scene.new_job()).await, 1);
    assert_eq!(begin(scene, &next).await, CheckBegun::Busy(dead.id));
    scene.end(job.id, 10, Ended::Dead).await;
    started(scene, &next).await;
    let judged = check(scene, dead.id).await;
    assert_eq!(judged.state, CheckState::Failed);
    assert!(judged.reasons[0].starts_with("interrupted"), "{:?}", judged.reasons);
    assert!(end(scene, &next, CheckState::Aborted).await);
}

async fn a_verdict_is_given_once_by_who_has_the_check(scene: &Scene) {
    let first = new(&scene.accept(scene.new_job()).await, 5);
    started(scene, &first).await;
    let stranger = NewCheck { run: Fence(4), ..first.clone() };
    assert!(!end(scene, &stranger, CheckState::Passed).await);
    assert!(end(scene, &first, CheckState::Failed).await);
    assert!(!end(scene, &first, CheckState::Passed).await, "a failure stays");
    assert!(!scene.ledger.give_back_check(first.id, first.run).await.unwrap());
    assert_eq!(check(scene, first.id).await.state, CheckState::Failed);
}

async fn a_shadow_is_cleaned_in_batches(scene: &Scene) {
    let new = new(&scene.accept(scene.new_job()).await, 1);
    let kept = scene.accept(scene.new_job()).await;
    scene.end(kept.id, 10, Ended::Succeeded).await;
    started(scene, &new).await;
    let inside = Scene { namespace: new.shadow.clone(), ..scene.elsewhere() };
    let mut jobs = Vec::new();
    for job in inside.new_jobs(5) {
        jobs.push(inside.accept(job).await);
    }
    for job in &jobs[1..] {
        inside.end(job.id, 10, Ended::Succeeded).await;
    }
    let clean = async |limit| scene.ledger.clean_shadow(&new.shadow, limit).await.unwrap();
    assert_eq!(clean(9).await, None, "it runs");
    assert!(!scene.ledger.unclean_shadows(500).await.unwrap().contains(&new.shadow));
    assert!(end(scene, &new, CheckState::Passed).await);
    assert!(scene.ledger.unclean_shadows(500).await.unwrap().contains(&new.shadow));
    let mut forgotten = 0;
    while forgotten < 4 {
        let cleaned = clean(2).await.expect("it is a shadow");
        assert!(cleaned.jobs <= 2 && !cleaned.is_done, "{cleaned:?}");
        forgotten += cleaned.jobs;
        if cleaned.jobs == 0 {
            // Only what has not ended fills the batch.
            break;
        }
    }
    assert_eq!(clean(9).await.map(|cleaned| cleaned.is_done), Some(false), "one has not ended");
    assert!(!check(scene, new.id).await.is_clean);
    inside.end(jobs[0].id, 10, Ended::Cancelled).await;
    while !clean(2).await.expect("it is a shadow").is_done {}
    assert!(check(scene, new.id).await.is_clean);
    assert_eq!(clean(9).await, None, "it is clean");
    for job in &jobs {
        assert_eq!(inside.find(job.id).await, None);
    }
    assert_eq!(scene.ledger.queues(Some(&new.shadow)).await.unwrap(), []);
    assert_eq!(scene.ledger.rollups(&new.shadow, at(-1_000_000)).await.unwrap(), []);
    assert_eq!(scene.get(kept.id).await.state, JobState::Succeeded, "others are left alone");
}

async fn nothing_else_is_ever_cleaned(scene: &Scene) {
    let job = scene.accept(scene.new_job()).await;
    scene.end(job.id, 10, Ended::Succeeded).await;
    assert_eq!(scene.ledger.clean_shadow(&scene.namespace, 9).await.unwrap(), None);
    // Named like a shadow, by a user, before there were any.
    let named = Namespace::shadow(uuid::Uuid::now_v7());
    let inside = Scene { namespace: named.clone(), ..scene.elsewhere() };
    let theirs = inside.accept(inside.new_job()).await;
    inside.end(theirs.id, 10, Ended::Succeeded).await;
    assert_eq!(scene.ledger.clean_shadow(&named, 9).await.unwrap(), None);
    assert_eq!(inside.get(theirs.id).await.state, JobState::Succeeded);
    // Marked, but not named like one: by hand, or by damage.
    let sql = format!(
        "INSERT INTO load_check_shadows (namespace, check_id, ids_from, ids_until, made_at) \
         SELECT '{}', id, 0, 281474976710655, 0 FROM jobs WHERE namespace = '{0}'",
        scene.namespace
    );
    scene.ledger.tamper(sql).await.unwrap();
    assert_eq!(scene.ledger.clean_shadow(&scene.namespace, 9).await.unwrap(), None);
    assert_eq!(scene.get(job.id).await.state, JobState::Succeeded);
    let sql = format!("DELETE FROM load_check_shadows WHERE namespace = '{}'", scene.namespace);
    scene.ledger.tamper(sql).await.unwrap();
}

async fn old_checks_are_pruned(scene: &Scene) {
    let mut ids = Vec::new();
    for n in 0..4 {
        let new = new(&scene.accept(scene.new_job()).await, 1);
        started(scene, &new).await;
        assert!(end(scene, &new, CheckState::Passed).await);
        if n > 0 {
            clean_all(scene, &new.shadow).await;
        }
        ids.push(new.id);
    }
    let there = async |id| scene.ledger.load_check(id).await.unwrap().is_some();
    scene.ledger.prune_checks(at(0), 2).await.unwrap();
    let now: Vec<bool> = vec![there(ids[0]).await, there(ids[1]).await, there(ids[2]).await];
    assert_eq!(now, [true, false, true], "an unclean one stays, and the latest two do");
    let later = scene.ledger.now().await.unwrap().plus(Duration::from_secs(1));
    scene.ledger.prune_checks(later, 500).await.unwrap();
    assert!(!there(ids[2]).await && !there(ids[3]).await && there(ids[0]).await);
    let shadow = check(scene, ids[0]).await.shadow;
    let cleaned = scene.ledger.clean_shadow(&shadow, 9).await.unwrap();
    assert_eq!(cleaned, Some(Cleaned { jobs: 0, is_done: true }));
    assert!(scene.ledger.prune_checks(later, 500).await.unwrap() > 0);
}
