//! What must hold in every state, and over every step, of one shard: written against the contract's
//! words and the dump, not against the model's code.

use std::collections::{HashMap, HashSet};

use super::*;
use crate::engine::model::{Entry, Status};
use crate::engine::{ClaimState, Ended, Extended, Pushed, Settled};

mod flow;
mod gates;
mod state;

pub use state::faults;

/// Follows one history and objects.
#[derive(Debug, Default)]
pub struct Watch {
    /// The highest fence ever leased, per job.
    leased: HashMap<JobId, Fence>,
    /// Leases whose end was reported.
    ended: HashSet<(JobId, Fence)>,
    /// Jobs that were taken out or put back from outside: what they did before is not their past.
    excused: HashSet<JobId>,
}

/// One step: its call and reply, and the states around it, all at one engine time.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "named for what they are")]
pub struct Seen<'a> {
    pub now: Timestamp,
    pub process: ProcessId,
    pub before: &'a ShardDump,
    pub call: &'a Call,
    pub reply: &'a Reply,
    pub after: &'a ShardDump,
}

impl Watch {
    /// What is wrong with a step; empty when all is well.
    pub fn step(&mut self, seen: &Seen<'_>) -> Vec<String> {
        self.excuse(seen);
        let mut wrong = faults(seen.after, &self.excused);
        if !gates::wiped(seen) {
            outbox_grows_at_its_end(seen, &mut wrong);
            fences_rise(seen, &mut wrong);
        }
        self.leases_end_once(seen, &mut wrong);
        gates::holds_back(seen, &mut wrong);
        match (seen.call, seen.reply) {
            (Call::Push { jobs, .. }, Reply::Push(reply)) => push(seen, jobs, reply, &mut wrong),
            (Call::Claim(request), Reply::Claim(reply)) => {
                self.claim(seen, request, reply, &mut wrong);
            }
            (Call::Extend { .. }, Reply::Extend(replies)) => {
                let none =
                    replies.leases.iter().all(|r| matches!(r, Extended::Gone | Extended::Stolen));
                let before = ShardDump { seen: seen.after.seen, ..seen.before.clone() };
                unchanged_if(none, &Seen { before: &before, ..*seen }, &mut wrong);
            }
            (Call::Settle(settles), Reply::Settle(replies)) => {
                settle(seen, settles, &replies.settles, &mut wrong);
            }
            (Call::Cancel { jobs, how }, Reply::Cancel(replies)) => {
                cancel(seen, jobs, *how, replies, &mut wrong);
            }
            (Call::Promote(max), Reply::Promote(moved)) => {
                if *moved > (*max).min(BOUNDS.move_max) {
                    wrong.push(format!("promoted {moved}"));
                }
                early(seen, &mut wrong);
            }
            (Call::Reap(max), Reply::Reap(moved)) => {
                let fewer = seen.before.leases.len() - seen.after.leases.len();
                if *moved > (*max).min(BOUNDS.move_max) || fewer != *moved as usize {
                    wrong.push(format!("reaped {moved}, leases fell by {fewer}"));
                }
            }
            (Call::Configure(settings), Reply::Configure(applied)) => {
                let kept = if *applied { Some(settings) } else { seen.before.settings.as_ref() };
                if seen.after.settings.as_ref() != kept {
                    wrong.push("settings are not those that the reply speaks of".into());
                }
            }
            (Call::ResetCircuit(key), Reply::ResetCircuit(known)) => {
                if *known != seen.before.flow.circuits.contains_key(key) {
                    wrong.push("a circuit was reset that was not known, or the reverse".into());
                }
            }
            (Call::Confirm(last), Reply::Confirm) => confirm(seen, *last, &mut wrong),
            (Call::Exists(ids), Reply::Exists(known)) => {
                let expected: Vec<bool> = ids.iter().map(|id| knows(seen.before, *id)).collect();
                if *known != expected {
                    wrong.push(format!("exists: {known:?}"));
                }
                unchanged_if(true, seen, &mut wrong);
            }
            (Call::Outcomes(_), Reply::Outcomes(_))
            | (Call::Peek(_), Reply::Peek(_))
            | (Call::Holds(_), Reply::Holds(_))
            | (Call::Circuits, Reply::Circuits(_))
            | (Call::Refused(_), Reply::Refused(_))
            | (Call::Leased { .. }, Reply::Leased(_))
            | (Call::Stats, Reply::Stats(_)) => unchanged_if(true, seen, &mut wrong),
            (Call::Refilled(groups), Reply::Refilled) => refilled(seen, groups, &mut wrong),
            _ => gates::step(seen, &mut wrong),
        }
        wrong
    }

