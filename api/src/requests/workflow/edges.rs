//! The graph of a document, and whether expressions read only what has surely ended.

use std::collections::HashMap;

use windlass_shared::model::workflow::graph::{Graph, GraphFault};
use windlass_shared::model::workflow::limits;

use super::exprs::Read;
use crate::requests::Faults;

/// Resolves `needs`. `None`: faults were noted.
pub(super) fn check(ids: &[String], needs: &[Vec<String>], faults: &mut Faults) -> Option<Graph> {
    let edges: usize = needs.iter().map(Vec::len).sum();
    if edges > limits::EDGES_MAX {
        let most = limits::EDGES_MAX;
        faults.wrong("/steps", format!("have {edges} needs together; at most {most} are allowed"));
        return None;
    }
    let steps: Vec<(&str, Vec<&str>)> = ids
        .iter()
        .zip(needs)
        .map(|(id, needs)| (id.as_str(), needs.iter().map(String::as_str).collect()))
        .collect();
    match Graph::new(&steps) {
        Ok(graph) => Some(graph),
        Err(found) => {
            found.iter().for_each(|fault| note(fault, faults));
            None
        }
    }
}

fn note(fault: &GraphFault, faults: &mut Faults) {
    match fault {
        // A missing id has its own fault.
        GraphFault::DuplicateId { id, .. } if id.is_empty() => {}
        GraphFault::DuplicateId { second, .. } => {
            faults.wrong(&format!("/steps/{second}/id"), fault.to_string());
        }
        GraphFault::UnknownNeed { at, need, .. } | GraphFault::DuplicateNeed { at, need, .. } => {
            faults.wrong(&format!("/steps/{at}/needs/{need}"), fault.to_string());
        }
        GraphFault::Cycle(path) => faults.wrong("/steps", cycle(path)),
    }
}

/// A long circle is shown by its beginning and its end.
fn cycle(path: &[String]) -> String {
    const SHOWN: usize = 12;
    if path.len() <= SHOWN {
        return GraphFault::Cycle(path.to_vec()).to_string();
    }
    let (head, tail) = (&path[..SHOWN / 2], &path[path.len() - SHOWN / 2..]);
    let left_out = path.len() - SHOWN;
    format!(
        "the steps need each other in a circle of {}: {} -> ({left_out} more) -> {}",
        path.len() - 1,
        head.join(" -> "),
        tail.join(" -> ")
    )
}

/// Who reads whom, by position; and what is read that is not among the steps, by pointer and id.
pub(super) type Found<'a> = (Vec<(u32, u32)>, Vec<(&'a str, &'a str)>);

/// Notes reads of what has perhaps not ended.
pub(super) fn check_reads<'a>(
    ids: &[String],
    graph: &Graph,
    reads: &'a [Read],
    faults: &mut Faults,
) -> Found<'a> {
    let places: HashMap<&str, u32> = ids.iter().map(String::as_str).zip(0..).collect();
    let (mut far, mut found, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for read in reads {
        for name in &read.names {
            let Some(place) = places.get(name.as_str()).copied() else {
                missing.push((read.pointer.as_str(), name.as_str()));
                continue;
            };
            let Some(step) = read.step else { continue };
            found.push((step, place));
            let own = read.after && place == step;
            if !own && !graph.needs(step).contains(&place) {
                far.push(Far { step, place, read, name });
            }
        }
    }
    for wrong in not_above(graph, &far) {
        let name = wrong.name;
        let text = format!(
            "reads the step {name:?}, which is not among the steps it needs, directly or indirectly"
        );
        faults.wrong(&wrong.read.pointer, text);
    }
    (found, missing)
}

/// Notes reads of what is not there at all.
pub(super) fn refuse_missing(missing: &[(&str, &str)], faults: &mut Faults) {
    for (pointer, name) in missing {
        faults
            .wrong(pointer, format!("reads the step {name:?}, which is no step of this workflow"));
    }
}

/// A step that reads one that it does not need directly.
struct Far<'a> {
    step: u32,
    place: u32,
    read: &'a Read,
    name: &'a str,
}

/// Those of the reads whose step does not come after what it reads. One walk over the graph, with one bit for each
/// step that is read: edges times reads / 64, at most some ten million steps of the processor.
fn not_above<'a, 'b>(graph: &Graph, far: &'b [Far<'a>]) -> Vec<&'b Far<'a>> {
    if far.is_empty() {
        return Vec::new();
    }
    let mut bits: HashMap<u32, usize> = HashMap::new();
    for read in far {
        let next = bits.len();
        bits.entry(read.place).or_insert(next);
    }
    let above = Above::of(graph, &bits);
    far.iter().filter(|read| !above.has(read.step, bits[&read.place])).collect()
}

/// For each step, which of some others are above it.
pub(super) struct Above {
    words: usize,
    sets: Vec<u64>,
}

impl Above {
    /// Of the steps that have a bit.
    pub(super) fn of(graph: &Graph, bits: &HashMap<u32, usize>) -> Self {
        let words = bits.len().div_ceil(64);
        let mut sets = vec![0_u64; words * graph.len()];
        // Level by level: whatever a step needs is done before it.
        for step in graph.groups().into_iter().flatten() {
            let own = step as usize * words;
            for need in graph.needs(step) {
                let from = *need as usize * words;
                for word in 0..words {
                    sets[own + word] |= sets[from + word];
                }
                if let Some(bit) = bits.get(need) {
                    sets[own + bit / 64] |= 1 << (bit % 64);
                }
            }
        }
        Self { words, sets }
    }

    /// What is above any of these steps, as bits.
    pub(super) fn over_all(&self, steps: &[u32]) -> Vec<u64> {
        let mut all = vec![0; self.words];
        for step in steps {
            let from = *step as usize * self.words;
            let set = &self.sets[from..from + self.words];
            all.iter_mut().zip(set).for_each(|(word, bits)| *word |= bits);
        }
        all
    }

    /// Whether the step with this bit is above `step`.
    pub(super) fn has(&self, step: u32, bit: usize) -> bool {
        self.sets[step as usize * self.words + bit / 64] & (1 << (bit % 64)) != 0
    }
}
