//! `windlass workflow`: submit graphs of steps, look at them, draw them, let them go on, run them again.

use clap::{Args, Subcommand};
use serde_json::json;
use windlass_shared::model::id::WorkflowId;
use windlass_shared::model::time::Span;

use crate::client::{self, Call, Client, ClientArgs};
use crate::exit::Outcome;
use crate::input::json_of;
use crate::output::{self, Output, text};

mod definition;
mod document;
mod graph;
mod import;
mod plan;
mod show;
mod submit;
mod watch;

const EXAMPLES: &str = "\
Examples:
  windlass workflow validate etl.yaml           check it, see its levels and its critical path
  windlass workflow submit etl.yaml --input '{\"day\": \"2026-01-31\"}' --wait
  windlass workflow get 0197b0a4-...            every step and how it is
  windlass workflow graph 0197b0a4-... --format svg --out run.svg
  windlass workflow approve 0197b0a4-... drop-table --reason 'checked the backup'
  windlass workflow signal 0197b0a4-... payment '{\"amount\": 12}'
  windlass workflow retry 0197b0a4-...          run on from what failed
  windlass workflow import --format wfformat trace.json --time-factor 0.01 --submit

Exit codes: 0 fine, 1 failed, 2 bad usage, 3 the run did not succeed (wait, --wait, --watch), the document \
is wrong (validate).";

/// Submit, look at, draw, steer and rerun workflows.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct WorkflowArgs {
    #[command(subcommand)]
    command: WorkflowCommand,
}

#[derive(Debug, Subcommand)]
enum WorkflowCommand {
    /// Start a run, of a file or of a stored definition
    Submit(Box<submit::SubmitArgs>),
    /// Show a run with its steps
    Get(One),
    /// Wait until a run has ended; exit 3 if it did not succeed
    Wait(Wait),
    /// List runs, newest first
    List(Box<List>),
    /// Draw a run, or a file that is not submitted
    Graph(graph::GraphArgs),
    /// Check a document without running it; exit 3 if it is wrong
    Validate(plan::FileArgs),
    /// Say what would make a workflow faster or simpler
    Optimize(plan::FileArgs),
    /// Stop a run
    Cancel(Cancel),
    /// Run a failed or cancelled run on from what did not succeed
    Retry(One),
    /// Start a new run of the same document with the same input
    Rerun(Rerun),
    /// Give a run what a wait.signal step waits for
    Signal(Signal),
    /// Say yes, or no, to a wait.approval step
    Approve(Approve),
    /// Keep documents under a name, with versions
    Definition(definition::DefinitionArgs),
    /// Make a workflow of a trace in another format
    Import(import::ImportArgs),
}

