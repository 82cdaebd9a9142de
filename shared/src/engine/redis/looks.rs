//! The verbs that only look at a shard: one typed function per script.

use std::collections::BTreeMap;

use super::changes::batches;
use super::flow as packed;
use super::layout::{Head, HeldStatus, HeldValue, read_outcome, read_settings, take_id};
use super::reply::Reply;
use super::script::{Script, Way};
use super::{Redis, layout};
use crate::engine::*;

/// Leases looked at by one round trip of `leased`.
const LEASED_PAGE: u32 = 500;

/// The contract: see [`Engine`], whose words hold here.
#[allow(missing_docs, reason = "documented once, at `Engine`")]
impl Redis {
    pub async fn outcomes(
        &self,
        shard: &ShardId,
        skip: u32,
        max: u32,
    ) -> Result<Vec<Outcome>, EngineError> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let mut cmd = ::redis::Cmd::new();
        cmd.arg("LRANGE").arg(self.keys(shard).outbox()).arg(skip);
        cmd.arg(u64::from(skip) + u64::from(max) - 1);
        let value = self.link.query(&cmd).await.map_err(|fault| fault.into_error("outcomes"))?;
        let mut reply = Reply::new("outcomes", value)?;
        let mut outcomes = Vec::with_capacity(reply.len());
        while reply.len() > 0 {
            let outcome = read_outcome(reply.bytes()?);
            outcomes.push(reply.sound(outcome)?);
        }
        Ok(outcomes)
    }

    pub async fn exists(&self, shard: &ShardId, ids: &[JobId]) -> Result<Vec<bool>, EngineError> {
        let mut whole = Vec::with_capacity(ids.len());
        for batch in batches(ids, |id| *id) {
            let mut reply = self
                .look(&self.scripts.exists, Way::Read, shard, |cmd| {
                    cmd.arg(batch.len());
                    for id in batch {
                        cmd.arg(id.as_bytes());
                    }
                })
                .await?;
            reply.expect("known")?;
            whole.extend(reply.letters(batch.len(), |letter| match letter {
                b'1' => Some(true),
                b'0' => Some(false),
                _ => None,
            })?);
            reply.end()?;
        }
        Ok(whole)
    }

    pub async fn peek(&self, shard: &ShardId, id: JobId) -> Result<Option<Live>, EngineError> {
        let mut reply = self
            .look(&self.scripts.peek, Way::Read, shard, |cmd| {
                cmd.arg(id.as_bytes());
            })
            .await?;
        let word = reply.word()?;
        if word == "absent" {
            return Ok(None);
        }
        let number = reply.count()?;
        let head = Head::read(&mut reply.bytes()?);
        let head = reply.sound(head)?;
        let mut held = reply.bytes()?;
        let state = match word.as_str() {
            "ready" => LiveState::Ready { ahead: number },
            "delayed" => LiveState::Delayed,
            "finishing" => LiveState::Finishing,
            "leased" => {
                let held = reply.sound(HeldValue::read(&mut held))?;
                let (worker, claimed_at) = reply.sound(held.lease.ok_or(layout::Damaged))?;
                LiveState::Leased {
                    worker,
                    claimed_at,
                    expires_at: Timestamp::from_millis(i64::try_from(number).unwrap_or(i64::MAX)),
                    cancel: held.cancel,
                }
            }
            _ => return Err(reply.unknown(word)),
        };
        Ok(Some(Live {
            state,
            fence: head.fence,
            attempt: head.attempt,
            crashes: head.crashes,
            run_at: head.run_at,
        }))
    }

    pub async fn refused(&self, shard: &ShardId, max: u32) -> Result<Vec<Refused>, EngineError> {
        let mut reply = self
            .look(&self.scripts.refused, Way::Read, shard, |cmd| {
                cmd.arg(max);
            })
            .await?;
        reply.expect("refused")?;
        let mut refused = Vec::new();
        while reply.len() > 0 {
            let mut group = reply.bytes()?;
            let group = reply.sound(packed::read_group(&mut group))?;
            refused.push(Refused { group, has_room: reply.count()? == 1 });
        }
        Ok(refused)
    }

    pub async fn circuits(
        &self,
        shard: &ShardId,
    ) -> Result<Vec<(flow::FlowKey, model::Circuit)>, EngineError> {
        let mut reply = self.look(&self.scripts.circuits, Way::Read, shard, |_| {}).await?;
        reply.expect("circuits")?;
        let mut circuits = Vec::new();
        while reply.len() > 0 {
            let mut value = reply.bytes()?;
            let key = reply.sound(packed::read_key(&mut value))?;
            circuits.push((key, reply.sound(packed::read_circuit(&mut value))?));
        }
        circuits.sort_unstable_by_key(|(key, _)| *key);
        Ok(circuits)
    }

    pub async fn holds(
        &self,
        shard: &ShardId,
        id: JobId,
    ) -> Result<Option<Vec<Hold>>, EngineError> {
        let mut reply = self
            .look(&self.scripts.holds, Way::Read, shard, |cmd| {
                cmd.arg(id.as_bytes()).arg(HOLDERS_MAX);
            })
            .await?;
        let word = reply.word()?;
        match word.as_str() {
            "absent" => return Ok(None),
            "holds" => {}
            _ => return Err(reply.unknown(word)),
        }
        let mut holds = Vec::new();
        while reply.len() > 0 {
            let sort = reply.word()?;
            let limit = match sort.as_str() {
                "Q" => Limit::QueueConcurrency,
                "q" => Limit::QueueRate,
                "k" => Limit::KindConcurrency,
                "l" => Limit::KindRate,
                "c" => Limit::KeyConcurrency,
                "d" => Limit::KeyRate,
                "x" => Limit::Circuit,
                _ => return Err(reply.unknown(sort)),
            };
            let most = u32::try_from(reply.count()?).ok().filter(|most| *most > 0);
            let running = reply.count()?;
            let until = reply.word()?.parse().unwrap_or(-1);
            let mut ids = reply.bytes()?;
            let mut by = Vec::with_capacity(HOLDERS_MAX);
            while !ids.is_empty() {
                let id = reply.sound(layout::take_id(&mut ids))?;
                by.push(JobId::from_bytes(id));
            }
            let until = (until >= 0).then(|| Timestamp::from_micros(until));
            holds.push(Hold { limit, most, running, by, until });
        }
        Ok(Some(holds))
    }

    /// Looks at every lease of the shard in several round trips: leases given or settled meanwhile may
    /// be in the answer or not.
    pub async fn leased(
        &self,
        shard: &ShardId,
        after: Option<(Timestamp, JobId)>,
        claimed_by: Timestamp,
        max: u32,
    ) -> Result<Vec<Running>, EngineError> {
        let from = after.map_or(0, |(at, _)| layout::micros(at));
        let mut cursor = "0".to_owned();
        let mut found = BTreeMap::new();
        loop {
            let mut reply = self
                .look(&self.scripts.leased, Way::Read, shard, |cmd| {
                    cmd.arg(&cursor).arg(from).arg(layout::micros(claimed_by)).arg(LEASED_PAGE);
                })
                .await?;
            reply.expect("leased")?;
            cursor = reply.word()?;
            while reply.len() > 0 {
                let running = read_running(reply.bytes()?);
                let running = reply.sound(running)?;
                let place = (running.claimed_at, running.id);
                if after.is_none_or(|after| place > after) {
                    found.insert(place, running);
                }
                if found.len() > max as usize {
                    found.pop_last();
                }
            }
            // Redis ends every round of a set that does not grow without end.
            if cursor == "0" {
                return Ok(found.into_values().collect());
            }
        }
    }

    pub async fn stats(&self, shard: &ShardId) -> Result<ShardStats, EngineError> {
        let mut reply = self.look(&self.scripts.stats, Way::Read, shard, |_| {}).await?;
        reply.expect("stats")?;
        let now = Timestamp::from_micros(reply.number()?);
        let mut stats = ShardStats { now, ..ShardStats::default() };
        for count in [
            &mut stats.ready,
            &mut stats.delayed,
            &mut stats.leased,
            &mut stats.outbox,
            &mut stats.bytes,
            &mut stats.refused,
        ] {
            *count = reply.count()?;
        }
        let settings = read_settings(&reply.bytes()?);
        stats.settings = reply.sound(settings)?;
        let mut first = reply.bytes()?;
        if !first.is_empty() {
            stats.oldest_ready = Some(reply.sound(Head::read(&mut first))?.run_at);
        }
        stats.open = reply.count()? == 1;
        reply.end()?;
        Ok(stats)
    }

    /// Of a Cluster the time of one of its masters.
    pub async fn now(&self) -> Result<Timestamp, EngineError> {
        if let Some(clock) = &self.test_clock {
            return Ok(clock.now());
        }
        let mut cmd = ::redis::Cmd::new();
        cmd.arg("TIME");
        let value = self.link.query(&cmd).await.map_err(|fault| fault.into_error("now"))?;
        let time: (i64, i64) = ::redis::from_redis_value(value)
            .map_err(|error| super::fault::unknown_reply("now", error.to_string()))?;
        Ok(Timestamp::from_micros(time.0.saturating_mul(1_000_000).saturating_add(time.1)))
    }

    /// Confirmed by the store; [`EngineError::Unavailable`] when it does not answer in time.
    pub async fn subscribe_to(
        &self,
        shards: &[ShardId],
        topics: &[Topic],
    ) -> Result<Signals, EngineError> {
        let mut channels = Vec::with_capacity(shards.len() * topics.len());
        for shard in shards {
            let keys = self.keys(shard);
            channels.extend(topics.iter().map(|topic| (keys.channel(*topic), shard.clone())));
        }
        let heard = self.hub.subscribe(channels).await;
        let (receiver, interest) = heard.map_err(|fault| fault.into_error("subscribe"))?;
        Ok(Signals::new(receiver, shards, topics).with_interest(interest))
    }

    pub(super) async fn look(
        &self,
        script: &Script,
        way: Way,
        shard: &ShardId,
        args: impl Fn(&mut ::redis::Cmd),
    ) -> Result<Reply, EngineError> {
        let value = self.run(script, way, shard, args).await;
        Reply::new(script.name, value.map_err(|fault| fault.into_error(script.name))?)
    }
}

fn read_running(mut bytes: Bytes) -> Result<Running, layout::Damaged> {
    let id = JobId::from_bytes(take_id(&mut bytes)?);
    let held = HeldValue::read(&mut bytes)?;
    match (held.status, held.lease) {
        (HeldStatus::Leased, Some((worker, claimed_at))) => Ok(Running {
            id,
            fence: held.head.fence,
            attempt: held.head.attempt,
            worker,
            claimed_at,
        }),
        _ => Err(layout::Damaged),
    }
}
