//! A circuit that holds a job back.

use serde_json::json;

use super::Reason;
use crate::engine::flow::{CircuitMode, FlowKey};
use crate::engine::model::CircuitState;
use crate::engine::{Hold, ShardId};
use crate::lifecycle::Lifecycle;
use crate::model::job::Job;
use crate::model::name::CircuitName;
use crate::model::time::Timestamp;

/// What is not known, because a store does not answer, is left out.
pub(super) async fn open(life: &Lifecycle, shard: &ShardId, job: &Job, hold: &Hold) -> Reason {
    let text = job.spec.circuit.as_deref().unwrap_or_default();
    let set = match text.parse::<CircuitName>() {
        Ok(name) => life.inner.ledger.circuit(&job.namespace, &name).await.ok().flatten(),
        Err(_) => None,
    };
    let set = set.map(|circuit| circuit.settings).unwrap_or_default();
    let mut evidence = json!({ "circuit": text, "mode": set.mode });
    if set.mode == CircuitMode::Open {
        let by = set.by.as_deref().unwrap_or("an operator");
        let detail = format!("{by} keeps the circuit {text} open; close or reset it");
        evidence["by"] = json!(set.by);
        evidence["reason"] = json!(set.reason);
        let reason = Reason::new("circuit_open", detail, evidence);
        return Reason { since: set.since, ..reason };
    }
    let key = FlowKey::of(text);
    let seen = life.inner.engine.circuits(shard).await.unwrap_or_default();
    let known = seen.into_iter().find(|(of, _)| *of == key).map(|(_, known)| known);
    let Some(known) = known else {
        let detail = format!("the circuit {text} is open");
        return Reason::new("circuit_open", detail, evidence).until(hold.until);
    };
    evidence["failures_in_row"] = known.row.into();
    evidence["calls"] = known.calls.into();
    evidence["failed"] = known.failed.into();
    let detail = match known.state {
        CircuitState::HalfOpen { id, .. } => {
            evidence["probe"] = json!(id);
            format!("the circuit {text} is open: a probe is under way, which decides")
        }
        CircuitState::Closed => {
            format!("the circuit {text} was closed a moment ago: its jobs start slowly for 4 s")
        }
        CircuitState::Open => {
            evidence["next_probe_at"] = json!(Timestamp::from_micros(known.probe_at));
            format!("the circuit {text} is open: its dependency fails; the next probe decides")
        }
    };
    let since = Timestamp::from_micros(known.since);
    let code = if known.state == CircuitState::Closed { "circuit_closing" } else { "circuit_open" };
    Reason::new(code, detail, evidence).since(since).until(hold.until)
}
