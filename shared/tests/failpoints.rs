//! Failpoints: each is placed once, and does what `WINDLASS_FAIL` says in a process that is built with them.

use std::path::Path;

use windlass_shared::fail::POINTS;

/// The names of all `failpoint!`s under the crates' `src`.
fn placed() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut folders: Vec<_> = ["shared", "api", "worker", "scheduler", "cli"]
        .iter()
        .map(|name| root.join(name).join("src"))
        .collect();
    let mut names = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("src/fail.rs")
            {
                let text = std::fs::read_to_string(&path).expect("readable source");
                let places = text.split("failpoint!(").skip(1);
                names.extend(places.map(|rest| rest.split('"').nth(1).unwrap_or("").to_owned()));
            }
        }
    }
    names
}

#[test]
fn every_point_is_placed_once() {
    let mut placed = placed();
    placed.sort_unstable();
    let mut points = POINTS.map(str::to_owned);
    points.sort_unstable();
    assert_eq!(placed, points);
}
