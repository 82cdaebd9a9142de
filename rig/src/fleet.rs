//! A private fleet: servers, migrated ledger, keys, roles, and all of it gone when the handle is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use windlass_shared::testkit::redis_server::process::free_port;

pub mod cluster;
pub mod links;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod replica;
pub mod sentinel;
pub mod topology;
mod workers;

use links::{Links, Ways};
use postgres::Postgres;
use process::{Process, Program};
use redis::{Fsync, Place, Redis};
use topology::{Beside, Topology};

use crate::tools::power_cut::PowerCut;
use crate::until::until;

const READY_MAX: Duration = Duration::from_secs(60);
const ENGINE_URL: &str = "WINDLASS_ENGINE__URL";
/// The lease of every worker here: the shortest that is allowed.
pub const LEASE: Duration = Duration::from_secs(3);

/// What a fleet is made of.
#[derive(Debug, Clone)]
pub struct FleetOptions {
    /// The `windlass` binary.
    pub windlass: PathBuf,
    /// The `windlass-rig` binary, which the workers are.
    pub rig: PathBuf,
    /// API processes.
    pub apis: usize,
    /// Worker processes.
    pub workers: usize,
    /// Slots of each worker.
    pub slots: u32,
    /// Scheduler processes.
    pub schedulers: usize,
    /// Queues that the workers serve.
    pub queues: Vec<String>,
    /// Queues that only the first worker serves.
    pub queues_of_first: Vec<String>,
    /// What Redis is made of.
    pub topology: Topology,
    /// How Redis keeps its data.
    pub fsync: Fsync,
    /// Further settings of PostgreSQL.
    pub postgres: Vec<String>,
    /// Further settings of every role (`WINDLASS_…`).
    pub env: BTreeMap<String, String>,
    /// Effect lines are flushed to the disk.
    pub synced_effects: bool,
    /// By which ways the processes reach Redis.
    pub ways: Ways,
    /// Where the chance of those ways comes from.
    pub seed: u64,
    /// Further options of `initdb`.
    pub initdb: Vec<String>,
    /// Further environment of single processes, by place: `api-0`, `worker-1`, `redis`.
    pub own_env: BTreeMap<String, BTreeMap<String, String>>,
    /// A disk for some of the servers; the rest is in the fleet's folder.
    pub disk: Option<Disk>,
}

impl FleetOptions {
    /// Further environment of the process in this place.
    pub fn env_of(&mut self, place: &str) -> &mut BTreeMap<String, String> {
        self.own_env.entry(place.to_owned()).or_default()
    }
}

/// A disk that an experiment fills, or whose power it cuts. It goes when the servers on it have ended.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The disk.
    pub power: Arc<Mutex<PowerCut>>,
    /// Redis is on it, too, and not PostgreSQL alone.
    pub has_redis: bool,
}

/// Which processes of a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `windlass api`.
    Api,
    /// `windlass-rig worker`.
    Worker,
    /// `windlass scheduler`.
    Scheduler,
}

/// A running fleet.
#[derive(Debug)]
pub struct Fleet {
    /// Its Redis; of several servers the first, which is a primary at first.
    pub redis: Redis,
    /// The other servers.
    pub beside: Beside,
    /// The proxies before it.
    pub links: Links,
    /// Its PostgreSQL.
    pub postgres: Postgres,
    /// Its API processes.
    pub apis: Vec<Process>,
    /// Its workers.
    pub workers: Vec<Process>,
    /// Its schedulers.
    pub schedulers: Vec<Process>,
    /// Addresses of the API processes, in their order.
    pub urls: Vec<String>,
    /// A key that may do all that an experiment asks for.
    pub key: String,
    options: FleetOptions,
    env: BTreeMap<String, String>,
    folder: PathBuf,
    starts: usize,
}

