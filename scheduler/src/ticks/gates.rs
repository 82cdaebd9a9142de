//! Finds shards whose gate is shut and has them verified. Leader only.
//!
//! A shard is looked at when somebody tells that its gate is shut (claims do), when this process wins the lead, and by
//! and by: a few shards a second, so that a store that was wiped or started anew is noticed within a second or two even
//! when nobody claims; one that is found shut puts all others under suspicion.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use windlass_shared::engine::{EngineError, ShardId, Signal, Signals, Topic};
use windlass_shared::ledger::Epoch;
use windlass_shared::ledger::duties::{Ended, Who};
use windlass_shared::lifecycle::verify::{Verified, VerifySettings, verify};
use windlass_shared::lifecycle::{Lifecycle, PushError};

use crate::board::Duty;
use crate::leader::Lead;
use crate::ticker::Ticks;

/// How often some shards are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many of them.
const SAMPLE: usize = 50;
/// How often all of them are, and the list of shards is read anew.
const LOOK_AT_ALL_EVERY: Duration = Duration::from_secs(10);
/// A shard that is being opened for the first time is left alone for this long.
const SETTLE_FOR: Duration = Duration::from_millis(250);
/// Shards in verification at once: most of it is waiting for workers.
const VERIFIED_AT_ONCE: usize = 64;
/// A verification that failed is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

type Verification = (ShardId, Result<Verified, PushError>);

struct Gates {
    life: Lifecycle,
    lead: Lead,
    settings: VerifySettings,
    shards: Vec<ShardId>,
    /// Where the next sample starts.
    next: usize,
    /// To be looked at, from when on.
    suspects: HashMap<ShardId, Instant>,
    busy: HashSet<ShardId>,
    /// Opened by this process: a foreign gate there means that another fleet has taken over.
    opened: HashSet<ShardId>,
    tasks: JoinSet<Verification>,
    /// Why the store is not fit, as far as known.
    unfit: Option<String>,
}

/// It looks when it is told, too, not only at its interval.
static DUTY: Duty = Duty {
    name: "gates",
    what: "finds shards that are shut and has them compared with the ledger",
    interval: LOOK_EVERY,
    batch: SAMPLE as u32,
    longest: Duration::from_secs(30),
    who: Who::Leader,
};

pub(super) async fn run(
    life: Lifecycle,
    settings: VerifySettings,
    Ticks { lead, board, shutdown }: Ticks,
) {
    let mut gates = Gates {
        life,
        lead: lead.clone(),
        settings,
        shards: Vec::new(),
        next: 0,
        suspects: HashMap::new(),
        busy: HashSet::new(),
        opened: HashSet::new(),
        tasks: JoinSet::new(),
        unfit: None,
    };
    let mut lead = lead;
    let mut signals: Option<Signals> = None;
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut all = tokio::time::interval(LOOK_AT_ALL_EVERY);
    all.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = gates.next_due();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            Some(ended) = gates.tasks.join_next() => gates.ended(ended),
            () = lead.changed() => {
                signals = gates.refresh().await;
                gates.suspect_all(Duration::ZERO);
            }
            signal = next(&mut signals) => match signal {
                Some(Signal::Unverified(shard)) => gates.suspect(shard, SETTLE_FOR),
                Some(_) => {}
                None => signals = None,
            },
            _ = all.tick() => {
                signals = gates.refresh().await;
                gates.suspect_all(Duration::ZERO);
                gates.check_store().await;
            }
            _ = look.tick() => gates.suspect_some(),
            () = sleep_until(due) => {}
        }
        let epoch = gates.lead.epoch();
        if epoch.is_none() {
            board.stands_by(&DUTY);
            gates.suspects.clear();
            continue;
        }
        board.begun(&DUTY, epoch);
        let looked = gates.look().await.map_err(|error| (Ended::Failed, error.to_string()));
        board.ended(&DUTY, looked);
    }
}

