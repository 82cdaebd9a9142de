//! The layers that a user writes: file, environment, flags. Later ones win, key by key.

use std::collections::BTreeMap;
use std::path::Path;

use super::keys::{self, Source};
use super::load::Problem;

/// Largest settings file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Settings that may be a table in the file: as text they are pairs, `a=1,b=2`.
const PAIRS: [&str; 2] = ["retention.namespaces", "worker.rate_limits"];

/// A value given by a flag of the command.
#[derive(Debug, Clone)]
pub struct Flag {
    /// The setting that it gives.
    pub key: &'static str,
    /// As typed: `--listen`.
    pub name: &'static str,
    /// Its value as text.
    pub value: String,
}

/// A value as text, and where it came from.
#[derive(Debug, Clone)]
pub(super) struct Sourced {
    pub text: String,
    pub source: Source,
}

/// Values by key.
pub(super) type Layer = BTreeMap<&'static str, Sourced>;

/// Adds the values of a TOML file: `profile`, and tables named like the sections. Its `[[overwatch.notify]]`, which are
/// no settings of one value.
pub(super) fn add_file(
    layer: &mut Layer,
    problems: &mut Vec<Problem>,
    path: &Path,
) -> Vec<toml::Value> {
    let mut notify = Vec::new();
    let source = Source::File(path.to_owned());
    let table = match read_table(path) {
        Ok(table) => table,
        Err(why) => {
            problems.push(Problem::of_file(path, why));
            return notify;
        }
    };
    for (name, value) in table {
        match value {
            toml::Value::Table(section) => {
                for (key, value) in section {
                    if (name.as_str(), key.as_str()) == ("overwatch", "notify")
                        && let toml::Value::Array(items) = value
                    {
                        notify = items;
                        continue;
                    }
                    add_value(layer, problems, &format!("{name}.{key}"), &value, &source);
                }
            }
            value => add_value(layer, problems, &name, &value, &source),
        }
    }
    notify
}

fn read_table(path: &Path) -> Result<toml::Table, String> {
    let size = std::fs::metadata(path).map_err(|e| format!("cannot be read: {e}"))?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}"))?;
    text.parse::<toml::Table>().map_err(|e| {
        // Only the message and the line: the parser's own text quotes the line, which may hold a secret.
        let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        format!("is not TOML: line {line}: {}", e.message())
    })
}

fn add_value(
    layer: &mut Layer,
    problems: &mut Vec<Problem>,
    key: &str,
    value: &toml::Value,
    source: &Source,
) {
    let Some(known) = keys::known(key) else {
        return problems.push(Problem::unknown_key(key, source.clone()));
    };
    let text = match value {
        toml::Value::Table(table) if PAIRS.contains(&known.key) => pairs_of(table, ""),
        value => text_of(value),
    };
    match text {
        Some(text) => {
            layer.insert(known.key, Sourced { text, source: source.clone() });
        }
        None => problems.push(Problem::of_value(
            known.key,
            source.clone(),
            if PAIRS.contains(&known.key) {
                "must be a text, or a table of texts".into()
            } else {
                "must be a text, a number, true or false, or a list of texts".into()
            },
        )),
    }
}

fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(n) => Some(n.to_string()),
        toml::Value::Float(n) => Some(n.to_string()),
        toml::Value::Boolean(b) => Some(b.to_string()),
        toml::Value::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            texts.map(|texts| texts.join(","))
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// A name with dots that was not put in quotes is a table in a table.
fn pairs_of(table: &toml::Table, above: &str) -> Option<String> {
    let pair = |(name, value): (&String, &toml::Value)| match value {
        toml::Value::String(text) => Some(format!("{above}{name}={text}")),
        toml::Value::Table(table) => pairs_of(table, &format!("{above}{name}.")),
        _ => None,
    };
    let pairs: Option<Vec<String>> = table.iter().map(pair).collect();
    Some(pairs?.join(","))
}

/// Adds `WINDLASS_PROFILE` and every `WINDLASS_<SECTION>__<KEY>`. Other `WINDLASS_` variables belong to the
/// client commands, or are made by the platform (Kubernetes makes some for a service of our name); those
/// that look like a setting with one underscore missing are noted in `notes`.
pub(super) fn add_env(
    layer: &mut Layer,
    problems: &mut Vec<Problem>,
    notes: &mut Vec<String>,
    env: &[(String, String)],
) {
    for (name, value) in env {
        let Some(rest) = name.strip_prefix("WINDLASS_") else { continue };
        let source = Source::Env(name.clone());
        if rest == "PROFILE" {
            layer.insert("profile", Sourced { text: value.clone(), source });
            continue;
        }
        let Some((section, key)) = rest.split_once("__") else {
            let meant = keys::KNOWN.iter().find(|known| {
                known.key.contains('.') && known.key.replace('.', "_").eq_ignore_ascii_case(rest)
            });
            if let Some(known) = meant {
                let right = keys::env_name(known.key);
                notes.push(format!("{name} is not a setting and was ignored; {right} is"));
            }
            continue;
        };
        let key = format!("{}.{}", section.to_ascii_lowercase(), key.to_ascii_lowercase());
        match keys::known(&key) {
            // The exact name only: two spellings of one variable must not fight over a setting.
            Some(known) if keys::env_name(known.key) == *name => {
                layer.insert(known.key, Sourced { text: value.clone(), source });
            }
            Some(known) => problems.push(Problem::of_value(
                known.key,
                source,
                format!("must be written {}", keys::env_name(known.key)),
            )),
            None => problems.push(Problem::unknown_key(&key, source)),
        }
    }
}

/// Adds what the command's flags say.
pub(super) fn add_flags(layer: &mut Layer, flags: &[Flag]) {
    for flag in flags {
        let source = Source::Flag(flag.name);
        layer.insert(flag.key, Sourced { text: flag.value.clone(), source });
    }
}
