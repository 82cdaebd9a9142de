//! Schedules: kept and listed, changed by one at a time, each due time once with its work.

use std::time::Duration;

use super::run_scene::{plain, signal, template};
use super::scene::{Scene, at};
use crate::engine::Ended;
use crate::ledger::Paused;
use crate::ledger::schedules::{
    NewFire, NewWork, Schedule, ScheduleChange, ScheduleChanged, ScheduleSeen,
};
use crate::model::id::{JobId, ScheduleId};
use crate::model::job::{JobState, NewJob};
use crate::model::schedule::decide::{Fire, Submitted};
use crate::model::schedule::times::{Timing, Zone};
use crate::model::schedule::{
    CatchUp, FireOutcome, FireResult, FireSource, Overlap, ScheduleSpec, ScheduledWork,
};
use crate::model::time::{Span, Timestamp};

super::cases![
    a_schedule_is_kept_as_it_is_given,
    a_name_is_taken_once,
    schedules_are_listed_by_name,
    of_two_changes_of_one_sight_the_second_is_refused,
    a_fire_and_its_job_come_together,
    a_fire_and_its_run_come_together,
    a_due_time_is_fired_once,
    what_the_ledger_does_not_take_is_skipped_alone,
    a_fire_that_waits_is_fired_later,
    ends_of_fires_are_seen_and_noted,
    a_walk_finds_schedules_whose_work_has_ended,
    schedules_come_up_when_they_are_due,
    a_backfill_takes_what_was_not_fired,
    deleted_schedules_leave_nothing,
    old_fires_are_pruned,
];

fn spec() -> ScheduleSpec {
    ScheduleSpec {
        timing: Timing::Every { every: Span(Duration::from_secs(60)), anchor: at(0) },
        zone: Zone::named("Europe/Berlin").expect("a zone"),
        overlap: Overlap::Queue,
        catch_up: CatchUp::default(),
        jitter: Some(Span(Duration::from_secs(1))),
        start_at: None,
        end_at: Some(at(1_000_000)),
        exclude: vec!["2026-12-24/2026-12-26".parse().expect("dates")],
        pause_on_failure: Some(3),
        work: ScheduledWork::Job(template()),
        description: "nightly \u{1f989}".into(),
    }
}

fn schedule(scene: &Scene, name: &str) -> Schedule {
    Schedule {
        id: ScheduleId::generate(),
        namespace: scene.namespace.clone(),
        name: name.parse().expect("a legal name"),
        spec: spec(),
        version: 1,
        paused: None,
        failures: 0,
        cursor: at(0),
        // Far ahead: what is due here is what other cases look for.
        look_at: None,
        fires_from: Timestamp::default(),
        created_at: at(0),
        changed_at: at(0),
    }
}

pub(super) async fn made(scene: &Scene, name: &str) -> Schedule {
    let new = schedule(scene, name);
    scene.ledger.create_schedule(&new).await.unwrap().expect("the name is free")
}

async fn seen(scene: &Scene, schedule: &Schedule) -> ScheduleSeen {
    let found = scene.ledger.schedule_seen(&schedule.namespace, &schedule.name).await.unwrap();
    found.expect("it is there")
}

pub(super) fn fire(due: i64, outcome: FireOutcome) -> Fire {
    Fire {
        due: at(due),
        source: FireSource::Schedule,
        outcome,
        reason: (outcome != FireOutcome::Fired).then_some("overlap"),
        late: Duration::from_millis(1_500),
        has_waited: false,
    }
}

pub(super) fn without_work(fire: Fire) -> NewFire {
    NewFire { fire, detail: None, work: None }
}

fn with_job(fire: Fire, job: NewJob) -> NewFire {
    NewFire { fire, detail: None, work: Some(NewWork::Job(Box::new(job))) }
}

/// Makes a change of what is there now; what it came to.
pub(super) async fn change(
    scene: &Scene,
    schedule: &Schedule,
    make: impl FnOnce(&mut ScheduleChange),
) -> ScheduleChanged {
    let mut change = ScheduleChange::of(&seen(scene, schedule).await.schedule);
    make(&mut change);
    scene.ledger.change_schedule(change).await.unwrap()
}

/// Fires one due time; its job.
async fn fired(scene: &Scene, schedule: &Schedule, due: i64) -> JobId {
    let job = scene.new_job();
    let id = job.id;
    let new = with_job(fire(due, FireOutcome::Fired), job);
    let done = change(scene, schedule, |change| change.fires.push(new)).await;
    let ScheduleChanged::Done { jobs, refused, .. } = done else { panic!("nobody was faster") };
    assert_eq!((jobs.iter().map(|job| job.id).collect::<Vec<_>>(), refused), (vec![id], vec![]));
    id
}

