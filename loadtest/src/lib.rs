//! Loads: profiles that are carried out against a running fleet ([`profile`], [`run`](mod@run), [`result`]), sustained-load
//! checks ([`check`]), and the benchmark of single parts on this machine.
//!
//! Everything is measured from outside: over HTTP, from `/proc`, and of single parts through their contracts. Every run is bounded
//! in jobs and in time. Wall-clock rates swing with whatever else the machine does; CPU per job is the figure to compare.

pub mod check;
pub mod cpu;
pub mod engine;
pub mod fleet;
pub mod graph;
pub mod html;
mod http;
pub mod ledger;
pub mod path;
pub mod plot;
pub mod profile;
pub mod redis_cpu;
pub mod report;
pub mod result;
pub mod run;
pub mod start;
pub mod submit;
pub mod wfformat;
pub mod workflow;

/// Most jobs of one run.
pub const JOBS_MAX: u64 = 2_000_000;
/// Most jobs that the API takes in one call.
const BATCH_MAX: u32 = windlass_shared::limits::BATCH_JOBS_MAX as u32;
/// Most runs of one command.
pub const RUNS_MAX: u32 = 20;

/// Whether an address (`scheme://…`) names this machine only. A benchmark must not load anybody else's.
pub fn is_loopback(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return url == "embedded" };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let hosts = authority.rsplit('@').next().unwrap_or_default();
    let query = rest.split_once('?').map(|(_, query)| query).unwrap_or_default();
    // PostgreSQL takes other hosts from the query; a benchmark has no use for that.
    let overridden = query.split('&').any(|pair| pair.starts_with("host"));
    let is_local = |host: &str| {
        let name = match host.strip_prefix('[') {
            Some(v6) => v6.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        };
        name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    };
    !overridden && hosts.split(',').all(is_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for url in [
            "embedded",
            "redis://127.0.0.1:6379",
            "redis://:p@localhost/0",
            "postgres://u:p@127.0.0.1:5432/w",
            "http://[::1]:8080",
        ] {
            assert!(is_loopback(url), "{url}");
        }
        for url in [
            "redis://10.0.0.1",
            "redis+cluster://127.0.0.1,db",
            "http://localhost.example.org",
            "http://127.0.0.1@example.org",
            "postgres://127.0.0.1/w?host=db",
            "db:5432",
        ] {
            assert!(!is_loopback(url), "{url}");
        }
    }
}
