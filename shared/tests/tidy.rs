//! Borders between crates and modules, read from the sources themselves (ARCHITECTURE.md says why).

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace holds this crate").into()
}

/// Every Rust file under `folder`, with its path from the workspace's root.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root()).expect("under the root").display().to_string();
                files.push((name, std::fs::read_to_string(&path).expect("readable source")));
            }
        }
    }
    assert!(!files.is_empty(), "no sources under {folder}");
    files
}

/// The lines of code that name a path beginning with `word::`, comments aside.
fn naming(folders: &[&str], word: &str, allowed: impl Fn(&str) -> bool) -> Vec<String> {
    let needle = format!("{word}::");
    let mut found = Vec::new();
    for (name, text) in folders.iter().flat_map(|folder| sources(folder)) {
        if allowed(&name) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let names = code.match_indices(&needle).any(|(at, _)| {
                let before = code[..at].chars().next_back();
                // `crate::engine::redis::` is our own module, not the crate.
                !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
            });
            if names {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

fn assert_none(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

const ALL: [&str; 6] =
    ["shared/src", "api/src", "worker/src", "scheduler/src", "loadtest/src", "cli/src"];

#[test]
fn only_the_redis_engine_names_the_redis_crates() {
    for word in ["redis", "deadpool_redis"] {
        let allowed = |name: &str| {
            name.starts_with("shared/src/engine") || name.starts_with("shared/src/testkit")
        };
        assert_none(naming(&ALL, word, allowed), "only shared/src/engine/redis may name redis");
    }
}

#[test]
fn only_the_ledger_names_sqlx() {
    let allowed = |name: &str| {
        name.starts_with("shared/src/ledger") || name.starts_with("shared/src/testkit")
    };
    assert_none(naming(&ALL, "sqlx", allowed), "only shared/src/ledger may name sqlx");
}

#[test]
fn roles_do_not_import_each_other() {
    let roles = ["api", "worker", "scheduler"];
    for role in roles {
        for other in roles.iter().filter(|other| **other != role) {
            let found = naming(&[&format!("{role}/src")], &format!("windlass_{other}"), |_| false);
            assert_none(found, "roles meet in shared and in the binary only");
        }
    }
}

#[test]
fn the_pure_parts_do_no_input_or_output() {
    let pure = |name: &str| {
        ["shared/src/model/", "shared/src/backoff.rs", "shared/src/engine/model"]
            .iter()
            .any(|part| name.starts_with(part))
    };
    for word in ["tokio", "sqlx", "redis", "std::fs", "std::net", "std::process", "rand"] {
        let found = naming(&["shared/src"], word, |name| !pure(name));
        assert_none(found, "model, backoff and engine/model take time and chance as arguments");
    }
    for word in ["SystemTime", "Instant"] {
        let found = naming(&["shared/src"], word, |name| !pure(name));
        assert_none(found, "model, backoff and engine/model take time as an argument");
    }
}

#[test]
fn apalis_stays_behind_one_module() {
    let files: std::collections::BTreeSet<String> = ["apalis", "apalis_core"]
        .iter()
        .flat_map(|word| naming(&["worker/src"], word, |_| false))
        .filter_map(|line| line.split(':').next().map(str::to_owned))
        .collect();
    assert!(files.len() <= 2, "apalis is named in more than its own module: {files:?}");
}

#[test]
fn the_rule_reader_sees_what_it_forbids() {
    // A reader that finds nothing would pass every rule above.
    let found = naming(&["shared/src"], "sqlx", |_| false);
    assert!(!found.is_empty(), "sqlx is named somewhere in the ledger");
}
