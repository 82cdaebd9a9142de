//! Request bodies that must arrive in time, and responses that count as activity while they last.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

/// The body came too slowly.
#[derive(Debug, thiserror::Error)]
#[error("the body did not arrive in time")]
pub struct TooSlow;

/// Slowest body that is waited for once [`GRACE`] is over, in bytes per second.
const RATE_MIN: u64 = 1_024;
const GRACE: Duration = Duration::from_secs(5);

/// A request body with a deadline and a lowest rate.
pub struct TimedBody {
    body: Incoming,
    received: u64,
    started: Instant,
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl TimedBody {
    /// The clock starts now; `limit` is for the whole body.
    pub fn new(body: Incoming, limit: Duration) -> Self {
        Self { body, received: 0, started: Instant::now(), limit, timer: None }
    }

    /// The latest instant for the next byte.
    fn deadline(&self) -> Instant {
        let earned = Duration::from_secs(self.received / RATE_MIN);
        self.started + (GRACE + earned).min(self.limit)
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.timer = None;
            return Poll::Ready(frame.map(|frame| {
                let frame = frame?;
                let length = frame.data_ref().map_or(0, Bytes::len);
                // Frames that carry nothing could come for ever without counting towards any size.
                if length == 0 && Instant::now() > this.deadline() {
                    return Err(Box::new(TooSlow).into());
                }
                this.received += length as u64;
                Ok(frame)
            }));
        }
        // The timer is made only when there is something to wait for: most bodies come with their head.
        let deadline = this.deadline();
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(Box::new(TooSlow)))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a connection is doing; tells an idle one from one that streams an answer.
#[derive(Debug)]
pub struct Activity {
    open: AtomicUsize,
    /// End of the latest request, in milliseconds after `born`; 0: none came yet.
    last_ms: AtomicU64,
    /// First byte of a head that has not ended, in milliseconds after `born`; 0: none.
    head_ms: AtomicU64,
    /// Since when the peer takes nothing of what is to be sent, in milliseconds after `born`; 0: it does.
    stuck_ms: AtomicU64,
    born: Instant,
}

impl Activity {
    /// Of a connection that was just accepted.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            last_ms: AtomicU64::new(0),
            head_ms: AtomicU64::new(0),
            stuck_ms: AtomicU64::new(0),
            born: Instant::now(),
        })
    }

    /// Marks a request as under way until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> ActivityGuard {
        self.open.fetch_add(1, Ordering::Relaxed);
        ActivityGuard(self.clone())
    }

    /// How long nothing has been under way; `None` while something is.
    pub fn idle(&self) -> Option<Duration> {
        if self.open.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        Some(self.born.elapsed().saturating_sub(last))
    }

    /// Notes whether the bytes read so far end inside of a head.
    pub fn in_head(&self, inside: bool) {
        if !inside {
            self.head_ms.store(0, Ordering::Relaxed);
        } else if self.head_ms.load(Ordering::Relaxed) == 0 {
            self.head_ms.store(self.age_ms(), Ordering::Relaxed);
        }
    }

    /// How long a head has been under way; `None`: none is.
    pub fn head_age(&self) -> Option<Duration> {
        let since = self.head_ms.load(Ordering::Relaxed);
        (since > 0).then(|| Duration::from_millis(self.age_ms().saturating_sub(since)))
    }

    /// Notes whether the peer took something of what is to be sent.
    pub fn wrote(&self, some: bool) {
        if some {
            self.stuck_ms.store(0, Ordering::Relaxed);
        } else if self.stuck_ms.load(Ordering::Relaxed) == 0 {
            self.stuck_ms.store(self.age_ms(), Ordering::Relaxed);
        }
    }

    /// How long the peer has taken nothing of what is to be sent; `None`: it does, or there is nothing.
    pub fn stuck(&self) -> Option<Duration> {
        let since = self.stuck_ms.load(Ordering::Relaxed);
        (since > 0).then(|| Duration::from_millis(self.age_ms().saturating_sub(since)))
    }

    /// At least 1, which is told from 0.
    fn age_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Whether a request has ever come.
    pub fn used(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0 || self.last_ms.load(Ordering::Relaxed) > 0
    }
}

/// A request under way.
pub struct ActivityGuard(Arc<Activity>);

impl Drop for ActivityGuard {
    fn drop(&mut self) {
        self.0.last_ms.store(self.0.age_ms(), Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response body that holds its request's guard until it is sent or dropped.
pub fn hold(body: axum::body::Body, guard: ActivityGuard) -> axum::body::Body {
    if body.is_end_stream() {
        return body;
    }
    axum::body::Body::new(Held { body, _guard: guard })
}

struct Held {
    body: axum::body::Body,
    _guard: ActivityGuard,
}

impl Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
