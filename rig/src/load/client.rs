//! The client: sends to the API processes in turn, and writes down what it asked for and what came back.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rand::Rng as _;
use serde_json::Value;
use windlass_shared::model::time::Timestamp;

use super::plan::Submission;
use crate::dev::calls;
use crate::history::{Call, Phase, Recorder, Reply};
use crate::until::until_seldom;

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries of a submission, at first; each time twice as long.
const PAUSE: Duration = Duration::from_millis(150);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Talks to a fleet. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    urls: Arc<[String]>,
    key: Arc<str>,
    turn: Arc<AtomicUsize>,
    /// The server that does the work of the rig's handlers, where no worker of the rig does.
    handlers: Option<Arc<str>>,
    /// Where it acts, if not where its key does by itself.
    namespace: Option<Arc<str>>,
    /// Where everything is written down.
    pub history: Arc<Recorder>,
}

impl Client {
    /// For these API processes. With an empty key none is sent.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(urls: &[String], key: &str, history: Arc<Recorder>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(Duration::from_secs(2))
            .build()?;
        let (urls, turn) = (urls.into(), Arc::new(AtomicUsize::new(0)));
        Ok(Self { http, urls, key: key.into(), turn, handlers: None, namespace: None, history })
    }

    /// The same, with the work of the rig's handlers done by the server at this address.
    #[must_use]
    pub fn through(self, handlers: &str) -> Self {
        Self { handlers: Some(handlers.into()), ..self }
    }

    /// The same, in a namespace.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self { namespace: Some(namespace.into()), ..self.clone() }
    }

    /// What is sent for this body of a job or a run.
    pub fn body<'a>(&self, body: &'a Value) -> Cow<'a, Value> {
        match &self.handlers {
            None => Cow::Borrowed(body),
            Some(url) => Cow::Owned(calls::through(url, body)),
        }
    }

    /// Submits, with the same key again and again while the outcome is not known, for at most `patience`, at another
    /// API process each time; the last answer.
    pub async fn submit(&self, submission: &Submission, patience: Duration) -> Reply {
        let deadline = Instant::now() + patience;
        let call = call_of(submission);
        let mut pause = PAUSE;
        loop {
            let reply = self.post(&call, submission.path, Some(submission)).await;
            // Refused for now, and not taken: too much (429), or the same key is under way. Others of 4xx stay.
            let for_now =
                reply.status == 429 || reply.code.as_deref() == Some("idempotency_in_progress");
            let again = phase_of(reply.status) == Phase::Unknown || for_now;
            if !again || Instant::now() >= deadline {
                return reply;
            }
            // Not all at once, as well-behaved clients do.
            let part = rand::rng().random_range(0.5..1.0);
            tokio::time::sleep(pause.mul_f64(part)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One try of a submission.
    pub async fn submit_once(&self, submission: &Submission) -> Reply {
        self.post(&call_of(submission), submission.path, Some(submission)).await
    }

    /// Pauses or resumes a queue, again and again until it is done and the engine knows, for at most `patience`.
    pub async fn set_paused(&self, queue: &str, paused: bool, patience: Duration) -> Reply {
        let deadline = Instant::now() + patience;
        let (queue, verb) = (queue.to_owned(), if paused { "pause" } else { "resume" });
        let path = format!("/v1/queues/{queue}/{verb}");
        let call = if paused { Call::Pause { queue } } else { Call::Resume { queue } };
        loop {
            let reply = self.post(&call, &path, None).await;
            let done = reply.status == 200 && reply.applied == Some(true);
            if done || Instant::now() >= deadline {
                return reply;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Reads a job, and notes the state that was shown.
    pub async fn poll(&self, id: &str) -> Reply {
        let call = Call::Poll { id: id.to_owned() };
        let op = self.history.invoke(&call);
        let answer = self.request(reqwest::Method::GET, &format!("/v1/jobs/{id}")).send().await;
        let reply = reply_of(answer).await;
        self.history.complete(op, phase_of(reply.status), call, reply.clone());
        reply
    }

    /// Reads anything; `None` without a good answer.
    pub async fn get(&self, path: &str) -> Option<Value> {
        let answer = self.request(reqwest::Method::GET, path).send().await.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        answer.json().await.ok()
    }

    /// Sends a body with a key; not on record.
    ///
    /// # Errors
    /// No answer, or not a good one.
    pub async fn send(&self, path: &str, body: &Value, key: &str) -> anyhow::Result<Value> {
        let request = self.request(reqwest::Method::POST, path).header("Idempotency-Key", key);
        let answer = request.json(body).send().await?;
        let status = answer.status();
        let body: Value = answer.json().await?;
        anyhow::ensure!(status.is_success(), "POST {path}: {status} {body}");
        Ok(body)
    }

    /// Changes settings of a queue until the engine knows, for at most `patience`; not on record.
    ///
    /// # Errors
    /// Not done in that time.
    pub async fn set_queue(
        &self,
        queue: &str,
        settings: &Value,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let path = format!("/v1/queues/{queue}");
        let known = until_seldom(patience, || async {
            let request = self.request(reqwest::Method::PATCH, &path).json(settings);
            let answer: Value = request.send().await.ok()?.json().await.ok()?;
            (answer["applied"] == true).then_some(())
        });
        known.await.with_context(|| format!("the settings of {queue}"))
    }

    async fn post(&self, call: &Call, path: &str, submission: Option<&Submission>) -> Reply {
        let mut request = self.request(reqwest::Method::POST, path);
        if let Some(submission) = submission {
            request = request.header("Idempotency-Key", &submission.key);
            request = request.json(&self.body(&submission.body));
        }
        let op = self.history.invoke(call);
        let reply = reply_of(request.send().await).await;
        self.history.complete(op, phase_of(reply.status), call.clone(), reply.clone());
        reply
    }

    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.urls.len();
        let mut request = self.http.request(method, format!("{}{path}", self.urls[turn]));
        if let Some(namespace) = &self.namespace {
            request = request.header("Windlass-Namespace", &**namespace);
        }
        if self.key.is_empty() { request } else { request.bearer_auth(&self.key) }
    }
}

/// What an HTTP status says of a write: promise I8.
pub fn phase_of(status: u16) -> Phase {
    match status {
        200..=299 => Phase::Ok,
        400..=499 => Phase::Fail,
        _ => Phase::Unknown,
    }
}

/// The call of a submission, as the history has it.
pub fn call_of(submission: &Submission) -> Call {
    Call::Submit {
        key: submission.key.clone(),
        body: digest(&submission.body),
        queue: submission.queue.clone(),
        kind: submission.kind.to_owned(),
        fails: submission.fails,
        ends: submission.ends.to_owned(),
        delay_ms: submission.delay_ms,
        steps: submission.steps,
    }
}

/// Tells bodies of one key apart; no more is asked of it.
fn digest(body: &Value) -> String {
    let bytes = body.to_string().into_bytes();
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, fnv))
}

async fn reply_of(answer: reqwest::Result<reqwest::Response>) -> Reply {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Reply { code: Some(sort_of(&error).into()), ..Reply::default() },
    };
    let status = answer.status().as_u16();
    match answer.json::<Value>().await {
        Ok(body) => {
            let text = |field: &str| body[field].as_str().map(str::to_owned);
            let run_at = body["run_at"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
            Reply {
                status,
                code: text("code"),
                id: text("id"),
                state: text("state"),
                run_at_us: run_at.map(Timestamp::micros),
                applied: body["applied"].as_bool(),
            }
        }
        // A head without its body: what it says is not known.
        Err(error) => Reply { code: Some(sort_of(&error).into()), ..Reply::default() },
    }
}

fn sort_of(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "timeout"
    } else if error.is_connect() {
        "connect"
    } else {
        "broken"
    }
}