    /// The store has lost what it had: nothing of before holds for what comes.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Notes whose past is of no account.
    fn excuse(&mut self, seen: &Seen<'_>) {
        if gates::wiped(seen) {
            self.forget();
        }
        // Pushed anew and cancelled before the end of an earlier lease was recorded, its tombstone gone, and pushed with
        // that lease's fence: no ledger does that, a history may.
        if let (Call::Cancel { jobs, .. }, Reply::Cancel(replies)) = (seen.call, seen.reply) {
            let removed = jobs.iter().zip(replies).filter(|(_, r)| **r == CancelReply::Removed);
            self.excused.extend(removed.map(|((id, _), _)| *id));
        }
        for id in gates::redefined(seen) {
            self.excused.insert(id);
            self.leased.remove(&id);
            self.ended.retain(|(ended, _)| *ended != id);
        }
    }

    fn claim(
        &mut self,
        seen: &Seen<'_>,
        request: &ClaimRequest,
        reply: &ClaimReply,
        wrong: &mut Vec<String>,
    ) {
        if reply.jobs.len() > request.max as usize {
            wrong.push(format!("gave {} leases", reply.jobs.len()));
        }
        if reply.state != ClaimState::Open && !reply.jobs.is_empty() {
            wrong.push(format!("gave leases while {:?}", reply.state));
        }
        if reply.next_offset > 0 && reply.next_offset as usize >= seen.after.ready.len() {
            wrong.push("next_offset is past the end of the ready".into());
        }
        early(seen, wrong);
        for job in &reply.jobs {
            let id = job.id;
            let entry = &seen.after.entries[&id];
            if knows(seen.before, id) && !seen.before.entries.contains_key(&id) {
                wrong.push(format!("{id} was leased over its tombstone"));
            }
            if let Some(Status::Leased { until_ms }) =
                seen.before.entries.get(&id).map(|e| e.status)
                && until_ms >= seen.now.millis()
            {
                wrong.push(format!("{id} was leased while somebody held it"));
            }
            if entry.expires_at.is_some_and(|at| at <= seen.now) {
                wrong.push(format!("{id} was leased after it expired"));
            }
            if !request.kinds.is_empty() && !request.kinds.contains(&entry.kind) {
                wrong.push(format!("{id} is of another kind"));
            }
            let last = self.leased.insert(id, job.fence);
            if last.is_some_and(|last| last >= job.fence) {
                wrong.push(format!("{id}: lease {} follows {last:?}", job.fence));
            }
        }
        flow::limits_hold(seen.before, seen.after, wrong);
        ready_order(seen, request, reply, wrong);
    }

    fn leases_end_once(&mut self, seen: &Seen<'_>, wrong: &mut Vec<String>) {
        for outcome in seen.after.outbox.iter().filter(|o| o.seq > seen.before.last_seq) {
            if outcome.at != seen.now {
                wrong.push(format!("outcome {} is not of this step", outcome.seq));
            }
            let unclaimed = outcome.ended == Ended::Expired;
            if outcome.claimed_at.is_none() != unclaimed || outcome.worker.is_none() != unclaimed {
                wrong.push(format!("outcome {} tells a wrong story of its claim", outcome.seq));
            }
            if outcome.claimed_at.is_some() && !self.ended.insert((outcome.id, outcome.fence)) {
                wrong.push(format!("lease {} of {} ended twice", outcome.fence, outcome.id));
            }
        }
    }
}

/// Whether an id is an entry or tombstoned.
fn knows(state: &ShardDump, id: JobId) -> bool {
    state.entries.contains_key(&id) || state.tombstones.iter().any(|(_, tomb, _)| *tomb == id)
}

fn unchanged_if(condition: bool, seen: &Seen<'_>, wrong: &mut Vec<String>) {
    if condition && seen.before != seen.after {
        wrong.push("the state changed".into());
    }
}

fn outbox_grows_at_its_end(seen: &Seen<'_>, wrong: &mut Vec<String>) {
    let (before, after) = (seen.before, seen.after);
    let first = after.outbox.first().map_or(u64::MAX, |outcome| outcome.seq);
    let kept = before.outbox.iter().filter(|outcome| outcome.seq >= first);
    if !kept.eq(after.outbox.iter().take_while(|outcome| outcome.seq <= before.last_seq)) {
        wrong.push("an unconfirmed outcome changed".into());
    }
    let lost = before.outbox.first().is_some_and(|outcome| outcome.seq < first);
    if lost && !matches!(seen.call, Call::Confirm(_)) {
        wrong.push("an outcome vanished without confirm".into());
    }
    let first_ever = before.last_seq == 0 && after.last_seq > 0;
    if first_ever && after.outbox[0].seq != seen.now.micros() as u64 {
        wrong.push("the first seq is not engine time".into());
    }
}

