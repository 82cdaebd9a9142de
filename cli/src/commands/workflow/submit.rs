//! `windlass workflow submit`.

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::{document, watch};
use crate::client::{self, Call, Client, ClientArgs};
use crate::exit::Outcome;
use crate::input::json_of;
use crate::output::{self, Output, text};

const EXAMPLES: &str = "\
Examples:
  windlass workflow submit etl.yaml
  windlass workflow submit etl.yaml --input '{\"day\": \"2026-01-31\"}' --wait
  windlass workflow submit --definition etl --version 3 --input @input.json --watch
  cat etl.json | windlass workflow submit -

A document, in YAML or JSON:
  name: hello
  input: { who: world }
  steps:
    - id: greet
      kind: echo
      payload: { text: \"hello ${{ input.who }}\" }
    - id: shout
      kind: echo
      needs: [greet]
      payload: \"${{ steps.greet.output.text }}!\"

Submitting is safe to repeat under the same --idempotency-key; without one, the command makes one \
for its own retries.";

/// Start a run, of a file or of a stored definition.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SubmitArgs {
    /// The document, YAML or JSON; - for standard input
    #[arg(required_unless_present = "definition", conflicts_with = "definition")]
    file: Option<String>,
    /// Run this stored definition instead
    #[arg(long, value_name = "NAME")]
    definition: Option<String>,
    /// Which version of it [default: the latest]
    #[arg(long, requires = "definition", value_name = "N")]
    version: Option<u32>,
    /// What `input` is in expressions, in place of the document's
    #[arg(long, value_name = "JSON|@FILE|-")]
    input: Option<String>,
    /// A word to find the run by, beside the document's; repeat for several
    #[arg(long)]
    tag: Vec<String>,
    /// The same key with the same document returns the first answer again
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    follow: watch::FollowArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub async fn run(args: SubmitArgs) -> Outcome {
    let client = Client::new(&args.client)?;
    let body = body(&args)?;
    let made = client::fresh_key();
    let key = args.idempotency_key.as_deref().unwrap_or(&made);
    let call = Call::post("/v1/workflows").json(&body).idempotent(key);
    let run = client.call(call).await?.body;
    started(&client, &run, &args.follow, args.client.output).await
}

/// Says which run was started, and follows it if that is wanted.
pub async fn started(
    client: &Client,
    run: &Value,
    follow: &watch::FollowArgs,
    output: Output,
) -> Outcome {
    if follow.is_wanted() {
        let id = text(run, "id").parse().context("the server's answer has no run id")?;
        return watch::until_ended(client, id, follow, output).await;
    }
    match output {
        Output::Json => output::json(run),
        Output::Table => output::line(&output::clean(&text(run, "id"))),
    }
}

fn body(args: &SubmitArgs) -> Outcome<Value> {
    let mut body = match (&args.file, &args.definition) {
        (Some(file), _) => document::read(file)?,
        (None, Some(name)) => json!({ "definition": name }),
        (None, None) => unreachable!("clap asks for one of them"),
    };
    if let Some(version) = args.version {
        body["version"] = version.into();
    }
    if let Some(input) = &args.input {
        body["input"] = json_of("--input", input)?;
    }
    if !args.tag.is_empty() {
        let mut tags = body["tags"].as_array().cloned().unwrap_or_default();
        tags.extend(args.tag.iter().map(|tag| Value::from(tag.as_str())));
        body["tags"] = tags.into();
    }
    Ok(body)
}
