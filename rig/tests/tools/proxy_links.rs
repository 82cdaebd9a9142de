//! What the proxy does to bytes and connections.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use windlass_rig::tools::proxy::control::{Report, routes};
use windlass_rig::tools::proxy::{Faults, Flow, LinkFaults, Proxy, ProxyOptions, Side};

/// Longest wait for what must happen.
const SOON: Duration = Duration::from_secs(10);
/// How long nothing may happen for "nothing happens".
const SILENCE: Duration = Duration::from_millis(300);

/// A server that sends back what it gets, and tells how its connections ended.
struct Echo {
    address: SocketAddr,
    ends: tokio::sync::mpsc::Receiver<std::io::Result<()>>,
    _task: JoinSet<()>,
}

async fn echo() -> Echo {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ended, ends) = tokio::sync::mpsc::channel(64);
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let ended = ended.clone();
            connections.spawn(async move {
                let (mut read, mut write) = stream.split();
                let result = tokio::io::copy(&mut read, &mut write).await.map(|_| ());
                ended.send(result).await.unwrap();
            });
        }
    });
    Echo { address, ends, _task: task }
}

async fn started() -> (Echo, Proxy) {
    let echo = echo().await;
    let proxy = Proxy::start(ProxyOptions::to(echo.address)).await.unwrap();
    (echo, proxy)
}

async fn connected(proxy: &Proxy) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    // Through to the server, so that the faults that follow meet an open connection.
    assert_eq!(round_trip(&mut stream, b"hello").await, b"hello");
    stream
}

async fn round_trip(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).await.unwrap();
    read(stream, bytes.len()).await
}

async fn read(stream: &mut TcpStream, size: usize) -> Vec<u8> {
    let mut back = vec![0; size];
    tokio::time::timeout(SOON, stream.read_exact(&mut back)).await.expect("in time").unwrap();
    back
}

/// How the stream ends for its reader: `Ok` for an ordinary end.
async fn end(stream: &mut TcpStream) -> std::io::Result<usize> {
    tokio::time::timeout(SOON, stream.read(&mut [0; 16])).await.expect("it ends in time")
}

async fn assert_silent(stream: &mut TcpStream) {
    let heard = tokio::time::timeout(SILENCE, stream.read(&mut [0; 16])).await;
    assert!(heard.is_err(), "something came: {heard:?}");
}

#[tokio::test]
async fn without_faults_bytes_and_ends_pass() {
    let (mut echo, proxy) = started().await;
    let mut stream = connected(&proxy).await;
    let big: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    let (mut from, mut to) = stream.split();
    let mut back = vec![0; big.len()];
    let (sent, got) = tokio::join!(to.write_all(&big), from.read_exact(&mut back));
    sent.unwrap();
    got.unwrap();
    assert!(back == big, "the same bytes in the same order");
    stream.shutdown().await.unwrap();
    assert_eq!(end(&mut stream).await.unwrap(), 0);
    assert!(echo.ends.recv().await.unwrap().is_ok());
    let stats = proxy.stats();
    assert_eq!((stats.connections, stats.bytes_up, stats.bytes_down), (1, 1_000_005, 1_000_005));
}

#[tokio::test]
async fn delay_and_jitter_stay_in_their_bounds_and_keep_order() {
    let (_echo, proxy) = started().await;
    let mut stream = connected(&proxy).await;
    let (wanted, jitter) = (Duration::from_millis(100), Duration::from_millis(60));
    proxy.set(Faults::round_trip(wanted, jitter)).await.unwrap();
    let mut times = Vec::new();
    for n in 0..10_u8 {
        let from = Instant::now();
        assert_eq!(round_trip(&mut stream, &[n; 7]).await, [n; 7]);
        times.push(from.elapsed());
    }
    assert!(times.iter().all(|time| *time >= wanted - jitter), "{times:?}");
    let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(*most - *least > Duration::from_millis(5), "there is jitter: {times:?}");
    proxy.heal().await.unwrap();
    let from = Instant::now();
    round_trip(&mut stream, b"fast").await;
    assert!(from.elapsed() < wanted - jitter, "{:?}", from.elapsed());
}

