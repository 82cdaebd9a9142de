//! Turns steps into calls.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::draw::{FencePick, HeldPick, JobPick, SettingsPick, Step, Tamper, WithdrawalPick};
use super::*;
use crate::engine::ClaimState;
use crate::engine::flow::{Flow, FlowKey, FlowSettings, Keys, Limits, Rate, RetryBudget};
use crate::engine::model::Entry;
use crate::model::id::LeaseId;
use crate::model::job::Priority;
use crate::model::name::Kind;

/// What a history has seen so far: enough to give its steps concrete arguments.
#[derive(Debug, Default)]
pub struct Player {
    granted: Vec<Held>,
    fences: HashMap<JobId, Fence>,
    claims: u128,
    next_offset: u32,
    version: u64,
    /// Outcomes that wait, and one that has left.
    waiting: Vec<Mark>,
    recorded: Option<Mark>,
    /// Of each lease, what its holder knows of it.
    adoptions: HashMap<(JobId, Fence), Adoption>,
    ledger: u8,
    generation: u64,
    last_running: Option<(Timestamp, JobId)>,
    /// As the last reply told.
    refused: Vec<Refused>,
    /// As withdrawals told them.
    looks: Vec<Looked>,
}

impl Player {
    /// The call that a step asks for at this time, while this process serves the shard; `None` for a step that is
    /// no call, or that speaks of leases before there are any.
    pub fn call(&mut self, now: Timestamp, process: ProcessId, step: &Step) -> Option<Call> {
        Some(match step {
            Step::Advance(_) | Step::Wipe | Step::Restart => return None,
            Step::Push { jobs, late_us, below, foreign, fresh } => Call::Push {
                jobs: jobs.iter().map(|job| self.job(now, job)).collect(),
                valid: Validity {
                    ledger: ledger(self.ledger + u8::from(*foreign)),
                    generation: self.generation.saturating_sub(*below),
                    not_after: shift(now, -*late_us),
                    origin: if *fresh { PushOrigin::Fresh } else { PushOrigin::Ledger },
                },
            },
            Step::Claim { worker, max, lease_us, kinds, go_on } => {
                Call::Claim(self.claim(*worker, *max, *lease_us, kinds, *go_on))
            }
            Step::Extend { held, lease_us } => Call::Extend {
                held: held.iter().map(|pick| self.held(*pick)).collect::<Option<_>>()?,
                lease: Duration::from_micros(*lease_us),
            },
            Step::Settle(settles) => {
                let settle = |(pick, verdict, bytes, told): &(HeldPick, _, usize, _)| {
                    let detail = Bytes::from(vec![b'd'; *bytes]);
                    Some(Settle {
                        dependency: *told,
                        held: self.held(*pick)?,
                        verdict: *verdict,
                        detail,
                    })
                };
                Call::Settle(settles.iter().map(settle).collect::<Option<_>>()?)
            }
            Step::Promote(max) => Call::Promote(*max),
            Step::Reap(max) => Call::Reap(*max),
            Step::Configure(settings) => Call::Configure(self.settings(settings)),
            Step::Cancel { jobs, how } => Call::Cancel {
                jobs: jobs.iter().map(|(n, pick)| (id(*n), self.fence(id(*n), *pick))).collect(),
                how: *how,
            },
            Step::Outcomes(max) => Call::Outcomes(*max),
            Step::Confirm(ahead) => Call::Confirm(self.mark(*ahead)?),
            Step::Exists(ids) => Call::Exists(ids.iter().map(|n| id(*n)).collect()),
            Step::Peek(n) => Call::Peek(id(*n)),
            Step::Holds(n) => Call::Holds(id(*n)),
            Step::Circuits => Call::Circuits,
            Step::Refused(max) => Call::Refused(*max),
            Step::Refilled(count) => {
                let first = self.refused.iter().take(usize::from(*count));
                Call::Refilled(first.map(|told| told.group).collect())
            }
            Step::ResetCircuit(n) => Call::ResetCircuit(FlowKey::of(&format!("x{n}"))),
            Step::Leased { after, before_us, max } => Call::Leased {
                after: self.last_running.filter(|_| *after),
                claimed_by: now.minus(Duration::from_micros(*before_us)),
                max: *max,
            },
            Step::Stats => Call::Stats,
            gates => self.gate_call(now, process, gates)?,
        })
    }

