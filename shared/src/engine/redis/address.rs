//! Where the store is, as the settings write it.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, TlsCertificates};

use crate::engine::EngineError;

const SENTINEL_PORT: u16 = 26_379;

/// The three ways to reach Redis.
#[derive(Debug, Clone)]
pub(super) enum Address {
    /// One server.
    Single(ConnectionInfo),
    /// Whichever server the Sentinels call the master of this name.
    Sentinel {
        /// Any of them will do.
        sentinels: Vec<ConnectionInfo>,
        /// The name of the master.
        name: String,
        /// How to log in to the master; its host and port are asked for.
        master: ConnectionInfo,
    },
    /// A Cluster, found through any of these nodes.
    Cluster {
        /// Where to begin.
        nodes: Vec<ConnectionInfo>,
        /// Certificates to trust in place of the public ones.
        ca: Option<Vec<u8>>,
    },
}

/// The parts of an address, before they are put together per host.
struct Parts<'a> {
    tls: bool,
    login: &'a str,
    hosts: Vec<&'a str>,
    path: &'a str,
    ca: Option<Vec<u8>>,
}

impl Address {
    /// Reads `redis://…`, `redis+sentinel://h1,h2/name[/db]`, `redis+cluster://h1,h2`; with `rediss` for
    /// TLS. A login `user:password@` goes before the hosts. `?ca=FILE` trusts the certificates of that
    /// PEM file in place of the public authorities.
    ///
    /// # Errors
    /// [`EngineError::Unfit`] that says what is wrong, without the login.
    pub(super) fn parse(url: &str) -> Result<Self, EngineError> {
        let (scheme, rest) = url.split_once("://").ok_or_else(unknown_scheme)?;
        let (kind, tls) = match scheme {
            "redis" => ("single", false),
            "rediss" => ("single", true),
            "redis+sentinel" => ("sentinel", false),
            "rediss+sentinel" => ("sentinel", true),
            "redis+cluster" => ("cluster", false),
            "rediss+cluster" => ("cluster", true),
            _ => return Err(unknown_scheme()),
        };
        let parts = split(rest, tls)?;
        match kind {
            "single" => match parts.hosts.as_slice() {
                [host] => Ok(Self::Single(parts.node(host, parts.path)?)),
                _ => Err(unfit(
                    "`redis://` takes one host; for several use `redis+sentinel://` or `redis+cluster://`",
                )),
            },
            "sentinel" => parts.sentinel(),
            _ if !parts.path.is_empty() => Err(unfit("a Redis Cluster has no database numbers")),
            _ => {
                let nodes = parts.hosts.iter().map(|host| parts.node(host, ""));
                Ok(Self::Cluster { nodes: nodes.collect::<Result<_, _>>()?, ca: parts.ca.clone() })
            }
        }
    }
}

impl Parts<'_> {
    fn node(&self, host: &str, database: &str) -> Result<ConnectionInfo, EngineError> {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let url = format!("{scheme}://{}{host}/{database}", self.login);
        let info = url.into_connection_info().map_err(|error| wrong(&error))?;
        match &self.ca {
            Some(pem) if self.tls => {
                let trusted = TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) };
                let client = redis::Client::build_with_tls(info, trusted);
                Ok(client.map_err(|error| wrong(&error))?.get_connection_info().clone())
            }
            _ => Ok(info),
        }
    }

    fn sentinel(&self) -> Result<Address, EngineError> {
        let (name, database) = self.path.split_once('/').unwrap_or((self.path, ""));
        if name.is_empty() {
            return Err(unfit("`redis+sentinel://hosts/NAME` needs the name of the master"));
        }
        let master = self.node("placeholder", database)?;
        let sentinels = self.hosts.iter().map(|host| {
            let host =
                if has_port(host) { (*host).to_owned() } else { format!("{host}:{SENTINEL_PORT}") };
            self.node(&host, "")
        });
        let sentinels = sentinels.collect::<Result<_, _>>()?;
        Ok(Address::Sentinel { sentinels, name: name.to_owned(), master })
    }
}

/// This connection, to another host.
pub(super) fn at(info: &ConnectionInfo, host: String, port: u16) -> ConnectionInfo {
    let addr = match info.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host, port),
    };
    info.clone().set_addr(addr)
}

fn split(rest: &str, tls: bool) -> Result<Parts<'_>, EngineError> {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    // The last `@` ends the login: a password may hold one.
    let (login, rest) =
        rest.rsplit_once('@').map_or(("", rest), |(login, _)| rest.split_at(login.len() + 1));
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let hosts: Vec<_> = hosts.split(',').filter(|host| !host.is_empty()).collect();
    if hosts.is_empty() {
        return Err(unfit("the engine's address names no host"));
    }
    let mut ca = None;
    for option in query.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("ca", file)) if tls => ca = Some(read(file)?),
            Some(("ca", _)) => return Err(unfit("`ca` needs a `rediss` address")),
            _ => return Err(unfit("the engine's address knows the option `ca` only")),
        }
    }
    Ok(Parts { tls, login, hosts, path, ca })
}

fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

fn read(file: &str) -> Result<Vec<u8>, EngineError> {
    std::fs::read(file).map_err(|error| {
        EngineError::Unfit(format!("cannot read the certificates in `{file}`: {error}"))
    })
}

fn unknown_scheme() -> EngineError {
    unfit(
        "the engine's address begins with `redis://`, `rediss://`, `redis+sentinel://` or \
         `redis+cluster://`, or is `embedded`",
    )
}

// The address itself is not shown: it may hold a password.
fn wrong(error: &redis::RedisError) -> EngineError {
    EngineError::Unfit(format!("the engine's address is wrong: {}", error.category()))
}

fn unfit(why: &str) -> EngineError {
    EngineError::Unfit(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(info: &ConnectionInfo) -> String {
        info.addr().to_string()
    }

    #[test]
    fn addresses_of_all_sorts_are_read() {
        let Address::Single(info) = Address::parse("redis://u:p%40@h:1/3").unwrap() else {
            panic!()
        };
        assert_eq!(place(&info), "h:1");
        assert_eq!(info.redis_settings().password(), Some("p@"));
        assert_eq!(info.redis_settings().db(), 3);

        let url = "redis+sentinel://:p@a,b:7/main/2";
        let Address::Sentinel { sentinels, name, master } = Address::parse(url).unwrap() else {
            panic!()
        };
        assert_eq!(sentinels.iter().map(place).collect::<Vec<_>>(), ["a:26379", "b:7"]);
        assert_eq!((name.as_str(), master.redis_settings().db()), ("main", 2));
        assert_eq!(place(&at(&master, "m".into(), 9)), "m:9");

        let Address::Cluster { nodes, .. } = Address::parse("rediss+cluster://a,b:7").unwrap()
        else {
            panic!()
        };
        assert_eq!(nodes.iter().map(place).collect::<Vec<_>>(), ["a:6379", "b:7"]);
        assert!(matches!(nodes[0].addr(), ConnectionAddr::TcpTls { .. }));
    }

    #[test]
    fn wrong_addresses_say_what_is_wrong_and_keep_the_password() {
        for url in [
            "",
            "http://h",
            "redis://",
            "redis://a,b",
            "redis+sentinel://a",
            "redis+cluster://a/1",
            "redis://u:secret@h:99999",
            "redis://u:secret@h/x",
            "redis://h?ca=f",
            "redis://h?x=1",
            "rediss://h?ca=/no/such/file",
        ] {
            let error = Address::parse(url).expect_err(url);
            assert!(matches!(error, EngineError::Unfit(_)), "{url}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
