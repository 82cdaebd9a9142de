//! `windlass system duties`: what schedulers do by themselves.

use clap::Args;
use serde_json::Value;

use crate::client::{Call, Client, ClientArgs};
use crate::exit::Outcome;
use crate::output::{self, Output, text};

/// Show what schedulers do by themselves, and how it went last.
#[derive(Debug, Args)]
pub struct Duties {
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub async fn run(args: Duties) -> Outcome {
    let answer = Client::new(&args.client)?.call(Call::get("/v1/system/duties")).await?.body;
    if args.client.output == Output::Json {
        return output::json(&answer);
    }
    let headings = [
        "duty",
        "who",
        "every",
        "scheduler",
        "outcome",
        "ended at",
        "took",
        "done",
        "failures",
        "error",
    ];
    output::table(&headings, items(&answer["items"]).flat_map(rows))
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// One for each scheduler.
fn rows(duty: &Value) -> Vec<Vec<String>> {
    let late = if duty["late"] == true { " (late)" } else { "" };
    let row = |replica: &Value| {
        vec![
            text(duty, "name"),
            text(duty, "who"),
            text(duty, "interval"),
            text(replica, "name"),
            format!("{}{late}", text(replica, "outcome")),
            text(replica, "ended_at"),
            replica["took_ms"].as_f64().map(|ms| format!("{ms:.1} ms")).unwrap_or_default(),
            text(replica, "done"),
            text(replica, "failures"),
            text(replica, "error"),
        ]
    };
    items(&duty["replicas"]).map(row).collect()
}
