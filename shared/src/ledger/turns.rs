//! Submissions wait here for their turn to be written, and are shed by how long that takes.
//!
//! A line in which everybody waits longer than [`TARGET`] for [`INTERVAL`] is a standing one: it helps nobody, and all that
//! comes in ends up too late (Nichols and Jacobson, "Controlling Queue Delay", 2012). From then on until nothing had to be
//! refused for an interval,
//! * what could not be written within the target is refused at once;
//! * what came last is written first: whoever sent it is still there;
//! * what is left then and has waited for longer than the target is refused, with nothing of it written.
//!
//! No more is written at once, at any time, than is written quickly, where less is written faster: a line that begins to
//! stand would else go into ever larger groups before anybody sees it.
//!
//! Only submissions stand here. Outcomes, leases and everything else that is written go other ways, ahead of them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// A wait that nobody should stand for long.
const TARGET: Duration = Duration::from_millis(500);
/// A group that takes longer to be written holds up what is in it.
const QUICK: Duration = Duration::from_millis(250);
/// So many times what a group takes for itself its rows take together: four fifths of what is written by ever larger ones.
const WORTH: f64 = 4.0;
/// So many times as large as the latest is the next at most, unless that is quick even by the worst of what is known.
const GROWS: f64 = 4.0;
/// What a group says of the next ones fades with each.
const FADES: f64 = 0.95;
/// A line that was too slow for so long is a standing one; one that had room for everybody for so long is none any more.
const INTERVAL: Duration = Duration::from_secs(1);

/// What waits, with the rows that it will write.
pub(super) struct Turns<T> {
    state: Mutex<State<T>>,
    wake: Notify,
}

struct State<T> {
    /// Oldest first, with the time of its coming.
    waiting: VecDeque<(Instant, usize, T)>,
    rows: usize,
    closed: bool,
    writers: usize,
    reach: Reach,
    /// Since when everybody waits too long.
    slow_since: Option<Instant>,
    /// While it sheds: when something was refused last.
    shedding: Option<Instant>,
    pace: Pace,
}

/// How many rows one writer is to write at once: as many as it writes quickly, if that is enough for most of what it could
/// write; by a line through the times of the latest groups (least squares, each group weighs [`FADES`] times the one after
/// it). Groups that take their time are made to differ in size, so that there is a line.
struct Reach {
    most: usize,
    /// Weights, rows, seconds, rows squared, and rows by seconds, summed.
    sums: [f64; 5],
    last: usize,
    /// Of the next group, by which its size differs.
    turn: u8,
}

/// How many rows are written in a time.
struct Pace {
    since: Instant,
    rows: usize,
    per_second: f64,
}

/// What is to be written next, and what is not any more.
pub(super) struct Group<T> {
    pub(super) taken: Vec<T>,
    /// To be answered as refused.
    pub(super) shed: Vec<T>,
}

/// Who could not get in.
pub(super) enum NotIn {
    /// Shed at once.
    Overloaded,
    /// After [`Turns::close`].
    Closed,
}

impl<T> Turns<T> {
    /// A line of so many writers, which take at most about so many rows at once.
    pub(super) fn new(writers: usize, group: usize) -> Self {
        let state = Mutex::new(State::new((writers, group), Instant::now()));
        Self { state, wake: Notify::new() }
    }

