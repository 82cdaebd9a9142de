//! What overwatch is set to, and who is notified: `[[overwatch.notify]]` of the settings file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

use super::Source;
use super::load::Problem;
use crate::model::alert::Severity;

/// Most receivers.
pub const RECEIVERS_MAX: usize = 32;
/// Largest file of a secret, in bytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// What overwatch is set to.
#[derive(Debug, Clone)]
pub struct OverwatchSettings {
    /// How often the leader looks.
    pub interval: Duration,
    /// A ready job that waits longer is late, where its queue has no objective of its own.
    pub latency_objective: Duration,
    /// Less free space on the volume of a SQLite ledger is an alert, in bytes.
    pub ledger_free_min: u64,
    /// A larger database is an alert, in bytes; `None`: none is.
    pub ledger_size_max: Option<u64>,
    /// How often an alert that stays critical is told again.
    pub remind_every: Duration,
    /// Who is notified.
    pub receivers: Vec<ReceiverSettings>,
    /// How old backups and drills may be; `None`: none are wanted.
    pub backups: Option<super::BackupAges>,
}

impl Default for OverwatchSettings {
    /// Every 10 s, a minute, 1 GiB and no bound, 4 h, nobody.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            latency_objective: Duration::from_secs(60),
            ledger_free_min: 1 << 30,
            ledger_size_max: None,
            remind_every: Duration::from_secs(4 * 3600),
            receivers: Vec::new(),
            backups: None,
        }
    }
}

/// One that is notified.
#[derive(Debug, Clone)]
pub struct ReceiverSettings {
    /// Its name; unique.
    pub name: String,
    /// Alerts below it are not told.
    pub min_severity: Severity,
    /// How.
    pub channel: Channel,
}

/// How a receiver is notified. Addresses of hooks are secrets: whoever knows one may write there.
#[derive(Debug, Clone)]
pub enum Channel {
    /// JSON by POST, signed where there is a secret.
    Webhook {
        /// Where to.
        url: SecretString,
        /// Signs each message (HMAC-SHA256).
        secret: Option<SecretString>,
    },
    /// A text by POST, as Slack and those that are compatible with it take it.
    Slack {
        /// Where to.
        url: SecretString,
    },
    /// A message through an SMTP server.
    Email(Box<Email>),
}

/// A way through an SMTP server.
#[derive(Debug, Clone)]
pub struct Email {
    /// The server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is secured.
    pub tls: MailTls,
    /// User and password.
    pub login: Option<(String, SecretString)>,
    /// From whom.
    pub from: String,
    /// To whom.
    pub to: Vec<String>,
}

/// How a connection to an SMTP server is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailTls {
    /// Begun in the clear, and refused unless the server goes over to TLS.
    Starttls,
    /// TLS from the first byte.
    Tls,
    /// None: on loopback alone.
    None,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(rename = "type")]
    sort: String,
    name: String,
    min_severity: Option<Severity>,
    url: Option<String>,
    url_env: Option<String>,
    url_file: Option<PathBuf>,
    secret: Option<String>,
    secret_env: Option<String>,
    secret_file: Option<PathBuf>,
    host: Option<String>,
    port: Option<u16>,
    tls: Option<MailTls>,
    user: Option<String>,
    password: Option<String>,
    password_env: Option<String>,
    password_file: Option<PathBuf>,
    from: Option<String>,
    to: Option<Vec<String>>,
}

/// The receivers of a settings file; what is wrong is left out, and noted. Values are never named: they may be secrets.
pub(super) fn receivers(
    written: Vec<toml::Value>,
    path: Option<&Path>,
    env: &[(String, String)],
    problems: &mut Vec<Problem>,
) -> Vec<ReceiverSettings> {
    let mut receivers: Vec<ReceiverSettings> = Vec::new();
    let source = Source::File(path.unwrap_or(Path::new("")).to_owned());
    for (n, value) in written.into_iter().enumerate() {
        let read = match receiver(value, env) {
            Ok(_) if receivers.len() >= RECEIVERS_MAX => Err(format!("more than {RECEIVERS_MAX}")),
            Ok(read) if receivers.iter().any(|other| other.name == read.name) => {
                Err("has the name of another".to_owned())
            }
            read => read,
        };
        match read {
            Ok(read) => receivers.push(read),
            Err(why) => problems.push(Problem::of_value(
                "overwatch.notify",
                source.clone(),
                format!("receiver {}: {why}", n + 1),
            )),
        }
    }
    receivers
}

