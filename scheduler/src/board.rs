//! How the duties of this process go. Kept in memory, written to the ledger in one statement every few seconds: a view
//! for people, off every hot path. Where it cannot be written, nothing but the view is old.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use windlass_shared::engine::ShardId;
use windlass_shared::ledger::duties::{Declared, DutyNote, Ended, WRITTEN_EVERY, Who};
use windlass_shared::ledger::{Epoch, Ledger};
use windlass_shared::model::id::WorkerId;

/// Longest wait for the ledger at the end of the process.
const LAST_MAX: Duration = Duration::from_secs(2);

/// What a duty is: each file of a duty declares one.
#[derive(Debug)]
pub(crate) struct Duty {
    pub(crate) name: &'static str,
    /// What it does, in a line.
    pub(crate) what: &'static str,
    /// From the end of a tick to the beginning of the next.
    pub(crate) interval: Duration,
    /// Most things of one step.
    pub(crate) batch: u32,
    /// A tick that takes longer is given up.
    pub(crate) longest: Duration,
    pub(crate) who: Who,
}

/// How a duty goes here.
#[derive(Debug)]
struct Going {
    duty: &'static Duty,
    started: Option<Instant>,
    ended: Option<Instant>,
    outcome: Ended,
    took: Duration,
    done: u64,
    ticks: u64,
    failures: u64,
    error: Option<String>,
    epoch: Option<Epoch>,
}

/// The duties of one process, and who else lives. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    replica: WorkerId,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    going: BTreeMap<&'static str, Going>,
    /// Processes that write, this one included.
    living: Vec<WorkerId>,
}

impl Board {
    /// Of the process with this id.
    pub(crate) fn new(replica: WorkerId) -> Self {
        let inner = Inner { going: BTreeMap::new(), living: vec![replica] };
        Self { replica, inner: Arc::new(Mutex::new(inner)) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock().expect("no holder of this lock panics"))
    }

    fn change<T>(&self, duty: &'static Duty, work: impl FnOnce(&mut Going) -> T) -> T {
        self.with(|inner| {
            work(inner.going.entry(duty.name).or_insert_with(|| Going {
                duty,
                started: None,
                ended: None,
                outcome: Ended::Never,
                took: Duration::ZERO,
                done: 0,
                ticks: 0,
                failures: 0,
                error: None,
                epoch: None,
            }))
        })
    }

    /// A tick begins.
    pub(crate) fn begun(&self, duty: &'static Duty, epoch: Option<Epoch>) {
        self.change(duty, |going| {
            going.started = Some(Instant::now());
            going.epoch = epoch;
        });
        tracing::debug!(duty = duty.name, epoch = epoch.map(|epoch| epoch.0), "duty begins");
    }

    /// The leader's duty is not this process's now.
    pub(crate) fn stands_by(&self, duty: &'static Duty) {
        self.change(duty, |going| {
            (going.outcome, going.epoch) = (Ended::Standby, None);
            (going.failures, going.error) = (0, None);
        });
    }

    /// The tick that began has ended: how many things were done, or how it failed and why. Measured and logged.
    pub(crate) fn ended(&self, duty: &'static Duty, result: Result<u64, (Ended, String)>) {
        let started = self.change(duty, |going| going.started);
        let took = started.map_or(Duration::ZERO, |started| started.elapsed());
        self.ended_after(duty, took, result);
    }

    /// As [`Self::ended`], of a duty whose work does not lie between the two calls.
    pub(crate) fn ended_after(
        &self,
        duty: &'static Duty,
        took: Duration,
        result: Result<u64, (Ended, String)>,
    ) {
        let name = duty.name;
        metrics::histogram!("windlass_duty_seconds", "duty" => name).record(took);
        match &result {
            Ok(done) => {
                metrics::counter!("windlass_duty_done_total", "duty" => name).increment(*done);
            }
            Err((outcome, _)) => {
                metrics::counter!("windlass_duty_failures_total", "duty" => name).increment(1);
                if *outcome == Ended::GivenUp {
                    metrics::counter!("windlass_duty_given_up_total", "duty" => name).increment(1);
                }
            }
        }
        let done = result.as_ref().ok().copied();
        let epoch = self.change(duty, |going| {
            going.took = took;
            going.ended = Some(Instant::now());
            going.ticks += 1;
            match result {
                Ok(done) => {
                    (going.outcome, going.done) = (Ended::Ok, done);
                    (going.failures, going.error) = (0, None);
                }
                Err((outcome, error)) => {
                    (going.outcome, going.done, going.error) = (outcome, 0, Some(error));
                    going.failures += 1;
                }
            }
            going.epoch
        });
        tracing::debug!(
            duty = name,
            epoch = epoch.map(|epoch| epoch.0),
            took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            done,
            "duty ticked"
        );
    }

