//! `windlass workflow import`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use windlass_loadtest::wfformat;

use super::{graph, submit, watch};
use crate::client::{self, Call, Client, ClientArgs};
use crate::exit::{Failure, Outcome};
use crate::{input, output};

const EXAMPLES: &str = "\
Examples:
  windlass workflow import --format wfformat trace.json --out trace.workflow.json
  windlass workflow import --format wfformat trace.json --time-factor 0.01 --submit --wait
  windlass workflow import --format wfformat trace.json --steps burn --time-factor 0.1 --submit

wfformat: JSON of WfCommons, schema 1.5. One step per task; it sleeps, or burns, for as long as the task ran, \
times the factor; without --submit the workflow is printed.";

/// Make a workflow of a trace in another format.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ImportArgs {
    /// The trace; - for standard input
    file: String,
    /// In which format it is
    #[arg(long, value_enum)]
    format: Format,
    /// Recorded run times are multiplied by this
    #[arg(long, default_value_t = 1.0, value_name = "F")]
    time_factor: f64,
    /// What the steps do for that long
    #[arg(long, value_enum, default_value = "sleep")]
    steps: Work,
    /// Write the workflow to this file [default: standard output, unless submitted]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Start a run of it
    #[arg(long)]
    submit: bool,
    #[command(flatten)]
    follow: watch::FollowArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// WfFormat of WfCommons, schema 1.5
    Wfformat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Work {
    /// Wait: kind `sleep`
    Sleep,
    /// Keep a processor busy: kind `cpu.burn`
    Burn,
}

impl From<Work> for wfformat::Work {
    fn from(work: Work) -> Self {
        match work {
            Work::Sleep => Self::Sleep,
            Work::Burn => Self::Burn,
        }
    }
}

/// Runs the command.
pub async fn run(args: ImportArgs) -> Outcome {
    if !args.time_factor.is_finite() || args.time_factor < 0.0 {
        return Err(Failure::Usage("--time-factor must be 0 or more".into()));
    }
    if args.follow.is_wanted() && !args.submit {
        return Err(Failure::Usage("--wait and --watch need --submit".into()));
    }
    let text = String::from_utf8(input::read(&args.file)?)
        .map_err(|_| Failure::Usage(format!("{} is not text in UTF-8", args.file)))?;
    let document = match args.format {
        Format::Wfformat => {
            let (time_factor, work) = (args.time_factor, args.steps.into());
            let options = wfformat::Options { time_factor, work };
            wfformat::convert(&text, options)
                .map_err(|fault| Failure::Usage(format!("{}: {fault}", args.file)))?
        }
    };
    if let Some(file) = &args.out {
        graph::write(file, &format!("{document:#}\n"))?;
    }
    if !args.submit {
        return if args.out.is_some() { Ok(()) } else { output::json(&document) };
    }
    let (client, key) = (Client::new(&args.client)?, client::fresh_key());
    let call = Call::post("/v1/workflows").json(&document).idempotent(&key);
    let run = client.call(call).await?.body;
    submit::started(&client, &run, &args.follow, args.client.output).await
}
