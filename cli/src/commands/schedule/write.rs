//! `windlass schedule create` and `set`.

use clap::Args;
use serde_json::{Map, Value, json};

use super::{path_of, show};
use crate::client::{self, Call, Client, ClientArgs};
use crate::exit::{Failure, Outcome};
use crate::input::json_of;

/// Make a schedule.
#[derive(Debug, Args)]
pub struct Create {
    /// Its name: a-z 0-9 . _ -
    name: String,
    #[command(flatten)]
    rules: Rules,
    /// Make it paused
    #[arg(long)]
    paused: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Change a schedule from now on.
#[derive(Debug, Args)]
pub struct Set {
    /// The schedule
    name: String,
    #[command(flatten)]
    rules: Rules,
    /// Back to the default, such as jitter; repeat for several
    #[arg(long, value_name = "FIELD")]
    unset: Vec<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct Rules {
    /// Five fields, six with seconds in front, or @daily and the like
    #[arg(long, value_name = "PATTERN", conflicts_with = "every")]
    cron: Option<String>,
    /// An interval, such as 30s or 1h30m
    #[arg(long)]
    every: Option<String>,
    /// Where the pattern's times are meant, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// Times that clocks pass over in spring [default: shift]
    #[arg(long, value_parser = ["shift", "skip"])]
    gap: Option<String>,
    /// Times that clocks show twice in autumn [default: both where the hour begins with *, else first]
    #[arg(long, value_parser = ["first", "last", "both"])]
    repeat: Option<String>,
    /// When the work of an earlier fire has not ended [default: skip]
    #[arg(long, value_parser = ["allow", "skip", "queue", "replace"])]
    overlap: Option<String>,
    /// Due times that nobody was there for [default: one]
    #[arg(long, value_parser = ["none", "one", "all"])]
    catch_up: Option<String>,
    /// With --catch-up all: the latest so many [default: 100]
    #[arg(long, value_name = "N", requires = "catch_up")]
    catch_up_max: Option<u32>,
    /// No later than this is late, not missed [default: 1m]
    #[arg(long, value_name = "TIME")]
    grace: Option<String>,
    /// Each fire comes up to this much later
    #[arg(long)]
    jitter: Option<String>,
    /// Not due before (RFC 3339)
    #[arg(long, value_name = "TIME")]
    start_at: Option<String>,
    /// Not due after (RFC 3339)
    #[arg(long, value_name = "TIME")]
    end_at: Option<String>,
    /// A date to leave out, such as 2026-12-25 or 2026-12-24/2027-01-01; repeat for several
    #[arg(long, value_name = "DATES")]
    exclude: Vec<String>,
    /// Pause it after so many failed fires in a row
    #[arg(long, value_name = "N")]
    pause_on_failure: Option<u32>,
    /// For people
    #[arg(long)]
    description: Option<String>,
    /// The job to submit: its kind
    #[arg(long, conflicts_with_all = ["job", "definition", "workflow"])]
    kind: Option<String>,
    /// Its payload: JSON, or @FILE, or -
    #[arg(long, value_name = "JSON|@FILE|-", requires = "kind")]
    payload: Option<String>,
    /// Its queue [default: default]
    #[arg(long, requires = "kind")]
    queue: Option<String>,
    /// The whole job as JSON, in place of --kind
    #[arg(long, value_name = "JSON|@FILE|-", conflicts_with_all = ["definition", "workflow"])]
    job: Option<String>,
    /// The stored workflow definition to run
    #[arg(long, value_name = "NAME", conflicts_with = "workflow")]
    definition: Option<String>,
    /// Its input: JSON, or @FILE, or -
    #[arg(long, value_name = "JSON|@FILE|-", requires = "definition")]
    input: Option<String>,
    /// A workflow written in place, as JSON
    #[arg(long, value_name = "JSON|@FILE|-")]
    workflow: Option<String>,
}

impl Rules {
    /// Only what was given, so that the server's defaults hold.
    fn body(self) -> Outcome<Map<String, Value>> {
        let mut body = Map::new();
        let texts = [
            ("cron", self.cron),
            ("every", self.every),
            ("timezone", self.timezone),
            ("overlap", self.overlap),
            ("jitter", self.jitter),
            ("start_at", self.start_at),
            ("end_at", self.end_at),
            ("description", self.description),
        ];
        for (name, value) in texts {
            body.extend(value.map(|value| (name.to_owned(), Value::from(value))));
        }
        let dst =
            some([("gap", self.gap.map(Value::from)), ("repeat", self.repeat.map(Value::from))]);
        let catch_up = some([
            ("policy", self.catch_up.map(Value::from)),
            ("max", self.catch_up_max.map(Value::from)),
            ("grace", self.grace.map(Value::from)),
        ]);
        let exclude = (!self.exclude.is_empty()).then(|| json!(self.exclude));
        let failures = self.pause_on_failure.map(Value::from);
        let job = match (self.job, self.kind) {
            (Some(job), _) => Some(json_of("--job", &job)?),
            (None, Some(kind)) => {
                let payload = self.payload.map(|text| json_of("--payload", &text)).transpose()?;
                let queue = self.queue.map(Value::from);
                some([("kind", Some(kind.into())), ("payload", payload), ("queue", queue)])
            }
            (None, None) => None,
        };
        let workflow = match (self.workflow, self.definition) {
            (Some(workflow), _) => Some(json_of("--workflow", &workflow)?),
            (None, Some(definition)) => {
                let input = self.input.map(|text| json_of("--input", &text)).transpose()?;
                some([("definition", Some(definition.into())), ("input", input)])
            }
            (None, None) => None,
        };
        for (name, value) in [
            ("dst", dst),
            ("catch_up", catch_up),
            ("exclude", exclude),
            ("pause_on_failure", failures),
            ("job", job),
            ("workflow", workflow),
        ] {
            body.extend(value.map(|value| (name.to_owned(), value)));
        }
        Ok(body)
    }
}

/// An object of what is there; `None`: nothing is.
fn some<const N: usize>(fields: [(&str, Option<Value>); N]) -> Option<Value> {
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let object: Map<String, Value> = given.collect();
    (!object.is_empty()).then_some(Value::Object(object))
}

/// Makes the schedule and shows it.
pub async fn create(args: Create) -> Outcome {
    // Refused here rather than by the server, like everywhere else.
    path_of(&args.name, "")?;
    let mut body = args.rules.body()?;
    body.insert("name".into(), args.name.into());
    if args.paused {
        body.insert("paused".into(), true.into());
    }
    let key = client::fresh_key();
    let call = Call::post("/v1/schedules").json(&Value::Object(body)).idempotent(&key);
    let made = Client::new(&args.client)?.call(call).await?.body;
    show(&made, args.client.output)
}

/// Changes the schedule and shows it.
pub async fn set(args: Set) -> Outcome {
    let mut body = args.rules.body()?;
    body.extend(args.unset.iter().map(|name| (name.replace('-', "_"), Value::Null)));
    if body.is_empty() {
        return Err(Failure::Usage("nothing to set; see `windlass schedule set --help`".into()));
    }
    let path = path_of(&args.name, "")?;
    let call = Call::patch(&path).json(&Value::Object(body));
    let changed = Client::new(&args.client)?.call(call).await?.body;
    show(&changed, args.client.output)
}