    /// Of the gate, and of those who compare the shard with the ledger.
    fn gate_call(&mut self, now: Timestamp, process: ProcessId, step: &Step) -> Option<Call> {
        Some(match step {
            Step::Shut { above, foreign, late_us } => {
                self.ledger += u8::from(*foreign);
                Call::Shut {
                    ledger: ledger(self.ledger),
                    generation: self.generation.saturating_add_signed(*above),
                    not_after: shift(now, -*late_us),
                }
            }
            Step::OpenGate { above, foreign, moved, grace_us, slots, ramp_us, settings } => {
                Call::OpenGate(Opening {
                    settings: self.settings(settings),
                    ledger: ledger(self.ledger + u8::from(*foreign)),
                    generation: self.generation.saturating_add_signed(*above),
                    process: if *moved { other_process() } else { process },
                    grace: Duration::from_micros(*grace_us),
                    slots: *slots,
                    ramp: Duration::from_micros(*ramp_us),
                })
            }
            Step::Adopt { worker: by, leases, lease_us } => Call::Adopt {
                worker: worker(*by),
                lease: Duration::from_micros(*lease_us),
                leases: leases.iter().map(|pick| self.adoption(*pick)).collect::<Option<_>>()?,
            },
            Step::Report { worker: by, report, above, foreign } => Call::Report {
                report: *report,
                ledger: ledger(self.ledger + u8::from(*foreign)),
                generation: self.generation.saturating_add_signed(*above),
                worker: worker(*by),
            },
            Step::Seal { above, foreign } => Call::Seal {
                ledger: ledger(self.ledger + u8::from(*foreign)),
                generation: self.generation.saturating_add_signed(*above),
            },
            Step::Withdraw { leases, looked } => {
                let withdrawal = |pick| self.withdrawal(pick);
                let back = |back: u8| self.looks.iter().rev().nth(usize::from(back)).copied();
                Call::Withdraw {
                    leases: leases.iter().map(withdrawal).collect::<Option<_>>()?,
                    looked: looked.and_then(back),
                }
            }
            Step::Gate => Call::Gate,
            Step::Scan => Call::Scan,
            Step::Drop { jobs, bury } => Call::Drop {
                jobs: jobs.iter().map(|(n, pick)| (id(*n), self.fence(id(*n), *pick))).collect(),
                bury: *bury,
            },
            other => unreachable!("{other:?} is no step of gates"),
        })
    }

    /// Learns from a call and the state after it.
    pub fn saw(&mut self, call: &Call, reply: &Reply, after: &ShardDump) {
        if let (Call::Claim(request), Reply::Claim(reply)) = (call, reply) {
            self.next_offset = reply.next_offset;
            debug_assert!(reply.jobs.is_empty() || reply.state == ClaimState::Open);
            let held = reply.jobs.iter().map(|job| Held {
                id: job.id,
                fence: job.fence,
                lease_id: request.lease_id,
            });
            self.granted.extend(held);
            for job in &reply.jobs {
                let adoption = as_claimed(job.id, &after.entries[&job.id]);
                self.adoptions.insert((job.id, job.fence), adoption);
            }
        }
        if let Reply::Withdraw(WithdrawReply { looked, .. }) = reply {
            self.looks.push(*looked);
        }
        if let Reply::Refused(refused) = reply {
            self.refused.clone_from(refused);
        }
        if let Reply::Leased(running) = reply {
            self.last_running = running.last().map(|lease| (lease.claimed_at, lease.id));
        }
        if let (Call::Confirm(last), Reply::Confirm) = (call, reply) {
            self.recorded = Some(*last);
        }
        self.waiting = after.outbox.iter().map(Outcome::mark).collect();
        self.generation = after.gate.map_or(0, |state| state.gate.generation);
        for (id, entry) in &after.entries {
            let seen = self.fences.entry(*id).or_default();
            *seen = entry.fence.max(*seen);
        }
    }

