//! Each promise is broken once: a checker that finds nothing proves nothing.

use super::{Cause, Evidence, Kind, check};
use crate::dump::{AttemptRow, Depth, JobRow, RunRow};
use crate::effects::{Effect, End, Phase as EffectPhase};
use crate::history::{Call, Event, Fault, Phase, Reply};
use crate::load::plan::{EXPIRING, needs};
use crate::stamp::Stamp;

mod clocks;

/// Microseconds from the start of the story, on both clocks.
const fn at(us: u64) -> Stamp {
    Stamp { boot_us: us, wall_us: us.cast_signed() }
}

/// A small fleet's evidence, without a fault.
#[derive(Default)]
struct Story {
    evidence: Evidence,
    op: u64,
}

impl Story {
    /// A job `id` of key `key-ID`, accepted at 1 s and executed once, from `start` to `end` µs.
    fn with_job(id: &str, start: u64, end: u64) -> Self {
        let mut story = Self::default();
        story.submit(id, 0, 0);
        story.accept(id, "ready");
        story.execute(id, "w1", start, Some((end, End::Ok)));
        story.record(id, "succeeded", &[(start, "succeeded")]);
        story
    }

    fn call(id: &str, fails: u32, steps: u32) -> Call {
        Call::Submit {
            key: format!("key-{id}"),
            body: "b".into(),
            queue: "q".into(),
            kind: "rig.effect".into(),
            fails,
            ends: "succeeded".into(),
            delay_ms: 0,
            steps,
        }
    }

    fn event(&mut self, op: u64, phase: Phase, at: Stamp, call: Call, reply: Option<Reply>) {
        self.evidence.history.push(Event { op, phase, at, call, reply });
    }

    fn submit(&mut self, id: &str, fails: u32, steps: u32) {
        self.op += 1;
        self.event(self.op, Phase::Invoke, at(1_000_000), Self::call(id, fails, steps), None);
    }

    fn answer(&mut self, call: Call, phase: Phase, reply: Reply) {
        self.event(self.op, phase, at(1_001_000), call, Some(reply));
    }

    fn accept(&mut self, id: &str, state: &str) {
        let (fails, steps) = match &self.evidence.history.last().expect("submitted").call {
            Call::Submit { fails, steps, .. } => (*fails, *steps),
            other => panic!("{other:?}"),
        };
        let reply = Reply {
            status: 201,
            id: Some(id.into()),
            state: Some(state.into()),
            run_at_us: Some(1_000_000),
            ..Reply::default()
        };
        self.answer(Self::call(id, fails, steps), Phase::Ok, reply);
    }

    fn execute(&mut self, id: &str, worker: &str, start: u64, end: Option<(u64, End)>) {
        let mut effect = Effect {
            phase: EffectPhase::Start,
            job: id.into(),
            fence: start,
            worker: worker.into(),
            attempt: 1,
            kind: "rig.effect".into(),
            queue: "q".into(),
            step: None,
            started: at(start),
            at: at(start),
            end: None,
        };
        self.evidence.effects.push(effect.clone());
        if let Some((ended, how)) = end {
            effect.phase = EffectPhase::End;
            effect.at = at(ended);
            effect.end = Some(how);
            self.evidence.effects.push(effect);
        }
    }

    fn record(&mut self, id: &str, state: &str, attempts: &[(u64, &str)]) {
        let charged = attempts.iter().filter(|(_, how)| matches!(*how, "succeeded" | "failed"));
        let finished = attempts.last().map(|(fence, _)| (fence + 50_000).cast_signed());
        let mut number = 1;
        let mut row = |fence: u64, how: &str| {
            let row = AttemptRow {
                fence,
                number,
                worker: Some("w".into()),
                started_at_us: Some(fence.cast_signed()),
                finished_at_us: Some((fence + 50_000).cast_signed()),
                outcome: Some(how.into()),
            };
            number += u32::from(how == "failed");
            row
        };
        let job = JobRow {
            state: state.into(),
            queue: "q".into(),
            kind: "rig.effect".into(),
            attempt: u32::try_from(charged.count()).expect("few"),
            run_at_us: 1_000_000,
            finished_at_us: finished,
            tags: vec![format!("key-{id}")],
            attempts: attempts.iter().map(|(fence, how)| row(*fence, how)).collect(),
            ..JobRow::default()
        };
        self.evidence.ledger.jobs.insert(id.into(), job);
    }

