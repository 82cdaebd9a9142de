//! Promises of time, with clocks that were moved.

use super::*;

const REDIS: &str = "redis";

fn move_engine(story: &mut Story, us: u64, offset_ms: i64) {
    story.fault(us, Fault::ClockMoved { process: REDIS.into(), offset_ms });
}

/// A job with a delay, sent at 1 s and started at `start` µs.
fn delayed(delay: u64, start: u64) -> Story {
    let mut story = Story::with_job("a", start, start + 50_000);
    for event in &mut story.evidence.history {
        if let Call::Submit { delay_ms, .. } = &mut event.call {
            *delay_ms = delay;
        }
    }
    story
}

fn kinds(story: &Story) -> Vec<Kind> {
    check(&story.evidence).violations.iter().map(|violation| violation.kind).collect()
}

/// Its `run_at` may be what a host made of it whose clock was behind.
#[test]
fn a_delay_that_was_not_waited_out_is_early_whatever_the_answer_said() {
    assert_eq!(kinds(&delayed(500, 1_500_000)), []);
    assert_eq!(kinds(&delayed(500, 1_400_000)), [Kind::Early]);
    let mut story = delayed(500, 1_400_000);
    story.fault(1_100_000, Fault::ClockMoved { process: "api-0".into(), offset_ms: -300_000 });
    assert_eq!(kinds(&story), [Kind::Early], "the clock of another host excuses nothing");
    let mut story = delayed(500, 1_400_000);
    move_engine(&mut story, 1_100_000, 60_000);
    assert_eq!(kinds(&story), [], "the engine's clock decides");
}

/// A client that asks again after a time-out is shown a job that has failed meanwhile, and waits for its next attempt.
#[test]
fn the_time_of_a_retry_is_no_promise_for_the_attempt_before() {
    let answered = |us: u64| {
        let mut story = Story::with_job("a", 2_000_000, 2_050_000);
        story.evidence.effects[1].end = Some(End::Planned);
        story.execute("a", "w1", 3_000_000, Some((3_050_000, End::Ok)));
        for event in &mut story.evidence.history {
            if let Call::Submit { fails, .. } = &mut event.call {
                *fails = 1;
            }
            if let Some(reply) = &mut event.reply {
                event.at = at(us);
                reply.run_at_us = Some(2_900_000);
            }
        }
        story.record("a", "succeeded", &[(2_000_000, "failed"), (3_000_000, "succeeded")]);
        story
    };
    assert_eq!(kinds(&answered(2_100_000)), []);
    assert_eq!(kinds(&answered(1_900_000)), [Kind::Early], "answered before it was begun");
}

/// By the clock that decides, its time had come; then that clock went back.
#[test]
fn what_was_due_once_may_start_after_the_engines_clock_went_back() {
    let mut story = claimed(2_500_000, 2_501_000);
    for event in &mut story.evidence.history {
        if let Some(reply) = &mut event.reply {
            reply.run_at_us = Some(3_000_000);
        }
    }
    assert_eq!(kinds(&story), [Kind::Early]);
    move_engine(&mut story, 1_500_000, 500);
    move_engine(&mut story, 2_400_000, 0);
    assert_eq!(kinds(&story), [Kind::Early], "it had shown 2.9 s at most");
    story.evidence.history.truncate(2);
    move_engine(&mut story, 1_500_000, 1_000);
    move_engine(&mut story, 2_400_000, 0);
    assert_eq!(kinds(&story), []);
}

fn pause(story: &mut Story, from: u64, to: u64) {
    let queue = "q".to_owned();
    story.op += 1;
    let reply = Reply { status: 200, applied: Some(true), ..Reply::default() };
    story.event(story.op, Phase::Ok, at(from), Call::Pause { queue: queue.clone() }, Some(reply));
    story.op += 1;
    story.event(story.op, Phase::Invoke, at(to), Call::Resume { queue }, None);
}

/// A job that is claimed at `fence` of engine time and begun at `start`.
fn claimed(fence: u64, start: u64) -> Story {
    let mut story = Story::with_job("a", start, start + 50_000);
    story.evidence.effects.iter_mut().for_each(|effect| effect.fence = fence);
    story.record("a", "succeeded", &[(fence, "succeeded")]);
    story
}