#[tokio::test]
async fn a_rate_holds_and_a_heal_ends_it() {
    let (_echo, proxy) = started().await;
    let mut stream = connected(&proxy).await;
    let link = LinkFaults { bytes_per_second: Some(100_000), ..LinkFaults::default() };
    proxy.set(Faults { down: link, ..Faults::default() }).await.unwrap();
    let from = Instant::now();
    round_trip(&mut stream, &[1; 50_000]).await;
    let took = from.elapsed();
    assert!(took > Duration::from_millis(430) && took < Duration::from_secs(5), "{took:?}");
    let slow = LinkFaults { bytes_per_second: Some(1_000), ..LinkFaults::default() };
    proxy.set(Faults { down: slow, ..Faults::default() }).await.unwrap();
    stream.write_all(&[2; 50_000]).await.unwrap();
    read(&mut stream, 100).await;
    proxy.heal().await.unwrap();
    read(&mut stream, 49_900).await;
}

#[tokio::test]
async fn slices_arrive_one_by_one() {
    let (_echo, proxy) = started().await;
    let mut stream = connected(&proxy).await;
    let down = LinkFaults { slice_bytes: Some(3), slice_gap_ms: 20, ..LinkFaults::default() };
    proxy.set(Faults { down, ..Faults::default() }).await.unwrap();
    stream.write_all(&[5; 30]).await.unwrap();
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < 30 {
        sizes.push(end(&mut stream).await.unwrap());
    }
    assert!(sizes.len() >= 5, "{sizes:?}");
    assert!(sizes.iter().all(|size| size % 3 == 0), "{sizes:?}");
}

#[tokio::test]
async fn frozen_bytes_and_ends_arrive_after_the_heal() {
    let (mut echo, proxy) = started().await;
    let mut stream = connected(&proxy).await;
    let down = LinkFaults { flow: Flow::Freeze, ..LinkFaults::default() };
    proxy.set(Faults { down, ..Faults::default() }).await.unwrap();
    stream.write_all(b"later").await.unwrap();
    assert_silent(&mut stream).await;
    assert_eq!(proxy.stats().bytes_up, 10, "only one direction is frozen");
    stream.shutdown().await.unwrap();
    assert!(echo.ends.recv().await.unwrap().is_ok(), "the end went up");
    assert_silent(&mut stream).await;
    proxy.heal().await.unwrap();
    assert_eq!(read(&mut stream, 5).await, b"later");
    assert_eq!(end(&mut stream).await.unwrap(), 0);
}

#[tokio::test]
async fn a_black_hole_closes_nothing_and_returns_nothing() {
    let (mut echo, proxy) = started().await;
    let mut used = connected(&proxy).await;
    let mut idle = connected(&proxy).await;
    proxy.set(Faults::flow(Flow::BlackHole)).await.unwrap();
    used.write_all(b"lost").await.unwrap();
    assert_silent(&mut used).await;
    let mut fresh = TcpStream::connect(proxy.address()).await.unwrap();
    fresh.write_all(b"lost too").await.unwrap();
    assert_silent(&mut fresh).await;
    proxy.heal().await.unwrap();
    used.write_all(b"still lost").await.unwrap();
    assert_silent(&mut used).await;
    assert_eq!(round_trip(&mut idle, b"unharmed").await, b"unharmed");
    drop(used);
    assert!(echo.ends.try_recv().is_err(), "nobody is told of the end");
    assert_eq!(proxy.stats().bytes_swallowed, 4 + 8 + 10);
    assert_eq!(proxy.stats().open, 3);
    proxy.cut();
    for _ in 0..3 {
        assert!(echo.ends.recv().await.unwrap().is_err(), "the cut ends them all, by a reset");
    }
}

#[tokio::test]
async fn a_cut_resets_both_sides() {
    let (mut echo, proxy) = started().await;
    let mut stream = connected(&proxy).await;
    assert_eq!(proxy.cut(), 1);
    let error = end(&mut stream).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let error = echo.ends.recv().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    connected(&proxy).await;
}

