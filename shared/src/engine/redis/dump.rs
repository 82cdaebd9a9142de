//! A shard's whole state, for tests: what the scripts wrote, as the model would say it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Buf as _;

use super::Redis;
use super::flow;
use super::layout::{self, HeldStatus, HeldValue, JobValue, MetaValue, read_outcome};
use super::reply::Reply;
use super::script::Way;
use crate::engine::flow::{CircuitSetting, FlowKey, Limits};
use crate::engine::model::{
    BEHIND_MS, Entry, FlowState, Saved, Scope, ShardDump, Status, Turn, window,
};
use crate::engine::*;

/// The zsets by id, with their scores.
struct Places {
    ready: HashMap<JobId, i64>,
    lanes: HashMap<JobId, i64>,
    delayed: HashMap<JobId, i64>,
    leases: HashMap<JobId, i64>,
}

impl Redis {
    /// Empties a shard, as if the store had lost it.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when Redis does not answer.
    pub async fn wipe(&self, shard: &ShardId) -> Result<(), EngineError> {
        let mut cmd = ::redis::Cmd::new();
        cmd.arg("UNLINK").arg(self.keys(shard).all());
        self.link.query(&cmd).await.map_err(|fault| fault.into_error("wipe"))?;
        Ok(())
    }

    /// Everything in the shard's keys. `Err` also when they contradict each other.
    pub async fn dump(&self, shard: &ShardId) -> Result<ShardDump, EngineError> {
        let mut reply = self.look(&self.scripts.dump, Way::Hot, shard, |_| {}).await?;
        reply.expect("dump")?;
        let meta = reply.bytes()?;
        let jobs = pairs(&mut reply)?;
        let mut helds: HashMap<Bytes, Bytes> = pairs(&mut reply)?.into_iter().collect();
        let mut dump = ShardDump::default();
        let counters = reply.sound(MetaValue::read(meta))?;
        (dump.last_seq, dump.recorded_seq) = (counters.last_seq, counters.recorded_seq);
        (dump.bytes, dump.outbox_bytes) = (counters.bytes, counters.outbox_bytes);
        (dump.seen, dump.no_reap_until) = (counters.seen, counters.no_reap_until);
        (dump.gate, dump.settings) = (counters.gate, counters.settings);
        dump.ready = scores(&mut reply)?;
        dump.delayed = scores(&mut reply)?;
        dump.leases = scores(&mut reply)?;
        let mut outbox = reply.list()?;
        while outbox.len() > 0 {
            let outcome = read_outcome(outbox.bytes()?);
            dump.outbox.push(outbox.sound(outcome)?);
        }
        let now = self.now().await?;
        dump.tombstones = tombstones(&mut reply, counters.window as i64, window(now))?;
        let mut reported = reply.list()?;
        while reported.len() > 0 {
            let read = layout::read_reporter(&reported.bytes()?);
            match reported.sound(read)? {
                (worker, Report::Done) => dump.reported.push(worker),
                (worker, Report::Present) => dump.present.push(worker),
            }
        }
        dump.reported.sort_unstable();
        dump.present.sort_unstable();
        let beside;
        (dump.flow, beside) = flow(&mut reply)?;
        for (group, at) in pairs(&mut reply)? {
            let group = flow::read_group(&mut &*group).map_err(|_| contradiction("no group"))?;
            dump.refused.set(group, number(&at)?);
        }
        if let Some(ShardSettings { flow, .. }) = &mut dump.settings {
            (flow.kinds, flow.weights, flow.circuits) = beside;
        }
        reply.end()?;

        let by_id = |order: &[(i64, JobId)]| order.iter().map(|(n, id)| (*id, *n)).collect();
        let places = Places {
            ready: by_id(&dump.ready),
            lanes: dump.flow.lanes.iter().map(|(_, score, id)| (*id, *score)).collect(),
            delayed: by_id(&dump.delayed),
            leases: by_id(&dump.leases),
        };
        let mut entries = BTreeMap::new();
        for (id, job) in jobs {
            let held = helds.remove(&id).map(|mut held| HeldValue::read(&mut held)).transpose();
            let held = held.map_err(|_| contradiction("a damaged held"))?;
            let id = job_id(&id)?;
            let job = JobValue::read(job).map_err(|_| contradiction("a damaged job"))?;
            let entry = entry(job, held, &places, id)?;
            if let (Status::Leased { .. }, Some(claimed_at)) = (entry.status, entry.claimed_at) {
                dump.claims.push((claimed_at, id));
            }
            entries.insert(id, entry);
        }
        if !helds.is_empty() {
            return Err(contradiction("a held has no job"));
        }
        let placed = places.ready.len() + places.lanes.len() + places.delayed.len();
        if entries.len() < placed + places.leases.len() {
            return Err(contradiction("an order has a member that is no job"));
        }
        dump.claims.sort_unstable();
        dump.entries = entries;
        Ok(dump)
    }
}

