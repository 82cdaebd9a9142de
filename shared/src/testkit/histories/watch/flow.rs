//! What always holds of lanes, limits and shares.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::flow::{CircuitMode, Flow, FlowKey, FlowSettings};
use crate::engine::model::{CircuitState, Entry, Scope, ScopeKind, ShardDump, Status};
use crate::model::id::JobId;

/// What is wrong with a state.
pub(super) fn check(state: &ShardDump, wrong: &mut Vec<String>) {
    let default = FlowSettings::default();
    let settings = state.settings.as_ref().map_or(&default, |settings| &settings.flow);
    lanes(state, wrong);
    shares(state, wrong);
    running(state, settings, wrong);
    waits(state, settings, wrong);
    for (key, circuit) in &state.flow.circuits {
        let CircuitState::HalfOpen { id, fence } = circuit.state else { continue };
        let probe = state.entries.get(&id);
        if !probe.is_some_and(|entry| is_leased(entry) && entry.fence == fence) {
            wrong.push(format!("the probe of {key:?} does not run"));
        }
    }
}

/// No limit of concurrency is passed by what a claim gave.
pub(super) fn limits_hold(before: &ShardDump, after: &ShardDump, wrong: &mut Vec<String>) {
    let Some(settings) = after.settings.as_ref().map(|settings| &settings.flow) else { return };
    let (had, has) = (before.leases.len(), after.leases.len());
    if has > had && settings.queue.concurrency.is_some_and(|limit| has > limit as usize) {
        wrong.push(format!("{has} leases"));
    }
    for (scope, ids) in &after.flow.running {
        let limit = match scope.0 {
            ScopeKind::Key => settings.keys.concurrency,
            _ => {
                let mut kinds = settings.kinds.iter();
                let found = kinds.find(|(kind, _)| FlowKey::of(kind.as_str()) == scope.1);
                found.and_then(|(_, limits)| limits.concurrency)
            }
        };
        let had = before.flow.running.get(scope).map_or(0, BTreeSet::len);
        if ids.len() > had && limit.is_some_and(|limit| ids.len() > limit as usize) {
            wrong.push(format!("{} leases of {scope:?}", ids.len()));
        }
    }
}

fn is_leased(entry: &Entry) -> bool {
    matches!(entry.status, Status::Leased { .. })
}

/// Lanes hold the ready jobs that have a flow, and each stands in one place, by its first job.
fn lanes(state: &ShardDump, wrong: &mut Vec<String>) {
    let ready = state.entries.iter().filter(|(_, entry)| entry.status == Status::Ready);
    let expected: BTreeSet<_> =
        ready.filter_map(|(id, entry)| Some((entry.flow?.lane, entry.score, *id))).collect();
    if expected != state.flow.lanes {
        wrong.push("lanes do not hold what is ready".to_owned());
    }
    let mut firsts = BTreeMap::new();
    for (lane, score, id) in &expected {
        firsts.entry(*lane).or_insert((*score, state.entries[id].flow.expect("it has a lane")));
    }
    let mut places = BTreeMap::new();
    for turn in &state.flow.turns {
        let blocked = state.flow.blocked.get(&turn.lane).copied();
        if blocked.unwrap_or(Scope::free(turn.kind)) != turn.place {
            wrong.push(format!("{:?} stands elsewhere than is noted", turn.lane));
        }
        if places.insert(turn.lane, (turn.score, turn.share, turn.kind)).is_some() {
            wrong.push(format!("{:?} stands in two places", turn.lane));
        }
    }
    let firsts: BTreeMap<_, _> =
        firsts.into_iter().map(|(lane, (score, f))| (lane, (score, f.share, f.kind))).collect();
    if firsts != places {
        wrong.push(format!("lanes stand wrongly: {firsts:?} {places:?}"));
    }
    if state.flow.blocked.keys().any(|lane| !firsts.contains_key(lane)) {
        wrong.push("a lane without jobs is held".to_owned());
    }
}

