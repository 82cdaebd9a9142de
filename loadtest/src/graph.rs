//! The graph that workflows are measured with, and a check of what became of it.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use windlass_shared::model::time::Timestamp;

/// Steps by id, each with the ids that it needs; in order.
pub type Edges = Vec<(String, Vec<String>)>;

/// One step, then `wide` that need it, one that needs all of those, and after it `diamonds` in `lanes` rows, each of
/// one step, as many as `middles` side by side, and one that needs those.
pub fn fan_and_diamonds(wide: usize, diamonds: usize, lanes: usize, middles: usize) -> Edges {
    let mut steps: Edges = vec![("root".into(), Vec::new())];
    let fan: Vec<String> = (0..wide).map(|n| format!("fan-{n}")).collect();
    steps.extend(fan.iter().map(|id| (id.clone(), vec!["root".into()])));
    steps.push(("join".into(), fan));
    let mut tips = vec!["join".to_owned(); lanes.max(1)];
    for n in 0..diamonds {
        let lane = n % tips.len();
        let (top, bottom) = (format!("top-{n}"), format!("bottom-{n}"));
        steps.push((top.clone(), vec![tips[lane].clone()]));
        let sides: Vec<String> = (0..middles.max(1)).map(|m| format!("side-{n}-{m}")).collect();
        steps.extend(sides.iter().map(|id| (id.clone(), vec![top.clone()])));
        steps.push((bottom.clone(), sides));
        tips[lane] = bottom;
    }
    steps
}

/// The workflow as the API takes it; every step is a job like `job`.
pub fn document(name: &str, edges: &Edges, job: &Value) -> Value {
    let steps: Vec<Value> = edges
        .iter()
        .map(|(id, needs)| {
            let mut step = job.clone();
            step["id"] = json!(id);
            step["needs"] = json!(needs);
            step
        })
        .collect();
    json!({ "name": name, "steps": steps })
}

/// When a step's only successful attempt started and ended.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Its start.
    pub started: Timestamp,
    /// Its end.
    pub ended: Timestamp,
}

/// Checks that exactly the steps of the graph ran, each after all that it needs.
///
/// # Errors
/// The first violation, with the steps named.
pub fn check(edges: &Edges, ran: &HashMap<String, Span>) -> Result<()> {
    ensure!(edges.len() == ran.len(), "{} steps ran, of {}", ran.len(), edges.len());
    for (id, needs) in edges {
        let step = ran.get(id).with_context(|| format!("the step {id} did not run"))?;
        for need in needs {
            let before = ran.get(need).with_context(|| format!("the step {need} did not run"))?;
            ensure!(
                before.ended <= step.started,
                "{id} started at {} although {need}, which it needs, ended at {}",
                step.started,
                before.ended
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_graph_is_as_described() {
        let edges = fan_and_diamonds(5_000, 1_000, 10, 3);
        assert_eq!(edges.len(), 5_002 + 5_000);
        let needs: HashMap<&str, usize> =
            edges.iter().map(|(id, needs)| (id.as_str(), needs.len())).collect();
        assert_eq!((needs["root"], needs["fan-7"], needs["join"]), (0, 1, 5_000));
        assert_eq!((needs["top-999"], needs["side-0-2"], needs["bottom-3"]), (1, 1, 3));
        assert_eq!(edges.iter().find(|(id, _)| id == "top-10").unwrap().1, ["bottom-0"]);
    }

    #[test]
    fn a_step_that_starts_early_or_not_at_all_is_seen() {
        let edges = fan_and_diamonds(2, 1, 1, 2);
        let at = |ms| Timestamp::from_millis(ms);
        let mut ran: HashMap<String, Span> = edges
            .iter()
            .zip(0..)
            .map(|((id, _), n)| (id.clone(), Span { started: at(n * 10), ended: at(n * 10 + 5) }))
            .collect();
        check(&edges, &ran).unwrap();
        ran.get_mut("fan-1").unwrap().ended = at(31);
        let error = check(&edges, &ran).unwrap_err().to_string();
        assert!(error.starts_with("join started") && error.contains("fan-1"), "{error}");
        ran.remove("join");
        assert_eq!(check(&edges, &ran).unwrap_err().to_string(), "7 steps ran, of 8");
    }
}
