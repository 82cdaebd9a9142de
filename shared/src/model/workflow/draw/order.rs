//! Which level a node is drawn on, and where in its level, so that few lines cross.
//!
//! A line over several levels gets a bend on each one between, and bends take part in the ordering like nodes do.

use super::Drawing;

/// Most bends; a graph that needs more gets its long lines drawn straight through.
const BENDS_MAX: usize = 20_000;
/// Rounds of ordering, each down and up again.
const ROUNDS_MAX: usize = 8;
/// Rounds for graphs with more than [`LARGE`] links.
const ROUNDS_LARGE: usize = 2;
const LARGE: usize = 20_000;

/// Nodes and bends on their levels. An *entry* is a node, by its position, or a bend, from `nodes` on.
pub(super) struct Ordered {
    /// How many entries are nodes.
    pub nodes: usize,
    /// The entries of each level, in order.
    pub levels: Vec<Vec<u32>>,
    /// Neighbours of each entry on levels above it, and below it.
    pub above: Vec<Vec<u32>>,
    pub below: Vec<Vec<u32>>,
    /// The entries that each line goes through, from node to node.
    pub lines: Vec<Vec<u32>>,
}

/// Levels by the longest chain of needs, ordered against crossings.
pub(super) fn order(drawing: &Drawing) -> Ordered {
    let edges: Vec<(u32, u32)> = drawing.drawn_edges().map(|e| (e.from, e.to)).collect();
    let level_of = levels(drawing.nodes.len(), &edges);
    let mut ordered = bend(&level_of, &edges);
    let links: usize = ordered.below.iter().map(Vec::len).sum();
    let rounds = if links > LARGE { ROUNDS_LARGE } else { ROUNDS_MAX };
    let mut best = (crossings(&ordered), ordered.levels.clone());
    for _ in 0..rounds {
        if best.0 == 0 {
            break;
        }
        sweep(&mut ordered);
        let found = crossings(&ordered);
        if found < best.0 {
            best = (found, ordered.levels.clone());
        }
    }
    ordered.levels = best.1;
    ordered
}

/// The level of each node. Nodes in a circle, which no workflow has, come on one level below all others.
fn levels(nodes: usize, edges: &[(u32, u32)]) -> Vec<u32> {
    let mut below = vec![Vec::new(); nodes];
    let mut left = vec![0_usize; nodes];
    for (from, to) in edges {
        below[*from as usize].push(*to);
        left[*to as usize] += 1;
    }
    let mut level = vec![0_u32; nodes];
    let mut open: Vec<u32> =
        (0_u32..).zip(&left).filter(|(_, left)| **left == 0).map(|(n, _)| n).collect();
    let mut next = 0;
    while let Some(node) = open.get(next).copied() {
        next += 1;
        for child in &below[node as usize] {
            let child = *child as usize;
            level[child] = level[child].max(level[node as usize] + 1);
            left[child] -= 1;
            if left[child] == 0 {
                open.push(u32::try_from(child).expect("it was a u32"));
            }
        }
    }
    let deepest = open.iter().map(|n| level[*n as usize] + 1).max().unwrap_or(0);
    for (level, left) in level.iter_mut().zip(left) {
        if left > 0 {
            *level = deepest;
        }
    }
    level
}

/// Puts bends where lines pass levels.
fn bend(level_of: &[u32], edges: &[(u32, u32)]) -> Ordered {
    let nodes = level_of.len();
    let deepest = level_of.iter().max().map_or(0, |deepest| *deepest as usize + 1);
    let mut levels = vec![Vec::new(); deepest];
    for (node, level) in (0_u32..).zip(level_of) {
        levels[*level as usize].push(node);
    }
    let span = |(from, to): &(u32, u32)| {
        level_of[*to as usize].saturating_sub(level_of[*from as usize] + 1) as usize
    };
    let bends: usize = edges.iter().map(span).sum();
    let bent = bends <= BENDS_MAX;
    let entries = nodes + if bent { bends } else { 0 };
    let (mut above, mut below) = (vec![Vec::new(); entries], vec![Vec::new(); entries]);
    let mut lines = Vec::with_capacity(edges.len());
    let mut entry = u32::try_from(nodes).expect("nodes are named by u32");
    for edge in edges {
        let mut line = vec![edge.0];
        for passed in 0..if bent { span(edge) } else { 0 } {
            levels[level_of[edge.0 as usize] as usize + 1 + passed].push(entry);
            line.push(entry);
            entry += 1;
        }
        line.push(edge.1);
        for pair in line.windows(2) {
            below[pair[0] as usize].push(pair[1]);
            above[pair[1] as usize].push(pair[0]);
        }
        lines.push(line);
    }
    Ordered { nodes, levels, above, below, lines }
}

