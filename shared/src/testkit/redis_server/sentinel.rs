//! A private master and replica watched by three Sentinels.

use std::fs;

use tempfile::TempDir;

use super::process::RedisProcess;
use super::{RedisOptions, RedisServer, resp, wait_until};

const NAME: &str = "windlass";

/// One master, one replica, three Sentinels with a quorum of two.
pub struct RedisSentinel {
    /// The first master.
    pub master: RedisServer,
    /// Its replica, which follows it until a failover.
    pub replica: RedisServer,
    sentinels: Vec<RedisProcess>,
    // Their configuration files, which they rewrite.
    _folder: TempDir,
}

impl RedisSentinel {
    /// Starts all five and waits until the Sentinels know the replica and each other. A master that
    /// is silent for a second is replaced.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn start() -> Self {
        let master = RedisServer::start(RedisOptions::default());
        let args = ["--replicaof", "127.0.0.1", &master.port().to_string()].map(str::to_owned);
        let options = RedisOptions { args: args.to_vec(), ..RedisOptions::default() };
        let replica = RedisServer::start(options);
        wait_until("the replica follows", || {
            let state = replica.command(&["INFO", "replication"]).text();
            state.contains("master_link_status:up").then_some(())
        });
        let folder = TempDir::new().expect("a temporary folder can be made");
        let sentinels = (0..3).map(|i| sentinel(folder.path(), i, master.port())).collect();
        let rig = Self { master, replica, sentinels, _folder: folder };
        rig.wait_acquainted();
        rig
    }

    /// `redis+sentinel://host,host,host/name`
    pub fn url(&self) -> String {
        let hosts: Vec<_> =
            self.sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port)).collect();
        format!("redis+sentinel://{}/{NAME}", hosts.join(","))
    }

    /// Waits until the Sentinels name the replica as master and it takes writes.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait_failed_over(&self) {
        let port = self.replica.port().to_string();
        wait_until("the replica is promoted", || {
            let named = self.sentinels.iter().all(|one| {
                let ask = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME];
                let reply = resp::Connection::open(one.port).and_then(|mut c| c.call(&ask));
                reply.is_ok_and(|reply| reply.text().ends_with(&port))
            });
            let role = self.replica.command(&["ROLE"]).text();
            (named && role.starts_with("master")).then_some(())
        });
    }

    fn wait_acquainted(&self) {
        for one in &self.sentinels {
            wait_until("the sentinels know each other", || {
                let mut connection = resp::Connection::open(one.port).ok()?;
                let state = connection.call(&["INFO", "sentinel"]).ok()?.text();
                state.contains("status=ok,").then_some(())?;
                state.contains("slaves=1,sentinels=3").then_some(())
            });
        }
    }
}

fn sentinel(folder: &std::path::Path, index: u32, master_port: u16) -> RedisProcess {
    let config = folder.join(format!("sentinel-{index}.conf"));
    let text = format!(
        "sentinel monitor {NAME} 127.0.0.1 {master_port} 2\n\
         sentinel down-after-milliseconds {NAME} 1000\n\
         sentinel failover-timeout {NAME} 5000\n"
    );
    fs::write(&config, text).expect("the temporary folder is writable");
    let config = config.to_str().expect("temporary paths are text").to_owned();
    RedisProcess::start(&[config, "--sentinel".to_owned()])
}
