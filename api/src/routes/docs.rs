//! `/docs`: the OpenAPI document as a page. Static files of our own, embedded in the binary; nothing is
//! loaded from elsewhere.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderValue, header};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page and its parts.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route(
            "/docs",
            get(|| page("text/html; charset=utf-8", include_str!("../../ui/docs.html"))),
        )
        .route(
            "/docs/docs.js",
            get(|| page("text/javascript; charset=utf-8", include_str!("../../ui/docs.js"))),
        )
        .route(
            "/docs/docs.css",
            get(|| page("text/css; charset=utf-8", include_str!("../../ui/docs.css"))),
        )
}

async fn page(content_type: &'static str, text: &'static str) -> Response {
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
