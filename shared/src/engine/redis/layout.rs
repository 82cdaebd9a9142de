//! The packed values that Rust and Lua share; `lua/shard.lua` describes them.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};

use super::flow::{
    FLOW_LENGTH, put_flow, put_limits, put_retries, read_flow, read_limits, read_retries,
};
use crate::engine::flow::{Dependency, Flow, FlowSettings};
#[cfg(any(test, feature = "testkit"))]
use crate::engine::model::GateState;
use crate::engine::*;

/// Bytes of an outcome before its detail.
pub(super) const OUTCOME_HEAD: usize = 97;
/// Follows the id of a worker that is at it.
const PRESENT: u8 = b'p';
/// Lua's numbers are exact up to here; as an `expires_at` it means never.
const NUMBER_MAX: i64 = 1 << 53;
/// Bytes of a job before its kind.
const JOB_HEAD: usize = 50;
/// Where in a job its priority is.
const PRIORITY_AT: usize = 36;
/// In the byte of the priority: there is a flow.
const HAS_FLOW: u8 = 128;
/// Where there is no gate, or a shut one, instead of the id of a process.
const NO_PROCESS: [u8; 40] = [0; 40];
const SHUT_PROCESS: [u8; 40] = [b'-'; 40];
const SEALED_PROCESS: [u8; 40] = [b'='; 40];
const STATUS_WAITING: u8 = 1;
const STATUS_LEASED: u8 = 2;
const STATUS_FINISHING: u8 = 3;

/// What is not laid out as this build expects.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damaged;

/// The status byte of a held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeldStatus {
    /// Ready or delayed: the order that it is in says which.
    Waiting,
    /// Somebody runs it.
    Leased,
    /// Ended.
    Finishing,
}

/// What jobs and helds begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) score: i64,
    pub(super) fence: Fence,
    pub(super) attempt: u32,
    pub(super) crashes: u32,
    pub(super) run_at: Timestamp,
    pub(super) max_crashes: u32,
    pub(super) priority: Priority,
    /// Whether a flow follows.
    pub(super) has_flow: bool,
}

/// A job as it was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JobValue {
    pub(super) head: Head,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) kind: Kind,
    pub(super) flow: Option<Flow>,
    pub(super) envelope: Bytes,
}

/// What has become of a job since it was first claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeldValue {
    pub(super) head: Head,
    pub(super) status: HeldStatus,
    pub(super) cancel: bool,
    /// `None` when it was reaped, or never leased.
    pub(super) token: Option<LeaseId>,
    /// Who leased it last, and when; `None` when it was never leased.
    pub(super) lease: Option<(WorkerId, Timestamp)>,
    pub(super) flow: Option<Flow>,
}

/// Instants that Lua can hold exactly; others are moved to the nearest that it can.
pub(super) fn micros(at: Timestamp) -> i64 {
    at.micros().clamp(0, NUMBER_MAX - 1)
}

/// As [`micros`], for lengths of time.
pub(super) fn length_us(length: Duration) -> i64 {
    i64::try_from(length.as_micros()).unwrap_or(i64::MAX).min(NUMBER_MAX / 2)
}

fn fence_number(fence: Fence) -> u64 {
    fence.0.min(NUMBER_MAX as u64 - 1)
}

