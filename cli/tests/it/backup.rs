//! Backups through the command line and as jobs of the installation, against `windlass dev` and whole processes.

use std::path::Path;

use serde_json::Value;

use crate::binary::{Dev, Said, until, windlass};

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"))
}

fn key() -> String {
    let said = windlass(&["backup", "keygen"], &[]);
    assert_eq!(said.code, 0, "{said:?}");
    said.out.trim().to_owned()
}

/// Settings of an installation in one folder.
struct Place {
    folder: tempfile::TempDir,
    key: String,
    store: String,
    ledger: String,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let (store, ledger) = (at("store"), format!("sqlite://{}", at("data/ledger.db")));
        Self { folder, key: key(), store, ledger }
    }

    fn env(&self) -> [(&str, &str); 3] {
        [
            ("WINDLASS_BACKUP__STORE", &self.store),
            ("WINDLASS_BACKUP__KEY", &self.key),
            ("WINDLASS_LEDGER__URL", &self.ledger),
        ]
    }

    fn dev(&self) -> Dev {
        Dev::start(&self.folder.path().join("data"), &self.env()[..2])
    }

    fn run(&self, args: &[&str]) -> Said {
        windlass(&[&["backup"], args].concat(), &self.env())
    }

    fn run_failing(&self, args: &[&str], fail: &str) -> Option<i32> {
        let env = self.env();
        let status = std::process::Command::new(env!("CARGO_BIN_EXE_windlass"))
            .arg("backup")
            .args(args)
            .env_clear()
            .envs(env)
            .env("WINDLASS_FAIL", fail)
            .output()
            .expect("the binary starts");
        status.status.code()
    }
}

/// Asks the API as any client does: the status and the body.
fn ask(dev: &Dev, method: &str, path: &str) -> (u16, Value) {
    let url = format!("{}{path}", dev.url);
    let own = "windlass-namespace: system";
    let said = std::process::Command::new("curl")
        .args(["-s", "-X", method, "-H", own, "-w", "\n%{http_code}", &url])
        .output()
        .expect("curl runs");
    let text = String::from_utf8(said.stdout).expect("text");
    let (body, status) = text.rsplit_once('\n').expect("a status");
    (status.parse().expect("a number"), serde_json::from_str(body).unwrap_or_default())
}

/// Starts a job of backups; how it ended.
fn carried_out(dev: &Dev, path: &str) -> Value {
    let (status, job) = ask(dev, "POST", path);
    assert_eq!(status, 201, "{path}: {job}");
    let path = format!("/v1/jobs/{}", job["id"].as_str().expect("an id"));
    until("the job has ended", || {
        let (_, job) = ask(dev, "GET", &path);
        job["finished_at"].is_string().then_some(job)
    })
}

fn listed(place: &Place) -> Vec<Value> {
    json(&place.run(&["list", "--output", "json"])).as_array().expect("a list").clone()
}

