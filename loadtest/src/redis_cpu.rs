//! CPU time of a Redis server, by asking it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest answer to `INFO cpu`, in bytes.
const INFO_BYTES_MAX: u64 = 16 << 10;

/// CPU time so far of the server at `redis://[user:password@]host:port`. `None`: it is no such address.
///
/// # Errors
/// It cannot be reached, or says something else.
pub async fn of(url: &str) -> Result<Option<Duration>> {
    let Some(rest) = url.strip_prefix("redis://") else { return Ok(None) };
    let (user, address) = rest.rsplit_once('@').map_or((None, rest), |(u, a)| (Some(u), a));
    let address = address.split(['/', '?']).next().unwrap_or_default();
    let address = if address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        address.to_owned()
    } else {
        format!("{address}:6379")
    };
    let ask = async {
        let mut stream = TcpStream::connect(&address).await?;
        if let Some((name, password)) = user.and_then(|user| user.split_once(':')) {
            let auth = if name.is_empty() {
                command(&["AUTH", password])
            } else {
                command(&["AUTH", name, password])
            };
            stream.write_all(&auth).await?;
        }
        stream.write_all(&command(&["INFO", "cpu"])).await?;
        stream.write_all(&command(&["QUIT"])).await?;
        let mut answer = String::new();
        stream.take(INFO_BYTES_MAX).read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), ask)
        .await
        .context("no answer in time")
        .flatten()
        .context("cannot ask Redis for its CPU time")?;
    parse(&answer).map(Some)
}

fn command(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len());
    for word in words {
        out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    out.into_bytes()
}

fn parse(answer: &str) -> Result<Duration> {
    let seconds = |name: &str| {
        answer.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
    };
    match (seconds("used_cpu_sys:"), seconds("used_cpu_user:")) {
        (Some(system), Some(user)) => Ok(Duration::from_secs_f64(system + user)),
        _ => bail!("Redis does not tell its CPU time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sorts_of_cpu_time_count() {
        let answer =
            "$99\r\n# CPU\r\nused_cpu_sys:1.5\r\nused_cpu_user:2.25\r\nused_cpu_sys_children:9\r\n";
        assert_eq!(parse(answer).unwrap(), Duration::from_secs_f64(3.75));
        assert!(parse("-NOAUTH Authentication required.\r\n").is_err());
    }
}
