//! What must hold of gates: what they hold back, and the verbs that shut them, open them and compare a shard.

use super::*;
use crate::engine::{Gate, LiveEntry, Tombstone, WithdrawReply, Withdrawal, Withdrawn};
use crate::limits::CLOCK_STEP_MIN;
use crate::model::id::LedgerId;

/// Whether this step emptied the shard.
pub(super) fn wiped(seen: &Seen<'_>) -> bool {
    matches!(seen.reply, Reply::Shut(Shut::Shut { wiped: true, .. }))
}

/// Jobs that this step took out, or put back as somebody outside knows them.
pub(super) fn redefined(seen: &Seen<'_>) -> HashSet<JobId> {
    let pairs: Vec<(JobId, bool)> = match (seen.call, seen.reply) {
        (Call::Drop { jobs, .. }, Reply::Drop(dropped)) => {
            jobs.iter().zip(dropped).map(|((id, _), dropped)| (*id, *dropped)).collect()
        }
        (Call::Withdraw { leases, .. }, Reply::Withdraw(replies)) => {
            let out = leases.iter().zip(&replies.leases);
            out.map(|(lease, reply)| (lease.id, *reply == Withdrawn::Out)).collect()
        }
        (Call::Adopt { leases, .. }, Reply::Adopt(replies)) => {
            let put = |(lease, reply): (&Adoption, &Adopted)| {
                (lease.job.id, matches!(reply, Adopted::Held { .. }) && !holds(seen.before, lease))
            };
            leases.iter().zip(replies).map(put).collect()
        }
        _ => Vec::new(),
    };
    pairs.into_iter().filter(|(_, redefined)| *redefined).map(|(id, _)| id).collect()
}

/// Whether exactly this lease is held.
fn holds(state: &ShardDump, lease: &Adoption) -> bool {
    state.entries.get(&lease.job.id).is_some_and(|entry| {
        matches!(entry.status, Status::Leased { .. })
            && (entry.fence, entry.lease_id) == (lease.job.fence, Some(lease.lease_id))
    })
}

fn is_verified(state: &ShardDump, process: ProcessId) -> bool {
    state.gate.is_some_and(|state| state.gate.process == Some(process))
}

/// Nothing is leased or reaped behind a shut gate; nothing reaped too early; no more leased than the ramp allows.
pub(super) fn holds_back(seen: &Seen<'_>, wrong: &mut Vec<String>) {
    let open = is_verified(seen.before, seen.process);
    let fresh = seen.after.outbox.iter().filter(|outcome| outcome.seq > seen.before.last_seq);
    // A job whose cancellation was asked for ends as cancelled when it is reaped; so does one that is settled.
    let is_reaped = |ended| match ended {
        Ended::Lost | Ended::Quarantined => true,
        Ended::Cancelled => !matches!(seen.call, Call::Settle(_)),
        _ => false,
    };
    if fresh.map(|outcome| outcome.ended).any(is_reaped) {
        if !open {
            wrong.push("reaped although nobody has compared the shard".into());
        }
        if seen.now < seen.before.no_reap_until || seen.now < seen.after.no_reap_until {
            wrong.push("reaped during a grace".into());
        }
        let grace = seen.before.gate.map_or(Duration::ZERO, |gate| gate.grace);
        let jumped = seen.now > seen.before.seen.plus(CLOCK_STEP_MIN);
        if jumped && grace > Duration::ZERO && seen.now >= seen.before.no_reap_until.plus(grace) {
            wrong.push("reaped right after engine time jumped".into());
        }
    }
    if let (Call::Claim(request), Reply::Claim(reply)) = (seen.call, seen.reply) {
        if (reply.state == ClaimState::Unverified) == open {
            wrong.push(format!("{:?}, open: {open}", reply.state));
        }
        let holds = seen.before.gate.map(|state| state.gate.ledger);
        let other = request.ledger.is_some_and(|own| holds.is_some_and(|holds| own != holds));
        if (reply.state == ClaimState::Foreign) != (open && other) {
            wrong.push(format!("{:?} to one of {:?}, of {holds:?}", reply.state, request.ledger));
        }
        ramp(seen, reply, wrong);
        let open = reply.position.generation.is_some();
        if open != is_verified(seen.after, seen.process) {
            wrong.push("the position speaks of another gate".into());
        }
    }
}

