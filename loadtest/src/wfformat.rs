//! Traces of scientific workflows in WfFormat (WfCommons, schema 1.5) as workflow documents.
//!
//! One step per task, needing the steps of its parents. A step sleeps, or keeps a processor busy, for as long as the
//! task ran, times a factor.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::{Value, json};
use windlass_shared::limits::TIMEOUT_MAX;
use windlass_shared::model::workflow::graph::Graph;
use windlass_shared::model::workflow::limits::{EDGES_MAX, STEPS_MAX};

/// Longest id of a step, in characters.
const ID_MAX: usize = 128;
/// Longest name of a run, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// An attempt may take this much longer than planned, in seconds.
const SLACK: f64 = 60.0;

/// What steps do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Wait: kind `sleep`.
    Sleep,
    /// Keep a processor busy: kind `cpu.burn`.
    Burn,
}

/// How a trace is turned into a workflow.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Recorded run times are multiplied by this; finite and not negative.
    pub time_factor: f64,
    /// See [`Work`].
    pub work: Work,
}

/// What is wrong with a trace, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {what}")]
pub struct Fault {
    /// The field, as a path.
    pub at: String,
    /// In words.
    pub what: String,
}

#[derive(Deserialize)]
struct Trace {
    #[serde(default)]
    name: Option<String>,
    workflow: Recorded,
}

#[derive(Deserialize)]
struct Recorded {
    specification: Specification,
    #[serde(default)]
    execution: Option<Execution>,
}

#[derive(Deserialize)]
struct Specification {
    tasks: Vec<Task>,
}

#[derive(Deserialize)]
struct Task {
    id: String,
    #[serde(default)]
    parents: Vec<String>,
    /// Optional; where it is there it must agree with the parents.
    #[serde(default)]
    children: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Execution {
    tasks: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    id: String,
    #[serde(default, rename = "runtimeInSeconds")]
    seconds: Option<f64>,
}

fn fault(at: impl Into<String>, what: impl Into<String>) -> Fault {
    Fault { at: at.into(), what: what.into() }
}

fn task_at(n: usize, field: &str) -> String {
    format!("workflow.specification.tasks[{n}].{field}")
}

/// A workflow document of a trace. Its steps keep the ids of the tasks as far as they are legal and unique; `meta.task`
/// of a step is the id as it was. Linear in the text.
///
/// # Errors
/// The first field that is wrong.
pub fn convert(text: &str, options: Options) -> Result<Value, Fault> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let trace: Trace = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let at = error.path().to_string();
        let what = error.into_inner().to_string();
        let hint = if what.contains("missing field `specification`") {
            "; only the layout of schemaVersion 1.5 is read"
        } else {
            ""
        };
        fault(if at == "." || at == "?" { "the trace".into() } else { at }, format!("{what}{hint}"))
    })?;
    reader.end().map_err(|error| fault("the trace", error.to_string()))?;
    let tasks = &trace.workflow.specification.tasks;
    check(tasks)?;
    let seconds = seconds(tasks, trace.workflow.execution.as_ref())?;
    let ids = step_ids(tasks);
    let by_task: HashMap<&str, &str> =
        tasks.iter().zip(&ids).map(|(task, id)| (task.id.as_str(), id.as_str())).collect();
    let mut steps = Vec::with_capacity(tasks.len());
    for (n, task) in tasks.iter().enumerate() {
        let planned = seconds[n] * options.time_factor;
        // Not above the limit, nor infinite.
        if !(0.0..=TIMEOUT_MAX.as_secs_f64() - SLACK).contains(&planned) {
            let what = format!("{:?} would take {planned} s; at most 7 days are possible", task.id);
            return Err(fault("workflow.execution.tasks", what));
        }
        let needs: Vec<&str> = task.parents.iter().map(|parent| by_task[parent.as_str()]).collect();
        steps.push(step(&ids[n], &task.id, &needs, planned, options.work));
    }
    Ok(json!({ "name": name(trace.name.as_deref()), "tags": ["wfformat"], "steps": steps }))
}

fn step(id: &str, task: &str, needs: &[&str], planned: f64, work: Work) -> Value {
    // Durations have whole milliseconds: rounded here, so that what the document says is what happens.
    let planned = (planned * 1000.0).round() / 1000.0;
    let (kind, payload) = match work {
        Work::Sleep => ("sleep", json!({ "for": planned })),
        Work::Burn => ("cpu.burn", json!({ "seconds": planned })),
    };
    let mut step = json!({ "id": id, "kind": kind, "payload": payload, "meta": { "task": task } });
    if !needs.is_empty() {
        step["needs"] = json!(needs);
    }
    if planned > SLACK / 2.0 {
        // A burning step shares the processor with others.
        let factor = if work == Work::Burn { 10.0 } else { 1.0 };
        let limit = (planned * factor + SLACK).min(TIMEOUT_MAX.as_secs_f64());
        step["timeout"] = json!(limit.ceil());
    }
    step
}