fn shares(state: &ShardDump, wrong: &mut Vec<String>) {
    let turns: BTreeSet<(Scope, FlowKey)> =
        state.flow.turns.iter().map(|turn| (turn.place, turn.share)).collect();
    let fair: BTreeSet<(Scope, FlowKey)> =
        state.flow.fair.iter().map(|(place, _, share)| (*place, *share)).collect();
    if turns != fair || fair.len() != state.flow.fair.len() {
        wrong.push("a share stands where it has no lanes, or the reverse".to_owned());
    }
    let mut slots = BTreeMap::<FlowKey, u64>::new();
    let mut waiting = BTreeSet::new();
    for entry in state.entries.values() {
        let Some(flow) = entry.flow else { continue };
        if entry.status == Status::Ready {
            waiting.insert(flow.share);
        } else if is_leased(entry) {
            *slots.entry(flow.share).or_default() += u64::from(flow.weight);
        }
    }
    for (key, share) in &state.flow.shares {
        waiting.remove(key);
        // Jobs without keys are counted from when there are others.
        if share.slots != slots.remove(key).unwrap_or_default() && !key.is_none() {
            wrong.push(format!("{key:?} has another number of slots"));
        }
        if share.slots == 0 && !waiting.contains(key) && !stands(state, *key) {
            let is_known = state.flow.idle.get(*key).is_some();
            if !is_known && !key.is_none() {
                wrong.push(format!("{key:?} is never forgotten"));
            }
        }
    }
    slots.remove(&FlowKey::NONE);
    if !waiting.is_empty() || !slots.is_empty() {
        wrong.push("a share is forgotten that waits or runs".to_owned());
    }
}

fn stands(state: &ShardDump, share: FlowKey) -> bool {
    state.flow.turns.iter().any(|turn| turn.share == share)
}

/// Leases are counted for their keys, and for their kinds while these are limited.
fn running(state: &ShardDump, settings: &FlowSettings, wrong: &mut Vec<String>) {
    let leased = || state.entries.iter().filter(|(_, entry)| is_leased(entry));
    let mut expected = BTreeMap::<Scope, BTreeSet<JobId>>::new();
    for (id, entry) in leased() {
        if let Some(flow) = entry.flow.filter(|flow| !flow.concurrency.is_none()) {
            let scope = Scope(ScopeKind::Key, flow.concurrency);
            expected.entry(scope).or_default().insert(*id);
        }
        if settings.kinds.get(&entry.kind).is_some_and(|limits| limits.concurrency.is_some()) {
            let scope = Scope(ScopeKind::Kind, FlowKey::of(entry.kind.as_str()));
            expected.entry(scope).or_default().insert(*id);
        }
    }
    let counted = &state.flow.running;
    if expected != *counted {
        wrong.push(format!("leases are miscounted: {expected:?} {counted:?}"));
    }
}

/// Nobody waits for what is free: unless a lane that may be chosen will pass the chance on, or a timer will.
fn waits(state: &ShardDump, settings: &FlowSettings, wrong: &mut Vec<String>) {
    let flow_of = |lane: FlowKey| -> Option<Flow> {
        let mut jobs = state.flow.lanes.iter().filter(|(of, ..)| *of == lane);
        state.entries.get(&jobs.next()?.2)?.flow
    };
    for scope in state.flow.blocked.values() {
        let key = scope.1;
        let of_kind = || {
            let mut kinds = settings.kinds.iter();
            kinds.find(|(kind, _)| FlowKey::of(kind.as_str()) == key).map(|(_, limits)| *limits)
        };
        let running = state.flow.running.get(scope).map_or(0, BTreeSet::len) as u32;
        let is_full = |limit: Option<u32>| limit.is_some_and(|limit| running >= limit);
        let has_timer = state.flow.timers.get(*scope).is_some();
        let is_held = match scope.0 {
            // A limit that is another one now: a timer says so.
            ScopeKind::Key => is_full(settings.keys.concurrency) || has_timer,
            ScopeKind::Kind => is_full(of_kind().and_then(|l| l.concurrency)) || has_timer,
            ScopeKind::Free => false,
            ScopeKind::KeyRate | ScopeKind::KindRate | ScopeKind::QueueRate => has_timer,
            ScopeKind::Circuit => {
                let known = state.flow.circuits.get(&key).map(|known| known.state);
                let mode = settings.circuits.get(&key).map(|setting| setting.mode);
                mode == Some(CircuitMode::Open)
                    || matches!(known, Some(CircuitState::HalfOpen { .. }))
                    || has_timer
            }
        };
        let passes_on = |flow: Flow| match scope.0 {
            ScopeKind::Key => flow.concurrency == key,
            ScopeKind::KeyRate => flow.rate == key,
            ScopeKind::Kind | ScopeKind::KindRate => flow.kind == key,
            ScopeKind::Circuit => flow.circuit == key,
            ScopeKind::QueueRate | ScopeKind::Free => false,
        };
        let free = state.flow.turns.iter().filter(|turn| turn.place.is_free());
        let mut turns = free.filter_map(|turn| flow_of(turn.lane));
        if !is_held && !turns.any(passes_on) {
            wrong.push(format!("{scope:?} has a permit that nobody is told of"));
        }
    }
}