async fn next(signals: &mut Option<Signals>) -> Option<Signal> {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Gates {
    /// Says so when the store has become unfit: a failover may lead to a server with other settings.
    async fn check_store(&mut self) {
        let unfit = match self.life.engine().check().await {
            Err(EngineError::Unfit(why)) => Some(why),
            Ok(()) | Err(_) => None,
        };
        metrics::gauge!("windlass_engine_fit").set(if unfit.is_some() { 0.0 } else { 1.0 });
        if unfit != self.unfit
            && let Some(why) = &unfit
        {
            tracing::error!(
                why,
                "the queue store is not fit; its shards are not opened once they are shut"
            );
        }
        self.unfit = unfit;
    }

    /// Reads the list of shards and listens to them; `None`: nobody to listen to, or not now.
    async fn refresh(&mut self) -> Option<Signals> {
        self.lead.epoch()?;
        match super::shards(&self.life).await {
            Ok(shards) => self.shards = shards,
            Err(error) => tracing::warn!(%error, "cannot list the shards to verify"),
        }
        self.life.engine().subscribe_to(&self.shards, &[Topic::Unverified]).await.ok()
    }

    fn suspect(&mut self, shard: ShardId, after: Duration) {
        self.suspects.entry(shard).or_insert_with(|| Instant::now() + after);
    }

    fn suspect_all(&mut self, after: Duration) {
        for shard in self.shards.clone() {
            self.suspect(shard, after);
        }
    }

    fn suspect_some(&mut self) {
        for _ in 0..SAMPLE.min(self.shards.len()) {
            let shard = self.shards[self.next % self.shards.len()].clone();
            self.next = (self.next + 1) % self.shards.len();
            self.suspect(shard, Duration::ZERO);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        if self.tasks.len() >= VERIFIED_AT_ONCE {
            return None;
        }
        let waiting = self.suspects.iter().filter(|(shard, _)| !self.busy.contains(*shard));
        waiting.map(|(_, at)| *at).min()
    }

    /// Looks at the suspects that are due, and begins to verify those that are shut; how many.
    async fn look(&mut self) -> Result<u64, PushError> {
        let Some(epoch) = self.lead.epoch() else { return Ok(0) };
        let now = Instant::now();
        let due: Vec<ShardId> = self
            .suspects
            .iter()
            .filter(|(shard, at)| **at <= now && !self.busy.contains(*shard))
            .map(|(shard, _)| shard.clone())
            .collect();
        let mut found_shut = 0;
        for shard in due {
            if self.tasks.len() >= VERIFIED_AT_ONCE {
                return Ok(found_shut);
            }
            match self.needs_verification(&shard).await {
                Ok(shut) => {
                    self.suspects.remove(&shard);
                    if shut {
                        found_shut += 1;
                        self.begin(shard, epoch);
                    }
                }
                Err(error) => {
                    // The store does not answer: no need to ask it about the others now.
                    tracing::debug!(%shard, %error, "cannot look at a shard");
                    let not_before = Instant::now() + RETRY_AFTER;
                    self.suspects.values_mut().for_each(|at| *at = (*at).max(not_before));
                    return Err(error);
                }
            }
        }
        if found_shut > 0 {
            self.suspect_all(Duration::ZERO);
        }
        Ok(found_shut)
    }

    async fn needs_verification(&self, shard: &ShardId) -> Result<bool, PushError> {
        let view = self.life.engine().gate(shard).await?;
        let foreign = view.gate.is_some_and(|gate| gate.ledger != self.life.ledger().id());
        if foreign && self.opened.contains(shard) {
            tracing::error!(
                %shard,
                "wrong_ledger: another ledger has taken this queue store over; give one of the two another \
                 engine.prefix, and restart"
            );
            return Ok(false);
        }
        // What another ledger has left there must not be leased for a moment longer, however new this one is.
        if foreign || view.is_open() {
            return Ok(foreign);
        }
        // Of one that was never opened nothing was ever leased: the first push opens it.
        Ok(self.life.ledger().shard(shard).await?.generation > 0)
    }

    fn begin(&mut self, shard: ShardId, epoch: Epoch) {
        if !self.busy.insert(shard.clone()) {
            return;
        }
        let (life, settings) = (self.life.clone(), self.settings);
        self.tasks.spawn(async move {
            let verified = verify(&life, &shard, epoch, &settings).await;
            (shard, verified)
        });
    }

    fn ended(&mut self, ended: Result<Verification, tokio::task::JoinError>) {
        let (shard, verified) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                // Its shard would stay busy: begin anew with all of them.
                tracing::error!(%error, "a verification panicked");
                self.busy.clear();
                return self.suspect_all(RETRY_AFTER);
            }
        };
        self.busy.remove(&shard);
        match verified {
            Ok(Verified::Opened { .. }) => {
                metrics::counter!("windlass_verifications_total", "result" => "opened")
                    .increment(1);
                self.opened.insert(shard);
            }
            Ok(Verified::NotLeader | Verified::Superseded | Verified::NoQueue) => {
                metrics::counter!("windlass_verifications_total", "result" => "left").increment(1);
            }
            Err(error) => {
                metrics::counter!("windlass_verifications_total", "result" => "failed")
                    .increment(1);
                tracing::warn!(%shard, %error, "cannot verify a shard; trying again");
                self.suspect(shard, RETRY_AFTER);
            }
        }
    }
}
