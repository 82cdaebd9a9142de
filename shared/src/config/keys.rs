//! Every setting there is: its name, its default, whether it is a secret, and what it means.

use std::fmt;
use std::path::PathBuf;

use super::Profile;

/// One setting.
pub(super) struct Known {
    /// `section.key`, or `profile`.
    pub key: &'static str,
    /// Its default as text; `None`: it has none and may be absent.
    pub default: Option<&'static str>,
    /// What of it may be shown.
    pub secrecy: Secrecy,
    /// What it means, with its unit and bounds.
    pub meaning: &'static str,
}

/// What of a value may be shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrecy {
    /// All.
    Open,
    /// All but the password in an address.
    Url,
    /// Nothing.
    Secret,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The code.
    Default,
    /// What `windlass dev` presumes.
    Dev,
    /// The preset of a profile.
    Profile(Profile),
    /// A settings file.
    File(PathBuf),
    /// An environment variable of this name.
    Env(String),
    /// A flag of the command.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Dev => f.write_str("default of dev"),
            Self::Profile(profile) => write!(f, "profile {profile}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

const fn open(key: &'static str, default: &'static str, meaning: &'static str) -> Known {
    Known { key, default: Some(default), secrecy: Secrecy::Open, meaning }
}
const fn optional(key: &'static str, secrecy: Secrecy, meaning: &'static str) -> Known {
    Known { key, default: None, secrecy, meaning }
}

/// In the order in which they are shown.
pub(super) const KNOWN: &[Known] = &[
    open(
        "profile",
        "development",
        "development, staging, production or test: a preset of the rest",
    ),
    optional("ledger.url", Secrecy::Url, "postgres://… or sqlite://PATH (sqlite: dev only)"),
    open("ledger.pool_max", "10", "connections for reads and rare writes, 1 to 500"),
    open("ledger.writers", "2", "tasks that commit submissions, 1 to 16"),
    optional(
        "engine.url",
        Secrecy::Url,
        "redis://, rediss://, redis+sentinel://host1,host2/name, redis+cluster://host1,host2, or embedded (dev only)",
    ),
    open("engine.prefix", "w", "first part of every key; 1 to 32 of a-z A-Z 0-9 . _ -"),
    open("engine.response_timeout", "2s", "longest wait for one answer, 100ms to 60s"),
    open("api.listen", "127.0.0.1:8080", "address and port of the public API"),
    open("api.rate_per_key", "0", "requests per second and key; 0 is no limit"),
    open("api.head_timeout", "10s", "a request's head must have arrived by then, 100ms to 10m"),
    open("api.body_timeout", "30s", "a request's body must have arrived by then, 100ms to 1h"),
    open("api.connections_max", "4096", "most open connections, 1 to 100000"),
    open(
        "api.connections_per_address_max",
        "1024",
        "most open connections of one address, 1 to 100000",
    ),
    optional(
        "api.cursor_secret",
        Secrecy::Secret,
        "signs the cursors of lists; derived from the ledger's address when not set",
    ),
    optional(
        "admin.listen",
        Secrecy::Open,
        "probes and metrics; 127.0.0.1:9090 (api), :9091 (worker), :9092 (scheduler); dev: its one port",
    ),
    open("worker.name", "worker", "label of this worker, 1 to 64 characters"),
    open("worker.namespace", "default", "where it works"),
    open("worker.queues", "default", "queues with weights, such as default,io:3"),
    open("worker.concurrency", "16", "slots, 1 to 10000"),
    optional(
        "worker.rate_limits",
        Secrecy::Open,
        "most starts of kinds by this worker alone, such as http.request=50/s,mail.send=600/1m burst 10; a table in the file",
    ),
    open("worker.lease", "15s", "lease of a job, 3s to 1h; extended while the job runs"),
    open("worker.drain_timeout", "30s", "time to finish on SIGTERM, 0s to 1h"),
    optional("worker.api_url", Secrecy::Url, "where logs, progress and large values go"),
    optional("worker.api_key", Secrecy::Secret, "with this key"),
    open("scheduler.retention", "7d", "what has ended is kept this long, 1m to 3650d"),
    optional("retention.succeeded", Secrecy::Open, "jobs that ended so; 1m to 3650d"),
    optional("retention.dead", Secrecy::Open, "jobs that ended so; 1m to 3650d"),
    optional("retention.cancelled", Secrecy::Open, "jobs that ended so; 1m to 3650d"),
    optional("retention.expired", Secrecy::Open, "jobs that ended so; 1m to 3650d"),
    optional("retention.quarantined", Secrecy::Open, "jobs that ended so; 1m to 3650d"),
    optional(
        "retention.namespaces",
        Secrecy::Open,
        "jobs of namespaces, before the settings above, such as noisy=1d,audit=365d,audit/dead=730d",
    ),
    open(
        "retention.clock_wait",
        "10m",
        "nothing is deleted before the ledger's clock has run evenly for so long, 0s to 1h",
    ),
    open("scheduler.system_slots", "2", "the installation's own jobs that run at once, 1 to 16"),
    optional(
        "backup.store",
        Secrecy::Url,
        "where backups go: a folder, s3://bucket/path, gs://… or az://…; none are made without",
    ),
    optional("backup.key", Secrecy::Secret, "signs backups; `windlass backup keygen` makes one"),
    optional(
        "backup.recipients",
        Secrecy::Open,
        "age public keys to encrypt for, such as age1…,age1…",
    ),
    optional(
        "backup.identity_file",
        Secrecy::Open,
        "age secret keys, to check and restore encrypted backups",
    ),
    open("backup.keep", "14", "the newest so many backups are kept, 1 to 10000"),
    open("backup.keep_for", "0s", "younger ones are kept as well, 0s to 3650d"),
    optional(
        "backup.drill_url",
        Secrecy::Url,
        "postgres://… where drills make their databases; default: the ledger's server",
    ),
    optional(
        "backup.restore_url",
        Secrecy::Secret,
        "an empty database that the API may have backups restored into: postgres://… or sqlite://…",
    ),
    open("backup.drill_max", "5m", "a drill that takes longer has failed, 1s to 24h"),
    open("backup.age_max", "26h", "an older newest backup is an alert, 1m to 3650d"),
    open("backup.drill_age_max", "8d", "no drill that passed for longer is an alert, 1m to 3650d"),
    open("overwatch.interval", "10s", "how often the leader looks at the installation, 1s to 10m"),
    open(
        "overwatch.latency_objective",
        "60s",
        "a ready job that waits longer is late, unless its queue has its own, 1s to 24h",
    ),
    open(
        "overwatch.ledger_free_min",
        "1GiB",
        "less free space on the volume of a SQLite ledger is an alert; 0: never",
    ),
    optional(
        "overwatch.ledger_size_max",
        Secrecy::Open,
        "a larger database of the ledger is an alert, such as 500GiB",
    ),
    open("overwatch.remind_every", "4h", "what stays critical is told again, 5m to 7d"),
    open("log.format", "auto", "json, text, or auto: text on a terminal, else json"),
    open("log.level", "info", "filter directives, such as warn,windlass_worker=debug"),
    open("auth.mode", "required", "required or off; off only on loopback, never in production"),
    open(
        "http.allow_private",
        "false",
        "true lets http.request and callbacks reach private and loopback addresses",
    ),
    optional("commands.file", Secrecy::Open, "TOML of the templates that command.run may use"),
];

/// The setting of this name.
pub(super) fn known(key: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.key == key)
}