/// A job as `push` takes it. Its score is by the default unit of priority; the script corrects it where the
/// shard has another.
pub(super) fn pushed_job(job: &Push) -> Vec<u8> {
    let kind = job.kind.as_str().as_bytes();
    let run_at = micros(job.run_at);
    let due_ms = run_at.div_euclid(1000) + i64::from(run_at.rem_euclid(1000) > 0);
    let unit_ms = ShardSettings::default().priority_unit.as_millis() as i64;
    let mut out = Vec::with_capacity(JOB_HEAD + kind.len() + 1 + FLOW_LENGTH + job.envelope.len());
    out.put_u64(fence_number(job.fence));
    out.put_u32(job.crashes);
    out.put_u32(job.attempt);
    out.put_i64(due_ms - i64::from(job.priority.level()) * unit_ms);
    out.put_i64(run_at);
    out.put_u32(job.max_crashes);
    out.put_u8(job.priority.level() | if job.flow.is_some() { HAS_FLOW } else { 0 });
    out.put_u32(u32::try_from(job.envelope.len()).expect("envelopes are far below 4 GiB"));
    out.put_i64(job.expires_at.map_or(NUMBER_MAX, micros));
    out.put_u8(u8::try_from(kind.len()).expect("kinds are at most 128 bytes"));
    out.put_slice(kind);
    if let Some(flow) = &job.flow {
        put_flow(&mut out, flow);
    }
    out.put_slice(&job.envelope);
    out
}

impl Head {
    /// Reads the head of a job.
    pub(super) fn read(bytes: &mut impl Buf) -> Result<Self, Damaged> {
        let fence = Fence(bytes.try_get_u64()?);
        let (crashes, attempt) = (bytes.try_get_u32()?, bytes.try_get_u32()?);
        Self::read_rest(bytes, fence, crashes, attempt)
    }

    /// Reads what jobs and helds have in the same order.
    fn read_rest(
        bytes: &mut impl Buf,
        fence: Fence,
        crashes: u32,
        attempt: u32,
    ) -> Result<Self, Damaged> {
        let score = bytes.try_get_i64()?;
        let run_at = Timestamp::from_micros(bytes.try_get_i64()?);
        let max_crashes = bytes.try_get_u32()?;
        let priority = bytes.try_get_u8()?;
        let has_flow = priority & HAS_FLOW != 0;
        let priority = Priority::new(priority & !HAS_FLOW).ok_or(Damaged)?;
        // The length of the envelope: for the scripts, which do not see where it begins.
        bytes.try_get_u32()?;
        Ok(Self { score, fence, attempt, crashes, run_at, max_crashes, priority, has_flow })
    }
}

impl JobValue {
    /// Reads a job; its envelope shares the memory. For dumps: the product leaves jobs to the scripts.
    #[cfg(any(test, feature = "testkit"))]
    pub(super) fn read(mut bytes: Bytes) -> Result<Self, Damaged> {
        let head = Head::read(&mut bytes)?;
        let expires_at = Some(bytes.try_get_i64()?).filter(|us| *us != NUMBER_MAX);
        let length = usize::from(bytes.try_get_u8()?);
        if length > bytes.len() {
            return Err(Damaged);
        }
        let kind = bytes.split_to(length);
        let kind = std::str::from_utf8(&kind).ok().and_then(|text| text.parse().ok());
        Ok(Self {
            head,
            expires_at: expires_at.map(Timestamp::from_micros),
            kind: kind.ok_or(Damaged)?,
            flow: head.has_flow.then(|| read_flow(&mut bytes)).transpose()?,
            envelope: bytes,
        })
    }

    /// Only the envelope.
    pub(super) fn envelope(job: &Bytes) -> Result<Bytes, Damaged> {
        let length = usize::from(*job.get(JOB_HEAD - 1).ok_or(Damaged)?);
        let mut head = JOB_HEAD + length;
        if job[PRIORITY_AT] & HAS_FLOW != 0 {
            head += 1 + usize::from(*job.get(head).ok_or(Damaged)?);
        }
        if job.len() < head {
            return Err(Damaged);
        }
        Ok(job.slice(head..))
    }
}

