//! Some worlds in every run of the tests; thousands are for the command line (`docs/simulation.md`).

use std::process::Command;

/// Lives through the worlds, one after the other; fails with all that was said.
fn live(seeds: &str, faults: &str, more: &[&str]) {
    let run = Command::new(env!("CARGO_BIN_EXE_windlass-sim"))
        .args(["run", "--at-once", "1", "--seeds", seeds, "--faults", faults])
        .args(more)
        .output()
        .expect("the simulator starts");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn calm_worlds_keep_their_promises() {
    live("1..6", "calm", &[]);
}

#[test]
fn worlds_with_faults_keep_their_promises() {
    live("1..15", "some", &[]);
}

#[test]
fn worlds_with_other_faults_keep_their_promises() {
    live("21..35", "some", &[]);
}

#[test]
fn worlds_that_lose_their_engine_keep_their_promises() {
    live("1..15", "all", &[]);
}

#[test]
fn other_worlds_that_lose_their_engine_keep_their_promises() {
    live("21..35", "all", &[]);
}

/// Goal: a seed is a test case: the same world, event by event, in another process.
#[test]
fn worlds_repeat_exactly() {
    live("1000..1006", "all", &["--twice"]);
}

/// Goal: nothing that another process does shows in a world, not even the same world at the same time.
#[test]
fn worlds_at_once_are_the_same() {
    let start = |_| {
        Command::new(env!("CARGO_BIN_EXE_windlass-sim"))
            .args(["one", "--quiet", "1006"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("the simulator starts")
    };
    let worlds: Vec<_> = (0..6).map(start).collect();
    let said = worlds.into_iter().map(|world| world.wait_with_output().expect("it ends").stdout);
    let said: std::collections::BTreeSet<_> = said.collect();
    assert_eq!(said.len(), 1, "{:?}", said.iter().map(|one| String::from_utf8_lossy(one)));
}
