//! One attempt of one job, as everything in the worker that deals with it shares it.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use windlass_shared::engine::envelope::{Envelope, EnvelopeHead};
use windlass_shared::engine::{Adoption, Claimed, Held, Push, Settle, ShardId, Verdict};
use windlass_shared::gate::Gate;
use windlass_shared::model::evaluate::Evaluation;
use windlass_shared::model::id::{LeaseId, LedgerId};
use windlass_shared::model::job::Value;
use windlass_shared::model::time::Timestamp;

use crate::boot_time::boot_ms;
use crate::home::Home;
use crate::reporter::buffer::Reports;
use crate::reporter::{Left, SharedReporter};
use crate::ring::Done;

/// Why a handler is told to stop. The first reason stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum StopReason {
    /// Somebody asked for it.
    Cancelled = 1,
    /// Over the attempt's limit.
    TimedOut = 2,
    /// The worker stops and has no more time.
    Drain = 3,
    /// The lease is about to pass, or has passed, to somebody else.
    LeaseLost = 4,
}

impl StopReason {
    const ALL: [Self; 4] = [Self::Cancelled, Self::TimedOut, Self::Drain, Self::LeaseLost];
}

/// Tells a handler to stop, once, with the reason kept for the settle.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    token: CancellationToken,
    reason: AtomicU8,
    heard: AtomicBool,
}

impl Stop {
    /// Stops for this reason, unless it is stopped already.
    pub(crate) fn stop(&self, reason: StopReason) {
        let first =
            self.reason.compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Acquire);
        if first.is_ok() {
            self.token.cancel();
        }
    }

    pub(crate) fn reason(&self) -> Option<StopReason> {
        let number = self.reason.load(Ordering::Acquire);
        StopReason::ALL.into_iter().find(|reason| *reason as u8 == number)
    }

    pub(crate) async fn stopped(&self) {
        self.token.cancelled().await;
    }

    /// The token for a handler, which by asking for it says that it will react.
    pub(crate) fn listen(&self) -> &CancellationToken {
        self.heard.store(true, Ordering::Release);
        &self.token
    }

    /// Whether the handler reacts to the token, so that waiting for it makes sense.
    pub(crate) fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Acquire)
    }
}

/// What the attempts of one worker share.
pub(crate) struct Crew {
    /// Its label, for people.
    pub(crate) worker_name: String,
    /// Where log lines and progress go.
    pub(crate) reports: Reports,
    /// Where partial results go.
    pub(crate) reporter: SharedReporter,
    /// Checks of what submitters shape.
    pub(crate) gate: Gate,
    /// Whose jobs it takes.
    pub(crate) home: Home,
}

/// One attempt: the job, the lease that it runs under, and how it is told to stop.
pub(crate) struct Attempt {
    pub(crate) crew: Arc<Crew>,
    pub(crate) shard: Arc<ShardId>,
    pub(crate) held: Held,
    /// Counted from 1, this one included.
    pub(crate) number: u32,
    claim: Claim,
    /// It is the probe of its circuit.
    pub(crate) is_probe: bool,
    /// Leases lost before this one.
    pub(crate) crashes: u32,
    /// As it was claimed; shares its memory with the payload.
    envelope: Bytes,
    pub(crate) head: EnvelopeHead,
    pub(crate) payload: Value,
    /// The payload's bytes; set before the handler starts.
    pub(crate) payload_bytes: OnceLock<Bytes>,
    pub(crate) stop: Stop,
    /// What it used, as far as the handler can tell.
    pub(crate) usage: Mutex<Option<serde_json::Value>>,
    /// The verdict over a result that is refused.
    pub(crate) evaluation: Mutex<Option<Evaluation>>,
    /// Held while a partial result is stored.
    pub(crate) checkpointing: tokio::sync::Mutex<()>,
    /// What earlier attempts left, once it was asked for.
    pub(crate) left: tokio::sync::OnceCell<Left>,
    /// Start of the claim's or the last good extension's sending, in [`boot_ms`].
    sent_ms: AtomicU64,
    /// End of the lease, in engine time.
    expires_us: AtomicI64,
    /// The engine said that it does not know the lease: it may be put back.
    unknown: AtomicBool,
    /// The lease is known to be gone: it is not extended any more.
    gone: AtomicBool,
}

/// How a claim went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    /// The token of its leases.
    pub(crate) lease_id: LeaseId,
    /// Start of its sending, in [`boot_ms`].
    pub(crate) sent_ms: u64,
    /// Engine time of its answer.
    pub(crate) at: Timestamp,
    /// The ledger that was asked for; `None`: not known.
    pub(crate) ledger: Option<LedgerId>,
}

impl Claim {
    /// Engine time now, as far as this process knows it: late by what the claim took at most.
    fn engine_time(&self) -> Timestamp {
        self.at.plus(Duration::from_millis(boot_ms().saturating_sub(self.sent_ms)))
    }