impl HeldValue {
    /// Reads a held.
    pub(super) fn read(bytes: &mut impl Buf) -> Result<Self, Damaged> {
        let status = match bytes.try_get_u8()? {
            STATUS_WAITING => HeldStatus::Waiting,
            STATUS_LEASED => HeldStatus::Leased,
            STATUS_FINISHING => HeldStatus::Finishing,
            _ => return Err(Damaged),
        };
        let cancel = bytes.try_get_u8()? != 0;
        let worker = take_id(bytes)?;
        let claimed_at = Timestamp::from_micros(bytes.try_get_i64()?);
        let crashes = bytes.try_get_u32()?;
        let token = take_id(bytes)?;
        let (fence, attempt) = (Fence(bytes.try_get_u64()?), bytes.try_get_u32()?);
        let head = Head::read_rest(bytes, fence, crashes, attempt)?;
        let flow = head.has_flow.then(|| read_flow(bytes)).transpose()?;
        let lease = (worker != [0; 16]).then_some((WorkerId::from_bytes(worker), claimed_at));
        // A lease without a holder cannot be told to anyone.
        if bytes.has_remaining() || (status == HeldStatus::Leased && lease.is_none()) {
            return Err(Damaged);
        }
        let token = (token != [0; 16]).then_some(LeaseId::from_bytes(token));
        Ok(Self { head, status, cancel, token, lease, flow })
    }
}

/// The meta: counters, gate and settings.
#[cfg(any(test, feature = "testkit"))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MetaValue {
    pub(super) last_seq: u64,
    pub(super) bytes: u64,
    pub(super) outbox_bytes: u64,
    pub(super) window: u64,
    pub(super) recorded_seq: u64,
    pub(super) seen: Timestamp,
    pub(super) no_reap_until: Timestamp,
    pub(super) gate: Option<GateState>,
    pub(super) settings: Option<ShardSettings>,
}

#[cfg(any(test, feature = "testkit"))]
impl MetaValue {
    /// Reads a meta. For dumps: the product leaves it to the scripts.
    pub(super) fn read(mut bytes: Bytes) -> Result<Self, Damaged> {
        let bytes = &mut bytes;
        let (last_seq, sum, outbox_bytes) =
            (bytes.try_get_u64()?, bytes.try_get_u64()?, bytes.try_get_u64()?);
        let (window, recorded_seq) = (bytes.try_get_u64()?, bytes.try_get_u64()?);
        let seen = Timestamp::from_micros(bytes.try_get_i64()?);
        let no_reap_until = Timestamp::from_micros(bytes.try_get_i64()?);
        let gate = read_gate(bytes)?;
        let (grace, slots) = (take_length(bytes)?, bytes.try_get_u32()?);
        let ramp = take_length(bytes)?;
        let ramp_from = Timestamp::from_micros(bytes.try_get_i64()?);
        let state = |gate| GateState { gate, grace, slots, ramp, ramp_from };
        Ok(Self {
            last_seq,
            bytes: sum,
            outbox_bytes,
            window,
            recorded_seq,
            seen,
            no_reap_until,
            gate: gate.map(state),
            settings: read_settings(bytes)?,
        })
    }
}

#[cfg(any(test, feature = "testkit"))]
fn take_length(bytes: &mut impl Buf) -> Result<Duration, Damaged> {
    Ok(Duration::from_micros(bytes.try_get_u64()?))
}

/// Reads a gate as far as it is told to others; `None` where there is none.
pub(super) fn read_gate(bytes: &mut impl Buf) -> Result<Option<Gate>, Damaged> {
    let ledger = LedgerId::from_bytes(take_id(bytes)?);
    let generation = bytes.try_get_u64()?;
    let mut process = [0; 40];
    bytes.try_copy_to_slice(&mut process)?;
    let (process, sealed) = match process {
        NO_PROCESS => return Ok(None),
        SHUT_PROCESS => (None, false),
        SEALED_PROCESS => (None, true),
        other => (Some(read_process(&other)?), true),
    };
    Ok(Some(Gate { ledger, generation, process, sealed }))
}

/// Reads the id of a process.
pub(super) fn read_process(bytes: &[u8]) -> Result<ProcessId, Damaged> {
    std::str::from_utf8(bytes).ok().and_then(ProcessId::parse).ok_or(Damaged)
}

