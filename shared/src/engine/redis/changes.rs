//! The verbs that change a shard: one typed function per script.

use std::time::Duration;

use ::redis::Cmd;

use super::fault::Fault;
use super::reply::Reply;
use super::script::Way;
use super::{Redis, flow, layout};
use crate::engine::flow::FlowKey;
use crate::engine::*;
use crate::limits::ENGINE_BATCH_MAX;

/// Outcomes that one round trip of `confirm` forgets.
const CONFIRM_BATCH: u64 = ENGINE_BATCH_MAX as u64;
/// Among so many of the oldest an outcome is looked for if its number does not tell its place.
const CONFIRM_SEARCH: u64 = 500;

/// The contract: see [`Engine`], whose words hold here. A batch over [`ENGINE_BATCH_MAX`], or with an id
/// twice, is done in several steps.
#[allow(missing_docs, reason = "documented once, at `Engine`")]
impl Redis {
    pub async fn push(
        &self,
        shard: &ShardId,
        jobs: &[Push],
        valid: &Validity,
    ) -> Result<PushReply, EngineError> {
        let mut whole = PushReply {
            pushed: Vec::with_capacity(jobs.len()),
            open: false,
            generation: 0,
            now: Timestamp::default(),
        };
        for batch in batches(jobs, |job| job.id) {
            let reply = match self.push_batch(shard, batch, valid).await {
                Err(Fault::NoMemory(_)) => self.push_refused(shard, batch.len()).await?,
                other => other.map_err(|fault| fault.into_error("push"))??,
            };
            whole.pushed.extend(reply.pushed);
            (whole.open, whole.now) = (reply.open, reply.now);
            whole.generation = reply.generation;
        }
        if jobs.is_empty() {
            return self.push_refused(shard, 0).await;
        }
        Ok(whole)
    }

    async fn push_batch(
        &self,
        shard: &ShardId,
        jobs: &[Push],
        valid: &Validity,
    ) -> Result<Result<PushReply, EngineError>, Fault> {
        let values: Vec<_> = jobs.iter().map(layout::pushed_job).collect();
        let value = self
            .run(&self.scripts.push, Way::Hot, shard, |cmd| {
                cmd.arg(layout::micros(valid.not_after)).arg(valid.generation);
                cmd.arg(valid.ledger.as_bytes());
                cmd.arg(u8::from(valid.origin == PushOrigin::Fresh));
                cmd.arg(jobs.len()).arg(layout::forms(jobs));
                for (job, value) in jobs.iter().zip(&values) {
                    cmd.arg(job.id.as_bytes()).arg(value);
                }
            })
            .await?;
        Ok(read_pushed(value, jobs.len()))
    }

    /// At `maxmemory` the whole batch is refused, before anything is looked at.
    async fn push_refused(&self, shard: &ShardId, count: usize) -> Result<PushReply, EngineError> {
        let stats = self.stats(shard).await?;
        Ok(PushReply {
            pushed: vec![Pushed::Full; count],
            open: stats.open,
            generation: 0,
            now: stats.now,
        })
    }

    pub async fn claim(
        &self,
        shard: &ShardId,
        request: &ClaimRequest,
    ) -> Result<ClaimReply, EngineError> {
        let max = request.max.min(ENGINE_BATCH_MAX as u32);
        let reply = self
            .change(&self.scripts.claim, shard, |cmd| {
                cmd.arg(max).arg(layout::length_us(request.lease));
                cmd.arg([*request.worker.as_bytes(), *request.lease_id.as_bytes()].as_flattened());
                cmd.arg(request.offset);
                cmd.arg(request.ledger.as_ref().map_or(&[][..], |id| id.as_bytes()));
                cmd.arg(request.kinds.len());
                for kind in &request.kinds {
                    let key = FlowKey::of(kind.as_str());
                    cmd.arg([key.as_bytes(), kind.as_str().as_bytes()].concat());
                }
            })
            .await?;
        read_claimed(reply)
    }

    pub async fn extend(
        &self,
        shard: &ShardId,
        held: &[Held],
        lease: Duration,
    ) -> Result<ExtendReply, EngineError> {
        let mut whole = Vec::with_capacity(held.len());
        let mut position = Position::default();
        for batch in some_batches(held, |held| held.id) {
            let mut reply = self
                .change(&self.scripts.extend, shard, |cmd| {
                    cmd.arg(layout::length_us(lease)).arg(batch.len());
                    for held in batch {
                        cmd.arg(held.id.as_bytes()).arg(layout::proof(held));
                    }
                })
                .await?;
            reply.expect("extended")?;
            position = read_position(&mut reply)?;
            for _ in batch {
                whole.push(match reply.number()? {
                    -1 => Extended::Gone,
                    -2 => Extended::Stolen,
                    number @ 0.. => Extended::Held {
                        expires_at: Timestamp::from_millis(number / 2),
                        cancel: number % 2 == 1,
                    },
                    other => return Err(reply.unknown(other)),
                });
            }
            reply.end()?;
        }
        Ok(ExtendReply { leases: whole, position })
    }

