//! `windlass job submit`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::wait;
use crate::client::{Call, Client, ClientArgs};
use crate::exit::{Failure, Outcome};
use crate::input::{json_of, read};
use crate::output::{self, Output, text};

const EXAMPLES: &str = "\
Examples:
  windlass job submit noop
  windlass job submit echo --payload '{\"n\": 1}' --wait
  windlass job submit sleep --payload '{\"for\": \"250ms\"}' --delay 5m --priority 9
  windlass job submit mail.send --payload @mail.json --unique-key user-42 --on-conflict return-existing
  windlass job submit --batch jobs.ndjson      one job a line: {\"kind\": \"echo\", \"payload\": 1}

Submitting is safe to repeat under the same --idempotency-key; without one, the command makes one \
for its own retries.";

/// Submit one job, or many from a file.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SubmitArgs {
    /// Which handler runs it: noop, echo, sleep, fail, cpu.burn, http.request, command.run, or your own
    #[arg(required_unless_present = "batch")]
    kind: Option<String>,
    /// JSON, or @FILE, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-")]
    payload: Option<String>,
    /// Where it waits [default: default]
    #[arg(long)]
    queue: Option<String>,
    /// 0 to 9; 9 runs first [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
    /// Not before this long from now, such as 90s or 1h30m
    #[arg(long, conflicts_with = "run_at")]
    delay: Option<String>,
    /// Not before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    run_at: Option<String>,
    /// Attempts allowed, the first included [default: 5]
    #[arg(long)]
    max_attempts: Option<u32>,
    /// Limit of one attempt [default: 1m]
    #[arg(long)]
    timeout: Option<String>,
    /// Not started within this: expired
    #[arg(long, conflicts_with = "expires_at")]
    ttl: Option<String>,
    /// Not started by this time (RFC 3339): expired
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// Retry policy as JSON: {"backoff": "exponential", "initial": "1s", "max": "1h"}
    #[arg(long, value_name = "JSON|@FILE")]
    retry: Option<String>,
    /// Result gate as JSON: {"schema": ...} and/or {"expr": "output.ok"}
    #[arg(long, value_name = "JSON|@FILE")]
    expect: Option<String>,
    /// At most one unfinished job of this key at a time
    #[arg(long)]
    unique_key: Option<String>,
    /// What a second one gets
    #[arg(long, requires = "unique_key", value_parser = ["reject", "return-existing", "replace"])]
    on_conflict: Option<String>,
    /// A word to find it by; repeat for several
    #[arg(long)]
    tag: Vec<String>,
    /// Your own JSON object, kept with the job
    #[arg(long, value_name = "JSON|@FILE")]
    meta: Option<String>,
    /// The same key with the same job returns the first answer again
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Wait until it is finished; exit 3 if it did not succeed
    #[arg(long)]
    wait: bool,
    /// Submit many: a file with one job as JSON a line, or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kind", "payload", "wait"])]
    batch: Option<PathBuf>,
    /// With --batch: all or nothing
    #[arg(long, requires = "batch")]
    atomic: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub async fn run(args: SubmitArgs) -> Outcome {
    let client = Client::new(&args.client)?;
    let made = Uuid::now_v7().to_string();
    let key = args.idempotency_key.as_deref().unwrap_or(&made);
    if let Some(file) = &args.batch {
        return batch(&client, &args, file, key).await;
    }
    let body = Value::Object(job(&args)?);
    let job = client.call(Call::post("/v1/jobs").json(&body).idempotent(key)).await?.body;
    if !args.wait {
        return match args.client.output {
            Output::Json => output::json(&job),
            Output::Table => output::line(&output::clean(&text(&job, "id"))),
        };
    }
    let id = text(&job, "id");
    let id = id.parse().context("the server's answer has no job id")?;
    wait::until_finished(&client, id, None, args.client.output).await
}

/// The request: only what was given, so that the server's defaults hold.
fn job(args: &SubmitArgs) -> Outcome<Map<String, Value>> {
    let mut job = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        job.extend(value.map(|value| (name.to_owned(), value)));
    };
    let string = |value: &Option<String>| value.clone().map(Value::String);
    put("kind", string(&args.kind));
    put("payload", args.payload.as_deref().map(|p| json_of("--payload", p)).transpose()?);
    put("queue", string(&args.queue));
    put("priority", args.priority.map(Value::from));
    put("delay", string(&args.delay));
    put("run_at", string(&args.run_at));
    put("max_attempts", args.max_attempts.map(Value::from));
    put("timeout", string(&args.timeout));
    put("ttl", string(&args.ttl));
    put("expires_at", string(&args.expires_at));
    put("retry", args.retry.as_deref().map(|r| json_of("--retry", r)).transpose()?);
    put("expect", args.expect.as_deref().map(|e| json_of("--expect", e)).transpose()?);
    put("meta", args.meta.as_deref().map(|m| json_of("--meta", m)).transpose()?);
    if let Some(key) = &args.unique_key {
        let mut unique = json!({ "key": key });
        if let Some(word) = &args.on_conflict {
            unique["on_conflict"] = word.replace('-', "_").into();
        }
        put("unique", Some(unique));
    }
    put("tags", (!args.tag.is_empty()).then(|| json!(args.tag)));
    Ok(job)
}

async fn batch(client: &Client, args: &SubmitArgs, file: &std::path::Path, key: &str) -> Outcome {
    let body = read(&file.to_string_lossy())?;
    let call = Call::post("/v1/jobs/batch")
        .query("atomic", args.atomic.then_some(true))
        .ndjson(body)
        .idempotent(key);
    let answer = client.call(call).await?.body;
    match args.client.output {
        Output::Json => output::json(&answer)?,
        Output::Table => {
            let (accepted, rejected) = (text(&answer, "accepted"), text(&answer, "rejected"));
            output::line(&format!("accepted {accepted}, rejected {rejected}"))?;
            for result in answer["results"].as_array().into_iter().flatten() {
                if result["error"].is_object() {
                    let why = match text(&result["error"], "message") {
                        message if message.is_empty() => text(&result["error"], "detail"),
                        message => message,
                    };
                    let line =
                        format!("  line {}: {why}", result["index"].as_u64().unwrap_or(0) + 1);
                    output::line(&output::clean(&line))?;
                }
            }
        }
    }
    if answer["rejected"].as_u64().unwrap_or(0) > 0 {
        return Err(Failure::Failed(anyhow::anyhow!("some jobs were rejected")));
    }
    Ok(())
}
