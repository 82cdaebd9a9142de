//! The private fleet of a peer: its store, the process that submits, its workers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use windlass_shared::testkit::redis_server::process::free_port;

use super::Peer;
use super::install::Drivers;
use super::trial::Variant;
use crate::fleet::postgres::Postgres;
use crate::fleet::process::{Process, Program};
use crate::fleet::redis::{Fsync, Redis};
use crate::fleet::{LEASE, open_to_all};
use crate::until::until;

const READY_MAX: Duration = Duration::from_secs(60);
/// What a driver's worker writes to its log once it serves its queues.
const READY: &str = "ready";

/// A running fleet of a peer. It ends with this handle.
#[derive(Debug)]
pub struct NodeFleet {
    /// Its Redis, if it has one.
    pub redis: Option<Redis>,
    /// Its PostgreSQL, if it has one.
    pub postgres: Option<Postgres>,
    /// Its workers.
    pub workers: Vec<Process>,
    /// Where submissions go.
    pub url: String,
    /// Slots of each worker.
    pub slots: u32,
    submit: Process,
    drivers: Drivers,
    driver: &'static str,
    env: BTreeMap<String, String>,
    folder: PathBuf,
    starts: usize,
}

/// What a peer's fleet is made of.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Whose it is; not Windlass.
    pub peer: Peer,
    /// How it is set.
    pub variant: Variant,
    /// Its programs.
    pub drivers: Drivers,
    /// Worker processes.
    pub workers: usize,
    /// Slots of each.
    pub slots: u32,
}

impl NodeFleet {
    /// Starts the store with the settings that Windlass has, too, then the drivers, and waits until they are ready.
    ///
    /// # Errors
    /// A program is missing or does not get ready; the logs are in `folder`.
    pub async fn start(folder: &Path, options: NodeOptions) -> anyhow::Result<Self> {
        open_to_all(folder)?;
        let driver = options.peer.driver().context("this one needs no driver")?;
        let log = |name: &str| folder.join(format!("{name}.log"));
        let (mut redis, mut postgres) = (None, None);
        let mut env = BTreeMap::from([
            ("PEER_EFFECTS".to_owned(), folder.join("effects.jsonl").display().to_string()),
            ("PEER_SLOTS".into(), options.slots.to_string()),
            ("PEER_VARIANT".into(), options.variant.to_owned()),
            ("PEER_LOCK_MS".into(), LEASE.as_millis().to_string()),
        ]);
        if options.peer.has_redis() {
            let started = Redis::start("redis", folder, Fsync::EverySecond, &[]).await?;
            env.insert("PEER_REDIS".into(), started.url());
            redis = Some(started);
        }
        if options.peer.has_postgres() {
            let started = Postgres::start(&folder.join("postgres"), &log("postgres"), &[]).await?;
            env.insert("PEER_POSTGRES".into(), started.url());
            postgres = Some(started);
        }
        let port = free_port();
        env.insert("PEER_PORT".into(), port.to_string());
        let program = program(&options.drivers, driver, folder, "submit", "submit", &env);
        let mut fleet = Self {
            redis,
            postgres,
            workers: Vec::new(),
            url: format!("http://127.0.0.1:{port}"),
            slots: options.slots,
            submit: Process::start(program)?,
            drivers: options.drivers,
            driver,
            env,
            folder: folder.to_owned(),
            starts: 0,
        };
        // First: it makes the schema of the peer that has one.
        fleet.submit_ready().await?;
        for n in 0..options.workers {
            let program = fleet.worker_program(n);
            fleet.workers.push(Process::start(program)?);
        }
        fleet.workers_ready().await?;
        Ok(fleet)
    }

    /// Starts a worker in the place of one that is gone; its new name.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn replace_worker(&mut self, n: usize) -> anyhow::Result<String> {
        let program = self.worker_program(n);
        let name = program.name.clone();
        self.workers[n] = Process::start(program)?;
        Ok(name)
    }

    /// Starts what has ended by itself again, as a supervisor would; the names of those that had ended.
    ///
    /// # Errors
    /// One cannot be started.
    pub fn tend(&mut self) -> anyhow::Result<Vec<String>> {
        let mut ended = Vec::new();
        if self.submit.exited().is_some() {
            ended.push(self.submit.name().to_owned());
            self.submit.restart()?;
        }
        for n in 0..self.workers.len() {
            if self.workers[n].exited().is_some() {
                ended.push(self.workers[n].name().to_owned());
                self.replace_worker(n)?;
            }
        }
        Ok(ended)
    }

    fn worker_program(&mut self, n: usize) -> Program {
        self.starts += 1;
        let name = format!("worker-{n}.{}", self.starts);
        let mut env = self.env.clone();
        env.insert("PEER_NAME".into(), name.clone());
        let queues = if n == 0 { "rig,rig-wait,rig-spin" } else { "rig,rig-wait" };
        env.insert("PEER_QUEUES".into(), queues.into());
        program(&self.drivers, self.driver, &self.folder, &name, "worker", &env)
    }

    async fn submit_ready(&self) -> anyhow::Result<()> {
        let http = reqwest::Client::new();
        let ready = until(READY_MAX, || async {
            let answer = http.get(format!("{}/readiness", self.url)).send().await.ok()?;
            answer.status().is_success().then_some(())
        });
        ready.await.with_context(|| format!("not ready:\n{}", self.submit.log_tail()))
    }

    async fn workers_ready(&self) -> anyhow::Result<()> {
        for worker in &self.workers {
            let ready = || async { worker.log_tail().contains(READY).then_some(()) };
            let ready = until(READY_MAX, ready).await;
            let name = worker.name();
            ready.with_context(|| format!("{name} is not ready:\n{}", worker.log_tail()))?;
        }
        Ok(())
    }
}

fn program(
    drivers: &Drivers,
    driver: &str,
    folder: &Path,
    name: &str,
    script: &str,
    env: &BTreeMap<String, String>,
) -> Program {
    let script = drivers.folder.join(driver).join(format!("{script}.mjs"));
    Program {
        name: name.to_owned(),
        path: drivers.node.clone(),
        args: vec![script.into()],
        env: env.clone(),
        log: folder.join(format!("{name}.log")),
        folder: folder.to_owned(),
        user: None,
    }
}