    fn settings(&mut self, pick: &SettingsPick) -> ShardSettings {
        self.version = self.version.saturating_add_signed(pick.version);
        ShardSettings {
            version: self.version,
            paused: pick.paused,
            jobs_max: pick.jobs_max,
            bytes_max: pick.bytes_max,
            priority_unit: Duration::from_millis(pick.unit_ms),
            flow: flow_settings(&pick.flow),
        }
    }

    /// One of those that wait; or one that is not there, or not there any more.
    fn mark(&self, ahead: u8) -> Option<Mark> {
        let last = self.waiting.len().checked_sub(1);
        match (ahead, last) {
            (8, Some(last)) => {
                let mark = self.waiting[last];
                Some(Mark { at: shift(mark.at, 1), ..mark })
            }
            (9, _) | (_, None) => self.recorded,
            (ahead, Some(last)) => Some(self.waiting[last.min(usize::from(ahead))]),
        }
    }

    fn adoption(&self, pick: HeldPick) -> Option<Adoption> {
        let granted = self.held(HeldPick { tamper: Tamper::No, ..pick })?;
        let held = self.held(pick)?;
        let mut adoption = self.adoptions.get(&(granted.id, granted.fence))?.clone();
        adoption.job.fence = held.fence;
        adoption.lease_id = held.lease_id;
        Some(adoption)
    }

    fn withdrawal(&self, pick: &WithdrawalPick) -> Option<Withdrawal> {
        let Adoption { job, lease_id, .. } = self.adoption(pick.held)?;
        Some(Withdrawal {
            id: job.id,
            fence: job.fence,
            lease_id: pick.with_token.then_some(lease_id),
            attempt: job.attempt + u32::from(pick.counted),
            crashes: job.crashes,
            then: pick.then,
        })
    }

    fn fence(&self, id: JobId, pick: FencePick) -> Fence {
        let seen = self.fences.get(&id).copied().unwrap_or(Fence(1)).0;
        Fence(match pick {
            FencePick::Below => seen.saturating_sub(1),
            FencePick::Same => seen,
            FencePick::Above => seen + 1,
            FencePick::Oldest => 0,
        })
    }

    fn job(&self, now: Timestamp, pick: &JobPick) -> Push {
        Push {
            id: id(pick.id),
            fence: self.fence(id(pick.id), pick.fence),
            under_way: pick.under_way,
            attempt: pick.attempt,
            crashes: pick.crashes,
            max_crashes: pick.max_crashes,
            priority: Priority::new(pick.priority).expect("levels are drawn from 0 to 9"),
            run_at: shift(now, pick.run_in_us),
            expires_at: pick.expires_in_us.map(|us| shift(now, us)),
            kind: kind(pick.kind),
            flow: pick.flow.and_then(|keys| flow(&kind(pick.kind), keys)),
            envelope: Bytes::from(vec![b'e'; pick.bytes]),
        }
    }

    fn claim(
        &mut self,
        worker: u8,
        max: u32,
        lease_us: u64,
        kinds: &[u8],
        go_on: bool,
    ) -> ClaimRequest {
        self.claims += 1;
        ClaimRequest {
            worker: self::worker(worker),
            lease_id: LeaseId::from_uuid(Uuid::from_u128(self.claims)),
            max,
            lease: Duration::from_micros(lease_us),
            kinds: kinds.iter().map(|n| kind(*n)).collect(),
            offset: if go_on { self.next_offset } else { 0 },
            // Some know their ledger, and one thinks that it is the one before.
            ledger: (worker > 0).then(|| ledger(self.ledger.saturating_sub(worker - 1))),
        }
    }

