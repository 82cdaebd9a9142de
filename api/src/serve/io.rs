//! A connection whose HTTP/1 framing is watched by the [`Guard`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::Activity;
use super::guard::Guard;

/// No head can go on after a NUL; the blank line makes hyper look at once.
const POISON: &[u8] = b"\0\r\n\r\n";

/// Wraps a stream; reads pass the guard, writes go through.
pub struct Guarded<S> {
    stream: S,
    guard: Guard,
    activity: Arc<Activity>,
    /// What of [`POISON`] is still to be read; `None` while the framing is fine.
    poison: Option<&'static [u8]>,
}

impl<S> Guarded<S> {
    /// Around a stream that nothing was read from yet.
    pub fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, guard: Guard::new(), activity, poison: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(rest) = this.poison {
            // Once it is read, the stream is at its end: nothing after a refused head is looked at.
            let n = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..n]);
            this.poison = Some(&rest[n..]);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        if let Err(at) = this.guard.feed(&buf.filled()[before..]) {
            metrics::counter!("windlass_http_malformed_total").increment(1);
            buf.set_filled(before + at);
            let n = POISON.len().min(buf.remaining());
            buf.put_slice(&POISON[..n]);
            this.poison = Some(&POISON[n..]);
        }
        this.activity.in_head(this.guard.in_head());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.activity.wrote(result.is_ready());
        result
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.activity.wrote(result.is_ready());
        result
    }
}
