//! `windlass loadtest list` and `show`.

use clap::Args;
use serde_json::json;
use windlass_loadtest::profile::{Profile, SHIPPED};
use windlass_loadtest::run::figures;
use windlass_shared::model::time::Span;

use crate::exit::{Failure, Outcome};
use crate::output::{self, Output};

/// List the profiles that Windlass ships with
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// The figures that thresholds may be of, instead
    #[arg(long)]
    figures: bool,
    /// What to print
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Print a profile that Windlass ships with
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Its name
    profile: String,
}

pub(super) fn list(args: &ListArgs) -> Outcome {
    if args.figures {
        return figures(args.output);
    }
    let profiles = SHIPPED.iter().map(|(name, text)| {
        let profile = Profile::parse(text).map_err(|why| anyhow::anyhow!("{name}: {why}"))?;
        Ok((*name, Span(profile.length()).to_string(), profile.about))
    });
    let profiles = profiles.collect::<anyhow::Result<Vec<_>>>()?;
    if args.output == Output::Json {
        let items: Vec<_> = profiles
            .iter()
            .map(|(name, length, about)| json!({ "name": name, "length": length, "about": about }))
            .collect();
        return output::json(&json!({ "items": items }));
    }
    let rows =
        profiles.into_iter().map(|(name, length, about)| vec![name.to_owned(), length, about]);
    output::table(&["profile", "length", "what it shows"], rows)
}

fn figures(output: Output) -> Outcome {
    let known = figures::NAMES.iter().map(|(name, text)| ((*name).to_owned(), *text));
    let of_process =
        figures::OF_PROCESS.iter().map(|(name, text)| (format!("PROCESS_{name}"), *text));
    let latencies = [
        (
            "answer_p99_ms",
            "calls, from when they were due to their answer; also p50, p95, p999, max",
        ),
        ("submit_p99_ms", "of one call: submit, batch, workflow, health, status, detail, search"),
        ("start_p99_ms", "from when a job was intended, and due, to its start"),
        ("end_p99_ms", "to its recorded end"),
    ];
    let latencies = latencies.into_iter().map(|(name, text)| (name.to_owned(), text));
    let all: Vec<_> = known.chain(latencies).chain(of_process).collect();
    if output == Output::Json {
        let items: Vec<_> =
            all.iter().map(|(name, text)| json!({ "name": name, "about": text })).collect();
        return output::json(&json!({ "items": items }));
    }
    let rows = all.into_iter().map(|(name, text)| vec![name, text.to_owned()]);
    output::table(&["figure", "what it is"], rows)?;
    output::line("\nOf a stage alone: its name, a dot, and the figure, such as burst.end_max_ms.")
}

pub(super) fn show(args: &ShowArgs) -> Outcome {
    match SHIPPED.iter().find(|(name, _)| *name == args.profile) {
        Some((_, text)) => output::line(text.trim_end()),
        None => Err(unknown(&args.profile)),
    }
}

/// There is no such profile.
pub(super) fn unknown(name: &str) -> Failure {
    let names: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
    Failure::Usage(format!(
        "there is no profile {name:?}; there are {}, and files whose names end in .toml",
        names.join(", ")
    ))
}
