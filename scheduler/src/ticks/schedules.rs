//! Fires what schedules have due, and notes how the work of their fires ended.
//!
//! Every replica may: of two that decide over one due time the ledger refuses one. So that they don't meet all the time,
//! those that don't lead leave a due time alone until it is late, as it is when the leader has died or stands still.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use windlass_shared::ledger::LedgerError;
use windlass_shared::ledger::duties::Who;
use windlass_shared::ledger::schedules::{OpenCursor, SchedulesDue};
use windlass_shared::lifecycle::Lifecycle;
use windlass_shared::model::name::{Namespace, ScheduleName};

use super::Tally;
use crate::board::Duty;
use crate::leader::Lead;
use crate::ticker::{Ticks, every};

/// How often due times are looked for. What comes due before the next look is waited for, so that it is not late by it.
const INTERVAL: Duration = Duration::from_millis(250);
/// Longest wait for what comes due soon: a little more than the longest interval.
const AHEAD: Duration = Duration::from_millis(300);
/// A due time that is older than this is anybody's.
const LEADERS_ONLY: Duration = Duration::from_secs(2);
/// Schedules of one look.
const PAGE: usize = 200;
/// Schedules that are looked at at once. One that takes long holds up no other.
const AT_ONCE: usize = 16;
/// Longest wait for places, before what is due is read again.
const START_MAX: Duration = Duration::from_secs(1);
/// One that could not be looked at is tried again after this long, each time twice as long.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// Most of these that are kept in mind.
const FAILING_MAX: usize = 10_000;
/// How often open fires are walked over, and how many of them at a time.
const WALK_EVERY: Duration = Duration::from_secs(1);
const WALK_PAGE: u32 = 1_000;

type Key = (Namespace, ScheduleName);
type Looked = (Key, Result<u64, LedgerError>);

/// What one process has under way.
#[derive(Default)]
struct Looks {
    tasks: JoinSet<Looked>,
    busy: HashSet<Key>,
    /// Looked at since what is due was read.
    done: HashSet<Key>,
    /// Not before, and how long the pause was.
    failing: HashMap<Key, (Instant, Duration)>,
    /// Where the walk over open fires is, and since when.
    walk: Option<OpenCursor>,
    walked: Option<Instant>,
}

pub(super) static DUTY: Duty = Duty {
    name: "schedules",
    what: "fires what is due; those that do not lead, what is late",
    interval: INTERVAL,
    batch: PAGE as u32,
    longest: Duration::from_secs(60),
    who: Who::Every,
};

pub(super) async fn run(life: Lifecycle, ticks: Ticks) {
    let looks = Arc::new(Mutex::new(Looks::default()));
    every(&DUTY, &ticks, || {
        let (life, lead, looks) = (life.clone(), ticks.lead.clone(), looks.clone());
        async move {
            let (mut looks, mut fired) = (looks.lock().await, Tally::default());
            let found = life.ledger().schedules_due(looks.page()).await?;
            looks.start_all(&life, &lead, &found, &mut fired).await;
            if let Some(wait) = soon(&found) {
                tokio::time::sleep(wait).await;
                let found = life.ledger().schedules_due(looks.page()).await?;
                looks.start_all(&life, &lead, &found, &mut fired).await;
            }
            fired.add(looks.walk_on(&life, &lead).await);
            fired.end()
        }
    })
    .await;
}

/// How long until the next due time, where that is before the next look.
fn soon(found: &SchedulesDue) -> Option<Duration> {
    let wait = found.next?.since(found.now);
    (!wait.is_zero() && wait <= AHEAD).then_some(wait)
}

impl Looks {
    /// Those that fail, or are under way, are among the longest due: there must be room for others beside them.
    fn page(&self) -> u32 {
        u32::try_from(PAGE + self.failing.len() + self.busy.len()).unwrap_or(u32::MAX)
    }

    /// Looks at everything that is due, as places come free; for a while.
    async fn start_all(
        &mut self,
        life: &Lifecycle,
        lead: &Lead,
        found: &SchedulesDue,
        fired: &mut Tally,
    ) {
        let until = Instant::now() + START_MAX;
        self.gather(fired);
        self.done.clear();
        while !self.start(life, lead, found) {
            // No place is free.
            let Ok(Some(ended)) = tokio::time::timeout_at(until, self.tasks.join_next()).await
            else {
                return;
            };
            self.take_in(ended, fired);
            self.gather(fired);
        }
    }

    /// Starts looking at what is due, and is not being looked at; whether there was a place for all.
    fn start(&mut self, life: &Lifecycle, lead: &Lead, found: &SchedulesDue) -> bool {
        let (leads, late) = (lead.epoch().is_some(), found.now.minus(LEADERS_ONLY));
        let now = Instant::now();
        for (namespace, name, look_at) in &found.due {
            let key = (namespace.clone(), name.clone());
            let rests = self.failing.get(&key).is_some_and(|(until, _)| *until > now);
            let is_started = self.busy.contains(&key) || self.done.contains(&key);
            if rests || is_started || !(leads || *look_at < late) {
                continue;
            }
            if self.busy.len() >= AT_ONCE {
                return false;
            }
            self.busy.insert(key.clone());
            let life = life.clone();
            self.tasks.spawn(async move {
                let looked = life.look_at_schedule(&key.0, &key.1).await;
                (key, looked)
            });
        }
        true
    }

    /// Takes in what has ended.
    fn gather(&mut self, fired: &mut Tally) {
        while let Some(ended) = self.tasks.try_join_next() {
            self.take_in(ended, fired);
        }
        if self.tasks.is_empty() {
            self.busy.clear();
        }
    }

    fn take_in(&mut self, ended: Result<Looked, JoinError>, fired: &mut Tally) {
        let Ok((key, looked)) = ended else {
            // It panicked: which one it was is not known; its place is given up when nothing is under way.
            fired.add(Err::<u64, _>(anyhow::anyhow!("a look at a schedule panicked")));
            return;
        };
        self.busy.remove(&key);
        match &looked {
            Ok(_) => {
                self.failing.remove(&key);
                self.done.insert(key);
            }
            Err(error) => self.rest(key, error),
        }
        fired.add(looked);
    }

    fn rest(&mut self, key: Key, error: &LedgerError) {
        tracing::debug!(schedule = %key.1, namespace = %key.0, %error, "a schedule cannot be looked at now");
        if self.failing.len() >= FAILING_MAX {
            self.failing.clear();
        }
        let before = self.failing.get(&key).map(|(_, pause)| *pause * 2);
        let pause = before.unwrap_or(AGAIN_MIN).min(AGAIN_MAX);
        self.failing.insert(key, (Instant::now() + pause, pause));
    }

    /// One step of the walk over open fires. Leader only, for economy: it is safe to do twice, and a new leader goes on
    /// within seconds.
    async fn walk_on(&mut self, life: &Lifecycle, lead: &Lead) -> Result<u64, LedgerError> {
        let is_early = self.walked.is_some_and(|walked| walked.elapsed() < WALK_EVERY);
        let epoch = lead.epoch();
        if epoch.is_none() || is_early {
            return Ok(0);
        }
        self.walked = Some(Instant::now());
        self.walk = life.ledger().note_ended_fires(epoch, self.walk, WALK_PAGE).await?;
        Ok(0)
    }
}
