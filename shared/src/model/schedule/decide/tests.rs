use super::*;
use crate::model::id::ScheduleId;
use crate::model::schedule::times::{Timing, Zone};
use crate::model::schedule::{CatchUp, ScheduledWork};
use crate::model::time::Span;
use crate::model::workflow::{ChildOf, ChildSpec};
use uuid::Uuid;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

/// Due every 10 s.
fn spec() -> ScheduleSpec {
    ScheduleSpec {
        timing: Timing::Every { every: Span(Duration::from_secs(10)), anchor: at(0) },
        zone: Zone::default(),
        overlap: Overlap::Allow,
        catch_up: CatchUp::default(),
        jitter: None,
        start_at: None,
        end_at: None,
        exclude: Vec::new(),
        pause_on_failure: None,
        work: ScheduledWork::Workflow(ChildSpec {
            of: ChildOf::Definition { name: "d".into(), version: None },
            input: serde_json::Value::Null,
        }),
        description: String::new(),
    }
}

fn sight(spec: &ScheduleSpec, cursor: i64, now: i64) -> Sight<'_> {
    Sight {
        id: ScheduleId::from_uuid(Uuid::nil()),
        spec,
        is_paused: false,
        failures: 0,
        cursor: at(cursor),
        open: &[],
        waiting: &[],
        now: at(now),
        without_jitter: false,
    }
}

fn open(due: i64, result: Option<FireResult>) -> Open {
    let work = Submitted::Job(JobId::from_uuid(Uuid::from_u128(due as u128)));
    Open { due: at(due), source: FireSource::Schedule, work, result }
}

/// (seconds, outcome, reason) of each fire.
fn told(decision: &Decision) -> Vec<(i64, FireOutcome, Option<&'static str>)> {
    let fires = decision.fires.iter();
    fires.map(|f| (f.due.millis() / 1000, f.outcome, f.reason)).collect()
}

use FireOutcome::{Fired, Missed, Skipped, Waiting as Waits};

#[test]
fn a_due_time_is_fired_and_the_next_is_looked_for() {
    let spec = spec();
    let decision = decide(&sight(&spec, 10, 21));
    assert_eq!(told(&decision), [(20, Fired, None)]);
    assert_eq!(decision.fires[0].late, Duration::from_secs(1));
    assert_eq!((decision.cursor, decision.look_at), (at(20), Some(at(30))));
    let early = decide(&sight(&spec, 20, 29));
    assert_eq!((told(&early), early.look_at), (vec![], Some(at(30))));
}

#[test]
fn what_was_missed_follows_the_policy() {
    let mut spec = spec();
    // 100 s behind: 60 s of them are grace.
    let run = |spec: &ScheduleSpec| told(&decide(&sight(spec, 0, 100)));
    let within = (4..=10).map(|n| (n * 10, Fired, None));
    let missed = |n: i64| (n * 10, Missed, Some(reason::CATCH_UP));
    let expected: Vec<_> = (1..=3).map(missed).chain(within.clone()).collect();
    assert_eq!(run(&spec), expected, "one: the latest is among those in time");
    spec.catch_up.policy = CatchUpPolicy::None;
    assert_eq!(run(&spec), expected);
    spec.catch_up = CatchUp { policy: CatchUpPolicy::All, max: 8, ..spec.catch_up };
    let made_good = (30, Fired, Some(reason::CAUGHT_UP));
    let expected: Vec<_> =
        (1..=2).map(missed).chain(std::iter::once(made_good)).chain(within).collect();
    assert_eq!(run(&spec), expected);
    // Without grace one is the very last, and none is none.
    spec.catch_up.grace = Span(Duration::from_millis(500));
    spec.catch_up.policy = CatchUpPolicy::One;
    let mut expected: Vec<_> = (1..=9).map(missed).collect();
    expected.push((100, Fired, None));
    assert_eq!(run(&spec), expected);
    let late = told(&decide(&sight(&spec, 0, 105)));
    assert_eq!(late.last(), Some(&(100, Fired, Some(reason::CAUGHT_UP))));
}