#[derive(Debug, Args)]
struct One {
    /// The run's id
    id: WorkflowId,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct Wait {
    /// The run's id
    id: WorkflowId,
    /// Show every step as it changes
    #[arg(long)]
    watch: bool,
    /// Give up after this long, such as 10m; exit 3 then [default: never]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Span>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct Cancel {
    /// The run's id
    id: WorkflowId,
    /// Why, for whoever looks at it later
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct Rerun {
    /// The run's id
    id: WorkflowId,
    #[command(flatten)]
    follow: watch::FollowArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct Signal {
    /// The run's id
    id: WorkflowId,
    /// The signal's name, as the wait.signal step names it
    name: String,
    /// What it brings: JSON, or @FILE, or - for standard input [default: null]
    #[arg(value_name = "JSON|@FILE|-")]
    body: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct Approve {
    /// The run's id
    id: WorkflowId,
    /// The id of the wait.approval step
    step: String,
    /// Say no: the step fails
    #[arg(long)]
    reject: bool,
    /// Why, for whoever looks at it later
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct List {
    /// In these states
    #[arg(long, value_delimiter = ',', value_name = "STATE")]
    state: Vec<String>,
    /// With this name
    #[arg(long)]
    name: Option<String>,
    /// Of this stored definition
    #[arg(long, value_name = "NAME")]
    definition: Option<String>,
    /// With this tag; repeat for several
    #[arg(long)]
    tag: Vec<String>,
    /// Accepted at or after this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    created_after: Option<String>,
    /// Accepted before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    created_before: Option<String>,
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
pub async fn run(args: WorkflowArgs) -> Outcome {
    match args.command {
        WorkflowCommand::Submit(args) => submit::run(*args).await,
        WorkflowCommand::Get(one) => get(one).await,
        WorkflowCommand::Wait(args) => wait(args).await,
        WorkflowCommand::List(list) => self::list(*list).await,
        WorkflowCommand::Graph(args) => graph::run(args).await,
        WorkflowCommand::Validate(args) => plan::validate(args).await,
        WorkflowCommand::Optimize(args) => plan::optimize(args).await,
        WorkflowCommand::Cancel(args) => cancel(args).await,
        WorkflowCommand::Retry(one) => retry(one).await,
        WorkflowCommand::Rerun(args) => rerun(args).await,
        WorkflowCommand::Signal(args) => signal(args).await,
        WorkflowCommand::Approve(args) => approve(args).await,
        WorkflowCommand::Definition(args) => definition::run(args).await,
        WorkflowCommand::Import(args) => import::run(args).await,
    }
}

async fn get(one: One) -> Outcome {
    let path = format!("/v1/workflows/{}", one.id);
    let run = Client::new(&one.client)?.call(Call::get(&path)).await?.body;
    show::run(&run, one.client.output)
}

async fn wait(args: Wait) -> Outcome {
    let follow = watch::FollowArgs { wait: true, watch: args.watch, timeout: args.timeout };
    let client = Client::new(&args.client)?;
    watch::until_ended(&client, args.id, &follow, args.client.output).await
}

async fn list(args: List) -> Outcome {
    let mut call = Call::get("/v1/workflows")
        .query("name", args.name)
        .query("definition", args.definition)
        .query("created_after", args.created_after)
        .query("created_before", args.created_before)
        .query("cursor", args.cursor)
        .query("limit", Some(args.limit));
    for state in args.state {
        call = call.query("state", Some(state));
    }
    for tag in args.tag {
        call = call.query("tag", Some(tag));
    }
    let page = Client::new(&args.client)?.call(call).await?.body;
    if args.client.output == Output::Json {
        return output::json(&page);
    }
    let rows = page["items"].as_array().into_iter().flatten().map(|run| {
        let columns = ["id", "state", "name"].map(|name| text(run, name));
        let error = text(&run["error"], "code");
        let more = [show::progress(run), text(run, "created_at"), error];
        columns.into_iter().chain(more).collect()
    });
    output::table(&["id", "state", "name", "progress", "created", "error"], rows)?;
    match page["next_cursor"].as_str() {
        Some(cursor) => output::line(&format!("more: --cursor {}", output::clean(cursor))),
        None => Ok(()),
    }
}

async fn cancel(args: Cancel) -> Outcome {
    let path = format!("/v1/workflows/{}/cancel", args.id);
    let mut call = Call::post(&path);
    if let Some(reason) = args.reason {
        call = call.json(&json!({ "reason": reason }));
    }
    let answer = Client::new(&args.client)?.call(call).await?;
    if args.client.output == Output::Json {
        return output::json(&answer.body);
    }
    match answer.status.as_u16() {
        202 => output::line("stopping: what runs has been told to stop"),
        _ => output::line("cancelled: nothing of it runs"),
    }
}

async fn retry(one: One) -> Outcome {
    let path = format!("/v1/workflows/{}/retry", one.id);
    let key = client::fresh_key();
    let call = Call::post(&path).idempotent(&key);
    let answer = Client::new(&one.client)?.call(call).await?.body;
    if one.client.output == Output::Json {
        return output::json(&answer);
    }
    let count = |name: &str| answer[name].as_array().map_or(0, Vec::len);
    output::line(&format!(
        "running again: {} steps keep their results, {} run",
        count("reused"),
        count("again")
    ))
}

async fn rerun(args: Rerun) -> Outcome {
    let path = format!("/v1/workflows/{}/rerun", args.id);
    let key = client::fresh_key();
    let client = Client::new(&args.client)?;
    let run = client.call(Call::post(&path).idempotent(&key)).await?.body;
    submit::started(&client, &run, &args.follow, args.client.output).await
}

async fn signal(args: Signal) -> Outcome {
    let path = format!("/v1/workflows/{}/signals/{}", args.id, client::segment(&args.name)?);
    let body = args.body.as_deref().map(|body| json_of("the signal", body)).transpose()?;
    let key = client::fresh_key();
    let call = Call::post(&path).json(&body.unwrap_or_default()).idempotent(&key);
    let answer = Client::new(&args.client)?.call(call).await?.body;
    if args.client.output == Output::Json {
        return output::json(&answer);
    }
    output::line("noted: the run goes on as soon as a step waits for it")
}

async fn approve(args: Approve) -> Outcome {
    let path = format!("/v1/workflows/{}/approvals/{}", args.id, client::segment(&args.step)?);
    let mut body = json!({ "approve": !args.reject });
    if let Some(reason) = args.reason {
        body["reason"] = reason.into();
    }
    let answer = Client::new(&args.client)?.call(Call::post(&path).json(&body)).await?.body;
    if args.client.output == Output::Json {
        return output::json(&answer);
    }
    output::line(if args.reject { "rejected" } else { "approved" })
}
