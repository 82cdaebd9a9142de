//! A connection to Redis whose other end vanishes without a word.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use windlass_shared::engine::Signal;
use windlass_shared::testkit::redis_server::{READY_MAX, RedisOptions, RedisServer};

use crate::redis_rig::{configure, open, push, shard};

/// A port on loopback that leads to a server. It is closed when this is dropped.
struct Relay {
    port: u16,
    /// Connections of an earlier age carry nothing any more, and are not closed.
    age: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    async fn to(server: &RedisServer) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (age, to) = (Arc::new(AtomicUsize::new(0)), server.port());
        let present = age.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(carry(from_client, to_server, present.clone()));
                tokio::spawn(carry(from_server, to_client, present.clone()));
            }
        });
        Self { port, age, task }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The connections that are there stay open and carry nothing from now on; new ones are as good as ever.
    fn silence(&self) {
        self.age.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    age: Arc<AtomicUsize>,
) {
    let born = age.load(Ordering::SeqCst);
    let mut bytes = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        let is_alive = age.load(Ordering::SeqCst) == born;
        if is_alive && to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

/// Goal: a listener whose connection was lost without a word hears again, however often others ask for what it
/// listens to already.
/// Method: the connection carries nothing any more; subscriptions that need no exchange go on all the time.
#[tokio::test]
async fn a_lost_connection_is_noticed_while_others_subscribe() {
    let server = RedisServer::start(RedisOptions::default());
    let relay = Relay::to(&server).await;
    let (far, near) = (open(relay.url()).await, open(server.url()).await);
    let shard = shard("silence");
    configure(&near, &shard).await.unwrap();
    let mut signals = far.subscribe(std::slice::from_ref(&shard)).await.unwrap();
    push(&near, &shard).await.unwrap();
    assert_eq!(signals.next().await, Some(Signal::Ready(shard.clone())));

    relay.silence();
    far.subscribe(std::slice::from_ref(&shard)).await.expect("it is subscribed to that already");
    let deadline = Instant::now() + READY_MAX;
    loop {
        // Fails for a moment when the connection is made anew.
        let _ = far.subscribe(std::slice::from_ref(&shard)).await;
        push(&near, &shard).await.unwrap();
        let heard = tokio::time::timeout(Duration::from_millis(50), signals.next()).await;
        if let Ok(signal) = heard {
            assert_eq!(signal, Some(Signal::Ready(shard.clone())));
            return;
        }
        assert!(Instant::now() < deadline, "the listener stays deaf");
    }
}
