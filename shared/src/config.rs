//! Settings: defaults in code, then a TOML file, then environment `WINDLASS_<SECTION>__<KEY>`, then
//! flags of the command. Unknown keys refuse to start.
//!
//! [`load`] makes [`Settings`] of all four, knows where each value came from, and refuses what is unsafe.
//! The structs of this file are what the crates take; they can also be made by hand, as tests do.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::ledger::RateLimit;
use crate::model::name::{Kind, Namespace, QueueName};

mod checks;
mod keys;
mod layers;
mod load;
mod mask;
mod overwatch;
mod rates;
mod retention;
mod typed;
mod values;

pub use keys::Source;
pub use layers::Flag;
pub use load::{ConfigError, Inputs, Problem, Process, Profile, Row, Settings, load};
pub use mask::masked_url;
pub use overwatch::{Channel, Email, MailTls, OverwatchSettings, RECEIVERS_MAX, ReceiverSettings};
pub use retention::{RetentionRule, RetentionSettings, RunRule};

/// Where the probes and metrics of `windlass api` are served unless a setting says otherwise.
pub const ADMIN_LISTEN_API: SocketAddr = loopback(9090);
/// The same of `windlass worker`.
pub const ADMIN_LISTEN_WORKER: SocketAddr = loopback(9091);
/// The same of `windlass scheduler`.
pub const ADMIN_LISTEN_SCHEDULER: SocketAddr = loopback(9092);

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
}

/// Where the ledger is.
#[derive(Debug, Clone)]
pub struct LedgerSettings {
    /// `postgres://…` or `sqlite://PATH`. May hold a password.
    pub url: SecretString,
    /// Connections for reads and rare writes; the writers have their own.
    pub pool_max: u32,
    /// Tasks that commit submissions.
    pub writers: u32,
}

impl LedgerSettings {
    /// For this address, with defaults.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: SecretString::from(url.into()), pool_max: 10, writers: 2 }
    }
    /// Whether the address is SQLite's.
    pub fn is_sqlite(&self) -> bool {
        use secrecy::ExposeSecret;
        self.url.expose_secret().starts_with("sqlite:")
    }
}

/// Where the engine is.
#[derive(Clone)]
pub struct EngineSettings {
    /// `redis://`, `rediss://`, `redis+sentinel://host1,host2/name`, `redis+cluster://host1,host2`, or
    /// `embedded`. May hold a password.
    pub url: String,
    /// First part of every key, so that several ledgers can share a Redis.
    pub prefix: String,
    /// Longest wait for one answer.
    pub response_timeout: Duration,
}

impl fmt::Debug for EngineSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineSettings")
            .field("url", &masked_url(&self.url))
            .field("prefix", &self.prefix)
            .field("response_timeout", &self.response_timeout)
            .finish()
    }
}

impl EngineSettings {
    /// Whether it lives in this process.
    pub fn is_embedded(&self) -> bool {
        self.url == "embedded"
    }

    /// For this address, with defaults.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), prefix: "w".into(), response_timeout: Duration::from_secs(2) }
    }
}

/// The public API.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Probes and metrics; `None`: on the public listener (`dev`).
    pub admin_listen: Option<SocketAddr>,
    /// Whether callers need a key.
    pub auth_required: bool,
    /// Requests per second and key that are let through; the rest answers 429. 0 is no limit.
    pub rate_per_key: u32,
    /// Whole request head must have arrived by then.
    pub head_timeout: Duration,
    /// Body must have arrived by then.
    pub body_timeout: Duration,
    /// Most open connections.
    pub connections_max: usize,
    /// Most open connections of one address. A proxy in front is one address.
    pub connections_per_address_max: usize,
    /// Whether `backup.restore_url` is set: the API needs no more of it.
    pub can_restore: bool,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 8080).into(),
            admin_listen: None,
            auth_required: true,
            rate_per_key: 0,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            connections_max: 4096,
            connections_per_address_max: 1024,
            can_restore: false,
        }
    }
}

/// One worker process.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Its label.
    pub name: String,
    /// Where it works.
    pub namespace: Namespace,
    /// Queues with weights.
    pub queues: Vec<(QueueName, u32)>,
    /// Slots.
    pub concurrency: u32,
    /// Most starts of a kind per time by this worker alone. It begins with its bursts used up.
    pub rate_limits: BTreeMap<Kind, RateLimit>,
    /// Lease TTL.
    pub lease: Duration,
    /// Time to finish on SIGTERM.
    pub drain_timeout: Duration,
    /// Where logs, progress and large values go; `None`: nowhere (`dev` reports in process).
    pub api_url: Option<String>,
    /// With this key.
    pub api_key: Option<SecretString>,
    /// Command templates of `command.run`.
    pub commands_file: Option<PathBuf>,
    /// Lets `http.request` reach private and loopback addresses.
    pub http_allow_private: bool,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            name: "worker".into(),
            namespace: Namespace::default(),
            queues: vec![(QueueName::default(), 1)],
            concurrency: 16,
            rate_limits: BTreeMap::new(),
            lease: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(30),
            api_url: None,
            api_key: None,
            commands_file: None,
            http_allow_private: false,
        }
    }
}

/// Where backups go, and how they are kept from others.
#[derive(Debug, Clone)]
pub struct BackupSettings {
    /// A path, `file:///…`, `s3://bucket/path`, `gs://…` or `az://…`.
    pub store: String,
    /// Signs manifests: `windlass backup keygen` makes one.
    pub key: SecretString,
    /// age's public keys (`age1…`); empty: backups are not encrypted.
    pub recipients: Vec<String>,
    /// age's secret keys, one a line; needed to check, restore and drill encrypted backups.
    pub identity_file: Option<PathBuf>,
    /// The newest so many are kept.
    pub keep: u32,
    /// Those younger than this are kept as well.
    pub keep_for: Duration,
    /// Bytes of a part; two or three of them are in memory at a time.
    pub part_bytes: usize,
    /// A PostgreSQL address on the server where drills make their databases; the ledger's own where absent.
    pub drill_url: Option<SecretString>,
    /// The empty database that the job `backup.restore` restores into; none where absent.
    pub restore_url: Option<SecretString>,
    /// A drill that takes longer has failed.
    pub drill_max: Duration,
    /// When overwatch says that they are old.
    pub ages: BackupAges,
}

impl BackupSettings {
    /// With this store and key; not encrypted, and the usual bounds.
    pub fn new(store: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            store: store.into(),
            key: SecretString::from(key.into()),
            recipients: Vec::new(),
            identity_file: None,
            keep: 14,
            keep_for: Duration::ZERO,
            part_bytes: 32 << 20,
            drill_url: None,
            restore_url: None,
            drill_max: Duration::from_secs(300),
            ages: BackupAges::default(),
        }
    }
}

/// How old the newest backup and the latest drill that passed may be, before overwatch says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupAges {
    /// The newest backup.
    pub backup_max: Duration,
    /// The latest drill that passed.
    pub drill_max: Duration,
}

impl Default for BackupAges {
    /// 26 h and 8 days: what the schedules by default make, and some time for it.
    fn default() -> Self {
        let hour = Duration::from_secs(3600);
        Self { backup_max: 26 * hour, drill_max: 8 * 24 * hour }
    }
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// The shape of a line.
    pub format: LogFormat,
    /// Filter directives as of `tracing-subscriber`: `info`, `warn,windlass_worker=debug`.
    pub level: String,
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// [`Self::Text`] when standard error is a terminal, else [`Self::Json`].
    Auto,
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".into() }
    }
}