/// The environment variable that sets `key`.
pub(super) fn env_name(key: &str) -> String {
    format!("WINDLASS_{}", key.to_ascii_uppercase().replace('.', "__"))
}

/// The known key that `key` is most likely to mean; `None` when nothing is close.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let last = |k: &'static str| k.rsplit('.').next().unwrap_or(k);
    KNOWN
        .iter()
        .map(|known| {
            // Right key in the wrong section, or no section at all, is nearer than any misspelling.
            let same_name = key.rsplit('.').next() == Some(last(known.key));
            let edits = edits(key, known.key);
            (if same_name { edits.min(2) } else { edits }, edits, known.key)
        })
        .min()
        .filter(|(distance, _, candidate)| *distance <= (candidate.len() / 2).max(2))
        .map(|(_, _, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(128).collect(), b.chars().collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_legal_value() {
        let inputs = super::super::Inputs::default();
        super::super::load(&inputs).unwrap();
    }

    #[test]
    fn misspelt_keys_are_led_to_the_right_one() {
        for (wrong, right) in [
            ("worker.concurency", "worker.concurrency"),
            ("worker.conucrrency", "worker.concurrency"),
            ("ledgr.url", "ledger.url"),
            ("api.drain_timeout", "worker.drain_timeout"),
            ("listen", "api.listen"),
        ] {
            let found = nearest(wrong).unwrap();
            if wrong == "listen" {
                assert!(found.ends_with(".listen"));
            } else {
                assert_eq!(found, right, "{wrong}");
            }
        }
        assert_eq!(nearest("qqqqqqqqqqqqqqqqqqqqqqqqqqqqq"), None);
    }

    #[test]
    fn environment_names_follow_the_contract() {
        assert_eq!(env_name("worker.drain_timeout"), "WINDLASS_WORKER__DRAIN_TIMEOUT");
        assert_eq!(env_name("profile"), "WINDLASS_PROFILE");
    }
}