/// An open gate as the store keeps it, but for the instant of its opening.
pub(super) fn opening_bytes(opening: &Opening) -> Vec<u8> {
    let mut out = Vec::with_capacity(84);
    out.put_slice(opening.ledger.as_bytes());
    out.put_slice(&number_bytes(opening.generation));
    out.put_slice(opening.process.as_bytes());
    out.put_i64(length_us(opening.grace));
    out.put_u32(opening.slots);
    out.put_i64(length_us(opening.ramp));
    out
}

/// A worker in the set of those that have reported.
pub(super) fn reporter(worker: WorkerId, report: Report) -> Vec<u8> {
    let mut out = worker.as_bytes().to_vec();
    if report == Report::Present {
        out.push(PRESENT);
    }
    out
}

/// Reads what [`reporter`] wrote.
pub(super) fn read_reporter(mut bytes: &[u8]) -> Result<(WorkerId, Report), Damaged> {
    let worker = WorkerId::from_bytes(take_id(&mut bytes)?);
    match bytes {
        [] => Ok((worker, Report::Done)),
        [PRESENT] => Ok((worker, Report::Present)),
        _ => Err(Damaged),
    }
}

/// What a withdrawal says beside its id.
pub(super) fn withdrawal(lease: &Withdrawal) -> Vec<u8> {
    let mut out = Vec::with_capacity(33);
    out.put_slice(&fence_bytes(lease.fence));
    out.put_slice(lease.lease_id.as_ref().map_or(&[0; 16], LeaseId::as_bytes).as_slice());
    out.put_u32(lease.crashes);
    out.put_u32(lease.attempt);
    out.put_u8(match lease.then {
        Then::Over => 0,
        Then::Retry => 1,
        Then::Again => 2,
    });
    out
}

/// How far an outbox was looked through: the number, and the generation if there is one. Nothing for none.
pub(super) fn looked(looked: Option<Looked>) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    if let Some(Looked { generation, seq }) = looked {
        out.put_slice(&number_bytes(seq));
        out.extend(generation.map(number_bytes).into_iter().flatten());
    }
    out
}

/// Reads what [`looked`] wrote.
pub(super) fn read_looked(mut bytes: &[u8]) -> Result<Looked, Damaged> {
    let seq = bytes.try_get_u64()?;
    let generation = if bytes.is_empty() { None } else { Some(bytes.try_get_u64()?) };
    if bytes.is_empty() { Ok(Looked { generation, seq }) } else { Err(Damaged) }
}

/// For each job whether its attempt is under way, as `push` takes it.
pub(super) fn forms(jobs: &[Push]) -> Vec<u8> {
    jobs.iter().map(|job| u8::from(job.under_way)).collect()
}

/// What an adoption says beside its id and job.
pub(super) fn adoption_proof(adoption: &Adoption) -> Vec<u8> {
    let held = Held { id: adoption.job.id, fence: adoption.job.fence, lease_id: adoption.lease_id };
    let mut out = proof(&held);
    out.put_i64(micros(adoption.claimed_at));
    out
}

/// An outcome's name, as `confirm` compares it.
pub(super) fn mark(mark: &Mark) -> Vec<u8> {
    let mut out = Vec::with_capacity(40);
    out.put_slice(&number_bytes(mark.seq));
    out.put_slice(mark.id.as_bytes());
    out.put_slice(&fence_bytes(mark.fence));
    out.put_i64(micros(mark.at));
    out
}

/// Reads a position.
pub(super) fn read_position(mut bytes: &[u8]) -> Result<Position, Damaged> {
    let bytes = &mut bytes;
    let (last_seq, recorded_seq) = (bytes.try_get_u64()?, bytes.try_get_u64()?);
    let generation = if bytes.is_empty() { None } else { Some(bytes.try_get_u64()?) };
    if !bytes.is_empty() {
        return Err(Damaged);
    }
    Ok(Position { generation, last_seq, recorded_seq })
}

