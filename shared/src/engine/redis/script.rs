//! The Lua scripts: put together from their parts, sent by digest, sent whole when the server has lost them.
//!
//! Every script is `#!lua` flags, a prelude with the time and the bounds, what it shares with others
//! (`lua/shard.lua` first), and its own file. The text is fixed when the engine is opened; nothing of users gets in.

use redis::Cmd;

use super::keys::Scope;
use super::link::Link;
use super::{fault::Fault, layout};
use crate::engine::ShardSettings;
use crate::engine::flow::RETRIES_SAVED_MAX;
use crate::engine::model::{BEHIND_MS, Bounds, OUTCOME_BYTES, SEEN_EVERY, crowd};
use crate::limits;

const SHARD: &str = include_str!("lua/shard.lua");
const TOMBS: &str = include_str!("lua/tombs.lua");
const FLOW: &str = concat!(
    include_str!("lua/flow.lua"),
    include_str!("lua/flow/shares.lua"),
    include_str!("lua/flow/limits.lua"),
    include_str!("lua/flow/retries.lua"),
    include_str!("lua/flow/places.lua"),
    include_str!("lua/flow/turns.lua"),
    include_str!("lua/flow/circuits.lua"),
    include_str!("lua/flow/lanes.lua"),
    include_str!("lua/flow/next.lua"),
    include_str!("lua/flow/jobs.lua"),
);
const SETTINGS: &str = include_str!("lua/settings.lua");
const MOVES: &str = include_str!("lua/moves.lua");
const STANDING: &str = include_str!("lua/standing.lua");
const PROCESS: &str = include_str!("lua/process.lua");

/// At `maxmemory` everything goes on but `push`: the rest makes room, or is small.
const WRITES: &str = "#!lua flags=allow-oom\n";
const WRITES_MUCH: &str = "#!lua\n";
const READS: &str = "#!lua flags=no-writes,allow-oom\n";

/// Where scripts have engine time from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Time {
    /// The server's clock.
    Server,
    /// The last argument, which a test chooses.
    #[cfg(any(test, feature = "testkit"))]
    Argument,
}

/// One script.
pub(super) struct Script {
    /// Its file's name.
    pub(super) name: &'static str,
    /// Which keys it is given.
    pub(super) scope: Scope,
    source: String,
    digest: String,
}

/// All of them.
pub(super) struct Scripts {
    pub(super) push: Script,
    pub(super) claim: Script,
    pub(super) extend: Script,
    pub(super) settle: Script,
    pub(super) promote: Script,
    pub(super) reap: Script,
    pub(super) configure: Script,
    pub(super) cancel: Script,
    pub(super) confirm: Script,
    pub(super) exists: Script,
    pub(super) peek: Script,
    pub(super) holds: Script,
    pub(super) leased: Script,
    pub(super) stats: Script,
    pub(super) gate: Script,
    pub(super) shut: Script,
    pub(super) open: Script,
    pub(super) seal: Script,
    pub(super) adopt: Script,
    pub(super) withdraw: Script,
    pub(super) report: Script,
    pub(super) scan: Script,
    pub(super) drop: Script,
    pub(super) refused: Script,
    pub(super) refilled: Script,
    pub(super) circuits: Script,
    pub(super) reset: Script,
    pub(super) publish: Script,
    pub(super) feed: Script,
    #[cfg(feature = "testkit")]
    pub(super) dump: Script,
}

/// A change to a script's text that breaks it on purpose, to see that tests notice.
#[derive(Debug, Clone, Copy)]
pub struct PlantedFault {
    /// The right text; must be there.
    pub find: &'static str,
    /// What to put in its place.
    pub replace: &'static str,
}