#[tokio::test]
async fn half_open_tells_one_side_only() {
    let (mut echo, proxy) = started().await;
    let mut stream = connected(&proxy).await;
    assert_eq!(proxy.half_open(Side::Server), 1);
    assert!(echo.ends.recv().await.unwrap().is_err(), "the server's side is reset");
    stream.write_all(b"anyone there?").await.unwrap();
    assert_silent(&mut stream).await;
    assert_eq!(proxy.cut(), 1, "it can still be cut");
    assert!(end(&mut stream).await.is_err());

    let mut stream = connected(&proxy).await;
    assert_eq!(proxy.half_open(Side::Client), 1);
    assert!(end(&mut stream).await.is_err(), "the client's side is reset");
    assert!(echo.ends.try_recv().is_err(), "the server knows nothing");
    proxy.cut();
    assert!(echo.ends.recv().await.unwrap().is_err());
}

#[tokio::test]
async fn refused_connections_are_refused_until_the_heal() {
    let (_echo, proxy) = started().await;
    let mut open = connected(&proxy).await;
    for _ in 0..3 {
        proxy.set(Faults::refused()).await.unwrap();
        let error = TcpStream::connect(proxy.address()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        assert_eq!(round_trip(&mut open, b"open").await, b"open");
        proxy.heal().await.unwrap();
        connected(&proxy).await;
    }
}

#[tokio::test]
async fn resets_of_a_side_are_passed_on_and_a_dropped_proxy_leaves_nothing() {
    let (mut echo, proxy) = started().await;
    let stream = connected(&proxy).await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    assert!(echo.ends.recv().await.unwrap().is_err());
    let mut stream = connected(&proxy).await;
    let address = proxy.address();
    drop(proxy);
    assert!(matches!(end(&mut stream).await, Ok(0) | Err(_)));
    assert!(echo.ends.recv().await.is_some());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn an_unreachable_server_looks_like_a_reset() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = Proxy::start(ProxyOptions::to(free)).await.unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(end(&mut stream).await.is_err());
}

#[tokio::test]
async fn another_server_is_reached_by_new_connections_only() {
    let (mut old, proxy) = started().await;
    let mut stays = connected(&proxy).await;
    let mut new = echo().await;
    proxy.lead_to(new.address);
    assert_eq!(proxy.target(), new.address);
    let mut moved = connected(&proxy).await;
    assert_eq!(round_trip(&mut stays, b"still").await, b"still");
    moved.shutdown().await.unwrap();
    assert_eq!(end(&mut moved).await.unwrap(), 0);
    assert!(new.ends.recv().await.unwrap().is_ok(), "the new server had it");
    proxy.cut();
    assert!(old.ends.recv().await.unwrap().is_err(), "the old one had the first");
}

#[tokio::test]
async fn everything_is_steered_over_http() {
    let (_echo, proxy) = started().await;
    let proxy = std::sync::Arc::new(proxy);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut control = JoinSet::new();
    let steered = routes(std::sync::Arc::clone(&proxy));
    control.spawn(async move { axum::serve(listener, steered).await.unwrap() });
    let http = reqwest::Client::new();

    let mut stream = connected(&proxy).await;
    let faults = serde_json::json!({"down": {"flow": "freeze", "delay_ms": 5}});
    let reply = http.put(format!("{url}/faults")).json(&faults).send().await.unwrap();
    assert_eq!(reply.status(), 200);
    stream.write_all(b"a").await.unwrap();
    assert_silent(&mut stream).await;
    let report: Report = http.get(&url).send().await.unwrap().json().await.unwrap();
    assert_eq!((report.faults.down.flow, report.stats.open), (Flow::Freeze, 1));
    http.post(format!("{url}/heal")).send().await.unwrap();
    assert_eq!(read(&mut stream, 1).await, b"a");
    let half = http.post(format!("{url}/half-open/server")).send().await.unwrap();
    assert_eq!(half.text().await.unwrap(), "1");
    let cut = http.post(format!("{url}/cut")).send().await.unwrap();
    assert_eq!(cut.text().await.unwrap(), "1");
    let rule = serde_json::json!({"words": ["x"]});
    let refused = http.post(format!("{url}/lose-reply")).json(&rule).send().await.unwrap();
    assert_eq!(refused.status(), 409, "this proxy reads no messages");
    let wrong = serde_json::json!({"dwon": {}});
    let refused = http.put(format!("{url}/faults")).json(&wrong).send().await.unwrap();
    assert_eq!(refused.status(), 422);
}
