//! A TCP proxy that hurts what passes it: between clients and Redis, the API, or PostgreSQL.
//!
//! It adds delay, limits rates, slices, freezes, swallows, cuts, refuses, loses the reply of a chosen Redis
//! command, and sends a chosen HTTP request twice. It is steered from Rust, or over HTTP ([`control`]).
//! Chance is drawn from a seed; which message gets which draw follows from the order in which they come.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

mod connection;
pub mod control;
pub mod faults;
mod http;
mod pump;
mod resp;
pub mod rules;
mod watcher;

pub use faults::{Direction, Faults, Flow, LinkFaults, Side};
pub use rules::{Choice, RuleId, RuleReport};

use rules::Rules;

/// Connections at a time; further ones are reset.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Second sendings of HTTP requests at a time; further ones are left out.
const DUPLICATES_MAX: usize = 256;
/// Orders that a connection may be late by; one that is later is cut.
const ORDERS_MAX: usize = 64;
/// Longest wait until the listener is open or closed as the faults say.
const LISTENER_MAX: Duration = Duration::from_secs(5);

/// Which messages a proxy reads in the bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// None.
    #[default]
    Raw,
    /// Redis commands and replies, without TLS: for [`Proxy::lose_reply`].
    Resp,
    /// HTTP/1.1 requests, without TLS: for [`Proxy::duplicate`].
    Http,
}

/// Where a proxy stands.
#[derive(Debug, Clone)]
pub struct ProxyOptions {
    /// Where it listens; port 0 is a free one.
    pub listen: SocketAddr,
    /// Where its connections lead at first: see [`Proxy::lead_to`].
    pub to: SocketAddr,
    /// The messages that it reads.
    pub protocol: Protocol,
    /// Where chance comes from.
    pub seed: u64,
}

impl ProxyOptions {
    /// A proxy on a free port of loopback.
    pub fn to(to: SocketAddr) -> Self {
        Self { listen: ([127, 0, 0, 1], 0).into(), to, protocol: Protocol::Raw, seed: 1 }
    }

    /// The same with this protocol.
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    /// The same with this seed.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }
}

/// What has passed a proxy since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Connections that were taken.
    pub connections: u64,
    /// Those that are open.
    pub open: u64,
    /// Bytes that were delivered to the server.
    pub bytes_up: u64,
    /// Bytes that were delivered to the client.
    pub bytes_down: u64,
    /// Bytes that a black hole swallowed.
    pub bytes_swallowed: u64,
    /// Connections that ended by an order or a fault of the proxy.
    pub cut: u64,
    /// Connections whose messages could not be followed (any more), so that no rule applies to them.
    pub untracked: u64,
    /// Replies that were lost.
    pub replies_lost: u64,
    /// Requests that were sent a second time.
    pub duplicated: u64,
    /// The statuses of the answers to those; 0 is no answer.
    pub duplicate_statuses: BTreeMap<u16, u64>,
}

/// What open connections are told.
#[derive(Debug, Clone, Copy)]
enum Order {
    /// Reset both sides.
    Cut,
    /// Reset this side; the other is not told.
    Vanish(Side),
}

