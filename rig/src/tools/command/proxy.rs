//! `windlass-rig proxy`.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::tools::proxy::{Protocol, Proxy, ProxyOptions, control};

/// Where the proxy stands.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// Where its connections lead.
    #[arg(long)]
    to: SocketAddr,
    /// Where it is steered over HTTP, without authentication: keep it on loopback.
    #[arg(long)]
    control: SocketAddr,
    /// Which messages it reads.
    #[arg(long, value_enum, default_value = "raw")]
    protocol: Protocol,
    /// Where chance comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { listen, to, control, protocol, seed } = arguments;
    super::until_stopped(async move {
        let proxy = Arc::new(Proxy::start(ProxyOptions { listen, to, protocol, seed }).await?);
        let listener = tokio::net::TcpListener::bind(control).await?;
        println!("proxy {} -> {to}, control http://{}", proxy.address(), listener.local_addr()?);
        axum::serve(listener, control::routes(proxy)).await?;
        Ok(())
    })
}
