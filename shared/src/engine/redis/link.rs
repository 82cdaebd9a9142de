//! The way to the store: one multiplexed connection for the hot path, a pool for reads, both made anew
//! when they break.
//!
//! Nothing is repeated here: every call of the engine is safe to repeat, and its caller knows when to. A
//! call that finds no connection makes one; after a failure the next attempts wait longer and longer, and
//! calls in between fail at once rather than queue.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use deadpool_redis::{Pool, Runtime};
use redis::aio::{MultiplexedConnection, PubSub};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, RedisError, TlsCertificates, Value,
};

use super::address::Address;
use super::{fault, sentinel};

/// Connections of the pool for reads.
const POOL_MAX: usize = 8;
/// Longest wait for a connection to be made, where answers may take longer still.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Failures in a row after which a Cluster's nodes are looked for from the beginning.
const CLUSTER_FAILURES_MAX: u32 = 3;

/// One store, connected or not.
pub(super) struct Link {
    address: Address,
    timeout: Duration,
    live: RwLock<Option<Arc<Live>>>,
    gate: tokio::sync::Mutex<Gate>,
}

/// A connection that worked when it was last used.
struct Live {
    wire: Wire,
    /// Not of a Cluster, whose connection is a pool of its own.
    pool: Option<Pool>,
    failures: AtomicU32,
}

#[derive(Clone)]
enum Wire {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// Lets one caller at a time connect, and not too often.
struct Gate {
    delays: ExponentialBackoff,
    not_before: Instant,
}

impl Link {
    /// Not connected yet.
    pub(super) fn new(address: Address, timeout: Duration) -> Self {
        let gate = Gate { delays: delays(), not_before: Instant::now() };
        Self { address, timeout, live: RwLock::new(None), gate: tokio::sync::Mutex::new(gate) }
    }

    /// Sends one command on the shared connection.
    ///
    /// # Errors
    /// See [`fault::Fault`]. May be dropped; whether the command ran is then not known.
    pub(super) async fn query(&self, cmd: &Cmd) -> Result<Value, fault::Fault> {
        let live = self.live().await?;
        let result = match live.wire.clone() {
            Wire::Node(mut connection) => cmd.query_async(&mut connection).await,
            Wire::Cluster(mut connection) => cmd.query_async(&mut connection).await,
        };
        self.judge(&live, result)
    }

    /// Sends one command that changes nothing on a connection of the pool, so that it does not wait
    /// behind the hot path. On a Cluster as [`Self::query`].
    ///
    /// # Errors
    /// As [`Self::query`].
    pub(super) async fn read(&self, cmd: &Cmd) -> Result<Value, fault::Fault> {
        let live = self.live().await?;
        let Some(pool) = &live.pool else { return self.query(cmd).await };
        let result = match pool.get().await {
            Ok(mut connection) => cmd.query_async(&mut *connection).await,
            Err(deadpool_redis::PoolError::Backend(error)) => Err(error),
            Err(error) => return Err(fault::Fault::Down(Box::new(error))),
        };
        self.judge(&live, result)
    }

    /// A connection of its own for signals. Of a Cluster to any node: every node passes on what is
    /// published at any other.
    ///
    /// # Errors
    /// When none is made within the time-out.
    pub(super) async fn pubsub(&self) -> Result<PubSub, fault::Fault> {
        let places = match &self.address {
            Address::Single(info) => vec![info.clone()],
            Address::Sentinel { sentinels, name, master } => {
                vec![sentinel::master(sentinels, name, master, &self.config()).await?]
            }
            Address::Cluster { nodes, .. } => {
                let mut nodes = nodes.clone();
                let first = rand::random_range(0..nodes.len());
                nodes.rotate_left(first);
                nodes
            }
        };
        let mut last = fault::Fault::late();
        for place in places {
            let connecting = async { Client::open(place)?.get_async_pubsub().await };
            match tokio::time::timeout(self.connect_timeout(), connecting).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => last = fault::Fault::of_connecting(error),
                Err(_) => last = fault::Fault::late(),
            }
        }
        Err(last)
    }

