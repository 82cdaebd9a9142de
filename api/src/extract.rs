//! Reading requests: bodies, path parameters and headers here, queries in [`params`]; each with a precise
//! refusal.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, Request};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use windlass_shared::limits;

use crate::app::App;
use crate::error::{ApiError, Code, FieldError};
use crate::json;
use crate::serve::body::TooSlow;
use crate::strict;

mod params;

pub use params::{NoParams, Params};

/// Largest body of calls that carry neither payloads nor batches.
pub const SMALL: usize = 64 << 10;
/// Largest body of a single job: its payload, and as much room for the rest.
pub const ONE_JOB: usize = limits::VALUE_BYTES_MAX + (256 << 10);
/// Largest workflow. Payloads of steps are taken apart, which needs up to sixteen times their size in memory.
pub const DOCUMENT: usize = 16 << 20;
/// Largest body of calls that carry many values.
pub const MANY: usize = limits::BODY_BYTES_MAX;

/// What a body says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    /// `application/json`
    Json,
    /// `application/x-ndjson`
    Lines,
    /// `application/yaml`, `application/x-yaml`, `text/yaml`
    Yaml,
}

const YAML: [&str; 3] = ["application/yaml", "application/x-yaml", "text/yaml"];

/// A whole body of at most `MAX` bytes. Holds its part of the budget for bodies until dropped.
pub struct RawBody<const MAX: usize> {
    /// As it came.
    pub bytes: Bytes,
    /// What it says that it is; `None` without a content type.
    pub media_type: Option<MediaType>,
    _budget: Option<OwnedSemaphorePermit>,
}

impl<const MAX: usize> FromRequest<App> for RawBody<MAX> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let media_type = media_type(request.headers())?;
        if let Some(length) = declared_length(request.headers())
            && length > MAX as u64
        {
            refused_body("too_large");
            return Err(too_large(MAX));
        }
        let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
        let room = Arc::clone(app.body_budget.of(request.method(), route));
        let (bytes, budget) = read(&room, request.into_body(), MAX).await?;
        Ok(Self { bytes, media_type, _budget: budget })
    }
}

fn refused_body(why: &'static str) {
    metrics::counter!("windlass_http_bodies_refused_total", "why" => why).increment(1);
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(max: usize) -> ApiError {
    ApiError::new(Code::TooLarge, format!("the body is larger than {max} bytes"))
}

/// # Errors
/// 415 for other types, and for every content encoding: an inflated body could be of any size.
fn media_type(headers: &HeaderMap) -> Result<Option<MediaType>, ApiError> {
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(ApiError::new(
            Code::UnsupportedMediaType,
            "bodies with a Content-Encoding are not taken",
        ));
    }
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or("");
    let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
    let essence = essence.trim();
    let is_utf8 = parameters.trim().is_empty()
        || parameters.trim().to_ascii_lowercase().replace('"', "") == "charset=utf-8";
    if essence.eq_ignore_ascii_case("application/json") && is_utf8 {
        Ok(Some(MediaType::Json))
    } else if essence.eq_ignore_ascii_case("application/x-ndjson") && is_utf8 {
        Ok(Some(MediaType::Lines))
    } else if is_utf8 && YAML.iter().any(|name| essence.eq_ignore_ascii_case(name)) {
        Ok(Some(MediaType::Yaml))
    } else {
        Err(ApiError::new(
            Code::UnsupportedMediaType,
            "the body must be JSON in UTF-8: send Content-Type: application/json",
        ))
    }
}

async fn read(
    room: &Arc<Semaphore>,
    mut body: Body,
    max: usize,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
    let mut budget: Option<OwnedSemaphorePermit> = None;
    let mut first = Bytes::new();
    let mut rest: Vec<u8> = Vec::new();
    let mut length = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| body_error(&error))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        length += data.len();
        if length > max {
            refused_body("too_large");
            return Err(too_large(max));
        }
        charge(room, length, &mut budget)?;
        if first.is_empty() && rest.is_empty() {
            // Most bodies come in one piece and are not copied.
            first = data;
        } else {
            if !first.is_empty() {
                append(&mut rest, &std::mem::take(&mut first), max);
            }
            append(&mut rest, &data, max);
        }
    }
    Ok((if rest.is_empty() { first } else { rest.into() }, budget))
}

/// Doubles, but never beyond what a body may have: a large one must not take twice its size.
fn append(buffer: &mut Vec<u8>, data: &[u8], max: usize) {
    let needed = buffer.len() + data.len();
    if needed > buffer.capacity() {
        let capacity = (2 * buffer.capacity()).min(max).max(needed);
        buffer.reserve_exact(capacity - buffer.len());
    }
    buffer.extend_from_slice(data);
}

