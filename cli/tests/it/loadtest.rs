//! Load tests through the command line, against `windlass dev`.

use std::path::Path;

use serde_json::Value;

use crate::binary::{Dev, windlass};
use crate::docs_page::rendered;

/// A file of a profile.
fn write(folder: &Path, name: &str, text: &str) -> String {
    let file = folder.join(name);
    std::fs::write(&file, text).expect("a file");
    file.to_str().expect("text").to_owned()
}

/// Jobs of every sort. Thresholds are of promises alone: the machine is shared with other tests.
const MIXED: &str = r#"
about = "jobs of every sort"
mix = { submit = 4, batch = 1, workflow = 1, status = 1, detail = 1, search = 1, health = 1 }
jobs = { sleep = ["0ms", "5ms"], burn = "1ms", payload_bytes = [50, 500], failing_percent = 10, delayed_percent = 10, keys = 3, batch = 5, graph = { diamonds = 2, wide = 3 } }
stages = [
    { name = "steady", rate = 40, for = "2s" },
    { name = "held", backlog = 1000, hold = 2000, rate = 20, for = "1s" },
]
[thresholds]
lost = { max = 0 }
wrong = { max = 0 }
early = { max = 0 }
ghosts = { max = 0 }
errors_percent = { max = 0 }
dev_memory_mb = { max = 4000 }
"#;

#[test]
fn a_profile_runs_on_dev_and_says_what_it_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let dev = Dev::start(&folder.path().join("data"), &[]);
    let profile = write(folder.path(), "mixed.toml", MIXED);
    let (json, html) = (folder.path().join("result.json"), folder.path().join("result.html"));
    let (json, html) = (json.to_str().expect("text"), html.to_str().expect("text"));
    let pid = format!("dev={}", dev.pid());
    let args = ["loadtest", "run", &profile, "--pid", &pid, "--json-file", json, "--html", html];
    let said = dev.run(&args);
    assert_eq!(said.code, 0, "{said:?}");
    for text in ["lost", "at most 0", "holds", "ends p50/p95/p99/max", "dev "] {
        assert!(said.out.contains(text), "{text}: {}", said.out);
    }
    assert!(said.err.contains("steady:") && said.err.contains("making jobs wait"), "{}", said.err);

    let text = std::fs::read_to_string(json).expect("the result");
    let result: Value = serde_json::from_str(&text).expect("JSON");
    let profile = result["profile"].as_str().expect("a name");
    assert!(result["passed"] == true && profile.starts_with("mixed-"), "{profile}");
    assert_eq!(result["figures"]["steady.calls"], 80.0, "{}", result["figures"]);
    let limit = dev.run(&["queue", "get", "default", "--output", "json"]);
    let queue: Value = serde_json::from_str(&limit.out).expect("JSON");
    assert!(queue["settings"]["rate_limit"].is_null(), "the limit is taken back: {queue}");
    assert_eq!(queue["paused"], false, "{queue}");

    let page = rendered(&format!("file://{html}"));
    for text in ["mixed-", "passed", "Thresholds", "Ends of jobs by percentile", "steady", "held"] {
        assert!(page.contains(text), "{text}");
    }
    assert!(page.matches("<polyline").count() >= 10, "plots have lines");
    assert!(!page.contains("http-equiv") && !page.contains("<script"), "it needs nothing else");
}

#[test]
fn a_threshold_that_does_not_hold_ends_with_3_and_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let dev = Dev::start(&folder.path().join("data"), &[]);
    let text = "about = \"never\"\nstages = [{ name = \"all\", burst = 3 }]\n[thresholds]\nlost = { max = 0 }\n\"all.end_p50_ms\" = { max = 0.001 }\n\"all.search_p50_ms\" = { max = 1 }\n";
    let profile = write(folder.path(), "never.toml", text);
    let said = dev.run(&["loadtest", "run", &profile, "--quiet"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.err.contains("failed: all.end_p50_ms is "), "{}", said.err);
    assert!(said.err.contains("all.search_p50_ms is not measured"), "{}", said.err);
    assert!(!said.err.contains("lost is"), "{}", said.err);
}

