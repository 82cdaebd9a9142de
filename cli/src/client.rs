//! The HTTP API as the client commands use it.

use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use windlass_shared::model::name::Namespace;

use crate::exit::{Failure, Outcome};
use crate::output::{Output, clean};

/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Longest wait for an answer. Longer than the longest long poll.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);
/// How often a call that is safe to repeat is tried.
const TRIES_MAX: u32 = 4;
/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Flags of every command that calls the API.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// Address of the API
    #[arg(
        long,
        env = "WINDLASS_URL",
        default_value = "http://127.0.0.1:8080",
        help_heading = "API"
    )]
    pub url: String,
    /// API key; prefer the environment, other users of this machine can see flags
    #[arg(long, env = "WINDLASS_API_KEY", hide_env_values = true, help_heading = "API")]
    api_key: Option<String>,
    /// Namespace to act in, for keys that are bound to none [default: default]
    #[arg(long, env = "WINDLASS_NAMESPACE", help_heading = "API")]
    namespace: Option<String>,
    /// What to print
    #[arg(long, value_enum, default_value = "table", help_heading = "API")]
    pub output: Output,
}

impl ClientArgs {
    /// Address, key and namespace, as a load needs them.
    pub fn target(&self) -> windlass_loadtest::run::Target {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        windlass_loadtest::run::Target {
            url: self.url.clone(),
            api_key: given(&self.api_key),
            namespace: given(&self.namespace),
            watched: Vec::new(),
        }
    }
}

/// A connection to one API. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
    namespace: Option<String>,
}

/// One request on its way.
pub struct Call<'a> {
    method: Method,
    path: &'a str,
    query: Vec<(&'static str, String)>,
    body: Option<(&'static str, Vec<u8>)>,
    idempotency_key: Option<&'a str>,
    repeatable: bool,
    is_check: bool,
}

impl<'a> Call<'a> {
    /// Reads; repeated when the server cannot be reached for a moment.
    pub fn get(path: &'a str) -> Self {
        Self { repeatable: true, ..Self::new(Method::GET, path) }
    }
    /// Does something; not repeated.
    pub fn post(path: &'a str) -> Self {
        Self::new(Method::POST, path)
    }
    /// Changes something to a given value; may be repeated.
    pub fn patch(path: &'a str) -> Self {
        Self { repeatable: true, ..Self::new(Method::PATCH, path) }
    }
    /// Stores something under a name; may be repeated.
    pub fn put(path: &'a str) -> Self {
        Self { repeatable: true, ..Self::new(Method::PUT, path) }
    }
    /// Removes something; not repeated, since the repeat would not find it.
    pub fn delete(path: &'a str) -> Self {
        Self::new(Method::DELETE, path)
    }
    fn new(method: Method, path: &'a str) -> Self {
        let (query, body) = (Vec::new(), None);
        Self {
            method,
            path,
            query,
            body,
            idempotency_key: None,
            repeatable: false,
            is_check: false,
        }
    }
    /// Adds to the query what is given.
    pub fn query(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }
    /// With a JSON body.
    pub fn json(mut self, body: &Value) -> Self {
        self.body = Some(("application/json", body.to_string().into_bytes()));
        self
    }
    /// With a body of YAML.
    pub fn yaml(mut self, body: String) -> Self {
        self.body = Some(("application/yaml", body.into_bytes()));
        self
    }
    /// With a body of lines of JSON.
    pub fn ndjson(mut self, body: Vec<u8>) -> Self {
        self.body = Some(("application/x-ndjson", body));
        self
    }
    /// Asks whether the body is right: a refusal of it is an answer, and ends as [`Failure::Check`].
    pub fn check(path: &'a str) -> Self {
        Self { repeatable: true, is_check: true, ..Self::new(Method::POST, path) }
    }
    /// Under a key that makes repeating safe.
    pub fn idempotent(mut self, key: &'a str) -> Self {
        self.idempotency_key = Some(key);
        self.repeatable = true;
        self
    }
}

/// An idempotency key for one command, so that it may repeat its call.
pub fn fresh_key() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// A text as one segment of a path: everything but letters, digits, `-`, `_` and `~` by its number, and dots too
/// where the segment is nothing else.
pub fn segment(text: &str) -> Outcome<String> {
    if text.is_empty() {
        return Err(Failure::Usage("a name must not be empty".into()));
    }
    let only_dots = text.bytes().all(|b| b == b'.');
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_~".contains(&b) || b == b'.' && !only_dots;
    Ok(text
        .bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect())
}

/// What the server said.
pub struct Answer {
    /// Its status; a success.
    pub status: StatusCode,
    /// Its body; null where it has none.
    pub body: Value,
}

impl Client {
    /// To the API that the flags name.
    ///
    /// # Errors
    /// A wrong address.
    pub fn new(args: &ClientArgs) -> Outcome<Self> {
        let base = args.url.trim_end_matches('/').to_owned();
        let url = reqwest::Url::parse(&base)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| {
                Failure::Usage("--url must be an address such as http://127.0.0.1:8080".into())
            })?;
        let mut builder = reqwest::Client::builder()
            .timeout(ANSWER_TIMEOUT)
            .connect_timeout(Duration::from_secs(5))
            // An API does not redirect; following would carry the key elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("windlass/", env!("CARGO_PKG_VERSION")));
        if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            builder = builder.no_proxy();
        }
        let http = builder.build().context("cannot set up HTTP")?;
        let key = args.api_key.clone().filter(|key| !key.is_empty());
        let namespace = args.namespace.clone().filter(|namespace| !namespace.is_empty());
        if namespace.as_ref().is_some_and(|namespace| namespace.parse::<Namespace>().is_err()) {
            return Err(Failure::Usage(
                "--namespace must be 1 to 64 characters of a-z 0-9 . _ -".into(),
            ));
        }
        Ok(Self { http, base, key, namespace })
    }

    /// Makes a call; repeats it, when that is safe, while the server cannot be reached or is overloaded.
    ///
    /// # Errors
    /// In words: what the server answered, or why it could not be reached.
    pub async fn call(&self, call: Call<'_>) -> Outcome<Answer> {
        let (status, body) = self.bytes(call).await?;
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).context("the server's answer is not JSON")?
        };
        Ok(Answer { status, body })
    }

    /// As [`Self::call`], of calls that answer in another format.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn text(&self, call: Call<'_>) -> Outcome<String> {
        let (_, body) = self.bytes(call).await?;
        Ok(String::from_utf8(body).context("the server's answer is not text")?)
    }

    async fn bytes(&self, call: Call<'_>) -> Outcome<(StatusCode, Vec<u8>)> {
        let (mut pause, mut tries) = (Duration::from_millis(200), 1);
        loop {
            let again = call.repeatable && tries < TRIES_MAX;
            let retry_after = match self.once(&call).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(refusal)) if again && refusal.passes() => refusal.retry_after,
                Ok(Err(refusal)) if call.is_check && refusal.of_body() => {
                    return Err(Failure::Check(refusal.in_words()));
                }
                Ok(Err(refusal)) => return Err(refusal.into()),
                Err(_) if again => None,
                Err(error) => return Err(error.into()),
            };
            tokio::time::sleep(retry_after.unwrap_or(pause).min(PAUSE_MAX)).await;
            pause = (pause * 3).min(PAUSE_MAX);
            tries += 1;
        }
    }

    async fn once(
        &self,
        call: &Call<'_>,
    ) -> anyhow::Result<Result<(StatusCode, Vec<u8>), Refusal>> {
        let mut request =
            self.http.request(call.method.clone(), format!("{}{}", self.base, call.path));
        if !call.query.is_empty() {
            request = request.query(&call.query);
        }
        if let Some((kind, body)) = &call.body {
            request = request.header("content-type", *kind).body(body.clone());
        }
        if let Some(key) = call.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if let Some(namespace) = &self.namespace {
            request = request.header("windlass-namespace", namespace);
        }
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|v| v.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let body = read(response).await?;
        if status.is_success() {
            return Ok(Ok((status, body)));
        }
        let problem = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Ok(Err(Refusal { status, retry_after, problem }))
    }

    fn unreachable(&self, error: reqwest::Error) -> anyhow::Error {
        let what = if error.is_timeout() { "no answer in time from" } else { "cannot reach" };
        let hint = if error.is_connect() {
            "; is `windlass dev` or `windlass api` running there (--url, WINDLASS_URL)?"
        } else {
            ""
        };
        let base = windlass_shared::config::masked_url(&self.base);
        anyhow!(error.without_url()).context(format!("{what} {base}{hint}"))
    }
}

