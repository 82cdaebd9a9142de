//! `command.run`: runs a command that the operator has registered as a template.
//!
//! A payload chooses a template and fills in what the template leaves open; nothing of it ever reaches a
//! shell. Every process that the command makes ends with it.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use windlass_shared::limits::VALUE_BYTES_MAX;
use windlass_shared::model::time::Span;

use crate::context::Context;
use crate::error::HandlerError;
use crate::handler::{Handler, Output, parse};

mod capture;
mod process;
mod sys;
mod template;
mod tree;
mod warden;

use process::{Finished, Launch, Why};
use template::{EnvRule, Template};

/// The kernel takes no longer argument or variable.
const ARG_BYTES_MAX: usize = (128 << 10) - 1;
/// Of the standard error, in the message of a failed attempt.
const STDERR_TAIL_BYTES: usize = 2 << 10;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The payload.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    /// The template's name.
    command: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    stdin: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    timeout: Option<Span>,
}

#[derive(Serialize)]
struct Ended {
    exit_code: i32,
    stdout: String,
    stderr: String,
}

/// The handler.
pub(super) struct CommandRun {
    templates: Arc<BTreeMap<String, Template>>,
}

impl CommandRun {
    /// With the templates of a file; without one every command is refused.
    pub(super) fn new(file: Option<&Path>) -> anyhow::Result<Self> {
        let templates = file.map(template::load).transpose()?.unwrap_or_default();
        Ok(Self { templates: Arc::new(templates) })
    }
}

impl Handler for CommandRun {
    fn call(&self, ctx: Context) -> BoxFuture<'static, Result<Output, HandlerError>> {
        let templates = Arc::clone(&self.templates);
        Box::pin(async move {
            let args: Args = parse(&ctx.payload())?;
            let template = templates.get(&args.command).ok_or_else(|| {
                HandlerError::permanent("command_not_registered", "this worker has no such command template")
            })?;
            let limit = template.time_limit(args.timeout);
            let launch = launch(template, args, &ctx)?;
            let token = ctx.cancellation();
            let finished = process::run(launch, &token).await.map_err(not_started)?;
            ctx.set_usage(serde_json::json!({
                "cpu_ms": u64::try_from(finished.cpu.as_millis()).unwrap_or(u64::MAX),
                "memory_peak_bytes": finished.memory_peak_bytes,
            }));
            conclude(finished, limit.map(Span))
        })
    }
}

/// Fills in the template, or says for good what it does not allow.
fn launch(template: &Template, args: Args, ctx: &Context) -> Result<Launch, HandlerError> {
    let max = template.args_max();
    if args.args.len() > max {
        return Err(invalid(&format!("`args` may have at most {max} arguments for this command")));
    }
    for text in args.args.iter().chain(args.env.values()) {
        if text.contains('\0') || text.len() > ARG_BYTES_MAX {
            return Err(invalid("an argument or variable has a NUL or is too long"));
        }
    }
    if args.stdin.is_some() && !template.stdin {
        return Err(invalid("`stdin` is not allowed for this command"));
    }
    if let Some(name) = args.env.keys().find(|name| template.env.get(*name) != Some(&EnvRule::Allowed(true))) {
        return Err(invalid(&format!("`env` must not set `{name}` for this command")));
    }
    let mut command = Command::new(&template.program);
    command.args(&template.args).args(&args.args).current_dir(&template.cwd).env_clear();
    command.env("PATH", PATH);
    for (name, rule) in &template.env {
        if let EnvRule::Fixed(value) = rule {
            command.env(name, value);
        }
    }
    command.envs(&args.env);
    command.env("WINDLASS_JOB_ID", ctx.job_id().to_string());
    command.env("WINDLASS_FENCE", ctx.fence().to_string());
    command.env("WINDLASS_ATTEMPT", ctx.attempt().to_string());
    if let Some(trace) = ctx.traceparent().filter(|trace| !trace.contains('\0')) {
        command.env("TRACEPARENT", trace);
    }
    Ok(Launch {
        command,
        stdin: args.stdin,
        output_max: template.output_max(),
        open_files_max: template.open_files_max,
        file_size_max: template.file_size_max.map(|size| size.0),
        memory_max: template.memory_max.map(|size| size.0),
        timeout: template.time_limit(args.timeout),
    })
}

fn conclude(finished: Finished, limit: Option<Span>) -> Result<Output, HandlerError> {
    let tail = finished.stderr.end(STDERR_TAIL_BYTES);
    let tail = if tail.is_empty() { tail } else { format!(": {tail}") };
    match finished.why {
        Why::Ended(status) if status.success() => output(&finished, status),
        Why::Ended(status) => {
            let how = match (status.code(), status.signal()) {
                (Some(code), _) => format!("the command ended with exit code {code}"),
                (None, signal) => format!("the command was killed by signal {}", signal.unwrap_or(0)),
            };
            Err(HandlerError::retryable("command_failed", format!("{how}{tail}")))
        }
        Why::TimedOut => {
            let limit = limit.map_or_else(String::new, |limit| format!(" of {limit}"));
            Err(HandlerError::retryable("command_timeout", format!("over its limit{limit}{tail}")))
        }
        Why::TooMuchMemory => {
            let held = finished.memory_peak_bytes;
            let message = format!("the command held {held} bytes of memory and was killed{tail}");
            Err(HandlerError::retryable("command_memory_exceeded", message))
        }
        Why::Cancelled => Err(HandlerError::cancelled()),
        Why::Unknown => Err(HandlerError::retryable("command_lost", "the command's warden was killed")),
    }
}

/// As much of the streams as an output may hold. Escaping can make text six times longer.
fn output(finished: &Finished, status: ExitStatus) -> Result<Output, HandlerError> {
    let exit_code = status.code().unwrap_or_default();
    let (stdout, stderr) = (finished.stdout.text(), finished.stderr.text());
    let mut ended = Ended { exit_code, stdout, stderr };
    loop {
        let output = Output::of(&ended)?;
        if output.bytes().len() <= VALUE_BYTES_MAX {
            return Ok(output);
        }
        let longer = if ended.stdout.len() >= ended.stderr.len() { &mut ended.stdout } else { &mut ended.stderr };
        *longer = without_middle(longer);
    }
}

/// The first and the last quarter of a text.
fn without_middle(text: &str) -> String {
    let head = text.floor_char_boundary(text.len() / 4);
    let tail = text.ceil_char_boundary(text.len() - text.len() / 4);
    format!("{}\n[{} bytes left out]\n{}", &text[..head], tail - head, &text[tail..])
}

fn not_started(error: std::io::Error) -> HandlerError {
    let message = format!("the command cannot be started: {error}");
    match error.kind() {
        // Too many processes, no memory: that passes.
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::OutOfMemory => {
            HandlerError::retryable("command_not_started", message)
        }
        _ => HandlerError::permanent("command_not_started", message),
    }
}

fn invalid(message: &str) -> HandlerError {
    HandlerError::permanent("invalid_payload", message)
}
