//! `windlass job retry-all`.

use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::client::{self, Call, Client, ClientArgs};
use crate::exit::{Failure, Outcome};
use crate::output::{self, text};

/// Between two looks at an operation.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Run every ended job that matches again.
#[derive(Debug, Args)]
pub struct RetryAll {
    /// In these states: dead, cancelled, expired, quarantined [default: all four]
    #[arg(long, value_delimiter = ',', value_name = "STATE")]
    state: Vec<String>,
    /// In this queue
    #[arg(long)]
    queue: Option<String>,
    /// Of this kind
    #[arg(long)]
    kind: Option<String>,
    /// With this tag; repeat for several
    #[arg(long)]
    tag: Vec<String>,
    /// Text in kind, tags or error
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Accepted at or after this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    created_after: Option<String>,
    /// Accepted before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    created_before: Option<String>,
    /// All of the namespace, where nothing else says which
    #[arg(long)]
    all: bool,
    /// At most so many per second; 0 is no limit [default: 100]
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Only count them
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Wait until it has ended; exit 3 if it did not get to the end
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub async fn run(args: RetryAll) -> Outcome {
    let filter = filter(&args);
    if filter.is_empty() && !args.all {
        let text =
            "say which jobs, such as --state dead --queue mail, or --all; --dry-run counts them";
        return Err(Failure::Usage(text.into()));
    }
    let body = json!({
        "action": "retry", "filter": filter, "rate": args.rate, "dry_run": args.dry_run,
    });
    let (client, key) = (Client::new(&args.client)?, client::fresh_key());
    let call = Call::post("/v1/jobs/actions").json(&body).idempotent(&key);
    let mut answer = client.call(call).await?.body;
    if args.wait {
        let path = format!("/v1/operations/{}", client::segment(&text(&answer, "id"))?);
        while text(&answer, "state") == "running" {
            tokio::time::sleep(LOOK_EVERY).await;
            answer = client.call(Call::get(&path)).await?.body;
        }
    }
    output::members(&answer, args.client.output)?;
    match (args.wait, text(&answer, "state").as_str()) {
        (true, state) if state != "succeeded" => {
            Err(Failure::Check(format!("the retry {state}: {}", text(&answer, "error"))))
        }
        _ => Ok(()),
    }
}

fn filter(args: &RetryAll) -> Map<String, Value> {
    let list = |items: &[String]| (!items.is_empty()).then(|| json!(items));
    let one = |item: &Option<String>| item.as_ref().map(|item| json!(item));
    [
        ("states", list(&args.state)),
        ("queue", one(&args.queue)),
        ("kind", one(&args.kind)),
        ("tags", list(&args.tag)),
        ("q", one(&args.search)),
        ("created_after", one(&args.created_after)),
        ("created_before", one(&args.created_before)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect()
}
