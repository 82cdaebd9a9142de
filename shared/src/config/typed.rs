//! The settings of each section, from text to types.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::layers::Layer;
use super::load::{Inputs, Problem, Profile, Settings};
use super::retention::{self, LONGEST, RetentionSettings, SHORTEST};
use super::{
    ApiSettings, BackupSettings, EngineSettings, LedgerSettings, LogFormat, LogSettings,
    OverwatchSettings, WorkerSettings, keys, rates, values,
};
use crate::limits::{LATENCY_OBJECTIVE_MAX, LATENCY_OBJECTIVE_MIN, LEASE_MAX, LEASE_MIN};
use crate::model::job::JobState;
use crate::model::name::Namespace;

const LEDGER_SCHEMES: [&str; 4] = ["postgres://", "postgresql://", "sqlite://", "sqlite:"];
const ENGINE_SCHEMES: [&str; 5] =
    ["redis://", "rediss://", "redis+sentinel://", "redis+cluster://", "rediss+cluster://"];
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(100);

/// Types values and collects what is wrong with them.
pub(super) struct Reader {
    pub layer: Layer,
    pub problems: Vec<Problem>,
}

impl Reader {
    /// `None`: absent, or wrong (and noted). An empty value of a setting without default is absent.
    pub fn read<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let optional = keys::known(key).is_none_or(|known| known.default.is_none());
        let sourced = self.layer.get(key).filter(|v| !(optional && v.text.is_empty()))?;
        match parse(&sourced.text) {
            Ok(value) => Some(value),
            Err(text) => {
                self.problems.push(Problem::of_value(key, sourced.source.clone(), text));
                None
            }
        }
    }

    /// As [`Self::read`], into a field that already holds a fallback.
    fn set<T>(
        &mut self,
        field: &mut T,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) {
        if let Some(value) = self.read(key, parse) {
            *field = value;
        }
    }
}

/// Every setting from its text; what is wrong is left out, and noted in the reader.
pub(super) fn typed(r: &mut Reader, inputs: &Inputs, profile: Profile) -> Settings {
    let ledger = ledger(r);
    let engine = engine(r);
    let admin_listen = r.read("admin.listen", values::address);
    let mut api = api(r, admin_listen);
    let cursor_secret = r.read("api.cursor_secret", |t| Ok(SecretString::from(t)));
    let worker = worker(r);
    let retention = retention(r);
    let mut system_slots = 2;
    r.set(&mut system_slots, "scheduler.system_slots", |t| values::whole(t, 1..=16));
    let restore_url = r.read("backup.restore_url", |t| values::url(t, &LEDGER_SCHEMES));
    api.can_restore = restore_url.is_some();
    let backup = backup(r, restore_url.map(SecretString::from));
    let overwatch = overwatch(r, backup.as_ref());
    let mut log = LogSettings::default();
    let formats = [("auto", LogFormat::Auto), ("json", LogFormat::Json), ("text", LogFormat::Text)];
    r.set(&mut log.format, "log.format", |t| values::word(t, &formats));
    r.set(&mut log.level, "log.level", |t| {
        crate::telemetry::check_directives(t).map(|()| t.to_owned())
    });
    Settings {
        process: inputs.process.clone(),
        profile,
        ledger,
        engine,
        api,
        cursor_secret,
        admin_listen,
        worker,
        system_slots,
        retention,
        backup,
        overwatch,
        log,
        notes: Vec::new(),
        rows: Vec::new(),
    }
}

fn retention(r: &mut Reader) -> RetentionSettings {
    let time = |t: &str| values::duration(t, SHORTEST..=LONGEST);
    let mut settings = RetentionSettings::default();
    r.set(&mut settings.default, "scheduler.retention", time);
    for (key, state) in [
        ("retention.succeeded", JobState::Succeeded),
        ("retention.dead", JobState::Dead),
        ("retention.cancelled", JobState::Cancelled),
        ("retention.expired", JobState::Expired),
        ("retention.quarantined", JobState::Quarantined),
    ] {
        settings.states.extend(r.read(key, time).map(|keep| (state, keep)));
    }
    r.set(&mut settings.namespaces, "retention.namespaces", retention::namespaces);
    r.set(&mut settings.clock_wait, "retention.clock_wait", |t| {
        values::duration(t, Duration::ZERO..=HOUR)
    });
    settings
}

fn ledger(r: &mut Reader) -> Option<LedgerSettings> {
    let url = r.read("ledger.url", |t| values::url(t, &LEDGER_SCHEMES));
    let mut ledger = LedgerSettings::new(url.clone().unwrap_or_default());
    r.set(&mut ledger.pool_max, "ledger.pool_max", |t| values::whole(t, 1..=500));
    r.set(&mut ledger.writers, "ledger.writers", |t| values::whole(t, 1..=16));
    url.map(|_| ledger)
}