async fn outcomes(scene: &Scene, schedule: &Schedule) -> Vec<(Timestamp, FireOutcome)> {
    let fires = scene.ledger.fires(schedule.id, None, 500).await.unwrap();
    fires.iter().map(|fire| (fire.due, fire.outcome)).collect()
}

async fn a_schedule_is_kept_as_it_is_given(scene: &Scene) {
    let paused = Paused { since: at(1), by: "me".into(), reason: Some("why".into()) };
    let new = Schedule {
        paused: Some(paused),
        failures: 2,
        look_at: Some(Timestamp::from_micros(i64::MAX)),
        ..schedule(scene, "s")
    };
    let before = scene.ledger.now().await.unwrap();
    let kept = scene.ledger.create_schedule(&new).await.unwrap().expect("the name is free");
    assert!(kept.created_at >= before && kept.changed_at == kept.created_at);
    let times =
        |schedule: &Schedule| Schedule { created_at: at(0), changed_at: at(0), ..schedule.clone() };
    assert_eq!(times(&kept), new);
    let found = scene.ledger.schedule(&scene.namespace, &new.name).await.unwrap();
    assert_eq!(found, Some(kept.clone()));
    assert_eq!(seen(scene, &kept).await.schedule, kept);
    let elsewhere = scene.elsewhere().namespace;
    assert_eq!(scene.ledger.schedule(&elsewhere, &new.name).await.unwrap(), None);
}

async fn a_name_is_taken_once(scene: &Scene) {
    let first = made(scene, "s").await;
    let second = schedule(scene, "s");
    assert_eq!(scene.ledger.create_schedule(&second).await.unwrap(), None);
    // The same call again, after an unknown outcome.
    let again = Schedule { cursor: at(5), ..first.clone() };
    assert_eq!(scene.ledger.create_schedule(&again).await.unwrap(), Some(first));
}

async fn schedules_are_listed_by_name(scene: &Scene) {
    for name in ["b", "a.1", "_z", "a", "a-b"] {
        made(scene, name).await;
    }
    let list = async |after: Option<&str>, limit| {
        let after = after.map(|name| name.parse().unwrap());
        let page = scene.ledger.schedules(&scene.namespace, after.as_ref(), limit).await.unwrap();
        let names: Vec<_> = page.items.iter().map(|schedule| schedule.name.to_string()).collect();
        (names.join(" "), page.next.map(|next| next.to_string()))
    };
    assert_eq!(list(None, 500).await, ("_z a a-b a.1 b".into(), None));
    assert_eq!(list(Some("a"), 2).await, ("a-b a.1".into(), Some("a.1".into())));
    // One that this build cannot read is passed over, does not end the list, and can be deleted.
    let spoil = format!(
        "UPDATE schedules SET spec = '{{}}' WHERE namespace = '{}' AND name = 'a.1'",
        scene.namespace
    );
    scene.ledger.tamper(spoil).await.unwrap();
    assert_eq!(list(Some("a"), 2).await, ("a-b".into(), Some("a.1".into())));
    let name = "a.1".parse().unwrap();
    assert!(scene.ledger.delete_schedule(&scene.namespace, &name).await.unwrap().is_some());
    assert_eq!(list(None, 500).await, ("_z a a-b b".into(), None));
}

async fn of_two_changes_of_one_sight_the_second_is_refused(scene: &Scene) {
    let schedule = made(scene, "s").await;
    let make = |due| {
        let job = scene.new_job();
        let id = job.id;
        let mut change = ScheduleChange::of(&schedule);
        change.cursor = at(due);
        change.fires.push(with_job(fire(due, FireOutcome::Fired), job));
        (change, id)
    };
    let ((first, first_job), (second, second_job)) = (make(60), make(120));
    assert!(matches!(
        scene.ledger.change_schedule(first.clone()).await.unwrap(),
        ScheduleChanged::Done { .. }
    ));
    for late in [first, second] {
        assert_eq!(scene.ledger.change_schedule(late).await.unwrap(), ScheduleChanged::Moved);
    }
    let now = seen(scene, &schedule).await.schedule;
    assert_eq!((now.version, now.cursor), (schedule.version + 1, at(60)));
    assert_eq!(now.changed_at, schedule.changed_at, "no caller has changed it");
    let there = async |id| scene.ledger.job(&scene.namespace, id).await.unwrap().is_some();
    assert_eq!((there(first_job).await, there(second_job).await), (true, false));
    assert_eq!(outcomes(scene, &schedule).await, [(at(60), FireOutcome::Fired)]);
}