    /// A group of so many rows took so long, and was committed or not.
    pub(super) fn wrote(&self, rows: usize, took: Duration, is_committed: bool) {
        // What failed slowly may have been too much for the time that it had; what failed at once says nothing.
        if is_committed || took > QUICK {
            self.state().reach.note(rows, took);
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Whether a submission would find a place now.
    ///
    /// # Errors
    /// It would have to wait for too long, as everybody does.
    pub(super) fn admit(&self) -> Result<(), NotIn> {
        let mut state = self.state();
        if state.closed {
            return Err(NotIn::Closed);
        }
        if state.is_full(Instant::now()) {
            shed("door", 1);
            return Err(NotIn::Overloaded);
        }
        Ok(())
    }

    /// Puts something at the end of the line; it comes back where the line is closed.
    pub(super) fn push(&self, rows: usize, item: T) -> Result<(), T> {
        let mut state = self.state();
        if state.closed {
            return Err(item);
        }
        state.push(rows, item, Instant::now());
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Lets what waits be taken, and nothing more come.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.wake.notify_waiters();
    }

    /// Waits until something does; `false`: it is closed and empty. May be dropped.
    pub(super) async fn ready(&self) -> bool {
        loop {
            // Subscribed before looking, so that no wake-up falls in between.
            let woken = self.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            {
                let state = self.state();
                if !state.waiting.is_empty() {
                    return true;
                }
                if state.closed {
                    return false;
                }
            }
            woken.await;
        }
    }

    /// Takes what is next, at most `rows_max` rows of it (but at least one submission). Empty: somebody was faster.
    pub(super) fn take(&self, rows_max: usize) -> Group<T> {
        let mut state = self.state();
        let group = state.take(rows_max, Instant::now());
        let (is_left, sheds) = (!state.waiting.is_empty(), state.shedding.is_some());
        drop(state);
        if is_left {
            self.wake.notify_one();
        }
        metrics::gauge!("windlass_submissions_shedding").set(f64::from(u8::from(sheds)));
        shed("line", group.shed.len());
        group
    }
}

fn shed(at: &'static str, count: usize) {
    if count > 0 {
        metrics::counter!("windlass_submissions_shed_total", "at" => at).increment(count as u64);
    }
}

impl<T> State<T> {
    fn new((writers, group): (usize, usize), now: Instant) -> Self {
        Self {
            waiting: VecDeque::new(),
            rows: 0,
            closed: false,
            writers,
            reach: Reach::new(group),
            slow_since: None,
            shedding: None,
            pace: Pace { since: now, rows: 0, per_second: 0.0 },
        }
    }

    /// Whether one submission more would wait too long: whatever its size, or a large one would never get in. There is always
    /// room for what is written at once: less of it would be written no faster.
    fn is_full(&mut self, now: Instant) -> bool {
        self.look(now);
        let (in_time, reach) = (self.pace.per_second * TARGET.as_secs_f64(), self.reach.rows());
        let room = (self.writers * reach).max(in_time as usize);
        let is_full = self.shedding.is_some() && self.rows >= room;
        if is_full {
            self.shedding = Some(now);
        }
        is_full
    }

    fn push(&mut self, rows: usize, item: T, now: Instant) {
        if self.waiting.is_empty() {
            self.pace.rest(now);
        }
        self.rows += rows;
        self.waiting.push_back((now, rows, item));
    }

    fn take(&mut self, rows_max: usize, now: Instant) -> Group<T> {
        let mut group = Group { taken: Vec::new(), shed: Vec::new() };
        self.look(now);
        let rows_max = rows_max.min(self.reach.next());
        let mut taken = 0;
        while let Some((at, rows, item)) = self.next(rows_max.saturating_sub(taken), taken == 0) {
            taken += rows;
            metrics::histogram!("windlass_submission_wait_seconds").record(now - at);
            group.taken.push(item);
        }
        self.rows -= taken;
        self.pace.note(taken, now);
        // Only what is left: a writer that is slower than the target would else be given nothing.
        while self.shedding.is_some()
            && !self.closed
            && self.waiting.front().is_some_and(|(at, ..)| now - *at > TARGET)
            && let Some((_, rows, item)) = self.waiting.pop_front()
        {
            self.rows -= rows;
            self.shedding = Some(now);
            group.shed.push(item);
        }
        group
    }

    /// What is next, if it has at most so many rows, or in any case.
    fn next(&mut self, rows_max: usize, any: bool) -> Option<(Instant, usize, T)> {
        let newest = self.shedding.is_some();
        let next = if newest { self.waiting.back() } else { self.waiting.front() };
        if !any && next?.1 > rows_max {
            return None;
        }
        if newest { self.waiting.pop_back() } else { self.waiting.pop_front() }
    }

    /// Looks whether the line is a standing one: by whoever has waited longest, who is next.
    fn look(&mut self, now: Instant) {
        if let Some(refused_at) = self.shedding {
            if now - refused_at >= INTERVAL {
                tracing::info!("submissions are not shed any more");
                (self.shedding, self.slow_since) = (None, None);
            }
            return;
        }
        let is_slow = self.waiting.front().is_some_and(|(at, ..)| now - *at > TARGET);
        if !is_slow {
            self.slow_since = None;
            return;
        }
        let since = *self.slow_since.get_or_insert(now);
        if now - since >= INTERVAL {
            tracing::warn!(
                rows = self.rows,
                "submissions wait too long for the ledger; some are shed"
            );
            self.shedding = Some(now);
        }
    }
}

impl Reach {
    fn new(most: usize) -> Self {
        Self { most, sums: [0.0; 5], last: 0, turn: 0 }
    }

    fn note(&mut self, rows: usize, took: Duration) {
        let (x, y) = (rows as f64, took.as_secs_f64());
        self.last = rows;
        let [n, _, sum, ..] = self.sums;
        let expected = self.line().map_or(sum / n.max(1.0), |(group, row)| group + row * x);
        // What it was like, it is not any more, and is soon forgotten.
        let is_other = expected > 2.0 * y || y > 2.0 * expected;
        let fades = if is_other { FADES / 2.0 } else { FADES };
        for (sum, of_it) in self.sums.iter_mut().zip([1.0, x, y, x * x, x * y]) {
            *sum = *sum * fades + of_it;
        }
    }

    /// Seconds that a group takes, and each of its rows more; `None`: groups of one size do not say, or the larger ones take
    /// no longer.
    fn line(&self) -> Option<(f64, f64)> {
        let [n, x, y, xx, xy] = self.sums;
        let spread = n * xx - x * x;
        let per_row = (n * xy - x * y) / spread;
        (spread > x * x / 100.0 && per_row > 0.0)
            .then(|| (((y - per_row * x) / n).max(0.0), per_row))
    }

    fn rows(&self) -> usize {
        let [_, x, y, ..] = self.sums;
        let quick = QUICK.as_secs_f64();
        if x == 0.0 || y == 0.0 {
            return self.most;
        }
        // All that they took may be for their rows; a much larger group may be other than the line says.
        let (surely, daring) = (quick * x / y, GROWS * self.last as f64);
        let rows = self.line().map_or(daring, |(per_group, per_row)| {
            ((quick - per_group) / per_row).max(per_group / per_row * WORTH).min(daring)
        });
        (rows.max(surely).min(self.most as f64) as usize).max(1)
    }

    /// How large the next group may be.
    fn next(&mut self) -> usize {
        let ([n, _, y, ..], rows) = (self.sums, self.rows());
        if y <= n * QUICK.as_secs_f64() / 2.0 {
            return rows;
        }
        self.turn = (self.turn + 1) % 8;
        match self.turn {
            // Seldom, since less is written by it.
            0 if rows == self.most => rows.div_ceil(2),
            _ if rows == self.most => rows,
            0 | 2 | 4 | 6 => rows - rows / 4,
            _ => (rows + rows.div_ceil(4)).min(self.most),
        }
    }
}

impl Pace {
    /// Nothing waited until now: the time before says nothing.
    fn rest(&mut self, now: Instant) {
        (self.since, self.rows) = (now, 0);
    }

    fn note(&mut self, rows: usize, now: Instant) {
        let time = now - self.since;
        if time >= TARGET {
            self.per_second = self.rows as f64 / time.as_secs_f64();
            self.rest(now);
        }
        self.rows += rows;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of one group of the writer that is played here.
    const GROUP: usize = 50;
    /// What it writes per second at its best.
    const PEAK: f64 = 1_250.0;

    /// One row in 0.4 ms, and 20 ms for each group.
    fn cost(rows: usize) -> Duration {
        Duration::from_micros(20_000 + 400 * rows as u64)
    }

    /// What became of a time of load.
    #[derive(Default)]
    struct Ran {
        /// From coming to being written, in order of the end.
        latencies: Vec<Duration>,
        refused: usize,
        /// Refused after having waited.
        shed: usize,
        longest_in_vain: Duration,
    }

    impl Ran {
        fn p99(&self) -> Duration {
            let mut sorted = self.latencies.clone();
            sorted.sort_unstable();
            sorted[sorted.len() * 99 / 100]
        }
    }

    /// A line, and a writer that takes from it, at their own time.
    struct World {
        line: State<Instant>,
        now: Instant,
        free_at: Instant,
        group: usize,
        cost: fn(usize) -> Duration,
    }

    impl World {
        fn new() -> Self {
            Self::of(GROUP, cost)
        }

        fn of(group: usize, cost: fn(usize) -> Duration) -> Self {
            let now = Instant::now();
            Self { line: State::new((1, group), now), now, free_at: now, group, cost }
        }

        /// One row each `1 / per_second`, for so long.
        fn run(&mut self, per_second: f64, time: Duration) -> Ran {
            let (mut ran, end) = (Ran::default(), self.now + time);
            let mut next = self.now;
            while next < end || self.free_at < end {
                if self.free_at <= next {
                    self.now = self.free_at;
                    self.write(&mut ran, next);
                } else {
                    self.now = next;
                    if self.line.is_full(self.now) {
                        ran.refused += 1;
                    } else {
                        self.line.push(1, self.now, self.now);
                    }
                    next += Duration::from_secs_f64(1.0 / per_second);
                }
            }
            self.now = end;
            ran
        }

        fn write(&mut self, ran: &mut Ran, next: Instant) {
            let group = self.line.take(self.group, self.now);
            if group.taken.is_empty() && group.shed.is_empty() {
                self.free_at = next + Duration::from_nanos(1);
                return;
            }
            let took = (self.cost)(group.taken.len());
            self.free_at = self.now + took;
            self.line.reach.note(group.taken.len(), took);
            ran.latencies.extend(group.taken.iter().map(|at| self.free_at - *at));
            ran.shed += group.shed.len();
            let in_vain = group.shed.iter().map(|at| self.now - *at).max();
            ran.longest_in_vain = ran.longest_in_vain.max(in_vain.unwrap_or_default());
        }
    }

    /// Goal: at three times what can be written, what is written stays as much, and comes in time; nobody waits long in
    /// vain. Afterwards all is as before.
    #[test]
    fn overload_is_shed_and_costs_no_throughput() {
        let mut world = World::new();
        let before = world.run(PEAK * 0.8, Duration::from_secs(10));
        assert_eq!((before.refused, before.shed), (0, 0));
        let over = world.run(PEAK * 3.0, Duration::from_secs(120));
        let goodput = over.latencies.len() as f64 / 120.0 / PEAK;
        assert!(goodput > 0.95, "{goodput}");
        assert!(over.p99() < Duration::from_secs(1), "{:?}", over.p99());
        assert!(over.refused > over.shed / 2, "most are told at once");
        // But for the moment at which it begins.
        let mut world = World::new();
        world.run(PEAK * 3.0, Duration::from_secs(5));
        let steady = world.run(PEAK * 3.0, Duration::from_secs(20));
        assert!(steady.p99() < TARGET + cost(GROUP), "{:?}", steady.p99());
        assert!(steady.longest_in_vain <= TARGET + cost(GROUP), "{:?}", steady.longest_in_vain);
        world.run(PEAK * 0.8, Duration::from_secs(3));
        let after = world.run(PEAK * 0.8, Duration::from_secs(10));
        assert_eq!((after.refused, after.shed), (0, 0));
        assert!(after.p99() < Duration::from_millis(200), "{:?}", after.p99());
    }

    /// Goal: nothing is shed because of a burst, a pause of the ledger, or load that it can just bear.
    #[test]
    fn what_passes_by_itself_is_not_shed() {
        let mut world = World::new();
        assert_eq!(world.run(PEAK * 0.97, Duration::from_secs(30)).refused, 0);
        let burst = world.run(PEAK * 3.0, Duration::from_millis(300));
        let calm = world.run(PEAK * 0.3, Duration::from_secs(10));
        assert_eq!((burst.refused + burst.shed, calm.refused + calm.shed), (0, 0));
        world.free_at += Duration::from_millis(700);
        let paused = world.run(PEAK * 0.5, Duration::from_secs(10));
        assert_eq!((paused.refused, paused.shed), (0, 0));
    }

    /// Goal: there is always room for a full group: with less the writer would write less, and be given less.
    #[test]
    fn a_slow_writer_is_not_starved() {
        let now = Instant::now();
        let mut line: State<usize> = State::new((1, GROUP), now);
        let at = |ms| now + Duration::from_millis(ms);
        // Groups take two seconds: more than the target.
        let mut written = 0;
        for ms in 0..60_000 {
            if !line.is_full(at(ms)) {
                line.push(1, 0, at(ms));
            }
            if ms % 2_000 == 0 {
                let rows = line.take(GROUP, at(ms)).taken.len();
                line.reach.note(rows, Duration::from_secs(2));
                // Until then it is found out how large groups may be.
                written += if ms >= 10_000 { rows } else { 0 };
            }
        }
        assert!(written >= 25 * GROUP / 100 * 93, "{written}");
    }

    /// Three times the peak for two minutes, after a time of load that is borne: the share of the peak that is written, and
    /// how long that took.
    fn overload(group: usize, cost: fn(usize) -> Duration) -> (f64, Duration) {
        let peak = group as f64 / cost(group).as_secs_f64();
        let mut world = World::of(group, cost);
        world.run(peak * 0.7, Duration::from_secs(20));
        let over = world.run(peak * 3.0, Duration::from_secs(120));
        world.run(peak * 0.5, Duration::from_secs(5));
        let after = world.run(peak * 0.5, Duration::from_secs(10));
        assert_eq!((after.refused, after.shed), (0, 0), "it is over");
        (over.latencies.len() as f64 / 120.0 / peak, over.p99())
    }

    /// Goal: where rows take their time, groups are small enough for what is in them to be in time; but not so small that
    /// less is written.
    #[test]
    fn groups_are_as_large_as_is_good_for_what_is_written_and_when() {
        let in_time = Duration::from_secs(1);
        let (goodput, p99) = overload(500, |rows| Duration::from_millis(10 * rows as u64));
        assert!(goodput > 0.95 && p99 < in_time, "a slow row: {goodput} {p99:?}");
        let (goodput, p99) = overload(500, |rows| Duration::from_millis(5 + 20 * rows as u64));
        assert!(goodput > 0.9 && p99 < in_time, "a slower row: {goodput} {p99:?}");
        let (goodput, p99) = overload(500, |rows| Duration::from_millis(200 + 2 * rows as u64));
        assert!(goodput > 0.75 && p99 < 3 * in_time, "both: {goodput} {p99:?}");
        let (goodput, p99) = overload(2_000, |rows| {
            Duration::from_millis(200) + Duration::from_micros(500 * rows as u64)
        });
        assert!(goodput > 0.75 && p99 < 3 * in_time, "both, many: {goodput} {p99:?}");
        let (goodput, p99) = overload(500, |_| Duration::from_millis(400));
        assert!(goodput > 0.9 && p99 < 2 * in_time, "a slow commit: {goodput} {p99:?}");
    }

    /// Goal: a ledger that was slow by the row and is slow by the group now is given full groups again.
    #[test]
    fn what_a_group_takes_is_found_out_again_and_again() {
        let mut reach = Reach::new(500);
        for rows in [1, 2, 1, 2, 1, 2] {
            reach.note(rows, Duration::from_millis(300 * rows as u64));
        }
        assert_eq!(reach.rows(), 1);
        for _ in 0..200 {
            let rows = reach.next();
            reach.note(rows, Duration::from_millis(300));
        }
        assert_eq!(reach.rows(), 500);
    }

    /// How many groups of a line that never ends it takes until they are of so many rows.
    fn groups_until(reach: &mut Reach, rows: usize, cost: fn(usize) -> Duration) -> usize {
        for groups in 0..1_000 {
            if reach.rows() >= rows {
                return groups;
            }
            let rows = reach.next();
            reach.note(rows, cost(rows));
        }
        panic!("groups stay at {} rows", reach.rows());
    }

    /// Goal: a fault that is over is soon forgotten.
    #[test]
    fn a_ledger_that_hung_is_given_full_groups_soon() {
        let quick = |rows: usize| Duration::from_micros(20_000 + 40 * rows as u64);
        let mut reach = Reach::new(500);
        for rows in [300, 300, 1, 1, 1] {
            reach.note(rows, Duration::from_secs(if rows == 1 { 5 } else { 12 }));
        }
        let groups = groups_until(&mut reach, 400, quick);
        assert!(groups <= 40, "{groups}");
        let mut reach = Reach::new(500);
        for rows in [10, 20, 15] {
            reach.note(rows, quick(rows));
        }
        reach.note(20, Duration::from_secs(3));
        let groups = groups_until(&mut reach, 400, quick);
        assert!(groups <= 40, "{groups}");
    }

    /// Goal: what was written in full groups quickly, and is not any more, is written in smaller ones.
    #[test]
    fn full_groups_that_become_slow_become_smaller() {
        let mut reach = Reach::new(500);
        for _ in 0..50 {
            reach.note(500, Duration::from_millis(60));
        }
        assert_eq!(reach.next(), 500);
        for _ in 0..60 {
            let rows = reach.next();
            reach.note(rows, Duration::from_millis(10 + 2 * rows as u64));
        }
        assert!((100..=150).contains(&reach.rows()), "{}", reach.rows());
    }

    /// Goal: a submission of many rows is as welcome as one of few.
    #[test]
    fn a_large_submission_is_not_kept_out() {
        let now = Instant::now();
        let mut state: State<()> = State::new((1, 500), now);
        for rows in [10, 20, 10, 20] {
            state.reach.note(rows, Duration::from_millis(10 * rows as u64));
        }
        state.shedding = Some(now);
        state.push(1, (), now);
        assert!(!state.is_full(now));
        state.push(1_000, (), now);
        assert!(state.is_full(now));
    }

    #[tokio::test]
    async fn a_closed_line_gives_what_it_has_and_takes_nothing() {
        let turns = Turns::new(1, GROUP);
        assert!(turns.push(1, 'a').is_ok() && turns.push(1, 'b').is_ok());
        turns.close();
        assert_eq!(turns.push(1, 'c'), Err('c'));
        assert!(matches!(turns.admit(), Err(NotIn::Closed)));
        assert!(turns.ready().await);
        assert_eq!(turns.take(1).taken, ['a']);
        assert_eq!(turns.take(9).taken, ['b']);
        assert!(!turns.ready().await);
    }
}
