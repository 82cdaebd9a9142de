//! The packed values of limits and shares that Rust and Lua share; `lua/flow.lua` describes them.

#[cfg(feature = "testkit")]
use std::collections::BTreeSet;

use bytes::{Buf, BufMut};

use super::layout::{Damaged, take_id};
use crate::engine::flow::{
    CircuitMode, CircuitSetting, Flow, FlowKey, FlowSettings, Group, Limits, Rate, RetryBudget,
};
use crate::engine::model::{Circuit, CircuitState};
#[cfg(feature = "testkit")]
use crate::engine::model::{FlowState, Scope, ScopeKind, Share, Turn};
use crate::model::id::{Fence, JobId};

/// Bytes of a flow.
pub(super) const FLOW_LENGTH: usize = 56;

/// Puts a flow behind a job's kind, after its length: builds with a longer one are to come.
pub(super) fn put_flow(out: &mut Vec<u8>, flow: &Flow) {
    out.put_u8(u8::try_from(FLOW_LENGTH).expect("it is short"));
    for key in [flow.lane, flow.kind, flow.share, flow.concurrency, flow.rate, flow.circuit] {
        out.put_slice(key.as_bytes());
    }
    out.put_u32(flow.units);
    out.put_u32(flow.weight);
}

/// Reads what [`put_flow`] wrote.
pub(super) fn read_flow(bytes: &mut impl Buf) -> Result<Flow, Damaged> {
    if usize::from(bytes.try_get_u8()?) != FLOW_LENGTH {
        return Err(Damaged);
    }
    Ok(Flow {
        lane: read_key(bytes)?,
        kind: read_key(bytes)?,
        share: read_key(bytes)?,
        concurrency: read_key(bytes)?,
        rate: read_key(bytes)?,
        circuit: read_key(bytes)?,
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

/// Reads a group.
pub(super) fn read_group(bytes: &mut impl Buf) -> Result<Group, Damaged> {
    let mut group = [0; 3];
    bytes.try_copy_to_slice(&mut group)?;
    Ok(Group::from_bytes(group))
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

/// Puts a retry budget down.
pub(super) fn put_retries(out: &mut Vec<u8>, budget: Option<RetryBudget>) {
    out.put_u32(budget.map_or(0, |budget| budget.percent));
    put_limits(out, &Limits { concurrency: None, rate: budget.map(|budget| budget.floor) });
}

/// Reads what [`put_retries`] wrote.
pub(super) fn read_retries(bytes: &mut impl Buf) -> Result<Option<RetryBudget>, Damaged> {
    let percent = bytes.try_get_u32()?;
    Ok(read_limits(bytes)?.rate.map(|floor| RetryBudget { percent, floor }))
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
    cmd.arg(flow.circuits.len());
    for (circuit, setting) in &flow.circuits {
        let mut value = circuit.as_bytes().to_vec();
        put_circuit_setting(&mut value, setting);
        cmd.arg(value);
    }
}

fn put_circuit_setting(out: &mut Vec<u8>, setting: &CircuitSetting) {
    out.put_u8(match setting.mode {
        CircuitMode::Auto => 0,
        CircuitMode::Open => 1,
        CircuitMode::Closed => 2,
    });
    out.put_u32(setting.failures);
    out.put_u64(setting.window_ms);
    out.put_u32(setting.percent);
    out.put_u32(setting.calls_min);
    out.put_u64(setting.probe_us);
}

/// Reads what the store keeps of a circuit.
pub(super) fn read_circuit(bytes: &mut impl Buf) -> Result<Circuit, Damaged> {
    let sort = bytes.try_get_u8()?;
    let mut known = Circuit {
        row: bytes.try_get_u32()?,
        from_ms: bytes.try_get_u64()?,
        calls: bytes.try_get_u32()?,
        failed: bytes.try_get_u32()?,
        since: bytes.try_get_i64()?,
        probe_at: bytes.try_get_i64()?,
        ..Circuit::default()
    };
    let (id, fence) = (JobId::from_bytes(take_id(bytes)?), Fence(bytes.try_get_u64()?));
    known.state = match sort {
        0 => CircuitState::Closed,
        1 => CircuitState::Open,
        2 => CircuitState::HalfOpen { id, fence },
        _ => return Err(Damaged),
    };
    Ok(known)
}

/// Reads a setting of a circuit. For dumps.
#[cfg(feature = "testkit")]
pub(super) fn read_circuit_setting(bytes: &mut impl Buf) -> Result<CircuitSetting, Damaged> {
    let mode = match bytes.try_get_u8()? {
        0 => CircuitMode::Auto,
        1 => CircuitMode::Open,
        2 => CircuitMode::Closed,
        _ => return Err(Damaged),
    };
    Ok(CircuitSetting {
        mode,
        failures: bytes.try_get_u32()?,
        window_ms: bytes.try_get_u64()?,
        percent: bytes.try_get_u32()?,
        calls_min: bytes.try_get_u32()?,
        probe_us: bytes.try_get_u64()?,
    })
}

/// What the set of all that has no number says that the model does not keep.
#[cfg(feature = "testkit")]
#[derive(Default)]
pub(super) struct Beside {
    /// Jobs that stand for themselves, and their ids.
    pub(super) alone: Vec<(Turn, JobId)>,
    /// Shares and the places where they stand.
    pub(super) standing: BTreeSet<(FlowKey, Scope)>,
}

/// Reads a member of the set of all that has no number into what it says. For dumps.
#[cfg(feature = "testkit")]
pub(super) fn read_member(
    (state, beside): (&mut FlowState, &mut Beside),
    bytes: &mut impl Buf,
) -> Result<(), Damaged> {
    match bytes.try_get_u8()? {
        b'u' => {
            let (kind, share) = (read_key(bytes)?, read_key(bytes)?);
            let (score, lane) = (read_order(bytes)?, read_key(bytes)?);
            let turn = Turn { place: Scope::free(kind), share, score, lane, kind };
            beside.alone.push((turn, JobId::from_bytes(take_id(bytes)?)));
        }
        b'j' => {
            let (lane, score) = (read_key(bytes)?, read_order(bytes)?);
            state.wait(lane, score, JobId::from_bytes(take_id(bytes)?));
        }
        b't' => {
            let (place, share) = (read_scope(bytes)?, read_key(bytes)?);
            let (score, lane, kind) = (read_order(bytes)?, read_key(bytes)?, read_key(bytes)?);
            state.turns.insert(Turn { place, share, score, lane, kind });
        }
        b'f' => {
            let (place, tag) = (read_scope(bytes)?, bytes.try_get_u64()?);
            state.fair.insert((place, tag, read_key(bytes)?));
        }
        b's' => {
            beside.standing.insert((read_key(bytes)?, read_scope(bytes)?));
        }
        b'x' => {
            state.circuits.entry(read_key(bytes)?).or_default();
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
        b'f' => ScopeKind::Free,
        b'k' => ScopeKind::Kind,
        b'l' => ScopeKind::KindRate,
        b'q' => ScopeKind::QueueRate,
        b'x' => ScopeKind::Circuit,
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
    })
}