fn receiver(value: toml::Value, env: &[(String, String)]) -> Result<ReceiverSettings, String> {
    // The parser's own text may quote a value.
    let written: Written = value.try_into().map_err(|error: toml::de::Error| {
        let text = error.message();
        if text.starts_with("unknown field") || text.starts_with("missing field") {
            text.to_owned()
        } else {
            "a value is of a wrong type, or a word that is not known".to_owned()
        }
    })?;
    let name = super::values::label(&written.name).map_err(|why| format!("name {why}"))?;
    let min_severity = written.min_severity.unwrap_or(Severity::Warning);
    let url = one_of("url", written.url, written.url_env, written.url_file, env);
    let secret = one_of("secret", written.secret, written.secret_env, written.secret_file, env);
    let channel = match written.sort.as_str() {
        "webhook" => Channel::Webhook { url: address(url?)?, secret: secret? },
        "slack" => Channel::Slack { url: address(url?)? },
        "email" => {
            let (plain, from_env, file) =
                (written.password, written.password_env, written.password_file);
            let password = one_of("password", plain, from_env, file, env)?;
            let host = written.host.filter(|host| !host.is_empty()).ok_or("needs a host")?;
            let tls = written.tls.unwrap_or(MailTls::Starttls);
            let local = matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1");
            if tls == MailTls::None && !local {
                return Err("tls = \"none\" is for loopback alone".into());
            }
            let usual = match tls {
                MailTls::Starttls => 587,
                MailTls::Tls => 465,
                MailTls::None => 25,
            };
            let login = match (written.user, password) {
                (Some(user), Some(password)) => Some((user, password)),
                (None, None) => None,
                _ => return Err("needs both a user and a password, or neither".into()),
            };
            let to = written.to.filter(|to| !to.is_empty()).ok_or("needs somebody in to")?;
            let from = written.from.ok_or("needs a from")?;
            let port = written.port.unwrap_or(usual);
            Channel::Email(Box::new(Email { host, port, tls, login, from, to }))
        }
        _ => return Err("type must be one of: webhook, slack, email".into()),
    };
    Ok(ReceiverSettings { name, min_severity, channel })
}

fn address(url: Option<SecretString>) -> Result<SecretString, String> {
    use secrecy::ExposeSecret as _;
    let url = url.ok_or("needs a url, url_env or url_file")?;
    super::values::url(url.expose_secret(), &["http://", "https://"])
        .map_err(|why| format!("url {why}"))?;
    Ok(url)
}

/// A value that is written, or named by a variable of the environment, or by a file.
fn one_of(
    what: &str,
    plain: Option<String>,
    from_env: Option<String>,
    file: Option<PathBuf>,
    env: &[(String, String)],
) -> Result<Option<SecretString>, String> {
    let text = match (plain, from_env, file) {
        (None, None, None) => return Ok(None),
        (Some(text), None, None) => text,
        (None, Some(name), None) => {
            let found = env.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.clone()).ok_or(format!("{what}_env names no variable"))?
        }
        (None, None, Some(path)) => {
            let unread = |_| format!("{what}_file cannot be read");
            if std::fs::metadata(&path).map_err(unread)?.len() > SECRET_BYTES_MAX {
                return Err(format!("{what}_file is too large"));
            }
            std::fs::read_to_string(&path).map_err(unread)?.trim_end().to_owned()
        }
        _ => return Err(format!("only one of {what}, {what}_env and {what}_file")),
    };
    if text.is_empty() {
        return Err(format!("{what} is empty"));
    }
    Ok(Some(SecretString::from(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, env: &[(&str, &str)]) -> Result<Vec<ReceiverSettings>, String> {
        let table: toml::Table = text.parse().unwrap();
        let written = table["notify"].as_array().unwrap().clone();
        let env: Vec<_> = env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let mut problems = Vec::new();
        let read = receivers(written, None, &env, &mut problems);
        if problems.is_empty() { Ok(read) } else { Err(format!("{problems:?}")) }
    }

    #[test]
    fn receivers_of_each_sort_are_read() {
        let text = r#"
            [[notify]]
            type = "webhook"
            name = "ops"
            url = "https://example.org/hook"
            secret_env = "HOOK"
            min_severity = "critical"
            [[notify]]
            type = "slack"
            name = "chat"
            url_env = "SLACK"
            [[notify]]
            type = "email"
            name = "mail"
            host = "smtp.example.org"
            from = "windlass@example.org"
            to = ["ops@example.org"]
        "#;
        let read = read(text, &[("HOOK", "canary"), ("SLACK", "https://example.org/s")]).unwrap();
        assert_eq!(read.len(), 3);
        assert_eq!(read[0].min_severity, Severity::Critical);
        assert!(matches!(&read[0].channel, Channel::Webhook { secret: Some(_), .. }));
        assert_eq!(read[1].min_severity, Severity::Warning);
        let Channel::Email(email) = &read[2].channel else { panic!("{:?}", read[2]) };
        assert_eq!((email.port, email.tls), (587, MailTls::Starttls));
        assert!(!format!("{read:?}").contains("canary"), "secrets do not print");
    }

    #[test]
    fn what_is_wrong_is_said_without_its_value() {
        for text in [
            "[[notify]]\ntype = \"canary\"\nname = \"a\"",
            "[[notify]]\ntype = \"webhook\"\nname = \"a\"\nurl = \"ftp://canary\"",
            "[[notify]]\ntype = \"webhook\"\nname = \"a\"",
            "[[notify]]\ntype = \"slack\"\nname = \"a\"\nurl_env = \"canary\"",
            "[[notify]]\ntype = \"slack\"\nname = \"a\"\nurl = \"http://canary\"\nurl_env = \"X\"",
            "[[notify]]\ntype = \"slack\"\nname = \"a\"\nurl = \"http://canary\"\nmin_severity = \"canary\"",
            "[[notify]]\ntype = \"slack\"\nname = \"a\"\nurl = \"http://x\"\n[[notify]]\ntype = \"slack\"\nname = \"a\"\nurl = \"http://canary\"",
            "[[notify]]\ntype = \"email\"\nname = \"a\"\nhost = \"canary\"\ntls = \"none\"\nfrom = \"a@b\"\nto = [\"a@b\"]",
            "[[notify]]\ntype = \"email\"\nname = \"a\"\nhost = \"h\"\nuser = \"canary\"\nfrom = \"a@b\"\nto = [\"a@b\"]",
        ] {
            let why = read(text, &[]).expect_err(text);
            assert!(!why.contains("canary"), "{why}");
        }
    }
}
