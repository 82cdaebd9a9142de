//! `windlass dev` as a user meets it: submit, wait, stop, kill, start again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::binary::{Dev, until, windlass, windlass_with};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn a_job_goes_round_and_sigterm_drains_with_0() {
    let data = tempfile::tempdir().expect("a folder");
    let mut dev = Dev::start(data.path(), &[]);
    let args = [
        "job",
        "submit",
        "echo",
        "--payload",
        "{\"hello\": \"world\"}",
        "--wait",
        "--output",
        "json",
    ];
    let said = dev.run(&args);
    assert_eq!(said.code, 0, "{said:?}");
    let job = json(&said.out);
    assert_eq!(job["state"], "succeeded");
    assert_eq!(job["output"], serde_json::json!({ "hello": "world" }));

    let id = job["id"].as_str().expect("an id");
    let shown = dev.run(&["job", "get", id]);
    assert!(shown.out.contains("succeeded"), "{shown:?}");
    let attempts = dev.run(&["job", "attempts", id]);
    assert!(attempts.out.contains("succeeded"), "{attempts:?}");
    let listed = dev.run(&["job", "list", "--kind", "echo", "--output", "json"]);
    assert_eq!(json(&listed.out)["items"][0]["id"], id);
    let queues = dev.run(&["queue", "list"]);
    assert!(queues.out.contains("default"), "{queues:?}");

    dev.signal("TERM");
    assert_eq!(dev.ended().code(), Some(0));
}

/// Goal: the first job of a new ledger is on record as soon as any other. Method: the fastest of a few first jobs,
/// each of a new ledger, so that a busy machine does not matter; what nobody feels responsible for takes 2 s each time.
#[test]
fn the_first_job_of_a_new_ledger_is_on_record_at_once() {
    let fastest = (0..4).map(|_| {
        let data = tempfile::tempdir().expect("a folder");
        let dev = Dev::start(data.path(), &[]);
        let started = Instant::now();
        let said = dev.run(&["job", "submit", "noop", "--wait"]);
        assert_eq!(said.code, 0, "{said:?}");
        started.elapsed()
    });
    let fastest = fastest.min().expect("some");
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
}

#[test]
fn a_job_that_fails_for_good_exits_3_and_can_be_explained_and_retried() {
    let data = tempfile::tempdir().expect("a folder");
    let dev = Dev::start(data.path(), &[]);
    let payload = "{\"times\": 1, \"error\": \"boom\", \"permanent\": true}";
    let said =
        dev.run(&["job", "submit", "fail", "--payload", payload, "--wait", "--output", "json"]);
    assert_eq!(said.code, 3, "{said:?}");
    let job = json(&said.out);
    assert_eq!(job["state"], "dead");
    let id = job["id"].as_str().expect("an id");
    let explained = dev.run(&["job", "explain", id]);
    assert_eq!(explained.code, 0, "{explained:?}");
    let retried = dev.run(&["job", "retry", id]);
    assert_eq!(retried.code, 0, "{retried:?}");
}

#[test]
fn a_paused_queue_holds_a_job_and_says_so() {
    let data = tempfile::tempdir().expect("a folder");
    let dev = Dev::start(data.path(), &[]);
    let paused = dev.run(&["queue", "pause", "default", "--reason", "a test"]);
    assert_eq!(paused.code, 0, "{paused:?}");
    let id = dev.run(&["job", "submit", "noop"]).out.trim().to_owned();
    let explained = dev.run(&["job", "explain", &id]);
    assert!(explained.out.contains("queue_paused"), "{explained:?}");
    let waited = dev.run(&["job", "wait", &id, "--timeout", "200ms"]);
    assert_eq!(waited.code, 3, "{waited:?}");
    let resumed = dev.run(&["queue", "resume", "default"]);
    assert_eq!(resumed.code, 0, "{resumed:?}");
    let waited = dev.run(&["job", "wait", &id]);
    assert_eq!(waited.code, 0, "{waited:?}");
}

