//! Following a run to its end.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;
use windlass_shared::model::id::WorkflowId;
use windlass_shared::model::time::Span;

use super::show;
use crate::client::{Call, Client};
use crate::exit::{Failure, Outcome};
use crate::output::{Output, clean, text};

/// First pause between two looks; it grows by half up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Most running steps that the line of progress names.
const NAMED_MAX: usize = 3;

/// Flags of commands that start runs.
#[derive(Debug, Args)]
pub struct FollowArgs {
    /// Wait until the run has ended; exit 3 if it did not succeed. Progress goes to standard error
    #[arg(long)]
    pub wait: bool,
    /// As --wait, and show every step as it changes
    #[arg(long)]
    pub watch: bool,
    /// Stop waiting after this long, such as 10m; exit 3 then, and the run goes on [default: never]
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<Span>,
}

impl FollowArgs {
    /// Whether the run is to be followed at all.
    pub fn is_wanted(&self) -> bool {
        self.wait || self.watch
    }
}

/// Follows a run, shows it, and fails with [`Failure::Check`] unless it succeeded.
pub async fn until_ended(
    client: &Client,
    id: WorkflowId,
    follow: &FollowArgs,
    output: Output,
) -> Outcome {
    let (started, path) = (Instant::now(), format!("/v1/workflows/{id}"));
    let mut progress = Progress::new(follow.watch);
    let mut pause = PAUSE_FIRST;
    loop {
        let run = client.call(Call::get(&path)).await?.body;
        progress.note(&run);
        let state = text(&run, "state");
        if ["succeeded", "failed", "cancelled", "compensated"].contains(&state.as_str()) {
            progress.clear();
            show::run(&run, output)?;
            if state == "succeeded" {
                return Ok(());
            }
            return Err(Failure::Check(format!("run {id} ended as {}", clean(&state))));
        }
        let left = follow.timeout.map(|t| t.0.saturating_sub(started.elapsed()));
        if left == Some(Duration::ZERO) {
            progress.clear();
            return Err(Failure::Check(format!("run {id} has not ended yet: it is {state}")));
        }
        tokio::time::sleep(pause.min(left.unwrap_or(pause))).await;
        pause = (pause * 3 / 2).min(PAUSE_MAX);
    }
}

/// What has been said about a run so far. Everything goes to standard error.
struct Progress {
    every_step: bool,
    terminal: bool,
    line: String,
    states: HashMap<String, String>,
}

impl Progress {
    fn new(every_step: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { every_step, terminal, line: String::new(), states: HashMap::new() }
    }

    /// Says what is new.
    fn note(&mut self, run: &Value) {
        if self.every_step {
            for change in self.changes(run) {
                self.say(&change);
            }
        }
        let line = summary(run);
        if line == self.line {
            return;
        }
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[2K{}", clean(&line));
            let _ = std::io::stderr().flush();
        } else if !self.every_step {
            self.say(&line);
        }
        self.line = line;
    }

    /// A line for each step that has another state than when last seen; blocked is where all begin.
    fn changes(&mut self, run: &Value) -> Vec<String> {
        let mut changes = Vec::new();
        for step in run["steps"].as_array().into_iter().flatten() {
            let (id, state) = (text(step, "id"), text(step, "state"));
            let before = self.states.insert(id.clone(), state.clone());
            if before.as_deref().unwrap_or("blocked") != state {
                let error = show::error(&step["error"]);
                let error = if error.is_empty() { error } else { format!(": {error}") };
                changes.push(show::short(&format!("{state:9} {id}{error}")));
            }
        }
        changes
    }

    fn say(&self, line: &str) {
        let clear = if self.terminal { "\r\x1b[2K" } else { "" };
        // Nobody to tell when standard error is closed; the run does not depend on it.
        let _ = writeln!(std::io::stderr(), "{clear}{}", clean(line));
    }

    /// Takes the line of progress away.
    fn clear(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}

/// `running 40%: blocked 3, running 1, succeeded 2 (transform)`.
fn summary(run: &Value) -> String {
    let steps = run["steps"].as_array().into_iter().flatten();
    let busy: Vec<String> = steps
        .filter(|step| matches!(step["state"].as_str(), Some("running" | "waiting")))
        .map(|step| text(step, "id"))
        .collect();
    let mut named = busy.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    if busy.len() > NAMED_MAX {
        named.push_str(&format!(" and {} more", busy.len() - NAMED_MAX));
    }
    let named = if named.is_empty() { named } else { format!(" ({named})") };
    format!("{} {}: {}{named}", text(run, "state"), show::progress(run), show::counts(run))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn progress_is_one_line_and_names_few_steps() {
        let busy = |id: &str| json!({ "id": id, "state": "running" });
        let mut run = json!({
            "state": "running",
            "progress": 0.254,
            "counts": { "blocked": 0, "running": 2, "succeeded": 1 },
            "steps": [{ "id": "a", "state": "succeeded" }, busy("b"), busy("c")],
        });
        assert_eq!(summary(&run), "running 25%: running 2, succeeded 1 (b, c)");
        run["steps"] = (0..9).map(|n| busy(&n.to_string())).collect();
        assert!(summary(&run).ends_with("(0, 1, 2 and 6 more)"));
    }

    #[test]
    fn a_step_is_named_once_per_state() {
        let mut progress = Progress::new(true);
        let at = |state: &str| json!({ "steps": [{ "id": "a", "state": state, "error": { "code": "x", "message": "y" } }] });
        assert!(progress.changes(&at("blocked")).is_empty());
        assert_eq!(progress.changes(&at("running")), ["running   a: x: y"]);
        assert!(progress.changes(&at("running")).is_empty());
        assert_eq!(progress.changes(&at("failed")).len(), 1);
    }
}