/// What the tasks of one proxy share.
struct Shared {
    options: ProxyOptions,
    /// Where new connections lead.
    to: Mutex<SocketAddr>,
    faults: watch::Sender<Faults>,
    orders: broadcast::Sender<Order>,
    is_listening: watch::Sender<bool>,
    replies: Mutex<Rules<()>>,
    requests: Mutex<Rules<Duration>>,
    stats: Mutex<Stats>,
    next: AtomicU64,
    duplicates: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Shared {
    fn target(&self) -> SocketAddr {
        *self.to.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A running proxy. It ends, with its connections, when this is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens. Errors when the address is taken.
    pub async fn start(options: ProxyOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let seed = options.seed;
        let shared = Arc::new(Shared {
            to: Mutex::new(options.to),
            options,
            faults: watch::channel(Faults::default()).0,
            orders: broadcast::channel(ORDERS_MAX).0,
            is_listening: watch::channel(true).0,
            replies: Mutex::new(Rules::new(seed)),
            requests: Mutex::new(Rules::new(seed)),
            stats: Mutex::default(),
            next: AtomicU64::new(0),
            duplicates: Arc::new(Semaphore::new(DUPLICATES_MAX)),
            stop: CancellationToken::new(),
        });
        let task = tokio::spawn(accept(listener, address, Arc::clone(&shared)));
        Ok(Self { address, shared, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its connections lead.
    pub fn target(&self) -> SocketAddr {
        self.shared.target()
    }

    /// From now on new connections lead to `to`, as behind a virtual address that moves. Open ones stay where they are:
    /// see [`Self::cut`].
    pub fn lead_to(&self, to: SocketAddr) {
        *self.shared.to.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }

    /// The faults now.
    pub fn faults(&self) -> Faults {
        self.shared.faults.borrow().clone()
    }

    /// Replaces the faults. When it returns they hold, also for whether new connections are refused.
    ///
    /// Errors when the port could not be had again after `refuse`; the proxy goes on trying.
    pub async fn set(&self, faults: Faults) -> io::Result<()> {
        let wanted = !faults.refuse;
        let mut is_listening = self.shared.is_listening.subscribe();
        self.shared.faults.send_replace(faults);
        let follows = is_listening.wait_for(|is| *is == wanted);
        match tokio::time::timeout(LISTENER_MAX, follows).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "the proxy's port is not free")),
        }
    }

    /// No faults and no rules any more. Connections that have lost bytes stay silent: see [`Self::cut`].
    ///
    /// Errors as [`Self::set`].
    pub async fn heal(&self) -> io::Result<()> {
        self.clear_rules();
        self.set(Faults::default()).await
    }

    /// Resets all open connections on both sides. Returns how many.
    pub fn cut(&self) -> usize {
        self.shared.orders.send(Order::Cut).unwrap_or(0)
    }

    /// Leaves all open connections half open: `side` sees a reset, the other side sees nothing, and what it
    /// sends is swallowed. Returns how many.
    pub fn half_open(&self, side: Side) -> usize {
        self.shared.orders.send(Order::Vanish(side)).unwrap_or(0)
    }

    /// Lets the chosen Redis commands reach the server, waits until it has begun to reply, and closes the
    /// connection instead of delivering that reply. Earlier replies are delivered; later ones are lost too.
    ///
    /// `None` when there are [`rules::RULES_MAX`] rules. Needs [`Protocol::Resp`].
    pub fn lose_reply(&self, choice: Choice) -> Option<RuleId> {
        assert!(
            self.shared.options.protocol == Protocol::Resp,
            "the proxy reads no Redis commands"
        );
        lock(&self.shared.replies).add(choice, ())
    }

    /// Sends the chosen HTTP requests a second time, `after` they have passed, on a connection of their own.
    /// The answer to that is thrown away, but for its status in [`Stats`].
    ///
    /// `None` when there are [`rules::RULES_MAX`] rules. Needs [`Protocol::Http`].
    pub fn duplicate(&self, choice: Choice, after: Duration) -> Option<RuleId> {
        assert!(self.shared.options.protocol == Protocol::Http, "the proxy reads no HTTP requests");
        lock(&self.shared.requests).add(choice, after)
    }

    /// Removes all rules.
    pub fn clear_rules(&self) {
        lock(&self.shared.replies).clear();
        lock(&self.shared.requests).clear();
    }

    /// What the rules have seen.
    pub fn rules(&self) -> Vec<RuleReport> {
        let mut reports = lock(&self.shared.replies).reports();
        reports.extend(lock(&self.shared.requests).reports());
        reports
    }

    /// What has passed.
    pub fn stats(&self) -> Stats {
        lock(&self.shared.stats).clone()
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (address, target) = (self.address, self.target());
        f.debug_struct("Proxy").field("address", &address).field("target", &target).finish()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        // Its connections end with it: the task owns them.
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing that holds these locks leaves its value half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, address: SocketAddr, shared: Arc<Shared>) {
    let mut listener = Some(listener);
    let mut faults = shared.faults.subscribe();
    let mut connections = JoinSet::new();
    loop {
        let refuse = faults.borrow_and_update().refuse;
        if refuse {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(address).await.ok();
        }
        shared.is_listening.send_if_modified(|is| {
            let changed = *is != listener.is_some();
            *is = listener.is_some();
            changed
        });
        tokio::select! {
            changed = faults.changed() => if changed.is_err() { return },
            client = next_client(listener.as_ref(), refuse) => if let Some(client) = client {
                if connections.len() >= CONNECTIONS_MAX {
                    connection::reset(client);
                    continue;
                }
                let number = shared.next.fetch_add(1, Ordering::Relaxed);
                // Counted and subscribed here: an order after this reaches it for certain.
                shared.count(|stats| {
                    stats.connections += 1;
                    stats.open += 1;
                });
                let orders = shared.orders.subscribe();
                connections.spawn(connection::serve(client, number, orders, Arc::clone(&shared)));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The next client; `None` after a pause when there is none to be had.
async fn next_client(
    listener: Option<&TcpListener>,
    refuse: bool,
) -> Option<tokio::net::TcpStream> {
    const RETRY: Duration = Duration::from_millis(20);
    match listener {
        Some(listener) => match listener.accept().await {
            Ok((client, _)) => Some(client),
            Err(_) => {
                tokio::time::sleep(RETRY).await;
                None
            }
        },
        None if refuse => std::future::pending().await,
        None => {
            tokio::time::sleep(RETRY).await;
            None
        }
    }
}
