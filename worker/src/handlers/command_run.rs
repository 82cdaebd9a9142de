//! `command.run`: runs a command that the operator has registered as a template.
//!
//! A payload `{"command", "args", "stdin", "env", "timeout"}` chooses a template and fills in what the
//! template leaves open; nothing of it ever reaches a shell. The output is `{"exit_code", "stdout",
//! "stderr"}`. Every process that the command makes ends with it.
//!
//! | code | when | tried again |
//! |---|---|---|
//! | `command_failed` | an exit code other than 0 | yes |
//! | `command_killed` | killed by a signal that the worker did not send | yes |
//! | `timeout` | over the template's or the payload's limit | yes |
//! | `out_of_memory` | over `memory_max` | yes |
//! | `too_many_processes` | over `processes_max` | yes |
//! | `command_not_started` | the program cannot be started on this worker | yes |
//! | `command_not_registered` | this worker has no such template | no |
//! | `invalid_payload` | the template does not allow what the payload asks for | no |
//!
//! Linux only: it needs the kernel's subreapers and lists of children. What a command reads and where it
//! connects is limited by its user, not by the worker.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, LogLevel};
use crate::error::HandlerError;
use crate::handler::{Handler, Output, parse};

mod capture;
mod payload;
mod process;
mod size;
mod sys;
mod template;
mod tree;
mod verdict;
mod warden;

#[cfg(test)]
mod tests;

use payload::{Args, Stamp};
use process::{Finished, Why};
use template::Template;

/// The handler. Cheap to clone.
#[derive(Clone)]
pub(super) struct CommandRun {
    templates: Arc<BTreeMap<String, Template>>,
}

impl CommandRun {
    /// With the templates of a file; without one every command is refused.
    ///
    /// # Errors
    /// When the file cannot be read, or says what cannot be.
    pub(super) fn new(file: Option<&Path>) -> anyhow::Result<Self> {
        let templates = file.map(template::load).transpose()?.unwrap_or_default();
        Ok(Self { templates: Arc::new(templates) })
    }

    /// Runs a command to the end of its last process. Dropped, or when `stop` fires, it ends them all.
    async fn perform(
        &self,
        args: Args,
        stamp: &Stamp,
        stop: &CancellationToken,
    ) -> Result<Finished, HandlerError> {
        let template = self.templates.get(&args.command).ok_or_else(|| {
            HandlerError::permanent(
                "command_not_registered",
                "this worker has no such command template",
            )
        })?;
        let launch = payload::launch(template, args, stamp)?;
        Box::pin(process::run(launch, stop)).await.map_err(|e| verdict::not_started(&e))
    }
}

/// What the gate said of the attempt before, for jobs with one that says more than no. A command runs without it where it
/// cannot be had: it did so before there was any.
async fn previous(ctx: &Context) -> Option<String> {
    ctx.spec().expect.as_ref()?.evaluate.as_ref()?;
    match ctx.previous().await {
        Ok(previous) => Some(serde_json::to_string(&previous?).expect("it is made of JSON")),
        Err(error) => {
            ctx.log(LogLevel::Warn, format!("runs without WINDLASS_PREVIOUS: {error}"));
            None
        }
    }
}

impl Handler for CommandRun {
    fn call(&self, ctx: Context) -> BoxFuture<'static, Result<Output, HandlerError>> {
        let handler = self.clone();
        Box::pin(async move {
            let args: Args = parse(&ctx.payload())?;
            let stamp = Stamp {
                job_id: ctx.job_id().to_string(),
                attempt: ctx.attempt(),
                fence: ctx.fence().0,
                traceparent: ctx.traceparent().map(str::to_owned),
                previous: previous(&ctx).await,
            };
            let finished = handler.perform(args, &stamp, &ctx.cancellation()).await?;
            ctx.set_usage(verdict::usage(&finished));
            if finished.why == Why::Cancelled {
                // The attempt's record has no room for it.
                ctx.log(
                    LogLevel::Warn,
                    format!("the command was stopped{}", verdict::last_words(&finished)),
                );
            }
            verdict::conclude(&finished)
        })
    }
}