fn status(
    held: HeldStatus,
    has_flow: bool,
    places: &Places,
    id: JobId,
) -> Result<Status, EngineError> {
    let order = if has_flow { &places.lanes } else { &places.ready };
    let (ready, delayed) = (order.get(&id), places.delayed.get(&id));
    Ok(match (held, ready, delayed, places.leases.get(&id)) {
        (HeldStatus::Waiting, Some(_), None, None) => Status::Ready,
        (HeldStatus::Waiting, None, Some(_), None) => Status::Delayed,
        (HeldStatus::Leased, None, None, Some(until_ms)) => Status::Leased { until_ms: *until_ms },
        (HeldStatus::Finishing, None, None, None) => Status::Finishing,
        other => return Err(contradiction(&format!("{id} is in the wrong orders: {other:?}"))),
    })
}

fn entry(
    job: JobValue,
    held: Option<HeldValue>,
    places: &Places,
    id: JobId,
) -> Result<Entry, EngineError> {
    let head = held.map_or(job.head, |held| held.head);
    let flow = held.map_or(job.flow, |held| held.flow);
    let waits = held.map_or(HeldStatus::Waiting, |held| held.status);
    Ok(Entry {
        status: status(waits, flow.is_some(), places, id)?,
        flow,
        cancel: held.is_some_and(|held| held.cancel),
        priority: head.priority,
        attempt: head.attempt,
        crashes: head.crashes,
        max_crashes: head.max_crashes,
        fence: head.fence,
        lease_id: held.and_then(|held| held.token),
        worker: held.and_then(|held| held.lease).map(|(worker, _)| worker),
        claimed_at: held.and_then(|held| held.lease).map(|(_, claimed_at)| claimed_at),
        run_at: head.run_at,
        is_behind: places.delayed.get(&id).is_some_and(|due_ms| *due_ms >= BEHIND_MS),
        expires_at: job.expires_at,
        score: head.score,
        kind: job.kind,
        envelope: job.envelope,
    })
}

