//! Hostile HTTP/2, frame by frame: the connection ends or the stream is refused, and others do not notice.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::fixture::SOON;
use crate::serve::{Server, bounds};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// `:method`, `:scheme`, `:path` and `:authority` of a request, by HPACK's static table.
fn head(method: u8, path: &str) -> Vec<u8> {
    let mut out = vec![method, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    out.extend(path.as_bytes());
    out.extend([0x01, 9]);
    out.extend(b"localhost");
    out
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

async fn open(server: &Server) -> TcpStream {
    let mut stream = server.connect().await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// Writes the piece again and again while it reads; what came until the server closed, or until `enough`.
async fn flood(
    stream: TcpStream,
    piece: &[u8],
    times: usize,
    enough: impl Fn(&[(u8, u32)]) -> bool,
) -> Vec<(u8, u32)> {
    let (mut reader, mut writer) = stream.into_split();
    let write = async {
        for _ in 0..times {
            if writer.write_all(piece).await.is_err() {
                break;
            }
        }
        // The connection stays open: that it ends is the server's doing.
        std::future::pending::<()>().await;
    };
    let read = async {
        let mut seen = Vec::new();
        loop {
            let mut head = [0; 9];
            if reader.read_exact(&mut head).await.is_err() {
                return seen;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            if reader.read_exact(&mut vec![0; length]).await.is_err() {
                return seen;
            }
            seen.push((head[3], u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]])));
            if enough(&seen) {
                return seen;
            }
        }
    };
    let both = async {
        tokio::select! {
            seen = read => seen,
            () = write => unreachable!("it never ends"),
        }
    };
    tokio::time::timeout(SOON, both).await.expect("the server answers or closes")
}

async fn still_serves(server: &Server) {
    let get = b"GET /liveness HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let text = server.exchange(get).await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}

#[tokio::test]
async fn an_ordinary_request_is_served() {
    let server = Server::start(bounds()).await;
    let stream = open(&server).await;
    let get = frame(HEADERS, END_STREAM | END_HEADERS, 1, &head(GET, "/liveness"));
    let seen = flood(stream, &get, 1, |seen| seen.contains(&(DATA, 1))).await;
    assert!(seen.contains(&(HEADERS, 1)), "{seen:?}");
}

#[tokio::test]
async fn streams_that_are_reset_at_once_end_the_connection() {
    let server = Server::start(bounds()).await;
    let stream = open(&server).await;
    let mut piece = Vec::new();
    for id in (1..20_001).step_by(2) {
        let get = head(GET, "/v1/jobs");
        piece.extend(frame(HEADERS, END_STREAM | END_HEADERS, id, &get));
        piece.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
    }
    piece.extend(frame(PING, 0, 0, &[7; 8]));
    // Either it is told off, or every stream was given up before it cost anything.
    let seen = flood(stream, &piece, 1, |seen| {
        seen.iter().any(|(kind, _)| matches!(*kind, GOAWAY | PING))
    })
    .await;
    let answers = seen.iter().filter(|(kind, _)| *kind == HEADERS).count();
    assert!(answers < 1_000, "{answers} answers for streams that were reset");
    still_serves(&server).await;
}

#[tokio::test]
async fn heads_without_an_end_and_empty_frames_end_the_connection() {
    let server = Server::start(bounds()).await;
    let stream = open(&server).await;
    let mut start = stream;
    start.write_all(&frame(HEADERS, END_STREAM, 1, &head(GET, "/liveness"))).await.unwrap();
    for payload in [vec![], [0x00, 1, b'x', 1, b'y'].repeat(2_000)] {
        let seen = flood(start, &frame(CONTINUATION, 0, 1, &payload), 1_000_000, |_| false).await;
        assert!(!seen.contains(&(HEADERS, 1)), "{seen:?}");
        still_serves(&server).await;
        start = open(&server).await;
        start.write_all(&frame(HEADERS, END_STREAM, 1, &head(GET, "/liveness"))).await.unwrap();
    }
}

#[tokio::test]
async fn a_body_of_empty_frames_ends_in_time() {
    let server = Server::start(bounds()).await;
    let mut stream = open(&server).await;
    let mut fields = head(POST, "/v1/jobs");
    fields.extend([0x0f, 0x10, 16]); // content-type, by its place in the static table (31)
    fields.extend(b"application/json");
    stream.write_all(&frame(HEADERS, END_HEADERS, 1, &fields)).await.unwrap();
    let started = std::time::Instant::now();
    let seen = flood(stream, &frame(DATA, 0, 1, &[]), usize::MAX, |seen| {
        seen.iter().any(|(kind, id)| *kind == GOAWAY || (*id == 1 && *kind != SETTINGS))
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(20), "{seen:?}");
    still_serves(&server).await;
}

/// One large field put into the table and then named over and over: 14 KB that mean 10 MB.
#[tokio::test]
async fn a_head_that_unpacks_to_megabytes_is_refused() {
    let server = Server::start(bounds()).await;
    let stream = open(&server).await;
    let mut fields = head(GET, "/liveness");
    fields.extend([0x40, 1, b'x', 0x7f, 0x81, 0x17]); // a value of 127 + 1 + 23 * 128 = 3,072 bytes
    fields.extend([b'a'; 3_072]);
    fields.extend([0xbe; 3_300]); // the first entry of the dynamic table
    let get = frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields);
    let seen = flood(stream, &get, 1, |seen| {
        seen.iter().any(|(kind, id)| *kind == GOAWAY || (*id == 1 && *kind != SETTINGS))
    })
    .await;
    // Its own answer (431) or a reset; not one that was made by a handler, which has a body.
    assert!(!seen.contains(&(DATA, 1)), "{seen:?}");
    still_serves(&server).await;
}
