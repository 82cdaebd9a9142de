//! `windlass job`: submit jobs, look at them, wait for them, stop them, run them again.

use clap::{Args, Subcommand};
use serde_json::Value;
use windlass_shared::model::id::JobId;

use crate::client::{self, Call, Client, ClientArgs};
use crate::exit::Outcome;
use crate::output::{self, Output, text};

mod retry_all;
mod submit;
mod wait;

const EXAMPLES: &str = "\
Examples:
  windlass job submit echo --payload '{\"hello\": \"world\"}' --wait
  windlass job submit http.request --payload @request.json --queue io --max-attempts 8
  windlass job list --state dead --limit 20
  windlass job explain 0197b0a4-...        why it is not running
  windlass job retry 0197b0a4-...          run a dead job again
  windlass job retry-all --state dead --queue mail --rate 20 --wait

Exit codes: 0 fine, 1 failed, 2 bad usage, 3 the job or the retry did not succeed (wait).";

/// Submit, look at, wait for, stop and rerun jobs.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct JobArgs {
    #[command(subcommand)]
    command: JobCommand,
}

#[derive(Debug, Subcommand)]
enum JobCommand {
    /// Submit one job, or many from a file
    Submit(Box<submit::SubmitArgs>),
    /// Show one job with its live state
    Get(One),
    /// List jobs, newest first
    List(Box<List>),
    /// Wait until a job is finished; exit 3 if it did not succeed
    Wait(wait::WaitArgs),
    /// Keep a job from starting, or stop it
    Cancel(One),
    /// Run a dead, cancelled, expired or quarantined job again
    Retry(One),
    /// Run all ended jobs that match again, so many per second
    RetryAll(Box<retry_all::RetryAll>),
    /// Say what holds a job back, with evidence
    Explain(One),
    /// Show every attempt of a job
    Attempts(One),
    /// Show the lines that a job's handler wrote
    Logs(One),
}

