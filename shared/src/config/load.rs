//! Puts the layers together, types the values, and refuses what is wrong, all problems at once.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::keys::{self, KNOWN, Known, Secrecy, Source};
use super::layers::{self, Flag, Layer, Sourced};
use super::mask::masked_url;
use super::typed::{self, Reader};
use super::{
    ADMIN_LISTEN_API, ADMIN_LISTEN_SCHEDULER, ADMIN_LISTEN_WORKER, ApiSettings, BackupSettings,
    EngineSettings, LedgerSettings, LogSettings, OverwatchSettings, RetentionSettings,
    WorkerSettings, checks, overwatch, values,
};

/// Which command reads the settings; decides defaults and what is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Process {
    /// Everything in one process, with its data in this folder.
    Dev {
        /// `--data-dir`.
        data_dir: PathBuf,
    },
    /// `windlass api`.
    Api,
    /// `windlass worker`.
    Worker,
    /// `windlass scheduler`.
    Scheduler,
    /// Commands that look at an installation: `config`, `doctor`, `migrate`, `key`.
    #[default]
    Tool,
}

/// A preset of settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Profile {
    /// The defaults.
    #[default]
    Development,
    /// JSON logs.
    Staging,
    /// JSON logs; unsafe settings refuse to start.
    Production,
    /// Quiet logs, short drain.
    Test,
}

impl Profile {
    const WORDS: [(&str, Self); 4] = [
        ("development", Self::Development),
        ("staging", Self::Staging),
        ("production", Self::Production),
        ("test", Self::Test),
    ];

    /// What it presets.
    fn presets(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Development => &[],
            Self::Staging | Self::Production => &[("log.format", "json")],
            Self::Test => &[("log.level", "warn"), ("worker.drain_timeout", "5s")],
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.iter().find(|(_, profile)| profile == self).map(|(word, _)| *word);
        f.write_str(word.unwrap_or_default())
    }
}

/// All that settings are made of. The environment is passed in, so that tests need not change theirs.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// For which command.
    pub process: Process,
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables; those without the prefix `WINDLASS_` are not looked at.
    pub env: Vec<(String, String)>,
    /// Flags of the command.
    pub flags: Vec<Flag>,
}

/// One thing that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting, as `section.key`; empty of a file that cannot be read.
    pub key: String,
    /// Where its value came from; `None`: it has none.
    pub source: Option<Source>,
    /// What is wrong and what to do.
    pub text: String,
}

impl Problem {
    pub(super) fn of_file(path: &Path, text: String) -> Self {
        Self { key: String::new(), source: Some(Source::File(path.to_owned())), text }
    }
    pub(super) fn of_value(key: &str, source: Source, text: String) -> Self {
        Self { key: key.into(), source: Some(source), text }
    }
    pub(super) fn unknown_key(key: &str, source: Source) -> Self {
        let hint = match keys::nearest(key) {
            Some(near) => format!("; did you mean {near} ({})?", keys::env_name(near)),
            None => "; `windlass config show` lists every setting".into(),
        };
        // Keys come from outside: shown with control characters escaped.
        let key = key.escape_debug().to_string();
        Self { key, source: Some(source), text: format!("is not a setting{hint}") }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.source, self.key.is_empty()) {
            (Some(source), true) => write!(f, "{source} {}", self.text),
            (Some(source), false) => write!(f, "{} ({source}) {}", self.key, self.text),
            (None, _) => write!(f, "{} {}", self.key, self.text),
        }
    }
}

/// Everything that is wrong with the settings; at least one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// In the order of the settings.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings are wrong:")?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// One line of `windlass config show`; secrets are masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `section.key`.
    pub key: &'static str,
    /// As text; `None`: not set.
    pub value: Option<String>,
    /// Where it came from.
    pub source: Source,
    /// The environment variable that sets it.
    pub env: String,
    /// What it means.
    pub meaning: &'static str,
}

/// Every setting of a process, typed and checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For which command.
    pub process: Process,
    /// The preset.
    pub profile: Profile,
    /// Where the ledger is; `None`: not set ([`Self::ledger`] says so in words).
    pub ledger: Option<LedgerSettings>,
    /// Where the engine is; `None`: not set ([`Self::engine`] says so in words).
    pub engine: Option<EngineSettings>,
    /// The public API. `admin_listen` is `None` in `dev`, which serves all on one port.
    pub api: ApiSettings,
    /// Signs the cursors of lists.
    pub cursor_secret: Option<SecretString>,
    /// Probes and metrics of this process; `None` in `dev`, unless set.
    pub admin_listen: Option<SocketAddr>,
    /// The worker.
    pub worker: WorkerSettings,
    /// How long what has ended is kept.
    pub retention: RetentionSettings,
    /// The installation's own jobs that a scheduler runs at once.
    pub system_slots: u32,
    /// Backups; `None`: no store is set ([`Self::backup`] says so in words).
    pub backup: Option<BackupSettings>,
    /// Overwatch, and who is notified.
    pub overwatch: OverwatchSettings,
    /// Logs.
    pub log: LogSettings,
    /// Things that look like mistakes and were ignored; to be logged.
    pub notes: Vec<String>,
    pub(super) rows: Vec<Row>,
}