/// Those that stand, of the hashes of even and odd windows.
fn tombstones(
    reply: &mut Reply,
    present: i64,
    now: i64,
) -> Result<Vec<(i64, JobId, Tombstone)>, EngineError> {
    let mut all = Vec::new();
    for parity in 0..2 {
        let number = if present % 2 == parity { present } else { present - 1 };
        for (id, tomb) in pairs(reply)? {
            let tomb = read_tombstone(&tomb)?;
            if number + 1 >= now {
                all.push((number, job_id(&id)?, tomb));
            }
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// Reads a tombstone: a fence, and a byte more if it is not whole.
fn read_tombstone(bytes: &[u8]) -> Result<Tombstone, EngineError> {
    let (fence, more) =
        bytes.split_first_chunk().ok_or_else(|| contradiction("a short tombstone"))?;
    let fence = Fence(u64::from_be_bytes(*fence));
    match more {
        [] => Ok(Tombstone::whole(fence)),
        [1] => Ok(Tombstone { fence, whole: false }),
        _ => Err(contradiction("a damaged tombstone")),
    }
}

/// What of the settings is kept beside them: kinds, weights and circuits.
type Beside = (BTreeMap<Kind, Limits>, BTreeMap<FlowKey, u32>, BTreeMap<FlowKey, CircuitSetting>);

/// Lanes, limits and shares, and what of the settings is kept beside them.
fn flow(reply: &mut Reply) -> Result<(FlowState, Beside), EngineError> {
    let damaged = |_| contradiction("damaged flow");
    let mut flow = FlowState::default();
    let mut beside = flow::Beside::default();
    let mut members = reply.list()?;
    while members.len() > 0 {
        let mut member = members.bytes()?;
        flow::read_member((&mut flow, &mut beside), &mut member).map_err(damaged)?;
    }
    for (scope, at) in pairs(reply)? {
        flow.timers.set(flow::read_scope(&mut &*scope).map_err(damaged)?, number(&at)?);
    }
    for (share, at) in pairs(reply)? {
        flow.idle.set(flow::read_key(&mut &*share).map_err(damaged)?, number(&at)?);
    }
    for (scope, due) in pairs(reply)? {
        flow.rates.set(flow::read_scope(&mut &*scope).map_err(damaged)?, number(&due)?);
    }
    let (mut kinds, mut weights, mut shares) =
        (BTreeMap::<Kind, Limits>::new(), BTreeMap::new(), 0);
    let (mut limits, mut circuits) = (BTreeMap::new(), BTreeMap::new());
    for (name, mut value) in pairs(reply)? {
        let (sort, mut name) = (name.first().copied(), name.slice(1..));
        match sort {
            Some(b'v') => {
                flow.virtual_ms = value.try_get_u64().map_err(|e| damaged(e.into()))?;
                shares = value.try_get_u64().map_err(|e| damaged(e.into()))?;
            }
            Some(b't') => {
                flow.looked_at = value.try_get_u64().map_err(|e| damaged(e.into()))? as i64;
            }
            Some(b'y') => {
                let us = value.try_get_u64().map_err(|e| damaged(e.into()))?;
                let at = value.try_get_u64().map_err(|e| damaged(e.into()))? as i64;
                flow.retries = Some(Saved { us, at });
            }
            Some(b'g') => {
                value.try_get_u64().map_err(|e| damaged(e.into()))?;
            }
            Some(b'n') => {
                let share = flow::read_key(&mut name).map_err(damaged)?;
                let place = flow::read_scope(&mut name).map_err(damaged)?;
                let tag = value.try_get_u64().map_err(|e| damaged(e.into()))?;
                flow.set_tag(place, share, Some(tag));
                if !beside.standing.remove(&(share, place)) {
                    return Err(contradiction("a tag of a share that stands nowhere"));
                }
            }
            Some(b'b') => {
                let lane = flow::read_key(&mut name).map_err(damaged)?;
                flow.blocked.insert(lane, flow::read_scope(&mut value).map_err(damaged)?);
            }
            Some(b's') => {
                let share = flow::read_key(&mut name).map_err(damaged)?;
                flow.shares.insert(share, flow::read_share(&mut value).map_err(damaged)?);
            }
            Some(b'w') => {
                let share = flow::read_key(&mut name).map_err(damaged)?;
                weights.insert(share, value.try_get_u32().map_err(|e| damaged(e.into()))?);
            }
            Some(b'k') => {
                let text = std::str::from_utf8(&name).ok().and_then(|text| text.parse().ok());
                let kind: Kind = text.ok_or_else(|| contradiction("a kind's name"))?;
                if *value != FlowKey::of(kind.as_str()).as_bytes()[..] {
                    return Err(contradiction("a kind's key is another one's"));
                }
                kinds.entry(kind).or_default();
            }
            Some(b'l') => {
                let key = flow::read_key(&mut name).map_err(damaged)?;
                limits.insert(key, flow::read_limits(&mut value).map_err(damaged)?);
            }
            Some(b'x') => {
                let key = flow::read_key(&mut name).map_err(damaged)?;
                flow.circuits.insert(key, flow::read_circuit(&mut value).map_err(damaged)?);
            }
            Some(b'm') => {
                let key = flow::read_key(&mut name).map_err(damaged)?;
                circuits.insert(key, flow::read_circuit_setting(&mut value).map_err(damaged)?);
            }
            Some(b'p') => {}
            _ => return Err(contradiction("an unknown fact")),
        }
    }
    for (kind, of) in &mut kinds {
        let found = limits.remove(&FlowKey::of(kind.as_str()));
        *of = found.ok_or_else(|| contradiction("a kind without limits"))?;
    }
    if !limits.is_empty() {
        return Err(contradiction("limits without a kind"));
    }
    if shares != flow.shares.len() as u64 {
        return Err(contradiction("shares were miscounted"));
    }
    if !beside.standing.is_empty() {
        return Err(contradiction("a share stands where it has no tag"));
    }
    stand_alone(&mut flow, beside.alone)?;
    Ok((flow, (kinds, weights, circuits)))
}

/// Lanes of which each job stands for itself, as the model says it: they stand where their first job does.
fn stand_alone(flow: &mut FlowState, alone: Vec<(Turn, JobId)>) -> Result<(), EngineError> {
    let aside: BTreeMap<FlowKey, Scope> = std::mem::take(&mut flow.blocked);
    let mut missing: BTreeSet<_> =
        flow.lanes.iter().filter(|(lane, ..)| !aside.contains_key(lane)).copied().collect();
    for (turn, id) in alone {
        let job = (turn.lane, turn.score, id);
        if !flow.lanes.contains(&job) {
            return Err(contradiction("a job that has left its lane stands for itself"));
        }
        missing.remove(&job);
        let is_first = flow.first(turn.lane) == Some((turn.score, id));
        if is_first && !aside.contains_key(&turn.lane) {
            flow.turns.insert(turn);
        }
    }
    if !missing.is_empty() {
        return Err(contradiction("a job stands nowhere"));
    }
    for (lane, place) in aside {
        if flow.first(lane).is_none() {
            return Err(contradiction("a lane without jobs is aside"));
        }
        if !place.is_free() {
            flow.blocked.insert(lane, place);
        }
    }
    Ok(())
}

fn number(text: &[u8]) -> Result<i64, EngineError> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| contradiction("a score is not whole"))
}

fn pairs(reply: &mut Reply) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
    let mut list = reply.list()?;
    let mut pairs = Vec::with_capacity(list.len() / 2);
    while list.len() > 0 {
        pairs.push((list.bytes()?, list.bytes()?));
    }
    Ok(pairs)
}

fn scores(reply: &mut Reply) -> Result<Vec<(i64, JobId)>, EngineError> {
    let pairs = pairs(reply)?;
    let read = |(id, score): &(Bytes, Bytes)| {
        let score = std::str::from_utf8(score).ok().and_then(|text| text.parse().ok());
        Ok((score.ok_or_else(|| contradiction("a score is not whole"))?, job_id(id)?))
    };
    pairs.iter().map(read).collect()
}

fn job_id(bytes: &[u8]) -> Result<JobId, EngineError> {
    let bytes = bytes.try_into().map_err(|_| contradiction("a key is no job id"))?;
    Ok(JobId::from_bytes(bytes))
}

fn contradiction(what: &str) -> EngineError {
    super::fault::unknown_reply("dump", what.to_owned())
}
