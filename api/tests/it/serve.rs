//! The accept loop, over real sockets.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use windlass_api::serve::{self, Bounds};
use windlass_shared::config::ApiSettings;

use crate::fixture::{Fixture, SOON};

pub struct Server {
    pub api: Fixture,
    address: SocketAddr,
    running: JoinHandle<()>,
}

pub fn bounds() -> Bounds {
    let settings = ApiSettings {
        head_timeout: Duration::from_millis(400),
        body_timeout: Duration::from_millis(600),
        connections_max: 20,
        connections_per_address_max: 10,
        ..ApiSettings::default()
    };
    Bounds { drain: Duration::from_secs(5), ..Bounds::from(&settings) }
}

impl Server {
    pub async fn start(bounds: Bounds) -> Self {
        let api = Fixture::new().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let running =
            tokio::spawn(serve::serve(listener, api.router.clone(), bounds, api.shutdown.clone()));
        Self { api, address, running }
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and reads until the server closes.
    pub async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        read_to_end(&mut stream).await
    }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut out = Vec::new();
    // A reset after the answer is as good as a close.
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut out)).await.expect("it is closed");
    String::from_utf8_lossy(&out).into_owned()
}

#[tokio::test]
async fn requests_are_served_and_connections_reused() {
    let server = Server::start(bounds()).await;
    let get = "GET /liveness HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let last = "GET /liveness HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let text = server.exchange(format!("{get}{get}{last}").as_bytes()).await;
    assert_eq!(text.matches("HTTP/1.1 200").count(), 3, "{text}");
}

