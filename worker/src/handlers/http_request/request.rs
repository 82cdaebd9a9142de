//! From the payload to a request.

use std::collections::BTreeMap;

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use reqwest::{Client, Method, Request};
use serde::Deserialize;
use serde_json::value::RawValue;
use windlass_shared::model::time::Span;

use super::address::Reach;
use super::statuses::Statuses;
use super::target;
use crate::error::HandlerError;

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// Most bytes of their names and values.
const HEADER_BYTES_MAX: usize = 32 << 10;

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
    /// For everything from resolving the name to the last byte.
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

/// Which job a request belongs to.
pub(super) struct Stamp {
    pub(super) job_id: String,
    pub(super) attempt: u32,
    pub(super) fence: u64,
    pub(super) traceparent: Option<String>,
}

/// Builds the request, or says for good what is wrong with the payload.
pub(super) fn build(
    client: &Client,
    reach: Reach,
    stamp: &Stamp,
    args: Args,
) -> Result<Request, HandlerError> {
    let method = args.method.to_ascii_uppercase();
    if !METHODS.contains(&method.as_str()) {
        return Err(invalid("`method` must be GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS"));
    }
    let method: Method = method.parse().map_err(|_| invalid("`method` is not a method"))?;
    let mut url = target::parse(&args.url, reach).map_err(|refused| refused.failure())?;
    if !args.query.is_empty() {
        let mut pairs = url.query_pairs_mut();
        for (name, value) in &args.query {
            match value {
                QueryValue::Text(text) => pairs.append_pair(name, text),
                QueryValue::Bool(value) => {
                    pairs.append_pair(name, if *value { "true" } else { "false" })
                }
                QueryValue::Number(number) => pairs.append_pair(name, &number.to_string()),
            };
        }
    }
    if args.timeout.is_some_and(|span| span.0.is_zero()) {
        return Err(invalid("`timeout` must not be zero"));
    }
    let mut headers = headers(&args.headers)?;
    ours(&mut headers, stamp);
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
    let bytes: usize = given.iter().map(|(name, value)| name.len() + value.len()).sum();
    if given.len() > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
        return Err(invalid("`headers` are too many or too long"));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let parsed: HeaderName =
            name.parse().map_err(|_| invalid("`headers` has a name that is not a header name"))?;
        if is_forbidden(&parsed) {
            return Err(invalid(&format!("the header `{parsed}` cannot be set")));
        }
        // Refuses CR, LF and NUL.
        let value = HeaderValue::from_str(value).map_err(|_| {
            invalid(&format!("the header `{parsed}` has a value that cannot be sent"))
        })?;
        headers.append(parsed, value);
    }
    Ok(headers)
}

/// Names that a caller cannot set: they frame the message, concern one hop, or are ours.
fn is_forbidden(name: &HeaderName) -> bool {
    let framing =
        [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, UPGRADE, TE, TRAILER, EXPECT];
    let name_text = name.as_str();
    framing.contains(name)
        || name_text == "keep-alive"
        || name_text.starts_with("proxy-")
        || name_text.starts_with("windlass-")
}

/// Tells the receiver which job this is, so that it can tell a repetition and refuse a latecomer.
fn ours(headers: &mut HeaderMap, stamp: &Stamp) {
    let id = HeaderValue::from_str(&stamp.job_id).expect("ids are plain text");
    headers.insert("windlass-job-id", id.clone());
    headers.insert("windlass-attempt", HeaderValue::from(stamp.attempt));
    headers.insert("windlass-fence", HeaderValue::from(stamp.fence));
    headers.entry("idempotency-key").or_insert(id);
    if let Some(trace) = &stamp.traceparent
        && let Ok(trace) = HeaderValue::from_str(trace)
    {
        headers.entry("traceparent").or_insert(trace);
    }
}

fn invalid(message: &str) -> HandlerError {
    HandlerError::permanent("invalid_payload", message)
}
