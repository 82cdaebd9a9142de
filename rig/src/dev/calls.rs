//! Work of the rig's handlers as requests to the rig's server: the kinds that `windlass dev` brings along do not leave
//! evidence.

use serde_json::{Value, json};

use crate::worker::{EFFECT, FENCED};

/// The kind that makes a request.
pub(crate) const HTTP: &str = "http.request";

/// The body of a job, or of a run, with its work done by the server at this address.
pub(crate) fn through(url: &str, body: &Value) -> Value {
    let mut body = body.clone();
    match body.get_mut("steps").and_then(Value::as_array_mut) {
        Some(steps) => steps.iter_mut().for_each(|step| turn(url, step)),
        None => turn(url, &mut body),
    }
    body
}

fn turn(url: &str, job: &mut Value) {
    let Some(kind) = job["kind"].as_str().filter(|kind| [EFFECT, FENCED].contains(kind)) else {
        return;
    };
    let queue = job["queue"].as_str().unwrap_or_default();
    let payload = json!({
        "method": "POST", "url": format!("{url}/{kind}"), "query": { "queue": queue },
        "json": job["payload"],
    });
    job["payload"] = payload;
    job["kind"] = HTTP.into();
    // What is looked for here is what becomes of each attempt, not who keeps it from starting.
    job["circuit"] = Value::Null;
}