/// Reads what `scan` says of one job.
pub(super) fn read_live(mut bytes: &[u8]) -> Result<LiveEntry, Damaged> {
    let bytes = &mut bytes;
    let id = JobId::from_bytes(take_id(bytes)?);
    let fence = Fence(bytes.try_get_u64()?);
    let (crashes, attempt) = (bytes.try_get_u32()?, bytes.try_get_u32()?);
    // The score, which orders it.
    bytes.try_get_i64()?;
    let run_at = Timestamp::from_micros(bytes.try_get_i64()?);
    let (finishing, leased) = match bytes.try_get_u8()? {
        0 => (false, false),
        1 => (true, false),
        2 => (false, true),
        _ => return Err(Damaged),
    };
    Ok(LiveEntry { id, fence, attempt, crashes, run_at, finishing, leased })
}

/// A number that Lua can hold exactly.
pub(super) fn number_bytes(number: u64) -> [u8; 8] {
    number.min(NUMBER_MAX as u64 - 1).to_be_bytes()
}

/// The proof of a lease, as `extend` compares it.
pub(super) fn proof(held: &Held) -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    out.put_slice(held.lease_id.as_bytes());
    out.put_u64(fence_number(held.fence));
    out
}

/// What a settle says beside its id and detail.
pub(super) fn settle_head(settle: &Settle) -> Vec<u8> {
    let (ended, delay_us) = match settle.verdict {
        Verdict::Succeeded => (1, 0),
        Verdict::Retry { delay } => (2, length_us(delay)),
        Verdict::Dead => (3, 0),
        Verdict::Snooze { delay } => (4, length_us(delay)),
        Verdict::Release => (5, 0),
        Verdict::Cancelled => (6, 0),
    };
    let mut out = Vec::with_capacity(34);
    out.put_slice(&proof(&settle.held));
    out.put_u8(ended);
    out.put_i64(delay_us);
    out.put_u8(match settle.dependency {
        None => 0,
        Some(Dependency::Answered) => 1,
        Some(Dependency::Failed) => 2,
        Some(Dependency::Exhausted) => 3,
    });
    out
}

/// A fence as tombstones and `cancel` have it.
pub(super) fn fence_bytes(fence: Fence) -> [u8; 8] {
    fence_number(fence).to_be_bytes()
}

/// Reads an outcome; its detail shares the memory.
pub(super) fn read_outcome(mut bytes: Bytes) -> Result<Outcome, Damaged> {
    let (seq, id) = (bytes.try_get_u64()?, take_id(&mut bytes)?);
    let worker = WorkerId::from_bytes(take_id(&mut bytes)?);
    let claimed_at = Timestamp::from_micros(bytes.try_get_i64()?);
    let crashes = bytes.try_get_u32()?;
    // The token: no one's business any more.
    take_id(&mut bytes)?;
    let (fence, attempt) = (bytes.try_get_u64()?, bytes.try_get_u32()?);
    let code = bytes.try_get_u8()?;
    let again_at = Timestamp::from_micros(bytes.try_get_i64()?);
    let at = Timestamp::from_micros(bytes.try_get_i64()?);
    let ended = match code {
        1 => Ended::Succeeded,
        2 => Ended::Retry(again_at),
        3 => Ended::Dead,
        4 => Ended::Snoozed(again_at),
        5 => Ended::Released,
        6 => Ended::Cancelled,
        7 => Ended::Expired,
        8 => Ended::Lost,
        9 => Ended::Quarantined,
        _ => return Err(Damaged),
    };
    // The only end of a job that nobody held.
    let held = ended != Ended::Expired;
    Ok(Outcome {
        seq,
        id: JobId::from_bytes(id),
        fence: Fence(fence),
        ended,
        at,
        claimed_at: held.then_some(claimed_at),
        worker: held.then_some(worker),
        attempt,
        crashes,
        detail: bytes,
    })
}

