//! Which queue is asked next, and when.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use windlass_shared::engine::{ClaimReply, ClaimState, ShardId};

/// A queue that gave nothing is asked again after about this long without a signal.
const POLL: Duration = Duration::from_secs(1);
/// A shard that was opened a moment ago gives more soon.
const WARMING: Duration = Duration::from_millis(50);
/// A delayed job is not asked for more often than this.
const DUE_MIN: Duration = Duration::from_millis(5);
/// After a scan over jobs of foreign kinds that found nothing, signals are not heeded for this long: each
/// scan is several calls.
const SCAN_REST: Duration = Duration::from_millis(100);

/// The queues of one worker, by weight.
#[derive(Debug)]
pub(crate) struct Rotation {
    queues: Vec<Turn>,
}

#[derive(Debug)]
struct Turn {
    shard: Arc<ShardId>,
    weight: i64,
    /// Grows by the weight whenever the queue could be asked, falls when it is: the highest is next.
    credit: i64,
    look_at: Instant,
    /// Signals don't make it earlier than this.
    rest_until: Instant,
    /// It has something to ask for but must not, so that it keeps its credit.
    held: bool,
    offset: u32,
    /// Calls of the scan under way, and whether one of them gave a job.
    pages: u32,
    found: bool,
}

impl Rotation {
    /// Every queue is looked at at once.
    pub(crate) fn new(shards: impl Iterator<Item = (ShardId, u32)>) -> Self {
        let now = Instant::now();
        let turn = |(shard, weight): (ShardId, u32)| Turn {
            shard: Arc::new(shard),
            weight: i64::from(weight.max(1)),
            credit: 0,
            look_at: now,
            rest_until: now,
            held: false,
            offset: 0,
            pages: 0,
            found: false,
        };
        Self { queues: shards.map(turn).collect() }
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = &Arc<ShardId>> {
        self.queues.iter().map(|turn| &turn.shard)
    }

    pub(crate) fn shard(&self, queue: usize) -> &Arc<ShardId> {
        &self.queues[queue].shard
    }

    pub(crate) fn offset(&self, queue: usize) -> u32 {
        self.queues[queue].offset
    }

    /// Leaves queues that could be asked now alone for as long as `until` says, whatever is signalled. When they can be
    /// asked again, who had less is next, as if they had never been left alone.
    pub(crate) fn hold(&mut self, now: Instant, until: impl Fn(usize) -> Option<Instant>) {
        for (index, turn) in self.queues.iter_mut().enumerate() {
            if turn.look_at > now {
                continue;
            }
            let until = until(index);
            turn.held = until.is_some();
            if let Some(until) = until {
                turn.rest_until = until;
                turn.look_at = until;
            }
        }
    }

    /// The queue to ask now; `None`: none before [`Self::next_look`].
    pub(crate) fn next(&mut self, now: Instant) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<usize> = None;
        for index in 0..self.queues.len() {
            let turn = &mut self.queues[index];
            if turn.look_at > now {
                // Weights share out what is there; a queue does not save up while it has nothing.
                if !turn.held {
                    turn.credit = 0;
                }
                continue;
            }
            turn.credit += turn.weight;
            total += turn.weight;
            let credit = turn.credit;
            if best.is_none_or(|best| self.queues[best].credit < credit) {
                best = Some(index);
            }
        }
        let best = best?;
        self.queues[best].credit -= total;
        Some(best)
    }

    /// When the next queue is to be asked.
    pub(crate) fn next_look(&self) -> Instant {
        self.queues.iter().map(|turn| turn.look_at).min().unwrap_or_else(|| Instant::now() + POLL)
    }

    /// A signal says that a queue has jobs.
    pub(crate) fn wake(&mut self, shard: &ShardId) {
        for turn in &mut self.queues {
            if *turn.shard == *shard {
                turn.look_at = turn.look_at.min(turn.rest_until);
            }
        }
    }

    /// Anything may have happened.
    pub(crate) fn look_everywhere(&mut self) {
        for turn in &mut self.queues {
            turn.look_at = turn.look_at.min(turn.rest_until);
        }
    }

    /// Leaves a queue alone for a while, whatever is signalled.
    pub(crate) fn rest(&mut self, queue: usize, now: Instant) {
        let turn = &mut self.queues[queue];
        turn.rest_until = now + SCAN_REST;
        turn.look_at = turn.rest_until;
    }

    /// Notes the answer to a claim for `asked` jobs, and with it when to ask again.
    pub(crate) fn note(&mut self, queue: usize, asked: u32, reply: &ClaimReply, now: Instant) {
        let turn = &mut self.queues[queue];
        turn.pages = turn.pages.saturating_add(1);
        turn.found |= !reply.jobs.is_empty();
        if reply.next_offset == 0 && turn.pages > 1 && !turn.found {
            turn.rest_until = now + SCAN_REST;
        }
        turn.offset = reply.next_offset;
        if reply.next_offset == 0 {
            turn.pages = 0;
            turn.found = false;
        }
        let full = reply.jobs.len() >= asked as usize;
        turn.look_at = match reply.state {
            ClaimState::Open if full || reply.next_offset != 0 => now,
            ClaimState::Open | ClaimState::Limited => {
                let due = reply.next_due.map(|due| due.since(reply.now).max(DUE_MIN));
                now + due.map_or_else(poll, |due| due.min(poll()))
            }
            ClaimState::Warming => now + WARMING,
            ClaimState::Unverified
            | ClaimState::Paused
            | ClaimState::Braked
            | ClaimState::Foreign => now + poll(),
        };
    }
}