    fn job(&mut self, id: &str) -> &mut JobRow {
        self.evidence.ledger.jobs.get_mut(id).expect("recorded")
    }

    fn fault(&mut self, us: u64, fault: Fault) {
        self.op += 1;
        self.event(self.op, Phase::Note, at(us), Call::Fault(fault), None);
    }

    /// A question at `us` and its answer a millisecond later.
    fn poll(&mut self, id: &str, us: u64, status: u16, state: Option<&str>) {
        self.op += 1;
        let call = Call::Poll { id: id.into() };
        self.event(self.op, Phase::Invoke, at(us), call.clone(), None);
        let reply = Reply { status, state: state.map(str::to_owned), ..Reply::default() };
        let phase = if status == 200 { Phase::Ok } else { Phase::Fail };
        self.event(self.op, phase, at(us + 1_000), call, Some(reply));
    }

    #[track_caller]
    fn holds(&self) {
        let verdict = check(&self.evidence);
        assert!(verdict.violations.is_empty(), "{:#?}", verdict.violations);
    }

    /// This promise is broken; others may be, too.
    #[track_caller]
    fn breaks(&self, kind: Kind) {
        let verdict = check(&self.evidence);
        let found = verdict.violations.iter().any(|violation| violation.kind == kind);
        assert!(found, "no {kind:?} in {:#?}", verdict.violations);
    }

    /// A run of a diamond whose steps are executed one after the other.
    fn with_run() -> Self {
        let mut story = Self::default();
        story.submit("run", 0, 6);
        story.accept("run", "running");
        let tags = vec!["key-run".to_owned()];
        story.evidence.ledger.runs.insert("run".into(), RunRow { state: "succeeded".into(), tags });
        let steps = ["first", "left", "inner-left", "inner-right", "right", "last"];
        for (place, step) in (0..).zip(steps) {
            let (id, start) = (format!("job-{step}"), 2_000_000 + place * 100_000);
            story.execute(&id, "w1", start, Some((start + 50_000, End::Ok)));
            story.record(&id, "succeeded", &[(start, "succeeded")]);
            story.job(&id).step = Some(("run".into(), step.into()));
        }
        story
    }
}

fn killed(process: &str) -> Fault {
    Fault::Killed { process: process.into() }
}

#[test]
fn evidence_without_a_fault_passes() {
    Story::with_job("a", 2_000_000, 2_050_000).holds();
    Story::with_run().holds();
    assert_eq!(needs("last").len(), 4);
}

#[test]
fn an_accepted_job_that_is_gone_or_has_not_ended_is_lost() {
    let mut story = Story::with_job("a", 2_000_000, 2_050_000);
    story.job("a").state = "ready".into();
    story.breaks(Kind::Lost);
    story.evidence.ledger.jobs.clear();
    story.breaks(Kind::Lost);
    let mut story = Story::with_run();
    story.evidence.ledger.runs.get_mut("run").expect("there").state = "running".into();
    story.breaks(Kind::Lost);
}

#[test]
fn an_end_that_was_not_planned_is_found() {
    let mut story = Story::with_job("a", 2_000_000, 2_050_000);
    story.job("a").state = "dead".into();
    story.breaks(Kind::WrongEnd);
    // Quarantined after too few lost workers.
    story.job("a").state = "quarantined".into();
    story.breaks(Kind::WrongEnd);
}

#[test]
fn of_several_ends_that_are_planned_any_will_do_and_no_other() {
    let ended = |state: &str| {
        let mut story = Story::with_job("a", 2_000_000, 2_050_000);
        for event in &mut story.evidence.history {
            if let Call::Submit { ends, .. } = &mut event.call {
                *ends = EXPIRING.into();
            }
        }
        story.job("a").state = state.into();
        if state == "expired" {
            story.job("a").attempts.clear();
            story.evidence.effects.clear();
        }
        story
    };
    ended("succeeded").holds();
    ended("expired").holds();
    ended("dead").breaks(Kind::WrongEnd);
}