/// Takes from the budget what `length` bytes need beyond what was taken before. Counted by the whole body, so
/// that a body in many small pieces costs no more than in one.
fn charge(
    room: &Arc<Semaphore>,
    length: usize,
    budget: &mut Option<OwnedSemaphorePermit>,
) -> Result<(), ApiError> {
    let held = budget.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let missing = length.div_ceil(1024).saturating_sub(held);
    if missing == 0 {
        return Ok(());
    }
    let missing = u32::try_from(missing).unwrap_or(u32::MAX);
    let more = Arc::clone(room).try_acquire_many_owned(missing).map_err(|_| {
        refused_body("budget");
        ApiError::new(Code::Overloaded, "too many bytes of requests are under way")
    })?;
    match budget {
        Some(budget) => budget.merge(more),
        None => *budget = Some(more),
    }
    Ok(())
}

fn body_error(error: &axum::Error) -> ApiError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    // An error chain is as long as its layers; four is more than there are.
    for _ in 0..4 {
        match source {
            Some(cause) if cause.is::<TooSlow>() => {
                refused_body("too_slow");
                return ApiError::new(Code::RequestTimeout, "the body did not arrive in time");
            }
            Some(cause) => source = cause.source(),
            None => break,
        }
    }
    ApiError::new(Code::InvalidRequest, "the body broke off or is badly framed")
}

impl<const MAX: usize> RawBody<MAX> {
    /// The body as JSON of a known shape, borrowing from it.
    ///
    /// # Errors
    /// 415, 400 or 422, naming the place.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, ApiError> {
        self.ensure_json()?;
        parse(text(&self.bytes)?, "")
    }

    /// The body, which says that it is JSON, to be read elsewhere. Cheap.
    ///
    /// # Errors
    /// 415.
    pub fn json_bytes(&self) -> Result<Bytes, ApiError> {
        self.ensure_json()?;
        Ok(self.bytes.clone())
    }

    fn ensure_json(&self) -> Result<(), ApiError> {
        if self.media_type == Some(MediaType::Json) {
            return Ok(());
        }
        Err(ApiError::new(
            Code::UnsupportedMediaType,
            "the body must be JSON: send Content-Type: application/json",
        ))
    }

    /// As [`Self::json`]; an absent body, or `null`, is the default.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub fn json_or_default<'a, T: Deserialize<'a> + Default>(&'a self) -> Result<T, ApiError> {
        if self.bytes.is_empty() {
            return Ok(T::default());
        }
        Ok(self.json::<Option<T>>()?.unwrap_or_default())
    }
}

/// # Errors
/// 400 for what is not UTF-8.
pub fn text(bytes: &[u8]) -> Result<&str, ApiError> {
    std::str::from_utf8(bytes).map_err(|error| {
        ApiError::new(
            Code::InvalidJson,
            format!("the body is not UTF-8 at byte {}", error.valid_up_to()),
        )
    })
}

/// Reads JSON; `base` is the pointer to it in the whole body.
///
/// # Errors
/// 400 for what is not JSON or names a field twice; 422, with a pointer, for the wrong shape.
pub fn parse<'a, T: Deserialize<'a>>(text: &'a str, base: &str) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    strict::deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|error| explain(text, base, &error))
}

fn explain(text: &str, base: &str, error: &serde_json::Error) -> ApiError {
    let (line, column) = (error.line(), error.column());
    let full = error.to_string();
    let message = full.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&full);
    if !error.is_data() {
        return ApiError::new(
            Code::InvalidJson,
            format!("{message} (line {line}, column {column})"),
        );
    }
    // Only decides how precise the pointer is; serde has no other way to tell the two apart.
    let of_container = message.starts_with("missing field");
    let place = json::place_at(text, json::offset_of(text, line, column), !of_container);
    let pointer = format!("{base}{}", place.pointer);
    if place.duplicate_key {
        return ApiError::new(Code::DuplicateKey, format!("{pointer} is given twice"))
            .with_errors(vec![FieldError::at(pointer, "is given twice")]);
    }
    ApiError::invalid(vec![FieldError::at(pointer, message)])
}

/// The caller's `Idempotency-Key`.
///
/// # Errors
/// 400 for one that is empty, too long, given twice, or not printable ASCII.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or("");
    let fine = (1..=limits::KEY_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| (b' '..=b'~').contains(&b));
    if !fine || values.next().is_some() {
        return Err(ApiError::new(
            Code::InvalidHeader,
            format!(
                "Idempotency-Key must be 1 to {} printable ASCII characters, given once",
                limits::KEY_BYTES_MAX
            ),
        ));
    }
    Ok(Some(text.to_owned()))
}

/// A path parameter of a type that parses.
pub struct Id<T>(pub T);

