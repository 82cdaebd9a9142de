//! Checks of the address as written: what is refused before anything is sent.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures::future::BoxFuture;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address::Reach;
use crate::error::HandlerError;

/// Longest address, in bytes.
const URL_BYTES_MAX: usize = 8 << 10;

/// Why a target is not taken.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is not written as the address of a web server should be.
    #[error("{0}")]
    Invalid(String),
    /// It is not one that jobs may reach.
    #[error("{0}")]
    Blocked(String),
}

impl Refused {
    /// As the failure of an attempt. (`?` would make it one that is tried again.)
    pub(super) fn failure(&self) -> HandlerError {
        match self {
            Self::Invalid(message) => HandlerError::permanent("invalid_payload", message),
            Self::Blocked(message) => HandlerError::permanent("http_blocked_address", message),
        }
    }
}

/// Parses and checks an address.
///
/// Browsers repair addresses that are written oddly; what they would repair is refused here, because
/// somebody who looks at the text must see where it leads.
pub(super) fn parse(text: &str, reach: Reach) -> Result<Url, Refused> {
    let refuse = |why: &str| Err(Refused::Invalid(format!("the URL {why}")));
    if text.len() > URL_BYTES_MAX {
        return refuse("is too long");
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return refuse("contains white space, control characters or backslashes");
    }
    let Ok(url) = text.parse::<Url>() else {
        return refuse("cannot be parsed");
    };
    if !matches!(url.scheme(), "http" | "https") {
        return refuse("is not an http:// or https:// address");
    }
    // Repaired spellings such as `http:host` or `http:///host` have no authority where one looks for it.
    let after_scheme = &text[url.scheme().len().min(text.len())..];
    let Some(rest) = after_scheme.strip_prefix("://") else {
        return refuse("is not written as scheme://host");
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        return refuse("has no host");
    }
    if !url.username().is_empty() || url.password().is_some() || authority.contains(['@', '%']) {
        return refuse("must not have credentials or escapes in its host");
    }
    if url.fragment().is_some() {
        return refuse("must not have a fragment");
    }
    check_host(&url, authority, reach)?;
    check_port(&url, reach)?;
    Ok(url)
}

fn check_host(url: &Url, authority: &str, reach: Reach) -> Result<(), Refused> {
    let host = url.host_str().unwrap_or_default();
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = plain.parse::<IpAddr>() {
        // 2130706433, 0x7f.1, 0177.0.0.1 and 127.1 all mean 127.0.0.1: only the plain spelling is taken.
        let written = authority.strip_suffix(&port_text(url, authority)).unwrap_or(authority);
        let plainly = written == host || address.is_ipv6();
        if !plainly {
            return Err(Refused::Invalid(
                "the URL's address is not written in the usual way".into(),
            ));
        }
        return check_address(address, reach);
    }
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let local = name == "localhost" || name.ends_with(".localhost");
    let metadata = name == "metadata.google.internal" || name == "metadata";
    if metadata || (local && reach == Reach::Public) {
        return Err(Refused::Blocked("the URL's host is not allowed".into()));
    }
    Ok(())
}

fn port_text(url: &Url, authority: &str) -> String {
    match authority.rsplit_once(':') {
        Some((_, port)) if !authority.ends_with(']') => format!(":{port}"),
        _ => url.port().map_or_else(String::new, |port| format!(":{port}")),
    }
}

/// Ports below 1024 other than the web's belong to services that must not be talked into.
fn check_port(url: &Url, reach: Reach) -> Result<(), Refused> {
    let port = url.port_or_known_default().unwrap_or_default();
    if reach == Reach::Public && port < 1024 && port != 80 && port != 443 {
        return Err(Refused::Blocked(format!("port {port} is not allowed")));
    }
    Ok(())
}

/// Checks where a name leads, or where a connection went.
pub(super) fn check_address(address: IpAddr, reach: Reach) -> Result<(), Refused> {
    if reach.allows(address) {
        return Ok(());
    }
    // The address is not named: what a name leads to inside must not be found out by trying.
    Err(Refused::Blocked("the URL leads to an address that is not allowed".into()))
}

/// Looks names up. The system's resolver, or a test's.
pub(super) type Lookup =
    Arc<dyn Fn(String) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Resolves names and refuses those of which any address is not allowed. The connection is made to an
/// address that it has let pass, so a name that changes between check and use gains nothing.
#[derive(Clone)]
pub(super) struct CheckedResolver {
    pub(super) reach: Reach,
    pub(super) lookup: Lookup,
}

