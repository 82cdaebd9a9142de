//! From an answer to an output, or to an error.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::Response;
use serde::Serialize;
use serde_json::value::RawValue;
use windlass_shared::limits::{JSON_DEPTH_MAX, VALUE_BYTES_MAX};

use super::request::Statuses;
use crate::error::HandlerError;
use crate::handler::Output;

/// Most bytes of a body that are kept; the rest is not even read.
const BODY_BYTES_MAX: usize = 512 << 10;
/// Kept of a text that would be too long as JSON. Escaping makes it at most six times longer.
const ESCAPED_BYTES_MAX: usize = 128 << 10;
/// Most bytes of header values that are kept.
const HEADER_BYTES_MAX: usize = 32 << 10;
/// Most characters of a body that go into an error message.
const SNIPPET_CHARS_MAX: usize = 300;

#[derive(Serialize)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    json: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// `base64` of a body that is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    /// The body was longer than what is kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

/// Reads the answer; success if its status is expected (2xx and 3xx where nothing is said).
pub(super) async fn accept(
    response: Response,
    expected: Option<&Statuses>,
) -> Result<Output, HandlerError> {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let (body, truncated) = read(response).await.map_err(super::network_error)?;
    let good = expected.map_or((200..400).contains(&status), |statuses| statuses.contains(status));
    if good {
        return output(status, &headers, body, truncated);
    }
    let retryable = matches!(status, 408 | 425 | 429 | 500..=599);
    let code = format!("http_status_{status}");
    let message = format!("the answer had status {status}{}", snippet(&body));
    if !retryable {
        return Err(HandlerError::permanent(&code, message));
    }
    let error = HandlerError::retryable(&code, message);
    let pause = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(retry_after);
    Err(match pause {
        Some(pause) => error.after(pause),
        None => error,
    })
}

async fn read(mut response: Response) -> Result<(Vec<u8>, bool), reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = BODY_BYTES_MAX - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Ok((body, true));
        }
    }
    Ok((body, false))
}

fn output(
    status: u16,
    headers: &HeaderMap,
    body: Vec<u8>,
    truncated: bool,
) -> Result<Output, HandlerError> {
    let json = if truncated { None } else { as_json(headers, &body) };
    let kept = kept_headers(headers);
    let mut answer = Answer { status, headers: kept, json, body: None, encoding: None, truncated };
    if answer.json.is_none() {
        match String::from_utf8(body) {
            Ok(text) => answer.body = Some(text),
            Err(e) => {
                // A cut may have gone through a character.
                let valid = e.utf8_error().valid_up_to();
                let cut = truncated && e.as_bytes().len() - valid < 4;
                let mut bytes = e.into_bytes();
                if cut {
                    bytes.truncate(valid);
                    answer.body = String::from_utf8(bytes).ok();
                } else {
                    answer.body = Some(base64::engine::general_purpose::STANDARD.encode(bytes));
                    answer.encoding = Some("base64");
                }
            }
        }
    }
    let output = Output::of(&answer)?;
    if output.bytes().len() <= VALUE_BYTES_MAX {
        return Ok(output);
    }
    if let Some(text) = &mut answer.body {
        text.truncate(text.floor_char_boundary(ESCAPED_BYTES_MAX));
        answer.truncated = true;
    }
    Output::of(&answer)
}

/// The body as it came, if it says that it is JSON, and is, and not nested too deeply.
fn as_json(headers: &HeaderMap, body: &[u8]) -> Option<Box<RawValue>> {
    let kind = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind != "application/json" && !kind.ends_with("+json") {
        return None;
    }
    if depth(&serde_json::from_slice(body).ok()?) > JSON_DEPTH_MAX {
        return None;
    }
    RawValue::from_string(String::from_utf8(body.to_vec()).ok()?).ok()
}

/// The parser's own bound on nesting keeps the recursion short.
fn depth(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        serde_json::Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn kept_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut kept: BTreeMap<String, String> = BTreeMap::new();
    let mut bytes = 0;
    for (name, value) in headers {
        let text = String::from_utf8_lossy(value.as_bytes());
        bytes += name.as_str().len() + text.len();
        if bytes > HEADER_BYTES_MAX {
            break;
        }
        kept.entry(name.as_str().to_owned())
            .and_modify(|values| *values = format!("{values}, {text}"))
            .or_insert_with(|| text.into_owned());
    }
    kept
}

fn snippet(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * SNIPPET_CHARS_MAX)]);
    let text: String = text.trim().chars().take(SNIPPET_CHARS_MAX).collect();
    if text.is_empty() { text } else { format!(": {}", text.escape_debug()) }
}

/// `Retry-After` in seconds or as an HTTP date.
fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(secs) = value.parse::<u64>() {
        return Some(Duration::from_secs(secs));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(date.as_second()).ok()?);
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(kind: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())])
    }

    fn made(kind: &'static str, body: &[u8], truncated: bool) -> serde_json::Value {
        let output = output(200, &headers(kind), body.to_vec(), truncated).unwrap();
        assert!(output.bytes().len() <= VALUE_BYTES_MAX);
        serde_json::from_slice(output.bytes()).unwrap()
    }

    #[test]
    fn bodies_become_json_text_or_base64() {
        assert_eq!(made("application/json; charset=utf-8", b"{\"a\": 1}", false)["json"]["a"], 1);
        assert_eq!(made("application/problem+json", b"[1]", false)["json"][0], 1);
        assert_eq!(made("application/json", b"{oops", false)["body"], "{oops");
        assert_eq!(made("text/plain", b"{\"a\": 1}", false)["body"], "{\"a\": 1}");
        let binary = made("image/png", &[0xff, 0xfe, 0, 1, 2, 3], false);
        assert_eq!((binary["encoding"].as_str(), binary["body"].as_str()), (Some("base64"), Some("//4AAQID")));
        let cut = made("text/plain", "aü".as_bytes().split_last().unwrap().1, true);
        assert_eq!((cut["body"].as_str(), cut["truncated"].as_bool()), (Some("a"), Some(true)));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(made("application/json", deep.as_bytes(), false)["body"].is_string());
        let deeper = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(made("application/json", deeper.as_bytes(), false)["body"].is_string());
    }

    #[test]
    fn a_text_that_escapes_badly_still_fits() {
        let made = made("text/plain", &vec![1u8; BODY_BYTES_MAX], false);
        assert_eq!(made["truncated"], true);
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        assert_eq!(retry_after(" 120 "), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let far = retry_after("Wed, 21 Oct 2099 07:28:00 GMT").unwrap();
        assert!(far > Duration::from_secs(3600 * 24 * 365));
        assert_eq!(retry_after("soon"), None);
        assert_eq!(retry_after("-5"), None);
    }
}
