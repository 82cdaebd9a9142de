//! A private Redis Cluster of masters.

use std::sync::OnceLock;

use super::{RedisOptions, RedisServer, wait_until};

const SLOTS: u32 = 16_384;

/// Masters that share all slots evenly.
pub struct RedisCluster {
    /// The masters, in slot order.
    pub masters: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts a cluster and waits until every node finds it whole.
    ///
    /// # Panics
    /// When it does not form in time.
    pub fn start(masters: u32) -> Self {
        let options = RedisOptions {
            args: ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]
                .map(str::to_owned)
                .to_vec(),
            ..RedisOptions::default()
        };
        let masters: Vec<_> = (0..masters).map(|_| RedisServer::start(options.clone())).collect();
        let cluster = Self { masters };
        cluster.share_slots();
        cluster.introduce();
        cluster.wait_whole();
        cluster
    }

    /// A cluster of three shared by all tests of this process, as [`RedisServer::shared`].
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<RedisCluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(3))
    }

    /// `redis+cluster://host,host,…`
    pub fn url(&self) -> String {
        let hosts: Vec<_> =
            self.masters.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// Waits until every node finds the cluster whole.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait_whole(&self) {
        for node in &self.masters {
            wait_until("the cluster is whole", || {
                let state = node.command(&["CLUSTER", "INFO"]).text();
                let known = format!("cluster_known_nodes:{}", self.masters.len());
                let whole = state.contains("cluster_state:ok") && state.contains(&known);
                // What is published goes over a node's own links; where one is not up yet it is lost.
                let nodes = node.command(&["CLUSTER", "NODES"]).text();
                (whole && !nodes.contains(" disconnected")).then_some(())
            });
        }
    }

    fn share_slots(&self) {
        let count = u32::try_from(self.masters.len()).expect("a handful");
        for (i, node) in (0..).zip(&self.masters) {
            let (first, last) = (SLOTS * i / count, SLOTS * (i + 1) / count - 1);
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()]).expect_ok();
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()])
                .expect_ok();
        }
    }

    fn introduce(&self) {
        let (first, others) = self.masters.split_first().expect("at least one master");
        for node in others {
            let (port, bus) = (node.port().to_string(), node.process.bus_port.to_string());
            first.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).expect_ok();
        }
    }
}