    pub async fn settle(
        &self,
        shard: &ShardId,
        settles: &[Settle],
    ) -> Result<SettleReply, EngineError> {
        let mut whole = Vec::with_capacity(settles.len());
        let mut position = Position::default();
        for batch in some_batches(settles, |settle| settle.held.id) {
            let mut reply = self
                .change(&self.scripts.settle, shard, |cmd| {
                    cmd.arg(batch.len());
                    for settle in batch {
                        cmd.arg(settle.held.id.as_bytes()).arg(layout::settle_head(settle));
                        cmd.arg(&*settle.detail);
                    }
                })
                .await?;
            reply.expect("settled")?;
            position = read_position(&mut reply)?;
            whole.extend(reply.letters(batch.len(), |letter| match letter {
                b'S' => Some(Settled::Settled),
                b'R' => Some(Settled::Repeated),
                b'G' => Some(Settled::Gone),
                b'T' => Some(Settled::Stolen),
                _ => None,
            })?);
            reply.end()?;
        }
        Ok(SettleReply { settles: whole, position })
    }

    pub async fn promote(&self, shard: &ShardId, max: u32) -> Result<u32, EngineError> {
        moved(
            self.change(&self.scripts.promote, shard, |cmd| {
                cmd.arg(max);
            })
            .await?,
        )
    }

    pub async fn reap(&self, shard: &ShardId, max: u32) -> Result<u32, EngineError> {
        moved(
            self.change(&self.scripts.reap, shard, |cmd| {
                cmd.arg(max);
            })
            .await?,
        )
    }

    pub async fn refilled(
        &self,
        shard: &ShardId,
        groups: &[crate::engine::flow::Group],
    ) -> Result<(), EngineError> {
        let mut reply = self
            .change(&self.scripts.refilled, shard, |cmd| {
                cmd.arg(groups.len());
                for group in groups {
                    cmd.arg(&group.as_bytes());
                }
            })
            .await?;
        reply.expect("refilled")?;
        reply.end()
    }

    pub async fn reset_circuit(
        &self,
        shard: &ShardId,
        circuit: crate::engine::flow::FlowKey,
    ) -> Result<bool, EngineError> {
        let mut reply = self
            .change(&self.scripts.reset, shard, |cmd| {
                cmd.arg(circuit.as_bytes());
            })
            .await?;
        reply.expect("reset")?;
        Ok(reply.count()? > 0)
    }

    pub async fn configure(
        &self,
        shard: &ShardId,
        settings: &ShardSettings,
    ) -> Result<bool, EngineError> {
        let mut reply = self
            .change(&self.scripts.configure, shard, |cmd| {
                cmd.arg(layout::settings_bytes(settings));
                flow::fill(cmd, &settings.flow);
            })
            .await?;
        let word = reply.word()?;
        match word.as_str() {
            "configured" => Ok(true),
            "newer" => Ok(false),
            _ => Err(reply.unknown(word)),
        }
    }

    pub async fn cancel(
        &self,
        shard: &ShardId,
        jobs: &[(JobId, Fence)],
        how: Withdraw,
    ) -> Result<Vec<CancelReply>, EngineError> {
        let word = match how {
            Withdraw::StopRunning => "stop",
            Withdraw::WaitingOnly => "waiting",
        };
        let mut whole = Vec::with_capacity(jobs.len());
        for batch in batches(jobs, |(id, _)| *id) {
            let mut reply = self
                .change(&self.scripts.cancel, shard, |cmd| {
                    cmd.arg(word).arg(batch.len());
                    for (id, fence) in batch {
                        cmd.arg(id.as_bytes()).arg(&layout::fence_bytes(*fence));
                    }
                })
                .await?;
            reply.expect("cancelled")?;
            whole.extend(reply.letters(batch.len(), |letter| match letter {
                b'W' => Some(CancelReply::Removed),
                b'A' => Some(CancelReply::Absent),
                b'L' => Some(CancelReply::Running),
                b'F' => Some(CancelReply::Finishing),
                _ => None,
            })?);
            reply.end()?;
        }
        Ok(whole)
    }

    pub async fn confirm(&self, shard: &ShardId, last: &Mark) -> Result<(), EngineError> {
        let mark = layout::mark(last);
        // Ends because every full step takes outcomes that are there, up to the one that is meant.
        loop {
            let mut reply = self
                .change(&self.scripts.confirm, shard, |cmd| {
                    cmd.arg(&mark).arg(CONFIRM_BATCH).arg(CONFIRM_SEARCH);
                })
                .await?;
            reply.expect("confirmed")?;
            let count = reply.count()?;
            reply.end()?;
            if count < CONFIRM_BATCH {
                return Ok(());
            }
        }
    }

    pub(super) async fn change(
        &self,
        script: &super::script::Script,
        shard: &ShardId,
        args: impl Fn(&mut Cmd),
    ) -> Result<Reply, EngineError> {
        let value = self.run(script, Way::Hot, shard, args).await;
        Reply::new(script.name, value.map_err(|fault| fault.into_error(script.name))?)
    }
}