impl Fleet {
    /// Starts everything in `folder` and waits until it is ready: servers, schema, keys, APIs, schedulers, workers.
    ///
    /// # Errors
    /// A program is missing or does not get ready; the logs are in `folder`.
    pub async fn start(folder: &Path, options: FleetOptions) -> anyhow::Result<Self> {
        open_to_all(folder)?;
        let log = |name: &str| folder.join(format!("{name}.log"));
        let (redis_in, postgres_in) = places(folder, options.disk.as_ref());
        let own = options.own_env.get("redis").cloned().unwrap_or_default();
        let first = Place { name: "redis".into(), folder: redis_in, log: log("redis"), env: own };
        let (redis, beside) =
            topology::start(options.topology, folder, first, options.fsync).await?;
        let is_one = options.topology == Topology::Single;
        // A replica, Sentinels and a Cluster name their own addresses to clients.
        anyhow::ensure!(is_one || options.ways == Ways::Direct, "a proxy stands before one server");
        let links = Links::start(options.ways, options.workers, redis.port(), options.seed).await?;
        let mut initdb = options.initdb.clone();
        initdb.extend(options.disk.is_none().then(|| postgres::NO_SYNC.to_owned()));
        let (log_to, settings) = (log("postgres"), &options.postgres);
        let postgres = Postgres::start_with(&postgres_in, &log_to, settings, &initdb).await?;
        let mut env = BTreeMap::from([
            ("WINDLASS_PROFILE".to_owned(), "test".to_owned()),
            ("WINDLASS_LEDGER__URL".into(), postgres.url()),
            (ENGINE_URL.into(), beside.url(&redis)),
            ("WINDLASS_WORKER__LEASE".into(), format!("{}s", LEASE.as_secs())),
            ("WINDLASS_WORKER__CONCURRENCY".into(), options.slots.to_string()),
            ("WINDLASS_WORKER__QUEUES".into(), options.queues.join(",")),
            ("WINDLASS_HTTP__ALLOW_PRIVATE".into(), "true".into()),
            ("WINDLASS_LOG__FORMAT".into(), "text".into()),
            ("WINDLASS_LOG__LEVEL".into(), "info".into()),
        ]);
        env.extend(options.env.clone());
        let mut fleet = Self {
            redis,
            beside,
            links,
            postgres,
            apis: Vec::new(),
            workers: Vec::new(),
            schedulers: Vec::new(),
            urls: Vec::new(),
            key: String::new(),
            options,
            env,
            folder: folder.to_owned(),
            starts: 0,
        };
        fleet.tool(&["migrate", "up"])?;
        fleet.key = fleet.make_key("admin")?;
        let worker_key = fleet.make_key("worker")?;
        fleet.env.insert("WINDLASS_WORKER__API_KEY".into(), worker_key);
        fleet.start_roles()?;
        fleet.ready().await?;
        Ok(fleet)
    }

    fn start_roles(&mut self) -> anyhow::Result<()> {
        for n in 0..self.options.apis {
            let port = free_port();
            self.urls.push(format!("http://127.0.0.1:{port}"));
            let listen = format!("127.0.0.1:{port}");
            let env = [("WINDLASS_API__LISTEN", listen)];
            let program = self.program(&format!("api-{n}"), Role::Api, &env);
            self.apis.push(Process::start(program)?);
        }
        for n in 0..self.options.schedulers {
            let program = self.program(&format!("scheduler-{n}"), Role::Scheduler, &[]);
            self.schedulers.push(Process::start(program)?);
        }
        for n in 0..self.options.workers {
            let program = self.worker_program(n);
            self.workers.push(Process::start(program)?);
        }
        Ok(())
    }

    fn own_env(&self, place: &str) -> BTreeMap<String, String> {
        self.options.own_env.get(place).cloned().unwrap_or_default()
    }

    fn program(&self, name: &str, role: Role, more: &[(&str, String)]) -> Program {
        let mut env = self.env.clone();
        env.extend(self.links.of_all().map(|link| (ENGINE_URL.to_owned(), links::url(link))));
        env.insert("WINDLASS_ADMIN__LISTEN".into(), format!("127.0.0.1:{}", free_port()));
        env.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        env.extend(self.own_env(name));
        let (path, args) = match role {
            Role::Api => (&self.options.windlass, vec!["api".to_owned()]),
            Role::Scheduler => (&self.options.windlass, vec!["scheduler".to_owned()]),
            Role::Worker => {
                let mut args = vec!["worker".to_owned(), "--effects".into()];
                args.push(self.effects().display().to_string());
                args.push("--fenced".into());
                args.push(self.folder.join("fenced").display().to_string());
                args.extend(self.options.synced_effects.then(|| "--synced".to_owned()));
                (&self.options.rig, args)
            }
        };
        Program {
            name: name.to_owned(),
            path: path.clone(),
            args: args.into_iter().map(Into::into).collect(),
            env,
            log: self.folder.join(format!("{name}.log")),
            folder: self.folder.clone(),
            user: None,
        }
    }

    /// Where the effect log is.
    pub fn effects(&self) -> PathBuf {
        self.folder.join("effects.jsonl")
    }

