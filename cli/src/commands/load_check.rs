//! `windlass load-check`: does this installation keep its promises under load?

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use windlass_shared::model::id::JobId;
use windlass_shared::model::time::Span;

use crate::client::{self, Call, Client, ClientArgs};
use crate::exit::{Failure, Outcome};
use crate::output::{self, Output, text};

/// Between two looks at a check that is waited for.
const LOOK: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  windlass load-check run --wait                                1,000 jobs a minute for 5 minutes; exit 3 if it fails
  windlass load-check run --rate 6000 --duration 1m --wait
  windlass load-check list
  windlass load-check show ID
  windlass load-check abort ID

A check submits jobs into a namespace of its own, runs them with a worker of its own, and removes them. One runs at a \
time. It needs an admin key that is bound to no namespace.";

/// Check that nothing is lost, doubled, early or slow under load
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct LoadCheckArgs {
    #[command(subcommand)]
    command: LoadCheckCommand,
}

#[derive(Debug, Subcommand)]
enum LoadCheckCommand {
    /// Start a check
    Run(Box<Run>),
    /// List checks, latest first
    List(List),
    /// Show one check with its verdicts
    Show(One),
    /// Stop a check
    Abort(One),
}

#[derive(Debug, Args)]
struct Run {
    /// Jobs per minute [default: 1000]
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// How long jobs are submitted [default: 5m]
    #[arg(long, value_name = "DURATION")]
    duration: Option<Span>,
    /// Bytes of each payload [default: 256]
    #[arg(long, value_name = "BYTES")]
    payload_bytes: Option<u32>,
    /// Of 100 jobs so many are delayed [default: 10]
    #[arg(long, value_name = "N")]
    delayed_percent: Option<u32>,
    /// By this much [default: 2s]
    #[arg(long, value_name = "DURATION")]
    delay: Option<Span>,
    /// Jobs that run at once [default: 16]
    #[arg(long, value_name = "N")]
    slots: Option<u32>,
    /// 99 of 100 jobs start this soon [default: 1s]
    #[arg(long, value_name = "DURATION")]
    start_p99_max: Option<Span>,
    /// 99 of 100 jobs end this soon [default: 2s]
    #[arg(long, value_name = "DURATION")]
    end_p99_max: Option<Span>,
    /// Wait for its verdict; exit 3 if it did not pass
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct List {
    /// Most checks shown
    #[arg(long, default_value = "50", value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct One {
    /// The check
    id: JobId,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub async fn run(args: LoadCheckArgs) -> Outcome {
    match args.command {
        LoadCheckCommand::Run(args) => start(*args).await,
        LoadCheckCommand::List(args) => list(args).await,
        LoadCheckCommand::Show(one) => {
            let path = format!("/v1/load-checks/{}", one.id);
            let check = Client::new(&one.client)?.call(Call::get(&path)).await?.body;
            show(&check, one.client.output)
        }
        LoadCheckCommand::Abort(one) => {
            let path = format!("/v1/load-checks/{}/abort", one.id);
            let check = Client::new(&one.client)?.call(Call::post(&path)).await?.body;
            show(&check, one.client.output)
        }
    }
}

async fn start(args: Run) -> Outcome {
    let client = Client::new(&args.client)?;
    let key = client::fresh_key();
    let call = Call::post("/v1/load-checks").json(&plan(&args)).idempotent(&key);
    let check = client.call(call).await?.body;
    if !args.wait {
        return match args.client.output {
            Output::Json => output::json(&check),
            Output::Table => output::line(&output::clean(&text(&check, "id"))),
        };
    }
    let id = text(&check, "id");
    let path = format!("/v1/load-checks/{}", client::segment(&id)?);
    loop {
        let check = client.call(Call::get(&path)).await?.body;
        match text(&check, "state").as_str() {
            "waiting" | "running" => tokio::time::sleep(LOOK).await,
            state => {
                show(&check, args.client.output)?;
                if state == "passed" {
                    return Ok(());
                }
                return Err(Failure::Check(format!("check {id} ended as {state}")));
            }
        }
    }
}

/// What was given; the server knows the rest.
fn plan(args: &Run) -> Value {
    let mut plan = Map::new();
    let numbers = [
        ("rate_per_minute", args.rate),
        ("payload_bytes", args.payload_bytes),
        ("delayed_percent", args.delayed_percent),
        ("slots", args.slots),
    ];
    let spans = [
        ("duration", args.duration),
        ("delay", args.delay),
        ("start_p99_max", args.start_p99_max),
        ("end_p99_max", args.end_p99_max),
    ];
    plan.extend(numbers.into_iter().filter_map(|(name, n)| Some((name.to_owned(), json!(n?)))));
    plan.extend(spans.into_iter().filter_map(|(name, s)| Some((name.to_owned(), json!(s?)))));
    Value::Object(plan)
}

fn show(check: &Value, output: Output) -> Outcome {
    if output == Output::Json {
        return output::json(check);
    }
    let fields = [
        "id",
        "state",
        "started_at",
        "ended_at",
        "accepted",
        "refused",
        "load_seconds",
        "restarts",
    ];
    let mut rows: Vec<(&str, String)> = fields.map(|field| (field, text(check, field))).into();
    for field in ["reasons", "examples"] {
        let lines = check[field].as_array().into_iter().flatten().filter_map(Value::as_str);
        rows.extend(lines.map(|line| (field, line.to_owned())));
    }
    output::fields(&rows)?;
    let verdicts = check["verdicts"].as_array().into_iter().flatten();
    let rows: Vec<Vec<String>> = verdicts
        .map(|verdict| {
            let number = |name: &str| format!("{:.3}", verdict[name].as_f64().unwrap_or(f64::NAN));
            let holds = if verdict["holds"] == true { "ok" } else { "FAIL" };
            vec![text(verdict, "name"), number("measured"), number("limit"), holds.into()]
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    output::line("")?;
    output::table(&["verdict", "measured", "limit", ""], rows)
}

async fn list(args: List) -> Outcome {
    let call = Call::get("/v1/load-checks").query("limit", Some(args.limit));
    let page = Client::new(&args.client)?.call(call).await?.body;
    if args.client.output == Output::Json {
        return output::json(&page);
    }
    let rows = page["items"].as_array().into_iter().flatten().map(|check| {
        let reason = check["reasons"][0].as_str().unwrap_or_default().to_owned();
        let fields = ["id", "state", "started_at", "accepted"];
        let mut row: Vec<String> = fields.iter().map(|field| text(check, field)).collect();
        row.push(reason);
        row
    });
    output::table(&["check", "state", "started", "jobs", "why"], rows)
}