/// Every id once, every parent there, the children as the parents say, no circle, within bounds.
fn check(tasks: &[Task]) -> Result<(), Fault> {
    let list = "workflow.specification.tasks";
    let edges: usize = tasks.iter().map(|task| task.parents.len()).sum();
    if tasks.is_empty() {
        return Err(fault(list, "there is no task"));
    }
    if tasks.len() > STEPS_MAX {
        let what = format!("{} tasks; a run has at most {STEPS_MAX} steps", tasks.len());
        return Err(fault(list, what));
    }
    if edges > EDGES_MAX {
        return Err(fault(list, format!("{edges} parents together; at most {EDGES_MAX}")));
    }
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(tasks.len());
    for (n, task) in tasks.iter().enumerate() {
        if task.id.is_empty() {
            return Err(fault(task_at(n, "id"), "must not be empty"));
        }
        if let Some(first) = places.insert(&task.id, n) {
            let what = format!("{:?} is the id of tasks[{first}] too", task.id);
            return Err(fault(task_at(n, "id"), what));
        }
    }
    let mut links: HashSet<(&str, &str)> = HashSet::with_capacity(edges);
    for (n, task) in tasks.iter().enumerate() {
        for (p, parent) in task.parents.iter().enumerate() {
            let at = || task_at(n, &format!("parents[{p}]"));
            if !places.contains_key(parent.as_str()) {
                return Err(fault(at(), format!("{parent:?} is no task")));
            }
            if !links.insert((parent, &task.id)) {
                return Err(fault(at(), format!("{parent:?} is named twice")));
            }
        }
    }
    check_children(tasks, &links)?;
    let steps: Vec<(&str, Vec<&str>)> = tasks
        .iter()
        .map(|task| (task.id.as_str(), task.parents.iter().map(String::as_str).collect()))
        .collect();
    Graph::new(&steps).map_err(|faults| fault(list, faults[0].to_string()))?;
    Ok(())
}

fn check_children(tasks: &[Task], links: &HashSet<(&str, &str)>) -> Result<(), Fault> {
    let mut named: HashSet<(&str, &str)> = HashSet::with_capacity(links.len());
    for (n, task) in tasks.iter().enumerate() {
        for (c, child) in task.children.iter().flatten().enumerate() {
            if !links.contains(&(task.id.as_str(), child.as_str())) {
                let what = format!("{child:?} does not name {:?} among its parents", task.id);
                return Err(fault(task_at(n, &format!("children[{c}]")), what));
            }
            named.insert((&task.id, child));
        }
    }
    let tells: HashMap<&str, usize> = tasks
        .iter()
        .enumerate()
        .filter(|(_, task)| task.children.is_some())
        .map(|(n, task)| (task.id.as_str(), n))
        .collect();
    let untold = tasks
        .iter()
        .flat_map(|task| task.parents.iter().map(|parent| (parent.as_str(), task.id.as_str())));
    for link in untold {
        if let Some(n) = tells.get(link.0).filter(|_| !named.contains(&link)) {
            let what = format!("{:?} is missing: it names {:?} among its parents", link.1, link.0);
            return Err(fault(task_at(*n, "children"), what));
        }
    }
    Ok(())
}

/// The recorded run time of each task; 0 where none is recorded.
fn seconds(tasks: &[Task], execution: Option<&Execution>) -> Result<Vec<f64>, Fault> {
    let mut seconds = vec![0.0; tasks.len()];
    let places: HashMap<&str, usize> =
        tasks.iter().enumerate().map(|(n, task)| (task.id.as_str(), n)).collect();
    let mut seen = HashSet::new();
    for (n, run) in execution.iter().flat_map(|execution| &execution.tasks).enumerate() {
        let at = |field: &str| format!("workflow.execution.tasks[{n}].{field}");
        let Some(place) = places.get(run.id.as_str()) else {
            return Err(fault(at("id"), format!("{:?} is no task of the specification", run.id)));
        };
        if !seen.insert(*place) {
            return Err(fault(at("id"), format!("{:?} was run twice", run.id)));
        }
        let time = run.seconds.unwrap_or(0.0);
        if !time.is_finite() || time < 0.0 {
            return Err(fault(at("runtimeInSeconds"), "must not be negative"));
        }
        seconds[*place] = time;
    }
    Ok(seconds)
}

/// Legal and unique: other characters become `_`, the front of a long id is dropped, and a repeated one gets a number.
fn step_ids(tasks: &[Task]) -> Vec<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let fitted = |id: &str| -> String {
        let id: String = id.chars().map(|c| if legal(c) { c } else { '_' }).collect();
        id[id.len().saturating_sub(ID_MAX)..].to_owned()
    };
    // Ids that need no change are never taken by others.
    let mut taken: HashSet<String> =
        tasks.iter().filter(|task| fitted(&task.id) == task.id).map(|t| t.id.clone()).collect();
    let mut next: HashMap<String, usize> = HashMap::new();
    let mut ids = Vec::with_capacity(tasks.len());
    for task in tasks {
        let wanted = fitted(&task.id);
        let mut id = wanted.clone();
        while id != task.id && !taken.insert(id.clone()) {
            let count = next.entry(wanted.clone()).or_insert(1);
            *count += 1;
            let end = format!("-{count}");
            id = format!("{}{end}", &wanted[..wanted.len().min(ID_MAX - end.len())]);
        }
        ids.push(id);
    }
    ids
}

/// The trace's name without what a run's name may not hold.
fn name(name: Option<&str>) -> String {
    let mut out = String::new();
    for c in name.unwrap_or_default().chars().filter(|c| !c.is_control()) {
        let steers = matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if !steers && out.len() + c.len_utf8() <= NAME_BYTES_MAX {
            out.push(c);
        }
    }
    if out.trim().is_empty() { "trace".into() } else { out }
}

#[cfg(test)]
mod tests;