fn read_pushed(value: ::redis::Value, count: usize) -> Result<PushReply, EngineError> {
    let mut reply = Reply::new("push", value)?;
    let word = reply.word()?;
    let now = Timestamp::from_micros(reply.number()?);
    let open = reply.number()? == 1;
    let generation = reply.count()?;
    let pushed = match word.as_str() {
        "late" => {
            reply.bytes()?;
            vec![Pushed::Late; count]
        }
        "pushed" => reply.letters(count, |letter| match letter {
            b'A' => Some(Pushed::Added),
            b'P' => Some(Pushed::Present),
            b'F' => Some(Pushed::Full),
            b'C' => Some(Pushed::Crowded),
            _ => None,
        })?,
        _ => return Err(reply.unknown(word)),
    };
    reply.end()?;
    Ok(PushReply { pushed, open, generation, now })
}

fn read_claimed(mut reply: Reply) -> Result<ClaimReply, EngineError> {
    let word = reply.word()?;
    let state = match word.as_str() {
        "open" => ClaimState::Open,
        "unverified" => ClaimState::Unverified,
        "foreign" => ClaimState::Foreign,
        "limited" => ClaimState::Limited,
        "paused" => ClaimState::Paused,
        "braked" => ClaimState::Braked,
        "warming" => ClaimState::Warming,
        _ => return Err(reply.unknown(word)),
    };
    let now = Timestamp::from_micros(reply.number()?);
    let next_due_ms = reply.number()?;
    let next_offset = reply.count()?;
    let next_offset = u32::try_from(next_offset).map_err(|_| reply.unknown(next_offset))?;
    let expires_at = Timestamp::from_millis(reply.number()?);
    garbage("claim", reply.count()?);
    let position = read_position(&mut reply)?;
    let mut jobs = Vec::with_capacity(reply.len() / 2);
    while reply.len() > 0 {
        let (mut head, job) = (reply.bytes()?, reply.bytes()?);
        let lease = claimed_head(&mut head);
        let (id, fence, attempt, crashes) = reply.sound(lease)?;
        let probe = !head.is_empty();
        let envelope = reply.sound(layout::JobValue::envelope(&job))?;
        jobs.push(Claimed { id, fence, attempt, crashes, expires_at, probe, envelope });
    }
    let next_due = (next_due_ms >= 0).then(|| Timestamp::from_millis(next_due_ms));
    Ok(ClaimReply { state, jobs, next_due, next_offset, now, position })
}

/// The next item, a position as `lua/shard.lua` packs it.
pub(super) fn read_position(reply: &mut Reply) -> Result<Position, EngineError> {
    let position = layout::read_position(&reply.bytes()?);
    reply.sound(position)
}

fn claimed_head(head: &mut Bytes) -> Result<(JobId, Fence, u32, u32), layout::Damaged> {
    use bytes::Buf;
    let id = JobId::from_bytes(layout::take_id(head)?);
    let (fence, crashes) = (Fence(head.try_get_u64()?), head.try_get_u32()?);
    Ok((id, fence, head.try_get_u32()?, crashes))
}

fn moved(mut reply: Reply) -> Result<u32, EngineError> {
    reply.expect("moved")?;
    let count = reply.count()?;
    garbage("move", reply.count()?);
    u32::try_from(count).map_err(|_| reply.unknown(count))
}

/// Counts members of orders that a script threw out because they were no jobs.
fn garbage(script: &'static str, count: u64) {
    if count > 0 {
        metrics::counter!("windlass_engine_garbage_total", "script" => script).increment(count);
    }
}

/// As [`batches`], but one empty batch of nothing: its reply tells the position.
pub(super) fn some_batches<T>(items: &[T], id: impl Fn(&T) -> JobId) -> Vec<&[T]> {
    if items.is_empty() { vec![items] } else { batches(items, id) }
}

/// Cuts a batch into such as one script takes: not too long, no id twice.
pub(super) fn batches<T>(items: &[T], id: impl Fn(&T) -> JobId) -> Vec<&[T]> {
    let mut cuts = Vec::with_capacity(1);
    let (mut start, mut seen) = (0, HashSet::with_capacity(items.len().min(ENGINE_BATCH_MAX)));
    for (i, item) in items.iter().enumerate() {
        let fresh = seen.insert(id(item));
        if !fresh || i - start == ENGINE_BATCH_MAX {
            cuts.push(&items[start..i]);
            seen.clear();
            seen.insert(id(item));
            start = i;
        }
    }
    if start < items.len() {
        cuts.push(&items[start..]);
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_short_and_have_no_id_twice() {
        let ids: Vec<JobId> = (0..450).map(|_| JobId::generate()).collect();
        let lens =
            |ids: &[JobId]| batches(ids, |id| *id).iter().map(|b| b.len()).collect::<Vec<_>>();
        assert_eq!(lens(&ids), [200, 200, 50]);
        assert!(lens(&[]).is_empty());
        let twice = [ids[0], ids[1], ids[0], ids[0], ids[2]];
        assert_eq!(lens(&twice), [2, 1, 2]);
    }
}