/// Settings as the store keeps them, but for kinds and weights.
pub(super) fn settings_bytes(settings: &ShardSettings) -> Vec<u8> {
    let mut out = Vec::with_capacity(92);
    out.put_u64(settings.version);
    out.put_u8(settings.paused.into());
    out.put_u64(settings.jobs_max);
    out.put_u64(settings.bytes_max);
    out.put_u64(settings.priority_unit.as_secs());
    out.put_u32(settings.priority_unit.subsec_nanos());
    put_limits(&mut out, &settings.flow.queue);
    put_limits(&mut out, &settings.flow.keys);
    out.put_u16(u16::try_from(settings.flow.kinds.len()).expect("there are few kinds with limits"));
    let FlowSettings { kinds, weights, circuits, .. } = &settings.flow;
    let has_facts = !(kinds.is_empty() && weights.is_empty() && circuits.is_empty());
    out.put_u8(has_facts.into());
    put_retries(&mut out, settings.flow.retries);
    out
}

/// Reads settings, without kinds and weights; none of an unconfigured shard.
pub(super) fn read_settings(mut bytes: &[u8]) -> Result<Option<ShardSettings>, Damaged> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let bytes = &mut bytes;
    let mut settings = ShardSettings {
        version: bytes.try_get_u64()?,
        paused: bytes.try_get_u8()? != 0,
        jobs_max: bytes.try_get_u64()?,
        bytes_max: bytes.try_get_u64()?,
        priority_unit: {
            let (seconds, nanos) = (bytes.try_get_u64()?, bytes.try_get_u32()?);
            if nanos >= 1_000_000_000 {
                return Err(Damaged);
            }
            Duration::new(seconds, nanos)
        },
        flow: FlowSettings {
            queue: read_limits(bytes)?,
            keys: read_limits(bytes)?,
            ..FlowSettings::default()
        },
    };
    bytes.try_get_u16()?;
    bytes.try_get_u8()?;
    settings.flow.retries = read_retries(bytes)?;
    if bytes.is_empty() { Ok(Some(settings)) } else { Err(Damaged) }
}

/// Takes 16 bytes off the front.
pub(super) fn take_id(bytes: &mut impl Buf) -> Result<[u8; 16], Damaged> {
    let mut id = [0; 16];
    bytes.try_copy_to_slice(&mut id)?;
    Ok(id)
}

impl From<bytes::TryGetError> for Damaged {
    fn from(_: bytes::TryGetError) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push() -> Push {
        Push {
            attempt: 1,
            crashes: 2,
            priority: Priority::MAX,
            ..Push::new(
                Fence(7),
                "k".parse().unwrap(),
                Timestamp::from_micros(1_001),
                Bytes::from_static(b"{}"),
            )
        }
    }

    #[test]
    fn a_pushed_job_reads_back() {
        let job = push();
        let bytes = Bytes::from(pushed_job(&job));
        let value = JobValue::read(bytes.clone()).unwrap();
        let unit_ms = ShardSettings::default().priority_unit.as_millis() as i64;
        assert_eq!((value.head.fence, value.head.score), (job.fence, 2 - 9 * unit_ms));
        assert_eq!((value.kind, value.expires_at), (job.kind, None));
        assert_eq!(value.envelope, job.envelope);
        assert_eq!(JobValue::envelope(&bytes), Ok(job.envelope));
    }

    #[test]
    fn cut_off_or_strange_bytes_are_damaged_and_never_panic() {
        let job = Bytes::from(pushed_job(&push()));
        for len in 0..JOB_HEAD {
            assert_eq!(JobValue::read(job.slice(..len)), Err(Damaged), "{len}");
            assert_eq!(JobValue::envelope(&job.slice(..len)), Err(Damaged), "{len}");
        }
        for value in 0..=255 {
            for place in 0..job.len() {
                let mut strange = job.to_vec();
                strange[place] = value;
                let _ = JobValue::read(strange.into());
            }
            for len in 0..200 {
                let strange = vec![value; len];
                let _ = HeldValue::read(&mut strange.as_slice());
                let _ = read_outcome(Bytes::from(strange));
            }
            let _ = read_settings(&[value; 37]);
        }
        assert!(read_outcome(Bytes::from(vec![1; OUTCOME_HEAD - 1])).is_err());
        assert!(read_settings(&[1; 36]).is_err());
    }
}
