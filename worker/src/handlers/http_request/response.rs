//! From an answer to an output, or to an error.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::Response;
use serde::Serialize;
use serde_json::value::RawValue;
use windlass_shared::limits::{JSON_DEPTH_MAX, VALUE_BYTES_MAX};

use super::statuses::Statuses;
use crate::error::HandlerError;
use crate::handler::Output;
use crate::handlers::json_text;

/// Most bytes of a body that are kept; the rest is not even read.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Most bytes of header names and values that are kept.
const HEADER_BYTES_MAX: usize = 32 << 10;
/// Of an output, for all but the body and the headers: field names, quotes, flags.
const FRAME_BYTES: usize = 256;
/// Most characters of a body that go into an error message.
const SNIPPET_CHARS_MAX: usize = 500;
/// Longest pause that an answer can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// The output: the body in one of three forms.
#[derive(Serialize)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    /// Of a body that says that it is JSON, and is: as it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    json: Option<Box<RawValue>>,
    /// Of any other text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// Of what is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    /// The body was longer than what is kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    /// The headers were longer than what is kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    headers_truncated: bool,
}

/// Reads the answer; success if its status is expected.
pub(super) async fn accept(
    response: Response,
    expected: &Statuses,
) -> Result<Output, HandlerError> {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let good = expected.contains(status);
    let body = match read(response).await {
        Ok(body) => body,
        // The status alone decides: what is lost is words.
        Err(_) if !good => Body::default(),
        Err(error) => return Err(super::network_error(error)),
    };
    if good { output(status, &headers, body) } else { Err(unexpected(status, &headers, &body)) }
}

fn unexpected(status: u16, headers: &HeaderMap, body: &Body) -> HandlerError {
    let code = format!("http_status_{status}");
    let message = format!("the answer had status {status}{}", snippet(&body.bytes));
    if !matches!(status, 408 | 425 | 429 | 500..=599) {
        return HandlerError::permanent(&code, message);
    }
    let error = HandlerError::retryable(&code, message);
    let pause =
        headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(retry_after);
    match pause {
        Some(pause) => error.after(pause),
        None => error,
    }
}

#[derive(Default)]
struct Body {
    bytes: Vec<u8>,
    truncated: bool,
}

async fn read(mut response: Response) -> Result<Body, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = BODY_BYTES_MAX - bytes.len();
        bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Ok(Body { bytes, truncated: true });
        }
    }
    Ok(Body { bytes, truncated: false })
}

fn output(status: u16, headers: &HeaderMap, body: Body) -> Result<Output, HandlerError> {
    let (headers_kept, headers_truncated) = kept_headers(headers);
    let headers_bytes: usize = headers_kept
        .iter()
        .map(|(name, value)| {
            json_text::json_len(name) + json_text::json_len(value) + "\"\":\"\",".len()
        })
        .sum();
    let room = VALUE_BYTES_MAX - FRAME_BYTES - headers_bytes;
    let mut answer = Answer {
        status,
        headers: headers_kept,
        json: None,
        body: None,
        body_base64: None,
        truncated: body.truncated,
        headers_truncated,
    };
    if !body.truncated && body.bytes.len() <= room {
        answer.json = as_json(headers, &body.bytes);
    }
    if answer.json.is_none() {
        answer.keep(body, room);
    }
    Output::of(&answer)
}

impl Answer {
    /// Keeps as much of the body as has room in the output.
    fn keep(&mut self, body: Body, room: usize) {
        match text(body) {
            Ok(text) => {
                let kept = json_text::beginning(&text, room);
                self.truncated |= kept.len() < text.len();
                self.body = Some(kept.to_owned());
            }
            Err(mut bytes) => {
                let whole = room / 4 * 3;
                self.truncated |= bytes.len() > whole;
                bytes.truncate(whole);
                self.body_base64 = Some(base64::engine::general_purpose::STANDARD.encode(bytes));
            }
        }
    }
}

/// The body as text, or back as it is. A character that was cut through at the end is left out.
fn text(body: Body) -> Result<String, Vec<u8>> {
    let mut bytes = body.bytes;
    if body.truncated
        && let Err(e) = std::str::from_utf8(&bytes)
        && e.error_len().is_none()
    {
        bytes.truncate(e.valid_up_to());
    }
    String::from_utf8(bytes).map_err(|e| e.into_bytes())
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

/// The headers, several of one name joined as HTTP allows; and whether any had to be left out.
fn kept_headers(headers: &HeaderMap) -> (BTreeMap<String, String>, bool) {
    let mut kept: BTreeMap<String, String> = BTreeMap::new();
    let mut bytes = 0;
    for (name, value) in headers {
        let text = String::from_utf8_lossy(value.as_bytes());
        bytes += name.as_str().len() + text.len() + ", ".len();
        if bytes > HEADER_BYTES_MAX {
            return (kept, true);
        }
        kept.entry(name.as_str().to_owned())
            .and_modify(|values| *values = format!("{values}, {text}"))
            .or_insert_with(|| text.into_owned());
    }
    (kept, false)
}

fn snippet(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * SNIPPET_CHARS_MAX)]);
    let text: String = text.trim().chars().take(SNIPPET_CHARS_MAX).collect();
    if text.is_empty() { text } else { format!(": {}", text.escape_debug()) }
}