    fn held(&self, pick: HeldPick) -> Option<Held> {
        let back = usize::from(pick.back).min(self.granted.len().checked_sub(1)?);
        let mut held = self.granted[self.granted.len() - 1 - back];
        match pick.tamper {
            Tamper::No => {}
            Tamper::Token => held.lease_id = LeaseId::from_uuid(Uuid::from_u128(u128::MAX)),
            Tamper::Lower => held.fence = Fence(held.fence.0 - 1),
            Tamper::Higher => held.fence = Fence(held.fence.0 + 1),
        }
        Some(held)
    }
}

/// Ids whose order differs in the first and in the last byte.
fn id(n: u8) -> JobId {
    let mut bytes = [0x55; 16];
    bytes[0] = n.wrapping_mul(101);
    bytes[15] = n;
    JobId::from_bytes(bytes)
}

fn kind(n: u8) -> Kind {
    format!("kind-{n}").parse().expect("a legal name")
}

fn shift(at: Timestamp, by_us: i64) -> Timestamp {
    Timestamp::from_micros(at.micros() + by_us)
}

fn flow(kind: &Kind, keys: FlowPick) -> Option<Flow> {
    let text = |sort: &str, key: u8| (key > 0).then(|| format!("{sort}{key}"));
    let (share, concurrency) = (text("s", keys.share), text("c", keys.concurrency));
    let (rate, circuit) = (text("r", keys.rate), text("x", keys.circuit));
    let keys = Keys {
        share: share.as_deref(),
        concurrency: concurrency.as_deref(),
        rate: rate.as_deref(),
        circuit: circuit.as_deref(),
        units: keys.units,
        weight: keys.weight,
    };
    Flow::new(kind, keys)
}

fn flow_settings(pick: &FlowSettingsPick) -> FlowSettings {
    let limits = |(concurrency, rate): (Option<u32>, Option<(u64, u32)>)| Limits {
        concurrency,
        rate: rate.map(|(interval_us, burst)| Rate { interval_us, burst }),
    };
    let kinds = pick.kinds.iter().map(|(n, of)| (kind(*n), limits(*of))).collect();
    let circuits = pick.circuits.iter();
    let circuits = circuits.map(|(n, setting)| (FlowKey::of(&format!("x{n}")), *setting));
    let weights = pick.weights.iter().map(|(n, weight)| (FlowKey::of(&format!("s{n}")), *weight));
    FlowSettings {
        queue: limits(pick.queue),
        keys: limits(pick.keys),
        retries: pick.retries.map(|(percent, interval_us, burst)| {
            RetryBudget::new(percent, Rate { interval_us, burst })
        }),
        kinds,
        weights: weights.collect(),
        circuits: circuits.collect(),
    }
}

fn worker(n: u8) -> WorkerId {
    WorkerId::from_uuid(Uuid::from_u128(0xa0 + u128::from(n)))
}

fn ledger(n: u8) -> LedgerId {
    LedgerId::from_bytes([n; 16])
}

fn other_process() -> ProcessId {
    ProcessId::parse(&"0".repeat(40)).expect("forty digits")
}

/// What the holder of a lease knows of its job.
fn as_claimed(id: JobId, entry: &Entry) -> Adoption {
    Adoption {
        job: Push {
            id,
            fence: entry.fence,
            under_way: true,
            attempt: entry.attempt,
            crashes: entry.crashes,
            max_crashes: entry.max_crashes,
            priority: entry.priority,
            run_at: entry.run_at,
            expires_at: entry.expires_at,
            kind: entry.kind.clone(),
            flow: entry.flow,
            envelope: entry.envelope.clone(),
        },
        lease_id: entry.lease_id.expect("a leased entry has a token"),
        claimed_at: entry.claimed_at.expect("a leased entry was claimed"),
    }
}
