//! The verbs of the gate, and those that compare a shard with the ledger: one typed function per script.

use std::time::Duration;

use super::changes::{batches, some_batches};
use super::script::Way;
use super::{Redis, flow, layout};
use crate::engine::*;

/// About how many jobs one step of `scan` looks at. Their envelopes are read, and not sent.
const SCAN_PAGE: u32 = 200;

/// The contract: see [`Engine`], whose words hold here.
#[allow(missing_docs, reason = "documented once, at `Engine`")]
impl Redis {
    pub async fn gate(&self, shard: &ShardId) -> Result<GateView, EngineError> {
        // On the hot way: what a replica says of its process is of no use.
        let mut reply = self.look(&self.scripts.gate, Way::Hot, shard, |_| {}).await?;
        reply.expect("gate")?;
        let process = layout::read_process(&reply.bytes()?);
        let process = reply.sound(process)?;
        let gate = layout::read_gate(&mut reply.bytes()?);
        let gate = reply.sound(gate)?;
        let mut workers = reply.list()?;
        let (mut reported, mut present) = (Vec::new(), Vec::new());
        while workers.len() > 0 {
            let read = layout::read_reporter(&workers.bytes()?);
            match workers.sound(read)? {
                (worker, Report::Done) => reported.push(worker),
                (worker, Report::Present) => present.push(worker),
            }
        }
        reply.end()?;
        Ok(GateView { process, gate, reported, present })
    }

    pub async fn shut(
        &self,
        shard: &ShardId,
        ledger: LedgerId,
        generation: u64,
        not_after: Timestamp,
    ) -> Result<Shut, EngineError> {
        let mut reply = self
            .change(&self.scripts.shut, shard, |cmd| {
                cmd.arg(layout::micros(not_after)).arg(ledger.as_bytes());
                cmd.arg(&layout::number_bytes(generation));
            })
            .await?;
        let word = reply.word()?;
        let shut = match word.as_str() {
            "late" => Shut::Late,
            "newer" => Shut::Newer,
            "shut" => {
                let process = layout::read_process(&reply.bytes()?);
                Shut::Shut { process: reply.sound(process)?, wiped: reply.count()? == 1 }
            }
            _ => return Err(reply.unknown(word)),
        };
        reply.end()?;
        Ok(shut)
    }

    pub async fn seal(
        &self,
        shard: &ShardId,
        ledger: LedgerId,
        generation: u64,
    ) -> Result<bool, EngineError> {
        let mut reply = self
            .change(&self.scripts.seal, shard, |cmd| {
                cmd.arg(ledger.as_bytes()).arg(&layout::number_bytes(generation));
            })
            .await?;
        let word = reply.word()?;
        let sealed = match word.as_str() {
            "sealed" => true,
            "other" => false,
            _ => return Err(reply.unknown(word)),
        };
        reply.end()?;
        Ok(sealed)
    }

    pub async fn withdraw(
        &self,
        shard: &ShardId,
        leases: &[Withdrawal],
        looked: Option<Looked>,
    ) -> Result<WithdrawReply, EngineError> {
        let mut whole = Vec::with_capacity(leases.len());
        // The least of all calls: what it covers was looked through for every lease.
        let mut least: Option<Looked> = None;
        for batch in some_batches(leases, |lease| lease.id) {
            let mut reply = self
                .change(&self.scripts.withdraw, shard, |cmd| {
                    cmd.arg(batch.len()).arg(layout::looked(looked));
                    for lease in batch {
                        cmd.arg(lease.id.as_bytes()).arg(layout::withdrawal(lease));
                    }
                })
                .await?;
            reply.expect("withdrawn")?;
            let now = layout::read_looked(&reply.bytes()?);
            let now = reply.sound(now)?;
            least = Some(least.filter(|least| least.seq < now.seq).unwrap_or(now));
            whole.extend(reply.letters(batch.len(), |letter| match letter {
                b'O' => Some(Withdrawn::Out),
                b'W' => Some(Withdrawn::Waits),
                b'B' => Some(Withdrawn::Behind),
                b'K' => Some(Withdrawn::Known),
                b'T' => Some(Withdrawn::Stolen),
                _ => None,
            })?);
            reply.end()?;
        }
        Ok(WithdrawReply { leases: whole, looked: least.expect("there is a call at least") })
    }