#[test]
fn dates_that_are_left_out_do_not_count_as_the_latest() {
    let mut spec = spec();
    spec.timing = Timing::Cron {
        pattern: "0 * * * *".parse().unwrap(),
        gap: crate::model::schedule::times::Gap::Shift,
        repeat: None,
    };
    spec.exclude = vec!["1970-01-02".parse().unwrap()];
    let day = 24 * 3600;
    // From 22:00 of the first day to 01:00 of the third.
    let decision = decide(&sight(&spec, day - 2 * 3600, 2 * day - 60));
    let fired: Vec<_> = told(&decision).into_iter().filter(|f| f.1 != Skipped).collect();
    assert_eq!(fired, [(day - 3600, Fired, Some(reason::CAUGHT_UP))]);
    let decision = decide(&sight(&spec, day - 2 * 3600, 2 * day + 60));
    let fired: Vec<_> = told(&decision).into_iter().filter(|f| f.1 != Skipped).collect();
    assert_eq!(fired, [(day - 3600, Missed, Some(reason::CATCH_UP)), (2 * day, Fired, None)]);
}

#[test]
fn overlap_is_as_it_says() {
    let mut spec = spec();
    let running = [open(10, None)];
    let run = |spec: &ScheduleSpec, open: &[Open], waiting: &[Waiting], now| {
        decide(&Sight { open, waiting, ..sight(spec, 10, now) })
    };
    assert_eq!(told(&run(&spec, &running, &[], 20)), [(20, Fired, None)]);

    spec.overlap = Overlap::Skip;
    assert_eq!(told(&run(&spec, &running, &[], 20)), [(20, Skipped, Some(reason::OVERLAP))]);
    // Its end is seen in the same look.
    let ended = [open(10, Some(FireResult::Succeeded))];
    let both = run(&spec, &ended, &[], 30);
    assert_eq!(both.ends, [(at(10), FireResult::Succeeded)]);
    assert_eq!(told(&both), [(20, Fired, None), (30, Skipped, Some(reason::OVERLAP))]);

    spec.overlap = Overlap::Queue;
    let queued = run(&spec, &running, &[], 20);
    assert_eq!(told(&queued), [(20, Waits, Some(reason::OVERLAP))]);
    let waiting = [Waiting { due: at(5), source: FireSource::Schedule }];
    let next = run(&spec, &ended, &waiting, 19);
    assert_eq!(told(&next), [(5, Fired, None)]);
    assert!(next.fires[0].has_waited);
    let many: Vec<_> =
        (0..100).map(|n| Waiting { due: at(-n), source: FireSource::Schedule }).collect();
    assert_eq!(told(&run(&spec, &running, &many, 20)), [(20, Skipped, Some(reason::QUEUE_FULL))]);
}

#[test]
fn the_later_replaces_the_earlier() {
    let mut spec = spec();
    spec.overlap = Overlap::Replace;
    let running = [open(10, None)];
    let decision = decide(&Sight { open: &running, ..sight(&spec, 10, 30) });
    let replaced = Some(reason::REPLACED);
    assert_eq!(told(&decision), [(20, Skipped, replaced), (30, Waits, Some(reason::OVERLAP))]);
    assert_eq!(decision.cancel, [running[0].work]);
    assert_eq!(decision.look_at, Some(at(35)), "it is asked for again");
    // Of two that are due at once the later is fired.
    let decision = decide(&sight(&spec, 10, 30));
    assert_eq!(told(&decision), [(20, Skipped, replaced), (30, Fired, None)]);
    // One that waits in the ledger gives way too.
    let waiting = [Waiting { due: at(20), source: FireSource::Schedule }];
    let decision = decide(&Sight { open: &running, waiting: &waiting, ..sight(&spec, 20, 30) });
    assert_eq!(told(&decision), [(20, Skipped, replaced), (30, Waits, Some(reason::OVERLAP))]);
    assert!(decision.fires[0].has_waited);
}

