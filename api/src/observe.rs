//! Around every request: panic guard, request id, trace span, metrics, time limit, security headers, and
//! the rendering of refusals.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tracing::Instrument as _;
use uuid::Uuid;

use crate::error::{ApiError, Code};

/// Longest time from a request's head to its answer's head. Longer than every long poll and body.
const REQUEST_MAX: Duration = Duration::from_secs(100);
const REQUEST_ID_MAX: usize = 128;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is known of a request before its handler runs.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// The caller's `X-Request-Id`, or a fresh one.
    pub id: Arc<str>,
    /// The caller's W3C trace context, where it is valid.
    pub traceparent: Option<Arc<str>>,
}

impl<S: Send + Sync> FromRequestParts<S> for RequestContext {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        _state: &S,
    ) -> Result<Self, ApiError> {
        parts
            .extensions
            .get()
            .cloned()
            .ok_or_else(|| ApiError::new(Code::Internal, "the request was not given an id"))
    }
}

/// The outermost middleware.
pub async fn observe(mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let context = RequestContext {
        id: request_id(request.headers()),
        traceparent: traceparent(request.headers()),
    };
    let route: Arc<str> =
        request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).into();
    let method = method_label(request.method());
    let span = tracing::info_span!(
        "http_request", request.id = %context.id, http.method = method, http.route = %route,
    );
    request.extensions_mut().insert(context.clone());

    let is_read = request.method().is_safe();
    let in_flight = InFlight::begin();
    let answer =
        tokio::time::timeout(REQUEST_MAX, AssertUnwindSafe(next.run(request)).catch_unwind());
    let mut response = match answer.instrument(span.clone()).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => panicked(panic, &span),
        Err(_elapsed) => too_slow(is_read).into_response(),
    };
    drop(in_flight);

    let refusal = response.extensions().get::<ApiError>().map(ApiError::code);
    response = finish(response, &context.id);
    let status = response.status();
    metrics::counter!(
        "windlass_http_requests_total",
        "method" => method, "route" => route.to_string(), "status" => status.as_str().to_owned(),
    )
    .increment(1);
    metrics::histogram!("windlass_http_request_seconds", "route" => route.to_string())
        .record(started.elapsed());
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    span.in_scope(|| {
        // What is refused so that the rest goes well comes in great numbers; it is counted.
        if status.is_server_error() && refusal != Some(Code::Overloaded) {
            tracing::warn!(http.status = status.as_u16(), duration_ms, "request failed");
        } else {
            tracing::debug!(http.status = status.as_u16(), duration_ms, "request answered");
        }
    });
    response
}

/// An answer that took too long. The work goes on by itself, so a write may be made yet.
fn too_slow(is_read: bool) -> ApiError {
    let code = if is_read { Code::Unavailable } else { Code::OutcomeUnknown };
    ApiError::new(code, "the answer took too long")
}

/// Requests whose answer has not begun; counted down also when the caller hangs up.
struct InFlight;

impl InFlight {
    fn begin() -> Self {
        metrics::gauge!("windlass_http_in_flight").increment(1.0);
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        metrics::gauge!("windlass_http_in_flight").decrement(1.0);
    }
}

fn panicked(panic: Box<dyn Any + Send>, span: &tracing::Span) -> Response {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text");
    metrics::counter!("windlass_http_panics_total").increment(1);
    span.in_scope(|| tracing::error!(panic = text, "a handler panicked"));
    ApiError::new(Code::Internal, "the server failed on this request").into_response()
}

/// Renders refusals, and adds what every answer carries.
fn finish(mut response: Response, id: &str) -> Response {
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let head = response.headers().clone();
        response = error.render(id);
        // What layers in between have added (rates, allowed methods) stays.
        for (name, value) in &head {
            if *name != header::CONTENT_LENGTH && !response.headers().contains_key(name) {
                response.headers_mut().append(name, value.clone());
            }
        }
    } else if let Some(code) = unexplained(&response) {
        let allow = response.headers().get(header::ALLOW).cloned();
        response = ApiError::new(code, code.info().title).render(id);
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
    }
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
    response
}

/// The code of a refusal that a library made without one of ours.
fn unexplained(response: &Response) -> Option<Code> {
    let status = response.status();
    if status.as_u16() < 400 || response.headers().contains_key(header::CONTENT_TYPE) {
        return None;
    }
    Some(match status {
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
        StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
        status if status.is_server_error() => Code::Internal,
        _ => Code::InvalidRequest,
    })
}

/// Only known methods become labels of metrics: callers can make up others without end.
fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

fn request_id(headers: &HeaderMap) -> Arc<str> {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|text| {
        (1..=REQUEST_ID_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:/+=@".contains(&b))
    });
    given.map_or_else(|| Uuid::now_v7().to_string().into(), Into::into)
}

/// A valid `traceparent` (W3C Trace Context, version 00); others are left out, as the standard says.
fn traceparent(headers: &HeaderMap) -> Option<Arc<str>> {
    let mut values = headers.get_all("traceparent").iter();
    let text = values.next()?.to_str().ok()?;
    if values.next().is_some() || text.len() != 55 {
        return None;
    }
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, parent, flags] = parts.as_slice() else {
        return None;
    };
    let is_hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let is_zero = |part: &str| part.bytes().all(|b| b == b'0');
    let fine = *version == "00"
        && is_hex(trace, 32)
        && is_hex(parent, 16)
        && is_hex(flags, 2)
        && !is_zero(trace)
        && !is_zero(parent);
    fine.then(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        headers
    }

    #[test]
    fn sane_request_ids_are_kept_and_others_replaced() {
        assert_eq!(&*request_id(&with("x-request-id", "abc-1")), "abc-1");
        for bad in ["", "a b", "a\u{e9}", "<script>", &"a".repeat(129)] {
            let id = request_id(&with("x-request-id", bad));
            assert_ne!(&*id, bad);
            assert_eq!(id.len(), 36);
        }
    }

    #[test]
    fn a_write_that_is_too_slow_may_have_been_made() {
        assert_eq!(too_slow(false).code(), Code::OutcomeUnknown);
        assert_eq!(too_slow(true).code(), Code::Unavailable);
    }

    #[test]
    fn only_valid_trace_contexts_are_carried() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(traceparent(&with("traceparent", good)).as_deref(), Some(good));
        for bad in [
            "",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(traceparent(&with("traceparent", bad)), None, "{bad}");
        }
    }

    /// A fault of one handler is that request's alone.
    #[tokio::test]
    async fn a_panic_is_a_500_for_that_request_only() {
        use tower::ServiceExt as _;
        async fn broken() {
            panic!("secret words of a broken handler");
        }
        let router = axum::Router::new()
            .route("/broken", axum::routing::get(broken))
            .route("/fine", axum::routing::get(|| async { "fine" }))
            .layer(axum::middleware::from_fn(observe));
        let ask = |path: &'static str| {
            let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
            router.clone().oneshot(request)
        };
        let response = ask("/broken").await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let text = std::str::from_utf8(&body).unwrap();
        assert!(text.contains("\"internal\"") && !text.contains("secret words"), "{text}");
        assert_eq!(ask("/fine").await.unwrap().status(), StatusCode::OK);
    }
}