#[derive(Debug, Args)]
struct One {
    /// The job's id
    id: JobId,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct List {
    /// In these states
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
pub async fn run(args: JobArgs) -> Outcome {
    match args.command {
        JobCommand::Submit(args) => submit::run(*args).await,
        JobCommand::Get(one) => get(one).await,
        JobCommand::List(list) => self::list(*list).await,
        JobCommand::Wait(args) => wait::run(args).await,
        JobCommand::Cancel(one) => cancel(one).await,
        JobCommand::Retry(one) => retry(one).await,
        JobCommand::RetryAll(args) => retry_all::run(*args).await,
        JobCommand::Explain(one) => explain(one).await,
        JobCommand::Attempts(one) => attempts(one).await,
        JobCommand::Logs(one) => logs(one).await,
    }
}

async fn get(one: One) -> Outcome {
    let path = format!("/v1/jobs/{}", one.id);
    let job = Client::new(&one.client)?.call(Call::get(&path)).await?.body;
    show(&job, one.client.output)
}

async fn list(args: List) -> Outcome {
    let states = (!args.state.is_empty()).then(|| args.state.join(","));
    let mut call = Call::get("/v1/jobs")
        .query("state", states)
        .query("queue", args.queue)
        .query("kind", args.kind)
        .query("q", args.search)
        .query("created_after", args.created_after)
        .query("created_before", args.created_before)
        .query("cursor", args.cursor)
        .query("limit", Some(args.limit));
    for tag in args.tag {
        call = call.query("tag", Some(tag));
    }
    let page = Client::new(&args.client)?.call(call).await?.body;
    if args.client.output == Output::Json {
        return output::json(&page);
    }
    let rows = page["items"].as_array().into_iter().flatten().map(|job| {
        let attempt = format!("{}/{}", text(job, "attempt"), text(job, "max_attempts"));
        let error = text(&job["error"], "code");
        let columns = ["id", "state", "queue", "kind"].map(|name| text(job, name));
        columns.into_iter().chain([attempt, text(job, "created_at"), error]).collect()
    });
    output::table(&["id", "state", "queue", "kind", "attempt", "created", "error"], rows)?;
    match page["next_cursor"].as_str() {
        Some(cursor) => output::line(&format!("more: --cursor {}", output::clean(cursor))),
        None => Ok(()),
    }
}

async fn cancel(one: One) -> Outcome {
    let path = format!("/v1/jobs/{}/cancel", one.id);
    let answer = Client::new(&one.client)?.call(Call::post(&path)).await?;
    if one.client.output == Output::Json {
        return output::json(&answer.body);
    }
    match answer.status.as_u16() {
        202 => output::line("it is running: its worker has been told to stop it"),
        _ => output::line("cancelled: it will not start"),
    }
}

async fn retry(one: One) -> Outcome {
    let path = format!("/v1/jobs/{}/retry", one.id);
    let key = client::fresh_key();
    let job = Client::new(&one.client)?.call(Call::post(&path).idempotent(&key)).await?.body;
    show(&job, one.client.output)
}

async fn explain(one: One) -> Outcome {
    let path = format!("/v1/jobs/{}/explain", one.id);
    let answer = Client::new(&one.client)?.call(Call::get(&path)).await?.body;
    if one.client.output == Output::Json {
        return output::json(&answer);
    }
    let runnable = match answer["runnable"].as_bool() {
        Some(true) => "nothing but its turn holds it back",
        _ => "it cannot run now",
    };
    output::line(&format!("{}: {runnable}", output::clean(&text(&answer, "state"))))?;
    for reason in answer["reasons"].as_array().into_iter().flatten() {
        let until = text(reason, "until");
        let until = if until.is_empty() { until } else { format!(" (until {until})") };
        let (code, detail) = (text(reason, "code"), text(reason, "detail"));
        output::line(&output::clean(&format!("  {code}: {detail}{until}")))?;
        if !reason["evidence"].is_null() {
            output::line(&output::clean(&format!("    evidence: {}", reason["evidence"])))?;
        }
    }
    Ok(())
}

async fn attempts(one: One) -> Outcome {
    let path = format!("/v1/jobs/{}/attempts", one.id);
    let answer = Client::new(&one.client)?.call(Call::get(&path)).await?.body;
    if one.client.output == Output::Json {
        return output::json(&answer);
    }
    let items = answer["items"].as_array().or(answer.as_array());
    let rows = items.into_iter().flatten().map(|attempt| {
        let number = match &attempt["attempt"] {
            Value::Null => text(attempt, "number"),
            number => number.to_string(),
        };
        let names = ["outcome", "worker", "started_at", "finished_at"];
        let error = text(&attempt["error"], "message");
        std::iter::once(number)
            .chain(names.map(|name| text(attempt, name)))
            .chain([error])
            .collect()
    });
    output::table(&["attempt", "outcome", "worker", "started", "finished", "error"], rows)
}

async fn logs(one: One) -> Outcome {
    let path = format!("/v1/jobs/{}/logs", one.id);
    let answer = Client::new(&one.client)?.call(Call::get(&path)).await?.body;
    if one.client.output == Output::Json {
        return output::json(&answer);
    }
    for entry in answer["items"].as_array().into_iter().flatten() {
        let (at, level) = (text(entry, "at"), text(entry, "level"));
        let (attempt, message) = (text(entry, "attempt"), text(entry, "message"));
        output::line(&output::clean(&format!("{at} {level:5} #{attempt} {message}")))?;
    }
    Ok(())
}

/// Shows one job.
pub fn show(job: &Value, output: Output) -> Outcome {
    if output == Output::Json {
        return output::json(job);
    }
    let error = match (text(&job["error"], "code"), text(&job["error"], "message")) {
        (code, message) if message.is_empty() => code,
        (code, message) => format!("{code}: {message}"),
    };
    let attempt = format!("{} of {}", text(job, "attempt"), text(job, "max_attempts"));
    let tags: Vec<&str> =
        job["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let progress = match &job["progress"] {
        Value::Null => String::new(),
        progress => format!("{}% {}", text(progress, "percent"), text(progress, "message")),
    };
    output::fields(&[
        ("id", text(job, "id")),
        ("state", text(job, "state")),
        ("waiting on", text(job, "waiting_on")),
        ("queue", text(job, "queue")),
        ("kind", text(job, "kind")),
        ("priority", text(job, "priority")),
        ("attempt", attempt),
        ("progress", progress),
        ("created", text(job, "created_at")),
        ("run at", text(job, "run_at")),
        ("started", text(job, "started_at")),
        ("finished", text(job, "finished_at")),
        ("worker", text(job, "worker")),
        ("tags", tags.join(", ")),
        ("payload", text(job, "payload")),
        ("output", text(job, "output")),
        ("error", error),
    ])
}