    /// Where everything of the fleet is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The disk of some of the servers.
    ///
    /// # Errors
    /// There is none.
    pub fn disk(&self) -> anyhow::Result<Disk> {
        self.options.disk.clone().context("this fleet has no disk of its own")
    }

    /// Slots of all workers.
    pub fn slots(&self) -> usize {
        self.options.workers * self.options.slots as usize
    }

    /// Slots of one worker.
    pub fn slots_each(&self) -> usize {
        self.options.slots as usize
    }

    /// The Redis server at this port.
    ///
    /// # Errors
    /// There is none.
    pub fn server(&mut self, port: u16) -> anyhow::Result<&mut Redis> {
        let mut servers = std::iter::once(&mut self.redis).chain(self.beside.servers_mut());
        servers.find(|server| server.port() == port).with_context(|| format!("no Redis at {port}"))
    }

    /// The processes of a role.
    pub fn role(&mut self, role: Role) -> &mut Vec<Process> {
        match role {
            Role::Api => &mut self.apis,
            Role::Worker => &mut self.workers,
            Role::Scheduler => &mut self.schedulers,
        }
    }

    /// From the next start on, processes of this role read this setting so; for a store behind a proxy.
    pub fn set(&mut self, role: Role, setting: &str, value: &str) {
        for process in self.role(role) {
            process.program_mut().env.insert(setting.to_owned(), value.to_owned());
        }
    }

    /// Processes that have ended without having been killed here, with the ends of their logs.
    pub fn dead(&mut self) -> Vec<String> {
        let mut dead = Vec::new();
        let roles = self.apis.iter_mut().chain(&mut self.workers).chain(&mut self.schedulers);
        for process in roles {
            if let Some(status) = process.exited() {
                dead.push(format!("{}: {status}\n{}", process.name(), process.log_tail()));
            }
        }
        dead
    }

    /// Waits until every API is ready and every worker has been heard of.
    ///
    /// # Errors
    /// Not within a minute.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let http = reqwest::Client::new();
        for url in self.urls.clone() {
            let ready = until(READY_MAX, || async {
                let answer = http.get(format!("{url}/readiness")).send().await.ok()?;
                answer.status().is_success().then_some(())
            });
            ready.await.with_context(|| format!("an API is not ready: {:?}", self.dead()))?;
        }
        let names: Vec<String> = self.workers.iter().map(|w| w.name().to_owned()).collect();
        let heard = until(READY_MAX, || async {
            let request = http.get(format!("{}/v1/workers", self.urls[0]));
            let answer = request.bearer_auth(&self.key).send().await.ok()?;
            let answer: Value = answer.json().await.ok()?;
            let heard: Vec<&str> =
                answer["items"].as_array()?.iter().filter_map(|w| w["name"].as_str()).collect();
            names.iter().all(|name| heard.contains(&name.as_str())).then_some(())
        });
        let heard = heard.await;
        heard.with_context(|| format!("a worker is not heard of: {:?}", self.dead()))
    }

    fn make_key(&self, role: &str) -> anyhow::Result<String> {
        let args = ["key", "create", "--role", role, "--name", role, "--output", "json"];
        let printed: Value = serde_json::from_str(&self.tool(&args)?)?;
        Ok(printed["key"].as_str().context("the key is shown once")?.to_owned())
    }

    /// Runs a command of the binary to its end; its output.
    ///
    /// # Errors
    /// It failed.
    pub fn tool(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(&self.options.windlass)
            .args(args)
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null())
            .output()
            .with_context(|| self.options.windlass.display().to_string())?;
        let errors = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "windlass {args:?} failed:\n{errors}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Where Redis and PostgreSQL have their data.
fn places(folder: &Path, disk: Option<&Disk>) -> (PathBuf, PathBuf) {
    let on_disk = disk.map(|disk| (disk.lock().data().to_owned(), disk.has_redis));
    let (redis, postgres) = match &on_disk {
        Some((data, true)) => (data.as_path(), data.as_path()),
        Some((data, false)) => (folder, data.as_path()),
        None => (folder, folder),
    };
    (redis.join("redis"), postgres.join("postgres"))
}

impl Disk {
    /// The disk, for as long as nobody else needs it.
    pub fn lock(&self) -> std::sync::MutexGuard<'_, PowerCut> {
        self.power.lock().expect("nobody panics while holding it")
    }
}

/// PostgreSQL runs as another user where the rig is root, and must be able to pass through.
pub(crate) fn open_to_all(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711))?;
    Ok(())
}
