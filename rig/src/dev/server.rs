//! The handlers of a `dev`: an HTTP server that its `http.request` jobs call, and that leaves the evidence which the
//! handlers of `windlass-rig worker` leave.
//!
//! The caller is told apart by its connection: whoever runs when a connection is taken has made it.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use axum::Json;
use axum::extract::{ConnectInfo, FromRequestParts, Path as Part, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::effects::End;
use crate::execution::{Assignment, Evidence, perform};
use crate::until::until;
use crate::worker::Work;

/// Longest wait until the connections of a killed process are done with.
const QUIET_MAX: Duration = Duration::from_secs(20);

/// A running server; it ends with this.
#[derive(Debug)]
pub(super) struct Server {
    url: String,
    callers: Arc<Callers>,
    evidence: Arc<Evidence>,
    task: JoinHandle<()>,
}

/// Who calls.
#[derive(Debug, Default)]
struct Callers {
    /// The name of the process that runs now. Each of its connections holds a clone.
    now: Mutex<Arc<str>>,
}

impl Server {
    /// Starts it, with the files of a fleet's evidence in this folder.
    pub(super) async fn start(effects: &Path, fenced: &Path) -> anyhow::Result<Self> {
        let callers = Arc::new(Callers::default());
        let inbox = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", inbox.local_addr()?);
        let evidence = Arc::new(Evidence::open(effects, false, fenced)?);
        let router = axum::Router::new()
            .route("/", get(async || ()))
            .route("/{kind}", post(execute))
            .with_state(Arc::clone(&evidence))
            .into_make_service_with_connect_info::<Caller>();
        let listener = Listener { inbox, callers: Arc::clone(&callers) };
        let task = tokio::spawn(async move {
            // It never ends by itself: accepting is tried again.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { url, callers, evidence, task })
    }

    /// Where it listens.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Who calls from now on. Nobody else runs.
    pub(super) fn is_called_by(&self, name: &str) {
        *lock(&self.callers.now) = name.into();
        self.evidence.be_silent(false);
    }

    /// Before it is killed: connections that end say nothing of what it wanted.
    pub(super) fn will_be_killed(&self) {
        self.evidence.be_silent(true);
    }

    /// Waits until everything that the killed process had sent was taken, and its connections have ended.
    pub(super) async fn is_quiet(&self) -> anyhow::Result<()> {
        // Connections are taken in their order: once this one is answered, all before it have been taken.
        reqwest::get(&self.url).await?.error_for_status()?;
        let name = Arc::clone(&lock(&self.callers.now));
        // This clone and that of the callers.
        let ended = || async { (Arc::strong_count(&name) <= 2).then_some(()) };
        until(QUIET_MAX, ended).await.context("connections of the killed process stay")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(now: &Mutex<Arc<str>>) -> std::sync::MutexGuard<'_, Arc<str>> {
    now.lock().expect("nobody panics while holding it")
}

struct Listener {
    inbox: TcpListener,
    callers: Arc<Callers>,
}

/// The name of the process at the other end of a connection.
#[derive(Debug, Clone)]
struct Caller(Arc<str>);

impl axum::serve::Listener for Listener {
    type Io = Named;
    type Addr = Arc<str>;

    async fn accept(&mut self) -> (Named, Arc<str>) {
        let (stream, _) = axum::serve::Listener::accept(&mut self.inbox).await;
        let name = Arc::clone(&lock(&self.callers.now));
        (Named { stream, _name: Arc::clone(&name) }, name)
    }

    fn local_addr(&self) -> std::io::Result<Arc<str>> {
        Ok(Arc::clone(&lock(&self.callers.now)))
    }
}

impl axum::extract::connect_info::Connected<IncomingStream<'_, Listener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        Self(Arc::clone(stream.remote_addr()))
    }
}

/// A connection, and who made it.
struct Named {
    stream: TcpStream,
    _name: Arc<str>,
}

impl AsyncRead for Named {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Named {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What a request says of its job.
struct Job {
    id: String,
    attempt: u32,
    fence: u64,
}

impl<S: Send + Sync> FromRequestParts<S> for Job {
    type Rejection = (StatusCode, String);

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let read = || {
            Some(Self {
                id: header(&parts.headers, "windlass-job-id")?.to_owned(),
                attempt: header(&parts.headers, "windlass-attempt")?.parse().ok()?,
                fence: header(&parts.headers, "windlass-fence")?.parse().ok()?,
            })
        };
        read().ok_or_else(|| (StatusCode::BAD_REQUEST, "no job is named".to_owned()))
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What the URL says of the job.
#[derive(Debug, Deserialize)]
struct About {
    queue: String,
}

/// What handlers of `windlass-rig worker` do; a failure is a status that is tried again.
async fn execute(
    State(evidence): State<Arc<Evidence>>,
    ConnectInfo(Caller(caller)): ConnectInfo<Caller>,
    Part(kind): Part<String>,
    Query(about): Query<About>,
    job: Job,
    Json(work): Json<Work>,
) -> StatusCode {
    let assignment = Assignment {
        job: job.id,
        fence: job.fence,
        worker: caller.to_string(),
        attempt: job.attempt,
        kind,
        queue: about.queue,
        step: None,
    };
    match perform(&evidence, assignment, &work).await {
        Ok(End::Ok) => StatusCode::OK,
        Ok(End::Planned | End::Down) => StatusCode::INTERNAL_SERVER_ERROR,
        Ok(End::Refused | End::Dropped) => StatusCode::SERVICE_UNAVAILABLE,
        Err(error) => {
            eprintln!("the evidence cannot be kept: {error}");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}
