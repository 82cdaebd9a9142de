//! Errors as callers see them: RFC 9457 problem documents with stable codes.
//!
//! [`CODES`] is the only list of codes; `docs/errors.md` is made from it.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;
use windlass_shared::engine::EngineError;
use windlass_shared::ledger::LedgerError;
use windlass_shared::ledger::quotas::{Exceeded, Quota};
use windlass_shared::limits;

use crate::throttle;

/// `type` is this and the code: a name, not an address, since an installation may have no way out.
const TYPE: &str = "urn:windlass:error:";

/// One line of the table of codes.
#[derive(Debug)]
pub struct CodeInfo {
    /// Stable, snake_case; what clients match on.
    pub code: &'static str,
    /// The HTTP status that it comes with.
    pub status: u16,
    /// One line for people.
    pub title: &'static str,
    /// When it happens and what to do, for the documentation.
    pub meaning: &'static str,
}

macro_rules! codes {
    ($($name:ident $status:literal $code:literal $title:literal $meaning:literal;)*) => {
        /// Why a request was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $(#[doc = $meaning] $name,)* }

        /// Every code, in the order of their statuses.
        pub const CODES: &[CodeInfo] = &[
            $(CodeInfo { code: $code, status: $status, title: $title, meaning: $meaning },)*
        ];

        impl Code {
            /// Its line of the table.
            pub fn info(self) -> &'static CodeInfo {
                &CODES[self as usize]
            }
        }
    };
}