/// Goal: only the schedule's own later fire takes the place of its own earlier work.
#[test]
fn a_replacement_leaves_triggers_and_backfills_alone() {
    let mut spec = spec();
    spec.overlap = Overlap::Replace;
    let of = |source, due| Open { source, ..open(due, None) };
    let waits = |source, due| Waiting { due: at(due), source };
    let (own, trigger, backfill) =
        (FireSource::Schedule, FireSource::Trigger, FireSource::Backfill);
    let decide = |open: &[Open], waiting: &[Waiting], is_paused, now| {
        decide(&Sight { open, waiting, is_paused, ..sight(&spec, 20, now) })
    };
    // A backfill waits for what runs.
    let filled = decide(&[of(own, 20)], &[waits(backfill, 5)], false, 25);
    assert_eq!((told(&filled), filled.cancel), (vec![], vec![]));
    // The schedule's own fire waits for a trigger and for a backfill's work, and goes before the rest of the backfill.
    for source in [trigger, backfill] {
        let held = decide(&[of(source, 22)], &[waits(backfill, 5)], false, 30);
        assert_eq!(told(&held), [(30, Waits, Some(reason::OVERLAP))]);
        assert_eq!(held.cancel, []);
    }
    let both = [waits(own, 20), waits(backfill, 5)];
    assert_eq!(told(&decide(&[], &both, false, 25)), [(20, Fired, None)]);
    // A released backfill is not undone by a due time of the same sight.
    let same = decide(&[], &[waits(backfill, 5)], false, 30);
    assert_eq!(told(&same), [(5, Fired, None), (30, Waits, Some(reason::OVERLAP))]);
    // A later trigger goes on; while it is paused nothing is cancelled, since nothing will start.
    let later = [of(own, 10), of(trigger, 24)];
    let waiting = [waits(own, 20)];
    assert_eq!(decide(&later, &waiting, false, 25).cancel, [later[0].work]);
    assert_eq!(decide(&later, &waiting, true, 25).cancel, []);
}

/// Goal: a backfill holds back no due time but while its own work runs.
#[test]
fn due_times_go_before_a_backfill() {
    let mut spec = spec();
    let backfill: Vec<_> =
        (0..200).map(|n| Waiting { due: at(-n), source: FireSource::Backfill }).collect();
    let running = [Open { source: FireSource::Backfill, ..open(-300, None) }];
    spec.overlap = Overlap::Queue;
    let queued = decide(&Sight { open: &running, waiting: &backfill, ..sight(&spec, 10, 20) });
    assert_eq!(told(&queued), [(20, Waits, Some(reason::OVERLAP))], "there is room for its own");
    spec.overlap = Overlap::Skip;
    let skipped = decide(&Sight { open: &running, waiting: &backfill, ..sight(&spec, 10, 20) });
    assert_eq!(told(&skipped), [(20, Skipped, Some(reason::OVERLAP))]);
}

#[test]
fn failures_in_a_row_pause_it() {
    let mut spec = spec();
    spec.pause_on_failure = Some(2);
    let ends = |results: &[FireResult]| {
        let open: Vec<_> = results.iter().map(|r| open(10, Some(*r))).collect();
        let decision = decide(&Sight { open: &open, failures: 1, ..sight(&spec, 10, 20) });
        (decision.pause, decision.failures, told(&decision)[0].1)
    };
    assert_eq!(ends(&[FireResult::Failed]), (true, 2, Skipped));
    assert_eq!(ends(&[FireResult::Succeeded, FireResult::Failed]), (false, 1, Fired));
    assert_eq!(ends(&[FireResult::Cancelled]), (false, 1, Fired));
}

#[test]
fn a_pause_leaves_a_row_for_each() {
    let spec = spec();
    let waiting = [Waiting { due: at(5), source: FireSource::Backfill }];
    let decision = decide(&Sight { is_paused: true, waiting: &waiting, ..sight(&spec, 0, 20) });
    let paused = Some(reason::PAUSED);
    assert_eq!(told(&decision), [(10, Skipped, paused), (20, Skipped, paused)]);
}