    /// Whether a shard is this process's to look at first: each has one owner among the living.
    pub(crate) fn owns(&self, shard: &ShardId) -> bool {
        self.with(|inner| {
            inner.living.iter().max_by_key(|replica| weight(**replica, shard))
                == Some(&self.replica)
        })
    }

    /// How one duty goes.
    #[cfg(test)]
    pub(crate) fn one(&self, name: &str) -> Option<DutyNote> {
        self.notes().into_iter().find(|note| note.declared.duty == name)
    }

    fn notes(&self) -> Vec<DutyNote> {
        self.with(|inner| inner.going.values().map(note).collect())
    }

    /// Writes until `shutdown`, and once more then.
    pub(crate) async fn run(self, ledger: Ledger, name: String, shutdown: CancellationToken) {
        loop {
            let is_last = shutdown.is_cancelled();
            let notes = self.notes();
            let writing = ledger.note_duties(self.replica, &name, &notes);
            let most = if is_last { LAST_MAX } else { WRITTEN_EVERY };
            match tokio::time::timeout(most, writing).await {
                Ok(Ok(living)) => self.with(|inner| inner.living = living),
                // Whoever lives is not known then: the others' shards are looked at, too, but later.
                Ok(Err(error)) => tracing::debug!(%error, "how duties go cannot be written now"),
                Err(_) => tracing::debug!("how duties go cannot be written in time"),
            }
            if is_last {
                return;
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(WRITTEN_EVERY.mul_f64(rand::random_range(0.8..1.0))) => {}
            }
        }
    }
}

/// Of all living processes the one with the highest owns a shard; so one that comes or goes changes few owners.
fn weight(replica: WorkerId, shard: &ShardId) -> u64 {
    // Without keys, so that every process of a build counts the same. Where builds differ, two may think that a shard
    // is theirs, or none: it is only about who looks first.
    let mut hasher = DefaultHasher::new();
    (replica, shard).hash(&mut hasher);
    hasher.finish()
}

fn note(going: &Going) -> DutyNote {
    let duty = going.duty;
    DutyNote {
        declared: Declared {
            duty: duty.name.to_owned(),
            what: duty.what.to_owned(),
            interval: duty.interval,
            batch: duty.batch,
            longest: duty.longest,
            who: duty.who,
        },
        started: going.started.map(|at| at.elapsed()),
        ended: going.ended.map(|at| at.elapsed()),
        outcome: going.outcome,
        took: going.took,
        done: going.done,
        ticks: going.ticks,
        failures: going.failures,
        error: going.error.clone(),
        epoch: going.epoch,
    }
}

#[cfg(test)]
mod tests {
    use windlass_shared::model::name::Namespace;

    use super::*;

    /// Goal: each shard has one owner, the work is spread, and a process that goes leaves the others' shards alone.
    #[test]
    fn shards_are_spread_over_the_living() {
        let replicas: Vec<WorkerId> = (0..3).map(|_| WorkerId::generate()).collect();
        let boards: Vec<Board> = replicas.iter().map(|replica| Board::new(*replica)).collect();
        let shards: Vec<ShardId> = (0..300)
            .map(|n| ShardId::first(Namespace::default(), format!("q{n}").parse().unwrap()))
            .collect();
        let owners = |living: &[WorkerId]| -> Vec<usize> {
            boards.iter().for_each(|b| b.with(|inner| inner.living = living.to_vec()));
            let owner = |shard| {
                let mut owners =
                    (0..3).filter(|n| living.contains(&replicas[*n]) && boards[*n].owns(shard));
                let owner = owners.next().expect("somebody owns it");
                assert_eq!(owners.next(), None);
                owner
            };
            shards.iter().map(owner).collect()
        };
        let all = owners(&replicas);
        for n in 0..3 {
            let part = all.iter().filter(|owner| **owner == n).count();
            assert!((50..=150).contains(&part), "{part} of 300");
        }
        let two = owners(&replicas[..2]);
        assert!(all.iter().zip(&two).all(|(before, after)| *before == 2 || before == after));
    }
}
