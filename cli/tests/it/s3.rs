//! A small object store that speaks as much of S3 as backups need, on loopback, and is unwell on request.
//!
//! It checks signatures (version 4), conditions of writes, and lists in short pages.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::stream;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};

/// Its one bucket.
pub const BUCKET: &str = "backups";
pub const ACCESS_KEY: &str = "AKIATEST";
pub const SECRET_KEY: &str = "secret/key+of=tests";
pub const REGION: &str = "eu-test-1";
/// Entries of a page of a list.
const PAGE: usize = 2;

/// What befalls a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// 500.
    Broken,
    /// 503, to go on more slowly.
    SlowDown,
    /// The connection is cut; nothing was done.
    Cut,
    /// It was done; the connection is cut before the answer.
    AnswerLost,
    /// The connection is cut in the middle of the answer.
    HalfAnswer,
}

/// What it holds, and how it is.
#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    written: u64,
    is_unwell: bool,
    is_denied: bool,
    /// How often each request has come.
    asked: HashMap<String, u64>,
    /// How often there was a fault, by method.
    turns: HashMap<Method, usize>,
    befallen: BTreeSet<Fault>,
}

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    e_tag: String,
    modified: jiff::Timestamp,
}

/// A running store. Gone when dropped.
pub struct S3 {
    pub url: String,
    state: Arc<Mutex<State>>,
    _stop: tokio::sync::oneshot::Sender<Infallible>,
}

type Answer = Response<BoxBody<Bytes, io::Error>>;

impl S3 {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let state = Arc::new(Mutex::new(State::default()));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
                tokio::select! {
                    _ = stopped => {}
                    () = serve(listener, serving) => {}
                }
            });
        });
        Self { url, state, _stop: stop }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    /// From now on every request fails the first time.
    pub fn be_unwell(&self) {
        self.state().is_unwell = true;
    }

    /// From now on nobody may do anything.
    pub fn deny(&self) {
        self.state().is_denied = true;
    }

    /// The sorts of faults that there were.
    pub fn befallen(&self) -> Vec<Fault> {
        self.state().befallen.iter().copied().collect()
    }

    /// Names of what it holds.
    pub fn names(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }
}