impl CheckedResolver {
    /// On the system's resolver.
    pub(super) fn system(reach: Reach) -> Self {
        let lookup: Lookup = Arc::new(|name: String| {
            Box::pin(
                async move { Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.collect()) },
            )
        });
        Self { reach, lookup }
    }

    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<SocketAddr>, super::BoxError> {
        let found = (self.lookup)(name.to_owned()).await?;
        for address in &found {
            check_address(address.ip(), self.reach)?;
        }
        if found.is_empty() {
            return Err(std::io::Error::other("the name has no address").into());
        }
        Ok(found)
    }
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let found = resolver.addresses(name.as_str()).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_addresses_are_refused_as_written() {
        for text in [
            "http://127.0.0.1:6379/",
            "http://localhost",
            "http://localhost.",
            "http://LOCALHOST:8080",
            "http://a.localhost/",
            "http://0.0.0.0",
            "http://0/",
            "http://[::]",
            "http://[::1]",
            "http://2130706433/",
            "http://0x7f.1",
            "http://0177.0.0.1",
            "http://127.1",
            "http://①②⑦.0.0.1",
            "http://[::ffff:127.0.0.1]",
            "http://[::ffff:7f00:1]",
            "http://[::127.0.0.1]",
            "http://[64:ff9b::a9fe:a9fe]",
            "http://[64:ff9b:1::7f00:1]",
            "http://[2002:7f00:1::]",
            "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
            "http://[fe80::1%25eth0]",
            "http://[fd00::1]",
            "http://[fec0::1]",
            "http://[5f00::1]",
            "http://[100::1]",
            "http://[3fff::1]",
            "http://169.254.169.254/latest/meta-data/",
            "http://100.100.100.200",
            "http://metadata.google.internal/",
            "http://168.63.129.16",
            "http://100.64.0.1",
            "http://192.0.0.1",
            "http://198.18.0.1",
            "http://192.88.99.1",
            "http://224.0.0.1",
            "http://240.0.0.1",
            "http://255.255.255.255",
            "http://user:pass@example.com",
            "http://user@example.com",
            "http://@example.com",
            "http://ok#@127.0.0.1",
            "http://ok\\@127.0.0.1",
            "http://127.0.0.1%2f@ok",
            "http://exa\tmple.com",
            "http://example.com/\n",
            " http://example.com",
            "http:example.com",
            "http:///example.com",
            "https:/example.com",
            "file:///etc/passwd",
            "gopher://example.com",
            "redis://example.com",
            "ftp://example.com",
            "javascript:alert(1)",
            "example.com",
            "",
            "http://",
            "http://example.com:22/",
            "http://example.com:25/",
            "http://example.com/#x",
            // Even public addresses are taken in their plain spelling only.
            "http://134744072/",
            "http://8.8.2056/",
        ] {
            assert!(parse(text, Reach::Public).is_err(), "{text}");
        }
        assert!(
            parse(&format!("http://example.com/{}", "a".repeat(URL_BYTES_MAX)), Reach::Public)
                .is_err()
        );
    }

    #[test]
    fn ordinary_addresses_pass() {
        for text in [
            "http://example.com",
            "https://example.com:8443/a/b?c=d%20e",
            "https://8.8.8.8/x",
            "http://8.8.8.8:80/x",
            "https://[2606:4700::1111]/",
            "https://[2606:4700::1111]:443/",
            "https://bücher.example/",
            "HTTPS://Example.COM/",
        ] {
            assert!(parse(text, Reach::Public).is_ok(), "{text}: {:?}", parse(text, Reach::Public));
        }
    }

    #[test]
    fn private_reach_takes_loopback_but_no_tricks() {
        for text in [
            "http://127.0.0.1:6379/",
            "http://localhost:1",
            "http://[::1]:8080/",
            "http://10.0.0.1",
        ] {
            assert!(parse(text, Reach::Private).is_ok(), "{text}");
        }
        for text in [
            "http://169.254.169.254/",
            "http://metadata.google.internal",
            "http://u@127.0.0.1/",
            "http://0/",
        ] {
            assert!(parse(text, Reach::Private).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_is_refused_when_any_of_its_addresses_is() {
        for (addresses, allowed) in [
            (vec!["8.8.8.8:0"], true),
            (vec!["8.8.8.8:0", "10.0.0.1:0"], false),
            (vec!["8.8.8.8:0", "[fd00::1]:0"], false),
            (vec!["127.0.0.1:0"], false),
            (vec!["[::ffff:127.0.0.1]:0"], false),
            (vec![], false),
        ] {
            let found: Vec<SocketAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            let lookup: Lookup = Arc::new(move |_| {
                let found = found.clone();
                Box::pin(async move { Ok(found) })
            });
            let resolver = CheckedResolver { reach: Reach::Public, lookup };
            assert_eq!(resolver.addresses("name").await.is_ok(), allowed, "{addresses:?}");
        }
    }
}