codes! {
    InvalidJson 400 "invalid_json" "The body is not JSON"
        "The body cannot be read as JSON in UTF-8, or holds a value that no reader keeps (a number out of range, half a surrogate pair). The detail names the place.";
    InvalidYaml 400 "invalid_yaml" "The body is not YAML that JSON can hold"
        "The body cannot be read as one document of YAML 1.2, or holds an anchor, an alias, a tag, a merge key or an infinity. The detail names the line and column.";
    DuplicateKey 400 "duplicate_key" "A field is given twice"
        "An object of the request names the same field twice. Which one was meant cannot be known, so neither is taken.";
    TooDeep 400 "too_deep" "The JSON is nested too deeply"
        "A value is nested deeper than 64 levels.";
    NulCharacter 400 "nul_character" "A text holds a NUL character"
        "A field that is indexed (a tag, a key, a reason) holds U+0000.";
    InvalidHeader 400 "invalid_header" "A header is not valid"
        "A header that the call reads (`Idempotency-Key`, `If-Match`, `Windlass-Namespace`, `Last-Event-ID`) is too long or has characters that it may not have.";
    InvalidRequest 400 "invalid_request_line" "The request cannot be read"
        "The request target is not one that the server can decode.";
    Unauthenticated 401 "unauthenticated" "Credentials are needed"
        "No `Authorization: Bearer` header, or a key that is not known, has expired or was revoked. Keys are taken from that header only, never from the query.";
    Forbidden 403 "forbidden" "The key does not allow this call"
        "The key's role does not include this call; or, where no keys are needed, a browser sent it for a page of another origin.";
    NamespaceDenied 403 "namespace_denied" "The key belongs to another namespace"
        "`Windlass-Namespace` names a namespace that the key is not bound to; or the namespace is the installation's own (`system`), in which only admins change anything; or the call is about the whole installation.";
    NotFound 404 "not_found" "Not found"
        "No such thing in this namespace, or no such route. Things of other namespaces are answered in the same way.";
    MethodNotAllowed 405 "method_not_allowed" "The method is not allowed here"
        "The path exists, but not with this method. `Allow` lists those that do.";
    RequestTimeout 408 "request_timeout" "The body came too slowly"
        "The body did not arrive in time, or slower than the lowest accepted rate.";
    UniqueKeyHeld 409 "unique_key_held" "Another job holds the unique key"
        "`unique.on_conflict` is `reject` (or the holder already runs). `holder` is the id of that job.";
    StateConflict 409 "state_conflict" "The state of the job or run does not allow this"
        "For example cancelling a finished job, deleting one that is not finished, or retrying a workflow that runs. `state` says which state it is in.";
    ScheduleExists 409 "schedule_exists" "There is such a schedule"
        "The name is taken: `PATCH /v1/schedules/{name}` changes it. Or the namespace has 10,000 schedules already.";
    CheckRunning 409 "check_running" "A load check runs already"
        "One load check runs at a time. `holder` is the id of the one that runs, or waits for its turn: wait for its end, or `POST /v1/load-checks/{id}/abort`.";
    KeyConflict 409 "replay_gone" "The first answer is no longer there"
        "The idempotency key was used before with the same body, but its job was refused then or has been forgotten since, or what it made is an API key, whose text is shown once.";
    BatchRefused 409 "batch_refused" "The batch was refused as a whole"
        "An atomic batch holds a job that cannot be accepted. Nothing was stored. `errors` lists which and why.";
    InProgress 409 "idempotency_in_progress" "The first request with this key is under way"
        "The same request with the same `Idempotency-Key` came moments ago and has not answered yet. Try again after `Retry-After`.";
    WrongLedger 409 "wrong_ledger" "The outcomes belong to another ledger"
        "A worker reports outcomes of jobs that an engine had from another ledger: one that was restored or replaced since. Nothing of the report was taken. The worker drops them; the jobs are not known here.";
    VersionConflict 412 "version_conflict" "It was changed in between"
        "`If-Match` names another version than the present one. Read it again, and decide anew.";
    TooLarge 413 "too_large" "The body is too large"
        "The body, the payload, or the number of items is over its limit; nothing was read beyond it. Or a batch or workflow is larger than a quota of the namespace (`quota`), and would never be let in as a whole.";
    UnsupportedMediaType 415 "unsupported_media_type" "The body's type is not supported"
        "`Content-Type` is not `application/json` (or `application/x-ndjson` or `application/yaml` where the call takes it), or the body has a `Content-Encoding`.";
    Invalid 422 "invalid" "The request is well-formed but wrong"
        "A field is unknown, of the wrong type or out of range. `errors` names each by JSON pointer, or by parameter.";
    IdempotencyKeyReused 422 "idempotency_key_reused" "The idempotency key was used for another request"
        "The same `Idempotency-Key` came before with another body, path or method. Use a fresh key for a new request.";
    TooManyQueues 422 "too_many_queues" "The namespace has too many queues"
        "The call would make a queue, and the namespace has 10,000 already. Queues are made by their first job or setting and are meant to be few: use fewer names, or another namespace.";
    TooManyCircuits 422 "too_many_circuits" "The namespace has too many circuits"
        "1,000 of its circuits are set by an operator: reset those that need not be.";
    InvalidCursor 422 "invalid_cursor" "The cursor is not valid"
        "Cursors are opaque and belong to one namespace and one set of filters. Start again without one.";
    QueueFull 429 "queue_full" "The queue is full"
        "The queue's `max_depth` of waiting jobs is reached. Try again after `Retry-After`.";
    QuotaExceeded 429 "quota_exceeded" "A quota of the namespace is used up"
        "The namespace may not bring in so many jobs so fast (`rate`), have so many unfinished ones (`jobs`), or so large payloads of unfinished ones (`bytes`). `quota` names it, with its limit, what is used and what was asked for. Nothing of the request was stored. Try again after `Retry-After`, with the same idempotency key.";
    RateLimited 429 "rate_limited" "Too many requests"
        "The key's rate, its number of open streams, or the address' number of failed log-ins is used up. Try again after `Retry-After`.";
    Throttled 429 "throttled" "As many as allowed were accepted"
        "The job's `throttle` is used up. Nothing was stored. `holder` is the id of the last job that was accepted. Try again after `Retry-After`, or leave it.";
    Internal 500 "internal" "Something went wrong on our side"
        "A fault of the server; the request id finds it in the log.";
    Overloaded 503 "overloaded" "Too much at once"
        "Too many writes or too many bytes are under way, or submissions wait too long for the ledger. Nothing was changed. Try again after `Retry-After`.";
    Unavailable 503 "unavailable" "A store does not answer"
        "The ledger, or for lease calls and `GET /v1/scale` the queue store, cannot be reached, or has lost something and is being compared with the ledger. Nothing was promised. Try again after `Retry-After`.";
    OutcomeUnknown 503 "outcome_unknown" "Whether the write was made is not known"
        "The connection to the ledger broke while it was committing, or the answer took too long. What was asked for may be done or not. Repeat the request with the same `Idempotency-Key`: it is then accepted at most once.";
}

impl Code {
    /// Its status.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.info().status).expect("the table holds valid statuses")
    }
    /// Its wire word.
    pub fn as_str(self) -> &'static str {
        self.info().code
    }
}

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer into the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// Name of the query, path or header parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// What is wrong with it.
    pub message: String,
}

impl FieldError {
    /// At a place of the body.
    pub fn at(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), parameter: None, message: cut(message.into()) }
    }
    /// In a parameter.
    pub fn parameter(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: None, parameter: Some(name.into()), message: cut(message.into()) }
    }
}

/// Callers' own text comes back in messages; it must not fill the answer.
fn cut(message: String) -> String {
    match message.char_indices().nth(400) {
        Some((at, _)) => format!("{}…", &message[..at]),
        None => message,
    }
}

/// A refused request.
#[derive(Debug, Clone)]
pub struct ApiError {
    inner: Box<Inner>,
}

