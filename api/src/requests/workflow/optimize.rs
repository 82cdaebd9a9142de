//! What a workflow would gain from other edges.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;
use windlass_shared::model::workflow::graph::Graph;
use windlass_shared::model::workflow::{Work, WorkflowSpec};

use super::edges::Above;
use super::estimate::{Estimate, History};

/// Needs on the critical path that are tried without.
const TRIED_MAX: usize = 10;
/// A step that is so much of the critical path is worth a hint.
const HEAVY: f64 = 0.5;

/// A need that follows from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redundant {
    /// The step that has it.
    pub step: u32,
    /// What it needs.
    pub need: u32,
}

/// The needs that say nothing: what they ask for is above another need of the same step. The order of the steps,
/// what is skipped, and what expressions may read stay the same without them.
pub fn redundant(graph: &Graph) -> Vec<Redundant> {
    let steps = 0..u32::try_from(graph.len()).expect("steps are bounded far below 2^32");
    let mut bits = HashMap::new();
    for step in steps.clone().filter(|step| graph.needs(*step).len() > 1) {
        for need in graph.needs(step) {
            let next = bits.len();
            bits.entry(*need).or_insert(next);
        }
    }
    let above = Above::of(graph, &bits);
    let mut found = Vec::new();
    for step in steps.filter(|step| graph.needs(*step).len() > 1) {
        let indirect = above.over_all(graph.needs(step));
        let needs = graph.needs(step).iter().copied();
        found.extend(
            needs
                .filter(|need| indirect[bits[need] / 64] & (1 << (bits[need] % 64)) != 0)
                .map(|need| Redundant { step, need }),
        );
    }
    found
}

/// The same steps with fewer needs.
pub fn without(spec: &WorkflowSpec, graph: &Graph, dropped: &[Redundant]) -> Option<Graph> {
    let dropped: HashSet<(u32, u32)> = dropped.iter().map(|edge| (edge.step, edge.need)).collect();
    let id = |at: u32| spec.steps[at as usize].id.as_str();
    let steps: Vec<(&str, Vec<&str>)> = (0..u32::try_from(graph.len()).ok()?)
        .map(|step| {
            let needs = graph.needs(step).iter().filter(|need| !dropped.contains(&(step, **need)));
            (id(step), needs.map(|need| id(*need)).collect())
        })
        .collect();
    // Fewer edges make no circle.
    Graph::new(&steps).ok()
}

/// What might be changed by somebody who knows what the steps do.
#[derive(Debug, Clone, PartialEq)]
pub struct Hint {
    /// Stable, snake_case.
    pub code: &'static str,
    /// The step that it is about.
    pub step: u32,
    /// The need that it is about.
    pub need: Option<u32>,
    /// In words.
    pub message: String,
    /// What the run would take then, in seconds.
    pub seconds: Option<f64>,
}

/// Hints over a document; `reads`: which step reads which.
pub fn hints(
    spec: &WorkflowSpec,
    graph: &Graph,
    reads: &[(u32, u32)],
    history: &History,
    now: &Estimate,
) -> Vec<Hint> {
    let mut hints = unread(spec, graph, reads, history, now);
    let id = |at: u32| spec.steps[at as usize].id.as_str();
    for step in &now.path {
        let seconds = history.step(&spec.steps[*step as usize]);
        if now.path.len() > 1 && seconds > 0.0 && seconds >= HEAVY * now.seconds {
            let share = 100.0 * seconds / now.seconds;
            let message = format!(
                "{:?} takes {share:.0} % of the critical path: a faster one, or one in parts, shortens the run most",
                id(*step)
            );
            hints.push(Hint {
                code: "heavy_step",
                step: *step,
                need: None,
                message,
                seconds: None,
            });
        }
    }
    for (at, step) in (0..).zip(&spec.steps) {
        let is_job = matches!(step.work, Work::Job(_));
        if is_job && step.for_each.is_some() && step.max_parallel == Some(1) {
            let message =
                format!("{:?} runs its items one after the other (max_parallel 1)", step.id);
            hints.push(Hint { code: "serial_items", step: at, need: None, message, seconds: None });
        }
    }
    hints
}