#[test]
fn profiles_are_listed_and_shown_and_what_cannot_be_meant_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let listed = windlass(&["loadtest", "list", "--output", "json"], &[]);
    let items: Value = serde_json::from_str(&listed.out).expect("JSON");
    for item in items["items"].as_array().expect("a list") {
        let name = item["name"].as_str().expect("a name");
        let shown = windlass(&["loadtest", "show", name], &[]);
        assert!(shown.out.contains("[thresholds]"), "{name}: {shown:?}");
    }
    let figures = windlass(&["loadtest", "list", "--figures"], &[]);
    assert!(figures.out.contains("PROCESS_memory_mb") && figures.out.contains("drain_seconds"));

    let breaks = "about = \"b\"\nstages = [{ name = \"a\", burst = 1 }]\nfaults = [{ at = \"1s\", what = \"kill-worker\" }]\n";
    let breaks = write(folder.path(), "breaks.toml", breaks);
    let wrong = write(folder.path(), "wrong.toml", "about = \"w\"\nstages = []\n");
    for (args, part) in [
        (vec!["run", "none"], "there is no profile"),
        (vec!["show", "none"], "there is no profile"),
        (vec!["run", "none.toml"], "cannot read"),
        (vec!["run", wrong.as_str()], "at least one"),
        (vec!["run", breaks.as_str()], "windlass-rig load"),
        (vec!["run", "smoke", "--scale", "0"], "--scale"),
        (vec!["run", "trace", "--scale", "0.01"], "no call is due"),
        (vec!["run", "soak5m"], "--pid NAME=PID"),
        (vec!["run", "smoke", "--traces", "x.json"], "x.json"),
        (vec!["run", "smoke", "--url", "http://192.0.2.1"], "--allow-remote"),
    ] {
        let args: Vec<&str> = ["loadtest"].into_iter().chain(args).collect();
        let said = windlass(&args, &[]);
        assert_eq!(said.code, 2, "{args:?}: {said:?}");
        assert!(said.err.contains(part), "{args:?}: {}", said.err);
    }
}

#[test]
fn results_are_kept_compared_and_shown_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let dev = Dev::start(&folder.path().join("data"), &[]);
    let text = "about = \"short\"\nstages = [{ name = \"all\", burst = 5 }]\n[thresholds]\nlost = { max = 0 }\n";
    let profile = write(folder.path(), "short.toml", text);
    let first = dev.run(&["loadtest", "run", &profile, "--quiet", "--output", "json"]);
    let first: Value = serde_json::from_str(&first.out).expect("JSON");
    assert!(first["compared"].is_null() && first["notes"] == serde_json::json!([]), "{first}");
    let aside = dev.run(&["loadtest", "run", &profile, "--quiet", "--no-keep"]);
    assert!(!aside.out.contains("Against the last good run"), "{aside:?}");
    let second = dev.run(&["loadtest", "run", &profile, "--quiet"]);
    assert!(second.out.contains("Against the last good run"), "{second:?}");
    assert!(second.out.contains("end_p99_ms"), "{second:?}");

    let name = first["profile"].as_str().expect("a name");
    let listed = dev.run(&["loadtest", "results", "--profile", name, "--output", "json"]);
    let listed: Value = serde_json::from_str(&listed.out).expect("JSON");
    let items = listed["items"].as_array().expect("a list");
    assert_eq!((items.len(), &items[1]["id"]), (2, &first["id"]), "{listed}");
    let id = items[1]["id"].as_str().expect("an id");
    let shown = dev.run(&["loadtest", "result", id]);
    assert!(shown.code == 0 && shown.out.contains("holds"), "{shown:?}");
    let html = folder.path().join("again.html");
    let html = html.to_str().expect("text");
    assert_eq!(dev.run(&["loadtest", "result", id, "--html", html]).code, 0);
    assert!(std::fs::read_to_string(html).expect("a page").contains("<svg"));
}

#[test]
fn the_installation_carries_profiles_out_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let dev = Dev::start(&folder.path().join("data"), &[]);
    let submit = |payload: &str, timeout: &str| {
        let args = ["job", "submit", "loadtest.run", "--namespace", "system", "--queue", "system"];
        let more = ["--timeout", timeout, "--max-attempts", "1", "--wait", "--output", "json"];
        let args: Vec<&str> = args.into_iter().chain(["--payload", payload]).chain(more).collect();
        let said = dev.run(&args);
        serde_json::from_str::<Value>(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"))
    };
    let whole = r#"{"profile": {"about": "short", "stages": [{"name": "all", "burst": 5}], "thresholds": {"lost": {"max": 0}}}}"#;
    let job = submit(whole, "10m");
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(job["output"]["figures"]["accepted"], 5.0, "{job}");
    let listed = dev.run(&["loadtest", "results", "--output", "json"]);
    let listed: Value = serde_json::from_str(&listed.out).expect("JSON");
    assert_eq!(listed["items"][0]["id"], job["output"]["id"], "{listed}");

    let never = whole.replace(r#""lost": {"max": 0}"#, r#""end_p50_ms": {"max": 0.001}"#);
    for (payload, timeout, code) in [
        (never.as_str(), "10m", "load_test_failed"),
        (r#"{"profile": "none"}"#, "10m", "invalid_payload"),
        (r#"{"profile": "chaos"}"#, "10m", "invalid_payload"),
        (r#"{"profile": "soak1h"}"#, "10m", "invalid_payload"),
        (r#"{"profile": "smoke"}"#, "1m", "timeout_too_short"),
    ] {
        let job = submit(payload, timeout);
        assert_eq!((&job["state"], &job["error"]["code"]), (&"dead".into(), &code.into()), "{job}");
    }
}
