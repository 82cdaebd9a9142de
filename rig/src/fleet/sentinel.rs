//! A primary and a replica that three Sentinels watch.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use windlass_shared::testkit::redis_server::process::free_port;
use windlass_shared::testkit::redis_server::resp::Connection;

use super::process::{Process, Program};
use super::redis::{Fsync, Redis};
use super::topology::PRIMARY;
use crate::until::until;

/// The name of the primary.
const NAME: &str = "windlass";
const COUNT: usize = 3;
const QUORUM: usize = 2;
/// A primary that is silent for this long is replaced.
const DOWN_AFTER_MS: u32 = 2_000;
/// A failover that takes longer is given up, and tried again after twice this time.
const FAILOVER_MAX_MS: u32 = 10_000;
/// Longest wait until they know each other and both servers.
const ACQUAINTED_MAX: Duration = Duration::from_secs(60);

/// The second server, and the Sentinels that say which of the two is the primary.
#[derive(Debug)]
pub struct Sentinels {
    /// A replica of the first, until a failover.
    pub second: Redis,
    processes: Vec<Process>,
    ports: Vec<u16>,
}

impl Sentinels {
    pub(super) async fn start(fleet: &Path, first: &Redis, fsync: Fsync) -> anyhow::Result<Self> {
        let port = first.port().to_string();
        let [delay, none] = PRIMARY;
        let more = [delay, none, "--replicaof", "127.0.0.1", &port];
        let second = Redis::start("redis-second", fleet, fsync, &more).await?;
        let (mut processes, mut ports) = (Vec::new(), Vec::new());
        for n in 0..COUNT {
            let port = free_port();
            processes.push(Process::start(program(fleet, n, port, first.port())?)?);
            ports.push(port);
        }
        let sentinels = Self { second, processes, ports };
        sentinels.acquainted().await?;
        Ok(sentinels)
    }

    /// The address that the roles are given.
    pub fn url(&self) -> String {
        let hosts: Vec<String> =
            self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://{}/{NAME}", hosts.join(","))
    }

    /// The port of the primary, if all Sentinels name the same. Blocks for as long as they take.
    pub fn primary(&self) -> Option<u16> {
        let ask = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME];
        let named = self.ports.iter().map(|port| {
            let reply = Connection::open(*port).ok()?.call(&ask).ok()?;
            reply.text().lines().nth(1)?.parse::<u16>().ok()
        });
        let named: Vec<Option<u16>> = named.collect();
        let first = *named.first()?;
        named.iter().all(|port| *port == first).then_some(first)?
    }

    /// Waits until all Sentinels see a primary that lives, its replica that follows, and each other.
    ///
    /// # Errors
    /// They do not in time.
    pub async fn acquainted(&self) -> anyhow::Result<()> {
        let all = until(ACQUAINTED_MAX, || async {
            self.ports.iter().all(|port| sees_all(*port) == Some(true)).then_some(())
        });
        let logs = || self.processes.iter().map(Process::log_tail).collect::<Vec<_>>().join("\n");
        all.await.with_context(|| format!("the Sentinels are not acquainted:\n{}", logs()))
    }
}

fn program(fleet: &Path, n: usize, port: u16, primary: u16) -> anyhow::Result<Program> {
    let name = format!("sentinel-{n}");
    let folder = fleet.join(&name);
    std::fs::create_dir_all(&folder)?;
    // It rewrites this file.
    let config = folder.join("sentinel.conf");
    let text = format!(
        "sentinel monitor {NAME} 127.0.0.1 {primary} {QUORUM}\n\
         sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\n\
         sentinel failover-timeout {NAME} {FAILOVER_MAX_MS}\n"
    );
    std::fs::write(&config, text)?;
    let mut args = vec![config.into_os_string()];
    let port = port.to_string();
    let more = ["--sentinel", "--port", &port, "--bind", "127.0.0.1", "--dir"];
    args.extend(more.map(Into::into));
    args.push(folder.clone().into_os_string());
    Ok(Program {
        log: fleet.join(format!("{name}.log")),
        name,
        path: "redis-server".into(),
        args,
        env: std::collections::BTreeMap::new(),
        folder,
        user: None,
    })
}

/// Whether this Sentinel sees all that there is, and as it is to be.
fn sees_all(port: u16) -> Option<bool> {
    let mut connection = Connection::open(port).ok()?;
    let state = connection.call(&["INFO", "sentinel"]).ok()?.text();
    let counted = state.contains("status=ok,") && state.contains("slaves=1,sentinels=3");
    // Names and values in turn.
    let replicas = connection.call(&["SENTINEL", "REPLICAS", NAME]).ok()?.text();
    let fields: Vec<&str> = replicas.lines().collect();
    let field = |name: &str| {
        let mut pairs = fields.chunks_exact(2);
        pairs.find_map(|pair| (pair[0] == name).then_some(pair[1]))
    };
    Some(counted && field("flags")? == "slave" && field("master-link-status")? == "ok")
}