/// Needs on the critical path of which nothing is read: without one the run is shorter, if the order does not matter.
fn unread(
    spec: &WorkflowSpec,
    graph: &Graph,
    reads: &[(u32, u32)],
    history: &History,
    now: &Estimate,
) -> Vec<Hint> {
    let mut hints = Vec::new();
    let direct: HashSet<(u32, u32)> = reads.iter().copied().collect();
    let pairs = now.path.windows(2).filter(|pair| !direct.contains(&(pair[1], pair[0])));
    for pair in pairs.take(TRIED_MAX) {
        let (need, step) = (pair[0], pair[1]);
        let Some(freer) = without(spec, graph, &[Redundant { step, need }]) else { continue };
        let then = Estimate::of(spec, &freer, history);
        if then.seconds + 1e-9 >= now.seconds || !still_reads(&freer, reads) {
            continue;
        }
        let (a, b) = (&spec.steps[need as usize].id, &spec.steps[step as usize].id);
        let message = format!(
            "{b:?} needs {a:?} and reads nothing of it; if the order does not matter, drop the need and both \
             run at once"
        );
        let seconds = Some(then.seconds);
        hints.push(Hint { code: "unread_need", step, need: Some(need), message, seconds });
    }
    hints
}

fn still_reads(graph: &Graph, reads: &[(u32, u32)]) -> bool {
    let mut bits = HashMap::new();
    for (_, read) in reads {
        let next = bits.len();
        bits.entry(*read).or_insert(next);
    }
    let above = Above::of(graph, &bits);
    reads.iter().all(|(step, read)| step == read || above.has(*step, bits[read]))
}

/// The wire document without the needs that say nothing.
pub fn improved(mut document: Json, spec: &WorkflowSpec, dropped: &[Redundant]) -> Json {
    for edge in dropped {
        let need = spec.steps[edge.need as usize].id.as_str();
        let needs = document.pointer_mut(&format!("/steps/{}/needs", edge.step));
        if let Some(Json::Array(needs)) = needs {
            needs.retain(|known| known.as_str() != Some(need));
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps by number, each with numbers that it needs.
    fn graph(needs: &[Vec<usize>]) -> Graph {
        let ids: Vec<String> = (0..needs.len()).map(|n| n.to_string()).collect();
        let steps: Vec<(&str, Vec<&str>)> = ids
            .iter()
            .zip(needs)
            .map(|(id, needs)| (id.as_str(), needs.iter().map(|n| ids[*n].as_str()).collect()))
            .collect();
        Graph::new(&steps).unwrap()
    }

    fn order(graph: &Graph) -> Vec<(u32, u32)> {
        let steps = 0..u32::try_from(graph.len()).unwrap();
        let pairs = steps.clone().flat_map(|a| steps.clone().map(move |b| (a, b)));
        pairs.filter(|(a, b)| graph.is_above(*a, *b)).collect()
    }

    /// The order of steps is the same without them, and of what is left no need can go.
    #[test]
    fn redundant_needs_are_those_that_say_nothing() {
        let mut seed = 7_u64;
        let mut chance = move || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33).is_multiple_of(4)
        };
        let mut seen = 0;
        for size in 1..30_usize {
            let mut needs: Vec<Vec<usize>> =
                (0..size).map(|n| (0..n).filter(|_| chance()).collect()).collect();
            let full = graph(&needs);
            let dropped = redundant(&full);
            seen += dropped.len();
            for edge in &dropped {
                needs[edge.step as usize].retain(|need| *need != edge.need as usize);
            }
            let lean = graph(&needs);
            assert_eq!(order(&lean), order(&full));
            assert_eq!(redundant(&lean), []);
            for step in 0..size {
                for at in 0..needs[step].len() {
                    let mut less = needs.clone();
                    less[step].remove(at);
                    assert_ne!(order(&graph(&less)), order(&full), "{step} {at} {needs:?}");
                }
            }
        }
        assert!(seen > 100, "{seen}");
    }
}
