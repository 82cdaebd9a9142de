//! Settings: layers, unknown keys, masks, refusals.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::binary::{Said, windlass};

/// A settings file, and the folder that holds it.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("windlass.toml");
    std::fs::write(&path, text).expect("written");
    let path = path.to_str().expect("text").to_owned();
    (folder, path)
}

/// Key to (value, source).
fn shown(args: &[&str], env: &[(&str, &str)]) -> BTreeMap<String, (String, String)> {
    let args: Vec<&str> =
        ["config", "show", "--output", "json"].iter().chain(args).copied().collect();
    let said = windlass(&args, env);
    assert_eq!(said.code, 0, "{said:?}");
    let rows: Vec<Value> = serde_json::from_str(&said.out).expect("JSON");
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or("-").to_owned();
    rows.iter().map(|row| (text(row, "key"), (text(row, "value"), text(row, "source")))).collect()
}

fn refused(env: &[(&str, &str)], args: &[&str]) -> String {
    let args: Vec<&str> = ["config", "check"].iter().chain(args).copied().collect();
    let Said { code, err, .. } = windlass(&args, env);
    assert_eq!(code, 2, "{err}");
    err
}

#[test]
fn every_role_has_an_admin_listener_of_its_own_unless_told_otherwise() {
    for (role, address) in
        [("api", "127.0.0.1:9090"), ("worker", "127.0.0.1:9091"), ("scheduler", "127.0.0.1:9092")]
    {
        let env = [
            ("WINDLASS_LEDGER__URL", "postgres://127.0.0.1/w"),
            ("WINDLASS_ENGINE__URL", "redis://127.0.0.1"),
        ];
        assert_eq!(shown(&["--role", role], &env)["admin.listen"].0, address, "{role}");
    }
    assert_eq!(shown(&["--role", "dev"], &[])["admin.listen"].0, "-", "its one port");
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_defaults() {
    let (_folder, path) = file(
        "profile = \"staging\"\n[worker]\nconcurrency = 4\nlease = \"20s\"\nqueues = [\"default\", \"io:3\"]\n",
    );
    let env = [("WINDLASS_CONFIG", path.as_str()), ("WINDLASS_WORKER__CONCURRENCY", "8")];
    let rows = shown(&["--role", "worker"], &env);
    let row = |key: &str| rows[key].clone();
    let from_file = format!("file {path}");
    assert_eq!(row("worker.concurrency"), ("8".into(), "env WINDLASS_WORKER__CONCURRENCY".into()));
    assert_eq!(row("worker.lease"), ("20s".into(), from_file.clone()));
    assert_eq!(row("worker.queues"), ("default,io:3".into(), from_file.clone()));
    assert_eq!(row("worker.drain_timeout"), ("30s".into(), "default".into()));
    assert_eq!(row("log.format"), ("json".into(), "profile staging".into()));
    assert_eq!(row("profile"), ("staging".into(), from_file));
    assert_eq!(row("admin.listen"), ("127.0.0.1:9091".into(), "default".into()));
}

/// Goal: rates of kinds are a table in the file, with or without quotes around a kind's dots, or one text.
#[test]
fn rates_of_kinds_are_a_table_or_a_text() {
    let text =
        "[worker.rate_limits]\nhttp.request = \"50/s\"\n\"mail.send\" = \"600/1m burst 10\"\n";
    let (_folder, path) = file(text);
    let pairs = "http.request=50/s,mail.send=600/1m burst 10";
    let rows = shown(&["--role", "worker"], &[("WINDLASS_CONFIG", &path)]);
    assert_eq!(rows["worker.rate_limits"], (pairs.into(), format!("file {path}")));
    let env = [("WINDLASS_CONFIG", path.as_str()), ("WINDLASS_WORKER__RATE_LIMITS", "noop=1/s")];
    assert_eq!(shown(&["--role", "worker"], &env)["worker.rate_limits"].0, "noop=1/s");

    let err = refused(&[("WINDLASS_WORKER__RATE_LIMITS", "noop=50")], &[]);
    assert!(
        err.contains("worker.rate_limits (env WINDLASS_WORKER__RATE_LIMITS) a rate is"),
        "{err}"
    );
    assert!(err.contains("http.request=50/s"), "{err}");
    let (_folder, path) = file("[worker.rate_limits]\nnoop = 50\n");
    let err = refused(&[("WINDLASS_CONFIG", path.as_str())], &[]);
    assert!(err.contains("must be a text, or a table of texts"), "{err}");
    // Other settings are no tables.
    let (_folder, path) = file("[worker.name]\na = \"b\"\n");
    assert!(refused(&[("WINDLASS_CONFIG", path.as_str())], &[]).contains("worker.name"));
}

/// Goal: a rate of a kind that is misspelt would protect nothing: the worker does not start.
#[test]
fn a_worker_refuses_a_rate_of_a_kind_that_it_does_not_serve() {
    let env = [
        ("WINDLASS_ENGINE__URL", "redis://127.0.0.1:1"),
        ("WINDLASS_WORKER__RATE_LIMITS", "http.requst=50/s"),
    ];
    let Said { code, err, .. } = windlass(&["worker"], &env);
    assert_eq!(code, 2, "{err}");
    assert!(
        err.contains("worker.rate_limits names http.requst") && err.contains("http.request"),
        "{err}"
    );
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    let err = refused(&[("WINDLASS_WORKER__CONCURENCY", "8")], &[]);
    assert!(
        err.contains("worker.concurency (env WINDLASS_WORKER__CONCURENCY) is not a setting"),
        "{err}"
    );
    assert!(
        err.contains("did you mean worker.concurrency (WINDLASS_WORKER__CONCURRENCY)?"),
        "{err}"
    );

    let (_folder, path) =
        file("[ledgr]\nurl = \"postgres://h/w\"\n[api]\nlisten = \"127.0.0.1:1\"\n");
    let err = refused(&[], &["--config", &path]);
    assert!(err.contains("ledgr.url (file"), "{err}");
    assert!(err.contains("did you mean ledger.url"), "{err}");
}

#[test]
fn variables_of_the_platform_and_of_the_client_are_no_settings() {
    let env = [
        ("WINDLASS_API_SERVICE_HOST", "10.0.0.1"),
        ("WINDLASS_API_PORT", "tcp://10.0.0.1:80"),
        ("WINDLASS_URL", "http://x"),
        ("WINDLASS_API_KEY", "k"),
        ("WINDLASS_WORKER_CONCURRENCY", "3"),
    ];
    let said = windlass(&["config", "check"], &env);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.out.contains("WINDLASS_WORKER_CONCURRENCY is not a setting and was ignored"),
        "{said:?}"
    );
}