#[test]
fn a_second_signal_exits_at_once_with_130() {
    let data = tempfile::tempdir().expect("a folder");
    let mut dev = Dev::start(data.path(), &[]);
    // Longer than the drain may take, so that only the second signal can end it soon.
    let id = dev.run(&["job", "submit", "sleep", "--payload", "{\"for\": \"50s\"}"]).out;
    wait_until_running(&dev, id.trim());
    dev.signal("INT");
    wait_until_draining(&dev);
    dev.signal("TERM");
    assert_eq!(dev.ended().code(), Some(130));
}

fn wait_until_running(dev: &Dev, id: &str) {
    until("the job runs", || {
        let said = dev.run(&["job", "get", id, "--output", "json"]);
        (json(&said.out)["state"] == "running").then_some(())
    });
}

/// The first signal closes the listener.
fn wait_until_draining(dev: &Dev) {
    let address = dev.url.strip_prefix("http://").expect("an address");
    until("the listener is closed", || std::net::TcpStream::connect(address).err());
}

/// Goal: what was accepted before a crash is there after it, and is run. Method: submit batches, kill -9
/// while the worker works on them, start again on the same data, wait for each id.
#[test]
fn every_accepted_job_survives_a_kill() {
    let data = tempfile::tempdir().expect("a folder");
    let mut dev = Dev::start(data.path(), &[]);
    let mut accepted = BTreeSet::new();
    for _ in 0..4 {
        let lines = "{\"kind\": \"noop\"}\n".repeat(250);
        let args = ["job", "submit", "--batch", "-", "--output", "json"];
        let said = windlass_with(&args, &[("WINDLASS_URL", &dev.url)], &lines);
        assert_eq!(said.code, 0, "{said:?}");
        for result in json(&said.out)["results"].as_array().expect("one per job") {
            accepted.insert(result["id"].as_str().expect("an id").to_owned());
        }
    }
    assert_eq!(accepted.len(), 1000);
    dev.signal("KILL");
    dev.ended();

    let dev = Dev::start(data.path(), &[]);
    // A few are waited for; all are counted in the list.
    for id in accepted.iter().rev().step_by(100) {
        let waited = dev.run(&["job", "wait", id, "--timeout", "1m"]);
        assert_eq!(waited.code, 0, "{waited:?}");
    }
    until("all have succeeded", || (succeeded(&dev) == accepted).then_some(()));
}

/// The ids of every job that succeeded.
fn succeeded(dev: &Dev) -> BTreeSet<String> {
    let (mut ids, mut cursor) = (BTreeSet::new(), None::<String>);
    loop {
        let mut args =
            vec!["job", "list", "--state", "succeeded", "--limit", "500", "--output", "json"];
        args.extend(cursor.iter().flat_map(|cursor| ["--cursor", cursor.as_str()]));
        let page = json(&dev.run(&args).out);
        let items = page["items"].as_array().expect("a list");
        ids.extend(items.iter().map(|job| job["id"].as_str().expect("an id").to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return ids,
        }
    }
}

#[test]
fn a_second_dev_on_the_same_data_is_refused() {
    let data = tempfile::tempdir().expect("a folder");
    let _first = Dev::start(data.path(), &[]);
    let folder = data.path().to_str().expect("text");
    let said = windlass(&["dev", "--listen", "127.0.0.1:0", "--data-dir", folder], &[]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("another `windlass dev` uses"), "{said:?}");
}

#[test]
fn production_dev_wants_a_key_and_makes_the_first_one() {
    let data = tempfile::tempdir().expect("a folder");
    let production = ("WINDLASS_PROFILE", "production");
    let mut dev = Dev::start(data.path(), &[production]);
    let said = dev.run(&["job", "submit", "noop"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("HTTP 401") && said.err.contains("windlass key create"), "{said:?}");

    let file = data.path().join("admin.key");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).expect("made"));
    assert_eq!(mode & 0o777, 0o600);
    let key = std::fs::read_to_string(&file).expect("text").trim().to_owned();
    assert!(key.starts_with("wl_live_"), "{key}");
    let with_key = [("WINDLASS_URL", dev.url.as_str()), ("WINDLASS_API_KEY", key.as_str())];
    let said = windlass(&["job", "submit", "noop", "--wait"], &with_key);
    assert_eq!(said.code, 0, "{said:?}");
    dev.signal("TERM");
    assert_eq!(dev.ended().code(), Some(0));

    // The key is made once; a second start leaves it.
    let mut dev = Dev::start(data.path(), &[production]);
    assert_eq!(std::fs::read_to_string(&file).expect("text").trim(), key);
    dev.signal("TERM");
    assert_eq!(dev.ended().code(), Some(0));
}