async fn read(mut response: reqwest::Response) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(anyhow!("the answer is larger than {ANSWER_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// An answer that is not a success (RFC 9457 where the server is ours).
struct Refusal {
    status: StatusCode,
    retry_after: Option<Duration>,
    problem: Value,
}

impl Refusal {
    /// Whether the same call may succeed in a moment.
    fn passes(&self) -> bool {
        matches!(self.status.as_u16(), 429 | 502 | 503 | 504)
            || self.problem["code"] == "idempotency_in_progress"
    }
}

impl Refusal {
    /// Whether what was sent is wrong in itself.
    fn of_body(&self) -> bool {
        matches!(self.status.as_u16(), 400 | 413 | 422)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(anyhow!(refusal.in_words()))
    }
}

impl Refusal {
    fn in_words(&self) -> String {
        let part = |name: &str| self.problem[name].as_str().map(clean);
        let said = part("detail").or_else(|| part("title")).unwrap_or_else(|| {
            self.status.canonical_reason().unwrap_or("the server refused").to_lowercase()
        });
        let mut text = match part("code") {
            Some(code) => format!("{said} ({code}, HTTP {})", self.status.as_u16()),
            None => format!("{said} (HTTP {})", self.status.as_u16()),
        };
        for error in self.problem["errors"].as_array().into_iter().flatten() {
            let at = error["pointer"].as_str().or(error["parameter"].as_str());
            let at = at.map(clean).unwrap_or_default();
            let message = error["message"].as_str().map(clean).unwrap_or_default();
            text.push_str(&format!("\n  {at}: {message}"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            text.push_str("\n  make a key with `windlass key create` and set WINDLASS_API_KEY");
        }
        if let Some(id) = part("request_id") {
            text.push_str(&format!("\n  request {id}"));
        }
        text
    }
}