#[test]
fn every_problem_is_named_at_once() {
    let env = [
        ("WINDLASS_WORKER__CONCURRENCY", "0"),
        ("WINDLASS_WORKER__LEASE", "1s"),
        ("WINDLASS_API__LISTEN", "somewhere"),
        ("WINDLASS_LEDGER__URL", "mysql://h/w"),
        ("WINDLASS_LOG__LEVEL", "shout=loud"),
        ("WINDLASS_PROFILE", "prod"),
    ];
    let err = refused(&env, &[]);
    for key in
        ["worker.concurrency", "worker.lease", "api.listen", "ledger.url", "log.level", "profile"]
    {
        assert!(err.contains(&format!("\n  {key} (")), "{key}: {err}");
    }
}

#[test]
fn secrets_are_never_shown() {
    let (_folder, path) =
        file("[ledger]\nurl = \"postgres://u:canary1@h/w?sslpassword=canary2\"\n");
    let env = [
        ("WINDLASS_CONFIG", path.as_str()),
        ("WINDLASS_ENGINE__URL", "redis://:canary3@h:6379"),
        ("WINDLASS_WORKER__API_KEY", "canary4"),
        ("WINDLASS_API__CURSOR_SECRET", "canary5"),
    ];
    for args in [&["config", "show"][..], &["config", "show", "--output", "json"]] {
        let said = windlass(args, &env);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(!said.out.contains("canary") && !said.err.contains("canary"), "{said:?}");
        assert!(said.out.contains("postgres://u:***@h/w?sslpassword=***"), "{said:?}");
    }
    // Nor in what is said of wrong ones, or of a broken file.
    let err = refused(&[("WINDLASS_LEDGER__URL", "postgrs://u:canary@h")], &[]);
    assert!(!err.contains("canary"), "{err}");
    let (_folder, path) = file("[ledger]\nurl = \"postgres://u:canary@h\n");
    let err = refused(&[], &["--config", &path]);
    assert!(!err.contains("canary") && err.contains("line 2"), "{err}");
}

