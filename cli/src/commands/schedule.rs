//! `windlass schedule`: jobs and workflows at times.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use windlass_shared::model::name::ScheduleName;

use crate::client::{self, Call, Client, ClientArgs};
use crate::exit::{Failure, Outcome};
use crate::output::{self, Output, text};

mod write;

const EXAMPLES: &str = "\
Examples:
  windlass schedule create nightly --cron '30 2 * * *' --timezone Europe/Berlin --kind report.make
  windlass schedule create beat --every 30s --kind http.request --payload '{\"url\": \"https://example.org\"}'
  windlass schedule create month-end --cron '0 18 L * *' --definition close-books --overlap queue
  windlass schedule next nightly --n 10
  windlass schedule runs nightly                 every due time: fired, skipped (why), missed
  windlass schedule trigger nightly              now, whatever runs
  windlass schedule backfill nightly --from 2026-11-01T00:00:00Z --to 2026-11-08T00:00:00Z
  windlass schedule pause nightly --reason 'source is being moved'";

/// Run jobs and workflows at times; every due time is accounted for.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ScheduleArgs {
    #[command(subcommand)]
    command: ScheduleCommand,
}

#[derive(Debug, Subcommand)]
enum ScheduleCommand {
    /// Make a schedule
    Create(Box<write::Create>),
    /// Change a schedule from now on
    Set(Box<write::Set>),
    /// List schedules
    List(List),
    /// Show one schedule
    Get(One),
    /// Show the next due times
    Next(Next),
    /// Show what became of due times, latest first
    Runs(Runs),
    /// Skip due times until resumed
    Pause(Pause),
    /// Fire again from now on
    Resume(One),
    /// Fire now, whatever runs and whether it is paused
    Trigger(One),
    /// Fire past due times that were not fired
    Backfill(Backfill),
    /// Delete a schedule; what it has submitted goes on
    Delete(One),
}