fn ramp(seen: &Seen<'_>, reply: &ClaimReply, wrong: &mut Vec<String>) {
    let Some(gate) = seen.before.gate else { return };
    let elapsed = seen.now.since(gate.ramp_from);
    let leases = seen.after.leases.len() as f64;
    let share = 0.1 + 0.9 * elapsed.as_secs_f64() / gate.ramp.as_secs_f64();
    let most = (f64::from(gate.slots) * share).max(1.0) + 1e-6;
    let lasts = elapsed < gate.ramp;
    if lasts && !reply.jobs.is_empty() && leases > most {
        wrong.push(format!("{leases} leases, the ramp allows {most}"));
    }
    if !lasts && reply.state == ClaimState::Warming {
        wrong.push("warming after the ramp".into());
    }
}

/// One step of a verb of gates.
pub(super) fn step(seen: &Seen<'_>, wrong: &mut Vec<String>) {
    match (seen.call, seen.reply) {
        (Call::Gate, Reply::Gate(view)) => {
            unchanged_if(true, seen, wrong);
            let expected = (seen.process, seen.before.gate.map(|state| state.gate));
            if (view.process, view.gate) != expected
                || view.reported != seen.before.reported
                || view.present != seen.before.present
            {
                wrong.push(format!("gate: {view:?}"));
            }
        }
        (Call::Shut { ledger, generation, .. }, Reply::Shut(shut)) => {
            unchanged_if(matches!(shut, Shut::Newer | Shut::Late), seen, wrong);
            let gate = seen.after.gate.map(|state| state.gate);
            // Repeated, it changes nothing.
            let was = seen.before.gate.map(|state| state.gate);
            let sealed = is_shut_by(seen.before, *ledger, *generation)
                && was.is_some_and(|gate| gate.sealed);
            let (ledger, generation) = (*ledger, *generation);
            let expected = Gate { ledger, generation, process: None, sealed };
            if matches!(shut, Shut::Shut { .. }) && gate != Some(expected) {
                wrong.push(format!("shut as {gate:?}"));
            }
        }
        (Call::OpenGate(opening), Reply::OpenGate(opened)) => {
            let is_open = is_verified(seen.after, seen.process);
            unchanged_if(*opened != Opened::Open, seen, wrong);
            let generation = seen.after.gate.map(|state| state.gate.generation);
            if *opened == Opened::Open && (!is_open || generation != Some(opening.generation)) {
                wrong.push("said to be open".into());
            }
            unchanged_if(is_verified(seen.before, seen.process), seen, wrong);
        }
        (Call::Adopt { leases, .. }, Reply::Adopt(replies)) => adopt(seen, leases, replies, wrong),
        (Call::Report { ledger, generation, .. }, Reply::Report) => {
            let (reported, present) = (seen.after.reported.clone(), seen.after.present.clone());
            let before = ShardDump { reported, present, ..seen.before.clone() };
            unchanged_if(true, &Seen { before: &before, ..*seen }, wrong);
            unchanged_if(!is_shut_by(seen.before, *ledger, *generation), seen, wrong);
        }
        (Call::Seal { ledger, generation }, Reply::Seal(sealed)) => {
            unchanged_if(!sealed, seen, wrong);
            if *sealed != is_shut_by(seen.before, *ledger, *generation) {
                wrong.push(format!("sealed: {sealed}"));
            }
            let gate = seen.after.gate.map(|state| state.gate);
            if *sealed && !gate.is_some_and(|gate| gate.sealed && gate.process.is_none()) {
                wrong.push(format!("sealed as {gate:?}"));
            }
        }
        (Call::Withdraw { leases, .. }, Reply::Withdraw(replies)) => {
            withdraw(seen, leases, replies, wrong);
        }
        (Call::Scan, Reply::Scan(entries, _)) => {
            unchanged_if(true, seen, wrong);
            let entry = |(id, entry): (&JobId, &Entry)| LiveEntry {
                id: *id,
                fence: entry.fence,
                attempt: entry.attempt,
                crashes: entry.crashes,
                run_at: entry.run_at,
                finishing: entry.status == Status::Finishing,
                leased: matches!(entry.status, Status::Leased { .. }),
            };
            if *entries != seen.before.entries.iter().map(entry).collect::<Vec<_>>() {
                wrong.push("the walk saw something else".into());
            }
        }
        (Call::Drop { jobs, bury }, Reply::Drop(dropped)) => {
            drop_jobs(seen, jobs, *bury, dropped, wrong);
        }
        (call, reply) => wrong.push(format!("{call:?} was answered {reply:?}")),
    }
}