#[test]
fn no_auth_is_for_loopback_and_never_for_production() {
    let off = ("WINDLASS_AUTH__MODE", "off");
    let public = ("WINDLASS_API__LISTEN", "0.0.0.0:8080");
    let production = ("WINDLASS_PROFILE", "production");
    let said = windlass(&["config", "check"], &[off]);
    assert_eq!(said.code, 0, "{said:?}");
    let err = refused(&[off, public], &[]);
    assert!(err.contains("auth.mode (env WINDLASS_AUTH__MODE) must not be off unless"), "{err}");
    let admin = ("WINDLASS_ADMIN__LISTEN", "0.0.0.0:9090");
    assert!(refused(&[off, admin], &[]).contains("auth.mode"));
    let err = refused(&[off, production], &[]);
    assert!(err.contains("must not be off in profile production"), "{err}");
    assert!(refused(&[off, public], &["--role", "dev"]).contains("auth.mode"));
}

#[test]
fn production_refuses_what_is_unsafe() {
    let production = ("WINDLASS_PROFILE", "production");
    let err = refused(&[production, ("WINDLASS_HTTP__ALLOW_PRIVATE", "true")], &[]);
    assert!(err.contains("http.allow_private"), "{err}");
    let err = refused(&[production, ("WINDLASS_LEDGER__URL", "postgres://w:changeme@h/w")], &[]);
    assert!(err.contains("ledger.url") && err.contains("a password that examples use"), "{err}");
}

#[test]
fn dev_is_open_on_loopback_only() {
    let rows = shown(&["--role", "dev"], &[]);
    assert_eq!(rows["auth.mode"], ("off".into(), "default of dev".into()));
    assert_eq!(rows["http.allow_private"].0, "true");
    assert_eq!(rows["engine.url"].0, "embedded");
    assert_eq!(rows["ledger.url"].0, "sqlite://./windlass-data/ledger.db");
    for env in [("WINDLASS_API__LISTEN", "0.0.0.0:8080"), ("WINDLASS_PROFILE", "production")] {
        let rows = shown(&["--role", "dev"], &[env]);
        assert_eq!(rows["auth.mode"].0, "required", "{env:?}");
        assert_eq!(rows["http.allow_private"].0, "false", "{env:?}");
    }
}

#[test]
fn the_example_settings_of_the_repository_are_legal() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut found = 0;
    for folder in ["deploy", "examples", "docs"] {
        let mut open = vec![root.join(folder)];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    open.push(path);
                } else if path.file_name().is_some_and(|name| name == "windlass.toml") {
                    found += 1;
                    let said = windlass(
                        &["config", "check", "--config", path.to_str().expect("text")],
                        &[],
                    );
                    assert_eq!(said.code, 0, "{}: {said:?}", path.display());
                }
            }
        }
    }
    println!("{found} settings files");
}

#[test]
fn workers_of_users_stay_out_of_the_installations_own_namespaces() {
    for namespace in ["system", "check-01900000-0000-7000-8000-000000000000"] {
        let err = refused(&[("WINDLASS_WORKER__NAMESPACE", namespace)], &[]);
        assert!(err.contains("worker.namespace (") && err.contains("schedulers work"), "{err}");
    }
    assert_eq!(windlass(&["config", "check"], &[("WINDLASS_WORKER__NAMESPACE", "checks")]).code, 0);
}
