//! Finding the master through the Sentinels.

use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionInfo, RedisError};

use super::address::at;
use super::fault::Fault;

/// Where the master is now, by the first Sentinel that knows a server which agrees.
///
/// # Errors
/// [`Fault::Down`] when none does: during a failover that passes.
pub(super) async fn master(
    sentinels: &[ConnectionInfo],
    name: &str,
    master: &ConnectionInfo,
    config: &AsyncConnectionConfig,
) -> Result<ConnectionInfo, Fault> {
    let mut last = Fault::Down(format!("no sentinel knows a master named `{name}`").into());
    for sentinel in sentinels {
        match ask(sentinel, name, config).await {
            Ok(Some((host, port))) => {
                let found = at(master, host, port);
                match is_master(&found, config).await {
                    Ok(true) => return Ok(found),
                    Ok(false) => last = Fault::Down("the named master is a replica still".into()),
                    Err(error) => last = Fault::of_connecting(error),
                }
            }
            Ok(None) => {}
            Err(error) => last = Fault::of_connecting(error),
        }
    }
    Err(last)
}

async fn ask(
    sentinel: &ConnectionInfo,
    name: &str,
    config: &AsyncConnectionConfig,
) -> Result<Option<(String, u16)>, RedisError> {
    let client = Client::open(sentinel.clone())?;
    let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
    let mut cmd = Cmd::new();
    cmd.arg("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    cmd.query_async(&mut connection).await
}

async fn is_master(
    place: &ConnectionInfo,
    config: &AsyncConnectionConfig,
) -> Result<bool, RedisError> {
    let client = Client::open(place.clone())?;
    let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
    let role: (String, redis::Value, redis::Value) =
        redis::cmd("ROLE").query_async(&mut connection).await?;
    Ok(role.0 == "master")
}
