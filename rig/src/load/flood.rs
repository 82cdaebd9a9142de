//! More submissions than a fleet takes, from clients that cost little: HTTP/1.1 over connections of their own, and what is
//! sent is ready. Every call is on record.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::client::call_of;
use super::plan::Submission;
use crate::history::{Phase, Recorder, Reply};

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An answer is smaller than this.
const ANSWER_MAX: usize = 64 << 10;
/// The code of a submission that was refused because there are too many: nothing of it is stored.
const OVERLOADED: &str = "overloaded";

/// Where it goes.
#[derive(Debug, Clone)]
pub(crate) struct Flood {
    /// The API processes.
    pub(crate) to: Vec<SocketAddr>,
    /// A key.
    pub(crate) key: String,
    /// Where everything is written down.
    pub(crate) history: Arc<Recorder>,
    /// The nth submission.
    pub(crate) make: fn(&str, u64) -> Submission,
    /// What their keys begin with.
    pub(crate) prefix: String,
}

/// How it comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pour {
    /// Submissions a second, whatever becomes of those before; `None`: each connection sends as soon as it is answered.
    pub(crate) rate: Option<f64>,
    /// Most under way at once. What is due while all are busy is sent late, and counts from when it was due.
    pub(crate) connections: usize,
    /// For how long.
    pub(crate) length: Duration,
}

/// What became of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    /// When it was due, from the beginning.
    pub(crate) due: Duration,
    /// When it was sent.
    pub(crate) sent: Duration,
    /// From when it was due to its answer, or to where its client gave up.
    pub(crate) took: Duration,
    /// 2xx.
    pub(crate) is_accepted: bool,
    /// Neither accepted nor refused, as far as its client knows.
    pub(crate) is_unknown: bool,
}

/// What became of all.
#[derive(Debug, Default)]
pub(crate) struct Poured {
    /// By when they were due.
    pub(crate) answers: Vec<Answer>,
    /// Those whose outcome is not known.
    pub(crate) unknown: Vec<Submission>,
}

impl Flood {
    /// Sends for as long as it is said, and waits for the last answer.
    ///
    /// # Errors
    /// A task of it panicked.
    pub(crate) async fn pour(&self, pour: Pour) -> anyhow::Result<Poured> {
        let (next, begun) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let tasks: Vec<_> = (0..pour.connections)
            .map(|n| tokio::spawn(self.clone().one_after_the_other(n, pour, begun, next.clone())))
            .collect();
        let mut poured = Poured::default();
        for task in tasks {
            let mut some = task.await?;
            poured.answers.append(&mut some.answers);
            poured.unknown.append(&mut some.unknown);
        }
        poured.answers.sort_by_key(|answer| answer.due);
        Ok(poured)
    }

    /// What one connection does.
    async fn one_after_the_other(
        self,
        n: usize,
        pour: Pour,
        begun: Instant,
        next: Arc<AtomicU64>,
    ) -> Poured {
        let mut poured = Poured::default();
        let mut link = None;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let due = pour.rate.map_or_else(
                || begun.elapsed(),
                |rate| Duration::from_secs_f64(number as f64 / rate),
            );
            if due >= pour.length {
                return poured;
            }
            tokio::time::sleep_until(begun + due).await;
            let sent = begun.elapsed();
            let submission = (self.make)(&self.prefix, number);
            let call = call_of(&submission);
            let op = self.history.invoke(&call);
            let asked = self.ask(&mut link, self.to[n % self.to.len()], &submission);
            let reply = match tokio::time::timeout(TIMEOUT, asked).await {
                Ok(Ok(reply)) => reply,
                Ok(Err(_)) | Err(_) => {
                    // Whatever comes on it later is not the answer to the next.
                    link = None;
                    Reply { code: Some("broken".into()), ..Reply::default() }
                }
            };
            let is_accepted = (200..300).contains(&reply.status);
            let is_refused =
                (400..500).contains(&reply.status) || reply.code.as_deref() == Some(OVERLOADED);
            let phase = match (is_accepted, is_refused) {
                (true, _) => Phase::Ok,
                (_, true) => Phase::Fail,
                (false, false) => Phase::Unknown,
            };
            self.history.complete(op, phase, call, reply);
            let took = begun.elapsed().saturating_sub(due);
            let is_unknown = phase == Phase::Unknown;
            poured.answers.push(Answer { due, sent, took, is_accepted, is_unknown });
            poured.unknown.extend(is_unknown.then_some(submission));
        }
    }

    async fn ask(
        &self,
        link: &mut Option<TcpStream>,
        to: SocketAddr,
        submission: &Submission,
    ) -> std::io::Result<Reply> {
        let stream = match link {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(to).await?;
                stream.set_nodelay(true)?;
                link.insert(stream)
            }
        };
        let body = submission.body.to_string();
        let (path, key, length) = (submission.path, &self.key, body.len());
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {to}\r\nAuthorization: Bearer {key}\r\nIdempotency-Key: {}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}",
            submission.key
        );
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::with_capacity(2_048);
        loop {
            if let Some(reply) = read(&bytes)? {
                return Ok(reply);
            }
            if bytes.len() > ANSWER_MAX || stream.read_buf(&mut bytes).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// An answer, if it is there as a whole.
fn read(bytes: &[u8]) -> std::io::Result<Option<Reply>> {
    let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") else { return Ok(None) };
    let wrong = |what: &str| Error::new(ErrorKind::InvalidData, what.to_owned());
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| wrong("a head is text"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status: u16 = status.ok_or_else(|| wrong("no status"))?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.ok_or_else(|| wrong("no length"))?;
    let Some(body) = bytes.get(end + 4..end + 4 + length) else { return Ok(None) };
    let body: Value = serde_json::from_slice(body)?;
    let text = |field: &str| body[field].as_str().map(str::to_owned);
    let (code, id, state) = (text("code"), text("id"), text("state"));
    Ok(Some(Reply { status, code, id, state, ..Reply::default() }))
}

/// The addresses of these.
///
/// # Errors
/// One is not `http://IP:PORT`.
pub(crate) fn addresses(urls: &[String]) -> anyhow::Result<Vec<SocketAddr>> {
    let address = |url: &String| url.strip_prefix("http://")?.parse().ok();
    urls.iter().map(|url| address(url).with_context(|| url.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_when_it_is_whole() {
        let body = r#"{"id":"j1","state":"ready"}"#;
        let text = format!("HTTP/1.1 201 Created\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        for part in 0..text.len() {
            assert!(read(&text.as_bytes()[..part]).unwrap().is_none(), "{part}");
        }
        let reply = read(text.as_bytes()).unwrap().unwrap();
        assert_eq!((reply.status, reply.id.as_deref()), (201, Some("j1")));
        assert!(read(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "one without a length has no end");
    }
}
