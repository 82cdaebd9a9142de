//! The ways of processes to Redis: directly, or over proxies of the rig that hurt what passes.

use anyhow::Context as _;

use crate::tools::proxy::{Protocol, Proxy, ProxyOptions};

/// By which ways the processes of a fleet reach Redis. Commands of the rig itself always go directly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ways {
    /// All directly.
    #[default]
    Direct,
    /// All over one proxy, which reads these messages.
    OneProxy(Protocol),
    /// Every worker over a proxy of its own, and all others directly.
    ProxyPerWorker,
}

/// The proxies of a fleet; they end with this.
#[derive(Debug)]
pub struct Links {
    ways: Ways,
    proxies: Vec<Proxy>,
}

impl Links {
    /// Starts the proxies before the Redis on this port of loopback; without a fault they only pass things on.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(ways: Ways, workers: usize, port: u16, seed: u64) -> anyhow::Result<Self> {
        let (count, protocol) = match ways {
            Ways::Direct => (0, Protocol::Raw),
            Ways::OneProxy(protocol) => (1, protocol),
            Ways::ProxyPerWorker => (workers, Protocol::Raw),
        };
        let mut proxies = Vec::with_capacity(count);
        for _ in 0..count {
            let options = ProxyOptions::to(([127, 0, 0, 1], port).into());
            let proxy = Proxy::start(options.protocol(protocol).seed(seed)).await;
            proxies.push(proxy.context("a proxy before Redis")?);
        }
        Ok(Self { ways, proxies })
    }

    /// The one of all processes, where there is such a one.
    pub fn of_all(&self) -> Option<&Proxy> {
        self.proxies.first().filter(|_| matches!(self.ways, Ways::OneProxy(_)))
    }

    /// The one of this worker alone, and of those in its place after it.
    pub fn of_worker(&self, n: usize) -> Option<&Proxy> {
        self.proxies.get(n).filter(|_| self.ways == Ways::ProxyPerWorker)
    }
}

/// The address for `WINDLASS_ENGINE__URL` of whoever takes this way.
pub fn url(link: &Proxy) -> String {
    format!("redis://{}", link.address())
}
