//! A private Redis on a folder of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use windlass_shared::testkit::redis_server::process::free_port;
use windlass_shared::testkit::redis_server::resp::{Connection, Reply};

use super::process::{Process, Program};
use crate::until::until;

const READY_MAX: Duration = Duration::from_secs(30);

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

/// One private server.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
}

impl Redis {
    /// Starts it with its data in `folder`, and waits until it answers.
    ///
    /// # Errors
    /// `redis-server` is not on the path, or it does not answer in time.
    pub async fn start(folder: &Path, log: &Path, fsync: Fsync) -> anyhow::Result<Self> {
        Self::start_with(folder, log, fsync, BTreeMap::new()).await
    }

    /// The same, with this environment.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(
        folder: &Path,
        log: &Path,
        fsync: Fsync,
        env: BTreeMap<String, String>,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
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
        args.extend(appended.iter().map(|arg| (*arg).to_owned()));
        let program = Program {
            name: "redis".into(),
            path: "redis-server".into(),
            args: args.into_iter().map(Into::into).collect(),
            env,
            log: log.to_owned(),
            folder: folder.to_owned(),
            user: None,
        };
        let redis = Self { process: Process::start(program)?, port };
        redis.ready().await?;
        Ok(redis)
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