/// `Retry-After` in seconds or as an HTTP date.
fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    let pause = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
        let at =
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(date.as_second()).ok()?);
        at.duration_since(SystemTime::now()).unwrap_or_default()
    };
    Some(pause.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(kind: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())])
    }

    fn made(headers: &HeaderMap, body: &[u8], truncated: bool) -> serde_json::Value {
        let body = Body { bytes: body.to_vec(), truncated };
        let output = output(200, headers, body).unwrap();
        assert!(output.bytes().len() <= VALUE_BYTES_MAX, "{} bytes", output.bytes().len());
        serde_json::from_slice(output.bytes()).unwrap()
    }

    fn made_of(kind: &'static str, body: &[u8]) -> serde_json::Value {
        made(&headers(kind), body, false)
    }

    #[test]
    fn bodies_become_json_text_or_base64() {
        assert_eq!(made_of("application/json; charset=utf-8", b"{\"a\": 1}")["json"]["a"], 1);
        assert_eq!(made_of("application/problem+json", b"[1]")["json"][0], 1);
        assert_eq!(made_of("application/json", b"{oops")["body"], "{oops");
        assert_eq!(made_of("text/plain", b"{\"a\": 1}")["body"], "{\"a\": 1}");
        assert_eq!(made_of("application/json", b"")["body"], "");
        let binary = made_of("image/png", &[0xff, 0xfe, 0, 1, 2, 3]);
        assert_eq!((&binary["body_base64"], &binary["body"]), (&"//4AAQID".into(), &().into()));
        for nesting in [100, 100_000] {
            let deep = format!("{}{}", "[".repeat(nesting), "]".repeat(nesting));
            assert!(made_of("application/json", deep.as_bytes())["body"].is_string());
        }
    }

    #[test]
    fn a_cut_goes_between_characters() {
        let cut = made(&headers("text/plain"), &"aü".as_bytes()[..2], true);
        assert_eq!((&cut["body"], &cut["truncated"]), (&"a".into(), &true.into()));
        let not_text = made(&headers("text/plain"), b"\xffa", true);
        assert_eq!(not_text["body_base64"], "/2E=");
    }

    #[test]
    fn whatever_comes_fits_into_an_output() {
        let control = made_of("text/plain", &vec![1; BODY_BYTES_MAX]);
        assert_eq!(control["truncated"], true);
        assert!(control["body"].as_str().unwrap().len() > 170_000);
        let plain = made_of("text/plain", &vec![b'a'; BODY_BYTES_MAX]);
        assert!(plain["body"].as_str().unwrap().len() > BODY_BYTES_MAX - 1_000);
        assert_eq!(made_of("image/png", &vec![0xff; BODY_BYTES_MAX])["truncated"], true);
        let json = format!("\"{}\"", "a".repeat(BODY_BYTES_MAX - 2));
        let json = made_of("application/json", json.as_bytes());
        assert_eq!((&json["truncated"], &json["json"]), (&true.into(), &().into()));
        let mut many = headers("text/plain");
        for n in 0..100 {
            let name = format!("x-{n}").parse::<http::HeaderName>().unwrap();
            many.append(name, "\"".repeat(1_000).parse().unwrap());
        }
        let many = made(&many, &vec![b'"'; BODY_BYTES_MAX], true);
        assert_eq!(many["headers_truncated"], true);
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        assert_eq!(retry_after(" 120 "), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let soon = jiff::Timestamp::now() + Duration::from_secs(100);
        let soon = soon.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let pause = retry_after(&soon).unwrap();
        assert!((98..=100).contains(&pause.as_secs()), "{soon}: {pause:?}");
        assert_eq!(retry_after("Wed, 21 Oct 2099 07:28:00 GMT"), Some(RETRY_AFTER_MAX));
        assert_eq!(retry_after("99999999999999999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(retry_after("soon"), None);
        assert_eq!(retry_after("-5"), None);
        assert_eq!(retry_after(""), None);
    }
}
