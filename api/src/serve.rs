//! The accept loop: HTTP/1.1 and HTTP/2 with every bound that `axum::serve` lacks.
//!
//! A connection that sends nothing, half a head, half a body, or ambiguous framing is closed in bounded
//! time, and neither one address nor all of them together can hold more than their share of connections.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use windlass_shared::config::ApiSettings;

pub mod body;
pub mod guard;
pub mod io;

/// Largest request head, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most requests at once on an HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// A connection may idle this long between requests. Longer than the keep-alive of usual proxies (60 s),
/// so that it is they who close: a request on a connection that closes at that moment is lost.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// Pause after the system refused to accept (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bounds of a listener.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// A whole head must have arrived by then, counted from its first byte, or from the connection's start.
    pub head_timeout: Duration,
    /// A whole body must have arrived by then.
    pub body_timeout: Duration,
    /// Open connections.
    pub connections_max: usize,
    /// Open connections of one address.
    pub per_address_max: usize,
    /// Requests under way have this long to end after shutdown.
    pub drain: Duration,
}

impl From<&ApiSettings> for Bounds {
    fn from(settings: &ApiSettings) -> Self {
        Self {
            head_timeout: settings.head_timeout,
            body_timeout: settings.body_timeout,
            connections_max: settings.connections_max,
            per_address_max: settings.connections_per_address_max,
            drain: Duration::from_secs(20),
        }
    }
}

/// Serves until `shutdown`, then lets requests under way end, and returns when all connections are closed
/// or the time for that is over.
pub fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    shutdown: CancellationToken,
) -> BoxFuture<'static, ()> {
    Box::pin(accept(listener, router, bounds, shutdown))
}

async fn accept(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    let all = Arc::new(Semaphore::new(bounds.connections_max));
    let addresses = Addresses::default();
    let bounds = Arc::new(bounds);
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Closed at once rather than kept waiting: the caller sees why, and probes are not starved.
        let Ok(permit) = all.clone().try_acquire_owned() else {
            refused("total");
            continue;
        };
        let Some(seat) = addresses.take(address.ip(), bounds.per_address_max) else {
            refused("address");
            continue;
        };
        connections.spawn(connection(
            stream,
            address,
            router.clone(),
            bounds.clone(),
            shutdown.clone(),
            (permit, seat),
        ));
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(bounds.drain, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "connections were cut at the end of the drain");
    }
}

fn refused(why: &'static str) {
    metrics::counter!("windlass_http_connections_refused_total", "why" => why).increment(1);
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    router: Router,
    bounds: Arc<Bounds>,
    shutdown: CancellationToken,
    _places: (OwnedSemaphorePermit, Seat),
) {
    // Answers are small and complete; waiting for more to send only adds delay. A socket that refuses the
    // option still works.
    let _ = stream.set_nodelay(true);
    metrics::gauge!("windlass_http_connections").increment(1.0);
    let activity = body::Activity::new();
    let seen = activity.clone();
    let body_timeout = bounds.body_timeout;
    let service = service_fn(move |request: Request<Incoming>| {
        let guard = seen.begin();
        let router = router.clone();
        async move {
            let mut request =
                request.map(|body| axum::body::Body::new(body::TimedBody::new(body, body_timeout)));
            request.extensions_mut().insert(ConnectInfo(address));
            let response: Response<axum::body::Body> = router.oneshot(request).await?;
            Ok::<_, Infallible>(response.map(|body| body::hold(body, guard)))
        }
    });
    let builder = builder();
    let io = TokioIo::new(io::Guarded::new(stream, activity.clone()));
    let mut connection = std::pin::pin!(builder.serve_connection(io, service));
    let mut tick = tokio::time::interval((bounds.head_timeout / 4).max(Duration::from_millis(10)));
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "connection ended early");
                }
                break;
            }
            () = shutdown.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = tick.tick() => {
                // hyper's own time-out runs between requests too, and not before the protocol is known.
                let limit = if activity.used() { IDLE_MAX } else { bounds.head_timeout };
                let half_head = activity.head_age().is_some_and(|age| age > bounds.head_timeout);
                let idle = activity.idle().is_some_and(|idle| idle > limit);
                // Its answer would be held for as long as the peer likes.
                let stuck = activity.stuck().is_some_and(|age| age > bounds.body_timeout);
                if stuck {
                    metrics::counter!("windlass_http_stuck_readers_total").increment(1);
                }
                if stuck || half_head || (idle && (stopping || !activity.used())) {
                    break;
                }
                if idle {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
    metrics::gauge!("windlass_http_connections").decrement(1.0);
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES_MAX * 2)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(100)
        .max_send_buf_size(256 << 10)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    builder
}

/// Open connections by address.
#[derive(Clone, Default)]
struct Addresses {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Addresses {
    /// `None`: the address has its share.
    fn take(&self, address: IpAddr, max: usize) -> Option<Seat> {
        let address = network_of(address);
        let mut open = self.open.lock().expect("nothing panics while holding it");
        let count = open.entry(address).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Seat { addresses: self.clone(), address })
    }
}

/// Who owns one IPv6 address owns the whole /64.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let mut segments = address.segments();
            segments[4..].fill(0);
            IpAddr::V6(segments.into())
        }
    }
}

/// One open connection of an address.
struct Seat {
    addresses: Addresses,
    address: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.addresses.open.lock().expect("nothing panics while holding it");
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_given_back() {
        let addresses = Addresses::default();
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        let first = addresses.take(ip, 2).unwrap();
        let second = addresses.take(ip, 2).unwrap();
        assert!(addresses.take(ip, 2).is_none());
        assert!(addresses.take("10.0.0.2".parse().unwrap(), 2).is_some());
        drop(first);
        assert!(addresses.take(ip, 2).is_some());
        drop(second);
        assert!(addresses.open.lock().unwrap().is_empty());
    }

    #[test]
    fn one_network_is_one_address() {
        let one = network_of("2001:db8:1:2:3:4:5:6".parse().unwrap());
        assert_eq!(one, network_of("2001:db8:1:2::1".parse().unwrap()));
        assert_ne!(one, network_of("2001:db8:1:3::1".parse().unwrap()));
        assert_eq!(
            network_of("::ffff:10.0.0.1".parse().unwrap()),
            "10.0.0.1".parse::<IpAddr>().unwrap()
        );
    }
}
