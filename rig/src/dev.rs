//! `windlass dev` as what is hurt: API, worker, scheduler and engine in one process, on SQLite.
//!
//! Its jobs are `http.request`s to a server of the rig, which leaves the evidence.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use windlass_shared::testkit::redis_server::process::free_port;

pub(crate) mod calls;
pub mod experiments;
mod server;

use server::Server;

use crate::experiments::{Form, Setup};
use crate::fleet::process::{Process, Program};
use crate::fleet::{Disk, LEASE, open_to_all};
use crate::history::{Fault, Recorder};
use crate::load::client::Client;
use crate::load::plan::QUEUES;
use crate::runner::Settings;
use crate::target::Target;
use crate::until::until;

const READY_MAX: Duration = Duration::from_secs(60);

/// What it is made of.
#[derive(Debug, Clone)]
pub struct DevOptions {
    /// The `windlass` binary.
    pub windlass: PathBuf,
    /// Slots of its worker.
    pub slots: u32,
    /// Further environment.
    pub env: BTreeMap<String, String>,
    /// A disk for its data; else that is in the folder.
    pub disk: Option<Disk>,
}

/// A running `windlass dev`.
#[derive(Debug)]
pub struct Dev {
    process: Process,
    server: Server,
    /// Its API.
    url: String,
    /// How often it was started; its worker is named after that, so that evidence tells the starts apart.
    starts: usize,
    folder: PathBuf,
    data: PathBuf,
    options: DevOptions,
}

impl Target for Dev {
    type Options = DevOptions;

    const NAME: &'static str = "dev";

    fn standard(form: Form) -> Setup<DevOptions> {
        let Setup { fleet, mix, pauses, schedules, warm, after } = Setup::standard(form);
        // As many slots as the workers of a fleet have.
        let slots = fleet.slots * u32::try_from(fleet.workers).unwrap_or(1);
        let options =
            DevOptions { windlass: PathBuf::new(), slots, env: BTreeMap::new(), disk: None };
        Setup { fleet: options, mix, pauses, schedules, warm, after }
    }

    fn fill(options: &mut DevOptions, settings: &Settings) {
        options.windlass.clone_from(&settings.windlass);
    }

    async fn start(folder: &Path, options: DevOptions) -> anyhow::Result<Self> {
        open_to_all(folder)?;
        let server = Server::start(&folder.join("effects.jsonl"), &folder.join("fenced")).await?;
        let listen = format!("127.0.0.1:{}", free_port());
        let data = match &options.disk {
            Some(disk) => disk.lock().data().join("dev"),
            None => folder.join("data"),
        };
        let program = program(folder, &options, &listen, &data);
        server.is_called_by(&worker_name(1));
        let (url, process) = (format!("http://{listen}"), Process::start(program)?);
        let folder = folder.to_owned();
        let mut dev = Self { process, server, url, starts: 1, folder, data, options };
        dev.ready().await?;
        Ok(dev)
    }

    fn client(&self, history: Arc<Recorder>) -> anyhow::Result<Client> {
        Ok(Client::new(std::slice::from_ref(&self.url), "", history)?.through(self.server.url()))
    }

    fn env(options: &mut DevOptions) -> &mut BTreeMap<String, String> {
        &mut options.env
    }

    fn workers_rss_kib(&self) -> Vec<u64> {
        self.process.rss_kib().into_iter().collect()
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    fn disk(&self) -> anyhow::Result<Disk> {
        self.options.disk.clone().context("this dev has no disk of its own")
    }

    fn dead(&mut self) -> Vec<String> {
        let status = self.process.exited();
        status
            .map(|status| format!("dev: {status}\n{}", self.process.log_tail()))
            .into_iter()
            .collect()
    }
}

impl Dev {
    /// The process, to be hurt otherwise than by [`Self::kill_9`].
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The name of its worker: of this start.
    pub fn worker(&self) -> String {
        worker_name(self.starts)
    }

    /// Slots of its worker.
    pub fn slots(&self) -> usize {
        self.options.slots as usize
    }

    /// Where its data is.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// SIGKILL; on record once all that it had sent has been taken.
    ///
    /// # Errors
    /// Its connections do not end.
    pub async fn kill_9(&mut self, history: &Recorder) -> anyhow::Result<()> {
        self.server.will_be_killed();
        self.process.kill_9();
        self.is_gone(history).await
    }

    /// As [`Self::kill_9`], by somebody else: `kill` ends the process.
    ///
    /// # Errors
    /// `kill` fails, or as there.
    pub async fn killed_by(
        &mut self,
        kill: impl FnOnce(&mut Process) -> anyhow::Result<()>,
        history: &Recorder,
    ) -> anyhow::Result<()> {
        self.server.will_be_killed();
        kill(&mut self.process)?;
        self.is_gone(history).await
    }

    async fn is_gone(&self, history: &Recorder) -> anyhow::Result<()> {
        self.server.is_quiet().await?;
        history.fault(Fault::Killed { process: self.worker() });
        history.fault(Fault::EngineLost { how: "dev has its engine in its memory".into() });
        Ok(())
    }

    /// Starts it again on the same data, and waits until it is ready.
    ///
    /// # Errors
    /// It does not get ready.
    pub async fn start_again(&mut self, history: &Recorder) -> anyhow::Result<()> {
        self.starts += 1;
        let name = self.worker();
        self.server.is_called_by(&name);
        self.process.program_mut().env.insert(NAME.to_owned(), name.clone());
        self.process.restart()?;
        history.fault(Fault::Started { process: name });
        self.ready().await
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let http = reqwest::Client::new();
        let url = format!("{}/readiness", self.url);
        let ready = until(READY_MAX, || async {
            let answer = http.get(&url).send().await.ok()?;
            answer.status().is_success().then_some(())
        });
        ready.await.with_context(|| format!("dev is not ready:\n{}", self.process.log_tail()))
    }
}

const NAME: &str = "WINDLASS_WORKER__NAME";

fn worker_name(start: usize) -> String {
    format!("dev.{start}")
}

fn program(folder: &Path, options: &DevOptions, listen: &str, data: &Path) -> Program {
    let mut env = BTreeMap::from([
        ("WINDLASS_PROFILE".to_owned(), "test".to_owned()),
        ("WINDLASS_WORKER__LEASE".into(), format!("{}s", LEASE.as_secs())),
        ("WINDLASS_WORKER__CONCURRENCY".into(), options.slots.to_string()),
        ("WINDLASS_WORKER__QUEUES".into(), QUEUES.join(",")),
        ("WINDLASS_HTTP__ALLOW_PRIVATE".into(), "true".into()),
        ("WINDLASS_LOG__FORMAT".into(), "text".into()),
        ("WINDLASS_LOG__LEVEL".into(), "info".into()),
        (NAME.into(), worker_name(1)),
    ]);
    env.extend(options.env.clone());
    let args = ["dev".into(), "--listen".into(), listen.into(), "--data-dir".into(), data.into()];
    Program {
        name: "dev".into(),
        path: options.windlass.clone(),
        args: args.into(),
        env,
        log: folder.join("dev.log"),
        folder: folder.to_owned(),
        user: None,
    }
}
