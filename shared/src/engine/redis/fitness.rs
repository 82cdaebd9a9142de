//! Whether a store may be trusted with a queue. Checked when the engine is opened, before a shard is opened, and by and
//! by: a failover may lead to a server with other settings.

use redis::Value;

use super::fault::Fault;
use super::link::Link;
use crate::engine::EngineError;

const OLDEST: (u32, u32) = (7, 0);

/// # Errors
/// [`EngineError::Unfit`] with what to change.
pub(super) async fn check(link: &Link) -> Result<(), EngineError> {
    let mut cmd = redis::Cmd::new();
    cmd.arg("INFO").arg("server").arg("memory");
    let info = link.query(&cmd).await.map_err(|fault| match fault {
        Fault::Confused(why) => EngineError::Unfit(format!("redis does not answer INFO: {why}")),
        other => other.into_error("info"),
    })?;
    let mut texts = Vec::new();
    collect(&info, &mut texts);
    for text in texts {
        judge(&text)?;
    }
    Ok(())
}

/// The answer of one server, or those of all masters of a Cluster in some nest of maps and lists.
fn collect(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::BulkString(bytes) => texts.push(String::from_utf8_lossy(bytes).into_owned()),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => texts.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| collect(item, texts)),
        Value::Map(pairs) => pairs.iter().for_each(|(_, item)| collect(item, texts)),
        _ => {}
    }
}

fn judge(info: &str) -> Result<(), EngineError> {
    let field = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    // The name of a node, not its answer.
    let Some(version) = field("redis_version") else { return Ok(()) };
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let (major, minor, patch) = (next(), next(), next());
    if (major, minor) < OLDEST {
        return Err(EngineError::Unfit(format!(
            "redis {version} is too old: use {}.{} or later",
            OLDEST.0, OLDEST.1
        )));
    }
    let limit = field("maxmemory").unwrap_or("0");
    let policy = field("maxmemory_policy").unwrap_or("unknown");
    if limit != "0" && policy != "noeviction" {
        return Err(EngineError::Unfit(format!(
            "redis may evict queued jobs: its maxmemory-policy is `{policy}`; set it to `noeviction`"
        )));
    }
    // Once: every connection of the process comes by here.
    static SAID: std::sync::Once = std::sync::Once::new();
    if has_known_lua_holes(major, minor, patch) {
        SAID.call_once(|| tracing::warn!(
            version,
            "this redis has known holes in its Lua unless its distributor fixed them (CVE-2025-49844)"
        ));
    }
    Ok(())
}

fn has_known_lua_holes(major: u32, minor: u32, patch: u32) -> bool {
    match (major, minor) {
        (7, 2) => patch < 11,
        (7, 4) => patch < 6,
        (8, 0) => patch < 4,
        (8, 2) => patch < 2,
        (7, _) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_may_evict_or_is_too_old_is_unfit() {
        let info = |version: &str, limit: &str, policy: &str| {
            format!("redis_version:{version}\r\nmaxmemory:{limit}\r\nmaxmemory_policy:{policy}\r\n")
        };
        assert!(
            judge(&info("7.0.15", "0", "allkeys-lru")).is_ok(),
            "nothing is evicted without a limit"
        );
        assert!(judge(&info("8.2.2", "100", "noeviction")).is_ok());
        assert!(judge(&info("7.0.15", "100", "allkeys-lru")).is_err());
        assert!(judge(&info("6.2.20", "0", "noeviction")).is_err());
        assert!(judge("127.0.0.1:7000").is_ok());
    }
}
