//! `windlass workflow validate` and `optimize`: what the server makes of a document that it does not run.

use clap::Args;
use serde_json::Value;

use super::document;
use crate::client::{Call, Client, ClientArgs};
use crate::exit::{Failure, Outcome};
use crate::output::{self, Output, text};

/// A document in a file.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// The document, YAML or JSON; - for standard input
    file: String,
    #[command(flatten)]
    client: ClientArgs,
}

/// Checks a document; a wrong one is a check that did not hold.
pub async fn validate(args: FileArgs) -> Outcome {
    let body = document::read(&args.file)?;
    let client = Client::new(&args.client)?;
    let call = Call::post("/v1/workflows/validate").json(&body).repeated();
    let answer = client.check(call).await?.body;
    if args.client.output == Output::Json {
        return output::json(&answer);
    }
    if answer["valid"] == Value::Bool(false) {
        return Err(Failure::Check(faults(&answer)));
    }
    let levels = answer["levels"].as_array().map_or_else(|| text(&answer, "levels"), |levels| {
        levels.len().to_string()
    });
    output::fields(&[
        ("valid", "yes".into()),
        ("steps", text(&answer, "steps")),
        ("edges", text(&answer, "edges")),
        ("levels", levels),
        ("critical path", path(&answer["critical_path"])),
    ])
}

/// Advice about a document.
pub async fn optimize(args: FileArgs) -> Outcome {
    let body = document::read(&args.file)?;
    let client = Client::new(&args.client)?;
    let call = Call::post("/v1/workflows/optimize").json(&body).repeated();
    let answer = client.check(call).await?.body;
    if args.client.output == Output::Json {
        return output::json(&answer);
    }
    let suggestions = answer["suggestions"].as_array().cloned().unwrap_or_default();
    if suggestions.is_empty() {
        return output::line("nothing to suggest");
    }
    for suggestion in suggestions {
        let (code, detail) = (text(&suggestion, "code"), text(&suggestion, "detail"));
        output::line(&output::clean(&format!("{code}: {detail}")))?;
    }
    Ok(())
}

fn faults(answer: &Value) -> String {
    let errors = answer["errors"].as_array().into_iter().flatten();
    let lines = errors.map(|e| format!("\n  {}: {}", text(e, "pointer"), text(e, "message")));
    output::clean(&format!("the document is wrong{}", lines.collect::<String>()))
}

/// `a -> b -> c`, of a list of ids or of an object with one.
fn path(value: &Value) -> String {
    let steps = value.as_array().or_else(|| value["steps"].as_array());
    let ids: Vec<&str> = steps.into_iter().flatten().filter_map(Value::as_str).collect();
    ids.join(" -> ")
}