/// 0.75 to 1.25 times [`POLL`], so that a fleet does not ask in step.
fn poll() -> Duration {
    POLL.mul_f64(0.75 + rand::random::<f64>() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_shared::engine::{Claimed, Position};
    use windlass_shared::model::id::{Fence, JobId};
    use windlass_shared::model::time::Timestamp;

    fn rotation(queues: &[(&str, u32)]) -> Rotation {
        Rotation::new(queues.iter().map(|(name, weight)| {
            (ShardId::first("default".parse().unwrap(), name.parse().unwrap()), *weight)
        }))
    }

    fn reply(jobs: usize, next_offset: u32) -> ClaimReply {
        let now = Timestamp::from_millis(1_000);
        let claimed = Claimed {
            id: JobId::first_at(1),
            fence: Fence(1),
            attempt: 0,
            crashes: 0,
            expires_at: now,
            probe: false,
            envelope: bytes::Bytes::new(),
        };
        let jobs = vec![claimed; jobs];
        let position = Position::default();
        ClaimReply { state: ClaimState::Open, jobs, next_due: None, next_offset, now, position }
    }

    #[test]
    fn busy_queues_are_asked_by_weight() {
        let mut rotation = rotation(&[("a", 1), ("b", 3)]);
        let now = Instant::now();
        let mut asked = [0; 2];
        for _ in 0..40 {
            let queue = rotation.next(now).unwrap();
            asked[queue] += 1;
            rotation.note(queue, 5, &reply(5, 0), now);
        }
        assert_eq!(asked, [10, 30]);
    }

    #[test]
    fn an_empty_queue_rests_until_its_poll_a_signal_or_a_due_job() {
        let mut rotation = rotation(&[("a", 1)]);
        let now = Instant::now();
        rotation.note(0, 5, &reply(2, 0), now);
        assert_eq!(rotation.next(now), None);
        assert!(rotation.next_look() >= now + POLL / 2 && rotation.next_look() <= now + 2 * POLL);
        assert_eq!(rotation.next(now + 2 * POLL), Some(0));
        let shard = rotation.shard(0).clone();
        rotation.wake(&shard);
        assert_eq!(rotation.next(now), Some(0));
        let due = Some(Timestamp::from_millis(1_020));
        rotation.note(0, 5, &ClaimReply { next_due: due, ..reply(0, 0) }, now);
        assert_eq!(rotation.next_look(), now + Duration::from_millis(20));
    }

    #[test]
    fn a_paused_queue_waits_even_when_jobs_are_due() {
        let mut rotation = rotation(&[("a", 1)]);
        let now = Instant::now();
        let due = Some(Timestamp::from_millis(1_000));
        let paused = ClaimReply { state: ClaimState::Paused, next_due: due, ..reply(0, 0) };
        rotation.note(0, 5, &paused, now);
        assert!(rotation.next_look() >= now + POLL / 2);
    }

    #[test]
    fn a_scan_goes_on_where_it_stopped_and_rests_after_finding_nothing() {
        let mut rotation = rotation(&[("a", 1)]);
        let now = Instant::now();
        rotation.note(0, 5, &reply(0, 1_000), now);
        assert_eq!((rotation.next(now), rotation.offset(0)), (Some(0), 1_000));
        rotation.note(0, 5, &reply(0, 0), now);
        assert_eq!(rotation.offset(0), 0);
        let shard = rotation.shard(0).clone();
        rotation.wake(&shard);
        assert_eq!(rotation.next(now), None);
        assert_eq!(rotation.next(now + SCAN_REST), Some(0));
    }

    /// Goal: where one permit at a time is what several queues wait for, they take turns by weight; and signals do not
    /// wake them before there is one.
    #[test]
    fn queues_that_are_held_together_take_turns() {
        let mut rotation = rotation(&[("a", 1), ("b", 2)]);
        let began = Instant::now();
        let mut asked = [0; 2];
        for n in 1..=30 {
            let now = began + n * POLL;
            rotation.hold(now, |_| None);
            let queue = rotation.next(now).unwrap();
            asked[queue] += 1;
            rotation.note(queue, 1, &reply(1, 0), now);
            rotation.hold(now, |_| Some(now + POLL));
            let shard = rotation.shard(0).clone();
            rotation.wake(&shard);
            assert_eq!((rotation.next(now), rotation.next_look()), (None, now + POLL));
        }
        assert_eq!(asked, [10, 20]);
    }

    #[test]
    fn a_worker_without_queues_waits() {
        let mut rotation = rotation(&[]);
        assert_eq!(rotation.next(Instant::now()), None);
        assert!(rotation.next_look() > Instant::now());
    }
}