/// Once down and once up: every entry goes to the mean place of its neighbours.
fn sweep(ordered: &mut Ordered) {
    let mut place = places(ordered);
    let depth = ordered.levels.len();
    for level in (1..depth).chain((0..depth.saturating_sub(1)).rev().map(|l| l + depth)) {
        let (level, neighbours) = match level.checked_sub(depth) {
            None => (level, &ordered.above),
            Some(level) => (level, &ordered.below),
        };
        let mut keyed: Vec<(f64, u32)> = ordered.levels[level]
            .iter()
            .map(|entry| (mean(&neighbours[*entry as usize], &place, *entry), *entry))
            .collect();
        // Stable: entries without neighbours, or with the same ones, keep their order.
        keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
        ordered.levels[level] = keyed.into_iter().map(|(_, entry)| entry).collect();
        set_places(&ordered.levels[level], &mut place);
    }
}

/// Where each entry is on its level, between 0 and 1.
fn places(ordered: &Ordered) -> Vec<f64> {
    let mut place = vec![0.0; ordered.below.len()];
    ordered.levels.iter().for_each(|level| set_places(level, &mut place));
    place
}

fn set_places(level: &[u32], place: &mut [f64]) {
    let count = level.len() as f64;
    for (at, entry) in level.iter().enumerate() {
        place[*entry as usize] = (at as f64 + 0.5) / count;
    }
}

fn mean(neighbours: &[u32], place: &[f64], entry: u32) -> f64 {
    if neighbours.is_empty() {
        return place[entry as usize];
    }
    let sum: f64 = neighbours.iter().map(|n| place[*n as usize]).sum();
    sum / neighbours.len() as f64
}

/// How many pairs of lines cross between neighbouring levels. n log n in lines.
fn crossings(ordered: &Ordered) -> u64 {
    let mut at = vec![0_usize; ordered.below.len()];
    for level in &ordered.levels {
        level.iter().enumerate().for_each(|(n, entry)| at[*entry as usize] = n);
    }
    let widest = ordered.levels.iter().map(Vec::len).max().unwrap_or(0);
    let mut seen = vec![0_u64; widest + 1];
    let mut total = 0;
    for level in &ordered.levels {
        seen.fill(0);
        let mut count = 0;
        for entry in level {
            let mut ends: Vec<usize> =
                ordered.below[*entry as usize].iter().map(|below| at[*below as usize]).collect();
            ends.sort_unstable();
            for end in &ends {
                total += count - up_to(&seen, *end);
            }
            for end in ends {
                count += 1;
                add(&mut seen, end);
            }
        }
    }
    total
}

/// A Fenwick tree: how many were added at or before a place.
fn up_to(tree: &[u64], place: usize) -> u64 {
    let (mut at, mut sum) = (place + 1, 0);
    while at > 0 {
        sum += tree[at];
        at &= at - 1;
    }
    sum
}

fn add(tree: &mut [u64], place: usize) {
    let mut at = place + 1;
    while at < tree.len() {
        tree[at] += 1;
        at += at & at.wrapping_neg();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Drawing, Edge, Node};
    use super::*;

    fn drawing(nodes: usize, edges: &[(u32, u32)]) -> Drawing {
        let edges = edges.iter().map(|(from, to)| Edge { from: *from, to: *to }).collect();
        Drawing { title: String::new(), nodes: vec![Node::default(); nodes], edges }
    }

    #[test]
    fn crossings_are_counted_and_removed() {
        // Two levels, mirrored: 0-5 1-4 2-3 cross three times as submitted.
        let edges = [(0, 5), (1, 4), (2, 3)];
        let mirrored = bend(&levels(6, &edges), &edges);
        assert_eq!(crossings(&mirrored), 3);
        assert_eq!(crossings(&order(&drawing(6, &edges))), 0);
        // Every node of a level to every one of the next: nothing can be done about it.
        let full: Vec<(u32, u32)> = (0..3).flat_map(|a| (3..6).map(move |b| (a, b))).collect();
        assert_eq!(crossings(&order(&drawing(6, &full))), 9);
    }

    #[test]
    fn long_lines_bend_on_each_level_that_they_pass() {
        let found = order(&drawing(4, &[(0, 1), (1, 2), (2, 3), (0, 3)]));
        assert_eq!(found.levels.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 2, 1]);
        assert_eq!(found.lines[3], [0, 4, 5, 3]);
    }

    #[test]
    fn too_many_bends_are_not_made() {
        // A chain of 300, and its first node before all others: 44,551 bends.
        let mut edges: Vec<(u32, u32)> = (0..299).map(|n| (n, n + 1)).collect();
        edges.extend((2..300).map(|n| (0, n)));
        let found = order(&drawing(300, &edges));
        assert!(found.lines.iter().all(|line| line.len() == 2));
        assert_eq!(found.below.len(), 300);
    }

    #[test]
    fn a_circle_is_drawn_below_the_rest() {
        let edges = [(0, 1), (1, 2), (2, 1)];
        assert_eq!(levels(3, &edges), [0, 1, 1]);
        assert_eq!(order(&drawing(3, &edges)).levels.len(), 2);
    }
}