fn is_shut_by(state: &ShardDump, ledger: LedgerId, generation: u64) -> bool {
    let of = |gate: Gate| (gate.ledger, gate.generation, gate.process);
    state.gate.is_some_and(|state| of(state.gate) == (ledger, generation, None))
}

fn withdraw(
    seen: &Seen<'_>,
    leases: &[Withdrawal],
    WithdrawReply { leases: replies, looked }: &WithdrawReply,
    wrong: &mut Vec<String>,
) {
    unchanged_if(!replies.contains(&Withdrawn::Out), seen, wrong);
    let is_open = looked.generation.is_some();
    let known = seen.after.recorded_seq..=seen.after.last_seq;
    if is_open != is_verified(seen.after, seen.process) || !known.contains(&looked.seq) {
        wrong.push(format!("{looked:?} is not of this outbox"));
    }
    let has_waited = |id: JobId| seen.before.outbox.iter().any(|outcome| outcome.id == id);
    for (lease, reply) in leases.iter().zip(replies) {
        let is_out = *reply == Withdrawn::Out;
        if *reply == Withdrawn::Waits && !has_waited(lease.id) {
            wrong.push(format!("nothing of {} waits", lease.id));
        }
        if is_out && seen.after.entries.contains_key(&lease.id) {
            wrong.push(format!("{} is still there", lease.id));
        }
        // Of a job that is named twice the first may have been out already.
        let is_named_once = leases.iter().filter(|other| other.id == lease.id).count() == 1;
        let before = seen.before.entries.get(&lease.id).filter(|_| is_named_once);
        if is_out && before.is_some_and(|entry| entry.fence > lease.fence) {
            wrong.push(format!("{} has a later lease", lease.id));
        }
        let buried =
            |(_, id, tomb): &(_, JobId, Tombstone)| *id == lease.id && *tomb >= lease.tombstone();
        if is_out && !seen.after.tombstones.iter().any(buried) {
            wrong.push(format!("what is older of {} could come back", lease.id));
        }
    }
}

fn adopt(seen: &Seen<'_>, leases: &[Adoption], replies: &[Adopted], wrong: &mut Vec<String>) {
    let none = !replies.iter().any(|reply| matches!(reply, Adopted::Held { .. }));
    unchanged_if(none, seen, wrong);
    // The last word on each job.
    let last: HashMap<JobId, (&Adoption, &Adopted)> =
        leases.iter().zip(replies).map(|(lease, reply)| (lease.job.id, (lease, reply))).collect();
    for (id, (lease, reply)) in last {
        let until = match seen.after.entries.get(&id).map(|entry| entry.status) {
            Some(Status::Leased { until_ms }) => Some(Timestamp::from_millis(until_ms)),
            _ => None,
        };
        let fine = match reply {
            Adopted::Held { expires_at } => {
                holds(seen.after, lease) && until == Some(*expires_at) && *expires_at > seen.now
            }
            Adopted::Over | Adopted::Stolen => !holds(seen.after, lease),
        };
        if !fine {
            wrong.push(format!("{id} was told {reply:?}"));
        }
    }
    for lease in leases.iter().filter(|lease| holds(seen.before, lease)) {
        if !leases.iter().any(|other| other.job.fence > lease.job.fence)
            && !holds(seen.after, lease)
        {
            wrong.push(format!("{} lost its lease", lease.job.id));
        }
    }
}

fn drop_jobs(
    seen: &Seen<'_>,
    jobs: &[(JobId, Fence)],
    bury: bool,
    dropped: &[bool],
    wrong: &mut Vec<String>,
) {
    unchanged_if(!dropped.contains(&true), seen, wrong);
    for ((id, fence), dropped) in jobs.iter().zip(dropped) {
        let was = seen.before.entries.get(id).map(|entry| entry.fence);
        if *dropped && (was != Some(*fence) || seen.after.entries.contains_key(id)) {
            wrong.push(format!("{id} with fence {was:?} was dropped as {fence}"));
        }
        let mut tombs = seen.after.tombstones.iter();
        if *dropped && tombs.any(|(_, tomb, _)| tomb == id) != bury {
            wrong.push(format!("{id} was dropped, buried: {}", !bury));
        }
    }
}