#[test]
fn a_job_that_loses_three_workers_may_be_quarantined_and_one_that_loses_two_may_not() {
    let story = |workers: &[&str]| {
        let mut story = Story::default();
        story.submit("a", 0, 0);
        story.accept("a", "ready");
        let mut attempts = Vec::new();
        for (start, worker) in (2_000_000..).step_by(5_000_000).zip(workers) {
            story.execute("a", worker, start, None);
            let killed = Fault::Killed { process: (*worker).into() };
            story.fault(start + 10_000, killed);
            attempts.push((start, "lease_lost"));
        }
        story.record("a", "quarantined", &attempts);
        story
    };
    story(&["w1", "w2", "w3"]).holds();
    story(&["w1", "w2"]).breaks(Kind::WrongEnd);
}

#[test]
fn a_job_that_nobody_submitted_or_that_was_refused_is_unexpected() {
    let mut story = Story::with_job("a", 2_000_000, 2_050_000);
    story.record("b", "succeeded", &[(2_000_000, "succeeded")]);
    story.breaks(Kind::Unexpected);

    let mut story = Story::with_job("a", 2_000_000, 2_050_000);
    story.submit("b", 0, 0);
    let refusal = Reply { status: 422, code: Some("invalid".into()), ..Reply::default() };
    story.answer(Story::call("b", 0, 0), Phase::Fail, refusal);
    story.holds();
    story.record("b", "succeeded", &[(2_000_000, "succeeded")]);
    story.breaks(Kind::Unexpected);

    let mut story = Story::with_job("a", 2_000_000, 2_050_000);
    story.execute("stranger", "w1", 2_000_000, Some((2_050_000, End::Ok)));
    story.breaks(Kind::Unexpected);
}

#[test]
fn one_key_stands_for_one_job_and_one_body() {
    let mut story = Story::with_job("a", 2_000_000, 2_050_000);
    story.submit("a", 0, 0);
    let second = Reply { status: 201, id: Some("other".into()), ..Reply::default() };
    story.answer(Story::call("a", 0, 0), Phase::Ok, second);
    story.breaks(Kind::Idempotency);

    let other_body = |story: &mut Story, phase, reply| {
        let mut call = Story::call("a", 0, 0);
        if let Call::Submit { body, .. } = &mut call {
            *body = "another".into();
        }
        story.submit("a", 0, 0);
        story.answer(call, phase, reply);
    };
    let mut story = Story::with_job("a", 2_000_000, 2_050_000);
    let taken = Reply { status: 201, id: Some("a".into()), ..Reply::default() };
    other_body(&mut story, Phase::Ok, taken);
    story.breaks(Kind::Idempotency);

    let code = Some("idempotency_key_reused".to_owned());
    let refused = Reply { status: 422, code, ..Reply::default() };
    let mut story = Story::with_job("a", 2_000_000, 2_050_000);
    other_body(&mut story, Phase::Fail, refused.clone());
    story.holds();
    story.submit("a", 0, 0);
    story.answer(Story::call("a", 0, 0), Phase::Fail, refused);
    story.breaks(Kind::Idempotency);
}

#[test]
fn an_outcome_that_nobody_learnt_is_reported() {
    let mut story = Story::with_job("a", 2_000_000, 2_050_000);
    story.submit("b", 0, 0);
    story.answer(Story::call("b", 0, 0), Phase::Unknown, Reply::default());
    story.breaks(Kind::Unresolved);
    // Asked again with the same key, and taken: known.
    story.submit("b", 0, 0);
    story.accept("b", "ready");
    story.execute("b", "w1", 3_000_000, Some((3_050_000, End::Ok)));
    story.record("b", "succeeded", &[(3_000_000, "succeeded")]);
    story.holds();
}

#[test]
fn an_answer_that_is_taken_back_is_found() {
    let mut story = Story::with_job("a", 2_000_000, 2_050_000);
    story.poll("a", 3_000_000, 200, Some("succeeded"));
    story.poll("a", 4_000_000, 200, Some("succeeded"));
    story.holds();
    story.poll("a", 5_000_000, 200, Some("running"));
    story.breaks(Kind::TakenBack);
    let mut story = Story::with_job("a", 2_000_000, 2_050_000);
    story.poll("a", 3_000_000, 404, None);
    story.breaks(Kind::TakenBack);
}

