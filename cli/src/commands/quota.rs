//! `windlass quota`: what namespaces may bring in.

use clap::{Args, Subcommand};
use serde_json::{Map, Value};
use windlass_shared::model::name::Namespace;

use crate::client::{Call, Client, ClientArgs};
use crate::exit::{Failure, Outcome};
use crate::output::{self, Output, text};

const EXAMPLES: &str = "\
Examples:
  windlass quota list
  windlass quota set team-a --rate '{\"limit\": 100, \"per\": \"1s\", \"burst\": 500}' --max-jobs 100000
  windlass quota get team-a
  windlass quota remove team-a";

/// Say what namespaces may bring in
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct QuotaArgs {
    #[command(subcommand)]
    command: QuotaCommand,
}

#[derive(Debug, Subcommand)]
enum QuotaCommand {
    /// List namespaces with quotas, and what is used of them
    List(List),
    /// Show a namespace's quotas, and what is used of them
    Get(One),
    /// Set a namespace's quotas, all of them anew
    Set(Set),
    /// Let a namespace bring in what it likes
    Remove(One),
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct One {
    /// Whose
    of: Namespace,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct Set {
    /// Whose
    of: Namespace,
    /// Jobs submitted per time as JSON: {"limit": 100, "per": "1s", "burst": 500}
    #[arg(long, value_name = "JSON")]
    rate: Option<String>,
    /// Unfinished jobs
    #[arg(long)]
    max_jobs: Option<u64>,
    /// Bytes of the payloads of unfinished jobs
    #[arg(long)]
    max_bytes: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub async fn run(args: QuotaArgs) -> Outcome {
    match args.command {
        QuotaCommand::List(args) => list(args).await,
        QuotaCommand::Get(one) => {
            let quotas = Client::new(&one.client)?.call(Call::get(&path_of(&one.of))).await?.body;
            output::members(&quotas, one.client.output)
        }
        QuotaCommand::Set(args) => set(args).await,
        QuotaCommand::Remove(one) => {
            Client::new(&one.client)?.call(Call::delete(&path_of(&one.of))).await?;
            Ok(())
        }
    }
}

/// A legal name needs no escaping in a path.
fn path_of(namespace: &Namespace) -> String {
    format!("/v1/quotas/{namespace}")
}

async fn list(args: List) -> Outcome {
    let call = Call::get("/v1/quotas").query("limit", Some(500));
    let page = Client::new(&args.client)?.call(call).await?.body;
    if args.client.output == Output::Json {
        return output::json(&page);
    }
    let rows = page["items"].as_array().into_iter().flatten().map(|quotas| {
        let of = |quota: &str, limit: &str| {
            let limit = text(quotas, limit);
            if limit.is_empty() {
                return limit;
            }
            format!("{} of {limit}", text(&quotas["used"], quota))
        };
        let rate = &quotas["rate"];
        let rate = if rate.is_object() {
            format!("{} per {}", text(rate, "limit"), text(rate, "per"))
        } else {
            String::new()
        };
        vec![text(quotas, "namespace"), rate, of("jobs", "max_jobs"), of("bytes", "max_bytes")]
    });
    output::table(&["namespace", "rate", "jobs", "bytes"], rows)
}

async fn set(args: Set) -> Outcome {
    let mut body = Map::new();
    if let Some(rate) = &args.rate {
        let wrong =
            |_| Failure::Usage("--rate must be JSON, as {\"limit\": 100, \"per\": \"1s\"}".into());
        body.insert("rate".to_owned(), serde_json::from_str(rate).map_err(wrong)?);
    }
    body.extend(args.max_jobs.map(|n| ("max_jobs".to_owned(), Value::from(n))));
    body.extend(args.max_bytes.map(|n| ("max_bytes".to_owned(), Value::from(n))));
    if body.is_empty() {
        return Err(Failure::Usage("nothing to set; see `windlass quota set --help`".into()));
    }
    let path = path_of(&args.of);
    let call = Call::put(&path).json(&Value::Object(body));
    let quotas = Client::new(&args.client)?.call(call).await?.body;
    output::members(&quotas, args.client.output)
}