    /// The end, now, of a job that was claimed so.
    pub(crate) fn done(&self, job: &Claimed, verdict: Verdict, detail: Bytes) -> Done {
        self.done_of(self.held(job), job.attempt, job.crashes, (verdict, detail))
    }

    fn held(&self, job: &Claimed) -> Held {
        Held { id: job.id, fence: job.fence, lease_id: self.lease_id }
    }

    fn done_of(
        &self,
        held: Held,
        before: u32,
        crashes: u32,
        (verdict, detail): (Verdict, Bytes),
    ) -> Done {
        let counts = match verdict {
            Verdict::Succeeded | Verdict::Retry { .. } | Verdict::Dead => 1,
            Verdict::Snooze { .. } | Verdict::Release | Verdict::Cancelled => 0,
        };
        Done {
            settle: Settle { dependency: None, held, verdict, detail },
            attempt: before.saturating_add(counts),
            crashes,
            claimed_at: self.at,
            at: self.engine_time(),
            ledger: self.ledger,
            told: false,
        }
    }
}

impl Attempt {
    pub(crate) fn new(
        crew: &Arc<Crew>,
        shard: &Arc<ShardId>,
        claim: Claim,
        (claimed, envelope): (&Claimed, Envelope),
    ) -> Self {
        let Envelope { head, payload } = envelope;
        let payload_bytes = OnceLock::new();
        if let Value::Inline(bytes) = &payload {
            payload_bytes.get_or_init(|| bytes.clone());
        }
        Self {
            crew: Arc::clone(crew),
            shard: Arc::clone(shard),
            held: claim.held(claimed),
            number: claimed.attempt.saturating_add(1),
            claim,
            is_probe: claimed.probe,
            crashes: claimed.crashes,
            envelope: claimed.envelope.clone(),
            head,
            payload,
            payload_bytes,
            stop: Stop::default(),
            usage: Mutex::new(None),
            evaluation: Mutex::new(None),
            checkpointing: tokio::sync::Mutex::new(()),
            left: tokio::sync::OnceCell::new(),
            sent_ms: AtomicU64::new(claim.sent_ms),
            expires_us: AtomicI64::new(claimed.expires_at.micros()),
            unknown: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        }
    }

    /// Whether the job may be what its workers died of: it lost two leases, or all but the last that it may lose.
    pub(crate) fn is_suspect(&self) -> bool {
        self.crashes >= self.head.spec.max_crashes.saturating_sub(1).clamp(1, 2)
    }

    /// Its end, now.
    pub(crate) fn done(&self, verdict: Verdict, detail: Bytes) -> Done {
        let before = self.number.saturating_sub(1);
        self.claim.done_of(self.held, before, self.crashes, (verdict, detail))
    }

    /// The lease, for an engine that has lost it.
    pub(crate) fn adoption(&self) -> Adoption {
        let EnvelopeHead { kind, spec, created_at, priority, .. } = &self.head;
        let job = Push {
            id: self.held.id,
            fence: self.held.fence,
            under_way: true,
            attempt: self.number.saturating_sub(1),
            crashes: self.crashes,
            max_crashes: spec.max_crashes,
            priority: *priority,
            // Nobody told when it was due. Should it become ready again, it is before those that were ready with it.
            run_at: *created_at,
            expires_at: None,
            flow: spec.flow(kind),
            kind: kind.clone(),
            envelope: self.envelope.clone(),
        };
        Adoption { job, lease_id: self.held.lease_id, claimed_at: self.claim.at }
    }

    /// When the claim was sent, in [`boot_ms`].
    pub(crate) fn claimed_ms(&self) -> u64 {
        self.claim.sent_ms
    }

    /// Notes an extension that was sent at `sent_ms` and granted.
    pub(crate) fn extended(&self, sent_ms: u64, expires_at: Timestamp) {
        self.unknown.store(false, Ordering::Release);
        self.sent_ms.fetch_max(sent_ms, Ordering::AcqRel);
        self.expires_us.fetch_max(expires_at.micros(), Ordering::AcqRel);
    }

    pub(crate) fn expires_at(&self) -> Timestamp {
        Timestamp::from_micros(self.expires_us.load(Ordering::Acquire))
    }

    /// How long ago the lease was last known to be good.
    pub(crate) fn lease_age(&self) -> Duration {
        Duration::from_millis(boot_ms().saturating_sub(self.sent_ms.load(Ordering::Acquire)))
    }

    /// Notes that the engine does not know the lease.
    pub(crate) fn miss(&self) {
        self.unknown.store(true, Ordering::Release);
    }

    /// Of which ledger the job is; `None`: not known.
    pub(crate) fn ledger(&self) -> Option<LedgerId> {
        self.claim.ledger
    }

    /// Whether the engine does not know the lease, as it said last.
    pub(crate) fn is_unknown(&self) -> bool {
        self.unknown.load(Ordering::Acquire)
    }

    /// Whether the lease is known to be gone.
    pub(crate) fn is_lost(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Notes that the lease is gone; whether that is news.
    pub(crate) fn lose(&self) -> bool {
        !self.gone.swap(true, Ordering::AcqRel)
    }
}