#[test]
fn a_backup_is_made_while_dev_runs_verified_and_restored_into_a_ledger_that_runs() {
    let place = Place::new();
    let dev = place.dev();
    let done =
        dev.run(&["job", "submit", "echo", "--payload", "\"hi\"", "--wait", "--output", "json"]);
    let job = json(&done)["id"].as_str().expect("an id").to_owned();
    let made = json(&place.run(&["create", "--output", "json"]));
    let id = made["id"].as_str().expect("an id");
    assert_eq!(listed(&place)[0]["id"], id);

    let verified = place.run(&["verify", id, "--output", "json"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    assert_eq!(json(&verified)["good"], true);
    let shown = json(&place.run(&["show", id, "--output", "json"]));
    assert_eq!(shown["drill"]["good"], true, "{shown}");

    let refused = place.run(&["restore", id, "--into", &place.ledger]);
    assert!(refused.code == 1 && refused.err.contains("live"), "{refused:?}");
    let data = place.folder.path().join("restored");
    let into = format!("sqlite://{}", data.join("ledger.db").display());
    let restored = place.run(&["restore", id, "--into", &into, "--output", "json"]);
    assert_eq!(restored.code, 0, "{restored:?}");
    let again = place.run(&["restore", id, "--into", &into]);
    assert!(again.code == 1 && again.err.contains("not empty"), "{again:?}");
    let other = Dev::start(&data, &[]);
    assert_eq!(json(&other.run(&["job", "get", &job, "--output", "json"]))["state"], "succeeded");
    let more = other.run(&["job", "submit", "echo", "--payload", "1", "--wait"]);
    assert_eq!(more.code, 0, "{more:?}");
}

#[test]
fn a_damaged_backup_does_not_verify_and_exits_3() {
    let place = Place::new();
    let dev = place.dev();
    let made = json(&place.run(&["create", "--output", "json"]));
    let id = made["id"].as_str().expect("an id");
    let part = Path::new(&place.store).join(id).join("part-00000");
    let mut bytes = std::fs::read(&part).expect("a part");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(&part, bytes).expect("writable");
    let verified = place.run(&["verify", id]);
    assert!(verified.code == 3 && verified.err.contains("part_damaged"), "{verified:?}");
    drop(dev);
}

/// Killed before the manifest there is no backup; killed before a restored ledger has its id there is no ledger.
#[test]
fn what_a_killed_process_leaves_is_no_backup_and_no_ledger() {
    let place = Place::new();
    drop(place.dev());
    for point in ["backup.part_stored", "backup.before_manifest"] {
        assert_eq!(place.run_failing(&["create"], &format!("{point}=abort")), None);
        assert!(listed(&place).is_empty(), "{point}");
        // Nobody waits two minutes for the dead here; that one need not do this is tested with the claims.
        std::fs::remove_file(Path::new(&place.store).join("running")).expect("it was being made");
    }
    let made = json(&place.run(&["create", "--output", "json"]));
    let id = made["id"].as_str().expect("an id");
    let file = place.folder.path().join("restored.db");
    let into = format!("sqlite://{}", file.display());
    let args = ["restore", id, "--into", &into];
    assert_eq!(place.run_failing(&args, "restore.filled=abort"), None);
    assert!(!file.exists());
    let left = |folder: &Path| -> Vec<_> {
        std::fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name())
            .filter(|name| name.to_string_lossy().starts_with(".windlass-backup-"))
            .collect()
    };
    assert_eq!(left(place.folder.path()).len(), 1, "what it had restored by then");
    let restored = place.run(&args);
    assert_eq!(restored.code, 0, "{restored:?}");
    assert!(left(place.folder.path()).is_empty());

    // A drill leaves its copy beside the ledger; the next backup finds it.
    let data = place.folder.path().join("data");
    assert_eq!(place.run_failing(&["verify", id], "restore.filled=abort"), None);
    assert_eq!(left(&data).len(), 1);
    assert_eq!(place.run(&["create"]).code, 0);
    assert!(left(&data).is_empty());
}

#[test]
fn the_default_schedules_are_made_once_and_their_jobs_run() {
    let place = Place::new();
    let dev = place.dev();
    let names = |dev: &Dev| {
        let page =
            json(&dev.run(&["schedule", "list", "--namespace", "system", "--output", "json"]));
        let items = page["items"].as_array().expect("a list").clone();
        items
            .iter()
            .map(|item| item["name"].as_str().expect("a name").to_owned())
            .collect::<Vec<_>>()
    };
    until("the schedules are there", || {
        (names(&dev) == ["daily-backup", "weekly-drill"]).then_some(())
    });
    for name in ["daily-backup", "weekly-drill"] {
        let fired = dev.run(&["schedule", "trigger", name, "--namespace", "system"]);
        assert_eq!(fired.code, 0, "{fired:?}");
        let waited = dev.run(&["job", "wait", fired.out.trim(), "--namespace", "system"]);
        assert_eq!(waited.code, 0, "{name}: {waited:?}");
    }
    assert_eq!(listed(&place).len(), 1);
    let deleted = dev.run(&["schedule", "delete", "daily-backup", "--namespace", "system"]);
    assert_eq!(deleted.code, 0, "{deleted:?}");
    drop(dev);

    let dev = place.dev();
    // Made, if at all, before the installation's own jobs are taken.
    let ping =
        ["job", "submit", "system.ping", "--namespace", "system", "--queue", "system", "--wait"];
    assert_eq!(dev.run(&ping).code, 0);
    assert_eq!(names(&dev), ["weekly-drill"], "an operator is not overruled");
}

#[test]
fn backups_are_made_listed_proven_and_restored_over_http() {
    let place = Place::new();
    let target = place.folder.path().join("elsewhere.db");
    let into = format!("sqlite://{}", target.display());
    let mut env = place.env();
    env[2] = ("WINDLASS_BACKUP__RESTORE_URL", &into);
    let env = [&env[..], &[("WINDLASS_BACKUP__KEEP", "2")]].concat();
    let dev = Dev::start(&place.folder.path().join("data"), &env);
    // Made by the command line: the list has it once a job makes the next.
    let first = json(&place.run(&["create", "--output", "json"]))["id"].clone();
    assert_eq!(ask(&dev, "GET", "/v1/backups").1["items"], serde_json::json!([]));

    let made = carried_out(&dev, "/v1/backups");
    assert_eq!(made["state"], "succeeded", "{made}");
    let id = made["output"]["backup"].as_str().expect("an id").to_owned();
    let items = || ask(&dev, "GET", "/v1/backups").1["items"].as_array().expect("a list").clone();
    let ids = || items().iter().map(|item| item["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(), [Value::from(id.as_str()), first]);
    let newest = items().remove(0);
    assert_eq!((&newest["rows"], &newest["verified_at"]), (&made["output"]["rows"], &Value::Null));

    let path = format!("/v1/backups/{id}");
    let drilled = carried_out(&dev, &format!("{path}/verify"));
    assert_eq!(drilled["state"], "succeeded", "{drilled}");
    let (_, shown) = ask(&dev, "GET", &path);
    assert!(shown["verified_at"].is_string(), "{shown}");
    assert_eq!(shown["rto_ms"], drilled["output"]["rto_ms"]);

    let restore = format!("{path}/restore");
    let restored = carried_out(&dev, &restore);
    assert_eq!(restored["state"], "succeeded", "{restored}");
    assert!(target.exists());
    let again = carried_out(&dev, &restore);
    assert_eq!(
        (&again["state"], &again["error"]["code"]),
        (&"dead".into(), &"target_not_empty".into())
    );
    for job in [&restored, &again] {
        assert!(!job.to_string().contains("elsewhere"), "the target is a secret: {job}");
    }

    // Two are kept: the third has the first removed, and the list says so.
    let third = carried_out(&dev, "/v1/backups")["output"]["backup"].clone();
    assert_eq!(ids(), [third, Value::from(id)]);
}