async fn a_fire_and_its_job_come_together(scene: &Scene) {
    let schedule = made(scene, "s").await;
    let id = fired(scene, &schedule, 60).await;
    assert_eq!(
        scene.ledger.job(&scene.namespace, id).await.unwrap().unwrap().state,
        JobState::Ready
    );
    let row = scene.ledger.fires(schedule.id, None, 500).await.unwrap().remove(0);
    assert_eq!(
        (row.due, row.source, row.outcome),
        (at(60), FireSource::Schedule, FireOutcome::Fired)
    );
    assert_eq!((row.work, row.result), (Some(Submitted::Job(id)), None));
    assert_eq!((row.reason, row.detail, row.late), (None, None, Duration::from_millis(1_500)));
    assert!(row.decided_at >= schedule.created_at);
}

async fn a_fire_and_its_run_come_together(scene: &Scene) {
    let schedule = made(scene, "s").await;
    let run = scene.new_run(vec![plain("a", &[]), plain("b", &[0]), signal("c", &[])]);
    let id = run.id;
    let work = Some(NewWork::Run(Box::new(run)));
    let new = NewFire { fire: fire(60, FireOutcome::Fired), detail: None, work };
    let done = change(scene, &schedule, |change| change.fires.push(new)).await;
    let ScheduleChanged::Done { jobs, refused, .. } = done else { panic!("nobody was faster") };
    assert_eq!((jobs.len(), refused), (1, vec![]), "the first step may run");
    assert!(scene.ledger.run(&scene.namespace, id).await.unwrap().is_some());
    let row = scene.ledger.fires(schedule.id, None, 500).await.unwrap().remove(0);
    assert_eq!(row.work, Some(Submitted::Workflow(id)));
}

async fn a_due_time_is_fired_once(scene: &Scene) {
    let schedule = made(scene, "s").await;
    fired(scene, &schedule, 60).await;
    let job = scene.new_job();
    let id = job.id;
    let again = with_job(fire(60, FireOutcome::Fired), job);
    let other = scene.new_job();
    let other_id = other.id;
    let other = with_job(fire(120, FireOutcome::Fired), other);
    let done = change(scene, &schedule, |change| change.fires.extend([again, other])).await;
    let ScheduleChanged::Done { jobs, refused, .. } = done else { panic!("nobody was faster") };
    assert_eq!(jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [other_id]);
    assert_eq!(refused.iter().map(|(due, _)| *due).collect::<Vec<_>>(), [at(60)]);
    assert_eq!(scene.ledger.job(&scene.namespace, id).await.unwrap(), None);
}

async fn what_the_ledger_does_not_take_is_skipped_alone(scene: &Scene) {
    let schedule = made(scene, "s").await;
    let bad = NewJob { tags: vec!["a\0b".into()], ..scene.new_job() };
    let good = scene.new_job();
    let (bad_id, good_id) = (bad.id, good.id);
    let fires = [
        with_job(fire(60, FireOutcome::Fired), bad),
        with_job(fire(120, FireOutcome::Fired), good),
    ];
    let done = change(scene, &schedule, |change| change.fires.extend(fires)).await;
    let ScheduleChanged::Done { jobs, refused, .. } = done else { panic!("nobody was faster") };
    assert_eq!(jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [good_id]);
    assert_eq!(refused[0].0, at(60));
    assert!(refused[0].1.contains("NUL"), "{refused:?}");
    assert_eq!(scene.ledger.job(&scene.namespace, bad_id).await.unwrap(), None);
    let rows = scene.ledger.fires(schedule.id, None, 500).await.unwrap();
    assert_eq!(
        (rows[1].outcome, rows[1].reason.as_deref()),
        (FireOutcome::Skipped, Some("refused"))
    );
    assert_eq!((rows[1].detail.as_deref(), rows[1].work), (Some(refused[0].1.as_str()), None));
}

