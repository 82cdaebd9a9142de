//! The graph of a workflow: who needs whom, checked and measured. No recursion, so that its depth has no bound
//! but the number of steps.

use std::collections::HashMap;

/// Steps by their position, with edges both ways. Free of cycles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    needs: Vec<Vec<u32>>,
    dependents: Vec<Vec<u32>>,
    /// Positions such that every step comes after all that it needs; steps of one level in order of submission.
    order: Vec<u32>,
    /// The longest chain of needs above each step.
    levels: Vec<u32>,
}

/// What is wrong with a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphFault {
    /// Two steps share an id.
    #[error("the id {id:?} is used by the steps {first} and {second}")]
    DuplicateId {
        /// The id.
        id: String,
        /// Position of the first.
        first: usize,
        /// Position of the second.
        second: usize,
    },
    /// A step needs an id that is not there.
    #[error("the step {step:?} needs {missing:?}, which is no step of this workflow")]
    UnknownNeed {
        /// Position of the step.
        at: usize,
        /// Position in its `needs`.
        need: usize,
        /// Its id.
        step: String,
        /// What is missing.
        missing: String,
    },
    /// A step names the same need twice.
    #[error("the step {step:?} needs {twice:?} twice")]
    DuplicateNeed {
        /// Position of the step.
        at: usize,
        /// Position of the second mention.
        need: usize,
        /// Its id.
        step: String,
        /// What is there twice.
        twice: String,
    },
    /// Steps that wait for each other.
    #[error("the steps need each other in a circle: {}", .0.join(" -> "))]
    Cycle(Vec<String>),
}