impl<T, S> FromRequestParts<S> for Id<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = axum::extract::RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::new(Code::InvalidRequest, "the path is not UTF-8"))?;
        let (name, value) = path
            .iter()
            .next()
            .ok_or_else(|| ApiError::new(Code::Internal, "the route has no parameter"))?;
        value
            .parse()
            .map(Self)
            .map_err(|error: T::Err| ApiError::parameter(name, error.to_string()))
    }
}

/// Two path parameters of types that parse, in the order of the path.
pub struct Ids<A, B>(pub A, pub B);

impl<A, B, S> FromRequestParts<S> for Ids<A, B>
where
    A: std::str::FromStr,
    A::Err: std::fmt::Display,
    B: std::str::FromStr,
    B::Err: std::fmt::Display,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = axum::extract::RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::new(Code::InvalidRequest, "the path is not UTF-8"))?;
        let mut given = path.iter();
        let (Some((first, a)), Some((second, b))) = (given.next(), given.next()) else {
            return Err(ApiError::new(Code::Internal, "the route lacks a parameter"));
        };
        let a = a.parse().map_err(|e: A::Err| ApiError::parameter(first, e.to_string()))?;
        let b = b.parse().map_err(|e: B::Err| ApiError::parameter(second, e.to_string()))?;
        Ok(Self(a, b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it parses matters")]
    struct Shape {
        a: Option<u32>,
        b: Option<Vec<Inner>>,
    }
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it parses matters")]
    struct Inner {
        c: Option<String>,
    }

    fn fault(text: &str) -> (Code, Option<String>) {
        let error = parse::<Shape>(text, "").expect_err(text);
        (error.code(), error.errors().first().and_then(|e| e.pointer.clone()))
    }

    #[test]
    fn what_is_not_json_is_400_and_what_is_wrong_is_422_with_a_pointer() {
        for bad in ["", "{", "{\"a\":NaN}", "{\"a\":1e400}", "\u{feff}{}", "{\"a\":01}", "{} x"] {
            assert_eq!(fault(bad).0, Code::InvalidJson, "{bad}");
        }
        let at = |pointer: &str| (Code::Invalid, Some(pointer.to_owned()));
        assert_eq!(fault(r#"{"a":"x"}"#), at("/a"));
        assert_eq!(fault(r#"{"a": 4294967296}"#), at("/a"));
        assert_eq!(fault(r#"{"a":-1}"#), at("/a"));
        assert_eq!(fault(r#"{"a":1.0}"#), at("/a"));
        assert_eq!(fault(r#"{"a":-0}"#), at("/a"));
        assert_eq!(fault(r#"{"b":[{},{"c":1}]}"#), at("/b/1/c"));
        assert_eq!(fault(r#"{"b":[{},{"d/e":1}]}"#), at("/b/1/d~1e"));
        assert_eq!(fault(r#"{"b":[7]}"#), at("/b/0"));
        assert_eq!(
            fault(r#"{"b":[{}], "a":null, "b":7}"#),
            (Code::DuplicateKey, Some("/b".into()))
        );
        assert_eq!(fault(r#"{"zzz":1}"#), at("/zzz"));
        assert_eq!(fault("{\n  \"a\": 1,\n  \"b\": 7}"), at("/b"));
        assert_eq!(fault(r#"{"a":1,"a":2}"#), (Code::DuplicateKey, Some("/a".into())));
        let deep = format!("{{\"zzz\":{}", "[".repeat(100_000));
        assert_ne!(fault(&deep).0, Code::Internal);
    }

    #[test]
    fn only_plain_json_is_taken() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            media_type(&headers)
        };
        for good in ["application/json", "Application/JSON", "application/json; charset=UTF-8"] {
            assert_eq!(with(good).unwrap(), Some(MediaType::Json), "{good}");
        }
        assert_eq!(with("application/x-ndjson").unwrap(), Some(MediaType::Lines));
        assert_eq!(with("Application/YAML").unwrap(), Some(MediaType::Yaml));
        for bad in ["text/plain", "application/jsonx", "application/json; charset=latin1", ""] {
            assert_eq!(with(bad).unwrap_err().code(), Code::UnsupportedMediaType, "{bad}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
        assert!(media_type(&headers).is_err());
    }

    #[test]
    fn idempotency_keys_are_short_printable_and_single() {
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(
                    "idempotency-key",
                    http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
                );
            }
            idempotency_key(&headers)
        };
        assert_eq!(with(&[]).unwrap(), None);
        assert_eq!(with(&["order-1"]).unwrap().as_deref(), Some("order-1"));
        for bad in [vec![""], vec!["a", "b"], vec!["é"]] {
            assert!(with(&bad).is_err(), "{bad:?}");
        }
        assert!(with(&[&"a".repeat(256)]).is_err());
    }
}