#[derive(Debug, Args)]
struct List {
    /// Most schedules shown
    #[arg(long, default_value = "500", value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct One {
    /// The schedule
    name: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct Next {
    /// The schedule
    name: String,
    /// How many
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u32).range(1..=100))]
    n: u32,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct Runs {
    /// The schedule
    name: String,
    /// Most due times shown
    #[arg(long, default_value = "50", value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct Pause {
    /// The schedule
    name: String,
    /// Why, for whoever finds it paused
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct Backfill {
    /// The schedule
    name: String,
    /// The first instant (RFC 3339)
    #[arg(long, value_name = "TIME")]
    from: String,
    /// The last (RFC 3339)
    #[arg(long, value_name = "TIME")]
    to: String,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub async fn run(args: ScheduleArgs) -> Outcome {
    match args.command {
        ScheduleCommand::Create(args) => write::create(*args).await,
        ScheduleCommand::Set(args) => write::set(*args).await,
        ScheduleCommand::List(args) => list(args).await,
        ScheduleCommand::Get(one) => {
            let path = path_of(&one.name, "")?;
            shown(&one.client, Call::get(&path)).await
        }
        ScheduleCommand::Next(args) => next(args).await,
        ScheduleCommand::Runs(args) => runs(args).await,
        ScheduleCommand::Pause(args) => {
            let path = path_of(&args.name, "/pause")?;
            let mut call = Call::post(&path);
            if let Some(reason) = args.reason {
                call = call.json(&json!({ "reason": reason }));
            }
            shown(&args.client, call).await
        }
        ScheduleCommand::Resume(one) => {
            let path = path_of(&one.name, "/resume")?;
            shown(&one.client, Call::post(&path)).await
        }
        ScheduleCommand::Trigger(one) => {
            let (path, key) = (path_of(&one.name, "/trigger")?, client::fresh_key());
            let call = Call::post(&path).idempotent(&key);
            let fire = Client::new(&one.client)?.call(call).await?.body;
            if one.client.output == Output::Json {
                return output::json(&fire);
            }
            if fire["outcome"] != "fired" {
                let why = text(&fire, "detail");
                return Err(Failure::Failed(anyhow::anyhow!("it was not fired: {why}")));
            }
            output::line(&output::clean(&work_of(&fire)))
        }
        ScheduleCommand::Backfill(args) => backfill(args).await,
        ScheduleCommand::Delete(one) => {
            let path = path_of(&one.name, "")?;
            Client::new(&one.client)?.call(Call::delete(&path)).await?;
            output::line("deleted")
        }
    }
}

/// A legal name needs no escaping in a path; an illegal one must not reach another path.
fn path_of(name: &str, verb: &str) -> Outcome<String> {
    let name: ScheduleName =
        name.parse().map_err(|why| Failure::Usage(format!("a schedule's name {why}")))?;
    Ok(format!("/v1/schedules/{name}{verb}"))
}

async fn shown(client: &ClientArgs, call: Call<'_>) -> Outcome {
    let schedule = Client::new(client)?.call(call).await?.body;
    show(&schedule, client.output)
}

fn show(schedule: &Value, output: Output) -> Outcome {
    if output == Output::Json {
        return output::json(schedule);
    }
    let rows: Vec<(&str, String)> = [
        "name",
        "cron",
        "every",
        "timezone",
        "dst",
        "overlap",
        "catch_up",
        "jitter",
        "start_at",
        "end_at",
        "exclude",
        "pause_on_failure",
        "description",
        "job",
        "workflow",
        "paused",
        "pause",
        "failures",
        "next_at",
        "warnings",
    ]
    .into_iter()
    .filter(|field| !is_empty(&schedule[*field]))
    .map(|field| (field, text(schedule, field)))
    .collect();
    output::fields(&rows)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

async fn list(args: List) -> Outcome {
    let call = Call::get("/v1/schedules").query("limit", Some(args.limit));
    let page = Client::new(&args.client)?.call(call).await?.body;
    if args.client.output == Output::Json {
        return output::json(&page);
    }
    let rows = page["items"].as_array().into_iter().flatten().map(|schedule| {
        let when = if is_empty(&schedule["cron"]) {
            format!("every {}", text(schedule, "every"))
        } else {
            format!("{} {}", text(schedule, "cron"), text(schedule, "timezone"))
        };
        let state = if schedule["paused"] == true { "paused" } else { "on" };
        vec![text(schedule, "name"), when, state.into(), text(schedule, "next_at")]
    });
    output::table(&["schedule", "when", "state", "next"], rows)
}

async fn next(args: Next) -> Outcome {
    let path = path_of(&args.name, "/next")?;
    let call = Call::get(&path).query("n", Some(args.n));
    let page = Client::new(&args.client)?.call(call).await?.body;
    if args.client.output == Output::Json {
        return output::json(&page);
    }
    for item in page["items"].as_array().into_iter().flatten() {
        output::line(&output::clean(&text(item, "scheduled_at")))?;
    }
    Ok(())
}

async fn runs(args: Runs) -> Outcome {
    let path = path_of(&args.name, "/runs")?;
    let call = Call::get(&path).query("limit", Some(args.limit));
    let page = Client::new(&args.client)?.call(call).await?.body;
    if args.client.output == Output::Json {
        return output::json(&page);
    }
    let rows = page["items"].as_array().into_iter().flatten().map(|fire| {
        let fields = ["scheduled_at", "outcome", "reason", "late", "result"];
        let mut row: Vec<String> = fields.iter().map(|field| text(fire, field)).collect();
        row.push(work_of(fire));
        row
    });
    output::table(&["due", "outcome", "reason", "late", "result", "job or run"], rows)
}

fn work_of(fire: &Value) -> String {
    let field = if is_empty(&fire["job_id"]) { "workflow_id" } else { "job_id" };
    text(fire, field)
}

async fn backfill(args: Backfill) -> Outcome {
    let path = path_of(&args.name, "/backfill")?;
    let body = json!({"from": args.from, "to": args.to});
    let filled = Client::new(&args.client)?.call(Call::post(&path).json(&body)).await?.body;
    if args.client.output == Output::Json {
        return output::json(&filled);
    }
    let (due, fires) = (text(&filled, "due"), text(&filled, "fires"));
    output::line(&format!("{fires} of {due} due times will be fired; the others were already"))
}
