//! Whole HTTP/1.1 requests in a stream of bytes, and the second sending of one.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A larger request is not read as a message, nor is anything after it on its connection.
pub const REQUEST_MAX: usize = 8 << 20;
const HEAD_MAX: usize = 64 << 10;
/// Longest wait for the answer to a second sending.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Not HTTP/1.1, or too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

/// Collects bytes into requests.
#[derive(Debug, Default)]
pub struct Requests {
    bytes: Vec<u8>,
}

impl Requests {
    /// Adds bytes, and returns the requests that end with them.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Unreadable> {
        if self.bytes.len() + bytes.len() > REQUEST_MAX {
            return Err(Unreadable);
        }
        self.bytes.extend_from_slice(bytes);
        let mut whole = Vec::new();
        while let Some(length) = request_length(&self.bytes)? {
            let rest = self.bytes.split_off(length);
            whole.push(std::mem::replace(&mut self.bytes, rest));
        }
        Ok(whole)
    }
}

/// How long the first request is; `None` while it is incomplete.
fn request_length(bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
    if bytes.starts_with(b"PRI ") {
        return Err(Unreadable);
    }
    let Some(head) = find(&bytes[..bytes.len().min(HEAD_MAX)], b"\r\n\r\n").map(|at| at + 4) else {
        return if bytes.len() > HEAD_MAX { Err(Unreadable) } else { Ok(None) };
    };
    let text = std::str::from_utf8(&bytes[..head]).map_err(|_| Unreadable)?;
    if field(text, "transfer-encoding").is_some() {
        return chunked_length(bytes, head);
    }
    let body: usize =
        field(text, "content-length").unwrap_or("0").parse().map_err(|_| Unreadable)?;
    let length = head.checked_add(body).ok_or(Unreadable)?;
    Ok((bytes.len() >= length).then_some(length))
}

fn chunked_length(bytes: &[u8], head: usize) -> Result<Option<usize>, Unreadable> {
    let mut at = head;
    loop {
        let Some(line) = bytes.get(at..).and_then(|rest| find(rest, b"\r\n")) else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&bytes[at..at + line]).map_err(|_| Unreadable)?;
        let size = text.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| Unreadable)?;
        at += line + 2;
        if size == 0 {
            break;
        }
        at = at.checked_add(size).and_then(|at| at.checked_add(2)).ok_or(Unreadable)?;
    }
    // Trailers end with an empty line, which is all there is when there are none.
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        at += line + 2;
        if line == 0 {
            return Ok(Some(at));
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|part| part == what)
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let named = |line: &'a str| line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name));
    head.split("\r\n").skip(1).find_map(named).map(|(_, value)| value.trim())
}

/// Sends a request to `to` on a connection of its own, and returns the status of the answer.
///
/// The request is the same but for its `connection` field, which asks for the end of the connection.
pub async fn send_again(to: SocketAddr, request: &[u8]) -> Option<u16> {
    let exchange = async {
        let mut stream = TcpStream::connect(to).await.ok()?;
        stream.write_all(&closing(request)?).await.ok()?;
        let mut answer = Vec::new();
        let mut rest = [0; 4096];
        loop {
            let n = stream.read(&mut rest).await.ok()?;
            if n == 0 {
                break;
            }
            // The status is in the first line; the rest is read so that the server can end well.
            if answer.len() < HEAD_MAX {
                answer.extend_from_slice(&rest[..n]);
            }
        }
        let line = String::from_utf8_lossy(&answer);
        line.split_whitespace().nth(1)?.parse().ok()
    };
    tokio::time::timeout(ANSWER_MAX, exchange).await.ok().flatten()
}

fn closing(request: &[u8]) -> Option<Vec<u8>> {
    let head = find(request, b"\r\n\r\n")?;
    let text = std::str::from_utf8(&request[..head]).ok()?;
    let mut again = Vec::with_capacity(request.len() + 32);
    for (number, line) in text.split("\r\n").enumerate() {
        let name = line.split(':').next().unwrap_or_default();
        if number > 0 && name.eq_ignore_ascii_case("connection") {
            continue;
        }
        again.extend_from_slice(line.as_bytes());
        again.extend_from_slice(b"\r\n");
    }
    again.extend_from_slice(b"connection: close");
    again.extend_from_slice(&request[head..]);
    Some(again)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: [&str; 4] = [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /v1/jobs HTTP/1.1\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\r\nbody",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nsum: 1\r\n\r\n",
    ];

    #[test]
    fn requests_end_where_they_end_however_the_stream_is_cut() {
        let stream = REQUESTS.concat().into_bytes();
        for size in 1..=stream.len() {
            let mut requests = Requests::default();
            let mut found = Vec::new();
            for piece in stream.chunks(size) {
                found.extend(requests.feed(piece).expect("well formed"));
            }
            let found: Vec<_> = found.into_iter().map(|r| String::from_utf8(r).unwrap()).collect();
            assert_eq!(found, REQUESTS, "in pieces of {size}");
        }
    }

    #[test]
    fn other_protocols_and_endless_heads_are_unreadable() {
        assert_eq!(Requests::default().feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Err(Unreadable));
        assert_eq!(Requests::default().feed(&vec![b'a'; HEAD_MAX + 1]), Err(Unreadable));
        let wrong = b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n";
        assert_eq!(Requests::default().feed(wrong), Err(Unreadable));
    }

    #[test]
    fn the_second_sending_asks_for_the_end_of_its_connection() {
        let again = String::from_utf8(closing(REQUESTS[1].as_bytes()).unwrap()).unwrap();
        let fields = "Content-Length: 4\r\nconnection: close";
        assert_eq!(again, format!("POST /v1/jobs HTTP/1.1\r\n{fields}\r\n\r\nbody"));
    }
}