#[test]
fn a_claim_of_a_moved_engine_is_held_against_pauses_in_true_time() {
    let minute = 60_000_000;
    let in_pause = |fence, start| {
        let mut story = claimed(fence, start);
        pause(&mut story, 5_000_000, 7_000_000);
        story
    };
    // +60 s from 2 s on: the claim was at 6 s.
    let mut story = in_pause(6_000_000 + minute, 6_001_000);
    move_engine(&mut story, 2_000_000, 60_000);
    assert_eq!(kinds(&story), [Kind::StartedWhilePaused]);
    // The same number, before the pause: it is not taken for true time.
    let mut story = in_pause(4_000_000 + minute, 4_001_000);
    move_engine(&mut story, 2_000_000, 60_000);
    assert_eq!(kinds(&story), []);
    // Engine time went back by 60 s at 3 s: the fence is one more than the job's last, and says nothing.
    let mut story = in_pause(2_500_001 + minute, 8_000_000);
    move_engine(&mut story, 2_000_000, 60_000);
    move_engine(&mut story, 3_000_000, 0);
    assert_eq!(kinds(&story), []);
}

/// Starts may go back with the clock; fences may not.
#[test]
fn fences_rise_also_where_engine_time_goes_back() {
    let two = |second: u64, started: u64| {
        let mut story = Story::with_job("a", 2_000_000, 2_050_000);
        story.evidence.effects[1].end = Some(End::Planned);
        story.execute("a", "w1", 4_000_000, Some((4_050_000, End::Ok)));
        story.evidence.effects[2..].iter_mut().for_each(|effect| effect.fence = second);
        for event in &mut story.evidence.history {
            if let Call::Submit { fails, .. } = &mut event.call {
                *fails = 1;
            }
        }
        story.record("a", "succeeded", &[(2_000_000, "failed"), (second, "succeeded")]);
        story.job("a").attempts[1].started_at_us = Some(started.cast_signed());
        story
    };
    let mut story = two(2_000_001, 1_900_000);
    assert_eq!(kinds(&story), [Kind::Chain], "nothing was moved");
    move_engine(&mut story, 1_000_000, 1_000);
    move_engine(&mut story, 2_500_000, 0);
    assert_eq!(kinds(&story), []);
    let mut story = two(2_000_000 - 1, 1_900_000);
    move_engine(&mut story, 1_000_000, 1_000);
    move_engine(&mut story, 2_500_000, 0);
    assert!(kinds(&story).contains(&Kind::Chain), "{:?}", kinds(&story));
}

/// An engine whose time never goes back gives every lease of a minute the same number, and that says nothing of when.
#[test]
fn while_engine_time_stands_still_a_fence_is_no_instant() {
    // The clock is 10 s ahead from 1.2 s to 3 s; the queue is paused from 2 s to 4 s.
    let story = |fence: u64, started: u64| {
        let mut story = Story::with_job("a", fence, fence + 50_000);
        for effect in &mut story.evidence.effects {
            (effect.started, effect.at) = (at(started), at(started + 50_000));
        }
        move_engine(&mut story, 1_200_000, 10_000);
        move_engine(&mut story, 3_000_000, 0);
        let reply = Reply { status: 200, applied: Some(true), ..Reply::default() };
        let (pause, resume) =
            (Call::Pause { queue: "q".into() }, Call::Resume { queue: "q".into() });
        story.event(90, Phase::Ok, at(2_000_000), pause, Some(reply));
        story.event(91, Phase::Invoke, at(4_000_000), resume, None);
        kinds(&story)
    };
    assert_eq!(story(12_500_000, 2_501_000), [Kind::StartedWhilePaused]);
    assert_eq!(
        story(13_000_003, 5_000_000),
        [],
        "claimed after the resume, as far as one can tell"
    );
    assert_eq!(story(12_500_000, 5_000_000), [Kind::StartedWhilePaused], "it was shown earlier");
}
