//! A private Redis on a folder of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use windlass_shared::testkit::redis_server::process::free_port;
use windlass_shared::testkit::redis_server::resp::{Connection, Reply};

use super::process::{Process, Program};
use crate::until::until;

const READY_MAX: Duration = Duration::from_secs(30);
/// How deployments start it: after a power cut its append-only file may have to be cut back first.
const START: &str = include_str!("../../../deploy/compose/redis-start.sh");
/// What that says where it had to.
const CUT_BACK: &str = "redis-start: the append-only file is damaged";

/// When Redis writes its append-only file through to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fsync {
    /// Once a second: the default of Redis and of the deployments here.
    #[default]
    EverySecond,
    /// At every write.
    Always,
    /// Without an append-only file: it comes back empty.
    Off,
}

/// Where a server is, and what it is given.
#[derive(Debug)]
pub struct Place {
    /// What it is called.
    pub name: String,
    /// Where its data is.
    pub folder: PathBuf,
    /// Where it writes what it does.
    pub log: PathBuf,
    /// Environment of its own.
    pub env: BTreeMap<String, String>,
}

impl Place {
    /// In the fleet's folder, called as it is.
    pub fn of(name: &str, fleet: &Path) -> Self {
        let (folder, log) = (fleet.join(name), fleet.join(format!("{name}.log")));
        Self { name: name.to_owned(), folder, log, env: BTreeMap::new() }
    }
}

/// One private server.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
    /// Its command line, but for whom it follows.
    args: Vec<String>,
}

impl Redis {
    /// Starts it with these further arguments, and waits until it answers. Its data and its log are in the fleet's folder,
    /// called as it is.
    ///
    /// # Errors
    /// `redis-server` is not on the path, or it does not answer in time.
    pub async fn start(
        name: &str,
        fleet: &Path,
        fsync: Fsync,
        more: &[&str],
    ) -> anyhow::Result<Self> {
        Self::start_at(Place::of(name, fleet), fsync, more).await
    }

    /// The same, in another place.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_at(place: Place, fsync: Fsync, more: &[&str]) -> anyhow::Result<Self> {
        let Place { name, folder, log, mut env } = place;
        std::fs::create_dir_all(&folder)?;
        let port = free_port();
        let mut args = vec!["--port".to_owned(), port.to_string(), "--bind".into()];
        args.extend(
            ["127.0.0.1", "--save", "", "--maxmemory-policy", "noeviction"].map(str::to_owned),
        );
        args.extend(["--dir".to_owned(), folder.display().to_string()]);
        let appended: &[&str] = match fsync {
            Fsync::EverySecond => &["--appendonly", "yes", "--appendfsync", "everysec"],
            Fsync::Always => &["--appendonly", "yes", "--appendfsync", "always"],
            Fsync::Off => &["--appendonly", "no"],
        };
        args.extend(appended.iter().chain(more).map(|arg| (*arg).to_owned()));
        let start = log.with_extension("start.sh");
        std::fs::write(&start, START)?;
        args.splice(0..0, [start.display().to_string(), "redis-server".to_owned()]);
        env.insert("REDIS_DATA".to_owned(), folder.display().to_string());
        let program = Program {
            name,
            path: "sh".into(),
            args: args.iter().map(Into::into).collect(),
            env,
            log,
            folder,
            user: None,
        };
        let redis = Self { process: Process::start(program)?, port, args };
        redis.ready().await?;
        Ok(redis)
    }

    /// How often its append-only file had to be cut back before it could start.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub fn cuts_back(&self) -> anyhow::Result<usize> {
        let log = std::fs::read(self.process.log())?;
        Ok(String::from_utf8_lossy(&log).matches(CUT_BACK).count())
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address without a proxy between.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The process, to be hurt.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Starts it again on the same data, and waits until it answers and has read it.
    ///
    /// # Errors
    /// It does not answer in time.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process.restart()?;
        self.ready().await
    }

    /// Starts it again as a replica of the server at this port: the way of start scripts that ask first who the primary
    /// is. Waits until it answers, not until it has what the primary has.
    ///
    /// # Errors
    /// It does not answer in time.
    pub async fn restart_following(&mut self, primary: u16) -> anyhow::Result<()> {
        let mut args = self.args.clone();
        args.extend(["--replicaof".to_owned(), "127.0.0.1".into(), primary.to_string()]);
        self.process.program_mut().args = args.into_iter().map(Into::into).collect();
        self.restart().await
    }

    /// A field of `INFO replication`. Blocks for as long as Redis takes.
    ///
    /// # Errors
    /// Redis does not answer, or does not have it.
    pub fn replication(&self, field: &str) -> anyhow::Result<String> {
        let info = self.command(&["INFO", "replication"])?.text();
        let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(value.with_context(|| format!("no {field} in {info}"))?.trim().to_owned())
    }

    /// How far a primary has written, or a replica has followed, in bytes of commands.
    ///
    /// # Errors
    /// As [`Self::replication`].
    pub fn offset(&self) -> anyhow::Result<u64> {
        let is_replica = self.replication("role")? == "slave";
        let field = if is_replica { "slave_repl_offset" } else { "master_repl_offset" };
        Ok(self.replication(field)?.parse()?)
    }

    /// Runs one command. Blocks for as long as Redis takes.
    ///
    /// # Errors
    /// Redis does not answer, or refuses.
    pub fn command(&self, words: &[&str]) -> anyhow::Result<Reply> {
        let reply = Connection::open(self.port)?.call(words)?;
        if let Reply::Refused(why) = &reply {
            anyhow::bail!("redis refuses {words:?}: {why}");
        }
        Ok(reply)
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let answers = || async {
            let reply = Connection::open(self.port).ok()?.call(&["PING"]).ok()?;
            (reply.text() == "PONG").then_some(())
        };
        let ready = until(READY_MAX, answers).await;
        ready.with_context(|| format!("redis does not answer:\n{}", self.process.log_tail()))
    }
}