#[derive(Debug, Clone)]
struct Inner {
    code: Code,
    detail: String,
    errors: Vec<FieldError>,
    retry_after: Option<Duration>,
    holder: Option<String>,
    state: Option<&'static str>,
    quota: Option<Exceeded>,
}

impl ApiError {
    /// With words for people; never SQL, a path of this machine, or a secret.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let retry_after = (code.info().status == 503).then(|| Duration::from_secs(1));
        let detail = cut(detail.into());
        Self {
            inner: Box::new(Inner {
                code,
                detail,
                errors: Vec::new(),
                retry_after,
                holder: None,
                state: None,
                quota: None,
            }),
        }
    }

    /// 422 that lists what is wrong.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [only] => {
                let place = only.pointer.as_deref().or(only.parameter.as_deref()).unwrap_or("");
                format!("{place}: {}", only.message).trim_start_matches(": ").to_owned()
            }
            many => format!("{} fields are wrong", many.len()),
        };
        Self::new(Code::Invalid, detail).with_errors(errors)
    }

    /// 422 about one parameter.
    pub fn parameter(name: &str, message: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError::parameter(name, message)])
    }

    /// 404, the same for unknown and for foreign things.
    pub fn not_found() -> Self {
        Self::new(Code::NotFound, "there is no such thing in this namespace")
    }

    /// 422 for one queue too many.
    pub fn too_many_queues() -> Self {
        let most = limits::QUEUES_PER_NAMESPACE_MAX;
        Self::new(Code::TooManyQueues, format!("the namespace has {most} queues already"))
    }

    /// 409 because of the state of a job or run.
    pub fn state(state: &'static str, detail: impl Into<String>) -> Self {
        let mut error = Self::new(Code::StateConflict, detail);
        error.inner.state = Some(state);
        error
    }

    /// 429 for a quota that is used up; 413 for what is more than there ever is of it.
    pub fn quota(exceeded: &Exceeded) -> Self {
        let Exceeded { quota, limit, used, asked, .. } = exceeded;
        let what = match quota {
            Quota::Rate => "jobs at once",
            Quota::Jobs => "unfinished jobs",
            Quota::Bytes => "bytes of unfinished jobs",
        };
        let error = match exceeded.wait {
            Some(wait) => {
                let detail = format!(
                    "the namespace may have {limit} {what}; {used} are used, and {asked} more asked for"
                );
                Self::new(Code::QuotaExceeded, detail).retry_after(wait)
            }
            None => {
                let detail = format!(
                    "the namespace may have {limit} {what}, and {asked} were sent: send fewer together"
                );
                Self::new(Code::TooLarge, detail)
            }
        };
        error.with_quota(exceeded.clone())
    }

    fn with_quota(mut self, exceeded: Exceeded) -> Self {
        self.inner.quota = Some(exceeded);
        self
    }

    /// With a list of what is wrong.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.inner.errors = errors;
        self
    }

    /// With `Retry-After`; rounded up to whole seconds.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.inner.retry_after = Some(after);
        self
    }

    /// With the job that stands in the way.
    #[must_use]
    pub fn with_holder(mut self, holder: String) -> Self {
        self.inner.holder = Some(holder);
        self
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.inner.code
    }
    /// In words.
    pub fn detail(&self) -> &str {
        &self.inner.detail
    }
    /// What is wrong, one by one.
    pub fn errors(&self) -> &[FieldError] {
        &self.inner.errors
    }

    /// The problem document.
    pub fn problem(&self, request_id: &str) -> Problem {
        let info = self.inner.code.info();
        Problem {
            type_: format!("{TYPE}{}", info.code),
            title: info.title,
            status: info.status,
            detail: self.inner.detail.clone(),
            code: info.code,
            request_id: request_id.to_owned(),
            errors: self.inner.errors.clone(),
            holder: self.inner.holder.clone(),
            state: self.inner.state,
            quota: self.inner.quota.as_ref().map(QuotaProblem::of),
        }
    }

    /// The answer, with the request id filled in.
    pub fn render(&self, request_id: &str) -> Response {
        let body = serde_json::to_vec(&self.problem(request_id))
            .expect("problems are plain data and always serialise");
        let mut response = Response::new(body.into());
        *response.status_mut() = self.inner.code.status();
        self.decorate(&mut response);
        response
    }

    fn decorate(&self, response: &mut Response) {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = self.inner.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if let Some(exceeded) = &self.inner.quota {
            throttle::show_quota(headers, exceeded);
        }
        if self.inner.code == Code::Unauthenticated {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"windlass\""),
            );
        }
    }
}

/// The request id is known to the outer layer only, which renders the body.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.inner.code.status().into_response();
        self.decorate(&mut response);
        response.extensions_mut().insert(self);
        response
    }
}

