//! Requests on their way, at as little cost to this machine as may be: what makes a load shares the processors with what is
//! measured. Plain HTTP goes over connections of our own, without the layers of a general client (16 µs of CPU instead of 24 per submission);
//! HTTPS through such a one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Connections at most, a little less than one address may have unless an operator says otherwise
/// (`api.connections_per_address_max`). A call beyond them waits for one, and that counts as its time.
pub(crate) const CONNECTIONS_MAX: usize = 1_000;
/// Whoever waits longer for an answer counts as without one.
const ANSWER_MAX: Duration = Duration::from_secs(30);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// No answer is longer: a page of 500 jobs with payloads of 16 KiB each is.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// No answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) why: &'static str,
    /// Then what was asked for may have been done.
    pub(super) was_sent: bool,
}

const NO_CONNECTION: Lost = Lost { why: "no connection", was_sent: false };
const NO_PLACE: Lost = Lost { why: "no connection was free in time", was_sent: false };
const BROKE: Lost = Lost { why: "the connection broke", was_sent: true };
const SILENT: Lost = Lost { why: "no answer in time", was_sent: true };

/// Connections to one server. Cheap to clone.
#[derive(Clone)]
pub(super) struct Wire {
    authority: Arc<str>,
    places: Arc<Semaphore>,
    sort: Sort,
}

#[derive(Clone)]
enum Sort {
    /// Idle connections, the one used last in the end.
    Plain(Arc<Mutex<Vec<SendRequest<Full<Bytes>>>>>),
    Secure(reqwest::Client),
}

impl Wire {
    /// To the server of an address, `http://…` or `https://…`. Connects when it is used.
    ///
    /// # Errors
    /// It is no such address.
    pub(super) fn to(base: &str) -> Result<Self> {
        let uri: http::Uri = base.parse().with_context(|| format!("{base:?} is no address"))?;
        let authority = uri.authority().with_context(|| format!("{base:?} names no server"))?;
        let sort = match uri.scheme_str() {
            Some("http") => Sort::Plain(Arc::default()),
            Some("https") => Sort::Secure(
                reqwest::Client::builder()
                    .redirect(reqwest::redirect::Policy::none())
                    .connect_timeout(CONNECT_MAX)
                    .build()?,
            ),
            _ => bail!("{base:?} must begin with http:// or https://"),
        };
        if uri.path().len() > 1 {
            bail!("{base:?} must be the address of a server, without a path");
        }
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Ok(Self { authority: authority.as_str().into(), places, sort })
    }

    /// Whether requests need their whole address.
    pub(super) const fn is_secure(&self) -> bool {
        matches!(self.sort, Sort::Secure(_))
    }

    /// Host and port.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Sends a request; status and body of its answer.
    ///
    /// # Errors
    /// There was none: what was asked for may have been done.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), Lost> {
        let place = tokio::time::timeout(ANSWER_MAX, self.places.acquire()).await;
        let _place = place.map_err(|_| NO_PLACE)?.map_err(|_| NO_CONNECTION)?;
        let sent = async {
            match &self.sort {
                Sort::Plain(idle) => self.plain(idle, request).await,
                Sort::Secure(client) => secure(client, request).await,
            }
        };
        tokio::time::timeout(ANSWER_MAX, sent).await.unwrap_or(Err(SILENT))
    }

    async fn plain(
        &self,
        idle: &Mutex<Vec<SendRequest<Full<Bytes>>>>,
        request: Request<Full<Bytes>>,
    ) -> Result<(u16, Bytes), Lost> {
        let mut request = request;
        loop {
            let known = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let is_known = known.is_some();
            let mut link = match known {
                Some(link) => link,
                None => self.connect().await.ok_or(NO_CONNECTION)?,
            };
            let answered = match link.ready().await {
                Ok(()) => link.try_send_request(request).await.map_err(|mut error| {
                    // What was not sent can be sent again.
                    (error.take_message(), BROKE)
                }),
                Err(_) => Err((Some(request), BROKE)),
            };
            match answered {
                Ok(response) => {
                    let status = response.status().as_u16();
                    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
                    let bytes = body.map_err(|_| BROKE)?.to_bytes();
                    idle.lock().unwrap_or_else(PoisonError::into_inner).push(link);
                    return Ok((status, bytes));
                }
                // A server may close what was idle.
                Err((Some(unsent), _)) if is_known => request = unsent,
                Err((unsent, lost)) => return Err(Lost { was_sent: unsent.is_none(), ..lost }),
            }
        }
    }

    async fn connect(&self) -> Option<SendRequest<Full<Bytes>>> {
        let address = match self.authority.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => self.authority.to_string(),
            _ => format!("{}:80", self.authority),
        };
        let stream = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await;
        let stream = stream.ok()?.ok()?;
        stream.set_nodelay(true).ok()?;
        let (link, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        // Ends with the link.
        tokio::spawn(connection);
        Some(link)
    }
}

async fn secure(
    client: &reqwest::Client,
    request: Request<Full<Bytes>>,
) -> Result<(u16, Bytes), Lost> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let request = reqwest::Request::try_from(Request::from_parts(parts, body));
    let response = client.execute(request.map_err(|_| NO_CONNECTION)?).await;
    let response =
        response.map_err(|error| if error.is_connect() { NO_CONNECTION } else { BROKE })?;
    let status = response.status().as_u16();
    Ok((status, response.bytes().await.map_err(|_| BROKE)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_are_addresses() {
        assert_eq!(Wire::to("http://[::1]:8080").unwrap().authority(), "[::1]:8080");
        assert!(Wire::to("https://windlass.example.org").unwrap().is_secure());
        for base in ["127.0.0.1:8080", "ftp://localhost", "http://localhost/api", ""] {
            assert!(Wire::to(base).is_err(), "{base}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_while_idle_is_opened_again() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        // Answers once per connection, then closes it without a word.
        let server = tokio::spawn(async move {
            for _ in 0..3 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = [0; 1_024];
                let _ = stream.read(&mut bytes).await.unwrap();
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
            }
        });
        let wire = Wire::to(&base).unwrap();
        for _ in 0..3 {
            let mut request = Request::new(Full::new(Bytes::new()));
            *request.uri_mut() = "/x".parse().unwrap();
            assert_eq!(wire.send(request).await, Ok((200, Bytes::from_static(b"ok"))));
            // What is sent before the end is noticed is lost, and must not be sent again.
            let Sort::Plain(idle) = &wire.sort else { panic!("plain") };
            while !idle.lock().unwrap().iter().all(SendRequest::is_closed) {
                tokio::task::yield_now().await;
            }
        }
        server.await.unwrap();
        let last = wire.send(Request::new(Full::new(Bytes::new()))).await;
        assert_eq!(last, Err(NO_CONNECTION));
    }
}