#[test]
fn a_second_execution_needs_a_lost_lease() {
    let twice = |first_end| {
        let mut story = Story::with_job("a", 6_000_000, 6_050_000);
        story.execute("a", "w2", 2_000_000, first_end);
        story.record("a", "succeeded", &[(2_000_000, "lease_lost"), (6_000_000, "succeeded")]);
        story
    };
    let mut story = twice(None);
    story.breaks(Kind::Duplicate);
    story.fault(2_500_000, killed("w2"));
    story.holds();
    assert_eq!(check(&story.evidence).extra, [(Cause::Killed, 1)].into());
    // It had ended long before its worker was killed: its outcome was not to be lost.
    let mut story = twice(Some((2_050_000, End::Ok)));
    story.fault(5_000_000, killed("w2"));
    story.breaks(Kind::Duplicate);
    // The worker of the other execution was killed.
    let mut story = twice(None);
    story.fault(2_500_000, killed("w1"));
    story.breaks(Kind::Duplicate);
}

#[test]
fn executions_at_one_time_need_a_worker_that_stood_still() {
    let mut story = Story::with_job("a", 6_000_000, 6_050_000);
    story.execute("a", "w2", 2_000_000, Some((14_000_000, End::Ok)));
    story.record("a", "succeeded", &[(2_000_000, "lease_lost"), (6_000_000, "succeeded")]);
    story.breaks(Kind::Overlap);
    story.fault(2_500_000, Fault::Frozen { process: "w2".into() });
    story.fault(12_500_000, Fault::Thawed { process: "w2".into() });
    story.holds();
    assert_eq!(check(&story.evidence).extra, [(Cause::Frozen, 1)].into());
    // A short stop costs no lease.
    let short = Fault::Thawed { process: "w2".into() };
    *story.evidence.history.last_mut().expect("there") = Event {
        op: 99,
        phase: Phase::Note,
        at: at(2_600_000),
        call: Call::Fault(short),
        reply: None,
    };
    story.breaks(Kind::Overlap);
}

#[test]
fn a_broken_link_explains_only_what_its_own_worker_ran_then() {
    // Executed by w2 from 12 s to 19 s, and by w1 at 16 s.
    let cut_off = |process: &str, at: u64| {
        let mut story = Story::with_job("a", 16_000_000, 16_050_000);
        story.execute("a", "w2", 12_000_000, Some((19_000_000, End::Dropped)));
        story.record("a", "succeeded", &[(12_000_000, "lease_lost"), (16_000_000, "succeeded")]);
        story.fault(at, Fault::CutOff { process: process.into() });
        story
    };
    for process in ["w2", "*"] {
        let story = cut_off(process, 12_500_000);
        story.holds();
        assert_eq!(check(&story.evidence).extra, [(Cause::CutOff, 1)].into());
    }
    cut_off("w1", 12_500_000).breaks(Kind::Duplicate);
    // Begun when no lease of before the break was left.
    cut_off("w2", 7_000_000).breaks(Kind::Duplicate);
    // Ended, and its outcome sent, before the break.
    cut_off("w2", 21_100_000).breaks(Kind::Duplicate);
}

#[test]
fn a_start_after_the_end_is_found_even_where_redis_was_lost() {
    let mut story = Story::with_job("a", 2_000_000, 2_050_000);
    story.fault(2_100_000, Fault::EngineLost { how: "wiped".into() });
    story.execute("a", "w2", 3_000_000, Some((3_050_000, End::Ok)));
    story.breaks(Kind::StartAfterEnd);
}

#[test]
fn an_early_start_is_found() {
    let mut story = Story::with_job("a", 999_999, 1_050_000);
    story.breaks(Kind::Early);
    story = Story::with_job("a", 1_000_000, 1_050_000);
    story.holds();
}

#[test]
fn the_time_of_a_retry_is_no_promise_for_the_first_attempt() {
    let story = |answered| {
        let mut story = Story::default();
        story.submit("a", 1, 0);
        let reply = Reply {
            status: 201,
            id: Some("a".into()),
            state: Some("retrying".into()),
            run_at_us: Some(1_500_000),
            ..Reply::default()
        };
        story.event(story.op, Phase::Ok, at(answered), Story::call("a", 1, 0), Some(reply));
        story.execute("a", "w1", 1_010_000, Some((1_060_000, End::Planned)));
        story.execute("a", "w1", 1_510_000, Some((1_560_000, End::Ok)));
        story.record("a", "succeeded", &[(1_010_000, "failed"), (1_510_000, "succeeded")]);
        story
    };
    story(1_070_000).holds();
    story(1_050_000).breaks(Kind::Early);
}

