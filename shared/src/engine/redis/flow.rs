//! The packed values of limits and shares that Rust and Lua share; `lua/flow.lua` describes them.

use bytes::{Buf, BufMut};

use super::layout::Damaged;
#[cfg(feature = "testkit")]
use super::layout::take_id;
use crate::engine::flow::{Flow, FlowKey, FlowSettings, Limits, Rate};
#[cfg(feature = "testkit")]
use crate::engine::model::{FlowState, Scope, ScopeKind, Share};
#[cfg(feature = "testkit")]
use crate::model::id::JobId;

/// Bytes of a flow.
pub(super) const FLOW_LENGTH: usize = 48;
/// Puts a flow behind a job's kind.
pub(super) fn put_flow(out: &mut Vec<u8>, flow: &Flow) {
    for key in [flow.lane, flow.kind, flow.share, flow.concurrency, flow.rate] {
        out.put_slice(key.as_bytes());
    }
    out.put_u32(flow.units);
    out.put_u32(flow.weight);
}

/// Reads what [`put_flow`] wrote.
pub(super) fn read_flow(bytes: &mut impl Buf) -> Result<Flow, Damaged> {
    Ok(Flow {
        lane: read_key(bytes)?,
        kind: read_key(bytes)?,
        share: read_key(bytes)?,
        concurrency: read_key(bytes)?,
        rate: read_key(bytes)?,
        units: bytes.try_get_u32()?,
        weight: bytes.try_get_u32()?,
    })
}

/// Takes a key off the front.
pub(super) fn read_key(bytes: &mut impl Buf) -> Result<FlowKey, Damaged> {
    let mut key = [0; 8];
    bytes.try_copy_to_slice(&mut key)?;
    Ok(FlowKey::from_bytes(key))
}

/// Puts limits down.
pub(super) fn put_limits(out: &mut Vec<u8>, limits: &Limits) {
    out.put_u32(limits.concurrency.unwrap_or(0));
    out.put_u64(limits.rate.map_or(0, |rate| rate.interval_us));
    out.put_u32(limits.rate.map_or(0, |rate| rate.burst));
}

/// Reads what [`put_limits`] wrote.
pub(super) fn read_limits(bytes: &mut impl Buf) -> Result<Limits, Damaged> {
    let concurrency = Some(bytes.try_get_u32()?).filter(|most| *most > 0);
    let (interval_us, burst) = (bytes.try_get_u64()?, bytes.try_get_u32()?);
    let rate = (interval_us > 0).then_some(Rate { interval_us, burst });
    Ok(Limits { concurrency, rate })
}

/// What follows the settings of a shard: the kinds with limits, and the weights.
pub(super) fn fill(cmd: &mut redis::Cmd, flow: &FlowSettings) {
    for (kind, limits) in &flow.kinds {
        let mut value = FlowKey::of(kind.as_str()).as_bytes().to_vec();
        put_limits(&mut value, limits);
        cmd.arg(kind.as_str()).arg(value);
    }
    cmd.arg(flow.weights.len());
    for (share, weight) in &flow.weights {
        let mut value = share.as_bytes().to_vec();
        value.put_u32(*weight);
        cmd.arg(value);
    }
}

/// Reads a member of the set of all that has no number into what it says. For dumps.
#[cfg(feature = "testkit")]
pub(super) fn read_member(state: &mut FlowState, bytes: &mut impl Buf) -> Result<(), Damaged> {
    match bytes.try_get_u8()? {
        b'j' => {
            let (lane, score) = (read_key(bytes)?, read_order(bytes)?);
            state.lanes.insert((lane, score, JobId::from_bytes(take_id(bytes)?)));
        }
        b't' => {
            let (share, score) = (read_key(bytes)?, read_order(bytes)?);
            state.turns.insert((share, score, read_key(bytes)?));
        }
        b'b' => {
            let (scope, score) = (read_scope(bytes)?, read_order(bytes)?);
            state.blocked.insert((scope, score, read_key(bytes)?, read_key(bytes)?));
        }
        b'r' => {
            let scope = read_scope(bytes)?;
            let id = JobId::from_bytes(take_id(bytes)?);
            state.running.entry(scope).or_default().insert(id);
        }
        _ => return Err(Damaged),
    }
    if bytes.has_remaining() { Err(Damaged) } else { Ok(()) }
}

/// Reads a score that is in order as bytes.
#[cfg(feature = "testkit")]
fn read_order(bytes: &mut impl Buf) -> Result<i64, Damaged> {
    i64::try_from(bytes.try_get_u64()?).map(|order| order - (1 << 52)).map_err(|_| Damaged)
}

/// Reads a scope.
#[cfg(feature = "testkit")]
pub(super) fn read_scope(bytes: &mut impl Buf) -> Result<Scope, Damaged> {
    let kind = match bytes.try_get_u8()? {
        b'c' => ScopeKind::Key,
        b'd' => ScopeKind::KeyRate,
        b'k' => ScopeKind::Kind,
        b'l' => ScopeKind::KindRate,
        b'q' => ScopeKind::QueueRate,
        _ => return Err(Damaged),
    };
    Ok(Scope(kind, read_key(bytes)?))
}

/// Reads what a share has had.
#[cfg(feature = "testkit")]
pub(super) fn read_share(bytes: &mut impl Buf) -> Result<Share, Damaged> {
    Ok(Share {
        had: bytes.try_get_u64()?,
        slots: bytes.try_get_u64()?,
        accrued: bytes.try_get_u64()?,
        at: bytes.try_get_u64()?,
        cost: bytes.try_get_u64()?,
        waiting: bytes.try_get_u64()?,
    })
}
