//! Load checks through the command line, against `windlass dev`; whole processes killed and stopped.

use serde_json::Value;

use crate::binary::{Dev, Said, until};

/// What is promised is tested here, not how fast the machine is that many tests share.
const PATIENT: [&str; 4] = ["--start-p99-max", "1m", "--end-p99-max", "1m"];
/// The shortest lease, so that what a killed process held is free soon.
const LEASE: (&str, &str) = ("WINDLASS_WORKER__LEASE", "3s");

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"))
}

fn start(dev: &Dev, duration: &str) -> String {
    let mut args = vec!["load-check", "run", "--rate", "1200", "--duration", duration];
    args.extend(PATIENT);
    let said = dev.run(&args);
    assert_eq!(said.code, 0, "{said:?}");
    said.out.trim().to_owned()
}

fn check(dev: &Dev, id: &str) -> Value {
    json(&dev.run(&["load-check", "show", id, "--output", "json"]))
}

fn until_state(dev: &Dev, id: &str, state: &str) -> Value {
    until(&format!("the check is {state}"), || {
        let check = check(dev, id);
        (check["state"] == state).then_some(check)
    })
}

/// Under load: it has jobs in its shadow.
fn until_loaded(dev: &Dev, id: &str) -> String {
    let shadow = until_state(dev, id, "running")["shadow"].as_str().expect("a name").to_owned();
    until("the shadow has jobs", || (jobs(dev, &shadow) > 5).then_some(()));
    shadow
}

fn jobs(dev: &Dev, namespace: &str) -> usize {
    let args = ["job", "list", "--namespace", namespace, "--limit", "500", "--output", "json"];
    json(&dev.run(&args))["items"].as_array().expect("a list").len()
}

#[test]
fn a_check_runs_is_shown_and_leaves_nothing() {
    let data = tempfile::tempdir().expect("a folder");
    let dev = Dev::start(data.path(), &[LEASE]);
    assert_eq!(dev.run(&["job", "submit", "noop", "--wait"]).code, 0);
    let id = start(&dev, "3s");
    let other = dev.run(&["load-check", "run"]);
    assert_eq!(other.code, 1, "{other:?}");
    assert!(other.err.contains("check_running") && other.err.contains(&id), "{other:?}");
    let ended = until("it has a verdict", || {
        let check = check(&dev, &id);
        check["ended_at"].is_string().then_some(check)
    });
    assert_eq!(ended["accepted"], 60, "{ended}");
    for name in ["lost", "doubled", "early", "ran_though_refused", "leases_lost", "interrupted"] {
        let verdicts = ended["verdicts"].as_array().expect("a list");
        let verdict = verdicts.iter().find(|verdict| verdict["name"] == name).expect(name);
        assert_eq!(verdict["holds"], true, "{ended}");
    }
    let shown = dev.run(&["load-check", "show", &id]);
    assert!(shown.out.contains("start_p99_ms") && shown.out.contains("ok"), "{shown:?}");
    assert!(dev.run(&["load-check", "list"]).out.contains(&id));
    until("nothing is left", || (check(&dev, &id)["is_clean"] == true).then_some(()));
    let shadow = ended["shadow"].as_str().expect("a name");
    assert_eq!(jobs(&dev, shadow), 0);
    assert_eq!(jobs(&dev, "default"), 1, "others are left alone");
    let metrics = until("the verdict is a metric", || {
        let said = std::process::Command::new("curl")
            .args(["-s", &format!("{}/metrics", dev.url)])
            .output()
            .expect("curl runs");
        let text = String::from_utf8(said.stdout).expect("text");
        text.contains("windlass_load_check_passed").then_some(text)
    });
    assert!(!metrics.contains("check-"), "no check is named by a label");
}

/// Goal: a check whose process dies has failed, and is not repeated until one passes.
#[test]
fn a_killed_check_has_failed_and_is_cleaned() {
    let data = tempfile::tempdir().expect("a folder");
    let mut dev = Dev::start(data.path(), &[LEASE]);
    let id = start(&dev, "5m");
    let shadow = until_loaded(&dev, &id);
    dev.signal("KILL");
    dev.ended();

    let dev = Dev::start(data.path(), &[LEASE]);
    let judged = until_state(&dev, &id, "failed");
    let reason = judged["reasons"][0].as_str().expect("a reason");
    assert!(reason.starts_with("interrupted"), "{judged}");
    assert_eq!(judged["verdicts"][0]["name"], "interrupted");
    assert_eq!((&judged["verdicts"][0]["measured"], &judged["restarts"]), (&1.0.into(), &0.into()));
    until("nothing is left", || (check(&dev, &id)["is_clean"] == true).then_some(()));
    assert_eq!(jobs(&dev, &shadow), 0);
    let job = ["job", "get", &id, "--namespace", "system", "--output", "json"];
    until("its job is dead", || (json(&dev.run(&job))["state"] == "dead").then_some(()));
    // It holds up no other.
    let next = start(&dev, "5m");
    assert_eq!(dev.run(&["load-check", "abort", &next]).code, 0);
    until_state(&dev, &next, "aborted");
}

/// Goal: a process that is stopped gives its check back; it begins anew, and that shows. Then it is aborted.
#[test]
fn a_stopped_check_begins_anew_and_can_be_aborted() {
    let data = tempfile::tempdir().expect("a folder");
    let mut dev = Dev::start(data.path(), &[LEASE]);
    let id = start(&dev, "5m");
    let first = until_loaded(&dev, &id);
    dev.signal("TERM");
    assert_eq!(dev.ended().code(), Some(0));

    let dev = Dev::start(data.path(), &[LEASE]);
    let second = until("it begins anew", || {
        let check = check(&dev, &id);
        let is_anew = check["restarts"] == 1 && check["state"] == "running";
        is_anew.then(|| check["shadow"].as_str().expect("a name").to_owned())
    });
    assert_ne!(first, second, "what it left does not count");
    until("it is under load", || (jobs(&dev, &second) > 5).then_some(()));
    assert_eq!(dev.run(&["load-check", "abort", &id]).code, 0);
    let aborted = until_state(&dev, &id, "aborted");
    assert_eq!(aborted["restarts"], 1);
    until("nothing is left", || (check(&dev, &id)["is_clean"] == true).then_some(()));
    assert_eq!((jobs(&dev, &first), jobs(&dev, &second)), (0, 0));
}