#[test]
fn a_start_in_a_paused_queue_is_found() {
    let pause = |story: &mut Story, us: u64, applied| {
        story.op += 1;
        let call = Call::Pause { queue: "q".into() };
        let reply = Reply { status: 200, applied: Some(applied), ..Reply::default() };
        story.event(story.op, Phase::Ok, at(us), call, Some(reply));
    };
    let resume = |story: &mut Story, us: u64| {
        story.op += 1;
        story.event(story.op, Phase::Invoke, at(us), Call::Resume { queue: "q".into() }, None);
    };
    let mut story = Story::with_job("a", 2_000_000, 2_050_000);
    pause(&mut story, 1_900_000, true);
    story.breaks(Kind::StartedWhilePaused);
    resume(&mut story, 2_100_000);
    story.breaks(Kind::StartedWhilePaused);
    let mut story = Story::with_job("a", 2_000_000, 2_050_000);
    pause(&mut story, 1_800_000, true);
    resume(&mut story, 1_900_000);
    pause(&mut story, 2_001_000, true);
    story.holds();
    // Not promised before the engine knows.
    let mut story = Story::with_job("a", 2_000_000, 2_050_000);
    pause(&mut story, 1_900_000, false);
    story.holds();
}

#[test]
fn attempts_that_contradict_each_other_are_found() {
    let base = || Story::with_job("a", 2_000_000, 2_050_000);
    let mut story = base();
    story.record("a", "succeeded", &[(2_000_000, "succeeded"), (3_000_000, "succeeded")]);
    story.breaks(Kind::Chain);
    let mut story = base();
    story.record("a", "succeeded", &[(3_000_000, "lease_lost"), (2_000_000, "succeeded")]);
    story.breaks(Kind::Chain);
    let mut story = base();
    story.job("a").attempts[0].outcome = None;
    story.breaks(Kind::Chain);
    // A crash that is charged as a failure of the handler.
    let mut story = base();
    story.execute("a", "w2", 1_500_000, None);
    story.fault(1_600_000, killed("w2"));
    story.record("a", "succeeded", &[(1_500_000, "failed"), (2_000_000, "succeeded")]);
    story.breaks(Kind::Chain);
}

#[test]
fn the_record_and_the_effect_log_must_agree() {
    // A finish without its start.
    let mut story = Story::with_job("a", 2_000_000, 2_050_000);
    story.evidence.effects.clear();
    story.breaks(Kind::Chain);
    // A success of a handler that had failed.
    let mut story = Story::with_job("a", 2_000_000, 2_050_000);
    story.evidence.effects[1].end = Some(End::Planned);
    story.breaks(Kind::Chain);
    // An execution that is not on record: allowed only where Redis forgot the lease.
    let mut story = Story::with_job("a", 6_000_000, 6_050_000);
    story.execute("a", "w2", 2_000_000, None);
    story.fault(2_500_000, killed("w2"));
    story.breaks(Kind::Chain);
    story.fault(2_600_000, Fault::EngineLost { how: "wiped".into() });
    story.holds();
}

#[test]
fn steps_out_of_order_twice_or_missing_are_found() {
    let mut story = Story::with_run();
    let first = story.evidence.effects.iter_mut().find(|e| e.job == "job-last");
    first.expect("there").started = at(2_010_000);
    story.breaks(Kind::StepOrder);
    let mut story = Story::with_run();
    story.record("again", "succeeded", &[(2_900_000, "succeeded")]);
    story.execute("again", "w1", 2_900_000, Some((2_950_000, End::Ok)));
    story.job("again").step = Some(("run".into(), "left".into()));
    story.breaks(Kind::StepOrder);
    let mut story = Story::with_run();
    story.evidence.ledger.jobs.remove("job-right");
    story.evidence.effects.retain(|effect| effect.job != "job-right");
    story.breaks(Kind::StepOrder);
}

#[test]
fn what_the_engine_still_has_is_drift() {
    let mut story = Story::with_job("a", 2_000_000, 2_050_000);
    story.evidence.ledger.depths.insert("q".into(), Depth::default());
    story.holds();
    let left = Depth { finishing: 1, ..Depth::default() };
    story.evidence.ledger.depths.insert("q".into(), left);
    story.breaks(Kind::Drift);
}
