//! `windlass workflow definition`: documents kept under a name, with versions.

use clap::{Args, Subcommand};

use super::document;
use crate::client::{self, Call, Client, ClientArgs};
use crate::exit::Outcome;
use crate::output::{self, Output, text};

const EXAMPLES: &str = "\
Examples:
  windlass workflow definition put etl etl.yaml     a new version, unless nothing has changed
  windlass workflow definition list
  windlass workflow definition get etl --version 2
  windlass workflow submit --definition etl --input '{\"day\": \"2026-01-31\"}'

A run keeps the version that it started with.";

/// Keep documents under a name, with versions.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DefinitionArgs {
    #[command(subcommand)]
    command: DefinitionCommand,
}

#[derive(Debug, Subcommand)]
enum DefinitionCommand {
    /// Store a document under a name
    Put(Put),
    /// Show a stored document
    Get(Get),
    /// List definitions, or the versions of one
    List(List),
}

#[derive(Debug, Args)]
struct Put {
    /// Under this name
    name: String,
    /// The document, YAML or JSON; - for standard input
    file: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct Get {
    /// Which
    name: String,
    /// Which version [default: the latest]
    #[arg(long, value_name = "N")]
    version: Option<u32>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct List {
    /// The versions of this one
    name: Option<String>,
    /// How many, 1 to 500
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Go on where the last page ended
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub async fn run(args: DefinitionArgs) -> Outcome {
    match args.command {
        DefinitionCommand::Put(args) => put(args).await,
        DefinitionCommand::Get(args) => get(args).await,
        DefinitionCommand::List(args) => list(args).await,
    }
}

async fn put(args: Put) -> Outcome {
    let path = format!("/v1/definitions/{}", client::segment(&args.name)?);
    let call = document::sent(Call::put(&path), &args.file)?;
    let answer = Client::new(&args.client)?.call(call).await?;
    if args.client.output == Output::Json {
        return output::json(&answer.body);
    }
    let version = text(&answer.body, "version");
    let said = match answer.status.as_u16() {
        201 => format!("stored as version {version}"),
        _ => format!("nothing has changed: it is version {version}"),
    };
    output::line(&output::clean(&said))
}

async fn get(args: Get) -> Outcome {
    let name = client::segment(&args.name)?;
    let path = match args.version {
        Some(version) => format!("/v1/definitions/{name}/versions/{version}"),
        None => format!("/v1/definitions/{name}"),
    };
    let found = Client::new(&args.client)?.call(Call::get(&path)).await?.body;
    if args.client.output == Output::Json {
        return output::json(&found);
    }
    output::fields(&[
        ("name", text(&found, "name")),
        ("version", text(&found, "version")),
        ("created", text(&found, "created_at")),
        ("by", text(&found, "by")),
    ])?;
    match found["source"].as_str() {
        Some(source) => output::line(&output::clean(source)),
        None => output::json(&found["document"]),
    }
}

async fn list(args: List) -> Outcome {
    let path = match &args.name {
        Some(name) => format!("/v1/definitions/{}/versions", client::segment(name)?),
        None => "/v1/definitions".into(),
    };
    let call = Call::get(&path).query("limit", Some(args.limit)).query("cursor", args.cursor);
    let page = Client::new(&args.client)?.call(call).await?.body;
    if args.client.output == Output::Json {
        return output::json(&page);
    }
    let rows = page["items"].as_array().into_iter().flatten();
    let rows =
        rows.map(|d| ["name", "version", "steps", "created_at", "by"].map(|n| text(d, n)).into());
    output::table(&["name", "version", "steps", "created", "by"], rows)?;
    match page["next_cursor"].as_str() {
        Some(cursor) => output::line(&format!("more: --cursor {}", output::clean(cursor))),
        None => Ok(()),
    }
}
