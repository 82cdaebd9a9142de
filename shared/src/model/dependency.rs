//! Which dependency a job has that names none.

use std::borrow::Cow;

use serde::Deserialize;

use super::name::{CircuitName, Kind};

/// The kind that makes HTTP requests, and has their host as its dependency.
const HTTP: &str = "http.request";

/// The circuit of a job that names none: of an `http.request` the host of its URL, in lower case, with its port unless it
/// is the scheme's own. None where the payload has no such host, as where an expression is to make it.
pub fn default_circuit(kind: &Kind, payload: &str) -> Option<CircuitName> {
    #[derive(Deserialize)]
    struct Target<'a> {
        #[serde(borrow)]
        url: Cow<'a, str>,
    }
    if kind.as_str() != HTTP {
        return None;
    }
    let target: Target<'_> = serde_json::from_str(payload).ok()?;
    host(&target.url)?.parse().ok()
}

fn host(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let own_port = match scheme.to_ascii_lowercase().as_str() {
        "http" => "80",
        "https" => "443",
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, after)) => (address, after.strip_prefix(':').unwrap_or_default()),
        None => authority.rsplit_once(':').unwrap_or((authority, "")),
    };
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if host.is_empty() {
        return None;
    }
    Some(if port.is_empty() || port == own_port { host } else { format!("{host}:{port}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_request_is_its_dependency() {
        for (url, circuit) in [
            ("https://Example.COM/a?b#c", Some("example.com")),
            ("HTTPS://example.com.:443", Some("example.com")),
            ("https://example.com:8443/", Some("example.com:8443")),
            ("http://example.com:443/", Some("example.com:443")),
            ("http://127.0.0.1:80?x=://y", Some("127.0.0.1")),
            ("https://[2606:4700::1111]/", Some("2606:4700::1111")),
            ("https://[2606:4700::1111]:8443/", Some("2606:4700::1111:8443")),
            ("https://example.com/${{ input.path }}", Some("example.com")),
            ("https://${{ input.host }}/", None),
            ("https://user:secret@example.com/", None),
            ("https://bücher.example/", None),
            ("https:///x", None),
            ("ftp://example.com/", None),
            ("example.com", None),
        ] {
            let payload = serde_json::json!({"method": "GET", "url": url}).to_string();
            let found = default_circuit(&"http.request".parse().unwrap(), &payload);
            assert_eq!(found.as_ref().map(CircuitName::as_str), circuit, "{url}");
            assert_eq!(default_circuit(&"echo".parse().unwrap(), &payload), None);
        }
        for payload in ["null", "{}", r#"{"url": 3}"#, "[]"] {
            assert_eq!(default_circuit(&"http.request".parse().unwrap(), payload), None);
        }
    }
}
