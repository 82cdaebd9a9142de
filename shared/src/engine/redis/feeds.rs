//! The live feed of a namespace: a capped list and the position of its end.

use super::Redis;
use super::reply::Reply;
use super::script::{Script, Way};
use crate::clock::Clock;
use crate::engine::feed::{Event, FeedPage, KEPT, page};
use crate::engine::*;

/// Events that one round trip takes.
const BATCH: usize = 1_000;
/// Lua's numbers are exact up to here; no position comes near.
const POSITION_MAX: u64 = 1 << 53;

/// The contract: see [`Engine`], whose words hold here.
#[allow(missing_docs, reason = "documented once, at `Engine`")]
impl Redis {
    pub async fn publish(
        &self,
        namespace: &Namespace,
        events: &[Event],
    ) -> Result<(), EngineError> {
        for batch in events.chunks(BATCH) {
            let mut reply = self
                .on_feed(&self.scripts.publish, namespace, |cmd| {
                    cmd.arg(KEPT).arg(batch.len());
                    for event in batch {
                        cmd.arg(&event.encode());
                    }
                })
                .await?;
            reply.expect("published")?;
            reply.end()?;
        }
        Ok(())
    }

    pub async fn feed(
        &self,
        namespace: &Namespace,
        after: Option<u64>,
        max: u32,
    ) -> Result<FeedPage, EngineError> {
        let from = after.map_or(-1, |after| after.min(POSITION_MAX) as i64);
        let mut reply = self
            .on_feed(&self.scripts.feed, namespace, |cmd| {
                cmd.arg(from).arg(max.min(KEPT as u32));
            })
            .await?;
        reply.expect("feed")?;
        let (position, kept) = (reply.count()?, reply.count()?);
        let mut events = Vec::with_capacity(reply.len());
        while reply.len() > 0 {
            let bytes = reply.bytes()?;
            events.push(Event::decode(&bytes).ok_or_else(|| reply.unknown(&bytes))?);
        }
        // The script has skipped what the page wants skipped.
        Ok(page(position, kept, after, |_| events))
    }

    async fn on_feed(
        &self,
        script: &Script,
        namespace: &Namespace,
        args: impl Fn(&mut ::redis::Cmd),
    ) -> Result<Reply, EngineError> {
        // A shard's tag has two slashes, so this one is nobody else's.
        let tag = format!("{}:{{feed/{namespace}}}", self.prefix);
        let now = self.test_clock.as_ref().map(Clock::now);
        let fill = |cmd: &mut ::redis::Cmd| {
            cmd.arg(2).arg(format!("{tag}:events")).arg(format!("{tag}:position")).arg("");
            args(cmd);
            if let Some(now) = now {
                cmd.arg(now.micros());
            }
        };
        let value = script.run(&self.link, Way::Hot, fill).await;
        Reply::new(script.name, value.map_err(|fault| fault.into_error(script.name))?)
    }
}