/// A job that stays never falls back to a lower fence.
fn fences_rise(seen: &Seen<'_>, wrong: &mut Vec<String>) {
    let redefined = gates::redefined(seen);
    for (id, before) in seen.before.entries.iter().filter(|(id, _)| !redefined.contains(id)) {
        let after = seen.after.entries.get(id).map(|entry| entry.fence);
        let tomb = seen.after.tombstones.iter().filter(|t| t.1 == *id).map(|t| t.2.fence).max();
        match after.max(tomb) {
            Some(fence) if fence >= before.fence => {}
            left => wrong.push(format!("{id}: fence {} became {left:?}", before.fence)),
        }
    }
}

/// Nothing that was delayed became ready before its time.
fn early(seen: &Seen<'_>, wrong: &mut Vec<String>) {
    for (_, id) in &seen.before.delayed {
        let entry = &seen.after.entries[id];
        if entry.status != Status::Delayed && entry.run_at > seen.now {
            wrong.push(format!("{id} is early"));
        }
    }
}

/// The leases given are the first that fit of their lane, or of those that wait in none.
fn ready_order(
    seen: &Seen<'_>,
    request: &ClaimRequest,
    reply: &ClaimReply,
    wrong: &mut Vec<String>,
) {
    let any = request.kinds.is_empty();
    let lane = |id: &JobId| seen.after.entries[id].flow.map(|flow| flow.lane);
    let lanes: HashSet<_> = reply.jobs.iter().map(|job| lane(&job.id)).collect();
    for of in lanes {
        let jobs = reply.jobs.iter().filter(|job| lane(&job.id) == of);
        let places: Vec<_> = jobs.map(|job| (seen.after.entries[&job.id].score, job.id)).collect();
        if !places.is_sorted() {
            wrong.push("leases are not in ready order".into());
        }
        if of.is_none() && request.offset > 0 && !any {
            continue;
        }
        let waits = seen.after.entries.iter().filter(|(id, entry)| {
            let fits = any || request.kinds.contains(&entry.kind);
            entry.status == Status::Ready && fits && lane(id) == of
        });
        let passed = waits.map(|(id, entry)| (entry.score, *id)).min();
        if let (Some(last), Some(passed)) = (places.last(), passed)
            && passed < *last
        {
            wrong.push(format!("{} was passed over", passed.1));
        }
    }
}

fn push(seen: &Seen<'_>, jobs: &[Push], reply: &PushReply, wrong: &mut Vec<String>) {
    let added = reply.pushed.contains(&Pushed::Added);
    let refused = jobs.iter().zip(&reply.pushed);
    let refused = refused.filter(|(_, what)| matches!(what, Pushed::Full | Pushed::Crowded));
    let groups = refused.filter(|(job, _)| job.run_at <= seen.now);
    let groups: Vec<Group> = groups.map(|(job, _)| Group::of(job.flow.as_ref())).collect();
    if !added {
        let mut expected = seen.before.clone();
        groups.iter().for_each(|group| expected.refused.set(*group, seen.now.micros()));
        if expected != *seen.after {
            wrong.push("more changed than that groups were refused".into());
        }
        return;
    }
    if groups.iter().any(|group| seen.after.refused.get(*group) != Some(seen.now.micros())) {
        wrong.push("a group was refused and is not noted".into());
    }
    let settings = seen.after.settings.clone().unwrap_or_default();
    let (before, after) = (&seen.before.entries, &seen.after.entries);
    let at_once = |entry: &&Entry| entry.status != Status::Delayed;
    let head = after.values().filter(at_once).count();
    // Replaced by one for now, which needs no room; of an earlier call or of this one.
    let was_later = |id: &JobId| {
        before.get(id).is_some_and(|entry| entry.status == Status::Delayed)
            || jobs.iter().any(|job| job.id == *id && job.run_at > seen.now)
    };
    let is_fresh = |(id, entry): &(&JobId, &Entry)| {
        at_once(entry) && !before.contains_key(id) && !was_later(id)
    };
    let moved = after.iter().filter(|(id, entry)| at_once(entry) && was_later(id)).count();
    if after.iter().any(|pair| is_fresh(&pair)) && (head - moved) as u64 > settings.jobs_max {
        wrong.push("more jobs than the budget".into());
    }
    if too_many_ahead(seen, jobs, settings.jobs_max) {
        wrong.push("more jobs ahead of their time than the budget".into());
    }
    if seen.after.bytes > settings.bytes_max {
        wrong.push("more bytes than the budget".into());
    }
}

