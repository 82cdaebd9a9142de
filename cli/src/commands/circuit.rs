//! `windlass circuit`: look at dependencies that fail, force their circuits open or closed, set their rules.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use windlass_shared::model::name::CircuitName;

use crate::client::{Call, Client, ClientArgs};
use crate::exit::{Failure, Outcome};
use crate::output::{self, Output, text};

const EXAMPLES: &str = "\
Examples:
  windlass circuit list
  windlass circuit open smtp --reason 'the provider moves tonight'
  windlass circuit reset smtp
  windlass circuit set api.example.com --failures 3 --probe 30s
  windlass circuit set api.example.com --unset probe";

/// Look at dependencies that fail; force their circuits open or closed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CircuitArgs {
    #[command(subcommand)]
    command: CircuitCommand,
}

#[derive(Debug, Subcommand)]
enum CircuitCommand {
    /// List circuits with what they are doing
    List(List),
    /// Show one circuit
    Get(One),
    /// Start none of its jobs until it is closed or reset
    Open(Force),
    /// Start its jobs whatever happens
    Close(Force),
    /// Let its calls decide again, and forget those there were
    Reset(One),
    /// Change when it opens and how it is tried again
    Set(Set),
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct One {
    /// The circuit
    circuit: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct Force {
    /// The circuit
    circuit: String,
    /// Why, for whoever finds it so
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct Set {
    /// The circuit
    circuit: String,
    /// So many failures one after the other open it; 0: they do not
    #[arg(long)]
    failures: Option<u32>,
    /// Counts begin anew after this long
    #[arg(long)]
    window: Option<String>,
    /// So many failures among a hundred calls of a window open it; 0: they do not
    #[arg(long)]
    percent: Option<u32>,
    /// … from so many calls on
    #[arg(long)]
    calls_min: Option<u32>,
    /// While it is open one job starts after each such time
    #[arg(long)]
    probe: Option<String>,
    /// Back to the default, such as probe; repeat for several
    #[arg(long, value_name = "SETTING")]
    unset: Vec<String>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub async fn run(args: CircuitArgs) -> Outcome {
    match args.command {
        CircuitCommand::List(args) => list(&args.client).await,
        CircuitCommand::Get(one) => {
            let path = path_of(&one.circuit, "")?;
            show(&one.client, Call::get(&path)).await
        }
        CircuitCommand::Open(args) => force(args, "/open").await,
        CircuitCommand::Close(args) => force(args, "/close").await,
        CircuitCommand::Reset(one) => {
            let path = path_of(&one.circuit, "/reset")?;
            show(&one.client, Call::post(&path)).await
        }
        CircuitCommand::Set(args) => set(args).await,
    }
}

/// A legal name needs no escaping in a path; an illegal one must not reach another path.
fn path_of(circuit: &str, verb: &str) -> Outcome<String> {
    let name: CircuitName =
        circuit.parse().map_err(|why| Failure::Usage(format!("a circuit's name {why}")))?;
    Ok(format!("/v1/circuits/{name}{verb}"))
}

async fn list(args: &ClientArgs) -> Outcome {
    let call = Call::get("/v1/circuits").query("limit", Some(500));
    let page = Client::new(args)?.call(call).await?.body;
    if args.output == Output::Json {
        return output::json(&page);
    }
    let rows = page["items"].as_array().into_iter().flatten().map(|circuit| {
        let state = match &circuit["state"] {
            Value::Null => "unknown".into(),
            _ => text(circuit, "state"),
        };
        let calls = format!("{}/{}", text(circuit, "failed"), text(circuit, "calls"));
        let [name, mode] = ["name", "mode"].map(|field| text(circuit, field));
        let [since, probe] = ["opened_at", "next_probe_at"].map(|field| text(circuit, field));
        vec![name, state, mode, text(circuit, "failures_in_row"), calls, since, probe]
    });
    output::table(&["circuit", "state", "mode", "in row", "failed", "open since", "probe at"], rows)
}

async fn force(args: Force, verb: &str) -> Outcome {
    let path = path_of(&args.circuit, verb)?;
    let mut call = Call::post(&path);
    if let Some(reason) = args.reason {
        call = call.json(&json!({ "reason": reason }));
    }
    show(&args.client, call).await
}

async fn set(args: Set) -> Outcome {
    let mut body = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        body.extend(value.map(|value| (name.to_owned(), value)));
    };
    for name in &args.unset {
        put(&name.replace('-', "_"), Some(Value::Null));
    }
    put("failures", args.failures.map(Value::from));
    put("window", args.window.map(Value::from));
    put("percent", args.percent.map(Value::from));
    put("calls_min", args.calls_min.map(Value::from));
    put("probe", args.probe.map(Value::from));
    if body.is_empty() {
        return Err(Failure::Usage("nothing to set; see `windlass circuit set --help`".into()));
    }
    let path = path_of(&args.circuit, "")?;
    show(&args.client, Call::patch(&path).json(&Value::Object(body))).await
}

async fn show(args: &ClientArgs, call: Call<'_>) -> Outcome {
    let circuit = Client::new(args)?.call(call).await?.body;
    if args.output == Output::Json {
        return output::json(&circuit);
    }
    let mut pairs = Vec::new();
    for (name, member) in circuit.as_object().into_iter().flatten() {
        match member {
            Value::Object(inner) => {
                pairs.extend(inner.keys().map(|key| (format!("{name}.{key}"), text(member, key))))
            }
            // Each queue by itself is for programs.
            Value::Array(queues) => {
                let names: Vec<String> = queues.iter().map(|queue| text(queue, "queue")).collect();
                pairs.push((name.clone(), names.join(", ")));
            }
            _ => pairs.push((name.clone(), text(&circuit, name))),
        }
    }
    output::fields(&pairs.iter().map(|(n, v)| (n.as_str(), v.clone())).collect::<Vec<_>>())
}