impl Scripts {
    /// The scripts with these bounds and this source of time.
    ///
    /// # Panics
    /// When a planted fault's right text is in no script.
    pub(super) fn new(bounds: Bounds, time: Time, fault: Option<PlantedFault>) -> Self {
        let prelude = prelude(bounds, time);
        let mut planted = false;
        let mut build = |name, flags: &str, parts: &[&str]| {
            let mut source = format!("{flags}{prelude}{}", parts.concat());
            if let Some(fault) = fault.filter(|fault| source.contains(fault.find)) {
                source = source.replace(fault.find, fault.replace);
                planted = true;
            }
            let digest = redis::Script::new(&source).get_hash().to_owned();
            let scope = match name {
                "gate" | "shut" | "report" | "dump" => Scope::Gates,
                _ => Scope::Jobs,
            };
            Script { name, scope, source, digest }
        };
        let scripts = Self {
            push: build(
                "push",
                WRITES_MUCH,
                &[SHARD, TOMBS, STANDING, FLOW, include_str!("lua/push.lua")],
            ),
            claim: build("claim", WRITES, &[SHARD, FLOW, MOVES, include_str!("lua/claim.lua")]),
            extend: build("extend", WRITES, &[SHARD, include_str!("lua/extend.lua")]),
            settle: build("settle", WRITES, &[SHARD, FLOW, include_str!("lua/settle.lua")]),
            promote: build(
                "promote",
                WRITES,
                &[SHARD, FLOW, MOVES, include_str!("lua/promote.lua")],
            ),
            reap: build("reap", WRITES, &[SHARD, FLOW, MOVES, include_str!("lua/reap.lua")]),
            configure: build(
                "configure",
                WRITES,
                &[SHARD, FLOW, SETTINGS, include_str!("lua/configure.lua")],
            ),
            cancel: build("cancel", WRITES, &[SHARD, TOMBS, FLOW, include_str!("lua/cancel.lua")]),
            confirm: build("confirm", WRITES, &[SHARD, TOMBS, include_str!("lua/confirm.lua")]),
            exists: build(
                "exists",
                READS,
                &[SHARD, TOMBS, STANDING, include_str!("lua/exists.lua")],
            ),
            peek: build("peek", READS, &[SHARD, include_str!("lua/peek.lua")]),
            holds: build("holds", READS, &[SHARD, FLOW, include_str!("lua/holds.lua")]),
            leased: build("leased", READS, &[SHARD, include_str!("lua/leased.lua")]),
            stats: build("stats", READS, &[SHARD, include_str!("lua/stats.lua")]),
            gate: build("gate", READS, &[SHARD, PROCESS, include_str!("lua/gate.lua")]),
            shut: build("shut", WRITES, &[SHARD, PROCESS, include_str!("lua/shut.lua")]),
            open: build(
                "open",
                WRITES,
                &[SHARD, PROCESS, FLOW, SETTINGS, include_str!("lua/open.lua")],
            ),
            seal: build("seal", WRITES, &[SHARD, include_str!("lua/seal.lua")]),
            withdraw: build(
                "withdraw",
                WRITES,
                &[SHARD, TOMBS, FLOW, include_str!("lua/withdraw.lua")],
            ),
            adopt: build("adopt", WRITES, &[SHARD, TOMBS, FLOW, include_str!("lua/adopt.lua")]),
            report: build("report", WRITES, &[SHARD, include_str!("lua/report.lua")]),
            scan: build("scan", READS, &[SHARD, include_str!("lua/scan.lua")]),
            refused: build("refused", READS, &[SHARD, include_str!("lua/refused.lua")]),
            refilled: build("refilled", WRITES, &[SHARD, include_str!("lua/refilled.lua")]),
            circuits: build("circuits", READS, &[SHARD, include_str!("lua/circuits.lua")]),
            reset: build("reset", WRITES, &[SHARD, FLOW, include_str!("lua/reset.lua")]),
            drop: build("drop", WRITES, &[SHARD, TOMBS, FLOW, include_str!("lua/drop.lua")]),
            publish: build("publish", WRITES, &[include_str!("lua/publish.lua")]),
            feed: build("feed", WRITES, &[include_str!("lua/feed.lua")]),
            #[cfg(feature = "testkit")]
            dump: build("dump", READS, &[SHARD, include_str!("lua/dump.lua")]),
        };
        assert!(planted || fault.is_none(), "the planted fault fits no script: {fault:?}");
        scripts
    }

