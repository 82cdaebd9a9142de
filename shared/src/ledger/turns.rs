//! Submissions wait here for their turn to be written, and are shed by how long that takes.
//!
//! A line in which everybody waits longer than [`TARGET`] for [`INTERVAL`] is a standing one: it helps nobody, and all that
//! comes in ends up too late (Nichols and Jacobson, "Controlling Queue Delay", 2012). From then on until nothing had to be
//! refused for an interval,
//! * what could not be written within the target is refused at once;
//! * no more is written at once than is written quickly, where less is written faster;
//! * what came last is written first: whoever sent it is still there;
//! * what is left then and has waited for longer than the target is refused, with nothing of it written.
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
/// Where smaller groups take as long, larger ones are not looked at again for so long.
const AS_LONG_FOR: Duration = Duration::from_secs(30);
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

/// How many rows one writer is to write at once while the line is a standing one: as many as it writes quickly, but all where
/// that is a matter of the commit and not of the rows.
struct Reach {
    rows: usize,
    most: usize,
    /// The latest group that was not quick.
    slow: Option<(usize, Duration)>,
    fixed_until: Option<Instant>,
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

    /// A group of so many rows took so long.
    pub(super) fn wrote(&self, rows: usize, took: Duration) {
        self.state().reach.note(rows, took, Instant::now());
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Whether so many rows more would find a place now.
    ///
    /// # Errors
    /// They would have to wait for too long, as everybody does.
    pub(super) fn admit(&self, rows: usize) -> Result<(), NotIn> {
        let mut state = self.state();
        if state.closed {
            return Err(NotIn::Closed);
        }
        if state.is_full(rows, Instant::now()) {
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
            reach: Reach { rows: group, most: group, slow: None, fixed_until: None },
            slow_since: None,
            shedding: None,
            pace: Pace { since: now, rows: 0, per_second: 0.0 },
        }
    }

    /// Whether so many rows more would wait too long. There is always room for what is written at once: less of it would
    /// be written no faster.
    fn is_full(&mut self, rows: usize, now: Instant) -> bool {
        self.look(now);
        let in_time = self.pace.per_second * TARGET.as_secs_f64();
        let is_full = self.shedding.is_some()
            && self.rows > 0
            && self.rows + rows > (self.writers * self.reach.rows).max(in_time as usize);
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
        let rows_max =
            if self.shedding.is_some() { rows_max.min(self.reach.rows) } else { rows_max };
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
    fn note(&mut self, rows: usize, took: Duration, now: Instant) {
        if took <= QUICK {
            if rows * 2 > self.rows {
                self.rows = (self.rows + self.rows / 4 + 1).min(self.most);
            }
            return;
        }
        if self.fixed_until.is_some_and(|until| now < until) {
            return;
        }
        if self.slow.is_some_and(|(more, longer)| rows <= more / 2 && took * 4 > longer * 3) {
            (self.rows, self.slow, self.fixed_until) = (self.most, None, Some(now + AS_LONG_FOR));
            return;
        }
        if self.slow.is_none_or(|(more, _)| rows <= more / 2 || rows > more) {
            self.slow = Some((rows, took));
        }
        let quickly = rows as f64 * QUICK.as_secs_f64() / took.as_secs_f64();
        self.rows = (quickly as usize).clamp(1, self.most);
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
                    if self.line.is_full(1, self.now) {
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
            self.line.reach.note(group.taken.len(), took, self.free_at);
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
            if !line.is_full(1, at(ms)) {
                line.push(1, 0, at(ms));
            }
            if ms % 2_000 == 0 {
                let rows = line.take(GROUP, at(ms)).taken.len();
                line.reach.note(rows, Duration::from_secs(2), at(ms + 2_000));
                written += rows;
            }
        }
        // Some groups are smaller: to find out that they take as long.
        assert!(written >= 26 * GROUP, "{written}");
    }

    /// Goal: where each row takes its time, groups are no larger than what is written in time.
    #[test]
    fn what_takes_its_time_by_the_row_is_written_in_small_groups() {
        let mut world = World::of(500, |rows| Duration::from_millis(10 * rows as u64));
        world.run(300.0, Duration::from_secs(20));
        let over = world.run(300.0, Duration::from_secs(120));
        let goodput = over.latencies.len() as f64 / 120.0 / 100.0;
        assert!(goodput > 0.95, "{goodput}");
        assert!(over.p99() < Duration::from_secs(1), "{:?}", over.p99());
        world.run(50.0, Duration::from_secs(3));
        let after = world.run(50.0, Duration::from_secs(10));
        assert_eq!((after.refused, after.shed), (0, 0));
    }

    #[tokio::test]
    async fn a_closed_line_gives_what_it_has_and_takes_nothing() {
        let turns = Turns::new(1, GROUP);
        assert!(turns.push(1, 'a').is_ok() && turns.push(1, 'b').is_ok());
        turns.close();
        assert_eq!(turns.push(1, 'c'), Err('c'));
        assert!(matches!(turns.admit(1), Err(NotIn::Closed)));
        assert!(turns.ready().await);
        assert_eq!(turns.take(1).taken, ['a']);
        assert_eq!(turns.take(9).taken, ['b']);
        assert!(!turns.ready().await);
    }
}
