//! `windlass queue`: look at queues, pause them, set their limits, empty them.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::client::{self, Call, Client, ClientArgs};
use crate::exit::{Failure, Outcome};
use crate::output::{self, Output, text};

const EXAMPLES: &str = "\
Examples:
  windlass queue list
  windlass queue pause mail --reason 'provider is down'
  windlass queue set mail --max-depth 100000 --default-timeout 30s
  windlass queue set mail --unset max_depth
  windlass queue scale mail --objective 5s
  windlass queue purge mail --yes";

/// Look at queues, pause them, set their limits, empty them.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct QueueArgs {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    /// List queues with their depths
    List(List),
    /// Show one queue
    Get(One),
    /// Start no more jobs of a queue; it still takes them
    Pause(Pause),
    /// Start jobs again
    Resume(One),
    /// Change settings of a queue, making it if need be
    Set(Box<Set>),
    /// Cancel the waiting jobs of a queue
    Purge(Purge),
    /// Ask how many workers a queue needs
    Scale(Scale),
}

#[derive(Debug, Args)]
struct Scale {
    /// The queue
    queue: String,
    /// 95 % of its jobs are to start within this [default: the queue's latency_objective, or 10s]
    #[arg(long)]
    objective: Option<String>,
    /// Time of an attempt, where too few have ended to know [default: 1s]
    #[arg(long)]
    service_time: Option<String>,
    /// Slots of a worker, where there is none [default: 16]
    #[arg(long)]
    slots_per_worker: Option<u32>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct One {
    /// The queue
    queue: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct Pause {
    /// The queue
    queue: String,
    /// Why, for whoever finds it paused
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct Purge {
    /// The queue
    queue: String,
    /// Yes, cancel its waiting jobs
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct Set {
    /// The queue
    queue: String,
    /// Most waiting jobs; beyond it submissions answer 429
    #[arg(long)]
    max_depth: Option<u64>,
    /// Most jobs running at once over all workers
    #[arg(long)]
    max_concurrency: Option<u32>,
    /// Most running jobs of one concurrency key
    #[arg(long)]
    per_key_concurrency: Option<u32>,
    /// Starts per time as JSON: {"limit": 100, "per": "1m", "burst": 10}
    #[arg(long, value_name = "JSON")]
    rate_limit: Option<String>,
    /// The same of each rate limit key
    #[arg(long, value_name = "JSON")]
    per_key_rate_limit: Option<String>,
    /// How many retries may run, as JSON: {"percent": 20, "min": {"limit": 10, "per": "1s"}}
    #[arg(long, value_name = "JSON")]
    retry_budget: Option<String>,
    /// Limits of kinds, all of them anew, as JSON: {"mail.send": {"max_concurrency": 5}}
    #[arg(long, value_name = "JSON")]
    kinds: Option<String>,
    /// Fairness keys whose share counts more than 1, all of them anew, as JSON: {"big-customer": 3}
    #[arg(long, value_name = "JSON")]
    fairness_weights: Option<String>,
    /// A ready job that waits longer is late
    #[arg(long)]
    latency_objective: Option<String>,
    /// Lease of its jobs
    #[arg(long)]
    lease: Option<String>,
    /// What a level of priority is worth in waiting
    #[arg(long)]
    priority_unit: Option<String>,
    /// max_attempts of jobs that don't say
    #[arg(long)]
    default_max_attempts: Option<u32>,
    /// timeout of jobs that don't say
    #[arg(long)]
    default_timeout: Option<String>,
    /// priority of jobs that don't say
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=9))]
    default_priority: Option<u8>,
    /// Forget a setting, such as max_depth; repeat for several
    #[arg(long, value_name = "SETTING")]
    unset: Vec<String>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub async fn run(args: QueueArgs) -> Outcome {
    match args.command {
        QueueCommand::List(args) => list(args).await,
        QueueCommand::Get(one) => {
            let path = path_of(&one.queue, "")?;
            let queue = Client::new(&one.client)?.call(Call::get(&path)).await?.body;
            output::members(&queue, one.client.output)
        }
        QueueCommand::Pause(args) => {
            let path = path_of(&args.queue, "/pause")?;
            let mut call = Call::post(&path);
            if let Some(reason) = args.reason {
                call = call.json(&json!({ "reason": reason }));
            }
            let queue = Client::new(&args.client)?.call(call).await?.body;
            output::members(&queue, args.client.output)
        }
        QueueCommand::Resume(one) => {
            let path = path_of(&one.queue, "/resume")?;
            let queue = Client::new(&one.client)?.call(Call::post(&path)).await?.body;
            output::members(&queue, one.client.output)
        }
        QueueCommand::Set(args) => set(*args).await,
        QueueCommand::Purge(args) => purge(args).await,
        QueueCommand::Scale(args) => scale(args).await,
    }
}

async fn scale(args: Scale) -> Outcome {
    // The same names are legal in every path.
    let path = path_of(&args.queue, "")?.replacen("/queues/", "/scale/", 1);
    let call = Call::get(&path)
        .query("objective", args.objective)
        .query("service_time", args.service_time)
        .query("slots_per_worker", args.slots_per_worker);
    let need = Client::new(&args.client)?.call(call).await?.body;
    output::members(&need, args.client.output)
}

/// A legal name needs no escaping in a path; an illegal one must not reach another path.
fn path_of(queue: &str, verb: &str) -> Outcome<String> {
    let name: windlass_shared::model::name::QueueName =
        queue.parse().map_err(|why| Failure::Usage(format!("a queue's name {why}")))?;
    Ok(format!("/v1/queues/{name}{verb}"))
}

async fn list(args: List) -> Outcome {
    let call = Call::get("/v1/queues").query("limit", Some(500));
    let page = Client::new(&args.client)?.call(call).await?.body;
    if args.client.output == Output::Json {
        return output::json(&page);
    }
    let rows = page["items"].as_array().into_iter().flatten().map(|queue| {
        let state = if paused(queue) { "paused" } else { "open" };
        let depth = depth(queue);
        vec![text(queue, "name"), state.into(), depth]
    });
    output::table(&["queue", "state", "depth"], rows)
}

async fn set(args: Set) -> Outcome {
    let mut body = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        body.extend(value.map(|value| (name.to_owned(), value)));
    };
    for name in &args.unset {
        put(&name.replace('-', "_"), Some(Value::Null));
    }
    put("max_depth", args.max_depth.map(Value::from));
    put("max_concurrency", args.max_concurrency.map(Value::from));
    put("per_key_concurrency", args.per_key_concurrency.map(Value::from));
    const RATE: &str = r#"{"limit": 100, "per": "1m"}"#;
    for (name, text, example) in [
        ("rate_limit", &args.rate_limit, RATE),
        ("per_key_rate_limit", &args.per_key_rate_limit, RATE),
        ("retry_budget", &args.retry_budget, r#"{"percent": 20}"#),
        ("kinds", &args.kinds, r#"{"mail.send": {"max_concurrency": 5}}"#),
        ("fairness_weights", &args.fairness_weights, r#"{"big-customer": 3}"#),
    ] {
        let value = text.as_deref().map(|text| {
            let flag = name.replace('_', "-");
            let wrong = |_| Failure::Usage(format!("--{flag} must be JSON, as {example}"));
            serde_json::from_str(text).map_err(wrong)
        });
        put(name, value.transpose()?);
    }
    put("latency_objective", args.latency_objective.map(Value::from));
    put("lease", args.lease.map(Value::from));
    put("priority_unit", args.priority_unit.map(Value::from));
    put("default_max_attempts", args.default_max_attempts.map(Value::from));
    put("default_timeout", args.default_timeout.map(Value::from));
    put("default_priority", args.default_priority.map(Value::from));
    if body.is_empty() {
        return Err(Failure::Usage("nothing to set; see `windlass queue set --help`".into()));
    }
    let path = path_of(&args.queue, "")?;
    let call = Call::patch(&path).json(&Value::Object(body));
    let queue = Client::new(&args.client)?.call(call).await?.body;
    output::members(&queue, args.client.output)
}

async fn purge(args: Purge) -> Outcome {
    if !args.yes {
        let text = format!("this cancels every waiting job of {}; add --yes to do it", args.queue);
        return Err(Failure::Usage(text));
    }
    let path = path_of(&args.queue, "/purge")?;
    let key = client::fresh_key();
    let answer = Client::new(&args.client)?.call(Call::post(&path).idempotent(&key)).await?.body;
    output::members(&answer, args.client.output)
}

fn paused(queue: &Value) -> bool {
    match &queue["paused"] {
        Value::Bool(paused) => *paused,
        Value::Null => false,
        _ => true,
    }
}

/// `ready 3, running 1`: the states with jobs in them; `unknown` while the engine does not answer.
fn depth(queue: &Value) -> String {
    let Some(counts) = queue["depth"].as_object() else {
        return "unknown".into();
    };
    let parts: Vec<String> = counts
        .iter()
        .filter(|(_, n)| n.as_u64().is_some_and(|n| n > 0))
        .map(|(state, n)| format!("{state} {n}"))
        .collect();
    if parts.is_empty() { "empty".into() } else { parts.join(", ") }
}