/// A problem document (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// The code as a URI.
    #[serde(rename = "type")]
    #[schema(format = "uri")]
    type_: String,
    /// The code in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What went wrong this time.
    detail: String,
    /// Stable word to match on; see the list of codes.
    code: &'static str,
    /// Finds this request in the server's log.
    request_id: String,
    /// What is wrong, one by one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    /// The job that holds the unique key; of a throttle, the last one that it let through.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
    /// The state, of the job or run, that does not allow the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// The quota that has no room.
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<QuotaProblem>,
}

/// A quota of the namespace, and what was wanted of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuotaProblem {
    /// `rate`, `jobs` or `bytes`.
    name: &'static str,
    /// How much there is: of a rate, what comes in at once.
    limit: u64,
    /// How much of that is used.
    used: u64,
    /// How much more the request needs.
    asked: u64,
}

impl QuotaProblem {
    fn of(exceeded: &Exceeded) -> Self {
        let Exceeded { quota, limit, used, asked, .. } = exceeded;
        Self { name: quota.as_str(), limit: *limit, used: *used, asked: *asked }
    }
}

impl From<LedgerError> for ApiError {
    fn from(error: LedgerError) -> Self {
        match error {
            // Those who were refused together are not to come back together.
            LedgerError::Overloaded => {
                Self::new(Code::Overloaded, "too many submissions wait for the ledger")
                    .retry_after(Duration::from_secs(rand::random_range(1..=4)))
            }
            LedgerError::Unavailable(source) => {
                tracing::warn!(error = %source, "ledger does not answer");
                Self::new(Code::Unavailable, "the ledger does not answer")
            }
            LedgerError::OutcomeUnknown => Self::new(
                Code::OutcomeUnknown,
                "the connection to the ledger broke while it was committing; repeat with the same \
                 idempotency key",
            ),
            LedgerError::TooManyQueues => Self::too_many_queues(),
            LedgerError::Schema(text) | LedgerError::Unfit(text) => {
                tracing::error!(error = text, "ledger cannot be used");
                Self::new(Code::Unavailable, "the ledger cannot be used as it is")
            }
            LedgerError::Failed(source) => {
                tracing::error!(error = %source, "ledger failed");
                Self::new(Code::Internal, "the ledger failed")
            }
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match &error {
            EngineError::Unavailable(source) => {
                tracing::warn!(error = %source, "queue store does not answer");
                Self::new(Code::Unavailable, "the queue store does not answer")
            }
            EngineError::UnknownReply { .. } | EngineError::Unfit(_) => {
                tracing::error!(%error, "queue store failed");
                Self::new(Code::Internal, "the queue store failed")
            }
        }
    }
}

/// `docs/errors.md`, made from [`CODES`].
pub fn documentation() -> String {
    let mut page = String::from(
        "# Errors\n\nEvery refusal is `application/problem+json` (RFC 9457) with `type`, `title`, `status`, \
         `detail`, `code`,\n`request_id` and, where fields are wrong, `errors: [{pointer | parameter, message}]`. \
         Match on `code`: codes are stable,\ntexts are not. This page is made from `api/src/error.rs` \
         (`WINDLASS_BLESS=1 cargo nextest run -p windlass-api errors_page`).\n\n\
         | status | code | meaning |\n|---|---|---|\n",
    );
    for info in CODES {
        page.push_str(&format!(
            "| {} | <a id=\"{}\"></a>`{}` | {}. {} |\n",
            info.status, info.code, info.code, info.title, info.meaning
        ));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_page_agrees_with_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
        if std::env::var_os("WINDLASS_BLESS").is_some() {
            std::fs::write(path, documentation()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), documentation());
    }

    #[test]
    fn codes_are_unique_snake_case_and_in_order() {
        for pair in CODES.windows(2) {
            assert!(pair[0].status <= pair[1].status, "{}", pair[1].code);
        }
        let mut seen = std::collections::HashSet::new();
        for info in CODES {
            assert!(seen.insert(info.code), "{}", info.code);
            assert!(
                info.code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{}",
                info.code
            );
            assert!(StatusCode::from_u16(info.status).is_ok_and(|s| s.as_u16() >= 400));
        }
    }

    #[test]
    fn causes_are_not_shown() {
        let source = "SELECT secret FROM /var/lib/db.sqlite".into();
        let error = ApiError::from(LedgerError::Failed(source));
        let body = serde_json::to_string(&error.problem("r-1")).unwrap();
        assert!(!body.contains("SELECT") && !body.contains("/var"), "{body}");
        assert!(body.contains("\"code\":\"internal\"") && body.contains("\"request_id\":\"r-1\""));
    }

    #[test]
    fn long_texts_of_callers_are_cut() {
        let error = ApiError::invalid(vec![FieldError::at("/x", "é".repeat(10_000))]);
        assert!(serde_json::to_vec(&error.problem("r")).unwrap().len() < 3_000);
    }
}
