//! From the payload to a request.

use std::collections::BTreeMap;

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use reqwest::{Client, Method, Request};
use serde::Deserialize;
use serde_json::value::RawValue;
use windlass_shared::model::time::Span;

use super::address::Reach;
use super::target;
use crate::context::Context;
use crate::error::HandlerError;

/// The payload.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Args {
    #[serde(default = "get")]
    method: String,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    query: BTreeMap<String, QueryValue>,
    #[serde(default)]
    json: Option<Box<RawValue>>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    pub(super) expect_status: Option<Statuses>,
    /// For everything from connecting to the last byte.
    #[serde(default)]
    pub(super) timeout: Option<Span>,
}

fn get() -> String {
    "GET".into()
}

#[derive(Deserialize)]
#[serde(untagged)]
enum QueryValue {
    Text(String),
    Bool(bool),
    Number(serde_json::Number),
}

/// The statuses that count as success.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Statuses {
    One(u16),
    Many(Vec<u16>),
}

impl Statuses {
    pub(super) fn contains(&self, status: u16) -> bool {
        match self {
            Self::One(one) => *one == status,
            Self::Many(many) => many.contains(&status),
        }
    }
}

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Names that a caller cannot set: they frame the message or are ours.
const JOB_ID: &str = "windlass-job-id";
const FENCE: &str = "windlass-fence";

/// Builds the request, or says for good what is wrong with the payload.
pub(super) fn build(
    client: &Client,
    reach: Reach,
    ctx: &Context,
    args: Args,
) -> Result<Request, HandlerError> {
    let method = args.method.to_ascii_uppercase();
    if !METHODS.contains(&method.as_str()) {
        return Err(invalid("`method` must be GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS"));
    }
    let method: Method = method.parse().map_err(|_| invalid("`method` is not a method"))?;
    let mut url = target::parse(&args.url, reach).map_err(super::refused)?;
    if !args.query.is_empty() {
        let mut pairs = url.query_pairs_mut();
        for (name, value) in &args.query {
            match value {
                QueryValue::Text(text) => pairs.append_pair(name, text),
                QueryValue::Bool(value) => pairs.append_pair(name, if *value { "true" } else { "false" }),
                QueryValue::Number(number) => pairs.append_pair(name, &number.to_string()),
            };
        }
    }
    let mut headers = headers(&args.headers)?;
    ours(&mut headers, ctx);
    let mut request = client.request(method, url);
    match (args.json, args.body) {
        (Some(_), Some(_)) => return Err(invalid("`json` and `body` exclude each other")),
        (Some(json), None) => {
            let json_type = HeaderValue::from_static("application/json");
            headers.entry(CONTENT_TYPE).or_insert(json_type);
            request = request.body(Box::<str>::from(json).into_string());
        }
        (None, Some(body)) => request = request.body(body),
        (None, None) => {}
    }
    request.headers(headers).build().map_err(|e| invalid(&e.without_url().to_string()))
}

fn headers(given: &BTreeMap<String, String>) -> Result<HeaderMap, HandlerError> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let parsed: HeaderName =
            name.parse().map_err(|_| invalid("`headers` has a name that is not a header name"))?;
        if is_forbidden(&parsed) {
            return Err(invalid(&format!("the header `{parsed}` cannot be set")));
        }
        // Refuses CR, LF and NUL.
        let value = HeaderValue::from_str(value)
            .map_err(|_| invalid(&format!("the header `{parsed}` has a value that cannot be sent")))?;
        headers.append(parsed, value);
    }
    Ok(headers)
}

fn is_forbidden(name: &HeaderName) -> bool {
    let framing = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, UPGRADE, TE, TRAILER];
    framing.contains(name)
        || name.as_str().starts_with("proxy-")
        || matches!(name.as_str(), "keep-alive" | JOB_ID | FENCE)
}

/// Tells the receiver which job this is, so that it can tell a repetition and refuse a latecomer.
fn ours(headers: &mut HeaderMap, ctx: &Context) {
    let id = HeaderValue::from_str(&ctx.job_id().to_string()).expect("ids are plain text");
    headers.insert(FENCE, HeaderValue::from(ctx.fence().0));
    headers.insert(JOB_ID, id.clone());
    headers.entry("idempotency-key").or_insert(id);
    if let Some(trace) = ctx.traceparent()
        && let Ok(trace) = HeaderValue::from_str(trace)
    {
        headers.entry("traceparent").or_insert(trace);
    }
}

fn invalid(message: &str) -> HandlerError {
    HandlerError::permanent("invalid_payload", message)
}
