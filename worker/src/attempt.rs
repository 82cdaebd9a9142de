//! One attempt of one job, as everything in the worker that deals with it shares it.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use windlass_shared::engine::envelope::{Envelope, EnvelopeHead};
use windlass_shared::engine::{Claimed, Held, ShardId};
use windlass_shared::gate::Gate;
use windlass_shared::model::evaluate::Evaluation;
use windlass_shared::model::id::LeaseId;
use windlass_shared::model::job::Value;
use windlass_shared::model::time::Timestamp;

use crate::boot_time::boot_ms;
use crate::reporter::buffer::Reports;
use crate::reporter::{Left, SharedReporter};

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
}

/// One attempt: the job, the lease that it runs under, and how it is told to stop.
pub(crate) struct Attempt {
    pub(crate) crew: Arc<Crew>,
    pub(crate) shard: Arc<ShardId>,
    pub(crate) held: Held,
    /// Counted from 1, this one included.
    pub(crate) number: u32,
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
    /// The lease is known to be gone: it is not extended any more.
    gone: AtomicBool,
}

impl Attempt {
    pub(crate) fn new(
        crew: &Arc<Crew>,
        shard: &Arc<ShardId>,
        lease_id: LeaseId,
        sent_ms: u64,
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
            held: Held { id: claimed.id, fence: claimed.fence, lease_id },
            number: claimed.attempt.saturating_add(1),
            head,
            payload,
            payload_bytes,
            stop: Stop::default(),
            usage: Mutex::new(None),
            evaluation: Mutex::new(None),
            checkpointing: tokio::sync::Mutex::new(()),
            left: tokio::sync::OnceCell::new(),
            sent_ms: AtomicU64::new(sent_ms),
            expires_us: AtomicI64::new(claimed.expires_at.micros()),
            gone: AtomicBool::new(false),
        }
    }

    /// Notes an extension that was sent at `sent_ms` and granted.
    pub(crate) fn extended(&self, sent_ms: u64, expires_at: Timestamp) {
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

    /// Whether the lease is known to be gone.
    pub(crate) fn is_lost(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Notes that the lease is gone; whether that is news.
    pub(crate) fn lose(&self) -> bool {
        !self.gone.swap(true, Ordering::AcqRel)
    }
}