    /// The digest of a verb of the common path.
    #[cfg(feature = "testkit")]
    pub(super) fn digest(&self, verb: &str) -> Option<&str> {
        let verbs = [&self.push, &self.claim, &self.extend, &self.settle, &self.confirm];
        let found = verbs.into_iter().find(|script| script.name == verb);
        found.map(|script| script.digest.as_str())
    }
}

impl Script {
    /// Runs the script: by digest, and once more whole if the server does not have it.
    ///
    /// `fill` puts keys and arguments behind the script, after the number of keys.
    ///
    /// # Errors
    /// See [`Fault`]. May be dropped; whether it ran is then not known.
    pub(super) async fn run(
        &self,
        link: &Link,
        way: Way,
        fill: impl Fn(&mut Cmd),
    ) -> Result<redis::Value, Fault> {
        let mut cmd = Cmd::new();
        cmd.arg("EVALSHA").arg(&self.digest);
        fill(&mut cmd);
        match way.send(link, &cmd).await {
            Err(Fault::NoScript(_)) => {}
            other => return other,
        }
        let mut cmd = Cmd::new();
        cmd.arg("EVAL").arg(&self.source);
        fill(&mut cmd);
        way.send(link, &cmd).await
    }
}

/// Which connection a script takes.
#[derive(Clone, Copy)]
pub(super) enum Way {
    /// The shared one.
    Hot,
    /// One of the pool.
    Read,
}

impl Way {
    async fn send(self, link: &Link, cmd: &Cmd) -> Result<redis::Value, Fault> {
        match self {
            Self::Hot => link.query(cmd).await,
            Self::Read => link.read(cmd).await,
        }
    }
}

fn prelude(bounds: Bounds, time: Time) -> String {
    let time = match time {
        Time::Server => {
            "local function time()\n  local parts = redis.call('TIME')\n  return parts[1] * 1000000 + parts[2]\nend\n"
        }
        #[cfg(any(test, feature = "testkit"))]
        Time::Argument => "local function time()\n  return tonumber(ARGV[#ARGV])\nend\n",
    };
    let defaults = ShardSettings::default();
    let numbers: [(&str, u128); 12] = [
        ("MOVE_MAX", bounds.move_max.into()),
        ("SCAN_MAX", bounds.scan_max.into()),
        ("OUTBOX_ENTRIES_MAX", bounds.outbox_entries_max.into()),
        ("OUTBOX_BYTES_MAX", bounds.outbox_bytes_max.into()),
        ("OUTCOME_BYTES", OUTCOME_BYTES.into()),
        ("OUTCOME_HEAD", layout::OUTCOME_HEAD as u128),
        ("SEEN_EVERY_US", SEEN_EVERY.as_micros()),
        ("CLOCK_STEP_US", limits::CLOCK_STEP_MIN.as_micros()),
        ("TOMBSTONE_US", limits::TOMBSTONE_TTL.as_micros()),
        ("DEFAULT_JOBS_MAX", defaults.jobs_max.into()),
        ("DEFAULT_BYTES_MAX", defaults.bytes_max.into()),
        ("DEFAULT_UNIT_MS", defaults.priority_unit.as_millis()),
    ];
    let mut text = format!("{time}local now = time()\n");
    for (name, number) in numbers {
        text.push_str(&format!("local {name} = {number}\n"));
    }
    // What few scripts use, under one name: Lua has room for 200.
    text.push_str(&format!(
        "local BOUNDS = {{ part = {}, refill = {}, refused = {}, saved = {}, behind = {}, time = time }}\n",
        crowd::PART,
        crowd::REFILL,
        crowd::REFUSED_MAX,
        RETRIES_SAVED_MAX,
        BEHIND_MS,
    ));
    text
}
