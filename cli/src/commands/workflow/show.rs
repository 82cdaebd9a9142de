//! A run on the terminal.

use serde_json::Value;

use crate::exit::Outcome;
use crate::output::{self, Output, text};

/// Most characters of an error or output beside a step.
const NOTE_MAX: usize = 100;

/// Shows one run and its steps.
pub fn run(run: &Value, output: Output) -> Outcome {
    if output == Output::Json {
        return output::json(run);
    }
    let tags: Vec<&str> =
        run["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let definition = match (text(run, "definition"), text(run, "version")) {
        (name, _) if name.is_empty() => name,
        (name, version) => format!("{name} version {version}"),
    };
    output::fields(&[
        ("id", text(run, "id")),
        ("name", text(run, "name")),
        ("state", text(run, "state")),
        ("progress", progress(run)),
        ("steps", counts(run)),
        ("definition", definition),
        ("started by", text(&run["parent"], "id")),
        ("repeats", text(run, "rerun_of")),
        ("input", show_value(&run["input"])),
        ("created", text(run, "created_at")),
        ("finished", text(run, "finished_at")),
        ("deadline", text(run, "deadline")),
        ("tags", tags.join(", ")),
        ("error", error(&run["error"])),
        ("output", show_value(&run["output"])),
    ])?;
    let steps = run["steps"].as_array().into_iter().flatten();
    let rows = steps.map(|step| {
        let items = match &step["items"] {
            Value::Null => String::new(),
            Value::Object(counts) => {
                let parts = counts.iter().map(|(name, n)| format!("{name} {n}"));
                parts.collect::<Vec<_>>().join(", ")
            }
            other => other.to_string(),
        };
        let error = error(&step["error"]);
        let note = match error.is_empty() {
            true if step["waits_for"].is_object() => format!("waits for {}", step["waits_for"]),
            true => show_value(&step["output"]),
            false => error,
        };
        vec![text(step, "id"), text(step, "state"), text(step, "kind"), items, short(&note)]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return Ok(());
    }
    output::line("")?;
    output::table(&["step", "state", "kind", "items", "output or error"], rows)
}

/// A value; nothing for none.
fn show_value(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => short(text.trim_end()),
        other => short(&other.to_string()),
    }
}

/// How far a run is, in per cent.
pub fn progress(run: &Value) -> String {
    // A share from 0 to 1: the cast keeps what is shown.
    run["progress"].as_f64().map_or_else(String::new, |share| format!("{:.0}%", share * 100.0))
}

/// `blocked 3, running 1, succeeded 12`.
pub fn counts(run: &Value) -> String {
    let counts = run["counts"].as_object().into_iter().flatten();
    let counts = counts.filter(|(_, n)| n.as_u64() != Some(0));
    counts.map(|(state, n)| format!("{state} {n}")).collect::<Vec<_>>().join(", ")
}

/// `code: message`.
pub fn error(error: &Value) -> String {
    match (text(error, "code"), text(error, "message")) {
        (code, message) if message.is_empty() => code,
        (code, message) => format!("{code}: {message}"),
    }
}

/// The start of a long text.
pub fn short(text: &str) -> String {
    if text.chars().count() <= NOTE_MAX {
        return text.to_owned();
    }
    text.chars().take(NOTE_MAX - 1).chain(['…']).collect()
}