/// `None`: no store is set.
fn backup(r: &mut Reader, restore_url: Option<SecretString>) -> Option<BackupSettings> {
    let mut backup = BackupSettings::new(String::new(), String::new());
    let list = |t: &str| Ok(t.split(',').map(|word| word.trim().to_owned()).collect());
    r.set(&mut backup.recipients, "backup.recipients", list);
    r.set(&mut backup.keep, "backup.keep", |t| values::whole(t, 1..=10_000));
    r.set(&mut backup.keep_for, "backup.keep_for", |t| {
        values::duration(t, Duration::ZERO..=3650 * 24 * HOUR)
    });
    r.set(&mut backup.drill_max, "backup.drill_max", |t| {
        values::duration(t, Duration::from_secs(1)..=24 * HOUR)
    });
    let ages = MINUTE..=3650 * 24 * HOUR;
    r.set(&mut backup.ages.backup_max, "backup.age_max", |t| values::duration(t, ages.clone()));
    r.set(&mut backup.ages.drill_max, "backup.drill_age_max", |t| values::duration(t, ages));
    backup.identity_file = r.read("backup.identity_file", |t| Ok(PathBuf::from(t)));
    backup.drill_url = r
        .read("backup.drill_url", |t| values::url(t, &["postgres://", "postgresql://"]))
        .map(SecretString::from);
    backup.restore_url = restore_url;
    let key = r.read("backup.key", |t| Ok(SecretString::from(t)));
    backup.store = r.read("backup.store", |t| Ok(t.to_owned()))?;
    let Some(key) = key else {
        let source = super::Source::Default;
        let text = "is not set, although backup.store is; `windlass backup keygen` makes one";
        r.problems.push(Problem::of_value("backup.key", source, text.into()));
        return None;
    };
    backup.key = key;
    Some(backup)
}

fn engine(r: &mut Reader) -> Option<EngineSettings> {
    let url = r.read("engine.url", |t| {
        if t == "embedded" { Ok(t.to_owned()) } else { values::url(t, &ENGINE_SCHEMES) }
    });
    let mut engine = EngineSettings::new(url.clone().unwrap_or_default());
    r.set(&mut engine.prefix, "engine.prefix", values::prefix);
    r.set(&mut engine.response_timeout, "engine.response_timeout", |t| {
        values::duration(t, SOON..=MINUTE)
    });
    url.map(|_| engine)
}

fn api(r: &mut Reader, admin_listen: Option<SocketAddr>) -> ApiSettings {
    let mut api = ApiSettings { admin_listen, ..ApiSettings::default() };
    r.set(&mut api.listen, "api.listen", values::address);
    r.set(&mut api.auth_required, "auth.mode", |t| {
        values::word(t, &[("required", true), ("off", false)])
    });
    r.set(&mut api.rate_per_key, "api.rate_per_key", |t| values::whole(t, 0..=u32::MAX));
    r.set(&mut api.head_timeout, "api.head_timeout", |t| values::duration(t, SOON..=10 * MINUTE));
    r.set(&mut api.body_timeout, "api.body_timeout", |t| values::duration(t, SOON..=HOUR));
    let connections = |t: &str| values::whole(t, 1..=100_000).map(|n| n as usize);
    r.set(&mut api.connections_max, "api.connections_max", connections);
    let per_address = &mut api.connections_per_address_max;
    r.set(per_address, "api.connections_per_address_max", connections);
    api
}

fn overwatch(r: &mut Reader, backup: Option<&BackupSettings>) -> OverwatchSettings {
    let backups = backup.map(|backup| backup.ages);
    let mut overwatch = OverwatchSettings { backups, ..OverwatchSettings::default() };
    r.set(&mut overwatch.interval, "overwatch.interval", |t| {
        values::duration(t, 10 * SOON..=10 * MINUTE)
    });
    r.set(&mut overwatch.latency_objective, "overwatch.latency_objective", |t| {
        values::duration(t, LATENCY_OBJECTIVE_MIN..=LATENCY_OBJECTIVE_MAX)
    });
    r.set(&mut overwatch.ledger_free_min, "overwatch.ledger_free_min", values::bytes);
    overwatch.ledger_size_max = r.read("overwatch.ledger_size_max", values::bytes);
    r.set(&mut overwatch.remind_every, "overwatch.remind_every", |t| {
        values::duration(t, 5 * MINUTE..=7 * 24 * HOUR)
    });
    overwatch
}

fn worker(r: &mut Reader) -> WorkerSettings {
    let mut worker = WorkerSettings::default();
    r.set(&mut worker.name, "worker.name", values::label);
    r.set(&mut worker.namespace, "worker.namespace", |t| {
        let namespace: Namespace = t.parse().map_err(|why| format!("{why}"))?;
        if namespace.is_own() {
            return Err("must not be one of the installation's own: schedulers work there".into());
        }
        Ok(namespace)
    });
    r.set(&mut worker.queues, "worker.queues", values::queues);
    r.set(&mut worker.concurrency, "worker.concurrency", |t| values::whole(t, 1..=10_000));
    r.set(&mut worker.rate_limits, "worker.rate_limits", rates::kinds);
    r.set(&mut worker.lease, "worker.lease", |t| values::duration(t, LEASE_MIN..=LEASE_MAX));
    r.set(&mut worker.drain_timeout, "worker.drain_timeout", |t| {
        values::duration(t, Duration::ZERO..=HOUR)
    });
    worker.api_url = r.read("worker.api_url", |t| values::url(t, &["http://", "https://"]));
    worker.api_key = r.read("worker.api_key", |t| Ok(SecretString::from(t)));
    r.set(&mut worker.http_allow_private, "http.allow_private", values::boolean);
    worker.commands_file = r.read("commands.file", |t| Ok(PathBuf::from(t)));
    worker
}