    pub async fn open_gate(
        &self,
        shard: &ShardId,
        opening: &Opening,
    ) -> Result<Opened, EngineError> {
        let mut reply = self
            .change(&self.scripts.open, shard, |cmd| {
                cmd.arg(layout::opening_bytes(opening));
                cmd.arg(layout::settings_bytes(&opening.settings));
                flow::fill(cmd, &opening.settings.flow);
            })
            .await?;
        let word = reply.word()?;
        let opened = match word.as_str() {
            "open" => Opened::Open,
            "moved" => Opened::Moved,
            "newer" => Opened::Newer,
            _ => return Err(reply.unknown(word)),
        };
        reply.end()?;
        Ok(opened)
    }

    pub async fn adopt(
        &self,
        shard: &ShardId,
        worker: WorkerId,
        lease: Duration,
        leases: &[Adoption],
    ) -> Result<Vec<Adopted>, EngineError> {
        let mut whole = Vec::with_capacity(leases.len());
        for batch in batches(leases, |adoption| adoption.job.id) {
            let values: Vec<_> =
                batch.iter().map(|adoption| layout::pushed_job(&adoption.job)).collect();
            let mut reply = self
                .change(&self.scripts.adopt, shard, |cmd| {
                    cmd.arg(layout::length_us(lease)).arg(worker.as_bytes()).arg(batch.len());
                    for (adoption, value) in batch.iter().zip(&values) {
                        cmd.arg(adoption.job.id.as_bytes());
                        cmd.arg(layout::adoption_proof(adoption)).arg(value);
                    }
                })
                .await?;
            reply.expect("adopted")?;
            for _ in batch {
                whole.push(match reply.number()? {
                    -1 => Adopted::Over,
                    -2 => Adopted::Stolen,
                    end_ms @ 0.. => Adopted::Held { expires_at: Timestamp::from_millis(end_ms) },
                    other => return Err(reply.unknown(other)),
                });
            }
            reply.end()?;
        }
        Ok(whole)
    }

    pub async fn report(
        &self,
        shard: &ShardId,
        ledger: LedgerId,
        generation: u64,
        worker: WorkerId,
        report: Report,
    ) -> Result<(), EngineError> {
        let member = layout::reporter(worker, report);
        let mut verification = ledger.as_bytes().to_vec();
        verification.extend(layout::number_bytes(generation));
        let mut reply = self
            .change(&self.scripts.report, shard, |cmd| {
                cmd.arg(&member).arg(&verification);
            })
            .await?;
        reply.expect("reported")?;
        reply.end()
    }

    pub async fn scan(&self, shard: &ShardId, cursor: u64) -> Result<ScanPage, EngineError> {
        let mut reply = self
            .look(&self.scripts.scan, Way::Read, shard, |cmd| {
                cmd.arg(cursor).arg(SCAN_PAGE);
            })
            .await?;
        reply.expect("scanned")?;
        let next = reply.word()?;
        let next = next.parse().map_err(|_| reply.unknown(next))?;
        let position = super::changes::read_position(&mut reply)?;
        let mut entries = Vec::with_capacity(reply.len());
        while reply.len() > 0 {
            let entry = layout::read_live(&reply.bytes()?);
            entries.push(reply.sound(entry)?);
        }
        Ok(ScanPage { entries, next, position })
    }

    pub async fn drop_jobs(
        &self,
        shard: &ShardId,
        jobs: &[(JobId, Fence)],
        bury: bool,
    ) -> Result<Vec<bool>, EngineError> {
        let mut whole = Vec::with_capacity(jobs.len());
        for batch in batches(jobs, |(id, _)| *id) {
            let mut reply = self
                .change(&self.scripts.drop, shard, |cmd| {
                    cmd.arg(if bury { "bury" } else { "forget" }).arg(batch.len());
                    for (id, fence) in batch {
                        cmd.arg(id.as_bytes()).arg(&layout::fence_bytes(*fence));
                    }
                })
                .await?;
            reply.expect("dropped")?;
            whole.extend(reply.letters(batch.len(), |letter| match letter {
                b'D' => Some(true),
                b'K' => Some(false),
                _ => None,
            })?);
            reply.end()?;
        }
        Ok(whole)
    }
}
