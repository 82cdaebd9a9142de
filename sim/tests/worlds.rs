//! Some worlds in every run of the tests; thousands are for the command line (`docs/simulation.md`).

use std::process::Command;

/// Lives through the worlds; fails with all that was said.
fn live(seeds: &str, more: &[&str]) {
    let run = Command::new(env!("CARGO_BIN_EXE_windlass-sim"))
        .args(["run", "--at-once", "1", "--seeds", seeds])
        .args(more)
        .output()
        .expect("the simulator starts");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn calm_worlds_keep_their_promises() {
    live("1..10", &["--faults", "calm"]);
}

#[test]
fn worlds_with_faults_keep_their_promises_a() {
    live("1..40", &[]);
}

#[test]
fn worlds_with_faults_keep_their_promises_b() {
    live("41..80", &[]);
}

#[test]
fn worlds_with_faults_keep_their_promises_c() {
    live("81..120", &[]);
}

/// Goal: a seed is a test case: the same world, event by event, in another process.
#[test]
fn worlds_repeat_exactly() {
    live("1000..1012", &["--twice"]);
}