    /// The longest wait for an answer.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    fn judge(
        &self,
        live: &Arc<Live>,
        result: Result<Value, RedisError>,
    ) -> Result<Value, fault::Fault> {
        match result {
            Ok(value) => {
                live.failures.store(0, Ordering::Relaxed);
                Ok(value)
            }
            Err(error) => {
                let broken = match live.wire {
                    Wire::Node(_) => fault::breaks_connection(&error),
                    // It mends itself, unless all the nodes it knows are gone.
                    Wire::Cluster(_) => {
                        fault::breaks_connection(&error)
                            && live.failures.fetch_add(1, Ordering::Relaxed) + 1
                                >= CLUSTER_FAILURES_MAX
                    }
                };
                if broken {
                    self.forget(live);
                }
                Err(fault::Fault::from(error))
            }
        }
    }

    /// Leaves a broken connection; other calls that wait on it find out for themselves.
    fn forget(&self, broken: &Arc<Live>) {
        let mut live = self.live.write().expect("nothing panics while it holds the connection");
        if live.as_ref().is_some_and(|present| Arc::ptr_eq(present, broken)) {
            *live = None;
            tracing::warn!("lost the connection to the queue store; the next call makes another");
        }
    }

    fn present(&self) -> Option<Arc<Live>> {
        self.live.read().expect("nothing panics while it holds the connection").clone()
    }

    async fn live(&self) -> Result<Arc<Live>, fault::Fault> {
        if let Some(live) = self.present() {
            return Ok(live);
        }
        let mut gate = self.gate.lock().await;
        if let Some(live) = self.present() {
            return Ok(live);
        }
        if Instant::now() < gate.not_before {
            return Err(fault::Fault::Down("not connected; trying again shortly".into()));
        }
        match self.connect().await {
            Ok(live) => {
                tracing::info!("connected to the queue store");
                let live = Arc::new(live);
                gate.delays = delays();
                let mut slot =
                    self.live.write().expect("nothing panics while it holds the connection");
                *slot = Some(live.clone());
                Ok(live)
            }
            Err(error) => {
                let delay = gate.delays.next().unwrap_or(CONNECT_MAX);
                gate.not_before = Instant::now() + delay;
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<Live, fault::Fault> {
        let info = match &self.address {
            Address::Single(info) => info.clone(),
            Address::Sentinel { sentinels, name, master } => {
                sentinel::master(sentinels, name, master, &self.config()).await?
            }
            Address::Cluster { nodes, ca } => {
                return self.connect_cluster(nodes, ca.as_ref()).await;
            }
        };
        let client = Client::open(info.clone())?;
        let config = self.config();
        let wire = client.get_multiplexed_async_connection_with_config(&config).await;
        let wire = wire.map_err(fault::Fault::of_connecting)?;
        Ok(Live {
            wire: Wire::Node(wire),
            pool: Some(self.pool(info)?),
            failures: AtomicU32::new(0),
        })
    }

    async fn connect_cluster(
        &self,
        nodes: &[ConnectionInfo],
        ca: Option<&Vec<u8>>,
    ) -> Result<Live, fault::Fault> {
        // Unlike the single connection, this one waits for ever unless told otherwise.
        let mut builder = ClusterClientBuilder::new(nodes.to_vec())
            .connection_timeout(self.connect_timeout())
            .response_timeout(self.timeout)
            .overall_response_timeout(Some(self.timeout * 2));
        if let Some(pem) = ca {
            builder =
                builder.certs(TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) });
        }
        let connecting = builder.build()?;
        let wire = tokio::time::timeout(self.timeout * 2, connecting.get_async_connection());
        let wire = wire.await.map_err(|_| fault::Fault::late())?;
        let wire = wire.map_err(fault::Fault::of_connecting)?;
        Ok(Live { wire: Wire::Cluster(wire), pool: None, failures: AtomicU32::new(0) })
    }

    fn pool(&self, info: ConnectionInfo) -> Result<Pool, fault::Fault> {
        let manager = deadpool_redis::Manager::new_with_config(info, self.config())?;
        let pool = Pool::builder(manager)
            .max_size(POOL_MAX)
            .wait_timeout(Some(self.timeout))
            .create_timeout(Some(self.connect_timeout()))
            .recycle_timeout(Some(self.timeout))
            .runtime(Runtime::Tokio1)
            .build();
        pool.map_err(|error| fault::Fault::Down(Box::new(error)))
    }

    // The defaults are a second to connect and half a second to answer: too short for a busy store.
    fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout()))
            .set_response_timeout(Some(self.timeout))
    }

    fn connect_timeout(&self) -> Duration {
        self.timeout.min(CONNECT_MAX)
    }
}

/// Between attempts to connect: 20 ms and more, up to a second, with jitter.
pub(super) fn delays() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_secs(1))
        .with_jitter()
        .without_max_times()
        .build()
}
