//! `windlass loadtest results` and `result`: those on record.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;
use uuid::Uuid;
use windlass_loadtest::profile::threshold::short;
use windlass_loadtest::result::LoadResult;

use crate::client::{Call, Client, ClientArgs};
use crate::exit::Outcome;
use crate::output::{self, Output, text};

/// Figures of a list.
const SHOWN: [&str; 3] = ["ended_per_second", "answer_p99_ms", "end_p99_ms"];

/// List results on record, latest first
#[derive(Debug, Args)]
pub(super) struct ResultsArgs {
    /// Of this profile
    #[arg(long)]
    profile: Option<String>,
    /// Most results shown
    #[arg(long, default_value = "20", value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    #[command(flatten)]
    client: ClientArgs,
}

/// Show a result on record again
#[derive(Debug, Args)]
pub(super) struct ResultArgs {
    /// The result
    id: Uuid,
    /// Write the report with plots to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn list(args: ResultsArgs) -> Outcome {
    let call = Call::get("/v1/load-results")
        .query("profile", args.profile.as_ref())
        .query("limit", Some(args.limit));
    let page = Client::new(&args.client)?.call(call).await?.body;
    if args.client.output == Output::Json {
        return output::json(&page);
    }
    let rows = page["items"].as_array().into_iter().flatten().map(|item| {
        let figure = |name: &str| item["figures"][name].as_f64().map(short).unwrap_or_default();
        let passed = if item["passed"] == true { "passed" } else { "FAILED" };
        let mut row = vec![text(item, "id"), text(item, "profile"), passed.to_owned()];
        row.extend([text(item, "began_at"), text(item, "machine")]);
        row.extend(SHOWN.map(figure));
        row
    });
    let mut headings = vec!["id", "profile", "", "began at", "machine"];
    headings.extend(SHOWN);
    output::table(&headings, rows)
}

pub(super) async fn show(args: ResultArgs) -> Outcome {
    let path = format!("/v1/load-results/{}", args.id);
    let mut stored = Client::new(&args.client)?.call(Call::get(&path)).await?.body;
    let whole: Value = stored["result"].take();
    if args.client.output == Output::Json && args.html.is_none() {
        return output::json(&whole);
    }
    let result: LoadResult =
        serde_json::from_value(whole).context("the result was made by another version")?;
    if let Some(file) = &args.html {
        let page = windlass_loadtest::html::page(&result);
        std::fs::write(file, page).with_context(|| format!("cannot write {}", file.display()))?;
        return Ok(());
    }
    super::run::show(&result)
}
