//! The engine on Redis: single, Sentinel or Cluster.
//!
//! Each verb is one Lua script in one round trip, so one atomic step of its shard (`redis/lua/*.lua`, whose
//! headers are their contracts; `shard.lua` describes the keys). The scripts do what the pure
//! [`model`] does: property tests compare replies and whole states after every step.
//!
//! | key | what | why so |
//! |---|---|---|
//! | `jobs` | hash, id → packed job with its envelope | written once, read by claim only: the large values are left alone |
//! | `held` | hash, id → packed state since the first claim | small and short-lived, so that settle and confirm stay in the processor's caches |
//! | `ready`, `delayed`, `leases` | zsets of ids | range reads and range removals, no search per job |
//! | `outbox` | list of packed outcomes, each with its seq | appended by one RPUSH; read without a script |
//! | `tombs0`, `tombs1` | hashes, id → fence | dropped whole, in turn; also expire by themselves |
//! | `meta` | one packed string | all counters, gate and settings in one GET and one SET |
//! | `reported` | set of workers | of the present verification; looked at by the scripts of gates only |
//!
//! **Cost**: the number of Redis commands per script does not depend on the number of jobs; what remains
//! per job is some twenty steps inside variadic commands.
//!
//! **Failure**: a call that gets no answer is [`EngineError::Unavailable`] and its effect is unknown; all
//! are safe to repeat. The next call connects anew. A script that the server has lost is sent again whole.
//! At `maxmemory` only `push` is refused, as [`Pushed::Full`]. Values that a stranger wrote are counted
//! (`windlass_engine_garbage_total`) and either dropped, so that the ledger brings the job back, or told as
//! [`EngineError::UnknownReply`].
//!
//! **Gate**: whether the process that serves a call is the gate's is asked of `INFO server` once per script, where the
//! contract needs it (3 µs). A replica that takes over, and a server that starts anew, are other processes.
//!
//! **Damage**: a shard of which single keys, fields or members were lost keeps its promises (one holder, fences that
//! rise). Members of orders without a job, or in the wrong order, are dropped where they are met; a job that could never
//! move again is not known to `exists`, and `push` mends it with the higher of both fences; a lost `meta` is a shut gate.
//! `bytes` may count lost jobs until the shard is empty for a moment.
//!
//! **Trust**: engine time is the server's. The address is checked when the engine is opened, as are the
//! server's version and its eviction policy.

use std::sync::Arc;

use super::model::Bounds;
use super::*;
use crate::clock::Clock;
use crate::config::EngineSettings;

mod address;
mod changes;
#[cfg(feature = "testkit")]
mod dump;
mod fault;
mod feeds;
mod fitness;
mod flow;
mod gates;
mod interest;
mod keys;
mod layout;
mod link;
mod looks;
mod reply;
mod script;
mod sentinel;
mod signals;

use address::Address;
pub(crate) use interest::Interest;
use keys::Keys;
use link::Link;
use script::{Script, Scripts, Time, Way};
use signals::Hub;

#[cfg(feature = "testkit")]
pub use script::PlantedFault;

/// The digest by which Redis knows the script of a verb of the common path (`push`, `claim`, `extend`, `settle`,
/// `confirm`), for tests that look at commands on their way.
#[cfg(feature = "testkit")]
pub fn script_digest(verb: &str) -> Option<String> {
    Scripts::new(Bounds::default(), Time::Server, None).digest(verb).map(str::to_owned)
}

/// The engine on Redis: single, Sentinel or Cluster.
pub struct Redis {
    link: Arc<Link>,
    scripts: Scripts,
    prefix: String,
    hub: Hub,
    /// Engine time, where a test makes it.
    test_clock: Option<Clock>,
}

impl Redis {
    /// Connects and checks that the store is fit.
    ///
    /// # Errors
    /// [`EngineError::Unfit`] for a wrong address, an old server or an eviction policy that loses jobs;
    /// [`EngineError::Unavailable`] when it does not answer.
    pub async fn open(settings: &EngineSettings) -> Result<Self, EngineError> {
        let scripts = Scripts::new(Bounds::default(), Time::Server, None);
        Self::connect(settings, scripts, None).await
    }

    /// As [`Self::open`], for tests: on a clock that stands still until moved, with other bounds than the
    /// usual, and with a fault in the scripts if one is given.
    ///
    /// # Errors
    /// As [`Self::open`].
    #[cfg(feature = "testkit")]
    pub async fn open_with_test_clock(
        settings: &EngineSettings,
        clock: Clock,
        bounds: Bounds,
        fault: Option<PlantedFault>,
    ) -> Result<Self, EngineError> {
        let scripts = Scripts::new(bounds, Time::Argument, fault);
        Self::connect(settings, scripts, Some(clock)).await
    }

    async fn connect(
        settings: &EngineSettings,
        scripts: Scripts,
        test_clock: Option<Clock>,
    ) -> Result<Self, EngineError> {
        let address = Address::parse(&settings.url)?;
        if settings.prefix.is_empty() || settings.prefix.contains(['{', '}']) {
            return Err(EngineError::Unfit(
                "the engine's prefix must not be empty or hold braces: they choose the Cluster slot"
                    .to_owned(),
            ));
        }
        let link = Arc::new(Link::new(address, settings.response_timeout));
        fitness::check(&link).await?;
        let hub = Hub::new(link.clone());
        Ok(Self { link, scripts, prefix: settings.prefix.clone(), hub, test_clock })
    }

    /// As the check when the engine was opened.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn check(&self) -> Result<(), EngineError> {
        fitness::check(&self.link).await
    }

    fn keys(&self, shard: &ShardId) -> Keys {
        Keys::new(&self.prefix, shard)
    }

    /// Runs a script on a shard.
    async fn run(
        &self,
        script: &Script,
        way: Way,
        shard: &ShardId,
        args: impl Fn(&mut ::redis::Cmd),
    ) -> Result<::redis::Value, fault::Fault> {
        let keys = self.keys(shard);
        let channel = keys.signals();
        let now = self.test_clock.as_ref().map(Clock::now);
        let fill = |cmd: &mut ::redis::Cmd| {
            keys.fill(cmd, script.scope);
            cmd.arg(&channel);
            args(cmd);
            if let Some(now) = now {
                cmd.arg(now.micros());
            }
        };
        script.run(&self.link, way, fill).await
    }
}