impl Settings {
    /// Where the ledger is.
    ///
    /// # Errors
    /// When nothing says so.
    pub fn ledger(&self) -> Result<&LedgerSettings, ConfigError> {
        self.ledger.as_ref().ok_or_else(|| missing("ledger.url", "postgres://user@host/database"))
    }

    /// Where the engine is.
    ///
    /// # Errors
    /// When nothing says so.
    pub fn engine(&self) -> Result<&EngineSettings, ConfigError> {
        self.engine.as_ref().ok_or_else(|| missing("engine.url", "redis://host:6379"))
    }

    /// Where backups go.
    ///
    /// # Errors
    /// When nothing says so.
    pub fn backup(&self) -> Result<&BackupSettings, ConfigError> {
        self.backup.as_ref().ok_or_else(|| missing("backup.store", "/var/backups/windlass"))
    }

    /// Every setting with its source, secrets masked, in a fixed order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
}

fn missing(key: &str, example: &str) -> ConfigError {
    let text = format!(
        "is not set; set {}={example}, or `{key}` in the settings file",
        keys::env_name(key)
    );
    ConfigError { problems: vec![Problem { key: key.into(), source: None, text }] }
}

/// Reads the layers and makes settings of them.
///
/// # Errors
/// Unknown keys, values out of bounds, and unsafe combinations: all that were found.
pub fn load(inputs: &Inputs) -> Result<Settings, ConfigError> {
    let (mut given, mut problems, mut notes) = (Layer::new(), Vec::new(), Vec::new());
    let mut notify = Vec::new();
    if let Some(path) = &inputs.file {
        notify = layers::add_file(&mut given, &mut problems, path);
    }
    let receivers =
        overwatch::receivers(notify, inputs.file.as_deref(), &inputs.env, &mut problems);
    layers::add_env(&mut given, &mut problems, &mut notes, &inputs.env);
    layers::add_flags(&mut given, &inputs.flags);

    let mut reader = Reader { layer: base_layer(&inputs.process, &given), problems };
    let profile = reader.read("profile", |t| values::word(t, &Profile::WORDS));
    reader.layer.extend(given);
    let mut settings = typed::typed(&mut reader, inputs, profile.unwrap_or_default());
    reader.problems.extend(checks::check(&settings, &reader.layer));
    if !reader.problems.is_empty() {
        return Err(ConfigError { problems: reader.problems });
    }
    settings.overwatch.receivers = receivers;
    settings.rows = KNOWN.iter().map(|known| row(known, &reader.layer)).collect();
    settings.notes = notes;
    Ok(settings)
}

/// Defaults, then the profile's preset, then what `dev` presumes.
fn base_layer(process: &Process, given: &Layer) -> Layer {
    let mut layer = Layer::new();
    for known in KNOWN {
        if let Some(text) = known.default {
            layer.insert(known.key, Sourced { text: text.into(), source: Source::Default });
        }
    }
    if let Some(profile) = given.get("profile") {
        layer.insert("profile", profile.clone());
    }
    let profile = values::word(&layer["profile"].text, &Profile::WORDS).unwrap_or_default();
    for (key, text) in profile.presets() {
        let source = Source::Profile(profile);
        layer.insert(key, Sourced { text: (*text).into(), source });
    }
    let mut presume = |key, text: String| {
        layer.insert(key, Sourced { text, source: Source::Dev });
    };
    let admin = match process {
        Process::Dev { data_dir } => {
            presume("ledger.url", format!("sqlite://{}", data_dir.join("ledger.db").display()));
            presume("engine.url", "embedded".into());
            let listen = given
                .get("api.listen")
                .map_or(Ok(ApiSettings::default().listen), |v| values::address(&v.text));
            if profile != Profile::Production && listen.is_ok_and(|a| a.ip().is_loopback()) {
                presume("auth.mode", "off".into());
                presume("http.allow_private", "true".into());
            }
            None
        }
        Process::Api | Process::Tool => Some(ADMIN_LISTEN_API),
        Process::Worker => Some(ADMIN_LISTEN_WORKER),
        Process::Scheduler => Some(ADMIN_LISTEN_SCHEDULER),
    };
    if let Some(address) = admin {
        layer
            .insert("admin.listen", Sourced { text: address.to_string(), source: Source::Default });
    }
    layer
}

fn row(known: &'static Known, layer: &Layer) -> Row {
    let sourced = layer.get(known.key).filter(|v| known.default.is_some() || !v.text.is_empty());
    let value = sourced.map(|v| match known.secrecy {
        Secrecy::Open => v.text.clone(),
        Secrecy::Url => masked_url(&v.text),
        Secrecy::Secret => "***".into(),
    });
    let source = sourced.map_or(Source::Default, |v| v.source.clone());
    Row { key: known.key, value, source, env: keys::env_name(known.key), meaning: known.meaning }
}