async fn a_fire_that_waits_is_fired_later(scene: &Scene) {
    let schedule = made(scene, "s").await;
    let waits = without_work(fire(60, FireOutcome::Waiting));
    change(scene, &schedule, |change| change.fires.push(waits)).await;
    let waiting = seen(scene, &schedule).await.waiting;
    assert_eq!(
        waiting.iter().map(|w| (w.due, w.source)).collect::<Vec<_>>(),
        [(at(60), FireSource::Schedule)]
    );
    let job = scene.new_job();
    let id = job.id;
    let turn = Fire { has_waited: true, ..fire(60, FireOutcome::Fired) };
    let never = Fire { has_waited: true, ..fire(120, FireOutcome::Fired) };
    let fires = [with_job(turn, job), with_job(never, scene.new_job())];
    let done = change(scene, &schedule, |change| change.fires.extend(fires)).await;
    let ScheduleChanged::Done { jobs, refused, .. } = done else { panic!("nobody was faster") };
    assert_eq!(jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [id]);
    assert_eq!(refused.len(), 1, "what does not wait is not fired as if it did");
    let seen = seen(scene, &schedule).await;
    assert_eq!((seen.waiting.len(), seen.open.len()), (0, 1));
}

async fn ends_of_fires_are_seen_and_noted(scene: &Scene) {
    let schedule = made(scene, "s").await;
    let mut ids = Vec::new();
    for n in 1..=4 {
        ids.push(fired(scene, &schedule, n * 60).await);
    }
    scene.end(ids[0], 1, Ended::Succeeded).await;
    scene.end(ids[1], 1, Ended::Dead).await;
    scene.end(ids[2], 1, Ended::Cancelled).await;
    scene.ledger.delete(&scene.namespace, ids[2]).await.unwrap();
    let open = seen(scene, &schedule).await.open;
    let results: Vec<_> = open.iter().map(|open| open.result).collect();
    let (succeeded, failed) = (FireResult::Succeeded, FireResult::Failed);
    assert_eq!(results, [Some(succeeded), Some(failed), Some(FireResult::Forgotten), None]);
    let ends = [(at(60), succeeded), (at(120), failed), (at(999), failed)];
    change(scene, &schedule, |change| change.ends.extend(ends)).await;
    let open = seen(scene, &schedule).await.open;
    assert_eq!(open.iter().map(|open| open.due).collect::<Vec<_>>(), [at(180), at(240)]);
    let rows = scene.ledger.fires(schedule.id, None, 500).await.unwrap();
    let results: Vec<_> = rows.iter().rev().map(|row| row.result).collect();
    assert_eq!(results, [Some(succeeded), Some(failed), None, None]);
}

async fn a_walk_finds_schedules_whose_work_has_ended(scene: &Scene) {
    let (busy, done) = (made(scene, "busy").await, made(scene, "done").await);
    for n in 1..=3 {
        fired(scene, &busy, n * 60).await;
        let id = fired(scene, &done, n * 60).await;
        if n == 2 {
            scene.end(id, 1, Ended::Succeeded).await;
        }
    }
    // Two at a time; other cases have open fires too.
    let (mut after, mut steps) = (None, 0);
    loop {
        after = scene.ledger.note_ended_fires(None, after, 2).await.unwrap();
        steps += 1;
        if after.is_none() {
            break;
        }
        assert!(steps < 1_000, "the walk does not end");
    }
    assert!(steps >= 3);
    let now = scene.ledger.now().await.unwrap();
    assert_eq!(seen(scene, &busy).await.schedule.look_at, None);
    assert!(seen(scene, &done).await.schedule.look_at.is_some_and(|at| at <= now));
    let version = seen(scene, &done).await.schedule.version;
    assert_eq!(version, done.version + 3, "a decision under way is not refused for it");
}

async fn schedules_come_up_when_they_are_due(scene: &Scene) {
    let now = scene.ledger.now().await.unwrap();
    let hour = Duration::from_secs(3_600);
    for (name, look_at) in [
        ("never", None),
        ("later", Some(now.plus(hour))),
        ("first", Some(Timestamp::from_micros(1))),
        ("second", Some(Timestamp::from_micros(2))),
    ] {
        let new = Schedule { look_at, ..schedule(scene, name) };
        scene.ledger.create_schedule(&new).await.unwrap();
    }
    let found = scene.ledger.schedules_due(500).await.unwrap();
    assert!(found.now >= now);
    assert!(found.next.is_some_and(|next| next <= now.plus(hour)));
    let own = found.due.iter().filter(|(namespace, ..)| *namespace == scene.namespace);
    assert_eq!(own.map(|(_, name, _)| name.as_str()).collect::<Vec<_>>(), ["first", "second"]);
    let one = scene.ledger.schedules_due(1).await.unwrap();
    assert_eq!((one.due.len(), one.due[0].1.as_str()), (1, "first"));
    assert_eq!(one.next, Some(one.now), "there may be more");
    // Out of the way of the other cases.
    for name in ["first", "second", "later"] {
        let name = name.parse().unwrap();
        assert!(scene.ledger.delete_schedule(&scene.namespace, &name).await.unwrap().is_some());
    }
}

