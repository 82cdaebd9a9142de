//! Drawing a workflow or a run: as data, for Graphviz, for Mermaid, and as an SVG of our own.
//!
//! Pure and bounded: the work is linear in nodes and edges but for a fixed number of passes, and no text of a node
//! can leave its place in the format that it is written to.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::{StepState, TimerSpec, Work, WorkflowSpec};

mod layout;
mod order;
mod place;
mod svg;
mod text;

use text::{clean, shorten};

/// Longest label that is drawn, in characters; longer ones lose their middle.
const LABEL_MAX: usize = 34;
/// Longest text in a tooltip or a second line, in characters.
const DETAIL_MAX: usize = 200;

/// What is to be drawn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drawing {
    /// Above the picture.
    pub title: String,
    /// The steps.
    pub nodes: Vec<Node>,
    /// Who is needed by whom. Those that name no node, or a node twice, are left out of pictures.
    pub edges: Vec<Edge>,
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// What is written into its box; mostly the id.
    pub label: String,
    /// What it does: the kind of its job, or `wait.signal` and the like.
    pub kind: String,
    /// How it is; `None` draws a workflow that does not run.
    pub state: Option<StepState>,
    /// More about it, for the tooltip: an error, counts of items. May be empty.
    pub detail: String,
}

/// From a step to one that needs it; positions in [`Drawing::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// The one that ends first.
    pub from: u32,
    /// The one that waits for it.
    pub to: u32,
}

impl Drawing {
    /// A workflow that does not run. Linear in steps and edges.
    pub fn of_spec(spec: &WorkflowSpec) -> Self {
        let mut drawing = Self { title: spec.name.clone(), ..Self::default() };
        for (at, step) in (0_u32..).zip(&spec.steps) {
            let mut detail = Vec::new();
            detail.extend(step.condition.as_ref().map(|c| format!("if {c}")));
            detail.extend(step.for_each.as_ref().map(|list| format!("for each of {list}")));
            drawing.nodes.push(Node {
                id: step.id.clone(),
                label: step.id.clone(),
                kind: step.work.kind().to_owned(),
                state: None,
                detail: detail.join(", "),
            });
            drawing.edges.extend(step.needs.iter().map(|need| Edge { from: *need, to: at }));
        }
        drawing
    }

    /// `{"title", "nodes": [{"id", "label", "kind", "state", "detail"}], "edges": [{"from", "to"}]}`; edges by id.
    pub fn to_json(&self) -> Json {
        let nodes = self.nodes.iter().map(|node| {
            json!({
                "id": node.id,
                "label": node.label,
                "kind": node.kind,
                "state": node.state.map(StepState::as_str),
                "detail": node.detail,
            })
        });
        let edges = self.drawn_edges();
        let id = |at: u32| &self.nodes[at as usize].id;
        let edges = edges.map(|edge| json!({ "from": id(edge.from), "to": id(edge.to) }));
        json!({
            "title": self.title,
            "nodes": nodes.collect::<Vec<_>>(),
            "edges": edges.collect::<Vec<_>>(),
        })
    }

    /// For Graphviz.
    pub fn to_dot(&self) -> String {
        let mut out = String::from("digraph workflow {\n");
        put(&mut out, format_args!("  label=\"{}\"; labelloc=t;\n", text::dot(&self.title)));
        out.push_str("  rankdir=TB;\n");
        out.push_str("  node [shape=box, style=\"rounded,filled\", fontname=\"sans-serif\"];\n");
        for (at, node) in self.nodes.iter().enumerate() {
            let colours = Colours::of(node.state);
            put(
                &mut out,
                format_args!(
                    "  n{at} [label=\"{}\\n{}\", tooltip=\"{}\", fillcolor=\"{}\", color=\"{}\"];\n",
                    text::dot(&shorten(&clean(&node.label), LABEL_MAX)),
                    text::dot(&node.second_line()),
                    text::dot(&node.tooltip()),
                    colours.fill,
                    colours.line,
                ),
            );
        }
        for edge in self.drawn_edges() {
            put(&mut out, format_args!("  n{} -> n{};\n", edge.from, edge.to));
        }
        out.push_str("}\n");
        out
    }

