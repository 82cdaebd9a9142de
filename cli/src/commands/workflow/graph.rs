//! `windlass workflow graph`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::Value;
use windlass_shared::model::id::WorkflowId;
use windlass_shared::model::workflow::draw::{Drawing, Edge, Node};

use super::document;
use crate::client::{Call, Client, ClientArgs};
use crate::exit::{Failure, Outcome};
use crate::output::{self, text};

const EXAMPLES: &str = "\
Examples:
  windlass workflow graph 0197b0a4-... --format svg --out run.svg     colours say how each step is
  windlass workflow graph 0197b0a4-... --format dot | dot -Tpdf -o run.pdf
  windlass workflow graph etl.yaml --format mermaid                   a file, without a server";

/// Draw a run, or a file that is not submitted.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct GraphArgs {
    /// The run's id, or a document in a file
    #[arg(value_name = "ID|FILE")]
    what: String,
    /// In which format
    #[arg(long, value_enum, default_value = "svg")]
    format: Format,
    /// Write to this file [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For browsers and documents
    Svg,
    /// For Mermaid, as in Markdown
    Mermaid,
    /// For Graphviz
    Dot,
    /// Nodes and edges
    Json,
}

/// Runs the command.
pub async fn run(args: GraphArgs) -> Outcome {
    let drawn = match args.what.parse::<WorkflowId>() {
        Ok(id) => fetched(&args, id).await?,
        Err(_) => of_file(&args)?,
    };
    match &args.out {
        Some(file) => write(file, &drawn),
        None => output::line(drawn.trim_end()),
    }
}

async fn fetched(args: &GraphArgs, id: WorkflowId) -> Outcome<String> {
    let path = format!("/v1/workflows/{id}/graph");
    let word = match args.format {
        Format::Svg => "svg",
        Format::Mermaid => "mermaid",
        Format::Dot => "dot",
        Format::Json => {
            let client = Client::new(&args.client)?;
            let graph = client.call(Call::get(&path)).await?.body;
            return Ok(format!("{graph:#}"));
        }
    };
    Client::new(&args.client)?.text(Call::get(&path).query("format", Some(word))).await
}

fn of_file(args: &GraphArgs) -> Outcome<String> {
    if args.what != "-" && !Path::new(&args.what).exists() {
        return Err(Failure::Usage(format!("{} is neither a run's id nor a file", args.what)));
    }
    let drawing = drawing(&document::read(&args.what)?)?;
    Ok(match args.format {
        Format::Svg => drawing.to_svg(),
        Format::Mermaid => drawing.to_mermaid(),
        Format::Dot => drawing.to_dot(),
        Format::Json => format!("{:#}", drawing.to_json()),
    })
}

/// Of a document that nobody has checked: what cannot be drawn is said, the rest is not looked at.
fn drawing(document: &Value) -> Outcome<Drawing> {
    let wrong = |at: String, what: &str| Failure::Usage(format!("{at}: {what}"));
    let steps = document["steps"]
        .as_array()
        .ok_or_else(|| wrong("/steps".into(), "a list of steps is needed"))?;
    let mut places: HashMap<&str, u32> = HashMap::with_capacity(steps.len());
    for (at, step) in (0_u32..).zip(steps) {
        let id = step["id"].as_str();
        let id = id.ok_or_else(|| wrong(format!("/steps/{at}/id"), "a text is needed"))?;
        if places.insert(id, at).is_some() {
            return Err(wrong(format!("/steps/{at}/id"), &format!("{id:?} is used twice")));
        }
    }
    let mut drawing = Drawing { title: text(document, "name"), ..Drawing::default() };
    for (to, step) in (0_u32..).zip(steps) {
        let id = text(step, "id");
        let details = ["if", "for_each"].map(|name| (name, text(step, name)));
        let details = details.iter().filter(|(_, said)| !said.is_empty());
        drawing.nodes.push(Node {
            label: id.clone(),
            id,
            kind: text(step, "kind"),
            state: None,
            detail: details.map(|(n, said)| format!("{n} {said}")).collect::<Vec<_>>().join(", "),
        });
        for (n, need) in step["needs"].as_array().into_iter().flatten().enumerate() {
            let found = need.as_str().and_then(|need| places.get(need));
            let from = *found.ok_or_else(|| {
                wrong(format!("/steps/{to}/needs/{n}"), &format!("{need} is no step"))
            })?;
            drawing.edges.push(Edge { from, to });
        }
    }
    Ok(drawing)
}

/// Writes a file whole, or says why not.
pub fn write(file: &Path, text: &str) -> Outcome {
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_drawn_before_anybody_has_checked_it() {
        let steps = json!([
            { "id": "a", "kind": "echo" },
            { "id": "b", "kind": "sleep", "needs": ["a"], "if": "input.x" },
        ]);
        let drawing = drawing(&json!({ "name": "n", "steps": steps })).unwrap();
        assert_eq!(drawing.edges, [Edge { from: 0, to: 1 }]);
        assert_eq!((&*drawing.nodes[1].kind, &*drawing.nodes[1].detail), ("sleep", "if input.x"));
    }

    #[test]
    fn what_cannot_be_drawn_is_named() {
        for (steps, at) in [
            (json!(null), "/steps:"),
            (json!([{ "kind": "echo" }]), "/steps/0/id:"),
            (json!([{ "id": "a" }, { "id": "a" }]), "/steps/1/id:"),
            (json!([{ "id": "a", "needs": ["b"] }]), "/steps/0/needs/0:"),
        ] {
            let Failure::Usage(said) = drawing(&json!({ "steps": steps })).unwrap_err() else {
                panic!("{at}")
            };
            assert!(said.starts_with(at), "{said}");
        }
    }
}
