//! Frozen processes stand still, and always go on.

use std::process::Command;

use windlass_rig::tools::freeze;
use windlass_rig::tools::processes::{children_of, state_of};

use crate::child::{Running, rig, until};

/// A process that spins in the shell, and prints a line when it has begun.
fn spinning() -> Running {
    let mut child =
        Running::start(Command::new("sh").args(["-c", "echo begun; while :; do :; done"]));
    assert_eq!(child.line(), "begun");
    child
}

fn is_stopped(pid: u32) -> bool {
    state_of(pid).unwrap() == Some('T')
}

/// User time of a process, in ticks.
fn used(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(11).unwrap().parse().unwrap()
}

#[test]
fn a_frozen_process_does_nothing_until_the_guard_goes() {
    let child = spinning();
    until("it has used time", || used(child.id()) > 2);
    let frozen = freeze::process(child.id()).unwrap();
    assert_eq!(frozen.pids(), [child.id()]);
    assert!(is_stopped(child.id()));
    let before = used(child.id());
    // Another one runs meanwhile, so time does pass.
    let other = spinning();
    until("another has used time", || used(other.id()) > 10);
    assert_eq!(used(child.id()), before);
    frozen.thaw();
    until("it goes on", || used(child.id()) > before);
}

/// Ends descendants, which are not ours to wait for, also when the test fails.
struct Ended(Vec<u32>);

impl Drop for Ended {
    fn drop(&mut self) {
        for pid in &self.0 {
            // Fails when it has ended.
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }
}

#[test]
fn a_panic_continues_it() {
    let child = spinning();
    let pid = child.id();
    let panicked = std::panic::catch_unwind(|| {
        let _frozen = freeze::process(pid).unwrap();
        assert!(!is_stopped(pid), "it is stopped here");
    });
    assert!(panicked.is_err());
    until("it goes on", || !is_stopped(pid));
}

#[test]
fn a_tree_freezes_as_a_whole() {
    let script = "sh -c 'sleep 1000 & sh -c \"sleep 1000 & echo begun; wait\"; wait'; exit";
    let mut child = Running::start(Command::new("sh").args(["-c", script]));
    assert_eq!(child.line(), "begun");
    let mut all = vec![child.id()];
    until("five processes run", || {
        let known = all.clone();
        all.extend(children_of(&known).unwrap().into_iter().filter(|pid| !known.contains(pid)));
        all.len() == 5
    });
    let _ended = Ended(all.clone());
    let frozen = freeze::tree(child.id()).unwrap();
    let mut pids = frozen.pids().to_vec();
    pids.sort_unstable();
    all.sort_unstable();
    assert_eq!(pids, all);
    assert!(all.iter().all(|pid| is_stopped(*pid)));
    drop(frozen);
    assert!(!all.iter().any(|pid| is_stopped(*pid)));
}

#[test]
fn killing_the_tool_continues_it() {
    let child = spinning();
    let pid = child.id().to_string();
    let mut tool =
        Running::start(&mut rig(&["freeze", "--tree", "--for-ms", "60000", "--pid", &pid]));
    assert_eq!(tool.line(), format!("frozen: [{pid}]"));
    assert!(is_stopped(child.id()));
    tool.kill();
    until("it goes on", || !is_stopped(child.id()));
}

#[test]
fn the_tool_continues_it_in_time() {
    let child = spinning();
    let pid = child.id().to_string();
    let done = rig(&["freeze", "--for-ms", "50", "--pid", &pid]).status().unwrap();
    assert!(done.success());
    assert!(!is_stopped(child.id()));
}

#[test]
fn what_must_not_or_cannot_be_stopped_is_refused() {
    assert!(freeze::process(1).is_err());
    assert!(freeze::process(std::process::id()).is_err());
    let mut gone = spinning();
    gone.kill();
    let error = freeze::process(gone.id()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}
