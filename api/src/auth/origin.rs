//! Without keys (`windlass dev`), a page that the developer visits must not reach the API through their
//! browser: neither from another origin, nor under a name that was pointed at this address.

use std::net::IpAddr;

use http::header;
use http::request::Parts;

use crate::error::{ApiError, Code};

/// Refuses what a browser sends on behalf of a foreign page. Programs that are no browsers pass.
///
/// # Errors
/// 403 `forbidden`.
pub fn check(request: &Parts) -> Result<(), ApiError> {
    let refused = |why: &str| Err(ApiError::new(Code::Forbidden, why));
    let text = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
    let authority = request
        .uri
        .authority()
        .map(http::uri::Authority::as_str)
        .or_else(|| text(header::HOST))
        .unwrap_or("");
    if !authority.is_empty() && !is_local(host_of(authority)) {
        return refused("without keys, the API answers under localhost and IP addresses only");
    }
    if let Some(origin) = request.headers.get(header::ORIGIN) {
        let same = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.split_once("://"))
            .is_some_and(|(_, origin)| origin.eq_ignore_ascii_case(authority));
        if !same {
            return refused("without keys, pages of other origins are not answered");
        }
    }
    match text(header::HeaderName::from_static("sec-fetch-site")) {
        Some("cross-site" | "same-site") => {
            refused("without keys, pages of other origins are not answered")
        }
        _ => Ok(()),
    }
}

/// The authority without its port.
fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or("");
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

fn is_local(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn verdict(headers: &[(&str, &str)]) -> bool {
        let mut request = Request::get("/v1/jobs");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap().into_parts().0).is_ok()
    }

    #[test]
    fn programs_and_our_own_pages_pass() {
        assert!(verdict(&[]));
        for host in ["127.0.0.1:8080", "localhost:8080", "LOCALHOST", "[::1]:8080", "app.localhost"]
        {
            assert!(verdict(&[("host", host)]), "{host}");
        }
        let own = [("host", "localhost:8080"), ("origin", "http://localhost:8080")];
        assert!(verdict(&own));
        assert!(verdict(&[("host", "127.0.0.1"), ("sec-fetch-site", "same-origin")]));
        assert!(verdict(&[("host", "127.0.0.1"), ("sec-fetch-site", "none")]));
    }

    #[test]
    fn foreign_pages_and_rebound_names_do_not() {
        for host in
            ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil"]
        {
            assert!(!verdict(&[("host", host)]), "{host}");
        }
        for origin in ["http://evil.example", "null", "http://localhost:9999", "x"] {
            assert!(!verdict(&[("host", "localhost:8080"), ("origin", origin)]), "{origin}");
        }
        assert!(!verdict(&[("host", "127.0.0.1"), ("sec-fetch-site", "cross-site")]));
    }
}
