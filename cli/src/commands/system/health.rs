//! `windlass system health`: how the installation does.

use clap::Args;
use serde_json::Value;

use crate::client::{Call, Client, ClientArgs};
use crate::exit::{Failure, Outcome};
use crate::output::{self, Output, text};

/// Its flags.
#[derive(Debug, Args)]
pub struct Health {
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub async fn run(args: Health) -> Outcome {
    let answer = Client::new(&args.client)?.call(Call::get("/v1/system/health")).await?.body;
    match args.client.output {
        Output::Json => output::json(&answer)?,
        Output::Table => show(&answer)?,
    }
    match text(&answer, "status").as_str() {
        "healthy" => Ok(()),
        status => Err(Failure::Check(format!("the installation is {}", output::clean(status)))),
    }
}

fn show(answer: &Value) -> Outcome {
    let stale = if answer["stale"] == true { " (nobody looks)" } else { "" };
    output::fields(&[
        ("status", text(answer, "status")),
        ("judged at", format!("{}{stale}", text(answer, "judged_at"))),
    ])?;
    let list = |name: &str| answer[name].as_array().cloned().unwrap_or_default();
    let rows = |name: &str, columns: &'static [&'static str]| {
        let cells = move |row: Value| columns.iter().map(|c| text(&row, c)).collect::<Vec<_>>();
        list(name).into_iter().map(cells).collect::<Vec<_>>()
    };
    const COMPONENT: &[&str] = &["name", "status", "since", "detail"];
    output::line("")?;
    output::table(&["component", "status", "since", "detail"], rows("components", COMPONENT))?;
    let alerts = rows("alerts", &["severity", "code", "namespace", "subject", "since", "message"]);
    if !alerts.is_empty() {
        output::line("")?;
        let headings = ["severity", "alert", "namespace", "subject", "since", "message"];
        output::table(&headings, alerts)?;
    }
    for advice in list("recommendations") {
        output::line(&format!("- {}", output::clean(advice.as_str().unwrap_or_default())))?;
    }
    Ok(())
}