/// Nothing else changes.
fn refilled(seen: &Seen<'_>, groups: &[Group], wrong: &mut Vec<String>) {
    let mut expected = seen.before.clone();
    groups.iter().for_each(|group| expected.refused.remove(*group));
    if expected != *seen.after {
        wrong.push("more changed than that groups are refilled".into());
    }
}

/// Whether a fresh job was let in ahead of its time although there were enough of them.
fn too_many_ahead(seen: &Seen<'_>, jobs: &[Push], jobs_max: u64) -> bool {
    let before = &seen.before.entries;
    // Replaced one that could run, which needs no place; of an earlier call or of this one.
    let was_sooner = |id: &JobId| {
        before.get(id).is_some_and(|entry| entry.status != Status::Delayed)
            || jobs.iter().any(|job| job.id == *id && job.run_at <= seen.now)
    };
    let delayed = seen.after.entries.iter().filter(|(_, entry)| entry.status == Status::Delayed);
    let ids: Vec<&JobId> = delayed.map(|(id, _)| id).filter(|id| !was_sooner(id)).collect();
    ids.iter().any(|id| !before.contains_key(id)) && ids.len() as u64 > jobs_max
}

fn settle(seen: &Seen<'_>, settles: &[Settle], replies: &[Settled], wrong: &mut Vec<String>) {
    let settled = replies.iter().filter(|reply| **reply == Settled::Settled).count();
    unchanged_if(settled == 0, seen, wrong);
    let reported = seen.after.last_seq - seen.before.last_seq;
    if seen.before.last_seq > 0 && reported != settled as u64 {
        wrong.push(format!("{settled} settled, {reported} reported"));
    }
    for (settle, reply) in settles.iter().zip(replies) {
        let held = settle.held;
        let holds = seen.before.entries.get(&held.id).is_some_and(|entry| {
            matches!(entry.status, Status::Leased { .. })
                && entry.fence == held.fence
                && entry.lease_id == Some(held.lease_id)
        });
        if *reply == Settled::Settled && !holds {
            wrong.push(format!("{held:?} settled without holding"));
        }
        if holds && matches!(reply, Settled::Gone | Settled::Stolen) {
            wrong.push(format!("{held:?} holds, and was told {reply:?}"));
        }
    }
}

fn cancel(
    seen: &Seen<'_>,
    jobs: &[(JobId, Fence)],
    how: Withdraw,
    replies: &[CancelReply],
    wrong: &mut Vec<String>,
) {
    for ((id, fence), reply) in jobs.iter().zip(replies) {
        let fine = match reply {
            CancelReply::Removed | CancelReply::Absent => {
                let mut tombs = seen.after.tombstones.iter();
                tombs.any(|(_, tomb, stands)| tomb == id && *stands >= Tombstone::whole(*fence))
            }
            CancelReply::Running => {
                let flagged = seen.after.entries[id].cancel;
                flagged == (how == Withdraw::StopRunning || seen.before.entries[id].cancel)
            }
            CancelReply::Finishing => seen.after.entries[id].status == Status::Finishing,
        };
        if !fine {
            wrong.push(format!("{id} was told {reply:?}"));
        }
    }
}

fn confirm(seen: &Seen<'_>, last: Mark, wrong: &mut Vec<String>) {
    let Some(place) = seen.before.outbox.iter().position(|outcome| outcome.mark() == last) else {
        return unchanged_if(true, seen, wrong);
    };
    let (gone, left) = seen.before.outbox.split_at(place + 1);
    if seen.after.outbox != left || seen.after.recorded_seq != last.seq {
        wrong.push("other outcomes than those confirmed have left".into());
    }
    for (id, entry) in &seen.before.entries {
        let ended = gone.iter().any(|outcome| {
            outcome.id == *id && outcome.fence == entry.fence && outcome.ended.is_terminal()
        }) && entry.status == Status::Finishing;
        if ended == seen.after.entries.contains_key(id) || !knows(seen.after, *id) {
            wrong.push(format!("{id} is wrongly kept or forgotten"));
        }
    }
}
