//! `windlass workflow validate` and `optimize`: what the server makes of a document that it does not run.

use clap::Args;
use serde_json::Value;

use super::document;
use crate::client::{Call, Client, ClientArgs};
use crate::exit::Outcome;
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
    let call = Call::check("/v1/workflows/validate").json(&body);
    let answer = Client::new(&args.client)?.call(call).await?.body;
    if args.client.output == Output::Json {
        return output::json(&answer);
    }
    output::fields(&[
        ("valid", "yes".into()),
        ("steps", text(&answer, "steps")),
        ("needs", text(&answer, "edges")),
        ("levels", text(&answer, "levels")),
        ("at once", widest(&answer)),
        ("critical path", path(&answer["critical_path"])),
    ])?;
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        let (at, message) = (text(warning, "pointer"), text(warning, "message"));
        output::line(&output::clean(&format!("warning: {at}: {message}")))?;
    }
    Ok(())
}

/// Advice about a document.
pub async fn optimize(args: FileArgs) -> Outcome {
    let body = document::read(&args.file)?;
    let call = Call::check("/v1/workflows/optimize").json(&body);
    let answer = Client::new(&args.client)?.call(call).await?.body;
    if args.client.output == Output::Json {
        return output::json(&answer);
    }
    let (before, after) = (&answer["before"], &answer["after"]);
    output::fields(&[
        ("critical path", path(&before["critical_path"])),
        ("total work", text(before, "total_work")),
        ("needs", format!("{} now, {} needed", text(before, "edges"), text(after, "edges"))),
    ])?;
    let mut none = true;
    for (list, heading) in [
        ("changes", "without any change of meaning (--output json has the document):"),
        ("suggestions", "if what the steps do allows it:"),
    ] {
        let items = answer[list].as_array().map(Vec::as_slice).unwrap_or_default();
        if !items.is_empty() {
            none = false;
            output::line(&format!("\n{heading}"))?;
        }
        for item in items {
            let estimate = text(item, "estimate");
            let estimate =
                if estimate.is_empty() { estimate } else { format!(" (the run: {estimate})") };
            let (step, message) = (text(item, "step"), text(item, "message"));
            output::line(&output::clean(&format!("  {step}: {message}{estimate}")))?;
        }
    }
    if none { output::line("nothing to suggest") } else { Ok(()) }
}

/// Steps of the widest level.
fn widest(answer: &Value) -> String {
    let groups = answer["parallel_groups"].as_array().into_iter().flatten();
    let most = groups.filter_map(|group| group.as_array().map(Vec::len)).max();
    match most {
        None => String::new(),
        Some(1) => "one step".into(),
        Some(most) => format!("up to {most} steps"),
    }
}

/// `3 steps, 12s: a -> b -> c`; the middle of a long one is left out.
fn path(path: &Value) -> String {
    let steps = path["steps"].as_array().into_iter().flatten();
    let ids: Vec<&str> = steps.filter_map(Value::as_str).collect();
    let noun = if ids.len() == 1 { "step" } else { "steps" };
    let estimate = text(path, "estimate");
    let estimate = if estimate.is_empty() { estimate } else { format!(", about {estimate}") };
    let shown = match &ids[..] {
        [a, b, c, .., y, z] if ids.len() > 8 => [*a, *b, *c, "...", *y, *z].join(" -> "),
        ids => ids.join(" -> "),
    };
    format!("{} {noun}{estimate}: {shown}", ids.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_long_path_is_shown_by_its_ends() {
        let ids: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        let said = path(&json!({ "steps": ids, "estimate": "20s" }));
        assert_eq!(said, "20 steps, about 20s: 0 -> 1 -> 2 -> ... -> 18 -> 19");
        assert_eq!(path(&json!({ "steps": ["a"] })), "1 step: a");
    }
}
