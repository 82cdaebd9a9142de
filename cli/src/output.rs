//! What commands print: tables for people, JSON for programs. Standard output carries nothing else.

use std::io::Write;

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use crate::exit::Outcome;

/// The shape of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs: the answer as it came.
    Json,
}

/// Writes a line to standard output.
pub fn line(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// Prints a value as indented JSON.
pub fn json(value: &Value) -> Outcome {
    line(&format!("{value:#}"))
}

/// Prints rows under headings; just the headings where there are none.
pub fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Outcome {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(headings.iter().map(|h| h.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| clean(cell)));
    }
    line(&trimmed(&table))
}

/// Prints one thing as lines of name and value; leaves out what is absent.
pub fn fields(pairs: &[(&str, String)]) -> Outcome {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        table.add_row([(*name).to_owned(), clean(value)]);
    }
    line(&trimmed(&table))
}

/// Prints the members of an object: as it came, or one to a line, nested ones as `outer.inner`.
pub fn members(value: &Value, output: Output) -> Outcome {
    if output == Output::Json {
        return json(value);
    }
    let mut pairs = Vec::new();
    for (name, member) in value.as_object().into_iter().flatten() {
        match member {
            Value::Object(inner) => {
                pairs.extend(inner.keys().map(|key| (format!("{name}.{key}"), text(member, key))));
            }
            _ => pairs.push((name.clone(), text(value, name))),
        }
    }
    fields(&pairs.iter().map(|(name, text)| (name.as_str(), text.clone())).collect::<Vec<_>>())
}

fn trimmed(table: &Table) -> String {
    table.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Texts that come from jobs and servers must not drive the terminal.
pub fn clean(text: &str) -> String {
    let escaped = |c: char| {
        if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() }
    };
    text.chars().map(escaped).collect()
}

/// A member of a JSON object as text: strings bare, absent and null empty, the rest as JSON.
pub fn text(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
