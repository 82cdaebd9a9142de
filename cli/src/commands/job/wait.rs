//! `windlass job wait`.

use std::time::{Duration, Instant};

use clap::Args;
use windlass_shared::model::id::JobId;
use windlass_shared::model::time::Span;

use crate::client::{Call, Client, ClientArgs};
use crate::exit::{Failure, Outcome};
use crate::output::{Output, text};

/// One long poll.
const POLL: Duration = Duration::from_secs(30);

/// Wait until a job is finished.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// The job's id
    id: JobId,
    /// Give up after this long, such as 10m; exit 3 then [default: never]
    #[arg(long)]
    timeout: Option<Span>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub async fn run(args: WaitArgs) -> Outcome {
    let client = Client::new(&args.client)?;
    until_finished(&client, args.id, args.timeout.map(|t| t.0), args.client.output).await
}

/// Waits, shows the job, and fails with [`Failure::Check`] unless it succeeded.
pub async fn until_finished(
    client: &Client,
    id: JobId,
    timeout: Option<Duration>,
    output: Output,
) -> Outcome {
    let started = Instant::now();
    let path = format!("/v1/jobs/{id}/wait");
    loop {
        let left = timeout.map_or(POLL, |t| t.saturating_sub(started.elapsed()).min(POLL));
        let call = Call::get(&path).query("timeout", Some(left.as_secs_f64()));
        let job = client.call(call).await?.body;
        if !job.is_null() {
            super::show(&job, output)?;
            let state = text(&job, "state");
            if state == "succeeded" {
                return Ok(());
            }
            return Err(Failure::Check(format!("job {id} ended as {state}")));
        }
        if timeout.is_some_and(|t| started.elapsed() >= t) {
            return Err(Failure::Check(format!("job {id} is not finished yet")));
        }
    }
}