async fn a_backfill_takes_what_was_not_fired(scene: &Scene) {
    let schedule = made(scene, "s").await;
    fired(scene, &schedule, 60).await;
    let skipped = [fire(120, FireOutcome::Skipped), fire(180, FireOutcome::Missed)];
    change(scene, &schedule, |change| change.fires.extend(skipped.map(without_work))).await;
    let wanted = [60, 120, 180, 240].map(at);
    let done = change(scene, &schedule, |change| change.backfill.extend(wanted)).await;
    assert!(matches!(done, ScheduleChanged::Done { backfilled: 3, .. }), "{done:?}");
    let waiting = seen(scene, &schedule).await.waiting;
    let expected = [120, 180, 240].map(|due| (at(due), FireSource::Backfill));
    assert_eq!(waiting.iter().map(|w| (w.due, w.source)).collect::<Vec<_>>(), expected);
    let again = change(scene, &schedule, |change| change.backfill.extend(wanted)).await;
    assert!(matches!(again, ScheduleChanged::Done { backfilled: 0, .. }), "{again:?}");
    let taken = scene.ledger.fired_between(schedule.id, at(60), at(180), 10).await.unwrap();
    assert_eq!(taken, [60, 120, 180].map(at));
}

async fn deleted_schedules_leave_nothing(scene: &Scene) {
    let schedule = made(scene, "s").await;
    for n in 1..=3 {
        fired(scene, &schedule, n * 60).await;
    }
    let late = ScheduleChange::of(&seen(scene, &schedule).await.schedule);
    let delete = || scene.ledger.delete_schedule(&schedule.namespace, &schedule.name);
    assert_eq!(delete().await.unwrap(), Some(schedule.id));
    assert_eq!(delete().await.unwrap(), None);
    assert_eq!(scene.ledger.change_schedule(late).await.unwrap(), ScheduleChanged::Moved);
    assert_eq!(scene.ledger.delete_fires(schedule.id, 2).await.unwrap(), 2);
    assert_eq!(scene.ledger.delete_fires(schedule.id, 2).await.unwrap(), 1);
    let anew = made(scene, "s").await;
    assert_eq!(outcomes(scene, &anew).await, []);
}

async fn old_fires_are_pruned(scene: &Scene) {
    let schedule = made(scene, "s").await;
    let ended = fired(scene, &schedule, 60).await;
    fired(scene, &schedule, 120).await;
    scene.end(ended, 1, Ended::Succeeded).await;
    let fires = [fire(180, FireOutcome::Skipped), fire(240, FireOutcome::Waiting)];
    change(scene, &schedule, |change| {
        change.fires.extend(fires.map(without_work));
        change.ends.push((at(60), FireResult::Succeeded));
    })
    .await;
    let pruned = async |before| {
        for _ in 0..1_000 {
            if scene.ledger.prune_fires(None, before, 100).await.unwrap() == 0 {
                return;
            }
        }
        panic!("pruning does not end");
    };
    pruned(schedule.created_at).await;
    assert_eq!(outcomes(scene, &schedule).await.len(), 4);
    // Rows of other cases go too: they are over.
    pruned(scene.ledger.now().await.unwrap().plus(Duration::from_secs(1))).await;
    let left = [(at(240), FireOutcome::Waiting), (at(120), FireOutcome::Fired)];
    assert_eq!(outcomes(scene, &schedule).await, left, "what waits or runs is kept");
    let now = seen(scene, &schedule).await.schedule;
    assert_eq!(now.fires_from, Timestamp::from_micros(at(180).micros() + 1));
    let stale = ScheduleChange { seen: now.version - 1, ..ScheduleChange::of(&now) };
    let late = scene.ledger.change_schedule(stale).await.unwrap();
    assert_eq!(late, ScheduleChanged::Moved, "a decision that saw them is made anew");
    scene.ledger.delete_schedule(&schedule.namespace, &schedule.name).await.unwrap();
    pruned(scene.ledger.now().await.unwrap().plus(Duration::from_secs(1))).await;
    assert_eq!(outcomes(scene, &schedule).await, [], "unless its schedule is gone");
}
