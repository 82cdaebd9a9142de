//! Every metric has a name that is on the list, with help.

use std::collections::BTreeSet;
use std::path::Path;

use windlass_shared::telemetry::names::{NAMES, Sort};

/// The names in `macro!("name"` of every source file of the workspace, with the macro's sort.
fn used() -> BTreeSet<(String, Sort, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut used = BTreeSet::new();
    for krate in ["shared", "api", "worker", "scheduler", "loadtest", "cli"] {
        let mut open = vec![root.join(krate).join("src")];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    open.push(path);
                } else if path.extension().is_some_and(|e| e == "rs") {
                    let text = std::fs::read_to_string(&path).expect("source");
                    used.extend(of(&text).map(|(n, s)| (n, s, path.display().to_string())));
                }
            }
        }
    }
    used
}

fn of(text: &str) -> impl Iterator<Item = (String, Sort)> {
    let macros =
        [("counter!(", Sort::Counter), ("gauge!(", Sort::Gauge), ("histogram!(", Sort::Histogram)];
    macros.into_iter().flat_map(move |(opening, sort)| {
        text.match_indices(opening).filter_map(move |(at, _)| {
            // `describe_counter!(` gives help and uses nothing.
            let before = text[..at].chars().next_back();
            let name =
                text[at + opening.len()..].trim_start().strip_prefix('"')?.split('"').next()?;
            (before != Some('_')).then(|| (name.to_owned(), sort))
        })
    })
}

#[test]
fn every_metric_that_is_used_is_on_the_list_with_help() {
    let used = used();
    assert!(used.len() > 4, "the search finds what is known to be there");
    let mut missing = Vec::new();
    for (name, sort, path) in &used {
        if !NAMES.iter().any(|(known, known_sort, _)| known == name && known_sort == sort) {
            missing.push(format!("{name} ({sort:?}) in {path}"));
        }
    }
    assert!(missing.is_empty(), "add to telemetry/names.rs:\n{}", missing.join("\n"));
}

#[test]
fn names_follow_the_rules_of_prometheus_and_ours() {
    let mut seen = BTreeSet::new();
    for (name, sort, help) in NAMES {
        assert!(seen.insert(name), "{name} is listed twice");
        assert!(name.starts_with("windlass_"), "{name}");
        assert_eq!(
            *sort == Sort::Counter,
            name.ends_with("_total"),
            "{name}: counters end in _total"
        );
        assert!(!help.is_empty() && !help.ends_with('.'), "{name}: {help:?}");
    }
}

#[test]
fn every_listed_metric_is_used() {
    let used: BTreeSet<String> = used().into_iter().map(|(name, ..)| name).collect();
    let idle: Vec<_> = NAMES.iter().map(|(n, ..)| *n).filter(|n| !used.contains(*n)).collect();
    assert!(idle.is_empty(), "no longer used: {idle:?}");
}