    /// For Mermaid. Mermaid itself refuses texts over 50,000 characters and more than 500 edges unless it is told
    /// otherwise (`maxTextSize`, `maxEdges`).
    pub fn to_mermaid(&self) -> String {
        let title = Json::from(clean(&self.title)).to_string();
        let mut out = format!("---\ntitle: {title}\n---\nflowchart TD\n");
        for (at, node) in self.nodes.iter().enumerate() {
            let label = text::mermaid(&shorten(&clean(&node.label), LABEL_MAX));
            let second = text::mermaid(&node.second_line());
            put(&mut out, format_args!("  n{at}[\"{label}<br/>{second}\"]"));
            match node.state {
                Some(state) => put(&mut out, format_args!(":::{}\n", state.as_str())),
                None => out.push('\n'),
            }
        }
        for edge in self.drawn_edges() {
            put(&mut out, format_args!("  n{} --> n{}\n", edge.from, edge.to));
        }
        for (state, _) in self.counts() {
            let Colours { fill, line, .. } = Colours::of(Some(state));
            let name = state.as_str();
            put(
                &mut out,
                format_args!("  classDef {name} fill:{fill},stroke:{line},color:#1c2128\n"),
            );
        }
        out
    }

    /// An SVG document that stands alone: levels from top to bottom or from left to right, whichever is more
    /// compact, a legend with counts, and colours for bright and dark surroundings.
    ///
    /// Boxes get smaller above 150 nodes, and very wide levels are broken into several rows.
    pub fn to_svg(&self) -> String {
        svg::render(self)
    }

    /// The edges that name two different nodes.
    fn drawn_edges(&self) -> impl Iterator<Item = Edge> + '_ {
        let known = |at: u32| (at as usize) < self.nodes.len();
        let sound = move |e: &Edge| known(e.from) && known(e.to) && e.from != e.to;
        self.edges.iter().copied().filter(sound)
    }

    /// How many nodes are in each state that occurs.
    fn counts(&self) -> Vec<(StepState, usize)> {
        let count = |state| self.nodes.iter().filter(|n| n.state == Some(state)).count();
        StepState::ALL.into_iter().map(|s| (s, count(s))).filter(|(_, n)| *n > 0).collect()
    }
}

impl Node {
    /// What it does and how it is.
    fn second_line(&self) -> String {
        let kind = shorten(&clean(&self.kind), LABEL_MAX);
        match self.state {
            Some(state) if kind.is_empty() => state.as_str().to_owned(),
            Some(state) => format!("{kind}, {}", state.as_str()),
            None => kind,
        }
    }

    /// Everything that is known of it, in one line.
    fn tooltip(&self) -> String {
        let state = self.state.map_or("", StepState::as_str);
        let parts = [clean(&self.id), clean(&self.kind), state.to_owned(), clean(&self.detail)];
        let parts: Vec<String> =
            parts.into_iter().filter(|p| !p.is_empty()).map(|p| shorten(&p, DETAIL_MAX)).collect();
        parts.join(", ")
    }
}

impl Work {
    /// The kind as it is written in a document.
    pub fn kind(&self) -> &str {
        match self {
            Self::Job(job) => job.kind.as_str(),
            Self::Signal { .. } => "wait.signal",
            Self::Timer(TimerSpec::For(_) | TimerSpec::Until(_) | TimerSpec::Template(_)) => {
                "wait.timer"
            }
            Self::Approval(_) => "wait.approval",
            Self::Child(_) => "workflow.run",
        }
    }
}

/// Of a state: on bright ground, and on dark.
struct Colours {
    fill: &'static str,
    line: &'static str,
    dark_fill: &'static str,
    dark_line: &'static str,
}

impl Colours {
    const fn of(state: Option<StepState>) -> Self {
        let (fill, line, dark_fill, dark_line) = match state {
            None => ("#f6f8fa", "#57606a", "#21262d", "#8b949e"),
            Some(StepState::Blocked) => ("#eaeef2", "#6e7781", "#2d333b", "#768390"),
            Some(StepState::Released) => ("#cfe5ff", "#0969da", "#0c2d57", "#58a6ff"),
            Some(StepState::Waiting) => ("#fff1c2", "#9a6700", "#4a3500", "#e3b341"),
            Some(StepState::Succeeded) => ("#d2f2d8", "#1a7f37", "#113d1e", "#3fb950"),
            Some(StepState::Failed) => ("#ffd8d3", "#cf222e", "#5a1214", "#ff7b72"),
            Some(StepState::Cancelled) => ("#eadcfb", "#8250df", "#3a1f63", "#bc8cff"),
            Some(StepState::Skipped) => ("#ffffff", "#8c959f", "#161b22", "#6e7681"),
        };
        Self { fill, line, dark_fill, dark_line }
    }
}

/// Writing into a `String` cannot fail.
fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("a String takes everything");
}

#[cfg(test)]
mod tests;