#[test]
fn the_tools_work_on_a_stopped_dev() {
    let data = tempfile::tempdir().expect("a folder");
    let mut dev = Dev::start(data.path(), &[]);
    dev.signal("TERM");
    assert_eq!(dev.ended().code(), Some(0));

    let ledger = format!("sqlite://{}/ledger.db", data.path().display());
    let env = [("WINDLASS_LEDGER__URL", ledger.as_str()), ("WINDLASS_ENGINE__URL", "embedded")];
    let made = windlass(&["key", "create", "--role", "viewer"], &env);
    assert_eq!(made.code, 0, "{made:?}");
    let key = made.out.trim();
    let listed = windlass(&["key", "list", "--output", "json"], &env);
    let secret = key.split('_').nth(3).expect("the secret part");
    assert!(!listed.out.contains(secret), "{listed:?}");
    let item = &json(&listed.out)["items"][0];
    assert_eq!((&item["role"], &item["name"]), (&"viewer".into(), &"viewer".into()));
    let id = item["id"].as_str().expect("an id").to_owned();
    assert_eq!(windlass(&["key", "revoke", &id], &env).code, 0);
    assert_eq!(windlass(&["key", "revoke", &id], &env).code, 1, "there is nothing to revoke twice");

    assert_eq!(windlass(&["migrate", "validate"], &env).code, 0);
    assert!(windlass(&["migrate", "status"], &env).out.contains("applied"));
    let doctor = windlass(&["doctor"], &env);
    assert_eq!(doctor.code, 0, "{doctor:?}");
    assert!(doctor.out.contains("ok    ledger"), "{doctor:?}");
    let doctor = windlass(&["doctor"], &[("WINDLASS_LEDGER__URL", "postgres://127.0.0.1:1/none")]);
    assert_eq!(doctor.code, 3, "{doctor:?}");
    assert!(
        doctor.out.contains("FAIL  ledger") && doctor.out.contains("FAIL  engine"),
        "{doctor:?}"
    );
}

#[test]
fn a_namespace_is_chosen_by_flag_and_wrong_input_is_named() {
    let data = tempfile::tempdir().expect("a folder");
    let dev = Dev::start(data.path(), &[]);
    let id = dev.run(&["job", "submit", "noop", "--namespace", "other"]).out.trim().to_owned();
    let list = |namespace: &str| {
        let args = ["job", "list", "--namespace", namespace, "--output", "json"];
        json(&dev.run(&args).out)["items"].clone()
    };
    assert_eq!(list("other")[0]["id"], id.as_str());
    assert_eq!(list("default"), serde_json::json!([]));
    for (args, code, words) in [
        (&["job", "list", "--namespace", "A b"][..], 2, "--namespace must be"),
        (&["job", "list", "--state", "done"], 1, "state: must be one of blocked, scheduled"),
        (&["job", "get", "123"], 2, "not a job id (a UUID)"),
        (&["job", "submit", "a b"], 1, "/kind: may only contain"),
    ] {
        let said = dev.run(args);
        assert_eq!(said.code, code, "{said:?}");
        assert!(said.err.contains(words), "{said:?}");
    }
}