#[test]
fn jitter_is_steady_bounded_and_counts_as_planned() {
    let mut spec = spec();
    spec.jitter = Some(Span(Duration::from_secs(5)));
    let id = ScheduleId::from_uuid(Uuid::nil());
    let drawn: Vec<_> = (1..200).map(|n| jitter(&spec, id, at(n * 10))).collect();
    assert!(drawn.iter().all(|j| *j <= Duration::from_secs(5)));
    assert!(drawn.iter().any(|j| *j > Duration::from_secs(4)));
    assert!(drawn.iter().any(|j| *j < Duration::from_secs(1)));
    let planned = at(10).plus(drawn[0]);
    let before = Sight { now: planned.minus(Duration::from_millis(1)), ..sight(&spec, 0, 0) };
    assert_eq!((told(&decide(&before)), decide(&before).look_at), (vec![], Some(planned)));
    let then = decide(&Sight { now: planned, ..sight(&spec, 0, 0) });
    assert_eq!(told(&then), [(10, Fired, None)]);
    assert_eq!(then.fires[0].late, Duration::ZERO);
    // Before the rules change nothing that is due is left.
    let last = decide(&Sight { without_jitter: true, ..sight(&spec, 0, 10) });
    assert_eq!(told(&last), [(10, Fired, None)]);
}

/// Goal: a jitter that is longer than the interval does not make fires late for each other.
#[test]
fn jitter_keeps_the_order() {
    let mut spec = spec();
    spec.jitter = Some(Span(Duration::from_secs(3_600)));
    spec.catch_up.grace = Span(Duration::ZERO);
    let id = ScheduleId::from_uuid(Uuid::nil());
    let planned: Vec<_> =
        (1..500).map(|n| at(n * 10).plus(jitter(&spec, id, at(n * 10)))).collect();
    assert!(planned.is_sorted());
    let (mut cursor, mut outcomes) = (at(0), Vec::new());
    for planned in planned {
        let decision = decide(&Sight { cursor, now: planned, ..sight(&spec, 0, 0) });
        cursor = decision.cursor;
        outcomes.extend(decision.fires.iter().map(|fire| (fire.outcome, fire.late)));
    }
    assert_eq!(outcomes.len(), 499);
    assert!(outcomes.iter().all(|told| *told == (Fired, Duration::ZERO)), "{outcomes:?}");
}

/// Goal: however far behind, each due time is decided once, in order, and the work is cut into bounded decisions.
#[test]
fn far_behind_everything_is_decided_once() {
    let mut spec = spec();
    spec.catch_up = CatchUp { policy: CatchUpPolicy::All, max: 50, ..spec.catch_up };
    let now = 10_000;
    let (mut cursor, mut dues, mut fired) = (at(0), Vec::new(), 0);
    for _ in 0..1_000 {
        let decision = decide(&Sight { cursor, ..sight(&spec, 0, now) });
        let work = decision.fires.iter().filter(|f| f.outcome == Fired).count();
        assert!(decision.fires.len() <= ROWS_MAX && work <= FIRES_MAX);
        fired += work;
        dues.extend(decision.fires.iter().map(|f| f.due));
        cursor = decision.cursor;
        if decision.look_at > Some(at(now)) {
            break;
        }
    }
    assert_eq!(dues, (1..=1_000).map(|n| at(n * 10)).collect::<Vec<_>>());
    assert_eq!(fired, 50);
}

#[test]
fn start_and_end_bound_it() {
    let mut spec = spec();
    spec.start_at = Some(at(20));
    spec.end_at = Some(at(30));
    let decision = decide(&sight(&spec, 0, 60));
    assert_eq!(told(&decision), [(20, Fired, None), (30, Fired, None)]);
    assert_eq!(decision.look_at, None);
    assert_eq!(decide(&sight(&spec, 0, 5)).look_at, Some(at(20)));
}