#[tokio::test]
async fn silence_and_half_heads_are_closed_in_time() {
    let server = Server::start(bounds()).await;
    for start in
        ["", "P", "GET / HT", "GET / HTTP/1.1\r\nHost: localhost\r\nX: ", "PRI * HTTP/2.0\r\n"]
    {
        let started = Instant::now();
        let mut stream = server.connect().await;
        stream.write_all(start.as_bytes()).await.unwrap();
        read_to_end(&mut stream).await;
        let took = started.elapsed();
        assert!(
            took >= Duration::from_millis(300) && took < Duration::from_secs(10),
            "{start:?} {took:?}"
        );
    }
    // Byte by byte is no way around it.
    let mut stream = server.connect().await;
    let started = Instant::now();
    for byte in b"GET /liveness HTTP/1.1\r\nHost: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n" {
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let text = read_to_end(&mut stream).await;
    assert!(!text.contains("200 OK") && started.elapsed() < Duration::from_secs(10), "{text}");
    // Half a head on a connection that was used before.
    let mut stream = server.connect().await;
    stream.write_all(b"GET /liveness HTTP/1.1\r\nHost: localhost\r\n\r\nGET /live").await.unwrap();
    let text = read_to_end(&mut stream).await;
    assert_eq!(text.matches("200 OK").count(), 1, "{text}");
}

#[tokio::test]
async fn half_a_body_is_answered_in_time() {
    let server = Server::start(bounds()).await;
    let head = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    for rest in
        ["Content-Length: 100\r\n\r\n{\"k", "Transfer-Encoding: chunked\r\n\r\n3\r\n{\"k\r\n"]
    {
        let started = Instant::now();
        let text = server.exchange(format!("{head}{rest}").as_bytes()).await;
        assert!(text.starts_with("HTTP/1.1 408"), "{text}");
        assert!(text.contains("request_timeout"), "{text}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn ambiguous_requests_get_400_and_are_closed() {
    let server = Server::start(bounds()).await;
    let body = "{\"kind\":\"smuggled\"}";
    let inner = format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for head in [
        "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n",
        "GET /liveness HTTP/1.1\nHost: localhost\n\n",
        "GET /liveness HTTP/1.1\r\nHost : localhost\r\n\r\n",
        "GET /liveness HTTP/1.1\r\nHost: localhost\r\nX: b\r\n c\r\n\r\n",
        "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        "NONSENSE\r\n\r\n",
        "\0\0\0\0",
    ] {
        let text = server.exchange(format!("{head}{inner}").as_bytes()).await;
        assert!(text.starts_with("HTTP/1.1 400"), "{head:?}: {text}");
        assert_eq!(text.matches("HTTP/1.1").count(), 1, "{head:?}: {text}");
    }
    // A good request before a bad one is answered; nothing after the bad one is looked at.
    let good = "GET /liveness HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let text = server.exchange(format!("{good}garbage here\r\n\r\n{inner}").as_bytes()).await;
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("HTTP/1.1 400"), "{text}");
    assert_eq!(server.api.get("/v1/jobs").await.expect(200)["items"], serde_json::json!([]));
}

#[tokio::test]
async fn large_heads_and_expectations_are_refused() {
    let server = Server::start(bounds()).await;
    let big =
        format!("GET /liveness HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let text = server.exchange(big.as_bytes()).await;
    assert!(text.starts_with("HTTP/1.1 431") || text.starts_with("HTTP/1.1 400"), "{text}");
    let many: String = (0..200).map(|i| format!("X{i}: y\r\n")).collect();
    let text = server.exchange(format!("GET /liveness HTTP/1.1\r\n{many}\r\n").as_bytes()).await;
    assert!(text.starts_with("HTTP/1.1 431") || text.starts_with("HTTP/1.1 400"), "{text}");
    let expect = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
        Content-Length: 10000000000\r\nExpect: 100-continue\r\n\r\n";
    let text = server.exchange(expect.as_bytes()).await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    assert!(!text.contains("100 Continue"), "{text}");
}

#[tokio::test]
async fn one_address_cannot_hold_every_connection() {
    let server = Server::start(bounds()).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        let mut stream = server.connect().await;
        stream.write_all(b"GET /liveness HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        held.push(stream);
    }
    let mut refused = server.connect().await;
    // The write may fail already: it is closed as soon as it is accepted.
    let _ = refused.write_all(b"GET /liveness HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(read_to_end(&mut refused).await, "");
    held.pop();
    tokio::time::timeout(SOON, async {
        while !server
            .exchange(b"GET /liveness HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .contains("200 OK")
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("a place is given back");
}

#[tokio::test]
async fn a_shutdown_lets_requests_end_and_closes_the_rest() {
    let server = Server::start(bounds()).await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /liveness HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    let id = server.api.submit(serde_json::json!({"kind": "a", "delay": "1h"})).await;
    let mut busy = server.connect().await;
    let wait = format!("GET /v1/jobs/{id}/wait?timeout=60s HTTP/1.1\r\nHost: localhost\r\n\r\n");
    busy.write_all(wait.as_bytes()).await.unwrap();
    // Whether the request is under way yet or not, it is answered.
    tokio::task::yield_now().await;
    server.api.shutdown.cancel();
    tokio::time::timeout(SOON, server.running).await.expect("serving ends").unwrap();
    read_to_end(&mut idle).await;
    read_to_end(&mut busy).await;
    assert!(TcpStream::connect(server.address).await.is_err());
}

/// Goal: a reader who takes nothing cannot hold answers in memory for as long as he likes. Method: ask for
/// more than sockets hold and do not read; the server closes, and the rest of the answers never comes.
#[tokio::test]
async fn who_does_not_read_is_closed() {
    let server = Server::start(bounds()).await;
    for _ in 0..40 {
        server.api.submit(serde_json::json!({"kind": "a", "payload": "x".repeat(16_000)})).await;
    }
    let mut stream = server.connect().await;
    let ask = b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // The server reads no more requests while their answers are not taken, so that this goes on until the sockets
    // are full, and from there only its end of the connection makes the write return.
    let closed = async { while stream.write_all(ask).await.is_ok() {} };
    tokio::time::timeout(SOON, closed).await.expect("it is closed");
    server
        .exchange(b"GET /liveness HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await;
}
