//! What an experiment starts, loads and hurts: a fleet on Redis and PostgreSQL, or `windlass dev`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::experiments::{Form, Setup};
use crate::fleet::process::Process;
use crate::fleet::{Disk, Fleet, FleetOptions};
use crate::history::Recorder;
use crate::load::client::Client;
use crate::runner::Settings;

/// Processes in a folder, with an API before them. They end with this.
pub trait Target: Sized + Send + 'static {
    /// What it is made of.
    type Options: Clone + Send;

    /// How reports call it; empty: the usual one.
    const NAME: &'static str;

    /// 3A's load on a target of its size, and a small version of it.
    fn standard(form: Form) -> Setup<Self::Options>;

    /// Fills in what only the run knows: programs, and the seed.
    fn fill(options: &mut Self::Options, settings: &Settings);

    /// Starts everything in `folder` and waits until it is ready.
    ///
    /// # Errors
    /// A program is missing or does not get ready.
    fn start(
        folder: &Path,
        options: Self::Options,
    ) -> impl Future<Output = anyhow::Result<Self>> + Send;

    /// A client of its API that writes to this record.
    ///
    /// # Errors
    /// It cannot be made.
    fn client(&self, history: Arc<Recorder>) -> anyhow::Result<Client>;

    /// Further settings of every role.
    fn env(options: &mut Self::Options) -> &mut BTreeMap<String, String>;

    /// Memory of each process with a worker, in KiB; of those that run.
    fn workers_rss_kib(&self) -> Vec<u64>;

    /// Where everything of it is.
    fn folder(&self) -> &Path;

    /// Where its handlers leave evidence.
    fn effects(&self) -> PathBuf {
        self.folder().join("effects.jsonl")
    }

    /// The disk of its data.
    ///
    /// # Errors
    /// It has none of its own.
    fn disk(&self) -> anyhow::Result<Disk>;

    /// Processes that have ended without having been killed by the rig, with the ends of their logs.
    fn dead(&mut self) -> Vec<String>;
}

impl Target for Fleet {
    type Options = FleetOptions;

    const NAME: &'static str = "";

    fn standard(form: Form) -> Setup {
        Setup::standard(form)
    }

    fn fill(options: &mut FleetOptions, settings: &Settings) {
        options.windlass.clone_from(&settings.windlass);
        options.rig.clone_from(&settings.rig);
        options.seed = settings.seed;
    }

    async fn start(folder: &Path, options: FleetOptions) -> anyhow::Result<Self> {
        Self::start(folder, options).await
    }

    fn client(&self, history: Arc<Recorder>) -> anyhow::Result<Client> {
        Client::new(&self.urls, &self.key, history)
    }

    fn env(options: &mut FleetOptions) -> &mut BTreeMap<String, String> {
        &mut options.env
    }

    fn workers_rss_kib(&self) -> Vec<u64> {
        self.workers.iter().filter_map(Process::rss_kib).collect()
    }

    fn folder(&self) -> &Path {
        self.folder()
    }

    fn disk(&self) -> anyhow::Result<Disk> {
        self.disk()
    }

    fn dead(&mut self) -> Vec<String> {
        self.dead()
    }
}
