//! Schedules through the command line, against `windlass dev`.

use serde_json::Value;

use crate::binary::{Dev, Said};

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"))
}

/// Asks again until the answer is as it is to be.
fn until(what: &str, mut ask: impl FnMut() -> Option<Value>) -> Value {
    let began = std::time::Instant::now();
    while began.elapsed() < std::time::Duration::from_secs(60) {
        if let Some(found) = ask() {
            return found;
        }
    }
    panic!("in vain: {what}");
}

fn runs(dev: &Dev, name: &str) -> Vec<Value> {
    let page = json(&dev.run(&["schedule", "runs", name, "--output", "json"]));
    page["items"].as_array().expect("a list").clone()
}

#[test]
fn a_schedule_fires_its_job_and_every_due_time_is_told() {
    let data = tempfile::tempdir().expect("a folder");
    let dev = Dev::start(data.path(), &[]);
    let payload = "{\"at\": \"${{ run.scheduled_at }}\"}";
    let args = [
        "schedule",
        "create",
        "beat",
        "--cron",
        "* * * * * *",
        "--kind",
        "echo",
        "--payload",
        payload,
    ];
    let made = dev.run(&args);
    assert_eq!(made.code, 0, "{made:?}");
    assert!(made.out.contains("* * * * * *") && made.out.contains("UTC"), "{made:?}");
    assert_eq!(dev.run(&args).code, 1, "the name is taken");

    let done = until("three fires have succeeded", || {
        let done: Vec<Value> =
            runs(&dev, "beat").into_iter().filter(|run| run["result"] == "succeeded").collect();
        (done.len() >= 3).then(|| Value::from(done))
    });
    for run in done.as_array().expect("a list") {
        let job = json(&dev.run(&[
            "job",
            "get",
            run["job_id"].as_str().expect("an id"),
            "--output",
            "json",
        ]));
        assert_eq!(job["output"]["at"], run["scheduled_at"], "{job}");
    }

    let paused = dev.run(&["schedule", "pause", "beat", "--reason", "enough"]);
    assert!(paused.out.contains("enough"), "{paused:?}");
    until("a due time was skipped", || {
        let runs = runs(&dev, "beat");
        runs.first().filter(|run| run["reason"] == "paused").cloned()
    });
    assert!(dev.run(&["schedule", "list"]).out.contains("paused"));
    let triggered = dev.run(&["schedule", "trigger", "beat"]);
    assert_eq!(triggered.code, 0, "{triggered:?}");
    let id = triggered.out.trim();
    assert_eq!(dev.run(&["job", "wait", id]).code, 0);

    let set = dev.run(&[
        "schedule",
        "set",
        "beat",
        "--every",
        "1h",
        "--overlap",
        "queue",
        "--output",
        "json",
    ]);
    assert_eq!((&json(&set)["every"], &json(&set)["cron"]), (&"1h".into(), &Value::Null));
    let next = dev.run(&["schedule", "next", "beat", "--n", "2"]);
    assert_eq!(next.out.lines().count(), 2, "{next:?}");

    // Each due time has one row, and those between the first and the last are whole seconds without a gap.
    let mut due: Vec<i64> = runs(&dev, "beat")
        .iter()
        .filter(|run| run["source"] == "schedule")
        .map(|run| {
            run["scheduled_at"]
                .as_str()
                .expect("a time")
                .parse::<windlass_shared::model::time::Timestamp>()
                .expect("a time")
                .millis()
        })
        .collect();
    due.reverse();
    assert!(due.windows(2).all(|pair| pair[1] - pair[0] == 1_000), "{due:?}");
    assert_eq!(dev.run(&["schedule", "delete", "beat"]).code, 0);
    assert_eq!(dev.run(&["schedule", "get", "beat"]).code, 1);
}