async fn serve(listener: tokio::net::TcpListener, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let service =
            hyper::service::service_fn(move |request| answer(Arc::clone(&state), request));
        tokio::spawn(async move {
            let serving = hyper::server::conn::http1::Builder::new();
            // One that was cut on purpose says so.
            let _ = serving.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// `Err`: the connection is cut.
async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> io::Result<Answer> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let request = Request::from_parts(head, body);
    let mut state = state.lock().expect("nobody panics while holding it");
    if !is_signed(&request) {
        return Ok(refusal(StatusCode::FORBIDDEN, "SignatureDoesNotMatch"));
    }
    if state.is_denied {
        return Ok(refusal(StatusCode::FORBIDDEN, "AccessDenied"));
    }
    let fault = state.fault(&request);
    match fault {
        Some(Fault::Broken) => {
            return Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"));
        }
        Some(Fault::SlowDown) => {
            return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"));
        }
        Some(Fault::Cut) => return Err(io::ErrorKind::ConnectionReset.into()),
        Some(Fault::AnswerLost | Fault::HalfAnswer) | None => {}
    }
    let answer = state.carry_out(&request);
    match fault {
        Some(Fault::AnswerLost) => Err(io::ErrorKind::ConnectionReset.into()),
        Some(Fault::HalfAnswer) => Ok(answer.map(halved)),
        _ => Ok(answer.map(|bytes| Full::new(bytes).map_err(|never| match never {}).boxed())),
    }
}

fn halved(bytes: Bytes) -> BoxBody<Bytes, io::Error> {
    let half = bytes.slice(..bytes.len() / 2);
    let cut = Err(io::ErrorKind::ConnectionReset.into());
    BodyExt::boxed(StreamBody::new(stream::iter([Ok(Frame::data(half)), cut])))
}

fn refusal(status: StatusCode, code: &str) -> Answer {
    let text = format!("<Error><Code>{code}</Code></Error>");
    said(status, text).map(|bytes| Full::new(bytes).map_err(|never| match never {}).boxed())
}

fn said(status: StatusCode, text: String) -> Response<Bytes> {
    Response::builder().status(status).body(text.into()).expect("it is an answer")
}

impl State {
    /// Each request fails the first time, in another way than the one before.
    fn fault(&mut self, request: &Request<Bytes>) -> Option<Fault> {
        let asked =
            self.asked.entry(format!("{} {}", request.method(), request.uri())).or_default();
        *asked += 1;
        if !self.is_unwell || asked.is_multiple_of(2) {
            return None;
        }
        let is_list = request.uri().query().is_some();
        let ways: &[Fault] = match *request.method() {
            Method::GET if !is_list => {
                &[Fault::HalfAnswer, Fault::Cut, Fault::Broken, Fault::SlowDown]
            }
            Method::GET => &[Fault::SlowDown, Fault::Cut, Fault::Broken],
            Method::PUT => &[Fault::AnswerLost, Fault::Broken, Fault::Cut, Fault::SlowDown],
            // Clients do not repeat these where an answer is lost.
            _ => &[Fault::SlowDown, Fault::Broken],
        };
        let turn = self.turns.entry(request.method().clone()).or_default();
        let fault = ways[*turn % ways.len()];
        *turn += 1;
        self.befallen.insert(fault);
        Some(fault)
    }

    fn carry_out(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
        let path = request.uri().path().trim_start_matches('/');
        let (bucket, name) = path.split_once('/').unwrap_or((path, ""));
        if bucket != BUCKET {
            return said(StatusCode::NOT_FOUND, "<Error><Code>NoSuchBucket</Code></Error>".into());
        }
        match *request.method() {
            Method::GET if name.is_empty() => self.list(&query(request)),
            Method::GET | Method::HEAD => self.get(request, name),
            Method::PUT => self.put(request, name),
            Method::DELETE => {
                self.objects.remove(name);
                said(StatusCode::NO_CONTENT, String::new())
            }
            Method::POST if query(request).contains_key("delete") => self.delete(request.body()),
            _ => said(StatusCode::NOT_IMPLEMENTED, String::new()),
        }
    }

    fn get(&self, request: &Request<Bytes>, name: &str) -> Response<Bytes> {
        let Some(object) = self.objects.get(name) else {
            return said(StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>".into());
        };
        let size = object.bytes.len();
        let range = request.headers().get("range").map(|range| {
            let range = range.to_str().expect("text").strip_prefix("bytes=").expect("bytes");
            let (from, to) = range.split_once('-').expect("a range");
            let to = to.parse().map_or(size, |last: usize| (last + 1).min(size));
            (from.parse::<usize>().expect("a number"), to)
        });
        let modified = object.modified.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let answer =
            Response::builder().header("etag", &object.e_tag).header("last-modified", modified);
        let answer = match range {
            Some((from, to)) => answer
                .status(StatusCode::PARTIAL_CONTENT)
                .header("content-range", format!("bytes {from}-{}/{size}", to - 1))
                .header("content-length", to - from)
                .body(object.bytes.slice(from..to)),
            None => answer.header("content-length", size).body(object.bytes.clone()),
        };
        answer.expect("it is an answer")
    }

    fn put(&mut self, request: &Request<Bytes>, name: &str) -> Response<Bytes> {
        let header = |name| request.headers().get(name).map(|v| v.to_str().expect("text"));
        let there = self.objects.get(name).map(|object| object.e_tag.as_str());
        let is_refused = match (header("if-none-match"), header("if-match")) {
            (Some(_), _) => there.is_some(),
            (None, Some(e_tag)) => there != Some(e_tag),
            (None, None) => false,
        };
        if is_refused {
            let text = "<Error><Code>PreconditionFailed</Code></Error>";
            return said(StatusCode::PRECONDITION_FAILED, text.into());
        }
        self.written += 1;
        let e_tag = format!("\"{}\"", self.written);
        let object = Object {
            bytes: request.body().clone(),
            e_tag: e_tag.clone(),
            modified: jiff::Timestamp::now(),
        };
        self.objects.insert(name.to_owned(), object);
        Response::builder().header("etag", e_tag).body(Bytes::new()).expect("it is an answer")
    }

    fn delete(&mut self, body: &Bytes) -> Response<Bytes> {
        let text = String::from_utf8(body.to_vec()).expect("XML");
        let mut deleted = String::from("<DeleteResult>");
        for name in text.split("<Key>").skip(1) {
            let name = name.split("</Key>").next().expect("a name");
            self.objects.remove(name);
            deleted += &format!("<Deleted><Key>{name}</Key></Deleted>");
        }
        said(StatusCode::OK, deleted + "</DeleteResult>")
    }

    /// In pages, and with what has a delimiter behind the prefix put together.
    fn list(&self, query: &BTreeMap<String, String>) -> Response<Bytes> {
        let of = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        let (prefix, delimiter, after) = (of("prefix"), of("delimiter"), of("continuation-token"));
        let mut entries = BTreeMap::new();
        for (name, object) in self.objects.iter().filter(|(name, _)| name.starts_with(prefix)) {
            let rest = &name[prefix.len()..];
            match rest.split_once(delimiter).filter(|_| !delimiter.is_empty()) {
                Some((folder, _)) => {
                    let folder = format!("{prefix}{folder}{delimiter}");
                    let text =
                        format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>");
                    entries.insert(folder, text);
                }
                None => {
                    let Object { bytes, e_tag, modified } = object;
                    let text = format!(
                        "<Contents><Key>{name}</Key><LastModified>{modified}</LastModified><ETag>{e_tag}</ETag><Size>{}</Size></Contents>",
                        bytes.len()
                    );
                    entries.insert(name.clone(), text);
                }
            }
        }
        let mut left = entries.into_iter().filter(|(name, _)| name.as_str() > after).peekable();
        let page: Vec<(String, String)> = left.by_ref().take(PAGE).collect();
        let is_truncated = left.peek().is_some();
        let mut text = format!("<ListBucketResult><IsTruncated>{is_truncated}</IsTruncated>");
        if let Some((last, _)) = page.last().filter(|_| is_truncated) {
            text += &format!("<NextContinuationToken>{last}</NextContinuationToken>");
        }
        text.extend(page.into_iter().map(|(_, entry)| entry));
        said(StatusCode::OK, text + "</ListBucketResult>")
    }
}

fn query(request: &Request<Bytes>) -> BTreeMap<String, String> {
    let pairs = request.uri().query().unwrap_or_default().split('&');
    pairs
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        out.push(u8::from_str_radix(&part[..2], 16).expect("a percent and two digits"));
        out.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(out).expect("text")
}

fn encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let one = |byte: u8| {
        if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(one).collect()
}

/// Whether it has the signature of our key (AWS Signature Version 4), over its body, too.
fn is_signed(request: &Request<Bytes>) -> bool {
    let header = |name: &str| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    };
    let authorization = header("authorization");
    let field = |name: &str| {
        let rest = authorization.split_once(&format!("{name}="))?.1;
        rest.split([',', ' ']).next()
    };
    let (Some(credential), Some(names), Some(signature)) =
        (field("Credential"), field("SignedHeaders"), field("Signature"))
    else {
        return false;
    };
    let sum = header("x-amz-content-sha256");
    let Some((key, scope)) = credential.split_once('/') else { return false };
    if key != ACCESS_KEY || sum != hex(&Sha256::digest(request.body())) {
        return false;
    }
    let queries: Vec<String> =
        query(request).iter().map(|(n, v)| format!("{}={}", encoded(n), encoded(v))).collect();
    let headers: String =
        names.split(';').map(|name| format!("{name}:{}\n", header(name).trim())).collect();
    let canonical = format!(
        "{}\n{}\n{}\n{headers}\n{names}\n{sum}",
        request.method(),
        request.uri().path(),
        queries.join("&")
    );
    let text = format!(
        "AWS4-HMAC-SHA256\n{}\n{scope}\n{}",
        header("x-amz-date"),
        hex(&Sha256::digest(canonical))
    );
    let first = format!("AWS4{SECRET_KEY}").into_bytes();
    let key = scope.split('/').fold(first, |key, part| mac(&key, part));
    scope.contains(REGION) && hex(&mac(&key, &text)) == signature
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = <Hmac<Sha256>>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
