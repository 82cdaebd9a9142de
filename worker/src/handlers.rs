//! The built-in kinds, one file each.

use std::sync::Arc;

use windlass_shared::config::WorkerSettings;
use windlass_shared::model::name::Kind;

use crate::handler::Handler;
use crate::registry::Registry;

mod command_run;
mod cpu_burn;
mod echo;
mod evaluate;
mod fail;
mod http_request;
mod json_text;
mod loadtest_job;
mod noop;
mod sleep;

/// Every built-in kind, for a worker of these settings.
///
/// # Errors
/// When the file of command templates is set and cannot be used.
pub(crate) fn builtin(settings: &WorkerSettings) -> anyhow::Result<Registry> {
    let commands = command_run::CommandRun::new(settings.commands_file.as_deref())?;
    let http = http_request::HttpRequest::new(settings.http_allow_private)?;
    let mut registry = Registry::default();
    let mut add = |kind: &str, handler: Arc<dyn Handler>| {
        registry.add(kind.parse::<Kind>().expect("built-in kinds have legal names"), handler);
    };
    add("noop", Arc::new(noop::Noop));
    add("echo", Arc::new(echo::Echo));
    add("evaluate", Arc::new(evaluate::Evaluator));
    add("sleep", Arc::new(sleep::handler()));
    add("cpu.burn", Arc::new(cpu_burn::handler()));
    add("fail", Arc::new(fail::handler()));
    add("loadtest.job", Arc::new(loadtest_job::handler()));
    add("http.request", Arc::new(http));
    add("command.run", Arc::new(commands));
    Ok(registry)
}
