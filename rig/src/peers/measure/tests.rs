//! Each figure once as it is when nothing is wrong, and once when something is.

use super::*;
use crate::dump::Dump;
use crate::effects::{Effect, Phase as EffectPhase};
use crate::history::Reply;

fn at(ms: u64) -> Stamp {
    Stamp { boot_us: ms * 1_000, wall_us: 0 }
}

#[derive(Default)]
struct Story {
    evidence: Evidence,
    ops: u64,
}

impl Story {
    fn new() -> Self {
        let mut story =
            Self { evidence: Evidence { ledger: Dump::default(), ..Evidence::default() }, ops: 0 };
        [("fault", 10_000), ("heal", 12_000), ("loaded", 20_000)]
            .into_iter()
            .for_each(|(name, ms)| story.fault(ms, Fault::Mark { name: name.into() }));
        story
    }

    fn fault(&mut self, ms: u64, fault: Fault) {
        self.event(ms, Phase::Note, Call::Fault(fault), None);
    }

    fn event(&mut self, ms: u64, phase: Phase, call: Call, reply: Option<Reply>) {
        self.ops += 1;
        self.evidence.history.push(Event { op: self.ops, phase, at: at(ms), call, reply });
    }

    fn submit(&mut self, ms: u64, key: &str, body: &str, phase: Phase) {
        let call = Call::Submit {
            key: key.into(),
            body: body.into(),
            queue: "rig-a".into(),
            kind: "rig.effect".into(),
            fails: 0,
            ends: "succeeded".into(),
            delay_ms: 0,
            steps: 0,
        };
        let reply = Reply { status: 201, id: Some(key.into()), ..Reply::default() };
        self.event(ms, phase, call, Some(reply));
    }

    fn execute(&mut self, job: &str, worker: &str, from: u64, end: Option<(u64, End)>) {
        let effect = |phase, ms, end| Effect {
            phase,
            job: job.into(),
            fence: from,
            worker: worker.into(),
            attempt: 1,
            kind: "rig.effect".into(),
            queue: "rig-a".into(),
            step: None,
            started: at(from),
            at: at(ms),
            end,
        };
        self.evidence.effects.push(effect(EffectPhase::Start, from, None));
        if let Some((ms, how)) = end {
            self.evidence.effects.push(effect(EffectPhase::End, ms, Some(how)));
        }
    }
}

#[test]
fn a_job_that_was_done_once_and_one_that_failed_as_planned_are_no_findings() {
    let mut story = Story::new();
    story.submit(9_000, "a", "1", Phase::Ok);
    story.submit(9_000, "b", "1", Phase::Ok);
    story.execute("a", "w", 9_100, Some((9_200, End::Ok)));
    story.execute("b", "w", 9_100, Some((9_200, End::Planned)));
    story.execute("b", "w", 9_500, Some((9_600, End::Ok)));
    let measured = measure(&story.evidence);
    assert_eq!((measured.accepted, measured.extra, measured.at_once), (2, 0, 0));
    assert!(measured.undone.is_empty());
    assert_eq!(left(&story.evidence), 0);
}

#[test]
fn what_was_acknowledged_and_not_done_is_found() {
    let mut story = Story::new();
    story.submit(9_000, "never-run", "1", Phase::Ok);
    story.submit(9_000, "only-failed", "1", Phase::Ok);
    story.submit(9_000, "unknown", "1", Phase::Unknown);
    story.execute("only-failed", "w", 9_100, Some((9_200, End::Planned)));
    let measured = measure(&story.evidence);
    assert_eq!(measured.undone, ["never-run", "only-failed"]);
    assert_eq!((measured.accepted, measured.not_accepted), (2, 1));
    assert_eq!(left(&story.evidence), 2);
}

#[test]
fn an_execution_too_many_is_extra_and_two_that_overlap_are_at_one_time() {
    let mut story = Story::new();
    story.submit(9_000, "after", "1", Phase::Ok);
    story.execute("after", "w", 9_100, Some((9_200, End::Ok)));
    story.execute("after", "v", 9_300, Some((9_400, End::Ok)));
    let measured = measure(&story.evidence);
    assert_eq!((measured.extra, measured.at_once), (1, 0));
    story.submit(9_000, "beside", "1", Phase::Ok);
    story.execute("beside", "w", 9_100, Some((9_500, End::Ok)));
    story.execute("beside", "v", 9_300, Some((9_400, End::Ok)));
    let measured = measure(&story.evidence);
    assert_eq!((measured.extra, measured.at_once), (2, 1));
}

#[test]
fn a_rerun_is_measured_from_the_kill_and_is_not_at_one_time() {
    let mut story = Story::new();
    story.submit(9_000, "a", "1", Phase::Ok);
    story.submit(9_000, "b", "1", Phase::Ok);
    story.execute("a", "w", 9_900, None);
    story.execute("b", "w", 9_900, None);
    story.fault(10_000, Fault::Killed { process: "w".into() });
    story.execute("a", "v", 13_500, Some((13_600, End::Ok)));
    let measured = measure(&story.evidence);
    assert_eq!((measured.cut_short, measured.never_rerun, measured.at_once), (2, 1, 0));
    assert_eq!(measured.rerun_s, Some(3.5));
    assert_eq!(measured.undone, ["b"]);
}

#[test]
fn gaps_and_what_went_on_meanwhile() {
    let mut story = Story::new();
    for (key, ms) in [("a", 9_000), ("b", 11_000), ("c", 15_000), ("d", 19_000)] {
        story.submit(ms, key, "1", Phase::Ok);
        story.execute(key, "w", ms + 500, Some((ms + 600, End::Ok)));
    }
    let measured = measure(&story.evidence);
    // From 11 to 15 s, and from 11.6 to 15.6 s.
    assert!((measured.gap_accepted_s - 4.0).abs() < 1e-6, "{measured:?}");
    assert!((measured.gap_done_s - 4.0).abs() < 1e-6, "{measured:?}");
    assert_eq!((measured.accepted_meanwhile, measured.done_meanwhile), (1, 1));
    story.fault(11_200, Fault::Mark { name: HURT.into() });
    story.fault(11_900, Fault::Mark { name: MENDING.into() });
    let hurt = measure(&story.evidence);
    assert_eq!((hurt.accepted_meanwhile, hurt.done_meanwhile), (0, 1));
    // Heal is at 12 s, the next start at 15.5 s.
    assert_eq!(measured.first_start_s, Some(3.5));
}

#[test]
fn another_body_of_a_key_that_is_acknowledged_counts() {
    let mut story = Story::new();
    story.submit(9_000, "a", "1", Phase::Ok);
    story.submit(9_100, "a", "1", Phase::Ok);
    story.submit(9_200, "a", "2", Phase::Fail);
    assert_eq!(measure(&story.evidence).other_bodies, 0);
    assert_eq!(measure(&story.evidence).refused, 1);
    story.submit(9_300, "a", "2", Phase::Ok);
    assert_eq!(measure(&story.evidence).other_bodies, 1);
}

#[test]
fn a_process_that_ended_by_itself_counts() {
    let mut story = Story::new();
    assert_eq!(measure(&story.evidence).ended, 0);
    story.fault(11_000, Fault::Mark { name: "ended".into() });
    assert_eq!(measure(&story.evidence).ended, 1);
}