impl Graph {
    /// Resolves ids to positions and orders the steps. Each item is an id and the ids that it needs.
    ///
    /// Linear in steps and edges.
    ///
    /// # Errors
    /// Every fault found; cycles are looked for only in a graph that is sound otherwise.
    pub fn new<'a, N>(steps: &[(&'a str, N)]) -> Result<Self, Vec<GraphFault>>
    where
        N: AsRef<[&'a str]>,
    {
        let mut faults = Vec::new();
        let mut places: HashMap<&str, u32> = HashMap::with_capacity(steps.len());
        for (at, (id, _)) in steps.iter().enumerate() {
            if let Some(first) = places.insert(id, position(at)) {
                let first = first as usize;
                faults.push(GraphFault::DuplicateId { id: (*id).into(), first, second: at });
            }
        }
        let mut needs = Vec::with_capacity(steps.len());
        for (at, (id, wanted)) in steps.iter().enumerate() {
            needs.push(resolve(at, id, wanted.as_ref(), &places, &mut faults));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut dependents = vec![Vec::new(); steps.len()];
        for (at, parents) in needs.iter().enumerate() {
            for parent in parents {
                dependents[*parent as usize].push(position(at));
            }
        }
        let (order, levels) = sort(&needs, &dependents);
        if order.len() < steps.len() {
            let cycle = cycle(&needs, &order);
            let names = cycle.into_iter().map(|n| steps[n as usize].0.to_owned()).collect();
            return Err(vec![GraphFault::Cycle(names)]);
        }
        Ok(Self { needs, dependents, order, levels })
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.needs.len()
    }
    /// Whether there is no step.
    pub fn is_empty(&self) -> bool {
        self.needs.is_empty()
    }
    /// What a step needs, in the order given.
    pub fn needs(&self, step: u32) -> &[u32] {
        &self.needs[step as usize]
    }
    /// What needs a step, in order of submission.
    pub fn dependents(&self, step: u32) -> &[u32] {
        &self.dependents[step as usize]
    }
    /// The longest chain of needs above a step, in steps; 0 for one that needs none.
    pub fn level(&self, step: u32) -> u32 {
        self.levels[step as usize]
    }
    /// Number of edges.
    pub fn edges(&self) -> usize {
        self.needs.iter().map(Vec::len).sum()
    }

    /// The steps of each level: all of a level could run at once.
    pub fn groups(&self) -> Vec<Vec<u32>> {
        let count = self.levels.iter().max().map_or(0, |deepest| *deepest as usize + 1);
        let mut groups = vec![Vec::new(); count];
        for (step, level) in self.levels.iter().enumerate() {
            groups[*level as usize].push(position(step));
        }
        groups
    }

    /// The chain of needs whose weights sum up highest, first step first, and that sum. The weight of a step is
    /// its run time, say; negative ones and NaN count as 0.
    pub fn critical_path(&self, weight: impl Fn(u32) -> f64) -> (Vec<u32>, f64) {
        let mut best: Vec<(f64, Option<u32>)> = vec![(0.0, None); self.len()];
        for step in &self.order {
            let above = self.needs(*step).iter().map(|n| (best[*n as usize].0, Some(*n)));
            let (sum, through) =
                above.fold((0.0, None), |a, b| if b.0 > a.0 || a.1.is_none() { b } else { a });
            best[*step as usize] = (sum + weight(*step).max(0.0), through);
        }
        let ends = self.order.iter().copied();
        let Some(last) = ends.max_by(|a, b| best[*a as usize].0.total_cmp(&best[*b as usize].0))
        else {
            return (Vec::new(), 0.0);
        };
        let mut path = vec![last];
        while let Some(above) = best[path[path.len() - 1] as usize].1 {
            path.push(above);
        }
        path.reverse();
        (path, best[last as usize].0)
    }

    /// Whether `above` is among what `step` needs, directly or through others. Linear in the graph at worst.
    pub fn is_above(&self, above: u32, step: u32) -> bool {
        if self.needs(step).contains(&above) {
            return true;
        }
        let floor = self.level(above);
        let mut seen = std::collections::HashSet::new();
        let mut open: Vec<u32> = self.needs(step).to_vec();
        while let Some(next) = open.pop() {
            if next == above {
                return true;
            }
            if self.level(next) > floor && seen.insert(next) {
                open.extend(self.needs(next));
            }
        }
        false
    }
}

fn position(n: usize) -> u32 {
    u32::try_from(n).expect("steps are bounded far below 2^32")
}

fn resolve(
    at: usize,
    id: &str,
    wanted: &[&str],
    places: &HashMap<&str, u32>,
    faults: &mut Vec<GraphFault>,
) -> Vec<u32> {
    let mut found = Vec::with_capacity(wanted.len());
    // A set only where looking through the list would be slow.
    let mut seen = std::collections::HashSet::new();
    for (need, name) in wanted.iter().enumerate() {
        let Some(place) = places.get(name) else {
            faults.push(GraphFault::UnknownNeed {
                at,
                need,
                step: id.into(),
                missing: (*name).into(),
            });
            continue;
        };
        if seen.insert(*place) {
            found.push(*place);
        } else {
            faults.push(GraphFault::DuplicateNeed {
                at,
                need,
                step: id.into(),
                twice: (*name).into(),
            });
        }
    }
    found
}

/// Kahn's algorithm, level by level; steps in a cycle, or below one, are left out.
fn sort(needs: &[Vec<u32>], dependents: &[Vec<u32>]) -> (Vec<u32>, Vec<u32>) {
    let mut left: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut levels = vec![0_u32; needs.len()];
    let mut order: Vec<u32> = (0..needs.len()).filter(|n| left[*n] == 0).map(position).collect();
    let mut next = 0;
    while let Some(step) = order.get(next).copied() {
        next += 1;
        for child in &dependents[step as usize] {
            let child = *child as usize;
            levels[child] = levels[child].max(levels[step as usize] + 1);
            left[child] -= 1;
            if left[child] == 0 {
                order.push(position(child));
            }
        }
    }
    (order, levels)
}

/// One cycle among the steps that `order` left out, its first step repeated at the end, in the direction in which
/// work would flow.
fn cycle(needs: &[Vec<u32>], order: &[u32]) -> Vec<u32> {
    let mut sorted = vec![false; needs.len()];
    order.iter().for_each(|n| sorted[*n as usize] = true);
    let start = sorted.iter().position(|s| !s).expect("the caller found a step left out");
    // Every step left out needs one that is left out too, so that walking up must meet itself.
    let mut walk = vec![position(start)];
    let mut seen_at: HashMap<u32, usize> = HashMap::from([(position(start), 0)]);
    loop {
        let here = walk[walk.len() - 1] as usize;
        let above = needs[here].iter().copied().find(|n| !sorted[*n as usize]);
        let above = above.expect("a step left out by Kahn's algorithm has a need left out");
        if let Some(first) = seen_at.get(&above) {
            let mut found = walk.split_off(*first);
            found.push(above);
            found.reverse();
            return found;
        }
        seen_at.insert(above, walk.len());
        walk.push(above);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(text: &str) -> Result<Graph, Vec<GraphFault>> {
        let steps: Vec<(&str, Vec<&str>)> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (id, needs) = line.split_once(':').expect("id: needs");
                (id.trim(), needs.split_whitespace().collect())
            })
            .collect();
        Graph::new(&steps)
    }

    #[test]
    fn edges_levels_and_groups_follow_from_the_needs() {
        let g = graph("d: b c\n a:\n b: a\n c: a\n e:\n").unwrap();
        assert_eq!(g.needs(0), [2, 3]);
        assert_eq!(g.dependents(1), [2, 3]);
        assert_eq!((0..5).map(|n| g.level(n)).collect::<Vec<_>>(), [2, 0, 1, 1, 0]);
        assert_eq!(g.groups(), [vec![1, 4], vec![2, 3], vec![0]]);
        assert_eq!((g.len(), g.edges()), (5, 4));
    }

    #[test]
    fn a_cycle_is_shown_as_its_path_and_only_its_path() {
        let faults = graph("start:\n x: start c\n a: x\n b: a\n c: b\n below: c\n").unwrap_err();
        let [GraphFault::Cycle(path)] = &faults[..] else { panic!("{faults:?}") };
        assert_eq!(path.first(), path.last());
        assert_eq!(path.len(), 5);
        let at = path.iter().position(|s| s == "x").unwrap();
        let turned: Vec<&str> = (0..4).map(|n| path[(at + n) % 4].as_str()).collect();
        assert_eq!(turned, ["x", "a", "b", "c"]);
        assert_eq!(graph("a: a").unwrap_err(), [GraphFault::Cycle(vec!["a".into(), "a".into()])]);
    }

    #[test]
    fn every_wrong_id_is_named() {
        let faults = graph("a:\n b: a nobody a\n a: gone\n").unwrap_err();
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(
            matches!(&faults[0], GraphFault::DuplicateId { id, first: 0, second: 2 } if id == "a")
        );
        assert!(
            matches!(&faults[1], GraphFault::UnknownNeed { at: 1, need: 1, missing, .. } if missing == "nobody")
        );
        assert!(
            matches!(&faults[2], GraphFault::DuplicateNeed { at: 1, need: 2, twice, .. } if twice == "a")
        );
        assert!(matches!(&faults[3], GraphFault::UnknownNeed { at: 2, .. }));
    }

    #[test]
    fn the_critical_path_is_the_heaviest_chain() {
        let g = graph("a:\n b: a\n c: a\n d: b c\n lone:\n").unwrap();
        let weights = [1.0, 2.0, 5.0, 1.0, 6.5];
        let (path, sum) = g.critical_path(|n| weights[n as usize]);
        assert_eq!((path, sum), (vec![0, 2, 3], 7.0));
        let (path, sum) = g.critical_path(|_| 0.0);
        assert_eq!((path.len(), sum), (3, 0.0));
        assert_eq!(graph("").unwrap().critical_path(|_| 1.0), (vec![], 0.0));
    }

    #[test]
    fn above_is_transitive_and_not_reflexive() {
        let g = graph("a:\n b: a\n c: b\n d: a\n").unwrap();
        assert!(g.is_above(0, 2) && g.is_above(1, 2) && g.is_above(0, 3));
        assert!(!g.is_above(2, 2) && !g.is_above(2, 1) && !g.is_above(3, 2));
    }

    #[test]
    fn ten_thousand_steps_in_one_chain_do_not_exhaust_the_stack() {
        let ids: Vec<String> = (0..10_000).map(|n| format!("s{n}")).collect();
        let steps: Vec<(&str, Vec<&str>)> = ids
            .iter()
            .enumerate()
            .map(|(n, id)| {
                (id.as_str(), n.checked_sub(1).map(|n| ids[n].as_str()).into_iter().collect())
            })
            .collect();
        let g = Graph::new(&steps).unwrap();
        assert_eq!(g.level(9_999), 9_999);
        assert!(g.is_above(0, 9_999));
        let (path, sum) = g.critical_path(|_| 1.0);
        assert_eq!((path.len(), sum), (10_000, 10_000.0));
        let mut ring = steps.clone();
        ring[0].1.push("s9999");
        let faults = Graph::new(&ring).unwrap_err();
        assert!(matches!(&faults[..], [GraphFault::Cycle(path)] if path.len() == 10_001));
    }
}
